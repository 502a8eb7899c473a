//! The roster: who holds which [`BackendIndex`], from one snapshot to the next. Control work, never
//! on the packet path.
//!
//! A backend, which is an address behind a service, keeps its index as long as it is configured, so
//! flows and counters outlive a change of anything else. When it leaves, its index is given to
//! another one only after every worker forwards by a snapshot without it and remembers no flow of
//! it; until then the same backend gets it back. A VIP, which is a service, has its seat in the same way,
//! but for flows: nothing refers to it after a snapshot.

mod seats;

use std::net::IpAddr;
use std::sync::Arc;

use super::counters::Counters;
use super::eligible::{Health, takes};
use super::indices::{BackendIndex, VipIndex, VipSeat};
use super::path_mtu::PathMtus;
use super::placement::Placement;
use super::probe_ends::ProbeEnds;
use super::reader::CounterReader;
use super::rings::{BuildRings, NumberedRing, RingId, Rings};
use super::selection::SelectionHash;
use super::services::{Service, Services};
use super::snapshot::{Lane, Place, Snapshot, SnapshotError, Vip};
use super::spec::{FlowLimits, HashKey, Mss, RingSize, VipSpec};
use crate::packet::{Encap, FamilyMismatch};
use seats::{Seated, Seats};

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
    backends: Seats<Identity>,
    vips: Seats<Service>,
    rings: Rings,
    /// By seat, since the VIP has it; none before its first snapshot.
    histories: Vec<Option<RingHistory>>,
    path_mtus: Arc<PathMtus>,
    probe_ends: Arc<ProbeEnds>,
    counters: CounterReader,
    /// Of the last snapshot that was asked for.
    epoch: u64,
    /// The last snapshot that was built; the next one shares what did not change.
    last: Option<Snapshot>,
}

/// What became of a VIP's ring.
#[derive(Debug, Clone, Copy)]
struct RingHistory {
    /// The one of the last snapshot.
    ring: Option<RingId>,
    changes: u64,
}

/// What stays the same of a backend, whatever else changes.
type Identity = (Service, IpAddr);

impl Roster {
    /// A roster whose rings are built this way.
    #[must_use]
    pub fn building_by(build: BuildRings) -> Self {
        Self {
            rings: Rings::built_by(build),
            ..Self::default()
        }
    }

    /// From where this host sends probes by the next [`build`](Self::build).
    pub fn know_probes(&mut self, ends: ProbeEnds) {
        if *self.probe_ends != ends {
            self.probe_ends = Arc::new(ends);
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
            let placement = Placement::new(vip, indices.collect(), takes(vip, &health))?;
            placements.push((self.vip_seat(service), placement));
        }
        self.backends.note_leavers(self.epoch);
        self.vips.note_leavers(self.epoch);
        let sets = placements.iter().map(|(_, placement)| &placement.members);
        self.rings = self.rings.next(&plan.hash_key, plan.ring_size, sets);
        let mut snapshot = self.successor(plan, services);
        for (position, (vip, (seat, placement))) in plan.vips.iter().zip(placements).enumerate() {
            let at = (VipIndex::at(position), seat);
            let ring = self.ring(seat, &placement);
            place(&mut snapshot, at, vip, placement, ring, &mut tunnel)?;
        }
        snapshot.vips.truncate(plan.vips.len());
        self.vacate(&mut snapshot);
        index_addresses(&mut snapshot);
        for vip in &snapshot.vips {
            self.remember(vip);
        }
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
            let known = snapshot.vip(index);
            let (seat, indices) = (known.seat, known.backends.to_vec());
            let placement = Placement::new(vip, indices, takes(vip, &health))?;
            self.rings.add(&placement.members);
            let ring = self.ring(seat, &placement);
            place(
                &mut snapshot,
                (index, seat),
                vip,
                placement,
                ring,
                &mut tunnel,
            )?;
        }
        for &index in changed {
            if let Some(vip) = snapshot.vips.get(index.position()) {
                self.remember(vip);
            }
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
            vip_seats: self.vips.bound(),
            lanes: last.map(|last| last.lanes.clone()).unwrap_or_default(),
            places: last.map(|last| last.places.clone()).unwrap_or_default(),
            by_address: last
                .map(|last| Arc::clone(&last.by_address))
                .unwrap_or_default(),
            selection: SelectionHash::new(&plan.hash_key),
            clamps_mss: last.is_some_and(|last| last.clamps_mss),
            path_mtus: Arc::clone(&self.path_mtus),
            probe_ends: Arc::clone(&self.probe_ends),
        }
    }

    /// Takes the lanes of those who left out of a snapshot.
    fn vacate(&self, snapshot: &mut Snapshot) {
        for number in self.backends.left() {
            snapshot.lanes.set(number as usize, None);
        }
    }

    /// Makes vacant what nothing refers to any more.
    fn reclaim(&mut self) {
        let counters = &self.counters;
        self.backends.reclaim(|number, left| {
            // In this order: a worker that has adopted enters no further flow.
            let index = BackendIndex::new(number);
            counters.is_adopted(left) && counters.counted(index).flows == 0
        });
        self.vips.reclaim(|_, left| counters.is_adopted(left));
    }

    /// The ring of a VIP's backends, and how often the VIP's changed until it is that one.
    fn ring(&self, seat: VipSeat, placement: &Placement) -> (Option<NumberedRing>, u64) {
        let ring = self.rings.of(&placement.members);
        let history = self.histories.get(seat.position()).copied().flatten();
        let changes = history.map_or(0, |history| {
            let is_another = history.ring != ring.as_ref().map(|ring| ring.id);
            history.changes + u64::from(is_another)
        });
        (ring, changes)
    }

    /// A snapshot has this VIP.
    fn remember(&mut self, vip: &Vip) {
        self.histories[vip.seat.position()] = Some(RingHistory {
            ring: vip.ring.as_ref().map(|ring| ring.id),
            changes: vip.ring_changes,
        });
    }

    /// The index of a backend of the snapshot of this epoch.
    fn seat(&mut self, identity: Identity) -> BackendIndex {
        match self.backends.seat(identity, self.epoch) {
            Seated::Known(number) => BackendIndex::new(number),
            Seated::New(number) => {
                let index = BackendIndex::new(number);
                self.counters.begin(index);
                self.path_mtus.reserve(self.backends.bound());
                self.path_mtus.forget(index);
                index
            }
        }
    }

    /// The seat of a VIP of the snapshot of this epoch.
    fn vip_seat(&mut self, service: Service) -> VipSeat {
        match self.vips.seat(service, self.epoch) {
            Seated::Known(number) => VipSeat::new(number),
            Seated::New(number) => {
                let seat = VipSeat::new(number);
                self.counters.begin_vip(seat);
                self.histories.resize(self.vips.bound(), None);
                self.histories[seat.position()] = None;
                seat
            }
        }
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
    (index, seat): (VipIndex, VipSeat),
    spec: &VipSpec,
    placement: Placement,
    (ring, ring_changes): (Option<NumberedRing>, u64),
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
        seat,
        ring_changes,
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
