//! What the workers forward by, as control publishes it and workers take it over.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::director::{Roster, Snapshot};

/// A snapshot and what its packets need.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) snapshot: Arc<Snapshot>,
    /// The longest packet that the TUN may hand over from now on, in bytes.
    pub(crate) longest: usize,
}

/// Where the workers and the other readers find the current snapshot.
pub(crate) type Current = Arc<ArcSwap<Published>>;

/// Control's side: publishes, and keeps replaced snapshots until no worker reads them.
#[derive(Debug)]
pub(crate) struct Publisher {
    current: Current,
    /// Kept so that it is freed here: a worker would pause over a large one.
    replaced: Vec<Arc<Snapshot>>,
}

impl Publisher {
    pub(crate) fn new(first: Published) -> Self {
        Self {
            current: Arc::new(ArcSwap::from_pointee(first)),
            replaced: Vec::new(),
        }
    }

    pub(crate) const fn current(&self) -> &Current {
        &self.current
    }

    /// The longest packet that the workers have room for, in bytes.
    pub(crate) fn longest(&self) -> usize {
        self.current.load().longest
    }

    /// Makes `next` what holds from now on.
    pub(crate) fn publish(&mut self, next: Published) {
        let before = self.current.swap(Arc::new(next));
        self.replaced.push(Arc::clone(&before.snapshot));
    }

    /// Frees what every worker has given up.
    pub(crate) fn free(&mut self, roster: &Roster) {
        self.replaced
            .retain(|snapshot| !roster.is_adopted(snapshot.epoch() + 1));
    }
}
