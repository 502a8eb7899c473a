//! Reading what the workers count: of each backend since it holds its index. A clone is cheap, and may be read by
//! another thread while the roster goes on.

use std::sync::Arc;

use super::counters::{Counters, Traffic};
use super::indices::BackendIndex;
use super::verdict::DropReason;

/// Reads the counters of all workers.
#[derive(Debug, Clone, Default)]
pub struct CounterReader {
    workers: Arc<Vec<Arc<Counters>>>,
    /// By index, what was counted for those who held it before.
    before: Arc<Vec<Traffic>>,
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

    /// Counted for whoever held the index.
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
