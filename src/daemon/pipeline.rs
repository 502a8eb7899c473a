//! One burst's way: ingress, director, egress. The same code over a TUN, a capture file or memory.
//!
//! No threads, no clock, no waiting: [`worker`](super::worker) turns it in an event loop; `tunlb replay`,
//! tests, benches and fuzzing turn it over packets in memory. A capture is taken of the burst that left.

use std::io;
use std::sync::Arc;

use crate::director::{
    BackendIndex, Director, DropReason, ReplyRange, Snapshot, Timestamp, Verdict,
};
use crate::io::egress::{Egress, MemoryEgress, SendError, Sent};
use crate::io::ingress::{Ingress, MemoryIngress, Reading};
use crate::packet::{BURST, Burst, Outgoing};

/// A director between an ingress and an egress.
#[derive(Debug)]
pub struct Pipeline<I, E> {
    /// Where packets come from.
    pub ingress: I,
    /// Where they leave.
    pub egress: E,
    director: Director,
    burst: Burst,
    /// Packets of the burst that were read; those behind them are fragments that waited.
    read: usize,
    outgoing: Vec<Outgoing>,
    /// What became of each packet that was to leave, by frame.
    results: Vec<Sent>,
}

/// A burst that is done.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    director: &'a Director,
    burst: &'a Burst,
    read: usize,
    results: &'a [Sent],
}

/// One packet of a burst that is done.
#[derive(Debug, Clone, Copy)]
pub struct Passage<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Where it comes from.
    pub origin: Origin,
    /// What was decided.
    pub verdict: Verdict,
    /// Whether it, or its answer, left; right for what was not to leave.
    pub sent: Sent,
}

/// Where a packet of a burst comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was read in this burst.
    Ingress,
    /// It waited, and was read in an earlier burst.
    Held,
}

impl<'a> Turn<'a> {
    /// What the packets were decided by.
    #[must_use]
    pub fn snapshot(&self) -> &'a Snapshot {
        self.director.snapshot()
    }

    /// Whether there was no packet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.burst.is_empty()
    }

    /// The packets, in the order in which they left.
    pub fn passages(&self) -> impl Iterator<Item = Passage<'a>> {
        let verdicts = self.director.verdicts().iter().zip(self.results);
        let (burst, read) = (self.burst, self.read);
        verdicts
            .enumerate()
            .map(move |(frame, (&verdict, &sent))| Passage {
                bytes: burst.packet(frame),
                origin: if frame < read {
                    Origin::Ingress
                } else {
                    Origin::Held
                },
                verdict,
                sent,
            })
    }

    /// The packets that their backends did not get, and why.
    pub fn failures(&self) -> impl Iterator<Item = (BackendIndex, SendError)> {
        let verdicts = self.director.verdicts().iter().zip(self.results);
        verdicts.filter_map(|(verdict, sent)| match (verdict, sent) {
            (Verdict::Forward(forward), Err(error)) => Some((forward.backend, *error)),
            _ => None,
        })
    }

    /// The packets of the answer to one of them.
    pub fn replies(&self, range: ReplyRange) -> impl Iterator<Item = &'a [u8]> {
        self.director.replies(range)
    }
}

impl<I: Ingress, E: Egress> Pipeline<I, E> {
    /// One for packets of up to `longest` bytes.
    #[must_use]
    pub fn new(ingress: I, egress: E, director: Director, longest: usize) -> Self {
        Self {
            ingress,
            egress,
            director,
            burst: Burst::new(longest),
            read: 0,
            outgoing: Vec::with_capacity(2 * BURST),
            results: Vec::with_capacity(2 * BURST),
        }
    }

    /// The director in it.
    #[must_use]
    pub const fn director(&self) -> &Director {
        &self.director
    }

    /// The director in it, to expire and finish what waits.
    pub const fn director_mut(&mut self) -> &mut Director {
        &mut self.director
    }

    /// Forwards by another snapshot from now on, whose packets have up to `longest` bytes.
    pub fn adopt(&mut self, snapshot: Arc<Snapshot>, longest: usize) {
        self.burst.fit(longest);
        self.director.adopt(snapshot);
    }

    /// Reads a burst, decides it and sends it.
    ///
    /// # Errors
    /// The ingress cannot be read again. What it gave before was decided and sent.
    pub fn turn(&mut self, now: Timestamp) -> io::Result<Reading> {
        self.burst.clear();
        let reading = if self.director.has_released() {
            Ok(Reading::More)
        } else {
            self.ingress.fill(&mut self.burst)
        };
        self.read = self.burst.len();
        self.director.burst(&mut self.burst, now);
        self.send();
        self.count();
        reading
    }

    /// The burst that was turned last.
    #[must_use]
    pub fn last(&self) -> Turn<'_> {
        Turn {
            director: &self.director,
            burst: &self.burst,
            read: self.read,
            results: &self.results,
        }
    }

    fn send(&mut self) {
        let verdicts = self.director.verdicts();
        self.outgoing.clear();
        self.results.clear();
        self.results.resize(verdicts.len(), Ok(()));
        for (frame, verdict) in verdicts.iter().enumerate() {
            match verdict {
                Verdict::Forward(forward) => self.outgoing.push(forward.outgoing(frame)),
                Verdict::Reply(range) => {
                    let mut replies = self.director.replies(*range);
                    let answered = replies.try_for_each(|reply| self.ingress.answer(reply));
                    self.results[frame] = answered.map_err(Into::into);
                }
                Verdict::Hold | Verdict::Drop(_) => {}
            }
        }
        let tunnels = &**self.director.snapshot();
        self.egress
            .send(&mut self.burst, &self.outgoing, tunnels, &mut self.results);
    }

    fn count(&self) {
        let counters = self.director.counters();
        for (verdict, sent) in self.director.verdicts().iter().zip(&self.results) {
            match (verdict, sent) {
                (Verdict::Forward(forward), Ok(())) => {
                    counters.count_sent(forward.backend, forward.meta.length.into());
                }
                (_, Ok(())) => {}
                (_, Err(error)) => counters.count_drop(drop_reason(*error)),
            }
        }
    }
}

/// A pipeline over packets in memory.
pub type MemoryPipeline = Pipeline<MemoryIngress, MemoryEgress>;

/// What became of a packet that went through a [`MemoryPipeline`] alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// What was decided.
    pub verdict: Verdict,
    /// Whole packets that left on account of it: itself in its tunnel or the answer to it, then fragments
    /// that waited for it.
    pub emitted: Vec<Vec<u8>>,
}

impl MemoryPipeline {
    /// A pipeline that holds any IP packet.
    #[must_use]
    pub fn in_memory(director: Director) -> Self {
        let (ingress, egress) = (MemoryIngress::default(), MemoryEgress::default());
        Self::new(ingress, egress, director, LONGEST_PACKET)
    }

    /// Sends one packet through.
    pub fn pass(&mut self, packet: &[u8], now: Timestamp) -> Passed {
        self.ingress.packets.push_back(packet.to_vec());
        let mut verdict = None;
        while verdict.is_none() || self.director.has_released() {
            self.turn(now).ok(); // memory has no error
            verdict = verdict.or_else(|| self.director.verdicts().first().copied());
        }
        let answers = self.ingress.answers.drain(..);
        let outer = self.egress.packets.drain(..).map(|(_, bytes)| bytes);
        Passed {
            verdict: verdict.unwrap_or(Verdict::Hold),
            emitted: answers.chain(outer).collect(),
        }
    }
}

/// Of an IPv6 packet without a jumbo payload (RFC 8200 §3); the longest of IPv4 is shorter.
const LONGEST_PACKET: usize = 40 + 65_535;

/// What a packet that did not leave counts as.
#[must_use]
pub const fn drop_reason(error: SendError) -> DropReason {
    match error {
        SendError::TooBig => DropReason::TooBig,
        SendError::Full
        | SendError::Unreachable(_)
        | SendError::Refused(_)
        | SendError::Other(_) => DropReason::SendFailed,
    }
}
