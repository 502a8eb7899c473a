//! The one way into the director: a burst of packets, and a verdict on each.
//!
//! Nothing is sent here. Packets are decided in their order; packets that waited follow behind, in further
//! frames of the same burst.

use std::mem;

use super::{
    BackendIndex, Director, DropReason, EXPIRE_PER_PACKET, Forward, Glance, Outcome, ReplyRange,
    Target, Timestamp, Verdict, VipSeat,
};
use crate::packet::{Burst, Entropy, Meta, Packet, Segmentation};

/// The answers of a burst, one packet behind the other.
#[derive(Debug, Default)]
pub(super) struct Answers {
    bytes: Vec<u8>,
    /// Where each packet ends.
    ends: Vec<usize>,
}

impl Answers {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    fn push<'a>(&mut self, packets: impl Iterator<Item = &'a [u8]>) -> ReplyRange {
        let first = self.ends.len();
        for packet in packets {
            self.bytes.extend_from_slice(packet);
            self.ends.push(self.bytes.len());
        }
        let end = self.ends.len();
        ReplyRange { first, end }
    }

    fn packet(&self, number: usize) -> Option<&[u8]> {
        let start = match number.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        self.bytes.get(start..*self.ends.get(number)?)
    }
}

impl Director {
    /// Decides about every packet of a burst; [`verdicts`](Self::verdicts) has what becomes of each until
    /// the next call. Packets that waited for another worker's answer, and fragments that waited for a packet
    /// of this burst or of an earlier one, come into the burst behind the packets that were read, as far as
    /// it has frames.
    pub fn burst(&mut self, burst: &mut Burst, now: Timestamp) {
        self.verdicts.clear();
        self.answers.clear();
        self.learn_room(now);
        self.expire_due(now, EXPIRE_PER_PACKET * burst.len());
        self.look_ahead(burst);
        let glances = mem::take(&mut self.ahead);
        for (frame, glance) in glances.iter().enumerate().take(burst.len()) {
            if glance.is_segment {
                self.decide_segment(glance, (burst, frame), now);
                if self.leaves_unchanged(&glance.meta) {
                    continue; // without a look at the verdict, which is not out of the store buffer yet
                }
            } else {
                self.read(burst.packet(frame), burst.segmentation(frame), now);
            }
            self.finish_packet(burst, frame, now);
        }
        self.ahead = glances;
        self.release_strays(burst, now);
        self.release(burst, now);
        self.tell_kept();
    }

    /// What becomes of each packet of the burst that was decided last, by frame.
    #[must_use]
    pub fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    /// The packets of an answer of the burst that was decided last: several where it is the answer to the
    /// last fragment of an echo request.
    pub fn replies(&self, range: ReplyRange) -> impl Iterator<Item = &[u8]> {
        (range.first..range.end).filter_map(|number| self.answers.packet(number))
    }

    /// The outer identification of a further segment of a packet that was decided, where DF is clear.
    #[must_use]
    pub fn identification(&self) -> u16 {
        self.identifications.take()
    }

    /// Whether packets that waited need frames of the next burst.
    #[must_use]
    pub fn has_released(&self) -> bool {
        !self.remainders.is_empty() || self.fragments.has_released() || self.strays.has_settled()
    }

    #[inline]
    fn decide_segment(&mut self, glance: &Glance, (burst, frame): (&Burst, usize), now: Timestamp) {
        match self.target((&glance.sought, glance.at), glance.event, now) {
            Ok(target) => match self.refused_above(&glance.meta, target.backend, now) {
                None => self.forward(glance.meta, target),
                Some(room) => {
                    self.refuse(burst.packet(frame), glance.meta.segmentation, room, now);
                }
            },
            Err(reason) => {
                let vip = self.snapshot.find_vip(&glance.sought.flow.key());
                let seat = vip.map(|vip| vip.seat);
                self.drop_packets(seat, reason, glance.meta.packets());
            }
        }
    }

    /// A segment is too big for the path to its backend.
    #[cold]
    fn refuse(
        &mut self,
        bytes: &[u8],
        segmentation: Option<Segmentation>,
        room: u16,
        now: Timestamp,
    ) {
        match Packet::parse(bytes) {
            Ok(packet) => {
                let packet = packet.segmented(segmentation);
                let outcome = self.too_big((&packet, bytes), room, now);
                self.conclude(&packet, outcome);
            }
            Err(_) => self.drop_packets(None, DropReason::Malformed, 1),
        }
    }

    fn read(&mut self, bytes: &[u8], segmentation: Option<Segmentation>, now: Timestamp) {
        let Ok(packet) = Packet::parse(bytes) else {
            return self.drop_packets(None, DropReason::Malformed, 1);
        };
        let packet = packet.segmented(segmentation);
        let bytes = &bytes[..usize::from(packet.meta().length)]; // without what a link padded
        if self.parks(&packet, bytes, now) {
            return self.verdicts.push(Verdict::Hold);
        }
        self.decide(&packet, bytes, now);
    }

    pub(super) fn decide(&mut self, packet: &Packet<'_>, bytes: &[u8], now: Timestamp) {
        let outcome = self.outcome(packet, bytes, now);
        self.conclude(packet, outcome);
    }

    fn conclude(&mut self, packet: &Packet<'_>, outcome: Result<Outcome, DropReason>) {
        match outcome {
            Ok(Outcome::Forward(target)) => self.forward(packet.meta(), target),
            Ok(Outcome::Reply { packets }) => {
                self.counters.count_replies(packets);
                let replies = self.answers.push(self.replies.packets());
                self.verdicts.push(Verdict::Reply(replies));
            }
            Ok(Outcome::Hold) => self.verdicts.push(Verdict::Hold),
            Err(reason) => {
                let seat = self.seat_for(packet, reason);
                self.drop_packets(seat, reason, packet.meta().packets());
            }
        }
    }

    /// The packet leaves, if the outer length field can hold it.
    #[inline]
    fn forward(&mut self, meta: Meta, target: Target) {
        if meta.longest() > self.fits_all && !self.holds(&meta, target.backend) {
            let seat = self.seat_behind(target.backend);
            return self.drop_packets(seat, DropReason::TooBig, meta.packets());
        }
        let identification = if meta.dont_fragment {
            0
        } else {
            self.identifications.take() // not wasted above: 65536 are soon used up
        };
        self.verdicts.push(Verdict::Forward(Forward {
            backend: target.backend,
            meta,
            entropy: Entropy {
                flow_hash: target.flow_hash,
                identification,
            },
        }));
    }

    #[inline(never)] // most packets fit every tunnel
    fn holds(&self, meta: &Meta, backend: BackendIndex) -> bool {
        let lane = self.snapshot.lane(backend);
        lane.is_some_and(|lane| lane.encap.holds(meta.longest()))
    }

    pub(super) fn drop_packets(&mut self, vip: Option<VipSeat>, reason: DropReason, packets: u64) {
        self.counters.count_drops(vip, reason, packets);
        self.verdicts.push(Verdict::Drop(reason));
    }

    /// Changes a packet that is to leave where its VIP or its path asks for that.
    pub(super) fn finish_packet(&mut self, burst: &mut Burst, frame: usize, now: Timestamp) {
        self.clamp(burst, frame, now);
        self.fit(burst, frame, now);
    }

    /// Whether neither a VIP nor any path asks for a change of such a packet: the rule.
    #[inline]
    fn leaves_unchanged(&self, meta: &Meta) -> bool {
        meta.longest() <= self.fits_all && !self.snapshot.clamps_mss()
    }

    /// Brings the rest of packets that leave in fragments into the burst, then fragments that waited, as far
    /// as it has frames.
    fn release(&mut self, burst: &mut Burst, now: Timestamp) {
        while let Some(room) = burst.spare() {
            let taken = self.remainders.take(room);
            let Some((target, length)) = taken.or_else(|| self.fragments.take_released(room))
            else {
                return;
            };
            let bytes = &room[..length.min(room.len())];
            match Packet::parse(bytes) {
                Ok(packet) => {
                    let outcome = self.send((&packet, bytes), target, now);
                    self.conclude(&packet, outcome);
                }
                Err(_) => self.drop_packets(None, DropReason::Malformed, 1), // cut by a frame that is too small
            }
            let frame = burst.len();
            burst.push(length);
            self.fit(burst, frame, now);
        }
    }
}
