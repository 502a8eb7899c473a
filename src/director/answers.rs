//! Replies to echo requests that the director sends itself, from the VIP, also to fragmented ones.

use super::fragments::{DatagramId, Gathered};
use super::{Director, DropReason, Outcome, Timestamp};
use crate::packet::{FragmentRule, Packet};

/// Every host takes an IPv4 packet of that size (RFC 791 §3.1), every IPv6 link carries one (RFC 8200 §5).
const SAFE_IPV4: u16 = 576;
const SAFE_IPV6: u16 = 1280;

impl Director {
    /// A fragment of an echo request that is answered once all came.
    pub(super) fn gather(
        &mut self,
        id: DatagramId,
        (packet, bytes): (&Packet<'_>, &[u8]),
        now: Timestamp,
    ) -> Result<Outcome, DropReason> {
        let gathered = self
            .fragments
            .gather(id, (packet, bytes), now, &mut self.message);
        match gathered {
            Ok(Gathered::Held) => Ok(Outcome::Hold),
            Ok(Gathered::Whole { packets, longest }) => {
                let rule = self.fragment_rule(packet, longest);
                self.replies.echo_reply(packet, &mut self.message, rule);
                Ok(Outcome::Reply { packets })
            }
            Err(reason) => {
                let lost = self.fragments.decide(id, Err(reason), now);
                self.counters
                    .count_drops(self.seat_for(packet, reason), reason, lost);
                Err(reason)
            }
        }
    }

    /// The reply to a fragmented request comes in fragments as long as the request's, which routers may
    /// cut further; of IPv6, which they may not, in such that fit every link.
    ///
    /// Its identification is as unique as the request's for this client and VIP, and by the shared key
    /// not one that another host can choose or foresee (RFC 7739).
    fn fragment_rule(&self, packet: &Packet<'_>, longest: u16) -> FragmentRule {
        let identification = packet.fragment().map_or(0, |piece| piece.identification);
        let [.., a, b, c, d] = self.snapshot.client_hash(packet.source()).to_be_bytes();
        FragmentRule {
            longest: if packet.source().is_ipv4() {
                longest.max(SAFE_IPV4)
            } else {
                SAFE_IPV6
            },
            identification: identification ^ u32::from_be_bytes([a, b, c, d]),
        }
    }
}
