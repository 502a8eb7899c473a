//! The roster: who holds which [`BackendIndex`], from one snapshot to the next. Control work, never
//! on the packet path.
//!
//! A backend, which is an address behind a service, keeps its index as long as it is configured, so
//! flows and counters outlive a change of anything else. When it leaves, its index is given to
//! another one only after every worker forwards by a snapshot without it and remembers no flow of
//! it; until then the same backend gets it back.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::eligible::{Health, takes};
use super::path_mtu::PathMtus;
use super::rings::{BuildRings, Rings};
use super::snapshot::{BackendIndex, Placement, Service, Snapshot, SnapshotError};
use super::spec::{FlowLimits, HashKey, RingSize, VipSpec};
use super::verdict::{Counters, Traffic};
use crate::packet::{Encap, FamilyMismatch};

/// What a snapshot is built from.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// The VIPs.
    pub vips: &'a [VipSpec],
    /// The secret of the selection hash.
    pub hash_key: HashKey,
    /// Slots of each ring.
    pub ring_size: RingSize,
    /// How many flows are remembered, and how long.
    pub flows: FlowLimits,
}

/// Builds snapshots that follow one another.
#[derive(Debug, Default)]
pub struct Roster {
    indices: HashMap<Identity, BackendIndex>,
    /// By index.
    holders: Vec<Holder>,
    vacant: Vec<BackendIndex>,
    rings: Rings,
    path_mtus: Arc<PathMtus>,
    workers: Vec<Arc<Counters>>,
    epoch: u64,
}

/// What stays the same of a backend, whatever else changes.
type Identity = (Service, IpAddr);

#[derive(Debug, Clone, Copy)]
struct Holder {
    identity: Identity,
    /// The epoch of the last snapshot that it was in.
    seen: u64,
    /// Counted for those who held the index before.
    before: Traffic,
}

impl Roster {
    /// A roster whose rings are built this way.
    #[must_use]
    pub fn building_by(build: BuildRings) -> Self {
        Self {
            rings: Rings::built_by(build),
            ..Self::default()
        }
    }

    /// From now on the counts of this worker tell whether an index is still in use.
    pub fn attach(&mut self, worker: Arc<Counters>) {
        self.workers.push(worker);
    }

    /// Builds the snapshot that follows the last one. `health` tells what was measured of each
    /// backend of a VIP, `tunnel` gives its outer header.
    ///
    /// # Errors
    /// [`SnapshotError`] for sets that validation of the configuration would have refused.
    pub fn build(
        &mut self,
        plan: &Plan<'_>,
        health: impl Fn(&VipSpec, IpAddr) -> Health,
        mut tunnel: impl FnMut(&VipSpec, IpAddr) -> Result<Encap, FamilyMismatch>,
    ) -> Result<Snapshot, SnapshotError> {
        self.reclaim();
        self.epoch += 1;
        let mut placements = Vec::with_capacity(plan.vips.len());
        for vip in plan.vips {
            let service = Service::of(vip);
            let indices = vip.backends.iter().map(|backend| backend.address);
            let indices = indices.map(|address| self.seat((service, address)));
            placements.push(Placement::new(vip, indices.collect(), takes(vip, &health))?);
        }
        let sets = placements.iter().map(|placement| &placement.members);
        self.rings = self.rings.next(&plan.hash_key, plan.ring_size, sets);
        let path_mtus = Arc::clone(&self.path_mtus);
        let mut snapshot = Snapshot::empty(self.epoch, plan, path_mtus, self.addresses());
        for (vip, placement) in plan.vips.iter().zip(placements) {
            let ring = self.rings.of(&placement.members);
            snapshot.add(vip, placement, ring, &mut tunnel)?;
        }
        Ok(snapshot.finish())
    }

    /// What all workers counted for the backend that holds `index`.
    #[must_use]
    pub fn traffic(&self, index: BackendIndex) -> Traffic {
        let holder = self.holders.get(index.position());
        let before = holder.map(|holder| holder.before).unwrap_or_default();
        self.counted(index) - before
    }

    /// What all workers counted for all backends, those that left among them.
    #[must_use]
    pub fn all_traffic(&self) -> Traffic {
        let workers = self.workers.iter();
        workers.map(|worker| worker.all_traffic()).sum()
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

    /// How many different rings the last snapshot has; VIPs with equal backends share one.
    #[must_use]
    pub fn rings(&self) -> usize {
        self.rings.len()
    }

    fn counted(&self, index: BackendIndex) -> Traffic {
        let workers = self.workers.iter();
        workers.map(|worker| worker.traffic(index)).sum()
    }

    /// By index, who holds it or held it last.
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.holders.iter().map(|holder| holder.identity.1)
    }

    /// Makes vacant what nothing refers to any more.
    fn reclaim(&mut self) {
        let left = self.indices.values().filter(|index| {
            let Holder { seen, .. } = self.holders[index.position()];
            // In this order: a worker that has adopted enters no further flow.
            seen < self.epoch && self.is_adopted(seen + 1) && self.counted(**index).flows == 0
        });
        let mut left: Vec<_> = left.copied().collect();
        left.sort_unstable(); // a map has no order, and runs should be alike
        for index in &left {
            self.indices
                .remove(&self.holders[index.position()].identity);
        }
        self.vacant.extend(left);
    }

    /// The index of a backend of the snapshot of this epoch.
    fn seat(&mut self, identity: Identity) -> BackendIndex {
        let known = self.indices.get(&identity).copied();
        let index = known.unwrap_or_else(|| self.vacancy(identity));
        self.holders[index.position()].seen = self.epoch;
        index
    }

    fn vacancy(&mut self, identity: Identity) -> BackendIndex {
        let index = self.vacant.pop().unwrap_or_else(|| {
            let last = u32::try_from(self.holders.len()).unwrap_or(u32::MAX);
            BackendIndex::new(last)
        });
        let holder = Holder {
            identity,
            seen: self.epoch,
            before: self.counted(index),
        };
        match self.holders.get_mut(index.position()) {
            Some(vacant) => *vacant = holder,
            None => self.holders.push(holder),
        }
        self.path_mtus.reserve(self.holders.len());
        self.path_mtus.forget(index);
        self.indices.insert(identity, index);
        index
    }
}

#[cfg(test)]
mod tests;
