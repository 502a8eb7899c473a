//! The fragment table: all fragments of a datagram go where its first one went.
//!
//! Only the first fragment has ports, so it decides; the table remembers the decision for those
//! that follow, and keeps the few that arrive before it. What goes to a backend is not reassembled:
//! overlapping fragments are the receiver's business. An echo request that the director answers itself
//! is, in the same room ([`gather`](FragmentTable::gather)). Everything is bounded, see the constants; one
//! flood fills the table and nothing else. Read first: RFC 791 §3.2, RFC 8200 §4.5, RFC 1858, RFC 5722.

mod assembly;
mod held;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use ahash::RandomState;
use hashbrown::HashMap;

use super::indices::BackendIndex;
use super::time::Timestamp;
use super::verdict::{DropReason, Target};
use crate::packet::{Packet, Version};
use assembly::{Assembly, Fit, Span};
use held::{Chain, HeldFragments};

/// Datagrams whose first fragment was seen; beyond it the oldest is forgotten.
const MAX_DECIDED: usize = 4096;
/// Datagrams whose first fragment, or any one of an echo request, is waited for; beyond it a new one is
/// refused.
const MAX_WAITING: usize = 256;
/// Fragments kept of one datagram: 64 KiB over an Ethernet path, each fragment cut in two by the director's
/// kernel for the smaller MTU of the VIP's route.
const MAX_HELD_PER_DATAGRAM: usize = 128;

/// Linux gives up reassembly after as long (`net.ipv4.ipfrag_time`), so nothing useful follows.
const DECISION_LIFETIME: Duration = Duration::from_secs(30);
/// Reordering in a network is a matter of milliseconds.
const WAIT: Duration = Duration::from_secs(1);

/// What identifies the fragments of one datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct DatagramId {
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
    /// 0 for IPv6, whose fragments may differ in it (RFC 8200 §4.5).
    protocol: u8,
}

impl DatagramId {
    pub(super) fn new(packet: &Packet<'_>, identification: u32) -> Self {
        Self {
            source: packet.source(),
            destination: packet.destination(),
            identification,
            protocol: match packet.meta().version {
                Version::V4 => packet.protocol(),
                Version::V6 => 0,
            },
        }
    }
}

/// Where the fragments of a datagram go, or why they are dropped.
pub(super) type Decision = Result<Target, DropReason>;

#[derive(Debug)]
enum State {
    Decided(Decision),
    Waiting(Chain),
    /// An echo request to be answered, whose first fragment came.
    Gathering(Box<Assembly>),
}

#[derive(Debug)]
struct Datagram {
    state: State,
    /// Tells this datagram from a later one of the same identification.
    since: Timestamp,
}

/// What becomes of a fragment other than the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placement {
    /// As its datagram's first fragment.
    Decided(Decision),
    /// It is kept until that arrives.
    Held,
    /// It is one of an echo request: to be [gathered](FragmentTable::gather).
    Gathering,
}

/// What a fragment of an echo request leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gathered {
    /// It is kept until all others came.
    Held,
    /// It was the last one that was missing.
    Whole {
        /// Fragments that came.
        packets: u64,
        /// The longest one's length in bytes.
        longest: u16,
    },
}

/// The fragments of one worker.
#[derive(Debug)]
pub(super) struct FragmentTable {
    datagrams: HashMap<DatagramId, Datagram, RandomState>,
    /// Both in the order of arrival, so also of expiry. An entry whose datagram was replaced since
    /// is passed over.
    decided: VecDeque<(DatagramId, Timestamp)>,
    waiting: VecDeque<(DatagramId, Timestamp)>,
    waiting_datagrams: usize,
    held: HeldFragments,
    released: VecDeque<(Target, Chain)>,
}

impl FragmentTable {
    pub(super) fn new(seed: [u64; 4]) -> Self {
        let [a, b, c, d] = seed;
        Self {
            datagrams: HashMap::with_hasher(RandomState::with_seeds(d, c, b, a)),
            decided: VecDeque::new(),
            waiting: VecDeque::new(),
            waiting_datagrams: 0,
            held: HeldFragments::default(),
            released: VecDeque::new(),
        }
    }

    /// Whether fragments are kept that [`expire`](Self::expire) may have to give up.
    pub(super) const fn is_holding(&self) -> bool {
        self.waiting_datagrams > 0
    }

    /// How many fragments are kept.
    pub(super) const fn held(&self) -> usize {
        self.held.fragments()
    }

    /// The first fragment of a datagram was decided: those that follow go the same way. Those that
    /// were kept are released where it goes to a backend; where it is dropped they are dropped too,
    /// and this is how many.
    pub(super) fn decide(&mut self, id: DatagramId, decision: Decision, now: Timestamp) -> u64 {
        let datagram = Datagram {
            state: State::Decided(decision),
            since: now,
        };
        let before = self.datagrams.insert(id, datagram);
        self.decided.push_back((id, now));
        if self.decided.len() > MAX_DECIDED {
            self.forget_oldest();
        }
        match (before.map(|datagram| datagram.state), decision) {
            (None | Some(State::Decided(_)), _) => 0,
            (Some(State::Waiting(chain)), Ok(target)) => {
                self.waiting_datagrams -= 1;
                self.released.push_back((target, chain));
                0
            }
            (Some(unfinished), _) => {
                self.waiting_datagrams -= 1;
                self.forget_kept(&unfinished)
            }
        }
    }

    /// Whether a datagram is one that [`gather`](Self::gather) keeps.
    pub(super) fn is_gathering(&self, id: &DatagramId) -> bool {
        let known = self.datagrams.get(id);
        known.is_some_and(|known| matches!(known.state, State::Gathering(_)))
    }

    /// Keeps a fragment of an echo request, from the first one on. When none is missing, the payload of the
    /// datagram is in `message`, and the datagram is forgotten.
    ///
    /// # Errors
    /// Why it is dropped; to be [decided](Self::decide) so of the whole datagram.
    pub(super) fn gather(
        &mut self,
        id: DatagramId,
        (packet, bytes): (&Packet<'_>, &[u8]),
        now: Timestamp,
        message: &mut Vec<u8>,
    ) -> Result<Gathered, DropReason> {
        let span = Span::of(packet).ok_or(DropReason::Malformed)?;
        if !self.is_gathering(&id) {
            self.start_gathering(id, now)?;
        }
        let known = self.datagrams.get_mut(&id).map(|known| &mut known.state);
        let Some(State::Gathering(assembly)) = known else {
            return Err(DropReason::FragmentTableFull);
        };
        let fit = assembly.fit(span);
        match fit {
            Fit::New => keep(&mut self.held, assembly, bytes)?,
            Fit::Repeated => {}
            Fit::Broken => return Err(DropReason::Malformed),
        }
        assembly.count(span, fit, packet.meta().length);
        if !assembly.is_whole() {
            return Ok(Gathered::Held);
        }
        let gathered = Gathered::Whole {
            packets: assembly.packets,
            longest: assembly.longest,
        };
        assembly.make_room(message);
        let mut rest = assembly.chain;
        while let Some(chain) = rest {
            assembly.copy_payload(self.held.first(chain), message);
            rest = self.held.drop_first(chain);
        }
        self.datagrams.remove(&id);
        self.waiting_datagrams -= 1;
        Ok(gathered)
    }

    /// What waited for the first fragment is gathered from now on.
    fn start_gathering(&mut self, id: DatagramId, now: Timestamp) -> Result<(), DropReason> {
        let mut assembly = Box::new(Assembly::new());
        let known = self.datagrams.get_mut(&id);
        if let Some(known) = known
            && let State::Waiting(chain) = known.state
        {
            for bytes in self.held.iter(chain) {
                let packet = Packet::parse(bytes).map_err(|_| DropReason::Malformed)?;
                let span = Span::of(&packet).ok_or(DropReason::Malformed)?;
                let fit = assembly.fit(span);
                if fit == Fit::Broken {
                    return Err(DropReason::Malformed);
                }
                assembly.count(span, fit, packet.meta().length);
            }
            assembly.chain = Some(chain);
            known.state = State::Gathering(assembly);
            return Ok(());
        }
        if self.waiting_datagrams >= MAX_WAITING {
            return Err(DropReason::FragmentTableFull);
        }
        self.begin(id, State::Gathering(assembly), now);
        Ok(())
    }

    /// Places a fragment other than the first; `bytes` are kept where it has to wait.
    ///
    /// # Errors
    /// [`DropReason::FragmentTableFull`] when it would have to wait and there is no room.
    pub(super) fn place(
        &mut self,
        id: DatagramId,
        bytes: &[u8],
        now: Timestamp,
    ) -> Result<Placement, DropReason> {
        if let Some(decision) = self.decision(&id, now) {
            return Ok(Placement::Decided(decision));
        }
        let kept = match self.datagrams.get_mut(&id).map(|known| &mut known.state) {
            Some(State::Waiting(chain)) if chain.length < MAX_HELD_PER_DATAGRAM => {
                self.held.append(chain, bytes)
            }
            Some(State::Waiting(_)) => None,
            Some(State::Gathering(_)) => return Ok(Placement::Gathering),
            Some(State::Decided(_)) | None => self.wait(id, bytes, now),
        };
        kept.map(|()| Placement::Held)
            .ok_or(DropReason::FragmentTableFull)
    }

    /// Whether [`take_released`](Self::take_released) has something to give.
    pub(super) fn has_released(&self) -> bool {
        !self.released.is_empty()
    }

    /// A fragment released by [`decide`](Self::decide), copied to the start of `buffer`, with its
    /// length. One that does not fit the buffer, which holds any packet of the TUN, is cut.
    pub(super) fn take_released(&mut self, buffer: &mut [u8]) -> Option<(Target, usize)> {
        let (target, chain) = self.released.pop_front()?;
        let (length, rest) = self.held.take_first(chain, buffer);
        if let Some(rest) = rest {
            self.released.push_front((target, rest));
        }
        Some((target, length))
    }

    /// Gives up what waited too long and forgets old decisions; `given_up` is told of each datagram its
    /// destination and how many fragments were given up. A datagram is given up whole: without one of its
    /// fragments the others are of no use.
    pub(super) fn expire(&mut self, now: Timestamp, mut given_up: impl FnMut(IpAddr, u64)) {
        while let Some((id, since)) = self
            .waiting
            .pop_front_if(|(_, since)| now.since(*since) >= WAIT)
        {
            if self.is_unfinished(&id, since)
                && let Some(datagram) = self.datagrams.remove(&id)
            {
                self.waiting_datagrams -= 1;
                given_up(id.destination, self.forget_kept(&datagram.state));
            }
        }
        while self
            .decided
            .front()
            .is_some_and(|(_, since)| now.since(*since) >= DECISION_LIFETIME)
        {
            self.forget_oldest();
        }
    }

    /// Gives up what goes to a backend that is gone; `lost` is told how many fragments that were kept are
    /// lost with which. All tables are bounded, so this is a short pause.
    pub(super) fn give_up(
        &mut self,
        is_gone: impl Fn(BackendIndex) -> bool,
        mut lost: impl FnMut(BackendIndex, u64),
    ) {
        for datagram in self.datagrams.values_mut() {
            if let State::Decided(decision) = &mut datagram.state
                && decision.is_ok_and(|target| is_gone(target.backend))
            {
                *decision = Err(DropReason::NoBackend);
            }
        }
        let held = &mut self.held;
        self.released.retain(|&(target, chain)| {
            let gone = is_gone(target.backend);
            if gone {
                held.drop_all(chain);
                lost(target.backend, chain.length as u64);
            }
            !gone
        });
    }

    fn decision(&self, id: &DatagramId, now: Timestamp) -> Option<Decision> {
        match self.datagrams.get(id)? {
            Datagram {
                state: State::Decided(decision),
                since,
            } if now.since(*since) < DECISION_LIFETIME => Some(*decision),
            _ => None,
        }
    }

    /// Keeps the fragment of a datagram that was not waited for yet.
    fn wait(&mut self, id: DatagramId, bytes: &[u8], now: Timestamp) -> Option<()> {
        if self.waiting_datagrams >= MAX_WAITING {
            return None;
        }
        let state = State::Waiting(self.held.start(bytes)?);
        self.begin(id, state, now);
        Some(())
    }

    /// A datagram is unfinished from now on that was not before.
    fn begin(&mut self, id: DatagramId, state: State, now: Timestamp) {
        self.datagrams.insert(id, Datagram { state, since: now });
        self.waiting_datagrams += 1;
        if self.waiting.len() >= 2 * MAX_WAITING {
            self.forget_replaced();
        }
        self.waiting.push_back((id, now));
    }

    /// Datagrams that are decided soon after they began to wait leave their queue entries behind;
    /// removed at half of the queue, that is a constant cost for each.
    fn forget_replaced(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|(id, since)| self.is_unfinished(id, *since));
        self.waiting = waiting;
    }

    fn is_unfinished(&self, id: &DatagramId, since: Timestamp) -> bool {
        let known = self.datagrams.get(id);
        known.is_some_and(|known| known.since == since && !matches!(known.state, State::Decided(_)))
    }

    /// Forgets the fragments that are kept of a datagram; returns how many packets came of it.
    fn forget_kept(&mut self, state: &State) -> u64 {
        let (chain, packets) = match state {
            State::Decided(_) => return 0,
            State::Waiting(chain) => (Some(*chain), chain.length as u64),
            State::Gathering(assembly) => (assembly.chain, assembly.packets),
        };
        if let Some(chain) = chain {
            self.held.drop_all(chain);
        }
        packets
    }

    fn forget_oldest(&mut self) {
        if let Some((id, since)) = self.decided.pop_front()
            && let Some(datagram) = self.datagrams.get(&id)
            && datagram.since == since
            && matches!(datagram.state, State::Decided(_))
        {
            self.datagrams.remove(&id);
        }
    }
}

/// Keeps one more fragment of a datagram.
fn keep(held: &mut HeldFragments, assembly: &mut Assembly, bytes: &[u8]) -> Result<(), DropReason> {
    let kept = match &mut assembly.chain {
        None => held.start(bytes).map(|chain| assembly.chain = Some(chain)),
        Some(chain) if chain.length < MAX_HELD_PER_DATAGRAM => held.append(chain, bytes),
        Some(_) => None,
    };
    kept.ok_or(DropReason::FragmentTableFull)
}

#[cfg(test)]
mod tests;
