//! One burst's way: ingress, director, egress. The same code over a TUN, a capture file or memory.
//!
//! No threads, no clock, no waiting: a worker turns it in an event loop; `tunlb replay`,
//! tests, benches and fuzzing turn it over packets in memory. A capture is taken of the burst that left.

use std::io;
use std::sync::Arc;

use crate::director::{
    BackendIndex, Director, DropReason, Forward, ReplyRange, SendErrno, Snapshot, Timestamp,
    Verdict,
};
use crate::io::egress::{Egress, MemoryEgress, SendError, Sent};
use crate::io::ingress::{Ingress, LONGEST_PACKET, MemoryIngress, Reading};
use crate::packet::{BURST, Burst, Outgoing, Piece};

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
    /// What leaves for backends, in the order of the burst.
    outgoing: Vec<Outgoing>,
    /// What became of each of those.
    results: Vec<Sent>,
    /// Packets whose answers were not taken, in the order of the burst, and why.
    unanswered: Vec<(usize, SendError)>,
}

/// A burst that is done.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    director: &'a Director,
    burst: &'a Burst,
    read: usize,
    outgoing: &'a [Outgoing],
    results: &'a [Sent],
    unanswered: &'a [(usize, SendError)],
}

/// One packet of a burst that is done; of a super-packet that was forwarded, one segment.
#[derive(Debug, Clone, Copy)]
pub struct Passage<'a> {
    /// Its bytes, in two parts.
    pub bytes: [&'a [u8]; 2],
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

    /// Packets that were in it.
    #[must_use]
    #[allow(
        clippy::len_without_is_empty,
        reason = "a burst of none is nothing special"
    )]
    pub const fn len(&self) -> usize {
        self.burst.len()
    }

    /// The packets, in the order in which they left.
    pub fn passages(&self) -> impl Iterator<Item = Passage<'a>> {
        let turn = *self;
        let mut left = self.outgoing.iter().zip(self.results).peekable();
        let verdicts = self.director.verdicts().iter().enumerate();
        verdicts.flat_map(move |(frame, &verdict)| {
            let of_frame = |(packet, _): &(&Outgoing, &Sent)| packet.frame == frame;
            let mut passages = Vec::new();
            while let Some((packet, sent)) = left.next_if(of_frame) {
                passages.push(turn.left(packet, *sent, verdict));
            }
            if passages.is_empty() {
                passages.push(turn.stayed(frame, verdict));
            }
            passages
        })
    }

    fn left(&self, packet: &Outgoing, sent: Sent, verdict: Verdict) -> Passage<'a> {
        let verdict = match verdict {
            Verdict::Forward(forward) => Verdict::Forward(Forward {
                meta: packet.meta,
                entropy: packet.entropy,
                ..forward
            }),
            Verdict::Reply(_) | Verdict::Hold | Verdict::Drop(_) => verdict,
        };
        Passage {
            bytes: match packet.piece {
                Piece::Whole => [self.burst.packet(packet.frame), &[]],
                Piece::Segment { .. } => self.burst.with_header(packet, 0),
            },
            origin: self.origin(packet.frame),
            verdict,
            sent,
        }
    }

    fn stayed(&self, frame: usize, verdict: Verdict) -> Passage<'a> {
        let unanswered = self.unanswered.iter().find(|(of, _)| *of == frame);
        Passage {
            bytes: [self.burst.packet(frame), &[]],
            origin: self.origin(frame),
            verdict,
            sent: unanswered.map_or(Ok(()), |(_, error)| Err(*error)),
        }
    }

    const fn origin(&self, frame: usize) -> Origin {
        if frame < self.read {
            Origin::Ingress
        } else {
            Origin::Held
        }
    }

    /// The packets that their backends did not get, and why.
    pub fn failures(&self) -> impl Iterator<Item = (BackendIndex, SendError)> {
        let left = self.outgoing.iter().zip(self.results);
        left.filter_map(|(packet, sent)| {
            Some((BackendIndex::of_tunnel(packet.tunnel), (*sent).err()?))
        })
    }

    /// The packets of the answer to one of them.
    pub fn replies(&self, range: ReplyRange) -> impl Iterator<Item = &'a [u8]> {
        self.director.replies(range)
    }
}

impl<I: Ingress, E: Egress> Pipeline<I, E> {
    /// One for packets of up to `longest` bytes, as the ingress's device counts.
    #[must_use]
    pub fn new(ingress: I, egress: E, director: Director, longest: usize) -> Self {
        Self {
            burst: Burst::new(ingress.longest(longest)),
            ingress,
            egress,
            director,
            read: 0,
            outgoing: Vec::with_capacity(2 * BURST),
            results: Vec::with_capacity(2 * BURST),
            unanswered: Vec::with_capacity(2 * BURST),
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
        self.burst.fit(self.ingress.longest(longest));
        self.director.adopt(snapshot);
    }

    /// Reads no more than `most` packets into each further burst.
    pub fn limit(&mut self, most: usize) {
        self.burst.limit(most);
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
            outgoing: &self.outgoing,
            results: &self.results,
            unanswered: &self.unanswered,
        }
    }

    fn send(&mut self) {
        let outgoing = &mut self.outgoing;
        outgoing.clear();
        self.unanswered.clear();
        for (frame, verdict) in self.director.verdicts().iter().enumerate() {
            match verdict {
                Verdict::Forward(forward) => {
                    let whole = forward.outgoing(frame);
                    let director = &self.director;
                    self.burst.pieces(whole, |mut piece| {
                        let is_another = outgoing.last().is_some_and(|last| last.frame == frame);
                        if is_another && !piece.meta.dont_fragment {
                            piece.entropy.identification = director.identification();
                        }
                        outgoing.push(piece);
                    });
                }
                Verdict::Reply(range) => {
                    let mut replies = self.director.replies(*range);
                    let answered = replies.try_for_each(|reply| self.ingress.answer(reply));
                    if let Err(error) = answered {
                        self.unanswered.push((frame, error.into()));
                    }
                }
                Verdict::Hold | Verdict::Drop(_) => {}
            }
        }
        self.results.clear();
        self.results.resize(outgoing.len(), Ok(()));
        let tunnels = &**self.director.snapshot();
        self.egress.send(
            &mut self.burst,
            &mut self.outgoing,
            tunnels,
            &mut self.results,
        );
    }

    fn count(&self) {
        let director = &self.director;
        director.counters().count_burst(self.read);
        for (packet, sent) in self.outgoing.iter().zip(&self.results) {
            let backend = BackendIndex::of_tunnel(packet.tunnel);
            match sent {
                Ok(()) => director.counters().count_sent(backend, packet.length()),
                Err(error) => {
                    director.counters().count_send_error(send_errno(*error));
                    director.count_unsent(backend, drop_reason(*error));
                }
            }
        }
        for (frame, error) in &self.unanswered {
            director.counters().count_send_error(send_errno(*error));
            director.count_unanswered(self.burst.packet(*frame), drop_reason(*error));
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

/// What a packet that did not leave counts as.
#[must_use]
pub const fn drop_reason(error: SendError) -> DropReason {
    match error {
        SendError::TooBig => DropReason::TooBig,
        SendError::Full(_)
        | SendError::Unreachable(_)
        | SendError::Refused(_)
        | SendError::Other(_) => DropReason::SendFailed,
    }
}

/// The counter of what the kernel said of a packet that it did not take.
pub(super) const fn send_errno(error: SendError) -> SendErrno {
    match error.errno() {
        libc::ENOBUFS => SendErrno::NoBuffers,
        libc::EAGAIN => SendErrno::Again,
        libc::EMSGSIZE => SendErrno::MessageSize,
        libc::ENETUNREACH => SendErrno::NetworkUnreachable,
        libc::EHOSTUNREACH => SendErrno::HostUnreachable,
        libc::EPERM => SendErrno::NotPermitted,
        libc::EINVAL => SendErrno::Invalid,
        libc::ENETDOWN => SendErrno::NetworkDown,
        libc::ENODEV => SendErrno::NoDevice,
        _ => SendErrno::Other,
    }
}
