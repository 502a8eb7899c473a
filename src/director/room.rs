//! How much room the path to a backend leaves for a packet, and what becomes of one that has more bytes: its
//! sender is told, from the VIP, or it leaves in fragments. Read first: RFC 1191 §3 and §4, RFC 8201,
//! RFC 791 §3.2, RFC 2003 §3.1.
//!
//! [`Director::room`] alone says what fits. The TUN takes packets as long as the host's devices do, so that
//! none is answered by the kernel: that answers from an address of the host, which the client's network may
//! filter.

use super::{BackendIndex, Director, DropReason, Forward, Outcome, Target, Timestamp, Verdict};
use crate::packet::{Burst, Fragmentation, Meta, Packet, Version, packet_too_big};

impl Director {
    /// Forwards a packet; but where it is too long for the path to its backend and may not be fragmented, its
    /// sender is told.
    pub(super) fn send(
        &mut self,
        packet: &Packet<'_>,
        bytes: &[u8],
        target: Target,
        now: Timestamp,
    ) -> Result<Outcome, DropReason> {
        let meta = packet.meta();
        if !meta.dont_fragment {
            return Ok(Outcome::Forward(target)); // and is cut, if it must be
        }
        match self.room(meta, target.backend, now) {
            Some(room) if meta.length > room => self.too_big(packet, bytes, room, now),
            _ => Ok(Outcome::Forward(target)),
        }
    }

    /// The largest packet of this version that fits the tunnel to a backend, in bytes; `None` where no limit
    /// is known.
    pub(super) fn room(&self, meta: Meta, backend: BackendIndex, now: Timestamp) -> Option<u16> {
        let mtu = self.snapshot.path_mtus().of(backend, now)?;
        let overhead = u32::try_from(self.snapshot.backend(backend)?.encap.overhead()).ok()?;
        let room = mtu.saturating_sub(overhead).max(smallest_mtu(meta.version));
        u16::try_from(room).ok() // else anything fits
    }

    fn too_big(
        &mut self,
        packet: &Packet<'_>,
        bytes: &[u8],
        room: u16,
        now: Timestamp,
    ) -> Result<Outcome, DropReason> {
        // No ICMP error about a later fragment (RFC 1122 §3.2.2); ICMPv6 knows no such rule.
        let later = packet.fragment().is_some_and(|piece| piece.offset > 0);
        if later && packet.source().is_ipv4() {
            return Err(DropReason::TooBig);
        }
        let hash = match packet.flow() {
            Some(flow) => self.snapshot.flow_hash(&flow),
            None => self.snapshot.client_hash(packet.source()),
        };
        self.errors.take(hash, now)?;
        packet_too_big(packet, bytes, room, self.replies.one());
        Ok(Outcome::Reply { packets: 1 })
    }

    /// Makes a packet that is to leave fit the tunnel: one that is too long becomes its own first fragment, and
    /// the others follow behind the burst.
    pub(super) fn fit(
        &mut self,
        verdict: Verdict,
        burst: &mut Burst,
        frame: usize,
        now: Timestamp,
    ) -> Verdict {
        let Verdict::Forward(forward) = verdict else {
            return verdict;
        };
        if forward.meta.dont_fragment || forward.meta.version == Version::V6 {
            return verdict;
        }
        match self.room(forward.meta, forward.backend, now) {
            Some(room) if forward.meta.length > room => self.cut(forward, burst, frame, room),
            _ => verdict,
        }
    }

    fn cut(&mut self, forward: Forward, burst: &mut Burst, frame: usize, room: u16) -> Verdict {
        burst.truncate(frame, forward.meta.length.into()); // without what a link padded
        let Some((first, fragmentation)) = Fragmentation::begin(burst.packet_mut(frame), room)
        else {
            return self.dropped(DropReason::TooBig);
        };
        let target = Target {
            backend: forward.backend,
            flow_hash: forward.entropy.flow_hash,
        };
        let rest = burst.packet(frame).get(first..).unwrap_or_default();
        self.remainders.push(target, fragmentation, rest);
        burst.truncate(frame, first);
        let length = u16::try_from(first).unwrap_or(forward.meta.length);
        Verdict::Forward(Forward {
            meta: Meta {
                length,
                ..forward.meta
            },
            ..forward
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

#[cfg(test)]
mod tests;
