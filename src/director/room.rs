//! How much room the path to a backend leaves for a packet, and what becomes of one that has more bytes: its
//! sender is told, from the VIP, or it leaves in fragments. Read first: RFC 1191 §3 and §4, RFC 8201,
//! RFC 791 §3.2, RFC 2003 §3.1.
//!
//! [`Director::room`] alone says what fits. The TUN takes packets as long as the host's devices do, so that
//! none is answered by the kernel: that answers from an address of the host, which the client's network may
//! filter.

use super::{BackendIndex, Director, DropReason, Forward, Outcome, Target, Timestamp, Verdict};
use crate::packet::{Burst, Fragmentation, Meta, Packet, Segmentation, Version, packet_too_big};

impl Director {
    /// Learns what fits every path: once for a burst, as it seldom changes, so that most packets are compared
    /// with one number. That fits the length field of any outer header, too.
    pub(super) fn learn_room(&mut self, now: Timestamp) {
        let outer = self.snapshot.path_mtus().all_take(now).min(u16::MAX.into());
        let room = outer.saturating_sub(LONGEST_OVERHEAD);
        self.fits_all = u16::try_from(room).unwrap_or(0);
    }

    /// Forwards a packet; but where it is too long for the path to its backend and may not be fragmented, its
    /// sender is told.
    pub(super) fn send(
        &mut self,
        packet: (&Packet<'_>, &[u8]),
        target: Target,
        now: Timestamp,
    ) -> Result<Outcome, DropReason> {
        if self.snapshot.lane(target.backend).is_none() {
            return Err(DropReason::NoBackend); // decided by an earlier snapshot
        }
        match self.refused_above(&packet.0.meta(), target.backend, now) {
            Some(room) => self.too_big(packet, room, now),
            None => Ok(Outcome::Forward(target)), // and is cut, if it must be
        }
    }

    /// The largest packet that this one should have been, where it is larger and may not be fragmented on the
    /// way.
    #[inline]
    pub(super) fn refused_above(
        &self,
        meta: &Meta,
        backend: BackendIndex,
        now: Timestamp,
    ) -> Option<u16> {
        if meta.longest() <= self.fits_all || !meta.dont_fragment {
            return None;
        }
        self.exceeded(meta, backend, now)
    }

    /// The largest packet that fits the tunnel to a backend, where this one is larger; of a super-packet the
    /// segments count.
    #[inline(never)] // most packets fit every path
    fn exceeded(&self, meta: &Meta, backend: BackendIndex, now: Timestamp) -> Option<u16> {
        self.room(meta.version, backend, now)
            .filter(|&room| meta.longest() > room)
    }

    /// The largest packet of this version that fits the tunnel to a backend, in bytes; `None` where no limit
    /// is known.
    pub(super) fn room(
        &self,
        version: Version,
        backend: BackendIndex,
        now: Timestamp,
    ) -> Option<u16> {
        let mtu = self.snapshot.path_mtus().of(backend, now)?;
        let overhead = u32::try_from(self.snapshot.lane(backend)?.encap.overhead()).ok()?;
        let room = mtu.saturating_sub(overhead).max(smallest_mtu(version));
        u16::try_from(room).ok() // else anything fits
    }

    pub(super) fn too_big(
        &mut self,
        (packet, bytes): (&Packet<'_>, &[u8]),
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
        Ok(Outcome::Reply {
            packets: packet.meta().packets(),
        })
    }

    /// Makes a packet that is to leave fit the tunnel: one that is too long becomes its own first fragment, and
    /// the others follow behind the burst.
    pub(super) fn fit(&mut self, burst: &mut Burst, frame: usize, now: Timestamp) {
        let Some(Verdict::Forward(forward)) = self.verdicts.get(frame) else {
            return;
        };
        if forward.meta.longest() <= self.fits_all
            || forward.meta.dont_fragment
            || forward.meta.version == Version::V6
        {
            return;
        }
        let (forward, meta) = (*forward, &forward.meta);
        if let Some(room) = self.exceeded(meta, forward.backend, now) {
            self.verdicts[frame] = match meta.segmentation {
                Some(segmentation) => self.segment_finer(forward, segmentation, burst, frame, room),
                None => self.cut(forward, burst, frame, room),
            };
        }
    }

    /// A super-packet of TCP leaves in smaller segments; datagrams are of the size that their sender chose.
    fn segment_finer(
        &self,
        forward: Forward,
        segmentation: Segmentation,
        burst: &mut Burst,
        frame: usize,
        room: u16,
    ) -> Verdict {
        let Some(finer) = segmentation.within(room) else {
            let (seat, packets) = (self.seat_behind(forward.backend), forward.meta.packets());
            self.counters.count_drops(seat, DropReason::TooBig, packets);
            return Verdict::Drop(DropReason::TooBig);
        };
        burst.segment(frame, finer);
        Verdict::Forward(Forward {
            meta: Meta {
                segmentation: Some(finer),
                ..forward.meta
            },
            ..forward
        })
    }

    fn cut(&mut self, forward: Forward, burst: &mut Burst, frame: usize, room: u16) -> Verdict {
        burst.truncate(frame, forward.meta.length.into()); // without what a link padded
        let Some((first, fragmentation)) = Fragmentation::begin(burst.packet_mut(frame), room)
        else {
            self.count_unsent(forward.backend, DropReason::TooBig);
            return Verdict::Drop(DropReason::TooBig);
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

/// Of any outer header: IPv6 (40) and UDP (8).
const LONGEST_OVERHEAD: u32 = 48;

/// What a sender may be asked to go down to: RFC 791 §3.2 and RFC 8200 §5.
const fn smallest_mtu(version: Version) -> u32 {
    match version {
        Version::V4 => 68,
        Version::V6 => 1280,
    }
}

#[cfg(test)]
mod tests;
