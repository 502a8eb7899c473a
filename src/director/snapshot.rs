//! What the packet path reads: VIPs, their rings and tunnels. Immutable; swapped whole.
//!
//! Tables, each of which a following snapshot shares as far as nothing in it changed:
//!
//! - [`Services`]: which VIP a flow is for. Only a flow's first packet asks.
//! - [`Vip`]: the ring and what it chooses from. Only a flow's first packet asks.
//! - [`Lane`]: what every packet needs of its backend, in one cache line.
//! - [`Place`]: the rest of a backend, for control and output.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::eligible::Takes;
use super::indices::{BackendIndex, VipIndex, VipSeat};
use super::path_mtu::PathMtus;
use super::probe_ends::ProbeEnds;
use super::ring::{MAX_MEMBERS, Ring, Slot};
use super::rings::{NumberedRing, RingId};
use super::selection::SelectionHash;
use super::services::{Service, Services};
use super::shared::Shared;
use super::spec::{BackendState, Echo, FlowLimits, HashFields, HashKey, Mss};
use crate::packet::{Encap, FamilyMismatch, FlowKey, Packet, TunnelId, Tunnels};

/// One VIP as the packet path sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vip {
    /// The operator's name for it.
    pub name: String,
    /// What clients address.
    pub service: Service,
    /// What happens to echo requests for its address.
    pub echo: Echo,
    /// Whether the MSS of SYNs is lowered.
    pub mss: Mss,
    /// Its position in [`Snapshot::vips`].
    pub index: VipIndex,
    /// What is counted for it goes by this.
    pub seat: VipSeat,
    /// Flows that may enter the flow table, for all workers together.
    pub new_flows_per_second: Option<NonZeroU32>,
    /// How often its ring became another one since it was first configured; how it first was is no change.
    pub ring_changes: u64,
    pub(super) hash: HashFields,
    /// `None` while no backend takes new flows. A slot holds a position in `members`.
    pub(super) ring: Option<NumberedRing>,
    /// The backends that take new flows.
    pub(super) members: Box<[BackendIndex]>,
    /// All of them, in the order of the configuration.
    pub(super) backends: Box<[BackendIndex]>,
}

impl Vip {
    /// Where clients send to.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.service.address
    }

    /// All backends, in the order of the configuration.
    #[must_use]
    pub fn backends(&self) -> &[BackendIndex] {
        &self.backends
    }

    /// How many slots its ring has; `None` while no backend takes new flows.
    #[must_use]
    pub fn slots(&self) -> Option<u32> {
        Some(self.ring.as_ref()?.slots.size().slots())
    }

    /// A hash of what its ring chooses, equal on directors that choose alike for this VIP: the ring's
    /// [`fingerprint`](super::Ring::fingerprint), and which fields of a packet are hashed where that matters.
    /// `None` while no backend takes new flows.
    #[must_use]
    pub fn fingerprint(&self) -> Option<u32> {
        let ring = self.ring.as_ref()?.slots.fingerprint();
        if self.members.len() < 2 {
            return Some(ring);
        }
        Some(match self.hash {
            HashFields::FiveTuple => ring,
            HashFields::SourceAddress => ring ^ 1,
            HashFields::DestinationPort => ring ^ 2,
        })
    }

    /// How many slots of its ring a backend of this VIP has: its part of new flows.
    #[must_use]
    pub fn share(&self, backend: BackendIndex) -> u32 {
        let mut shares = self.shares();
        let found = shares.find(|&(member, _)| member == backend);
        found.map_or(0, |(_, slots)| slots)
    }

    /// The backends that take new flows, in the order of addresses, and how many slots each has.
    pub fn shares(&self) -> impl Iterator<Item = (BackendIndex, u32)> {
        let ring = self.ring.as_ref();
        let share = move |position| ring.map_or(0, |ring| ring.slots.share(position));
        let members = (0..).zip(&self.members);
        members.map(move |(position, &backend)| (backend, share(position)))
    }

    /// The ring and its number; `None` while no backend takes new flows. A slot holds a position in
    /// [`members`](Self::members).
    #[must_use]
    pub fn ring(&self) -> Option<(RingId, &Ring)> {
        self.ring.as_ref().map(|ring| (ring.id, &*ring.slots))
    }

    /// The backends that take new flows, in the order of addresses.
    #[must_use]
    pub fn members(&self) -> &[BackendIndex] {
        &self.members
    }
}

/// What a packet needs of its backend: one cache line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(align(64))]
pub struct Lane {
    /// The tunnel to it.
    pub encap: Encap,
    /// The VIP it serves.
    pub vip: VipIndex,
    /// Which flows it takes, by its state, its weight and its health.
    pub takes: Takes,
}

const _: () = assert!(size_of::<Option<Lane>>() == 64, "a lane is one cache line");

/// Who holds an index, or held it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) address: IpAddr,
    pub(super) state: BackendState,
}

/// One backend of one VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend<'a> {
    /// The VIP it serves.
    pub vip: VipIndex,
    /// The tunnel's far end.
    pub address: IpAddr,
    /// What the operator wants of it.
    pub state: BackendState,
    /// Which flows it takes, by its state, its weight and its health.
    pub takes: Takes,
    /// The tunnel to it.
    pub encap: &'a Encap,
}

/// Why VIPs cannot be turned into a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// More backends than ring slots can tell apart.
    #[error("vip {vip} has {backends} backends; a ring holds at most {MAX_MEMBERS}")]
    TooManyBackends {
        /// The VIP's name.
        vip: String,
        /// How many it has.
        backends: usize,
    },
    /// A tunnel between address families.
    #[error(transparent)]
    Tunnel(#[from] FamilyMismatch),
    /// Two VIPs with one address, port and protocol.
    #[error("vip {vip} has the address, port and protocol of an earlier vip")]
    DuplicateVip {
        /// The later VIP's name.
        vip: String,
    },
}

/// VIPs, rings and tunnels at one moment. A clone shares all tables.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub(super) epoch: u64,
    pub(super) flow_limits: FlowLimits,
    pub(super) services: Arc<Services>,
    pub(super) vips: Vec<Arc<Vip>>,
    /// All seats of VIPs are below it.
    pub(super) vip_seats: usize,
    /// By index; none where a backend is not configured any more.
    pub(super) lanes: Shared<Lane>,
    /// By index.
    pub(super) places: Shared<Place>,
    /// Of all backends, in the order of addresses.
    pub(super) by_address: Arc<[(IpAddr, BackendIndex)]>,
    pub(super) selection: SelectionHash,
    /// Whether some VIP's SYNs are, or were, to be clamped.
    pub(super) clamps_mss: bool,
    /// Beside the tables: the one part that changes.
    pub(super) path_mtus: Arc<PathMtus>,
    pub(super) probe_ends: Arc<ProbeEnds>,
}

impl Snapshot {
    /// Counts the snapshots of one [`Roster`](super::Roster), from 1.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether there was another one before, so that flows may be elsewhere than the ring puts them.
    pub(super) const fn has_changed(&self) -> bool {
        self.epoch > 1
    }

    /// How many flows are remembered, and how long.
    #[must_use]
    pub const fn flow_limits(&self) -> &FlowLimits {
        &self.flow_limits
    }

    /// All VIPs, in the order of the configuration.
    #[must_use]
    pub fn vips(&self) -> &[Arc<Vip>] {
        &self.vips
    }

    /// The backends of all VIPs, in the order of the configuration.
    pub fn backends(&self) -> impl Iterator<Item = (BackendIndex, Backend<'_>)> {
        let indices = self.vips.iter().flat_map(|vip| &vip.backends);
        indices.filter_map(|&index| Some((index, self.backend(index)?)))
    }

    /// The backends with this address, one for each VIP that it serves.
    pub fn backends_at(
        &self,
        address: IpAddr,
    ) -> impl Iterator<Item = (BackendIndex, Backend<'_>)> {
        let first = self.by_address.partition_point(|&(at, _)| at < address);
        let here = self.by_address[first..].iter();
        here.take_while(move |&&(at, _)| at == address)
            .filter_map(|&(_, index)| Some((index, self.backend(index)?)))
    }

    /// The backend that holds `index`; `None` when it is not configured any more.
    #[must_use]
    pub fn backend(&self, index: BackendIndex) -> Option<Backend<'_>> {
        let Lane { encap, vip, takes } = self.lane(index)?;
        let place = self.places.get(index.position())?;
        Some(Backend {
            vip: *vip,
            address: place.address,
            state: place.state,
            takes: *takes,
            encap,
        })
    }

    /// The address of the backend that holds `index`, or that held it last.
    #[must_use]
    pub fn address_of(&self, index: BackendIndex) -> Option<IpAddr> {
        Some(self.places.get(index.position())?.address)
    }

    /// The VIP of a flow that is with a backend: that of the backend, or the one that its packets are for.
    #[must_use]
    pub fn vip_of(&self, flow: &FlowKey, backend: BackendIndex) -> Option<&Vip> {
        match self.lane(backend) {
            Some(lane) => Some(self.vip(lane.vip)),
            None => self.find_vip(flow),
        }
    }

    /// What a packet needs of the backend that holds `index`; `None` when it is not configured any more.
    #[must_use]
    pub fn lane(&self, index: BackendIndex) -> Option<&Lane> {
        self.lanes.get(index.position())
    }

    /// All indices are below it.
    #[must_use]
    pub const fn index_bound(&self) -> usize {
        self.places.bound()
    }

    /// All seats of VIPs are below it.
    #[must_use]
    pub const fn vip_seats(&self) -> usize {
        self.vip_seats
    }

    /// The generation of its services: while it stays the same, a flow stays with its VIP.
    #[must_use]
    pub fn generation(&self) -> u16 {
        self.services.generation()
    }

    /// The backend of `vip` that a flow stays with which was with `known`: that one, or the same
    /// host where the flow now belongs to another VIP. `None`: it has to move.
    #[must_use]
    pub fn stays_with(&self, vip: &Vip, known: BackendIndex) -> Option<BackendIndex> {
        if let Some(lane) = self.lane(known)
            && lane.vip == vip.index
        {
            return (lane.takes != Takes::Nothing).then_some(known);
        }
        let address = self.places.get(known.position())?.address;
        self.host_of(vip, address)
    }

    /// The backend of `vip` with that address, if it takes known flows.
    pub(super) fn host_of(&self, vip: &Vip, address: IpAddr) -> Option<BackendIndex> {
        let same_host = |index: &&BackendIndex| {
            self.backend(**index).is_some_and(|backend| {
                backend.address == address && backend.takes != Takes::Nothing
            })
        };
        vip.backends.iter().find(same_host).copied()
    }

    /// The VIP at `index`, which is of this snapshot.
    #[must_use]
    pub fn vip(&self, index: VipIndex) -> &Vip {
        &self.vips[index.position()]
    }

    /// The VIP that a packet is for: exact port first, then any port.
    #[must_use]
    pub fn find_vip(&self, flow: &FlowKey) -> Option<&Vip> {
        self.services.find(flow).map(|index| self.vip(index))
    }

    /// Whether some VIP wants the MSS of SYNs lowered, or one of a former snapshot did.
    pub(super) const fn clamps_mss(&self) -> bool {
        self.clamps_mss
    }

    /// What is known of the paths to the backends.
    #[must_use]
    pub fn path_mtus(&self) -> &PathMtus {
        &self.path_mtus
    }

    /// From where this host sends probes.
    pub(super) fn probe_ends(&self) -> &ProbeEnds {
        &self.probe_ends
    }

    /// The first VIP with this address, whatever its port and protocol.
    #[must_use]
    pub fn find_address(&self, address: IpAddr) -> Option<&Vip> {
        self.services
            .at_address(address)
            .map(|index| self.vip(index))
    }

    /// The VIP with this address, where no other one has it.
    pub(super) fn only_vip_at(&self, address: IpAddr) -> Option<&Vip> {
        let index = self.services.alone_at(address)?;
        Some(self.vip(index))
    }

    /// The VIP that a packet is addressed to: that of its flow, else the first one with its address.
    #[must_use]
    pub fn addressed_vip(&self, packet: &Packet<'_>) -> Option<&Vip> {
        let of_flow = packet.flow().and_then(|flow| self.find_vip(&flow));
        of_flow.or_else(|| self.find_address(packet.destination()))
    }

    /// The secret of the selection hash.
    #[must_use]
    pub const fn hash_key(&self) -> &HashKey {
        self.selection.key()
    }

    /// The hash that a flow's packets share: entropy of the outer header, and by default the
    /// ring's choice.
    #[must_use]
    pub fn flow_hash(&self, flow: &FlowKey) -> u64 {
        self.selection.hash(flow, HashFields::FiveTuple)
    }

    /// The hash that all packets of a client for an address share, where there is no flow.
    #[must_use]
    pub fn client_hash(&self, client: IpAddr) -> u64 {
        self.selection.hash_client(client)
    }

    /// The ring's choice for a new flow; `None` while no backend takes new flows.
    #[must_use]
    pub fn choose(&self, vip: &Vip, flow: &FlowKey) -> Option<Choice> {
        Self::choose_by(vip, self.selection.hash(flow, vip.hash))
    }

    /// The ring's choice for a packet without a flow, by the hash of its client.
    #[must_use]
    pub fn choose_for_client(&self, vip: &Vip, client: IpAddr) -> Option<Choice> {
        Self::choose_by(vip, self.client_hash(client))
    }

    fn choose_by(vip: &Vip, hash: u64) -> Option<Choice> {
        let ring = &vip.ring.as_ref()?.slots;
        let slot = ring.slot(hash);
        let backend = *vip.members.get(usize::from(ring.backend(slot)))?;
        Some(Choice { backend, slot })
    }
}

impl Tunnels for Snapshot {
    fn tunnel(&self, TunnelId(number): TunnelId) -> Option<&Encap> {
        Some(&self.lane(BackendIndex::new(number))?.encap)
    }

    fn bound(&self) -> u32 {
        u32::try_from(self.index_bound()).unwrap_or(u32::MAX)
    }
}

/// What a ring chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The backend in the slot.
    pub backend: BackendIndex,
    /// The slot that the hash names.
    pub slot: Slot,
}
