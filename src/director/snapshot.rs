//! What the packet path reads: VIPs, their rings and tunnels. Immutable; swapped whole.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashMap;

use super::eligible::{Health, Takes};
use super::path_mtu::PathMtus;
use super::ring::{MAX_MEMBERS, Ring, Slot};
use super::rings::MemberSet;
use super::roster::{Plan, Roster};
use super::selection::SelectionHash;
use super::spec::{BackendState, Echo, FlowLimits, HashFields, Mss, PortMatch, VipSpec};
use crate::packet::{Encap, FamilyMismatch, FlowKey, Packet, Protocol, TunnelId, Tunnels};

/// A VIP's position in [`Snapshot::vips`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VipIndex(u32);

/// A backend of a VIP, by a number that it keeps over all snapshots that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendIndex(u32);

impl VipIndex {
    /// The position as an array index.
    #[must_use]
    pub const fn position(self) -> usize {
        self.0 as usize
    }
}

impl BackendIndex {
    /// The number of the tunnel to it.
    #[must_use]
    pub const fn tunnel(self) -> TunnelId {
        TunnelId(self.0)
    }

    /// The index with this number. A first snapshot counts from 0, in the order of the
    /// configuration.
    #[must_use]
    pub const fn new(position: u32) -> Self {
        Self(position)
    }

    /// The position as an array index.
    #[must_use]
    pub const fn position(self) -> usize {
        self.0 as usize
    }
}

/// What clients address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Service {
    /// The VIP.
    pub address: IpAddr,
    /// The destination port.
    pub port: PortMatch,
    /// The transport protocol.
    pub protocol: Protocol,
}

impl Service {
    /// What clients of a VIP address.
    #[must_use]
    pub const fn of(vip: &VipSpec) -> Self {
        Self {
            address: vip.address,
            port: vip.port,
            protocol: vip.protocol,
        }
    }
}

/// One VIP as the packet path sees it.
#[derive(Debug, Clone)]
pub struct Vip {
    /// The operator's name for it.
    pub name: String,
    /// Where clients send to.
    pub address: IpAddr,
    /// What happens to echo requests for its address.
    pub echo: Echo,
    /// Whether the MSS of SYNs is lowered.
    pub mss: Mss,
    /// Its position in [`Snapshot::vips`].
    pub index: VipIndex,
    /// Flows that may enter the flow table, for all workers together.
    pub new_flows_per_second: Option<NonZeroU32>,
    hash: HashFields,
    /// `None` while no backend takes new flows. A slot holds a position in `members`.
    ring: Option<Arc<Ring>>,
    /// The backends that take new flows.
    members: Box<[BackendIndex]>,
    /// All of them, in the order of the configuration.
    backends: Box<[BackendIndex]>,
}

/// One backend of one VIP as the packet path sees it.
#[derive(Debug, Clone)]
pub struct Backend {
    /// The VIP it serves.
    pub vip: VipIndex,
    /// The tunnel's far end.
    pub address: IpAddr,
    /// What the operator wants of it.
    pub state: BackendState,
    /// Which flows it takes, by its state, its weight and its health.
    pub takes: Takes,
    /// The tunnel to it.
    pub encap: Encap,
}

/// Who holds an index.
#[derive(Debug, Clone)]
enum Seat {
    Here(Backend),
    /// A backend with this address that is not configured any more.
    Left(IpAddr),
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

/// VIPs, rings and tunnels at one moment.
#[derive(Debug)]
pub struct Snapshot {
    epoch: u64,
    flow_limits: FlowLimits,
    vips: Vec<Vip>,
    /// By index.
    seats: Vec<Seat>,
    services: HashMap<Service, VipIndex, RandomState>,
    /// Of all backends, in the order of addresses.
    by_address: Vec<(IpAddr, BackendIndex)>,
    /// The first VIP of each address.
    addresses: HashMap<IpAddr, VipIndex, RandomState>,
    selection: SelectionHash,
    path_mtus: Arc<PathMtus>,
}

/// Where a VIP's backends stand.
#[derive(Debug)]
pub(super) struct Placement {
    /// In the order of the configuration, as the next one.
    indices: Vec<BackendIndex>,
    takes: Vec<Takes>,
    /// Those that take new flows, in the order of addresses.
    pub(super) members: MemberSet,
    member_indices: Box<[BackendIndex]>,
}

impl Placement {
    /// # Errors
    /// [`SnapshotError::TooManyBackends`].
    pub(super) fn new(
        vip: &VipSpec,
        indices: Vec<BackendIndex>,
        takes: Vec<Takes>,
    ) -> Result<Self, SnapshotError> {
        if indices.len() > MAX_MEMBERS {
            return Err(SnapshotError::TooManyBackends {
                vip: vip.name.clone(),
                backends: indices.len(),
            });
        }
        let mut members: Vec<_> = vip
            .backends
            .iter()
            .zip(&indices)
            .zip(&takes)
            .filter(|&(_, &takes)| takes == Takes::NewFlows)
            .map(|((backend, &index), _)| (backend.address, backend.weight, index))
            .collect();
        members.sort_unstable_by_key(|&(address, ..)| address);
        Ok(Self {
            member_indices: members.iter().map(|&(.., index)| index).collect(),
            members: members
                .into_iter()
                .map(|(address, weight, _)| (address, weight))
                .collect(),
            indices,
            takes,
        })
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

    /// No VIPs yet; `addresses` are of those who hold or held the indices.
    pub(super) fn empty(
        epoch: u64,
        plan: &Plan<'_>,
        path_mtus: Arc<PathMtus>,
        addresses: impl Iterator<Item = IpAddr>,
    ) -> Self {
        // Keys come from the operator, not from packets: nothing to defend against.
        let hasher = RandomState::with_seeds(0, 0, 0, 0);
        Self {
            epoch,
            flow_limits: plan.flows,
            vips: Vec::with_capacity(plan.vips.len()),
            seats: addresses.map(Seat::Left).collect(),
            by_address: Vec::new(),
            services: HashMap::with_hasher(hasher.clone()),
            addresses: HashMap::with_hasher(hasher),
            selection: SelectionHash::new(&plan.hash_key),
            path_mtus,
        }
    }

    pub(super) fn add(
        &mut self,
        spec: &VipSpec,
        placement: Placement,
        ring: Option<Arc<Ring>>,
        tunnel: &mut impl FnMut(&VipSpec, IpAddr) -> Result<Encap, FamilyMismatch>,
    ) -> Result<(), SnapshotError> {
        let vip = VipIndex(u32::try_from(self.vips.len()).unwrap_or(u32::MAX));
        if self.services.insert(Service::of(spec), vip).is_some() {
            return Err(SnapshotError::DuplicateVip {
                vip: spec.name.clone(),
            });
        }
        self.addresses.entry(spec.address).or_insert(vip);
        let indices = placement.indices.iter().zip(placement.takes);
        for (backend, (index, takes)) in spec.backends.iter().zip(indices) {
            self.by_address.push((backend.address, *index));
            self.seats[index.position()] = Seat::Here(Backend {
                vip,
                address: backend.address,
                state: backend.state,
                takes,
                encap: tunnel(spec, backend.address)?,
            });
        }
        self.vips.push(Vip {
            name: spec.name.clone(),
            address: spec.address,
            echo: spec.echo,
            mss: spec.mss,
            index: vip,
            new_flows_per_second: spec.new_flows_per_second,
            hash: spec.hash,
            ring,
            members: placement.member_indices,
            backends: placement.indices.into(),
        });
        Ok(())
    }

    /// All VIPs are in it.
    pub(super) fn finish(mut self) -> Self {
        self.by_address.sort_unstable();
        self
    }

    /// Counts the snapshots of one [`Roster`], from 1.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many flows are remembered, and how long.
    #[must_use]
    pub const fn flow_limits(&self) -> &FlowLimits {
        &self.flow_limits
    }

    /// All VIPs, in the order of the configuration.
    #[must_use]
    pub fn vips(&self) -> &[Vip] {
        &self.vips
    }

    /// The backends of all VIPs, in the order of the configuration.
    pub fn backends(&self) -> impl Iterator<Item = (BackendIndex, &Backend)> {
        let indices = self.vips.iter().flat_map(|vip| &vip.backends);
        indices.filter_map(|&index| Some((index, self.backend(index)?)))
    }

    /// The backends with this address, one for each VIP that it serves.
    pub fn backends_at(&self, address: IpAddr) -> impl Iterator<Item = (BackendIndex, &Backend)> {
        let first = self.by_address.partition_point(|&(at, _)| at < address);
        let here = self.by_address[first..].iter();
        here.take_while(move |&&(at, _)| at == address)
            .filter_map(|&(_, index)| Some((index, self.backend(index)?)))
    }

    /// The backend that holds `index`; `None` when it is not configured any more.
    #[must_use]
    pub fn backend(&self, index: BackendIndex) -> Option<&Backend> {
        match self.seats.get(index.position())? {
            Seat::Here(backend) => Some(backend),
            Seat::Left(_) => None,
        }
    }

    /// All indices are below it.
    #[must_use]
    pub fn index_bound(&self) -> usize {
        self.seats.len()
    }

    /// The backend of `vip` that a flow stays with which was with `known`: that one, or the same
    /// host where the flow now belongs to another VIP. `None`: it has to move.
    #[must_use]
    pub fn stays_with(&self, vip: &Vip, known: BackendIndex) -> Option<BackendIndex> {
        let address = match self.seats.get(known.position())? {
            Seat::Here(backend) if backend.vip == vip.index => {
                return (backend.takes != Takes::Nothing).then_some(known);
            }
            Seat::Here(backend) => backend.address,
            Seat::Left(address) => *address,
        };
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
        let exact = std::num::NonZeroU16::new(flow.destination_port).map(PortMatch::Exact);
        exact
            .into_iter()
            .chain([PortMatch::Any])
            .find_map(|port| {
                self.services.get(&Service {
                    address: flow.destination,
                    port,
                    protocol: flow.protocol,
                })
            })
            .map(|&index| self.vip(index))
    }

    /// What was learnt of the paths to the backends: the one part that changes.
    #[must_use]
    pub fn path_mtus(&self) -> &PathMtus {
        &self.path_mtus
    }

    /// The first VIP with this address, whatever its port and protocol.
    #[must_use]
    pub fn find_address(&self, address: IpAddr) -> Option<&Vip> {
        self.addresses.get(&address).map(|&index| self.vip(index))
    }

    /// The VIP that a packet is addressed to: that of its flow, else the first one with its address.
    #[must_use]
    pub fn addressed_vip(&self, packet: &Packet<'_>) -> Option<&Vip> {
        let of_flow = packet.flow().and_then(|flow| self.find_vip(&flow));
        of_flow.or_else(|| self.find_address(packet.destination()))
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
        let ring = vip.ring.as_deref()?;
        let slot = ring.slot(hash);
        let backend = *vip.members.get(usize::from(ring.backend(slot)))?;
        Some(Choice { backend, slot })
    }
}

impl Tunnels for Snapshot {
    fn tunnel(&self, TunnelId(number): TunnelId) -> Option<&Encap> {
        Some(&self.backend(BackendIndex(number))?.encap)
    }

    fn bound(&self) -> u32 {
        u32::try_from(self.seats.len()).unwrap_or(u32::MAX)
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
