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
use super::indices::{BackendIndex, VipIndex};
use super::path_mtu::PathMtus;
use super::placement::Placement;
use super::reader::CounterReader;
use super::rings::{BuildRings, NumberedRing, Rings};
use super::selection::SelectionHash;
use super::services::{Service, Services};
use super::snapshot::{Lane, Place, Snapshot, SnapshotError, Vip};
use super::spec::{FlowLimits, HashKey, Mss, RingSize, VipSpec};
use super::verdict::Counters;
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
    counters: CounterReader,
    /// Of the last snapshot that was asked for.
    epoch: u64,
    /// The last snapshot that was built; the next one shares what did not change.
    last: Option<Snapshot>,
}

/// What stays the same of a backend, whatever else changes.
type Identity = (Service, IpAddr);

#[derive(Debug, Clone, Copy)]
struct Holder {
    identity: Identity,
    /// The epoch of the last plan that it was in.
    seen: u64,
    /// The epoch of the first snapshot after that without it.
    left: Option<u64>,
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
        self.counters.attach(worker);
    }

    /// Builds the snapshot that follows the last one. `health` tells what was measured of each
    /// backend of a VIP, `tunnel` gives its outer header. What is as before is shared with the last one.
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
        let services = self.services(plan)?;
        let mut placements = Vec::with_capacity(plan.vips.len());
        for vip in plan.vips {
            let service = Service::of(vip);
            let indices = vip.backends.iter().map(|backend| backend.address);
            let indices = indices.map(|address| self.seat((service, address)));
            placements.push(Placement::new(vip, indices.collect(), takes(vip, &health))?);
        }
        self.note_leavers();
        let sets = placements.iter().map(|placement| &placement.members);
        self.rings = self.rings.next(&plan.hash_key, plan.ring_size, sets);
        let mut snapshot = self.successor(plan, services);
        for (position, (vip, placement)) in plan.vips.iter().zip(placements).enumerate() {
            let ring = self.rings.of(&placement.members);
            let index = VipIndex::at(position);
            place(&mut snapshot, index, vip, placement, ring, &mut tunnel)?;
        }
        snapshot.vips.truncate(plan.vips.len());
        self.vacate(&mut snapshot);
        index_addresses(&mut snapshot);
        self.last = Some(snapshot.clone());
        Ok(snapshot)
    }

    /// Builds the snapshot that follows the last one, which was of this plan too, where only the health of
    /// backends of these VIPs changed, or the tunnels to them: as [`build`](Self::build) would, at the cost of
    /// these VIPs.
    ///
    /// # Errors
    /// As `build`.
    pub fn refresh(
        &mut self,
        plan: &Plan<'_>,
        changed: &[VipIndex],
        health: impl Fn(&VipSpec, IpAddr) -> Health,
        mut tunnel: impl FnMut(&VipSpec, IpAddr) -> Result<Encap, FamilyMismatch>,
    ) -> Result<Snapshot, SnapshotError> {
        let Some(last) = self.last.as_ref() else {
            return self.build(plan, health, tunnel);
        };
        let mut snapshot = last.clone();
        self.epoch += 1;
        snapshot.epoch = self.epoch;
        for &index in changed {
            let Some(vip) = plan.vips.get(index.position()) else {
                continue;
            };
            let indices = snapshot.vip(index).backends.to_vec();
            let placement = Placement::new(vip, indices, takes(vip, &health))?;
            self.rings.add(&placement.members);
            let ring = self.rings.of(&placement.members);
            place(&mut snapshot, index, vip, placement, ring, &mut tunnel)?;
        }
        self.last = Some(snapshot.clone());
        Ok(snapshot)
    }

    /// Reads what the workers count, by the indices of the last snapshot.
    #[must_use]
    pub const fn counters(&self) -> &CounterReader {
        &self.counters
    }

    /// Whether every worker forwards by the snapshot of that epoch, or a later one.
    #[must_use]
    pub fn is_adopted(&self, epoch: u64) -> bool {
        self.counters.is_adopted(epoch)
    }

    /// How many different rings the last snapshot has; VIPs with equal backends share one.
    #[must_use]
    pub fn rings(&self) -> usize {
        self.rings.len()
    }

    /// The services of a plan; those of the last snapshot where they are the same.
    fn services(&self, plan: &Plan<'_>) -> Result<Arc<Services>, SnapshotError> {
        let list: Vec<_> = plan.vips.iter().map(Service::of).collect();
        let last = self.last.as_ref().map(|last| &last.services);
        if let Some(last) = last
            && last.list() == list
        {
            return Ok(Arc::clone(last));
        }
        let before = last.map_or(0, |last| last.generation());
        let generation = before.checked_add(1).unwrap_or(1);
        let duplicate = |position: usize| SnapshotError::DuplicateVip {
            vip: plan.vips[position].name.clone(),
        };
        let services = Services::new(list, generation).map_err(duplicate)?;
        Ok(Arc::new(services))
    }

    /// What follows the last snapshot, with its VIPs and backends yet.
    fn successor(&self, plan: &Plan<'_>, services: Arc<Services>) -> Snapshot {
        let last = self.last.as_ref();
        Snapshot {
            epoch: self.epoch,
            flow_limits: plan.flows,
            services,
            vips: last.map(|last| last.vips.clone()).unwrap_or_default(),
            lanes: last.map(|last| last.lanes.clone()).unwrap_or_default(),
            places: last.map(|last| last.places.clone()).unwrap_or_default(),
            by_address: last
                .map(|last| Arc::clone(&last.by_address))
                .unwrap_or_default(),
            selection: SelectionHash::new(&plan.hash_key),
            clamps_mss: last.is_some_and(|last| last.clamps_mss),
            path_mtus: Arc::clone(&self.path_mtus),
        }
    }

    /// Whoever is not in the plan of this epoch any more has left.
    fn note_leavers(&mut self) {
        for holder in &mut self.holders {
            if holder.seen < self.epoch && holder.left.is_none() {
                holder.left = Some(self.epoch);
            }
        }
    }

    /// Takes the lanes of those who left out of a snapshot.
    fn vacate(&self, snapshot: &mut Snapshot) {
        for (position, holder) in self.holders.iter().enumerate() {
            if holder.left.is_some() {
                snapshot.lanes.set(position, None);
            }
        }
    }

    /// Makes vacant what nothing refers to any more.
    fn reclaim(&mut self) {
        let left = self.indices.values().filter(|index| {
            let left = self.holders[index.position()].left;
            // In this order: a worker that has adopted enters no further flow.
            left.is_some_and(|left| self.is_adopted(left))
                && self.counters.counted(**index).flows == 0
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
        let holder = &mut self.holders[index.position()];
        (holder.seen, holder.left) = (self.epoch, None);
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
            left: None,
        };
        self.counters.begin(index);
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

impl Snapshot {
    /// A snapshot of its own, that none follows, in which every backend is healthy. `tunnel` gives
    /// the outer header for a backend of a VIP.
    ///
    /// # Errors
    /// [`SnapshotError`] for sets that validation of the configuration would have refused.
    pub fn build(
        plan: &Plan<'_>,
        tunnel: impl FnMut(&VipSpec, IpAddr) -> Result<Encap, FamilyMismatch>,
    ) -> Result<Self, SnapshotError> {
        Roster::default().build(plan, |_, _| Health::Healthy, tunnel)
    }
}

/// Brings a VIP and its backends into the snapshot; what is there already is kept.
fn place(
    snapshot: &mut Snapshot,
    index: VipIndex,
    spec: &VipSpec,
    placement: Placement,
    ring: Option<NumberedRing>,
    tunnel: &mut impl FnMut(&VipSpec, IpAddr) -> Result<Encap, FamilyMismatch>,
) -> Result<(), SnapshotError> {
    for (backend, (at, takes)) in spec.backends.iter().zip(placement.seats()) {
        let encap = tunnel(spec, backend.address)?;
        let lane = Lane {
            encap,
            vip: index,
            takes,
        };
        let place = Place {
            address: backend.address,
            state: backend.state,
        };
        snapshot.lanes.set(at.position(), Some(lane));
        snapshot.places.set(at.position(), Some(place));
    }
    snapshot.clamps_mss |= spec.mss == Mss::Clamp;
    let vip = Vip {
        name: spec.name.clone(),
        service: Service::of(spec),
        echo: spec.echo,
        mss: spec.mss,
        index,
        new_flows_per_second: spec.new_flows_per_second,
        hash: spec.hash,
        ring,
        members: placement.member_indices,
        backends: placement.indices.into(),
    };
    match snapshot.vips.get_mut(index.position()) {
        Some(known) if **known == vip => {}
        Some(known) => *known = Arc::new(vip),
        None => snapshot.vips.push(Arc::new(vip)),
    }
    Ok(())
}

/// Sorts the backends by their addresses, if they are not those of the snapshot before.
fn index_addresses(snapshot: &mut Snapshot) {
    let backends = snapshot.backends();
    let mut sorted: Vec<_> = backends
        .map(|(index, backend)| (backend.address, index))
        .collect();
    sorted.sort_unstable();
    if *snapshot.by_address != *sorted {
        snapshot.by_address = sorted.into();
    }
}

#[cfg(test)]
mod tests;
