//! What the director sends itself, from the VIP: replies to echo requests, also to fragmented ones, and
//! errors about packets that are too big for the path to their backend.

use super::fragments::{DatagramId, Gathered};
use super::{BackendIndex, Director, DropReason, Outcome, Target, Timestamp};
use crate::packet::{FragmentRule, Meta, Packet, Version, packet_too_big};

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
                self.counters.count_drops(reason, lost);
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

    /// Forwards a packet that fits the path to its backend; of any other its sender is told.
    pub(super) fn send(
        &mut self,
        packet: (&Packet<'_>, &[u8]),
        target: Target,
        now: Timestamp,
    ) -> Result<Outcome, DropReason> {
        match self.inner_limit(&packet.0.meta(), target.backend, now) {
            Some(mtu) => self.too_big(packet, mtu, now),
            None => Ok(Outcome::Forward(target)),
        }
    }

    /// The largest inner packet that this one should have been, where it is larger and may not be
    /// fragmented on the way.
    pub(super) fn inner_limit(
        &self,
        meta: &Meta,
        backend: BackendIndex,
        now: Timestamp,
    ) -> Option<u16> {
        let mtu = self.snapshot.path_mtus().of(backend, now)?;
        let overhead = u32::try_from(self.snapshot.lane(backend)?.encap.overhead()).ok()?;
        let room = mtu.saturating_sub(overhead).max(smallest_mtu(meta.version));
        let too_long = u32::from(meta.longest()) > room;
        (meta.dont_fragment && too_long).then(|| u16::try_from(room).ok())?
    }

    pub(super) fn too_big(
        &mut self,
        (packet, bytes): (&Packet<'_>, &[u8]),
        mtu: u16,
        now: Timestamp,
    ) -> Result<Outcome, DropReason> {
        // No ICMP error about a later fragment (RFC 1122 §3.2.2); ICMPv6 knows no such rule.
        let later = packet.fragment().is_some_and(|piece| piece.offset > 0);
        if later && packet.source().is_ipv4() {
            return Err(DropReason::TooBig);
        }
        if !self.errors.allows(now) {
            return Err(DropReason::RateLimited);
        }
        packet_too_big(packet, bytes, mtu, self.replies.one());
        Ok(Outcome::Reply {
            packets: packet.meta().packets(),
        })
    }
}

/// What a sender may be asked to go down to: RFC 791 §3.2 and RFC 8200 §5.
const fn smallest_mtu(version: Version) -> u32 {
    match version {
        Version::V4 => 68,
        Version::V6 => 1280,
    }
}
