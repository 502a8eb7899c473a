//! The counters of one worker, which account for every packet.

use std::iter::Sum;
use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicU64, Ordering};

use super::indices::{BackendIndex, VipSeat};
use super::segments::Segments;
use super::snapshot::Snapshot;
use super::verdict::DropReason;

/// What one worker counted. Written by that worker's thread alone, so that no addition needs to be atomic; read
/// by anybody, in any order.
#[derive(Debug)]
pub struct Counters {
    backends: Segments<BackendCounters>,
    vips: Segments<VipCounters>,
    drops: Drops,
    replies: AtomicU64,
    /// The epoch of the snapshot that the worker forwards by.
    adopted: AtomicU64,
}

/// By [`DropReason::number`].
type Drops = [AtomicU64; DropReason::ALL.len()];

#[derive(Debug, Default)]
struct VipCounters {
    drops: Drops,
}

#[derive(Debug, Default)]
struct BackendCounters {
    packets: AtomicU64,
    bytes: AtomicU64,
    untracked: AtomicU64,
    flows: AtomicU64,
    new_flows: AtomicU64,
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
    /// Flows that entered the table.
    pub new_flows: u64,
}

impl Counters {
    /// Zeros, with room for `backends` backends.
    #[must_use]
    pub fn new(backends: usize) -> Self {
        let counters = Self {
            backends: Segments::new(),
            vips: Segments::new(),
            drops: Default::default(),
            replies: AtomicU64::new(0),
            adopted: AtomicU64::new(0),
        };
        counters.backends.reserve(backends);
        counters
    }

    /// The worker forwards by this snapshot from now on. What it counts for VIPs and backends that are not in
    /// it ends before.
    pub(super) fn adopt(&self, snapshot: &Snapshot) {
        self.backends.reserve(snapshot.index_bound());
        self.vips.reserve(snapshot.vip_seats());
        self.adopted.store(snapshot.epoch(), Ordering::Release);
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
            add(&counters.new_flows, 1);
        }
    }

    /// A flow of the table is with another backend from now on.
    pub(super) fn move_flow(&self, from: BackendIndex, to: BackendIndex) {
        self.uncount_flow(from);
        if let Some(counters) = self.backends.get(to.position()) {
            add(&counters.flows, 1);
        }
    }

    /// Takes back the count of a flow that left the table.
    pub(super) fn uncount_flow(&self, backend: BackendIndex) {
        if let Some(counters) = self.backends.get(backend.position()) {
            add(&counters.flows, u64::MAX); // one less
        }
    }

    /// Counts packets dropped together, for the VIP too where it is known.
    pub(super) fn count_drops(&self, vip: Option<VipSeat>, reason: DropReason, packets: u64) {
        add(&self.drops[reason as usize], packets);
        if let Some(counters) = vip.and_then(|vip| self.vips.get(vip.position())) {
            add(&counters.drops[reason as usize], packets);
        }
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

    /// Packets dropped for `reason` that were for the VIP in a seat, and for those that had the seat before.
    #[must_use]
    pub fn vip_dropped(&self, vip: VipSeat, reason: DropReason) -> u64 {
        let counters = self.vips.get(vip.position());
        counters.map_or(0, |counters| {
            counters.drops[reason as usize].load(Ordering::Relaxed)
        })
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
            new_flows: load(&self.new_flows),
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
            new_flows: self.new_flows + other.new_flows,
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
            new_flows: self.new_flows.saturating_sub(other.new_flows),
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

    #[test]
    fn every_reason_has_its_own_counter() {
        let counters = Counters::new(0);
        for reason in DropReason::ALL {
            counters.count_drops(None, reason, 1);
        }
        for reason in DropReason::ALL {
            assert_eq!(counters.dropped(reason), 1, "{}", reason.name());
        }
    }
}
