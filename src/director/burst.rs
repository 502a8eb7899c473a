//! The one way into the director: a burst of packets, and a verdict on each.
//!
//! Nothing is sent here. Packets are decided in their order; fragments that waited for one of them follow
//! behind, in further frames of the same burst.

use super::{
    Director, DropReason, EXPIRE_PER_PACKET, Forward, Outcome, Target, Timestamp, Verdict,
};
use crate::packet::{Burst, Entropy, Packet};

/// Where an answer stands among those of its burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyRange {
    start: usize,
    end: usize,
}

impl Director {
    /// Decides about every packet of a burst; [`verdicts`](Self::verdicts) has what becomes of each until
    /// the next call. Fragments that waited for a packet of this burst, or of an earlier one where the
    /// frames did not suffice, come into the burst behind the packets that were read.
    pub fn burst(&mut self, burst: &mut Burst, now: Timestamp) {
        self.verdicts.clear();
        self.replies.clear();
        self.expire(now, EXPIRE_PER_PACKET * burst.len());
        for frame in 0..burst.len() {
            let verdict = self.decide(burst.packet(frame), now);
            self.verdicts.push(verdict);
        }
        self.release(burst);
    }

    /// What becomes of each packet of the burst that was decided last, by frame.
    #[must_use]
    pub fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    /// An answer of the burst that was decided last.
    #[must_use]
    pub fn reply(&self, range: ReplyRange) -> &[u8] {
        self.replies.get(range.start..range.end).unwrap_or_default()
    }

    /// Whether fragments wait for frames of the next burst.
    #[must_use]
    pub fn has_released(&self) -> bool {
        self.fragments.has_released()
    }

    fn decide(&mut self, bytes: &[u8], now: Timestamp) -> Verdict {
        let Ok(packet) = Packet::parse(bytes) else {
            return self.dropped(DropReason::Malformed);
        };
        let bytes = &bytes[..usize::from(packet.meta().length)]; // without what a link padded
        match self.outcome(&packet, bytes, now) {
            Ok(Outcome::Forward(target)) => self.forward(&packet, target),
            Ok(Outcome::Reply) => {
                self.counters.count_reply();
                let start = self.replies.len();
                self.replies.extend_from_slice(&self.reply);
                let end = self.replies.len();
                Verdict::Reply(ReplyRange { start, end })
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

    /// Brings fragments that waited into the burst, as far as it has frames.
    fn release(&mut self, burst: &mut Burst) {
        while self.fragments.has_released()
            && let Some(room) = burst.spare()
            && let Some((target, length)) = self.fragments.take_released(room)
        {
            let verdict = match Packet::parse(&room[..length.min(room.len())]) {
                Ok(packet) => self.forward(&packet, target),
                Err(_) => self.dropped(DropReason::Malformed), // cut by a frame that is too small
            };
            burst.push(length);
            self.verdicts.push(verdict);
        }
    }
}
