//! Brings a snapshot into the maps of the program, and then what differs in each that follows.
//!
//! A packet finds a VIP by one word, the number of its row; the row, its ring and its members are never changed
//! while that word leads to them, so a packet sees them as they were or as they are, and nothing in between. What
//! nothing leads to any more is used again only when every packet that may still read it is through. A backend's
//! row is changed in place, and a packet that reads it meanwhile notices.

use std::collections::HashMap;
use std::io;
use std::num::NonZeroU16;
use std::sync::Arc;

use aya::maps::MapError;

use super::pool::Pool;
use crate::director::{
    BackendIndex, FlowClass, FlowTimeouts, HashFields, Mss, PortMatch, Ring, RingId, Service,
    Snapshot, Takes, Timestamp, Update, VipRow,
};
use crate::io::sys::wait_for_programs;
use crate::io::xdp::layout::{self, BLOCK, LaneRow, Port, Settings, tick_of};
use crate::io::xdp::{MapTables, Sizes};

/// Why a snapshot cannot be brought into the maps.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// There are more rows than when the maps were made, by much.
    #[error("no room for so many {0} in the maps of the XDP program; a restart makes them larger")]
    Full(&'static str),
    /// The kernel's.
    #[error("cannot write a map of the XDP program: {0}")]
    Map(#[from] MapError),
    /// The kernel's.
    #[error("cannot wait for packets in the XDP program: {0}")]
    Wait(#[from] io::Error),
}

/// How many rows the maps for a director that begins with this snapshot should have: room for as much again as
/// there is, and some.
#[must_use]
pub fn sizes(snapshot: &Snapshot, cpus: usize) -> Sizes {
    let rings: usize = rings(snapshot).values().map(|ring| blocks(ring)).sum();
    let largest = rings_blocks_largest(snapshot);
    let members: usize = snapshot.vips().iter().map(|vip| vip.members().len()).sum();
    let flows = snapshot.flow_limits().bound.get();
    let number = |rows: usize| u32::try_from(rows).unwrap_or(u32::MAX);
    Sizes {
        services: number(snapshot.vips().len() * 2 + 1024),
        vips: number(snapshot.vips().len() * 3 + 1024),
        blocks: number(rings + rings / 2 + 64 * largest),
        members: number(members * 3 + (1 << 14)),
        backends: number(snapshot.index_bound() * 2 + 1024),
        seats: number(snapshot.vip_seats() * 2 + 1024),
        flows: number(flows.max(LEAST_FLOWS)),
        first_flows: number((flows / 4).max(LEAST_FLOWS)),
        cpus: number(cpus),
    }
}

/// The kernel takes free rows of such a map in batches for each CPU, so a small one would forget early.
const LEAST_FLOWS: usize = 1 << 13;

fn rings(snapshot: &Snapshot) -> HashMap<RingId, &Ring> {
    let rings = snapshot.vips().iter().filter_map(|vip| vip.ring());
    rings.collect()
}

fn rings_blocks_largest(snapshot: &Snapshot) -> usize {
    let rings = rings(snapshot);
    let slots = rings.values().map(|ring| ring.size().slots() as usize);
    (slots.max().unwrap_or(1 << 16) * 2).div_ceil(BLOCK)
}

/// As the map has them: one byte for each slot where that is enough for all.
fn slots(ring: &Ring) -> (Vec<u8>, bool) {
    let slots = (0..u64::from(ring.size().slots())).map(|slot| ring.backend(ring.slot(slot)));
    let slots: Vec<u16> = slots.collect();
    let narrow: Result<Vec<u8>, _> = slots.iter().map(|&slot| u8::try_from(slot)).collect();
    match narrow {
        Ok(bytes) => (bytes, false),
        Err(_) => (
            slots.iter().flat_map(|slot| slot.to_ne_bytes()).collect(),
            true,
        ),
    }
}

fn blocks(ring: &Ring) -> usize {
    slots(ring).0.len().div_ceil(BLOCK)
}

/// A ring in the maps.
#[derive(Debug, Clone, Copy)]
struct Placed {
    block: u32,
    blocks: u32,
    slots: u32,
    is_wide: bool,
}

/// A VIP in the maps.
#[derive(Debug, Clone, Copy)]
struct Seated {
    row: u32,
    members: u32,
    count: u32,
    seat: u32,
}

/// What nothing leads to any more.
#[derive(Debug, Default)]
struct Leftovers {
    vips: Vec<Seated>,
    rings: Vec<Placed>,
}

/// The maps, and what is in them.
#[derive(Debug)]
pub struct Fill {
    maps: MapTables,
    sizes: Sizes,
    settings: Settings,
    before: Option<Arc<Snapshot>>,
    vips: HashMap<Service, Seated>,
    rings: HashMap<RingId, Placed>,
    lanes: Vec<Option<LaneRow>>,
    vip_rows: Pool,
    blocks: Pool,
    members: Pool,
}

impl Fill {
    /// Maps with nothing in them; outer packets are numbered by `workers` and then by the program's CPUs.
    #[must_use]
    pub fn new(maps: MapTables, sizes: Sizes, workers: u16) -> Self {
        let numbering = u32::from(workers) + sizes.cpus;
        let settings = Settings {
            backends: sizes.backends,
            seats: sizes.seats,
            first_identification: workers.into(),
            identification_stride: numbering.next_power_of_two().min(1 << 15),
            ..Settings::default()
        };
        Self {
            maps,
            sizes,
            settings,
            before: None,
            vips: HashMap::new(),
            rings: HashMap::new(),
            lanes: Vec::new(),
            vip_rows: Pool::new(sizes.vips),
            blocks: Pool::new(sizes.blocks),
            members: Pool::new(sizes.members),
        }
    }

    /// Packets that come by these devices are taken, and packets may leave by them.
    ///
    /// # Errors
    /// [`FillError::Map`]
    pub fn set_ports(&mut self, ports: Vec<Port>, ways_out: &[u32]) -> Result<(), FillError> {
        for &index in ways_out {
            self.maps
                .add_port(index)
                .map_err(|error| FillError::Wait(io::Error::other(error.to_string())))?;
        }
        self.settings.ports = ports;
        self.maps.set(&self.settings);
        Ok(())
    }

    /// The program takes no packet until a snapshot is [applied](Self::apply).
    pub fn pause(&mut self) {
        self.settings.is_ready = false;
        self.maps.set(&self.settings);
    }

    /// Decides by this snapshot from now on. Where that fails the program takes no packet until one can be
    /// applied; each time it is tried anew.
    ///
    /// # Errors
    /// [`FillError`]
    pub fn apply(&mut self, snapshot: &Arc<Snapshot>, now: Timestamp) -> Result<(), FillError> {
        let result = self.follow(snapshot, now);
        if result.is_err() {
            self.clear();
        }
        result
    }

    /// Takes over what was learnt about the paths to the backends.
    pub fn refresh_paths(&mut self, now: Timestamp) {
        let Some(snapshot) = self.before.clone() else {
            return;
        };
        for (index, _) in snapshot.backends() {
            self.set_lane(&snapshot, index, now);
        }
    }

    fn follow(&mut self, snapshot: &Arc<Snapshot>, now: Timestamp) -> Result<(), FillError> {
        if snapshot.index_bound() > self.sizes.backends as usize {
            return Err(FillError::Full("backends"));
        }
        if snapshot.vip_seats() > self.sizes.seats as usize {
            return Err(FillError::Full("VIPs"));
        }
        let before = self.before.clone();
        let is_same_key = before
            .as_ref()
            .is_some_and(|before| before.hash_key() == snapshot.hash_key());
        if !is_same_key {
            self.pause(); // the key and the rings cannot change at once
            wait_for_programs()?;
        }
        let mut leftovers = Leftovers::default();
        for update in snapshot.updates_since(before.as_deref()) {
            self.update(update, snapshot, now, &mut leftovers)?;
        }
        self.set_settings(snapshot);
        self.before = Some(Arc::clone(snapshot));
        if !leftovers.vips.is_empty() || !leftovers.rings.is_empty() {
            wait_for_programs()?;
            self.free(&leftovers);
        }
        Ok(())
    }

    fn update(
        &mut self,
        update: Update,
        snapshot: &Snapshot,
        now: Timestamp,
        leftovers: &mut Leftovers,
    ) -> Result<(), FillError> {
        match update {
            Update::Backend(index, Some(_)) => self.set_lane(snapshot, index, now),
            Update::Tunnel(id, Some(_)) => {
                self.set_lane(snapshot, BackendIndex::of_tunnel(id), now);
            }
            Update::Backend(index, None) => self.vacate(index),
            Update::Tunnel(_, None) => {} // goes with its backend
            Update::Ring(id, Some(ring)) => self.add_ring(id, &ring)?,
            Update::Ring(id, None) => leftovers.rings.extend(self.rings.remove(&id)),
            Update::Vip(service, Some(row)) => {
                let seated = self.add_vip(snapshot, &row)?;
                self.maps.set_service(&key(&service), seated.row)?;
                leftovers.vips.extend(self.vips.insert(service, seated));
            }
            Update::Vip(service, None) => {
                if let Some(seated) = self.vips.remove(&service) {
                    self.maps.remove_service(&key(&service))?;
                    self.disown(seated.seat);
                    leftovers.vips.push(seated);
                }
            }
        }
        Ok(())
    }

    fn add_ring(&mut self, id: RingId, ring: &Ring) -> Result<(), FillError> {
        let (bytes, is_wide) = slots(ring);
        let blocks = u32::try_from(bytes.len().div_ceil(BLOCK)).unwrap_or(u32::MAX);
        let block = self.blocks.take(blocks).ok_or(FillError::Full("rings"))?;
        for (at, part) in (block..).zip(bytes.chunks(BLOCK)) {
            self.maps.set_block(at, part);
        }
        let placed = Placed {
            block,
            blocks,
            slots: ring.size().slots(),
            is_wide,
        };
        self.rings.insert(id, placed);
        Ok(())
    }

    fn add_vip(&mut self, snapshot: &Snapshot, vip: &VipRow) -> Result<Seated, FillError> {
        let count = u32::try_from(vip.members.len()).unwrap_or(u32::MAX);
        let members = self.members.take(count);
        let members = members.ok_or(FillError::Full("backends in rings"))?;
        let row = self.vip_rows.take(1).ok_or(FillError::Full("VIPs"))?;
        for (at, backend) in (members..).zip(&vip.members) {
            self.maps.set_member(at, number(*backend));
        }
        let seat = snapshot.vip(vip.index).seat.position();
        let seat = u32::try_from(seat).unwrap_or(u32::MAX);
        let ring = vip.ring.and_then(|id| self.rings.get(&id));
        let cost_ns = vip
            .new_flows_per_second
            .map_or(0, |most| 1_000_000_000 / u64::from(most.get()));
        let burst = vip
            .new_flows_per_second
            .map_or(0, std::num::NonZeroU32::get);
        self.maps.set_vip(
            row,
            &layout::VipRow {
                cost_ns,
                burst_ns: cost_ns * u64::from(burst),
                slots: ring.map_or(0, |ring| ring.slots),
                ring: ring.map_or(0, |ring| ring.block),
                members,
                count,
                seat,
                fields: match vip.hash {
                    HashFields::FiveTuple => 0,
                    HashFields::SourceAddress => 1,
                    HashFields::DestinationPort => 2,
                },
                is_wide: ring.is_some_and(|ring| ring.is_wide),
                clamps_mss: vip.mss == Mss::Clamp,
            },
        );
        Ok(Seated {
            row,
            members,
            count,
            seat,
        })
    }

    fn set_lane(&mut self, snapshot: &Snapshot, index: BackendIndex, now: Timestamp) {
        let Some(backend) = snapshot.backend(index) else {
            return;
        };
        let seat = snapshot.vip(backend.vip).seat.position();
        let mtu = snapshot.path_mtus().of(index, now);
        let mut lane = LaneRow::new(backend.encap);
        lane.seat = u32::try_from(seat).ok();
        lane.mtu = mtu.and_then(|mtu| u16::try_from(mtu).ok());
        lane.takes = match backend.takes {
            Takes::Nothing => 0,
            Takes::KnownFlows => 1,
            Takes::NewFlows => 2,
        };
        self.write_lane(index, lane);
    }

    /// A backend is not configured any more; that it was of its VIP is still known, for its flows.
    fn vacate(&mut self, index: BackendIndex) {
        if let Some(Some(mut lane)) = self.lanes.get(index.position()).copied() {
            lane.takes = 0;
            self.write_lane(index, lane);
        }
    }

    /// A VIP is not configured any more, and its seat may become another one's.
    fn disown(&mut self, seat: u32) {
        for position in 0..self.lanes.len() {
            if let Some(Some(mut lane)) = self.lanes.get(position).copied()
                && lane.seat == Some(seat)
                && let Ok(position) = u32::try_from(position)
            {
                lane.seat = None;
                self.write_lane(BackendIndex::new(position), lane);
            }
        }
    }

    fn write_lane(&mut self, index: BackendIndex, lane: LaneRow) {
        let position = index.position();
        if self.lanes.len() <= position {
            self.lanes.resize(position + 1, None);
        }
        if self.lanes[position] != Some(lane) {
            self.lanes[position] = Some(lane);
            self.maps.set_lane(number(index), &lane);
        }
    }

    fn set_settings(&mut self, snapshot: &Snapshot) {
        let any = |service: &Service| service.port == PortMatch::Any;
        self.settings.key = snapshot.hash_key().0;
        self.settings.generation = snapshot.generation();
        self.settings.has_any_port = self.vips.keys().any(any);
        self.settings.timeouts = timeouts(&snapshot.flow_limits().timeouts);
        self.settings.is_ready = true;
        self.maps.set(&self.settings);
    }

    fn free(&mut self, leftovers: &Leftovers) {
        for vip in &leftovers.vips {
            self.vip_rows.give(vip.row, 1);
            self.members.give(vip.members, vip.count);
        }
        for ring in &leftovers.rings {
            self.blocks.give(ring.block, ring.blocks);
        }
    }

    /// Nothing is in the maps, and no packet is taken.
    fn clear(&mut self) {
        self.pause();
        for service in self.vips.keys() {
            self.maps.remove_service(&key(service)).ok(); // it may not have come that far
        }
        self.vips.clear();
        self.rings.clear();
        self.before = None;
        self.vip_rows = Pool::new(self.sizes.vips);
        self.blocks = Pool::new(self.sizes.blocks);
        self.members = Pool::new(self.sizes.members);
    }
}

fn key(service: &Service) -> [u8; layout::SERVICE] {
    let port = match service.port {
        PortMatch::Any => None,
        PortMatch::Exact(port) => Some(NonZeroU16::get(port)),
    };
    layout::service_key(service.address, port, service.protocol)
}

fn number(index: BackendIndex) -> u32 {
    index.tunnel().0
}

/// In the order of the classes.
fn timeouts(timeouts: &FlowTimeouts) -> [u32; layout::CLASSES] {
    FlowClass::ALL.map(|class| {
        let timeout = class.timeout(timeouts);
        let nanoseconds = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        tick_of(nanoseconds).saturating_add(1)
    })
}
