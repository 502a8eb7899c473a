//! The decision: which backend takes a packet. Sans-IO: no sockets, no clock, no logging.
//!
//! Second step of a packet's way, between [`packet`](crate::packet)'s parser and its encapsulation:
//!
//! 1. the VIP of its destination ([`Snapshot::find_vip`]);
//! 2. the flow table: a known flow keeps its backend ([`FlowTable`]);
//! 3. the ring: a new flow gets one ([`Snapshot::choose`]).
//!
//! Each worker owns one [`Director`]; they share only the immutable [`Snapshot`], which control
//! builds by the [`Roster`] and a director [`adopt`](Director::adopt)s as a whole.

mod ahead;
mod answers;
mod burst;
mod counters;
mod drops;
mod eligible;
mod error_limit;
mod expiry;
mod flow_class;
mod flow_table;
mod fragments;
mod identification;
mod indices;
mod listing;
mod mss;
mod new_flows;
mod path_error;
mod path_mtu;
mod placement;
mod probe_ends;
mod rate_limit;
mod reader;
mod remainders;
mod ring;
mod rings;
mod room;
mod roster;
mod segments;
mod selection;
mod services;
mod shared;
mod shared_flows;
mod snapshot;
mod spec;
mod strays;
mod tables;
mod time;
mod verdict;

use std::sync::Arc;

pub use crate::packet::Protocol;
pub use counters::{BURST_SIZES, Bursts, Counters, SendErrno, Traffic};
pub use eligible::{Capacity, Health, Takes, Tenths};
pub use flow_table::{FlowClass, FlowCursor, FlowEvent, FlowTable, KnownFlow, NotACursor};
pub use indices::{BackendIndex, VipIndex, VipSeat};
pub use listing::FlowFilter;
pub use path_error::Disbelief;
pub use path_mtu::PathMtus;
pub use probe_ends::ProbeEnds;
pub use reader::CounterReader;
pub use ring::{MAX_MEMBERS, Ring, RingMember, Slot};
pub use rings::{BuildRings, RingId, RingTask};
pub use roster::{Plan, Roster};
pub use selection::SelectionHash;
pub use services::Service;
pub use shared_flows::{SharedFlow, SharedFlows};
pub use snapshot::{Backend, Choice, Lane, Snapshot, SnapshotError, Vip};
pub use spec::{
    AllDown, BackendSpec, BackendState, Echo, FlowLimits, FlowTimeouts, HashFields, HashKey,
    HashKeyError, Mss, PortMatch, RingSize, RingSizeError, VipSpec,
};
pub use strays::{ANSWER_WAIT, Answer, Question};
pub use tables::{BackendRow, Tables, Update, VipRow};
pub use time::Timestamp;
pub use verdict::{DropReason, Forward, ReplyRange, Target, Verdict};

use crate::packet::{
    BURST, FlowKey, Fragment, Icmp, Packet, Quoted, Replies, Transport, echo_reply,
};
use ahead::Glance;
use burst::Answers;
use error_limit::ErrorLimit;
use flow_table::{NONE, Sought, Tick};
use fragments::{DatagramId, Decision, FragmentTable, Placement};
use identification::Identifications;
use new_flows::NewFlowLimits;
use remainders::Remainders;
use strays::Strays;

/// Expired flows dropped per packet: more than the one a packet can add, so the table drains.
const EXPIRE_PER_PACKET: usize = 2;

/// What distinguishes one worker's director from another's.
#[derive(Debug, Clone, Copy)]
pub struct Seat {
    /// This worker's number, below `workers`.
    pub worker: u16,
    /// How many there are.
    pub workers: u16,
    /// Keys the in-memory hashes of the tables.
    pub seed: [u64; 4],
}

/// Decides for one worker's packets.
#[derive(Debug)]
pub struct Director {
    snapshot: Arc<Snapshot>,
    counters: Arc<Counters>,
    flows: FlowTable,
    /// In place of `flows`, where the flows of all data paths are together.
    shared: Option<Box<dyn SharedFlows>>,
    fragments: FragmentTable,
    strays: Strays,
    identifications: Identifications,
    errors: ErrorLimit,
    /// Of packets that leave in fragments.
    remainders: Remainders,
    new_flows: NewFlowLimits,
    workers: u16,
    /// Packets up to this length, in bytes, fit every path and every tunnel.
    fits_all: u16,
    /// What is known of each packet of the burst before any is decided, by frame.
    ahead: Vec<Glance>,
    /// What becomes of each packet of the burst, by frame.
    verdicts: Vec<Verdict>,
    /// The answers of the burst.
    answers: Answers,
    /// The answer to the packet that is being decided.
    replies: Replies,
    /// An echo request put together from its fragments.
    message: Vec<u8>,
}

/// What a packet turned out to be, before anything of it is counted.
enum Outcome {
    Forward(Target),
    Reply {
        /// Packets that are answered with it.
        packets: u64,
    },
    Hold,
}

impl Director {
    /// A director with empty tables.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>, seat: &Seat) -> Self {
        let counters = Arc::new(Counters::new(snapshot.index_bound()));
        counters.adopt(&snapshot);
        let limits = snapshot.flow_limits().share(seat.workers);
        Self {
            flows: FlowTable::new(limits, seat.seed, Arc::clone(&counters)),
            shared: None,
            fragments: FragmentTable::new(seat.seed),
            strays: Strays::new(seat.worker, seat.workers),
            identifications: Identifications::new(seat.worker, seat.workers),
            errors: ErrorLimit::new(),
            remainders: Remainders::new(),
            new_flows: NewFlowLimits::new(&snapshot, seat.workers),
            workers: seat.workers,
            fits_all: 0,
            ahead: vec![Glance::default(); BURST],
            verdicts: Vec::with_capacity(2 * BURST),
            answers: Answers::default(),
            replies: Replies::default(),
            message: Vec::new(),
            counters,
            snapshot,
        }
    }

    /// Forwards by another snapshot of the same [`Roster`] from now on. Flows stay where their
    /// backend does. To be called between batches: a [`Forward`] is of the snapshot it was decided by.
    pub fn adopt(&mut self, snapshot: Arc<Snapshot>) {
        self.flows
            .set_limits(snapshot.flow_limits().share(self.workers));
        if self.shared.is_some() {
            self.counters.tell_flow_bound(0); // the shared table has the bound
        }
        self.new_flows.adopt(&self.snapshot, &snapshot);
        self.give_up_fragments(&snapshot);
        self.counters.adopt(&snapshot);
        self.snapshot = snapshot;
    }

    /// What this director counts.
    #[must_use]
    pub const fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// What this director forwards by.
    #[must_use]
    pub const fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The flows it knows.
    #[must_use]
    pub const fn flows(&self) -> &FlowTable {
        &self.flows
    }

    fn outcome(
        &mut self,
        packet: &Packet<'_>,
        bytes: &[u8],
        now: Timestamp,
    ) -> Result<Outcome, DropReason> {
        match packet.fragment() {
            Some(fragment) => self.fragment(packet, bytes, fragment, now),
            None => self.whole(packet, bytes, now),
        }
    }

    fn fragment(
        &mut self,
        packet: &Packet<'_>,
        bytes: &[u8],
        fragment: Fragment,
        now: Timestamp,
    ) -> Result<Outcome, DropReason> {
        if self.snapshot.find_address(packet.destination()).is_none() {
            return Err(DropReason::NoVip);
        }
        let id = DatagramId::new(packet, fragment.identification);
        match fragment {
            Fragment { offset: 0, .. } if self.is_answered(packet) => {
                self.gather(id, (packet, bytes), now)
            }
            Fragment { offset: 0, .. } => {
                let target = self.first_fragment(packet, now);
                let outcome = target.and_then(|target| self.send((packet, bytes), target, now));
                let decision = match outcome {
                    Ok(Outcome::Forward(_)) => target,
                    Ok(_) => Err(DropReason::TooBig), // the datagram will not be whole
                    Err(reason) => Err(reason),
                };
                let lost = self.fragments.decide(id, decision, now);
                let reason = decision.err().unwrap_or(DropReason::Malformed);
                self.counters
                    .count_drops(self.seat_for(packet, reason), reason, lost);
                outcome
            }
            _ => match self.fragments.place(id, bytes, now)? {
                Placement::Decided(decision) => self.send((packet, bytes), decision?, now),
                Placement::Held => Ok(Outcome::Hold),
                Placement::Gathering => self.gather(id, (packet, bytes), now),
            },
        }
    }

    fn whole(
        &mut self,
        packet: &Packet<'_>,
        bytes: &[u8],
        now: Timestamp,
    ) -> Result<Outcome, DropReason> {
        let target = match transport(packet)? {
            Transport::Tcp { key, flags } => self.target_alone(&key, FlowEvent::Tcp(flags), now)?,
            Transport::Udp { key } => self.target_alone(&key, FlowEvent::Udp, now)?,
            Transport::Icmp(Icmp::EchoRequest) => match self.echo_vip(packet)?.echo {
                Echo::Reply => {
                    echo_reply(packet, self.replies.one());
                    return Ok(Outcome::Reply { packets: 1 });
                }
                Echo::Forward => self.target_of_client(packet)?,
                Echo::Drop => return Err(DropReason::UnsupportedProtocol),
            },
            Transport::Icmp(Icmp::Error(quoted)) => {
                return self.error(packet, &quoted, now).map(Outcome::Forward);
            }
            Transport::Icmp(Icmp::Other) | Transport::Other(_) => {
                return Err(self.not_balanced(packet));
            }
        };
        self.send((packet, bytes), target, now)
    }

    /// Only TCP, UDP and forwarded echo requests are balanced by a first fragment.
    fn first_fragment(&mut self, packet: &Packet<'_>, now: Timestamp) -> Decision {
        match transport(packet)? {
            Transport::Tcp { key, flags } => self.target_alone(&key, FlowEvent::Tcp(flags), now),
            Transport::Udp { key } => self.target_alone(&key, FlowEvent::Udp, now),
            Transport::Icmp(Icmp::EchoRequest) => match self.echo_vip(packet)?.echo {
                Echo::Forward => self.target_of_client(packet),
                Echo::Reply | Echo::Drop => Err(DropReason::UnsupportedProtocol),
            },
            Transport::Icmp(Icmp::Error(_) | Icmp::Other) | Transport::Other(_) => {
                Err(self.not_balanced(packet))
            }
        }
    }

    /// Why a packet without a flow goes nowhere: nothing of ours, or not something we balance.
    fn not_balanced(&self, packet: &Packet<'_>) -> DropReason {
        match self.snapshot.find_address(packet.destination()) {
            Some(_) => DropReason::UnsupportedProtocol,
            None => DropReason::NoVip,
        }
    }

    /// A packet that no stage looked up.
    fn target_alone(
        &mut self,
        key: &FlowKey,
        event: FlowEvent,
        now: Timestamp,
    ) -> Result<Target, DropReason> {
        let sought = self.flows.seek(key);
        self.target((&sought, NONE), event, now)
    }

    /// A packet of a flow: the flow table's backend, else the ring's.
    ///
    /// Where the services are those by which the flow's backend was found to be of its VIP, it still is: the
    /// rule, and then only the entry and the backend's lane are read.
    #[inline]
    fn target(
        &mut self,
        (sought, hint): (&Sought, u32),
        event: FlowEvent,
        now: Timestamp,
    ) -> Result<Target, DropReason> {
        if self.shared.is_some() {
            let backend = self.target_shared(&sought.flow.key(), event)?;
            return Ok(self.target_at(backend, sought));
        }
        let snapshot = &*self.snapshot;
        let mut takes_entropy = false;
        let keeps = |backend| {
            snapshot.lane(backend).is_some_and(|lane| {
                takes_entropy = lane.encap.takes_entropy();
                lane.takes.keeps(event.opens())
            })
        };
        let packet = (event, Tick::at(now));
        let generation = snapshot.generation();
        if let Some(backend) = self.flows.pass((hint, sought), packet, generation, keeps) {
            return Ok(self.target_with(backend, takes_entropy, sought));
        }
        let backend = self.settle((sought, hint), event, now)?;
        Ok(self.target_at(backend, sought))
    }

    /// A flow that is new, or that may have to move: its VIP says where it goes.
    #[inline(never)] // a known flow's packet needs none of it
    fn settle(
        &mut self,
        (sought, hint): (&Sought, u32),
        event: FlowEvent,
        now: Timestamp,
    ) -> Result<BackendIndex, DropReason> {
        let (key, tick) = (sought.flow.key(), Tick::at(now));
        let vip = self.snapshot.find_vip(&key).ok_or(DropReason::NoVip)?;
        let at = self.flows.find_by(hint, sought);
        let known = match at.map(|at| self.flows.known(at, event, tick)) {
            Some(over) if over.is_over => {
                self.flows.remove_at(over.at);
                None
            }
            known => known,
        };
        let (backend, reopens) = self.place(vip, &key, known.map(|known| known.backend), event);
        if let Some(known) = known.filter(|_| !reopens) {
            self.flows.refresh(known.at, event, tick);
        }
        let backend = backend.ok_or(DropReason::NoBackend)?;
        let seat = (backend, self.snapshot.generation());
        match known {
            Some(known) if !reopens => {
                self.flows.settle(known.at, seat);
                return Ok(backend);
            }
            Some(known) => self.flows.remove_at(known.at),
            None if event.resets() && self.snapshot.probe_ends().have(&key) => {
                return Err(DropReason::ProbeReset);
            }
            None => {}
        }
        if self.new_flows.allows(vip.index, now) {
            self.flows.enter(sought, seat, event, tick);
        } else {
            self.counters.count_untracked(backend);
        }
        Ok(backend)
    }

    /// The backend of a flow of a VIP: the one that it was `known` to be with, or the ring's; and whether it is
    /// another flow than that one.
    fn place(
        &self,
        vip: &Vip,
        key: &FlowKey,
        known: Option<BackendIndex>,
        event: FlowEvent,
    ) -> (Option<BackendIndex>, bool) {
        let stays = known.and_then(|known| self.snapshot.stays_with(vip, known));
        let reopens = stays.is_some_and(|stays| self.is_left_by(stays, event));
        let stays = stays.filter(|_| !reopens);
        let chosen = || self.snapshot.choose(vip, key).map(|choice| choice.backend);
        (stays.or_else(chosen), reopens)
    }

    /// Whether a backend takes known flows only and the packet opens a connection, which is no part of the
    /// flow that is known: the client uses its port again. It is balanced as a new one, so that no SYN keeps a
    /// drain from ending.
    fn is_left_by(&self, backend: BackendIndex, event: FlowEvent) -> bool {
        let lane = self.snapshot.lane(backend);
        lane.is_some_and(|lane| !lane.takes.keeps(event.opens()))
    }

    fn target_at(&self, backend: BackendIndex, sought: &Sought) -> Target {
        let lane = self.snapshot.lane(backend);
        let takes_entropy = lane.is_some_and(|lane| lane.encap.takes_entropy());
        self.target_with(backend, takes_entropy, sought)
    }

    /// The hash costs as much as the rest of a known flow's look-up, so it is made only where the
    /// tunnel shows it.
    #[inline]
    fn target_with(&self, backend: BackendIndex, takes_entropy: bool, sought: &Sought) -> Target {
        let flow_hash = if takes_entropy {
            self.snapshot.flow_hash(&sought.flow.key())
        } else {
            0
        };
        Target { backend, flow_hash }
    }

    /// Whether a packet is an echo request, or its first fragment, that the director answers itself.
    fn is_answered(&self, packet: &Packet<'_>) -> bool {
        let is_request = matches!(packet.transport(), Ok(Transport::Icmp(Icmp::EchoRequest)));
        is_request
            && self
                .echo_vip(packet)
                .is_ok_and(|vip| vip.echo == Echo::Reply)
    }

    fn echo_vip(&self, packet: &Packet<'_>) -> Result<&Vip, DropReason> {
        self.snapshot
            .find_address(packet.destination())
            .ok_or(DropReason::NoVip)
    }

    /// A packet without a flow goes where its client's address says.
    fn target_of_client(&self, packet: &Packet<'_>) -> Result<Target, DropReason> {
        let vip = self.echo_vip(packet)?;
        let chosen = self.snapshot.choose_for_client(vip, packet.source());
        Ok(Target {
            backend: chosen.ok_or(DropReason::NoBackend)?.backend,
            flow_hash: self.snapshot.client_hash(packet.source()),
        })
    }

    /// An ICMP error goes to the backend whose packet it quotes. It makes no flow and keeps none
    /// alive: anybody can send one.
    fn error(
        &self,
        packet: &Packet<'_>,
        quoted: &Quoted,
        now: Timestamp,
    ) -> Result<Target, DropReason> {
        let no_flow = DropReason::IcmpNoFlow;
        if self.snapshot.find_address(packet.destination()).is_none() {
            return Err(DropReason::NoVip);
        }
        if quoted.source != packet.destination() {
            return Err(no_flow);
        }
        let key = quoted.flow().ok_or(no_flow)?;
        let vip = self.snapshot.find_vip(&key).ok_or(no_flow)?;
        let known = self.peek(&key, now).or(self.strays.learnt());
        let stays = known.and_then(|known| self.snapshot.stays_with(vip, known));
        let chosen = || self.snapshot.choose(vip, &key).map(|choice| choice.backend);
        let backend = stays.or_else(chosen).ok_or(DropReason::NoBackend)?;
        Ok(self.target_at(backend, &self.flows.seek(&key)))
    }
}

fn transport(packet: &Packet<'_>) -> Result<Transport, DropReason> {
    packet.transport().map_err(|_| DropReason::Malformed)
}

#[cfg(test)]
mod tests;
