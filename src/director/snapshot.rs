//! What the packet path reads: VIPs, their rings and tunnels. Immutable; swapped whole.

use std::net::IpAddr;

use ahash::RandomState;
use hashbrown::HashMap;

use super::path_mtu::PathMtus;
use super::ring::{MAX_MEMBERS, Ring, RingMember, Slot};
use super::selection::SelectionHash;
use super::spec::{
    BackendSpec, BackendState, Echo, HashFields, HashKey, PortMatch, RingSize, VipSpec,
};
use crate::packet::{Encap, FamilyMismatch, FlowKey, Protocol};

/// A VIP's position in [`Snapshot::vips`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VipIndex(u32);

/// A backend's position in [`Snapshot::backends`], over all VIPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BackendIndex(u32);

impl VipIndex {
    /// The position as an array index.
    #[must_use]
    pub const fn position(self) -> usize {
        self.0 as usize
    }
}

impl BackendIndex {
    /// The backend at `position` of [`Snapshot::backends`].
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

/// One VIP as the packet path sees it.
#[derive(Debug, Clone)]
pub struct Vip {
    /// The operator's name for it.
    pub name: String,
    /// What happens to echo requests for its address.
    pub echo: Echo,
    hash: HashFields,
    /// `None` while no backend takes new flows.
    ring: Option<Ring>,
    /// Position of its first backend; a ring slot holds the distance from it.
    first_backend: u32,
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
    /// The tunnel to it.
    pub encap: Encap,
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

type VipKey = (IpAddr, PortMatch, Protocol);

/// VIPs, rings and tunnels at one moment.
#[derive(Debug)]
pub struct Snapshot {
    vips: Vec<Vip>,
    backends: Vec<Backend>,
    services: HashMap<VipKey, VipIndex, RandomState>,
    /// The first VIP of each address.
    addresses: HashMap<IpAddr, VipIndex, RandomState>,
    selection: SelectionHash,
    path_mtus: PathMtus,
}

impl Snapshot {
    /// Builds rings and the VIP index. `tunnel` gives the outer header for a backend of a VIP.
    ///
    /// # Errors
    /// [`SnapshotError`] for sets that validation of the configuration would have refused.
    pub fn build(
        vips: &[VipSpec],
        key: &HashKey,
        ring_size: RingSize,
        mut tunnel: impl FnMut(&VipSpec, IpAddr) -> Result<Encap, FamilyMismatch>,
    ) -> Result<Self, SnapshotError> {
        // Keys come from the operator, not from packets: nothing to defend against.
        let hasher = RandomState::with_seeds(0, 0, 0, 0);
        let mut snapshot = Self {
            vips: Vec::with_capacity(vips.len()),
            backends: Vec::new(),
            services: HashMap::with_hasher(hasher.clone()),
            addresses: HashMap::with_hasher(hasher),
            selection: SelectionHash::new(key),
            path_mtus: PathMtus::new(vips.iter().map(|vip| vip.backends.len()).sum()),
        };
        for spec in vips {
            let ring = Ring::build(ring_size, key, &members(spec)?);
            snapshot.add(spec, ring, &mut tunnel)?;
        }
        Ok(snapshot)
    }

    fn add(
        &mut self,
        spec: &VipSpec,
        ring: Option<Ring>,
        tunnel: &mut impl FnMut(&VipSpec, IpAddr) -> Result<Encap, FamilyMismatch>,
    ) -> Result<(), SnapshotError> {
        let index = VipIndex(position(self.vips.len()));
        let key = (spec.address, spec.port, spec.protocol);
        if self.services.insert(key, index).is_some() {
            return Err(SnapshotError::DuplicateVip {
                vip: spec.name.clone(),
            });
        }
        self.addresses.entry(spec.address).or_insert(index);
        self.vips.push(Vip {
            name: spec.name.clone(),
            echo: spec.echo,
            hash: spec.hash,
            ring,
            first_backend: position(self.backends.len()),
        });
        for backend in &spec.backends {
            self.backends.push(Backend {
                vip: index,
                address: backend.address,
                state: backend.state,
                encap: tunnel(spec, backend.address)?,
            });
        }
        Ok(())
    }

    /// All VIPs, in the order of the configuration.
    #[must_use]
    pub fn vips(&self) -> &[Vip] {
        &self.vips
    }

    /// The backends of all VIPs, each VIP's together.
    #[must_use]
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// The backend at `index`, which is of this snapshot.
    #[must_use]
    pub fn backend(&self, index: BackendIndex) -> &Backend {
        &self.backends[index.position()]
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
            .find_map(|port| self.services.get(&(flow.destination, port, flow.protocol)))
            .map(|&index| self.vip(index))
    }

    /// What was learnt of the paths to the backends: the one part that changes.
    #[must_use]
    pub const fn path_mtus(&self) -> &PathMtus {
        &self.path_mtus
    }

    /// The first VIP with this address, whatever its port and protocol.
    #[must_use]
    pub fn find_address(&self, address: IpAddr) -> Option<&Vip> {
        self.addresses.get(&address).map(|&index| self.vip(index))
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
        let ring = vip.ring.as_ref()?;
        let slot = ring.slot(hash);
        let backend = BackendIndex(vip.first_backend + u32::from(ring.backend(slot)));
        Some(Choice { backend, slot })
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

/// A VIP's backends as its ring sees them: only active ones take slots.
fn members(spec: &VipSpec) -> Result<Vec<RingMember>, SnapshotError> {
    let too_many = || SnapshotError::TooManyBackends {
        vip: spec.name.clone(),
        backends: spec.backends.len(),
    };
    if spec.backends.len() > MAX_MEMBERS {
        return Err(too_many());
    }
    let takes_flows = |backend: &BackendSpec| backend.state == BackendState::Active;
    (0u16..)
        .zip(&spec.backends)
        .filter(|(_, backend)| takes_flows(backend))
        .map(|(index, backend)| {
            Ok(RingMember {
                address: backend.address,
                weight: backend.weight,
                index,
            })
        })
        .collect()
}

/// A position that fits an index; a configuration of 2³² VIPs or backends does not fit memory.
fn position(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
