//! Which VIP a packet is for: by address, port and protocol, packed into one key.

use std::net::IpAddr;
use std::num::NonZeroU16;

use ahash::RandomState;
use hashbrown::HashMap;

use super::indices::VipIndex;
use super::spec::{PortMatch, VipSpec};
use crate::packet::{FlowKey, Protocol};

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

/// The services of a snapshot's VIPs, in their order; shared by snapshots that have the same.
#[derive(Debug)]
pub(super) struct Services {
    list: Vec<Service>,
    vips: HashMap<PackedService, VipIndex, RandomState>,
    /// The first VIP of each address, and whether it is the only one.
    addresses: HashMap<IpAddr, (VipIndex, bool), RandomState>,
    generation: u16,
}

/// An address in two words; port, protocol and family in the third. Port 0 is any: no VIP has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct PackedService([u64; 3]);

impl PackedService {
    fn new(address: IpAddr, port: Option<NonZeroU16>, protocol: Protocol) -> Self {
        let (bits, family) = match address {
            IpAddr::V4(v4) => (v4.to_bits().into(), 4),
            IpAddr::V6(v6) => (v6.to_bits(), 6),
        };
        let [a, b, c, d, e, f, g, h, low @ ..] = u128::to_be_bytes(bits);
        let high = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let port = port.map_or(0, NonZeroU16::get);
        let rest = u64::from(port) << 16 | u64::from(protocol.number()) << 8 | family;
        Self([high, u64::from_be_bytes(low), rest])
    }

    fn of(service: &Service) -> Self {
        let port = match service.port {
            PortMatch::Any => None,
            PortMatch::Exact(port) => Some(port),
        };
        Self::new(service.address, port, service.protocol)
    }
}

impl Services {
    /// # Errors
    /// The position of a service that an earlier one equals.
    pub(super) fn new(list: Vec<Service>, generation: u16) -> Result<Self, usize> {
        // Keys come from the operator, not from packets: nothing to defend against.
        let hasher = RandomState::with_seeds(0, 0, 0, 0);
        let mut vips = HashMap::with_capacity_and_hasher(list.len(), hasher.clone());
        let mut addresses = HashMap::with_hasher(hasher);
        for (position, service) in list.iter().enumerate() {
            let index = VipIndex::at(position);
            if vips.insert(PackedService::of(service), index).is_some() {
                return Err(position);
            }
            addresses
                .entry(service.address)
                .and_modify(|(_, is_alone)| *is_alone = false)
                .or_insert((index, true));
        }
        Ok(Self {
            list,
            vips,
            addresses,
            generation,
        })
    }

    /// In the order of the VIPs.
    pub(super) fn list(&self) -> &[Service] {
        &self.list
    }

    /// Services that differ have another one, until 65,535 further changes. Never 0.
    pub(super) const fn generation(&self) -> u16 {
        self.generation
    }

    /// The VIP of a flow: exact port first, then any port.
    pub(super) fn find(&self, flow: &FlowKey) -> Option<VipIndex> {
        let find = |port| {
            let key = PackedService::new(flow.destination, port, flow.protocol);
            self.vips.get(&key).copied()
        };
        let exact = NonZeroU16::new(flow.destination_port).and_then(|port| find(Some(port)));
        exact.or_else(|| find(None))
    }

    /// The first VIP with this address, whatever its port and protocol.
    pub(super) fn at_address(&self, address: IpAddr) -> Option<VipIndex> {
        self.addresses.get(&address).map(|&(index, _)| index)
    }

    /// The VIP with this address, where no other one has it.
    pub(super) fn alone_at(&self, address: IpAddr) -> Option<VipIndex> {
        let &(index, is_alone) = self.addresses.get(&address)?;
        is_alone.then_some(index)
    }
}
