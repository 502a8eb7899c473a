//! Strays: packets of a flow that the kernel hands to another worker than the rest of the flow.
//!
//! The TUN's queue follows a hash of addresses, protocol and ports. An ICMP error about a flow, a first
//! fragment and a packet whose ports are behind rare IPv6 headers are hashed without the ports, so their
//! worker may not know the flow. While every flow is where
//! the ring puts it that is no matter; once the ring has changed, such a packet waits here, the worker
//! [asks](Director::take_question) the others, and an [`Answer`] or [`ANSWER_WAIT`] later it is decided as
//! any other packet. No threads and no clock: who carries questions and answers is the caller's business.
//!
//! Bounded in packets, bytes, time and questions a second; beyond each bound the ring decides at once.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use super::flow_table::FlowEvent;
use super::indices::BackendIndex;
use super::rate_limit::RateLimit;
use super::snapshot::Snapshot;
use super::time::Timestamp;
use super::{Director, DropReason};
use crate::packet::{BURST, Burst, FlowKey, Icmp, Packet, Protocol, Transport};

/// How long a packet waits for the other workers, in each of which a question waits for one burst: enough
/// for one that has no CPU just then, and half of TCP's shortest retransmission timeout (Linux: 200 ms).
pub const ANSWER_WAIT: Duration = Duration::from_millis(100);

/// Packets that wait at a time: four bursts.
const MAX_PARKED: usize = 4 * BURST;
/// Bytes of those: as many packets of an Ethernet path.
const MAX_PARKED_BYTES: usize = MAX_PARKED * 1500;
/// Questions a second that one worker has to answer, asked by all others together: each may cost it a
/// wake-up, some 5 µs, so 2 % of its time.
const QUESTIONS_PER_SECOND: u32 = 4000;

/// A worker asks the others which backend a flow is with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Counts the questions of `asker`.
    pub number: u64,
    /// The worker that asks.
    pub asker: u16,
    /// The flow.
    pub flow: FlowKey,
}

/// What one worker knows about the flow of a [`Question`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The question's.
    pub number: u64,
    /// The address of the backend that the flow stays with; `None`: the flow is not known. An address, since
    /// an index may be another backend's when the answer arrives.
    pub backend: Option<IpAddr>,
}

/// A packet that waits.
#[derive(Debug)]
struct Parked {
    stray: Stray,
    /// Of the question about its flow.
    number: u64,
    /// When that was asked.
    since: Timestamp,
    state: State,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many workers have not answered.
    Asking { unanswered: u16 },
    /// To be decided, with the backend that another worker's flow is with.
    Settled(Option<IpAddr>),
}

/// What a packet that may stray belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stray {
    flow: FlowKey,
    /// What it does to its flow; an ICMP error does nothing.
    event: Option<FlowEvent>,
}

/// The packets of one worker that wait for the answers of others.
#[derive(Debug)]
pub(super) struct Strays {
    worker: u16,
    others: u16,
    limit: RateLimit,
    asked: u64,
    questions: Vec<Question>,
    /// In the order of arrival.
    parked: VecDeque<Parked>,
    parked_bytes: usize,
    settled: usize,
    /// Buffers to park in.
    spare: Vec<Vec<u8>>,
    /// Of the flow that the ICMP error quotes which is being decided.
    learnt: Option<BackendIndex>,
}

impl Strays {
    pub(super) fn new(worker: u16, workers: u16) -> Self {
        let others = workers.saturating_sub(1);
        let rate = QUESTIONS_PER_SECOND / u32::from(others).max(1);
        let rate = NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN);
        Self {
            worker,
            others,
            limit: RateLimit::new(rate, rate),
            asked: 0,
            questions: Vec::new(),
            parked: VecDeque::new(),
            parked_bytes: 0,
            settled: 0,
            spare: Vec::new(),
            learnt: None,
        }
    }

    /// Whether a flow may be where neither this worker's table nor the ring looks for it.
    fn are_possible(&self, snapshot: &Snapshot) -> bool {
        self.others > 0 && snapshot.has_changed()
    }

    /// Whether a packet waits for an answer.
    pub(super) fn is_asking(&self) -> bool {
        self.settled < self.parked.len()
    }

    /// Whether a packet is to be decided.
    pub(super) const fn has_settled(&self) -> bool {
        self.settled > 0
    }

    /// What another worker answered about the flow of the ICMP error that is being decided.
    pub(super) const fn learnt(&self) -> Option<BackendIndex> {
        self.learnt
    }

    /// Parks a packet and asks about its flow; false where a bound forbids it.
    fn park(&mut self, stray: Stray, bytes: &[u8], now: Timestamp) -> bool {
        let room = MAX_PARKED_BYTES - self.parked_bytes;
        if self.parked.len() >= MAX_PARKED || bytes.len() > room {
            return false;
        }
        let same = |parked: &&Parked| {
            parked.stray.flow == stray.flow && matches!(parked.state, State::Asking { .. })
        };
        let asked = self.parked.iter().find(same);
        let asked = asked.map(|parked| (parked.number, parked.since, parked.state));
        let Some((number, since, state)) = asked.or_else(|| self.ask(stray.flow, now)) else {
            return false;
        };
        let mut kept = self.spare.pop().unwrap_or_default();
        kept.clear();
        kept.extend_from_slice(bytes);
        self.parked_bytes += bytes.len();
        self.parked.push_back(Parked {
            stray,
            number,
            since,
            state,
            bytes: kept,
        });
        true
    }

    fn ask(&mut self, flow: FlowKey, now: Timestamp) -> Option<(u64, Timestamp, State)> {
        if !self.limit.allows(now) {
            return None;
        }
        self.asked += 1;
        self.questions.push(Question {
            number: self.asked,
            asker: self.worker,
            flow,
        });
        let unanswered = self.others;
        Some((self.asked, now, State::Asking { unanswered }))
    }

    fn hear(&mut self, answer: Answer) {
        for parked in &mut self.parked {
            if parked.number != answer.number {
                continue;
            }
            let State::Asking { unanswered } = parked.state else {
                continue;
            };
            parked.state = match (answer.backend, unanswered) {
                (None, 2..) => State::Asking {
                    unanswered: unanswered - 1,
                },
                (backend, _) => State::Settled(backend),
            };
            self.settled += usize::from(matches!(parked.state, State::Settled(_)));
        }
    }

    /// Settles what has waited too long.
    pub(super) fn expire(&mut self, now: Timestamp) {
        for parked in &mut self.parked {
            let asking = matches!(parked.state, State::Asking { .. });
            if asking && now.since(parked.since) >= ANSWER_WAIT {
                parked.state = State::Settled(None);
                self.settled += 1;
            }
        }
    }

    /// A packet that is to be decided, copied to the start of `room` as far as it fits, with its length and
    /// the answer about its flow.
    fn take_settled(&mut self, room: &mut [u8]) -> Option<(Stray, Option<IpAddr>, usize)> {
        let settled = |parked: &Parked| matches!(parked.state, State::Settled(_));
        let Parked {
            stray,
            state,
            bytes,
            ..
        } = self.parked.remove(self.parked.iter().position(settled)?)?;
        let length = bytes.len().min(room.len());
        room[..length].copy_from_slice(&bytes[..length]);
        self.settled -= 1;
        self.parked_bytes -= bytes.len();
        self.spare.push(bytes);
        match state {
            State::Settled(backend) => Some((stray, backend, length)),
            State::Asking { .. } => None,
        }
    }

    /// Forgets what waits; `lost` is told of each packet its flow, and as what it counts: an ICMP error or a
    /// fragment.
    pub(super) fn give_up(&mut self, mut lost: impl FnMut(&FlowKey, DropReason)) {
        for parked in self.parked.drain(..) {
            let reason = match parked.stray.event {
                None => DropReason::IcmpNoFlow,
                Some(_) => DropReason::FragmentTimeout,
            };
            lost(&parked.stray.flow, reason);
        }
        (self.parked_bytes, self.settled) = (0, 0);
    }
}

impl Director {
    /// A question of this worker, for every other one; to be taken between bursts, until none is left.
    pub fn take_question(&mut self) -> Option<Question> {
        self.strays.questions.pop()
    }

    /// What this worker knows about a flow that another one asks about. The flow is not kept alive by it:
    /// anybody can send an ICMP error.
    #[must_use]
    pub fn answer(&self, question: &Question, now: Timestamp) -> Answer {
        let flow = &question.flow;
        let known = self.flows.peek(flow, now);
        let stays = known.and_then(|known| {
            let vip = self.snapshot.find_vip(flow)?;
            self.snapshot.stays_with(vip, known)
        });
        let backend = stays.and_then(|index| self.snapshot.backend(index));
        Answer {
            number: question.number,
            backend: backend.map(|backend| backend.address),
        }
    }

    /// Takes an answer to a question of this worker. Packets whose flow is known by it, or about which every
    /// other worker has answered, come into the next burst.
    pub fn hear(&mut self, answer: Answer) {
        self.strays.hear(answer);
    }

    /// Whether a packet waits for an answer: [`expire`](Self::expire) should be called within
    /// [`ANSWER_WAIT`].
    #[must_use]
    pub fn is_asking(&self) -> bool {
        self.strays.is_asking()
    }

    /// Waits for no answer any more: what waits comes into the next bursts, decided by the ring.
    pub fn stop_asking(&mut self) {
        self.strays.expire(Timestamp::END);
    }

    /// Whether a packet waits for other workers from now on, since neither this worker's table nor
    /// the ring is sure to know where its flow is.
    pub(super) fn parks(&mut self, packet: &Packet<'_>, bytes: &[u8], now: Timestamp) -> bool {
        if self.shared.is_some() || !self.strays.are_possible(&self.snapshot) {
            return false;
        }
        let Some(stray) = stray(packet) else {
            return false;
        };
        let is_ours = self.snapshot.find_vip(&stray.flow).is_some();
        is_ours
            && self.flows.peek(&stray.flow, now).is_none()
            && self.strays.park(stray, bytes, now)
    }

    /// Decides about packets whose flow was asked about, as far as the burst has frames.
    pub(super) fn release_strays(&mut self, burst: &mut Burst, now: Timestamp) {
        while self.strays.has_settled()
            && let Some(room) = burst.spare()
            && let Some((stray, backend, length)) = self.strays.take_settled(room)
        {
            self.learn(&stray, backend, now);
            match Packet::parse(&room[..length]) {
                Ok(packet) => self.decide(&packet, &room[..length], now),
                Err(_) => self.drop_packets(None, DropReason::Malformed, 1), // cut by a frame that is too small
            }
            self.strays.learnt = None;
            let frame = burst.len();
            burst.push(length);
            self.finish_packet(burst, frame, now);
        }
    }

    /// The flow of a packet is with that backend by another worker's table. A packet of the client's
    /// own enters it into this worker's, too.
    fn learn(&mut self, stray: &Stray, backend: Option<IpAddr>, now: Timestamp) {
        let flow = &stray.flow;
        let Some(index) = backend.and_then(|address| {
            let vip = self.snapshot.find_vip(flow)?;
            self.snapshot.host_of(vip, address)
        }) else {
            return;
        };
        match stray.event {
            None => self.strays.learnt = Some(index),
            Some(event) if self.flows.lookup(flow, event, now).is_none() => {
                self.flows.insert(*flow, index, event, now);
            }
            Some(_) => {}
        }
    }
}

/// The flow of a packet that may be on another worker than its flow: an ICMP error, or one whose ports the
/// kernel does not see. A SYN opens a flow, so that no worker knows it.
fn stray(packet: &Packet<'_>) -> Option<Stray> {
    if packet.meta().segmentation.is_some() {
        return None; // the kernel joined segments, of which it saw the ports
    }
    let is_whole = packet.fragment().is_none();
    let is_later = packet.fragment().is_some_and(|piece| piece.offset > 0);
    let has_ports = [Protocol::Tcp, Protocol::Udp].map(Protocol::number);
    if is_later || (!packet.hides_ports() && has_ports.contains(&packet.protocol())) {
        return None;
    }
    let (flow, event) = match packet.transport().ok()? {
        Transport::Tcp { key, flags } => (key, Some(FlowEvent::Tcp(flags))),
        Transport::Udp { key } => (key, Some(FlowEvent::Udp)),
        Transport::Icmp(Icmp::Error(quoted))
            if is_whole && quoted.source == packet.destination() =>
        {
            (quoted.flow()?, None)
        }
        Transport::Icmp(_) | Transport::Other(_) => return None,
    };
    let opens = event.is_some_and(FlowEvent::opens);
    (!opens).then_some(Stray { flow, event })
}

#[cfg(test)]
mod tests;
