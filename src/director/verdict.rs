//! What becomes of a packet, and the counters that account for every one.

use std::iter::Sum;
use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicU64, Ordering};

use super::indices::BackendIndex;
use super::segments::Segments;
use crate::packet::{Entropy, Meta, Outgoing, Piece};

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to a backend, once encapsulated.
    Forward(Forward),
    /// The director answers its sender ([`replies`](super::Director::replies)).
    Reply(ReplyRange),
    /// It waits: a fragment for its datagram's first one or for the rest of an echo request, or a packet for
    /// another worker's [`Answer`](super::Answer).
    Hold,
    /// It goes nowhere; already counted.
    Drop(DropReason),
}

/// Which packets among the answers of a burst are the answer to one of its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyRange {
    pub(super) first: usize,
    pub(super) end: usize,
}

/// A packet on its way to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Where it goes.
    pub backend: BackendIndex,
    /// What the outer header copies of it.
    pub meta: Meta,
    /// What differs in the outer header from packet to packet.
    pub entropy: Entropy,
}

impl Forward {
    /// The packet in `frame` of a burst, as an egress takes it.
    #[must_use]
    pub const fn outgoing(&self, frame: usize) -> Outgoing {
        Outgoing {
            frame,
            piece: Piece::Whole,
            tunnel: self.backend.tunnel(),
            meta: self.meta,
            entropy: self.entropy,
        }
    }
}

/// Where the packets of a flow go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The backend.
    pub backend: BackendIndex,
    /// The flow's hash, from which the outer header takes its entropy; 0 where it takes none.
    pub flow_hash: u64,
}

/// Why a packet was dropped. The names are the same in every output; the numbers are those of counters that
/// other programs share, so none is ever given anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// Its headers do not fit its bytes.
    Malformed = 0,
    /// No VIP has its destination address, port and protocol.
    NoVip = 1,
    /// Its VIP has no backend that takes flows.
    NoBackend = 2,
    /// Addressed to a VIP, but nothing that is balanced.
    UnsupportedProtocol = 3,
    /// A fragment whose datagram's first one, or the rest of its echo request, did not come in time.
    FragmentTimeout = 4,
    /// A fragment that had to wait where no room is left.
    FragmentTableFull = 5,
    /// An ICMP error for a VIP about nothing that can be found.
    IcmpNoFlow = 6,
    /// Too long once encapsulated, or for the path to its backend.
    TooBig = 7,
    /// An answer was due, but too many were sent already.
    RateLimited = 8,
    /// The kernel did not take the outer packet.
    SendFailed = 9,
}

impl DropReason {
    /// Every reason, in the order of the outputs.
    pub const ALL: [Self; 10] = [
        Self::Malformed,
        Self::NoVip,
        Self::NoBackend,
        Self::UnsupportedProtocol,
        Self::FragmentTimeout,
        Self::FragmentTableFull,
        Self::IcmpNoFlow,
        Self::TooBig,
        Self::RateLimited,
        Self::SendFailed,
    ];

    /// The number of its counter wherever drops are counted.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The name in every output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoVip => "no_vip",
            Self::NoBackend => "no_backend",
            Self::UnsupportedProtocol => "unsupported_protocol",
            Self::FragmentTimeout => "fragment_timeout",
            Self::FragmentTableFull => "fragment_table_full",
            Self::IcmpNoFlow => "icmp_no_flow",
            Self::TooBig => "too_big",
            Self::RateLimited => "rate_limited",
            Self::SendFailed => "send_failed",
        }
    }
}

/// What one worker counted. Written by that worker's thread alone, so that no addition needs to be atomic; read
/// by anybody, in any order.
#[derive(Debug)]
pub struct Counters {
    backends: Segments<BackendCounters>,
    drops: [AtomicU64; DropReason::ALL.len()],
    replies: AtomicU64,
    /// The epoch of the snapshot that the worker forwards by.
    adopted: AtomicU64,
}

#[derive(Debug, Default)]
struct BackendCounters {
    packets: AtomicU64,
    bytes: AtomicU64,
    untracked: AtomicU64,
    flows: AtomicU64,
}

/// What one backend got; all of it only grows, but the flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Packets that left for it.
    pub packets: u64,
    /// Their inner bytes, without the outer headers.
    pub bytes: u64,
    /// Packets that the ring alone chose it for, beyond their VIP's
    /// [`new_flows_per_second`](super::VipSpec::new_flows_per_second).
    pub untracked: u64,
    /// Flows in the table now.
    pub flows: u64,
}

impl Counters {
    /// Zeros, with room for `backends` backends.
    #[must_use]
    pub fn new(backends: usize) -> Self {
        let counters = Self {
            backends: Segments::new(),
            drops: Default::default(),
            replies: AtomicU64::new(0),
            adopted: AtomicU64::new(0),
        };
        counters.backends.reserve(backends);
        counters
    }

    /// The worker forwards by the snapshot of this epoch from now on, which has indices below
    /// `backends`. What it counts for backends that are not in it ends before.
    pub(super) fn adopt(&self, epoch: u64, backends: usize) {
        self.backends.reserve(backends);
        self.adopted.store(epoch, Ordering::Release);
    }

    /// The epoch of the snapshot that the worker forwards by.
    #[must_use]
    pub fn adopted(&self) -> u64 {
        self.adopted.load(Ordering::Acquire)
    }

    /// Counts a packet of `bytes` inner bytes that left for a backend.
    pub fn count_sent(&self, backend: BackendIndex, bytes: usize) {
        if let Some(counters) = self.backends.get(backend.position()) {
            add(&counters.packets, 1);
            add(&counters.bytes, bytes as u64);
        }
    }

    /// Counts a packet that the ring chose a backend for, without a flow that remembers it.
    pub(super) fn count_untracked(&self, backend: BackendIndex) {
        if let Some(counters) = self.backends.get(backend.position()) {
            add(&counters.untracked, 1);
        }
    }

    /// Counts a flow that entered the table.
    pub(super) fn count_flow(&self, backend: BackendIndex) {
        if let Some(counters) = self.backends.get(backend.position()) {
            add(&counters.flows, 1);
        }
    }

    /// Takes back the count of a flow that left the table.
    pub(super) fn uncount_flow(&self, backend: BackendIndex) {
        if let Some(counters) = self.backends.get(backend.position()) {
            add(&counters.flows, u64::MAX); // one less
        }
    }

    /// Counts a dropped packet.
    pub fn count_drop(&self, reason: DropReason) {
        self.count_drops(reason, 1);
    }

    /// Counts packets dropped together.
    pub fn count_drops(&self, reason: DropReason, packets: u64) {
        add(&self.drops[reason as usize], packets);
    }

    /// Counts packets that the director answered itself.
    pub(super) fn count_replies(&self, packets: u64) {
        add(&self.replies, packets);
    }

    /// Packets that the director answered itself.
    #[must_use]
    pub fn replied(&self) -> u64 {
        self.replies.load(Ordering::Relaxed)
    }

    /// What the backend at `index` got.
    #[must_use]
    pub fn traffic(&self, index: BackendIndex) -> Traffic {
        self.backends
            .get(index.position())
            .map(BackendCounters::read)
            .unwrap_or_default()
    }

    /// What all backends got together, those that have left among them.
    #[must_use]
    pub fn all_traffic(&self) -> Traffic {
        self.backends.iter().map(BackendCounters::read).sum()
    }

    /// Packets dropped for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].load(Ordering::Relaxed)
    }
}

/// Adds to a counter that no other thread writes, modulo 2⁶⁴.
fn add(counter: &AtomicU64, more: u64) {
    let sum = counter.load(Ordering::Relaxed).wrapping_add(more);
    counter.store(sum, Ordering::Relaxed);
}

impl BackendCounters {
    fn read(&self) -> Traffic {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            packets: load(&self.packets),
            bytes: load(&self.bytes),
            untracked: load(&self.untracked),
            flows: load(&self.flows),
        }
    }
}

impl Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
            untracked: self.untracked + other.untracked,
            flows: self.flows + other.flows,
        }
    }
}

impl Sub for Traffic {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            packets: self.packets.saturating_sub(other.packets),
            bytes: self.bytes.saturating_sub(other.bytes),
            untracked: self.untracked.saturating_sub(other.untracked),
            flows: self.flows.saturating_sub(other.flows),
        }
    }
}

impl Sum for Traffic {
    fn sum<I: Iterator<Item = Self>>(traffic: I) -> Self {
        traffic.fold(Self::default(), Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counters of other programs have these numbers: an added reason gets the next one.
    #[test]
    fn reasons_are_numbered_for_good() {
        let numbered = [
            (0, "malformed"),
            (1, "no_vip"),
            (2, "no_backend"),
            (3, "unsupported_protocol"),
            (4, "fragment_timeout"),
            (5, "fragment_table_full"),
            (6, "icmp_no_flow"),
            (7, "too_big"),
            (8, "rate_limited"),
            (9, "send_failed"),
        ];
        let found = DropReason::ALL.map(|reason| (reason.number(), reason.name()));
        assert_eq!(found, numbered);
    }

    #[test]
    fn every_reason_has_its_own_counter() {
        let counters = Counters::new(0);
        for reason in DropReason::ALL {
            counters.count_drop(reason);
        }
        for reason in DropReason::ALL {
            assert_eq!(counters.dropped(reason), 1, "{}", reason.name());
        }
    }
}
