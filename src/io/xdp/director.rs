//! The director's program (`bpf/tunlb.bpf.c`) and its maps.
//!
//! What a packet's decision reads is in arrays that are mapped into this process, so that filling them takes no
//! system call; only services and flows are in hash maps.

use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::xdp::{DevMapHash, XdpMapError};
use aya::maps::{HashMap, Map, MapData, MapError};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfLoader};

use super::layout::{
    BLOCK, FLOW, FLOW_KEY, FlowRow, LaneRow, SERVICE, SETTINGS_WORDS, Settings, VipRow,
};
use super::load::{LoadError, load, load_program};
use crate::io::sys::{MapBatch, SharedArray, remove_from_map};

const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tunlb.bpf.o"));

/// Of the program in the object.
const PROGRAM: &str = "tunlb_director";

/// How many rows the maps have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "of what, the names say; bpf/layout.h has the rows"
)]
pub struct Sizes {
    pub services: u32,
    pub vips: u32,
    pub blocks: u32,
    pub members: u32,
    pub backends: u32,
    pub seats: u32,
    pub flows: u32,
    pub first_flows: u32,
    pub cpus: u32,
}

impl Sizes {
    const fn of_maps(&self) -> [(&'static str, u32); 12] {
        [
            ("services", self.services),
            ("vips", self.vips),
            ("rings", self.blocks),
            ("members", self.members),
            ("lanes", self.backends),
            ("limits", self.seats),
            ("traffic", self.backends.saturating_mul(self.cpus)),
            ("drops", self.seats.saturating_mul(self.cpus)),
            ("outcomes", self.cpus),
            ("flows", self.flows),
            ("first_flows", self.first_flows),
            ("settings_map", 1),
        ]
    }
}

/// The program, loaded; it runs where it is attached.
#[derive(Debug)]
pub struct DirectorProgram {
    object: Ebpf,
}

/// The program and its maps.
#[derive(Debug)]
pub struct Loaded {
    /// The program.
    pub program: DirectorProgram,
    /// What it decides by.
    pub tables: MapTables,
    /// Its flow table.
    pub flows: FlowMaps,
    /// What it counts.
    pub counts: Arc<MapCounts>,
    /// By seat: until when, in nanoseconds of CLOCK_MONOTONIC, a VIP's new flows are paid for.
    pub limits: Arc<SharedArray>,
}

/// What the program decides by.
pub struct MapTables {
    settings: SharedArray,
    vips: SharedArray,
    rings: SharedArray,
    members: SharedArray,
    lanes: SharedArray,
    services: HashMap<MapData, [u8; SERVICE], u32>,
    ports: DevMapHash<MapData>,
}

/// What the program counts, by CPU.
#[derive(Debug)]
pub struct MapCounts {
    traffic: SharedArray,
    drops: SharedArray,
    outcomes: SharedArray,
    sizes: Sizes,
}

impl DirectorProgram {
    /// Makes the maps and loads the program. It takes no packet until the settings say so.
    ///
    /// # Errors
    /// Any [`LoadError`].
    pub fn load(sizes: Sizes) -> Result<Loaded, LoadError> {
        let mut loader = EbpfLoader::new();
        for (name, rows) in sizes.of_maps() {
            loader.map_max_entries(name, rows.max(1));
        }
        let mut object = load(&mut loader, OBJECT)?;
        load_program(&mut object, PROGRAM)?;
        let mut array = |name: &str, rows: u32, bytes: usize| {
            let map = array_of(take(&mut object, name)?)?;
            SharedArray::of(map.fd().as_fd(), rows.max(1) as usize, bytes)
                .map_err(|error| LoadError::Map(name.to_owned(), error))
        };
        let counts = MapCounts {
            traffic: array("traffic", sizes.backends * sizes.cpus, 32)?,
            drops: array("drops", sizes.seats * sizes.cpus, 128)?,
            outcomes: array("outcomes", sizes.cpus, 256)?,
            sizes,
        };
        let limits = array("limits", sizes.seats, 8)?;
        let tables = MapTables {
            settings: array("settings_map", 1, SETTINGS_WORDS * 8)?,
            vips: array("vips", sizes.vips, 64)?,
            rings: array("rings", sizes.blocks, BLOCK)?,
            members: array("members", sizes.members, 8)?,
            lanes: array("lanes", sizes.backends, 64)?,
            services: HashMap::try_from(take(&mut object, "services")?)?,
            ports: DevMapHash::try_from(take(&mut object, "ports")?)?,
        };
        let flows = FlowMaps {
            lasting: FlowMap::new(take(&mut object, "flows")?)?,
            first: FlowMap::new(take(&mut object, "first_flows")?)?,
        };
        Ok(Loaded {
            program: Self { object },
            tables,
            flows,
            counts: Arc::new(counts),
            limits: Arc::new(limits),
        })
    }

    /// The program, to be attached.
    ///
    /// # Errors
    /// None that a loaded one has.
    pub fn program(&self) -> Result<&Xdp, ProgramError> {
        let program = self.object.program(PROGRAM);
        program.ok_or(ProgramError::NotLoaded)?.try_into()
    }
}

fn take(object: &mut Ebpf, name: &str) -> Result<Map, LoadError> {
    let map = object.take_map(name);
    map.ok_or_else(|| LoadError::Lacks(format!("map {name}")))
}

fn array_of(map: Map) -> Result<MapData, LoadError> {
    if let Map::Array(data) = map {
        Ok(data)
    } else {
        Err(LoadError::Lacks("a map of the type array".to_owned()))
    }
}

impl fmt::Debug for MapTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapTables").finish_non_exhaustive()
    }
}

fn store(row: &[AtomicU64], words: &[u64]) {
    for (cell, word) in row.iter().zip(words) {
        cell.store(*word, Ordering::Relaxed);
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_ne_bytes(word)
    })
}

impl MapTables {
    /// Sets what holds for all packets. Numbers of 32 bits that change together are not read together.
    pub fn set(&self, settings: &Settings) {
        store(self.settings.row(0), &settings.words());
    }

    /// Writes a row of the VIPs, which no service leads to.
    pub fn set_vip(&self, row: u32, vip: &VipRow) {
        for (cell, word) in self.vips.row(row as usize).iter().zip(words(&vip.bytes())) {
            cell.store(word, Ordering::Relaxed);
        }
    }

    /// Writes a part of a ring, which no VIP leads to.
    pub fn set_block(&self, block: u32, bytes: &[u8]) {
        for (cell, word) in self.rings.row(block as usize).iter().zip(words(bytes)) {
            cell.store(word, Ordering::Relaxed);
        }
    }

    /// Writes a member, which no VIP leads to.
    pub fn set_member(&self, row: u32, backend: u32) {
        store(self.members.row(row as usize), &[backend.into()]);
    }

    /// Writes a backend. Packets that read it meanwhile notice that.
    pub fn set_lane(&self, backend: u32, lane: &LaneRow) {
        let row = self.lanes.row(backend as usize);
        let Some((first, rest)) = row.split_first() else {
            return;
        };
        let sequence = LaneRow::sequence(first.load(Ordering::Relaxed)) & !1;
        let writing = lane.first_word(sequence.wrapping_add(1));
        first.store(writing, Ordering::SeqCst);
        for (cell, word) in rest.iter().zip(lane.words()) {
            cell.store(word, Ordering::Release);
        }
        first.store(lane.first_word(sequence.wrapping_add(2)), Ordering::Release);
    }

    /// From now on the service is this row of the VIPs.
    ///
    /// # Errors
    /// The map is full.
    pub fn set_service(&mut self, key: &[u8; SERVICE], row: u32) -> Result<(), MapError> {
        self.services.insert(key, row, 0)
    }

    /// From now on no VIP has the service.
    ///
    /// # Errors
    /// None had it.
    pub fn remove_service(&mut self, key: &[u8; SERVICE]) -> Result<(), MapError> {
        self.services.remove(key)
    }

    /// From now on packets may leave by the device.
    ///
    /// # Errors
    /// The map is full, or there is no such device.
    pub fn add_port(&mut self, index: u32) -> Result<(), XdpMapError> {
        self.ports.insert(index, index, None, 0)
    }
}

/// The flow table of the program; a handle for one thread.
#[derive(Debug)]
pub struct FlowMaps {
    /// Flows of more than one packet.
    lasting: FlowMap,
    /// Flows of one packet, or of SYNs only.
    first: FlowMap,
}

#[derive(Debug)]
struct FlowMap {
    rows: HashMap<MapData, [u8; FLOW_KEY], [u8; FLOW]>,
    /// For what aya does not have.
    file: OwnedFd,
}

impl FlowMap {
    fn new(map: Map) -> Result<Self, MapError> {
        let Map::LruHashMap(data) = map else {
            return Err(MapError::InvalidMapType { map_type: 0 });
        };
        Ok(Self {
            file: data.fd().as_fd().try_clone_to_owned()?,
            rows: HashMap::try_from(Map::LruHashMap(data))?,
        })
    }

    fn again(&self) -> Result<Self, MapError> {
        Self::new(Map::LruHashMap(MapData::from_fd(self.file.try_clone()?)?))
    }
}

/// Which of the maps a flow is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowPart {
    /// That of flows of more than one packet.
    Lasting,
    /// That of flows of one packet, or of SYNs only.
    First,
}

/// In linux/bpf.h.
const BPF_NOEXIST: u64 = 1;

impl FlowMaps {
    /// Another handle, for another thread.
    ///
    /// # Errors
    /// The kernel's: too many open files.
    pub fn again(&self) -> Result<Self, MapError> {
        Ok(Self {
            lasting: self.lasting.again()?,
            first: self.first.again()?,
        })
    }

    /// A flow, and where it is.
    #[must_use]
    pub fn find(&self, key: &[u8; FLOW_KEY]) -> Option<(FlowPart, FlowRow)> {
        let lasting = self.lasting.rows.get(key, 0).ok();
        if let Some(row) = lasting {
            return Some((FlowPart::Lasting, FlowRow::read(&row)));
        }
        let first = self.first.rows.get(key, 0).ok()?;
        Some((FlowPart::First, FlowRow::read(&first)))
    }

    /// Enters a flow among those of one packet; false where it is there already.
    ///
    /// # Errors
    /// The kernel's.
    pub fn enter(&mut self, key: &[u8; FLOW_KEY], row: &FlowRow) -> Result<bool, MapError> {
        match self.first.rows.insert(key, row.bytes(), BPF_NOEXIST) {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::EEXIST) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes a flow that is in `part` so that it is in `next`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set(
        &mut self,
        key: &[u8; FLOW_KEY],
        row: &FlowRow,
        (part, next): (FlowPart, FlowPart),
    ) -> Result<(), MapError> {
        self.map(next).insert(key, row.bytes(), 0)?;
        if part != next {
            self.remove(key, part);
        }
        Ok(())
    }

    /// Forgets a flow, if it is there.
    pub fn remove(&mut self, key: &[u8; FLOW_KEY], part: FlowPart) {
        self.map(part).remove(key).ok(); // it may have gone by itself
    }

    /// Goes through the flows of one part; `each` says whether a flow stays.
    ///
    /// # Errors
    /// The kernel's.
    pub fn retain(
        &self,
        part: FlowPart,
        mut each: impl FnMut(&[u8; FLOW_KEY], &FlowRow) -> bool,
    ) -> io::Result<()> {
        let mut batch = MapBatch::<FLOW_KEY, FLOW>::new(self.fd(part), FLOWS_PER_BATCH);
        let mut gone = Vec::new();
        while let Some((keys, rows)) = batch.read()? {
            gone.clear();
            for (key, row) in keys.iter().zip(rows) {
                if !each(key, &FlowRow::read(row)) {
                    gone.push(*key);
                }
            }
            remove_from_map(self.fd(part), &gone)?;
        }
        Ok(())
    }

    /// The flows of some buckets of one part, from `bucket` on, and the bucket after those; `None` at the end.
    ///
    /// # Errors
    /// The kernel's.
    pub fn page(&self, part: FlowPart, bucket: u32) -> io::Result<FlowPage> {
        let batch = MapBatch::<FLOW_KEY, FLOW>::new(self.fd(part), FLOWS_PER_PAGE);
        let mut batch = batch.starting_at(bucket);
        let mut flows = Vec::new();
        if let Some((keys, rows)) = batch.read()? {
            let rows = rows.iter().map(FlowRow::read);
            flows.extend(keys.iter().copied().zip(rows));
        }
        Ok((flows, batch.next_bucket()))
    }

    const fn map(&mut self, part: FlowPart) -> &mut HashMap<MapData, [u8; FLOW_KEY], [u8; FLOW]> {
        match part {
            FlowPart::Lasting => &mut self.lasting.rows,
            FlowPart::First => &mut self.first.rows,
        }
    }

    fn fd(&self, part: FlowPart) -> BorrowedFd<'_> {
        match part {
            FlowPart::Lasting => self.lasting.file.as_fd(),
            FlowPart::First => self.first.file.as_fd(),
        }
    }
}

/// Flows, and where the next ones begin.
pub type FlowPage = (Vec<([u8; FLOW_KEY], FlowRow)>, Option<u32>);

/// As few as fit one answer; no bucket holds as many.
const FLOWS_PER_PAGE: usize = 512;

/// Some 300 KiB; no bucket of a map as large as it should be holds as many.
const FLOWS_PER_BATCH: usize = 4096;

impl MapCounts {
    /// Packets, bytes, untracked packets and new flows of a backend, over all CPUs.
    #[must_use]
    pub fn traffic(&self, backend: usize) -> [u64; 4] {
        let rows = self.sizes.backends as usize;
        self.sum(&self.traffic, backend, rows)
    }

    /// Packets dropped for the VIP that has a seat, by the numbers of the reasons.
    #[must_use]
    pub fn drops(&self, seat: usize) -> [u64; 16] {
        let rows = self.sizes.seats as usize;
        self.sum(&self.drops, seat, rows)
    }

    /// How packets left or why they went to the kernel, by [`OUTCOMES`](super::layout::OUTCOMES).
    #[must_use]
    pub fn outcomes(&self) -> [u64; 32] {
        self.sum(&self.outcomes, 0, 1)
    }

    fn sum<const COUNTERS: usize>(
        &self,
        array: &SharedArray,
        row: usize,
        rows: usize,
    ) -> [u64; COUNTERS] {
        let mut sums = [0_u64; COUNTERS];
        if row >= rows {
            return sums;
        }
        for cpu in 0..self.sizes.cpus as usize {
            for (sum, counter) in sums.iter_mut().zip(array.row(cpu * rows + row)) {
                *sum = sum.wrapping_add(counter.load(Ordering::Relaxed));
            }
        }
        sums
    }
}
