//! What the packet path reads: VIPs, their rings and tunnels. Immutable; swapped whole.

use std::net::IpAddr;

use ahash::RandomState;
use hashbrown::{HashMap, HashSet};

use super::ring::{MAX_MEMBERS, Ring, RingMember};
use super::selection::SelectionHash;
use super::spec::{BackendSpec, BackendState, HashFields, HashKey, PortMatch, RingSize, VipSpec};
use crate::packet::{Encap, FlowKey, Protocol};

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
    addresses: HashSet<IpAddr, RandomState>,
    selection: SelectionHash,
}

impl Snapshot {
    /// Builds rings and the VIP index. `tunnel` gives the outer header for a backend's address.
    ///
    /// # Errors
    /// [`SnapshotError`] for sets that validation of the configuration would have refused.
    pub fn build(
        vips: &[VipSpec],
        key: &HashKey,
        ring_size: RingSize,
        mut tunnel: impl FnMut(IpAddr) -> Encap,
    ) -> Result<Self, SnapshotError> {
        // Keys come from the operator, not from packets: nothing to defend against.
        let hasher = RandomState::with_seeds(0, 0, 0, 0);
        let mut snapshot = Self {
            vips: Vec::with_capacity(vips.len()),
            backends: Vec::new(),
            services: HashMap::with_hasher(hasher.clone()),
            addresses: HashSet::with_hasher(hasher),
            selection: SelectionHash::new(key),
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
        tunnel: &mut impl FnMut(IpAddr) -> Encap,
    ) -> Result<(), SnapshotError> {
        let index = VipIndex(position(self.vips.len()));
        let key = (spec.address, spec.port, spec.protocol);
        if self.services.insert(key, index).is_some() {
            return Err(SnapshotError::DuplicateVip {
                vip: spec.name.clone(),
            });
        }
        self.addresses.insert(spec.address);
        self.vips.push(Vip {
            name: spec.name.clone(),
            hash: spec.hash,
            ring,
            first_backend: position(self.backends.len()),
        });
        self.backends
            .extend(spec.backends.iter().map(|backend| Backend {
                vip: index,
                address: backend.address,
                state: backend.state,
                encap: tunnel(backend.address),
            }));
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

    /// Whether any VIP has this address, whatever its port and protocol.
    #[must_use]
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// The ring's choice for a new flow; `None` while no backend takes new flows.
    #[must_use]
    pub fn choose(&self, vip: &Vip, flow: &FlowKey) -> Option<BackendIndex> {
        let ring = vip.ring.as_ref()?;
        let slot = ring.slot(self.selection.hash(flow, vip.hash));
        Some(BackendIndex(
            vip.first_backend + u32::from(ring.backend(slot)),
        ))
    }
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
