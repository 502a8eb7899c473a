//! What ought to become of every packet: a worker's director, and beside it a memory of each flow
//! that follows the documentation. They have to agree after every packet.
//!
//! A flow is known from its first forwarded packet until it was idle for its timeout, or was closed
//! and opens again. Only a flow of which one packet was seen (or only SYNs) may be forgotten before,
//! and only once so many others of its like came after it that its part of the table was full. A
//! known flow stays with its backend as long as that is configured and takes it. A SYN to a backend that takes
//! known flows only is of a new flow; where nobody takes that, what is known of the old one stays as it is.
//! Every other choice is the ring's.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tunlb::daemon::pipeline::MemoryPipeline;
use tunlb::director::{
    BackendIndex, Director, DropReason, Protocol, Service, Takes, Timestamp, Verdict,
};
use tunlb::packet::FlowKey;

use crate::day::{BOUND_PARTS, WORKERS};
use crate::site::{Identity, View};
use crate::tally::{Books, Left, Tally};
use crate::traffic::{self, Segment};

/// The table's clock ticks in sixteenths of a second; within one tick of its timeout, a flow may be
/// known or not.
const TICK: Duration = Duration::from_micros(62_500);

/// Of the day's packets, in bytes.
const LONGEST: usize = 1500;

/// The life of a flow, as its client's packets show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    HalfOpen,
    FirstDatagram,
    Established,
    Closing,
    Reset,
    Datagrams,
}

impl Class {
    const fn first(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::HalfOpen,
            Protocol::Udp => Self::FirstDatagram,
        }
    }

    const fn is_first(self) -> bool {
        matches!(self, Self::HalfOpen | Self::FirstDatagram)
    }

    const fn is_closed(self) -> bool {
        matches!(self, Self::Closing | Self::Reset)
    }

    const fn after(self, segment: Segment) -> Self {
        match segment {
            Segment::Syn => self,
            Segment::Ack if self.is_closed() => self,
            Segment::Ack => Self::Established,
            Segment::Fin => Self::Closing,
            Segment::Rst => Self::Reset,
            Segment::Datagram => Self::Datagrams,
        }
    }

    /// The defaults of the configuration.
    const fn timeout(self) -> Duration {
        Duration::from_secs(match self {
            Self::HalfOpen => 30,
            Self::Established => 15 * 60,
            Self::FirstDatagram | Self::Closing | Self::Datagrams => 60,
            Self::Reset => 10,
        })
    }
}

/// What a director remembers of a flow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) identity: Identity,
    pub(crate) index: BackendIndex,
    class: Class,
    last: Timestamp,
    /// The worker's [`filings`](Worker) when it entered.
    filings: u64,
}

/// Whether a flow is still known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recall {
    Known,
    /// Either is right.
    Perhaps,
    Forgotten,
}

impl Memory {
    /// When the table has surely given the entry back. Its lists are exact to 1/64 of a timeout.
    pub(crate) fn end(&self) -> Timestamp {
        let timeout = self.class.timeout();
        self.last
            .plus(timeout + timeout / 32 + Duration::from_secs(3))
    }
}

/// A flow of the day.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) key: FlowKey,
    pub(crate) worker: usize,
    pub(crate) script: std::vec::IntoIter<(Duration, Segment)>,
    pub(crate) memory: Option<Memory>,
}

/// One packet and what is around it.
struct Passage<'a> {
    key: &'a FlowKey,
    segment: Segment,
    data: u8,
    now: Timestamp,
    /// The VIP's position in the view.
    vip: usize,
}

/// One worker of the data path.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) pipeline: MemoryPipeline,
    pub(crate) view: Arc<View>,
    /// Packets after which their flow was in a first class, by protocol.
    filings: [u64; 2],
    /// When flows entered the table in the last second, of VIPs with a limit.
    entered: HashMap<Service, VecDeque<Timestamp>>,
    /// Flows of one first class that fit.
    part: u64,
}

impl Worker {
    pub(crate) fn new(director: Director, view: Arc<View>, bound: usize) -> Self {
        Self {
            pipeline: MemoryPipeline::in_memory(director),
            view,
            filings: [0; 2],
            entered: HashMap::new(),
            part: u64::try_from(bound / BOUND_PARTS).unwrap(),
        }
    }

    pub(crate) fn adopt(&mut self, view: &Arc<View>) {
        self.pipeline.adopt(Arc::clone(&view.snapshot), LONGEST);
        self.view = Arc::clone(view);
    }

    /// As a worker does once a second.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        while self.pipeline.director_mut().expire(now, 512) == 512 {}
    }

    /// What is known of a flow before a packet of it.
    pub(crate) fn recall(&self, flow: &Flow, now: Timestamp) -> Recall {
        let Some(memory) = &flow.memory else {
            return Recall::Forgotten;
        };
        let (idle, timeout) = (now.since(memory.last), memory.class.timeout());
        let crowded = self.filings[flow.key.protocol as usize] - memory.filings >= self.part;
        if idle >= timeout + TICK {
            Recall::Forgotten
        } else if idle + TICK > timeout || (memory.class.is_first() && crowded) {
            Recall::Perhaps
        } else {
            Recall::Known
        }
    }

    /// Where the table says that the flow is. Nothing but that, or nothing, is right.
    pub(crate) fn peek(&self, flow: &Flow, now: Timestamp) -> Option<BackendIndex> {
        let peeked = self.pipeline.director().flows().peek(&flow.key, now);
        let remembered = flow.memory.map(|memory| memory.index);
        match self.recall(flow, now) {
            Recall::Known => assert_eq!(peeked, remembered, "{flow:?} at {now:?}"),
            Recall::Perhaps => assert!(peeked.is_none() || peeked == remembered, "{flow:?}"),
            Recall::Forgotten => assert_eq!(peeked, None, "{flow:?} at {now:?}"),
        }
        peeked
    }

    /// A packet of the flow: both forward it, and have to agree.
    pub(crate) fn packet(
        &mut self,
        flow: &mut Flow,
        (segment, data): (Segment, u8),
        now: Timestamp,
        tally: &mut Tally,
    ) {
        let peeked = self.peek(flow, now);
        let key = &flow.key;
        let Some(vip) = self.view.vip(key) else {
            let bytes = traffic::packet(key, segment, data);
            let got = self.forward(&bytes, now, &mut tally.books);
            assert_eq!(got, Err(DropReason::NoVip), "{key} at {now:?}");
            return;
        };
        let passage = Passage {
            key,
            segment,
            data,
            now,
            vip,
        };
        let drains =
            |memory: &Memory| self.view.takes(vip, memory.identity.1) == Some(Takes::KnownFlows);
        let opens = |memory: &Memory| {
            segment == Segment::Syn && (memory.class.is_closed() || drains(memory))
        };
        let remembered = flow.memory.filter(|_| peeked.is_some());
        let known = remembered.filter(|memory| !opens(memory));
        let refused = remembered.filter(|memory| {
            opens(memory) && !memory.class.is_closed() && !self.view.has_takers(vip)
        });
        if peeked.is_none()
            && let Some(memory) = &flow.memory
        {
            tally.forgotten += 1;
            tally.pushed_out += u64::from(now.since(memory.last) + TICK < memory.class.timeout());
        }
        let earlier = flow.memory;
        flow.memory = match known {
            Some(known) => Some(self.known(&passage, known, tally)),
            None => {
                let why = match remembered {
                    Some(_) => Left::Reopened,
                    None => Left::Forgotten,
                };
                self.unknown(&passage, earlier.map(|memory| (memory, why)), tally)
            }
        };
        flow.memory = flow.memory.or(refused);
        if flow.memory.is_some_and(|memory| memory.class.is_first()) {
            self.filings[flow.key.protocol as usize] += 1;
        }
    }

    fn known(&mut self, passage: &Passage<'_>, known: Memory, tally: &mut Tally) -> Memory {
        let (service, backend) = known.identity;
        let here = Service::of(&self.view.site.vips[passage.vip]);
        let left = match self.view.takes(passage.vip, backend) {
            Some(Takes::NewFlows | Takes::KnownFlows) => None,
            None if service != here => Some(Left::OtherVip),
            None => Some(Left::Removed),
            Some(Takes::Nothing) => {
                let state = self.view.state(passage.vip, backend);
                Some(Left::by_state(state.unwrap()))
            }
        };
        let (class, last) = (known.class.after(passage.segment), passage.now);
        let stays = left.is_none().then_some(backend);
        let Some((index, now_with)) = self.pass(passage, stays, tally) else {
            return Memory {
                class,
                last,
                ..known
            };
        };
        if let Some(left) = left {
            tally.moved(left);
        } else if service == here {
            assert_eq!(index, known.index, "{} at {:?}", passage.key, passage.now);
        }
        Memory {
            identity: (here, now_with),
            index,
            class,
            last,
            ..known
        }
    }

    fn unknown(
        &mut self,
        passage: &Passage<'_>,
        earlier: Option<(Memory, Left)>,
        tally: &mut Tally,
    ) -> Option<Memory> {
        let (index, backend) = self.pass(passage, None, tally)?;
        if let Some((memory, why)) = earlier
            && memory.identity.1 != backend
        {
            tally.moved(why);
        }
        let Passage { key, now, .. } = *passage;
        let entered = self.pipeline.director().flows().peek(key, now);
        self.check_limit(passage, entered.is_some());
        if entered.is_none() {
            tally.books.untracked(index);
            return None;
        }
        assert_eq!(entered, Some(index), "{key} at {now:?}");
        let service = Service::of(&self.view.site.vips[passage.vip]);
        Some(Memory {
            identity: (service, backend),
            index,
            class: Class::first(key.protocol),
            last: now,
            filings: self.filings[key.protocol as usize] + 1,
        })
    }

    /// A flow may stay outside of the table only when its VIP's limit was reached in the last
    /// second; a second's worth at once and what the second brought may enter.
    fn check_limit(&mut self, passage: &Passage<'_>, entered: bool) {
        let vip = &self.view.site.vips[passage.vip];
        let Some(limit) = vip.new_flows_per_second else {
            assert!(entered, "{} at {:?}", passage.key, passage.now);
            return;
        };
        let part = usize::try_from(limit.get()).unwrap().div_ceil(WORKERS);
        let lately = self.entered.entry(Service::of(vip)).or_default();
        while lately
            .front()
            .is_some_and(|then| passage.now.since(*then) > Duration::from_secs(1))
        {
            lately.pop_front();
        }
        if entered {
            lately.push_back(passage.now);
            assert!(
                lately.len() <= 2 * part,
                "{} entered in a second",
                lately.len()
            );
        } else {
            assert!(
                lately.len() >= part,
                "only {} entered in a second",
                lately.len()
            );
        }
    }

    /// Forwards the packet, which has to go to `stays`, or else where the ring says, which is to
    /// one that takes new flows; `None`: nobody does, and it was dropped.
    fn pass(
        &mut self,
        passage: &Passage<'_>,
        stays: Option<IpAddr>,
        tally: &mut Tally,
    ) -> Option<(BackendIndex, IpAddr)> {
        let Passage { key, now, vip, .. } = *passage;
        let expected = stays.or_else(|| self.ring(key));
        if stays.is_none() {
            let takes = expected.map(|backend| self.view.takes(vip, backend));
            let right = self.view.has_takers(vip).then_some(Some(Takes::NewFlows));
            assert_eq!(takes, right, "{key} at {now:?}");
        }
        let bytes = traffic::packet(key, passage.segment, passage.data);
        let got = self.forward(&bytes, now, &mut tally.books);
        let address = got.map(|(_, address)| address);
        assert_eq!(
            address,
            expected.ok_or(DropReason::NoBackend),
            "{key} at {now:?}"
        );
        got.ok()
    }

    pub(crate) fn ring(&self, key: &FlowKey) -> Option<IpAddr> {
        let snapshot = &self.view.snapshot;
        let chosen = snapshot.choose(snapshot.find_vip(key)?, key)?;
        Some(snapshot.backend(chosen.backend)?.address)
    }

    fn forward(
        &mut self,
        bytes: &[u8],
        now: Timestamp,
        books: &mut Books,
    ) -> Result<(BackendIndex, IpAddr), DropReason> {
        let passed = self.pipeline.pass(bytes, now);
        match passed.verdict {
            Verdict::Forward(forward) => {
                let backend = self.view.snapshot.backend(forward.backend);
                let address = backend.expect("of this snapshot").address;
                assert_eq!(passed.emitted.len(), 1);
                books.sent(forward.backend, bytes.len());
                Ok((forward.backend, address))
            }
            Verdict::Drop(reason) => {
                books.dropped(reason);
                Err(reason)
            }
            verdict @ (Verdict::Reply(_) | Verdict::Hold) => panic!("{verdict:?}"),
        }
    }
}
