//! The one way into the director: a burst of packets, and a verdict on each.
//!
//! Nothing is sent here. Packets are decided in their order; fragments that waited for one of them follow
//! behind, in further frames of the same burst.

use std::mem;

use super::{
    Director, DropReason, EXPIRE_PER_PACKET, Forward, Glance, Outcome, ReplyRange, Target,
    Timestamp, Verdict,
};
use crate::packet::{Burst, Entropy, Meta, Packet};

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
    /// the next call. Fragments that waited for a packet of this burst, or of an earlier one where the
    /// frames did not suffice, come into the burst behind the packets that were read.
    pub fn burst(&mut self, burst: &mut Burst, now: Timestamp) {
        self.verdicts.clear();
        self.answers.clear();
        self.expire(now, EXPIRE_PER_PACKET * burst.len());
        self.look_ahead(burst);
        let glances = mem::take(&mut self.ahead);
        for (frame, glance) in glances.iter().enumerate().take(burst.len()) {
            if glance.is_segment {
                self.decide_segment(glance, burst.packet(frame), now);
            } else {
                self.decide(burst.packet(frame), now);
            }
        }
        self.ahead = glances;
        self.release(burst);
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

    /// Whether fragments wait for frames of the next burst.
    #[must_use]
    pub fn has_released(&self) -> bool {
        self.fragments.has_released()
    }

    fn decide_segment(&mut self, glance: &Glance, bytes: &[u8], now: Timestamp) {
        match self.target((&glance.sought, glance.at), glance.event, now) {
            Ok(target) => match self.inner_limit(&glance.meta, target.backend, now) {
                None => self.forward(glance.meta, target),
                Some(mtu) => self.refuse(bytes, mtu, now),
            },
            Err(reason) => self.drop_packet(reason),
        }
    }

    /// A segment is too big for the path to its backend.
    #[cold]
    fn refuse(&mut self, bytes: &[u8], mtu: u16, now: Timestamp) {
        match Packet::parse(bytes) {
            Ok(packet) => {
                let outcome = self.too_big((&packet, bytes), mtu, now);
                self.conclude(packet.meta(), outcome);
            }
            Err(_) => self.drop_packet(DropReason::Malformed),
        }
    }

    fn decide(&mut self, bytes: &[u8], now: Timestamp) {
        let Ok(packet) = Packet::parse(bytes) else {
            return self.drop_packet(DropReason::Malformed);
        };
        let bytes = &bytes[..usize::from(packet.meta().length)]; // without what a link padded
        let outcome = self.outcome(&packet, bytes, now);
        self.conclude(packet.meta(), outcome);
    }

    fn conclude(&mut self, meta: Meta, outcome: Result<Outcome, DropReason>) {
        match outcome {
            Ok(Outcome::Forward(target)) => self.forward(meta, target),
            Ok(Outcome::Reply { packets }) => {
                self.counters.count_replies(packets);
                let replies = self.answers.push(self.replies.packets());
                self.verdicts.push(Verdict::Reply(replies));
            }
            Ok(Outcome::Hold) => self.verdicts.push(Verdict::Hold),
            Err(reason) => self.drop_packet(reason),
        }
    }

    /// The packet leaves, if the outer length field can hold it.
    fn forward(&mut self, meta: Meta, target: Target) {
        let Some(lane) = self.snapshot.lane(target.backend) else {
            return self.drop_packet(DropReason::NoBackend);
        };
        if !lane.encap.holds(meta.length) {
            return self.drop_packet(DropReason::TooBig);
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

    fn drop_packet(&mut self, reason: DropReason) {
        self.counters.count_drop(reason);
        self.verdicts.push(Verdict::Drop(reason));
    }

    /// Brings fragments that waited into the burst, as far as it has frames.
    fn release(&mut self, burst: &mut Burst) {
        while self.fragments.has_released()
            && let Some(room) = burst.spare()
            && let Some((target, length)) = self.fragments.take_released(room)
        {
            match Packet::parse(&room[..length.min(room.len())]) {
                Ok(packet) => self.forward(packet.meta(), target),
                Err(_) => self.drop_packet(DropReason::Malformed), // cut by a frame that is too small
            }
            burst.push(length);
        }
    }
}
