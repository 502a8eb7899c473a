//! The counters of one worker, which account for every packet.

mod bursts;
mod send_errno;
mod traffic;

use std::sync::atomic::{AtomicU64, Ordering};

pub use bursts::{BURST_SIZES, Bursts};
pub use send_errno::SendErrno;
pub use traffic::Traffic;

use super::flow_class::FlowClass;

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
    /// By the order of [`SendErrno::ALL`].
    send_errors: [AtomicU64; SendErrno::ALL.len()],
    /// By the order of [`FlowClass::ALL`].
    evictions: [AtomicU64; FlowClass::ALL.len()],
    /// By the order of [`BURST_SIZES`].
    bursts: [AtomicU64; BURST_SIZES.len()],
    burst_packets: AtomicU64,
    flows: AtomicU64,
    flow_bound: AtomicU64,
    fragments_held: AtomicU64,
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
    established: AtomicU64,
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
            send_errors: Default::default(),
            evictions: Default::default(),
            bursts: Default::default(),
            burst_packets: AtomicU64::new(0),
            flows: AtomicU64::new(0),
            flow_bound: AtomicU64::new(0),
            fragments_held: AtomicU64::new(0),
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

    /// Counts a flow that entered a table which is shared.
    pub(super) fn count_new_flow(&self, backend: BackendIndex) {
        if let Some(counters) = self.backends.get(backend.position()) {
            add(&counters.new_flows, 1);
        }
    }

    /// Takes over what another data path counted so far for a backend: all of it, each time.
    pub fn tell_traffic(&self, backend: BackendIndex, traffic: &Traffic) {
        if let Some(counters) = self.backends.get(backend.position()) {
            for (counter, value) in [
                (&counters.packets, traffic.packets),
                (&counters.bytes, traffic.bytes),
                (&counters.untracked, traffic.untracked),
                (&counters.flows, traffic.flows),
                (&counters.new_flows, traffic.new_flows),
                (&counters.established, traffic.established),
            ] {
                counter.store(value, Ordering::Relaxed);
            }
        }
    }

    /// Takes over how many packets for the VIP in a seat another data path dropped so far: all of them, each
    /// time.
    pub fn tell_drops(&self, vip: VipSeat, reason: DropReason, packets: u64) {
        if let Some(counters) = self.vips.get(vip.position()) {
            let before = counters.drops[reason as usize].swap(packets, Ordering::Relaxed);
            add(&self.drops[reason as usize], packets.wrapping_sub(before));
        }
    }

    /// Takes over how many flows another data path's table has, and may have.
    pub fn tell_flows(&self, flows: u64, bound: u64) {
        self.flows.store(flows, Ordering::Relaxed);
        self.flow_bound.store(bound, Ordering::Relaxed);
    }

    /// Another data path forwards by this snapshot from now on.
    pub fn follow(&self, snapshot: &Snapshot) {
        self.adopt(snapshot);
    }

    /// Counts a flow whose client got an answer.
    pub(super) fn count_established(&self, backend: BackendIndex) {
        if let Some(counters) = self.backends.get(backend.position()) {
            add(&counters.established, 1);
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

    /// Counts a packet that the kernel did not take.
    pub fn count_send_error(&self, errno: SendErrno) {
        add(&self.send_errors[errno as usize], 1);
    }

    /// Packets that the kernel did not take for this reason.
    #[must_use]
    pub fn send_errors(&self, errno: SendErrno) -> u64 {
        self.send_errors[errno as usize].load(Ordering::Relaxed)
    }

    /// Counts a flow of a class that made room for another one.
    pub(super) fn count_eviction(&self, class: FlowClass) {
        add(&self.evictions[class as usize], 1);
    }

    /// Flows of a class that made room for others, because the table, or the part for flows of one packet, was
    /// full.
    #[must_use]
    pub fn evicted(&self, class: FlowClass) -> u64 {
        self.evictions[class as usize].load(Ordering::Relaxed)
    }

    /// Counts a burst by the packets that were read; one without any is none.
    pub fn count_burst(&self, packets: usize) {
        if let Some(size) = bursts::size(packets) {
            add(&self.bursts[size], 1);
            add(&self.burst_packets, packets as u64);
        }
    }

    /// The bursts that were read.
    #[must_use]
    pub fn bursts(&self) -> Bursts {
        Bursts {
            of_size: std::array::from_fn(|size| self.bursts[size].load(Ordering::Relaxed)),
            packets: self.burst_packets.load(Ordering::Relaxed),
        }
    }

    /// What the worker keeps now: flows in its table, and fragments that wait.
    pub(super) fn tell_kept(&self, flows: usize, fragments: usize) {
        self.flows.store(flows as u64, Ordering::Relaxed);
        self.fragments_held
            .store(fragments as u64, Ordering::Relaxed);
    }

    /// How many flows its table may have from now on.
    pub(super) fn tell_flow_bound(&self, bound: usize) {
        self.flow_bound.store(bound as u64, Ordering::Relaxed);
    }

    /// Flows in the worker's table, as of its last burst or expiry.
    #[must_use]
    pub fn flows(&self) -> u64 {
        self.flows.load(Ordering::Relaxed)
    }

    /// Flows that its table may have.
    #[must_use]
    pub fn flow_bound(&self) -> u64 {
        self.flow_bound.load(Ordering::Relaxed)
    }

    /// Fragments that wait for others of their datagrams, as of its last burst or expiry.
    #[must_use]
    pub fn fragments_held(&self) -> u64 {
        self.fragments_held.load(Ordering::Relaxed)
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
            established: load(&self.established),
        }
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
