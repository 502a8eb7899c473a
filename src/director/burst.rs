//! The one way into the director: a burst of packets, and a verdict on each.
//!
//! Nothing is sent here. Packets are decided in their order; fragments that waited for one of them follow
//! behind, in further frames of the same burst.

use super::{
    Director, DropReason, EXPIRE_PER_PACKET, Forward, Outcome, Target, Timestamp, Verdict,
};
use crate::packet::{Burst, Entropy, Packet};

/// Which packets among the answers of a burst are the answer to one of its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyRange {
    first: usize,
    end: usize,
}

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
        for frame in 0..burst.len() {
            let verdict = self.decide(burst.packet(frame), now);
            let verdict = self.finish_packet(verdict, burst, frame, now);
            self.verdicts.push(verdict);
        }
        self.release(burst, now);
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
        !self.remainders.is_empty() || self.fragments.has_released()
    }

    fn decide(&mut self, bytes: &[u8], now: Timestamp) -> Verdict {
        let Ok(packet) = Packet::parse(bytes) else {
            return self.dropped(DropReason::Malformed);
        };
        let bytes = &bytes[..usize::from(packet.meta().length)]; // without what a link padded
        let outcome = self.outcome(&packet, bytes, now);
        self.verdict(&packet, outcome)
    }

    fn verdict(&mut self, packet: &Packet<'_>, outcome: Result<Outcome, DropReason>) -> Verdict {
        match outcome {
            Ok(Outcome::Forward(target)) => self.forward(packet, target),
            Ok(Outcome::Reply { packets }) => {
                self.counters.count_replies(packets);
                Verdict::Reply(self.answers.push(self.replies.packets()))
            }
            Ok(Outcome::Hold) => Verdict::Hold,
            Err(reason) => self.dropped(reason),
        }
    }

    /// The packet leaves, if the outer length field can hold it.
    fn forward(&mut self, packet: &Packet<'_>, target: Target) -> Verdict {
        let meta = packet.meta();
        let Some(backend) = self.snapshot.backend(target.backend) else {
            return self.dropped(DropReason::NoBackend);
        };
        if !backend.encap.holds(meta.length) {
            return self.dropped(DropReason::TooBig);
        }
        let identification = if meta.dont_fragment {
            0
        } else {
            self.identifications.take() // not wasted above: 65536 are soon used up
        };
        Verdict::Forward(Forward {
            backend: target.backend,
            meta,
            entropy: Entropy {
                flow_hash: target.flow_hash,
                identification,
            },
        })
    }

    /// Changes a packet that is to leave where its VIP or its path asks for that.
    fn finish_packet(
        &mut self,
        verdict: Verdict,
        burst: &mut Burst,
        frame: usize,
        now: Timestamp,
    ) -> Verdict {
        self.clamp(&verdict, burst, frame, now);
        self.fit(verdict, burst, frame, now)
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
            let verdict = match Packet::parse(bytes) {
                Ok(packet) => {
                    let outcome = self.send(&packet, bytes, target, now);
                    self.verdict(&packet, outcome)
                }
                Err(_) => self.dropped(DropReason::Malformed), // cut by a frame that is too small
            };
            let frame = burst.len();
            burst.push(length);
            let verdict = self.fit(verdict, burst, frame, now);
            self.verdicts.push(verdict);
        }
    }
}
