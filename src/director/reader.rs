//! Reading what the workers count: of each backend since it holds its index. A clone is cheap, and may be read by
//! another thread while the roster goes on.

use std::sync::Arc;

use super::counters::{Bursts, Counters, SendErrno, Traffic};
use super::flow_class::FlowClass;
use super::indices::{BackendIndex, VipSeat};
use super::verdict::DropReason;

/// By [`DropReason::number`].
type Drops = [u64; DropReason::ALL.len()];

/// Reads the counters of all workers.
#[derive(Debug, Clone, Default)]
pub struct CounterReader {
    workers: Arc<Vec<Arc<Counters>>>,
    /// By index, what was counted for those who held it before.
    before: Arc<Vec<Traffic>>,
    /// By seat, the drops of VIPs that had it before.
    drops_before: Arc<Vec<Drops>>,
}

impl CounterReader {
    pub(super) fn attach(&mut self, worker: Arc<Counters>) {
        Arc::make_mut(&mut self.workers).push(worker);
    }

    /// What is counted for `index` from now on is its new holder's.
    pub(super) fn begin(&mut self, index: BackendIndex) {
        let counted = self.counted(index);
        let before = Arc::make_mut(&mut self.before);
        if before.len() <= index.position() {
            before.resize(index.position() + 1, Traffic::default());
        }
        before[index.position()] = counted;
    }

    /// What is counted for the VIP in `seat` from now on is its new holder's.
    pub(super) fn begin_vip(&mut self, seat: VipSeat) {
        let counted = DropReason::ALL.map(|reason| self.counted_drops(seat, reason));
        let before = Arc::make_mut(&mut self.drops_before);
        if before.len() <= seat.position() {
            before.resize(seat.position() + 1, Drops::default());
        }
        before[seat.position()] = counted;
    }

    /// Counted for whichever VIP had the seat.
    fn counted_drops(&self, seat: VipSeat, reason: DropReason) -> u64 {
        let workers = self.workers.iter();
        workers.map(|worker| worker.vip_dropped(seat, reason)).sum()
    }

    /// Packets for the VIP that has `seat` which all workers dropped for `reason`, as far as their VIP was
    /// known: of those malformed, and of those for no VIP, it never is.
    #[must_use]
    pub fn vip_drops(&self, seat: VipSeat, reason: DropReason) -> u64 {
        let before = self.drops_before.get(seat.position());
        let before = before.map_or(0, |drops| drops[reason as usize]);
        self.counted_drops(seat, reason).saturating_sub(before)
    }

    /// The traffic counted at an index, of all its holders.
    pub(super) fn counted(&self, index: BackendIndex) -> Traffic {
        let workers = self.workers.iter();
        workers.map(|worker| worker.traffic(index)).sum()
    }

    /// What all workers counted for the backend that holds `index`.
    #[must_use]
    pub fn traffic(&self, index: BackendIndex) -> Traffic {
        let before = self.before.get(index.position());
        self.counted(index) - before.copied().unwrap_or_default()
    }

    /// What all workers counted for all backends, those that left among them.
    #[must_use]
    pub fn all_traffic(&self) -> Traffic {
        let workers = self.workers.iter();
        workers.map(|worker| worker.all_traffic()).sum()
    }

    /// Packets that all workers dropped for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        let workers = self.workers.iter();
        workers.map(|worker| worker.dropped(reason)).sum()
    }

    /// Packets that the director answered itself.
    #[must_use]
    pub fn replied(&self) -> u64 {
        let workers = self.workers.iter();
        workers.map(|worker| worker.replied()).sum()
    }

    /// Packets that the kernel did not take from the workers for this reason.
    #[must_use]
    pub fn send_errors(&self, errno: SendErrno) -> u64 {
        let workers = self.workers.iter();
        workers.map(|worker| worker.send_errors(errno)).sum()
    }

    /// Flows of a class that made room for others.
    #[must_use]
    pub fn evicted(&self, class: FlowClass) -> u64 {
        let workers = self.workers.iter();
        workers.map(|worker| worker.evicted(class)).sum()
    }

    /// The bursts that all workers read.
    #[must_use]
    pub fn bursts(&self) -> Bursts {
        self.workers.iter().map(|worker| worker.bursts()).sum()
    }

    /// Flows in the tables of all workers.
    #[must_use]
    pub fn flows(&self) -> u64 {
        self.workers.iter().map(|worker| worker.flows()).sum()
    }

    /// Flows that those may have together.
    #[must_use]
    pub fn flow_bound(&self) -> u64 {
        self.workers.iter().map(|worker| worker.flow_bound()).sum()
    }

    /// Fragments that wait for others of their datagrams.
    #[must_use]
    pub fn fragments_held(&self) -> u64 {
        let workers = self.workers.iter();
        workers.map(|worker| worker.fragments_held()).sum()
    }

    /// The workers' counters.
    #[must_use]
    pub fn workers(&self) -> &[Arc<Counters>] {
        &self.workers
    }

    /// Whether every worker forwards by the snapshot of that epoch, or a later one.
    #[must_use]
    pub fn is_adopted(&self, epoch: u64) -> bool {
        self.workers.iter().all(|worker| worker.adopted() >= epoch)
    }
}
