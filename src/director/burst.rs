//! The one way into the director: a burst of packets, and a verdict on each.
//!
//! Nothing is sent here. Packets are decided in their order; packets that waited follow behind, in further
//! frames of the same burst.

use super::{
    Director, DropReason, EXPIRE_PER_PACKET, Forward, Outcome, Segment, Target, Timestamp, Verdict,
};
use crate::packet::{Burst, Entropy, Meta, Packet, Segmentation};

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
    /// the next call. Packets that waited for another worker's answer, and fragments that waited for a packet
    /// of this burst or of an earlier one, come into the burst behind the packets that were read, as far as
    /// it has frames.
    pub fn burst(&mut self, burst: &mut Burst, now: Timestamp) {
        self.verdicts.clear();
        self.answers.clear();
        self.expire(now, EXPIRE_PER_PACKET * burst.len());
        self.look_ahead(burst);
        for frame in 0..burst.len() {
            let verdict = match self.ahead.segment(frame) {
                Some((segment, hint)) => {
                    self.decide_segment(&segment, hint, burst.packet(frame), now)
                }
                None => self.read(burst.packet(frame), burst.segmentation(frame), now),
            };
            self.verdicts.push(verdict);
        }
        self.release_strays(burst, now);
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

    /// The outer identification of a further segment of a packet that was decided, where DF is clear.
    #[must_use]
    pub fn identification(&self) -> u16 {
        self.identifications.take()
    }

    /// Whether packets that waited need frames of the next burst.
    #[must_use]
    pub fn has_released(&self) -> bool {
        self.fragments.has_released() || self.strays.has_settled()
    }

    fn decide_segment(
        &mut self,
        segment: &Segment,
        hint: Option<u32>,
        bytes: &[u8],
        now: Timestamp,
    ) -> Verdict {
        let Segment {
            sought,
            event,
            meta,
        } = segment;
        let target = self.target((sought, hint), *event, now);
        let outcome = target.and_then(|target| match self.inner_limit(meta, target.backend, now) {
            None => Ok(Outcome::Forward(target)),
            Some(mtu) => {
                let packet = Packet::parse(bytes).map_err(|_| DropReason::Malformed)?;
                let packet = packet.segmented(meta.segmentation);
                self.too_big((&packet, bytes), mtu, now)
            }
        });
        self.conclude(*meta, outcome)
    }

    fn read(
        &mut self,
        bytes: &[u8],
        segmentation: Option<Segmentation>,
        now: Timestamp,
    ) -> Verdict {
        let Ok(packet) = Packet::parse(bytes) else {
            return self.dropped(DropReason::Malformed, 1);
        };
        let packet = packet.segmented(segmentation);
        let bytes = &bytes[..usize::from(packet.meta().length)]; // without what a link padded
        if self.parks(&packet, bytes, now) {
            return Verdict::Hold;
        }
        self.decide(&packet, bytes, now)
    }

    pub(super) fn decide(&mut self, packet: &Packet<'_>, bytes: &[u8], now: Timestamp) -> Verdict {
        let outcome = self.outcome(packet, bytes, now);
        self.conclude(packet.meta(), outcome)
    }

    fn conclude(&mut self, meta: Meta, outcome: Result<Outcome, DropReason>) -> Verdict {
        match outcome {
            Ok(Outcome::Forward(target)) => self.forward(meta, target),
            Ok(Outcome::Reply { packets }) => {
                self.counters.count_replies(packets);
                Verdict::Reply(self.answers.push(self.replies.packets()))
            }
            Ok(Outcome::Hold) => Verdict::Hold,
            Err(reason) => self.dropped(reason, meta.packets()),
        }
    }

    /// The packet leaves, if the outer length field can hold it.
    fn forward(&mut self, meta: Meta, target: Target) -> Verdict {
        let Some(lane) = self.snapshot.lane(target.backend) else {
            return self.dropped(DropReason::NoBackend, meta.packets());
        };
        if !lane.encap.holds(meta.longest()) {
            return self.dropped(DropReason::TooBig, meta.packets());
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

    /// Brings fragments that waited into the burst, as far as it has frames.
    fn release(&mut self, burst: &mut Burst) {
        while self.fragments.has_released()
            && let Some(room) = burst.spare()
            && let Some((target, length)) = self.fragments.take_released(room)
        {
            let verdict = match Packet::parse(&room[..length.min(room.len())]) {
                Ok(packet) => self.forward(packet.meta(), target),
                Err(_) => self.dropped(DropReason::Malformed, 1), // cut by a frame that is too small
            };
            burst.push(length);
            self.verdicts.push(verdict);
        }
    }
}
