//! The fragment table: all fragments of a datagram go where its first one went.
//!
//! Only the first fragment has ports, so it decides; the table remembers the decision for those
//! that follow, and keeps the few that arrive before it. Nothing is reassembled: overlapping
//! fragments are the receiver's business. Everything is bounded, see the constants; one flood fills
//! the table and nothing else. Read first: RFC 791 §3.2, RFC 8200 §4.5, RFC 1858.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use ahash::RandomState;
use hashbrown::HashMap;

use super::time::Timestamp;
use super::verdict::{DropReason, Target};
use crate::packet::{Packet, Version};

/// Datagrams whose first fragment was seen; beyond it the oldest is forgotten.
const MAX_DECIDED: usize = 4096;
/// Datagrams whose first fragment is waited for; beyond it a new one is refused.
const MAX_WAITING: usize = 256;
/// Fragments kept in all, and of one datagram: a 64 KiB datagram over the smallest Ethernet path.
const MAX_HELD: usize = 1024;
const MAX_HELD_PER_DATAGRAM: usize = 64;
/// Bytes kept in all.
const MAX_HELD_BYTES: usize = 1 << 20;

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
    /// How many of the held fragments are its own.
    Waiting(usize),
}

#[derive(Debug)]
struct Datagram {
    state: State,
    /// Tells this datagram from a later one of the same identification.
    since: Timestamp,
}

#[derive(Debug)]
struct Held {
    id: DatagramId,
    since: Timestamp,
    bytes: Vec<u8>,
}

/// What becomes of a fragment other than the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placement {
    /// As its datagram's first fragment.
    Decided(Decision),
    /// It is kept until that arrives.
    Held,
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
    held: VecDeque<Held>,
    held_bytes: usize,
    released: VecDeque<(Decision, Vec<u8>)>,
    /// Buffers to use again.
    spare: Vec<Vec<u8>>,
}

impl FragmentTable {
    pub(super) fn new(seed: [u64; 4]) -> Self {
        let [a, b, c, d] = seed;
        Self {
            datagrams: HashMap::with_hasher(RandomState::with_seeds(d, c, b, a)),
            decided: VecDeque::new(),
            waiting: VecDeque::new(),
            waiting_datagrams: 0,
            held: VecDeque::new(),
            held_bytes: 0,
            released: VecDeque::new(),
            spare: Vec::new(),
        }
    }

    /// Whether fragments are kept that [`expire`](Self::expire) may have to give up.
    pub(super) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// The first fragment of a datagram was decided: those that follow go the same way, those that
    /// were kept are released.
    pub(super) fn decide(&mut self, id: DatagramId, decision: Decision, now: Timestamp) {
        let datagram = Datagram {
            state: State::Decided(decision),
            since: now,
        };
        let before = self.datagrams.insert(id, datagram);
        self.decided.push_back((id, now));
        if let Some(Datagram {
            state: State::Waiting(held),
            ..
        }) = before
        {
            self.waiting_datagrams -= 1;
            self.release(&id, decision, held);
        }
        if self.decided.len() > MAX_DECIDED {
            self.forget_oldest();
        }
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
        let full = DropReason::FragmentTableFull;
        if self.held.len() >= MAX_HELD || self.held_bytes + bytes.len() > MAX_HELD_BYTES {
            return self.decision(&id, now).map(Placement::Decided).ok_or(full);
        }
        if let Some(decision) = self.decision(&id, now) {
            return Ok(Placement::Decided(decision));
        }
        match self.datagrams.get_mut(&id) {
            Some(Datagram {
                state: State::Waiting(held),
                ..
            }) => {
                if *held >= MAX_HELD_PER_DATAGRAM {
                    return Err(full);
                }
                *held += 1;
            }
            _ => {
                if self.waiting_datagrams >= MAX_WAITING {
                    return Err(full);
                }
                self.waiting_datagrams += 1;
                self.waiting.push_back((id, now));
                let state = State::Waiting(1);
                self.datagrams.insert(id, Datagram { state, since: now });
            }
        }
        self.hold(id, bytes, now);
        Ok(Placement::Held)
    }

    /// A fragment released by [`decide`](Self::decide), copied to the start of `buffer`, with its
    /// length. One that does not fit the buffer, which holds any packet of the TUN, is cut.
    pub(super) fn take_released(&mut self, buffer: &mut [u8]) -> Option<(Decision, usize)> {
        let (decision, bytes) = self.released.pop_front()?;
        let length = bytes.len().min(buffer.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        self.recycle(bytes);
        Some((decision, length))
    }

    /// Gives up what waited too long and forgets old decisions; returns how many fragments were
    /// given up.
    pub(super) fn expire(&mut self, now: Timestamp) -> u64 {
        let mut given_up = 0;
        while let Some(held) = self.held.pop_front_if(|held| now.since(held.since) >= WAIT) {
            self.held_bytes -= held.bytes.len();
            self.recycle(held.bytes);
            given_up += 1;
        }
        while let Some((id, since)) = self
            .waiting
            .pop_front_if(|(_, since)| now.since(*since) >= WAIT)
        {
            if self.is_current(&id, since, |state| matches!(state, State::Waiting(_))) {
                self.datagrams.remove(&id);
                self.waiting_datagrams -= 1;
            }
        }
        while self
            .decided
            .front()
            .is_some_and(|(_, since)| now.since(*since) >= DECISION_LIFETIME)
        {
            self.forget_oldest();
        }
        given_up
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

    fn hold(&mut self, id: DatagramId, bytes: &[u8], now: Timestamp) {
        let mut kept = self.spare.pop().unwrap_or_default();
        kept.extend_from_slice(bytes);
        self.held_bytes += bytes.len();
        self.held.push_back(Held {
            id,
            since: now,
            bytes: kept,
        });
    }

    fn release(&mut self, id: &DatagramId, decision: Decision, mut count: usize) {
        let mut at = 0;
        while count > 0 && at < self.held.len() {
            if self.held[at].id != *id {
                at += 1;
                continue;
            }
            if let Some(held) = self.held.remove(at) {
                self.held_bytes -= held.bytes.len();
                self.released.push_back((decision, held.bytes));
                count -= 1;
            }
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((id, since)) = self.decided.pop_front()
            && self.is_current(&id, since, |state| matches!(state, State::Decided(_)))
        {
            self.datagrams.remove(&id);
        }
    }

    fn is_current(
        &self,
        id: &DatagramId,
        since: Timestamp,
        expected: impl Fn(&State) -> bool,
    ) -> bool {
        self.datagrams
            .get(id)
            .is_some_and(|datagram| datagram.since == since && expected(&datagram.state))
    }

    fn recycle(&mut self, mut bytes: Vec<u8>) {
        bytes.clear();
        self.spare.push(bytes);
    }
}
