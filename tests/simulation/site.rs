//! What is configured and measured at a moment of the day, how it changes, and which flows each
//! backend has to take by it: told anew, without the director's own code.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use tunlb::director::{
    AllDown, BackendSpec, BackendState, Echo, HashFields, Health, Mss, PortMatch, Protocol,
    Service, Snapshot, Takes, VipSpec,
};
use tunlb::packet::{EncapKind, FlowKey};

use crate::random::Random;

/// Where clients send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
}

const fn v4(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, last))
}

const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10));

const fn target(address: IpAddr, port: u16, protocol: Protocol) -> Target {
    Target {
        address,
        port,
        protocol,
    }
}

/// All backends of its VIP fail together once, and all are trusted then.
pub(crate) const WEB: Target = target(v4(10), 80, Protocol::Tcp);
/// By the client's address. All backends fail together once, and then everything is dropped.
pub(crate) const DNS: Target = target(v4(10), 53, Protocol::Udp);
/// Its VIP has a limit of new flows.
pub(crate) const API: Target = target(v4(12), 80, Protocol::Tcp);
/// Of the VIP with any port, and for parts of the day one of its own.
const EXACT: Target = target(v4(11), 443, Protocol::Tcp);
const ANY: Target = target(v4(11), 8080, Protocol::Tcp);
const SIX: Target = target(V6, 80, Protocol::Tcp);
/// Its VIP comes and goes.
const EXTRA: Target = target(v4(13), 80, Protocol::Tcp);

/// As often as clients want them.
pub(crate) const TARGETS: [Target; 20] = [
    WEB, WEB, WEB, WEB, WEB, WEB, DNS, DNS, DNS, DNS, EXACT, EXACT, EXACT, ANY, ANY, SIX, SIX, API,
    API, EXTRA,
];

/// More backends than a VIP ever has.
const MOST_BACKENDS: usize = 16;
/// Backends' addresses: so few that those who left come back.
const ADDRESSES: u64 = 30;

/// Who an index belongs to.
pub(crate) type Identity = (Service, IpAddr);

/// What is configured and measured.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) vips: Vec<VipSpec>,
    unhealthy: HashSet<Identity>,
    /// Services of which no backend answers.
    down: HashSet<Service>,
}

impl Site {
    /// The morning's, in which the VIP with a limit takes so many new flows a second.
    pub(crate) fn new(random: &mut Random, new_flows_per_second: u32) -> Self {
        let any = Target { port: 0, ..ANY };
        let mut site = Self {
            vips: vec![
                vip("web", &WEB),
                vip("dns", &DNS),
                vip("any", &any),
                vip("six", &SIX),
                vip("api", &API),
            ],
            unhealthy: HashSet::new(),
            down: HashSet::new(),
        };
        site.vips[1].hash = HashFields::SourceAddress;
        site.vips[1].all_down = AllDown::Drop;
        site.vips[4].new_flows_per_second = NonZeroU32::new(new_flows_per_second);
        for vip in &mut site.vips {
            (0..8).for_each(|_| add_backend(random, vip));
        }
        site
    }

    pub(crate) fn health(&self, vip: &VipSpec, backend: IpAddr) -> Health {
        let service = Service::of(vip);
        if self.down.contains(&service) || self.unhealthy.contains(&(service, backend)) {
            Health::Unhealthy
        } else {
            Health::Healthy
        }
    }

    /// Which flows each backend of a VIP has to take.
    fn takes(&self, vip: &VipSpec) -> Vec<Takes> {
        let in_ring =
            |backend: &BackendSpec| backend.state == BackendState::Active && backend.weight > 0;
        let healthy = |backend: &BackendSpec| self.health(vip, backend.address) == Health::Healthy;
        let nobody = !vip
            .backends
            .iter()
            .any(|backend| in_ring(backend) && healthy(backend));
        let trusting = nobody && vip.all_down == AllDown::Forward;
        let one = |backend: &BackendSpec| match backend.state {
            BackendState::Disabled => Takes::Nothing,
            _ if !trusting && !healthy(backend) => Takes::Nothing,
            _ if in_ring(backend) => Takes::NewFlows,
            BackendState::Active | BackendState::Draining => Takes::KnownFlows,
        };
        vip.backends.iter().map(one).collect()
    }

    /// All backends of the VIP that has this target answer no more, or do again.
    pub(crate) fn set_down(&mut self, target: &Target, down: bool) {
        let service = service(target);
        if down {
            self.down.insert(service);
        } else {
            self.down.remove(&service);
        }
    }

    /// A backend's health changes; few are unhealthy at once.
    pub(crate) fn flap(&mut self, random: &mut Random) {
        if self.unhealthy.len() > 6 {
            let one = *self
                .unhealthy
                .iter()
                .min_by_key(|(_, address)| *address)
                .unwrap();
            self.unhealthy.remove(&one);
            return;
        }
        let vip = random.of(&self.vips);
        let one = (Service::of(vip), random.of(&vip.backends).address);
        if !self.unhealthy.remove(&one) {
            self.unhealthy.insert(one);
        }
    }

    /// The operator's next idea.
    pub(crate) fn change(&mut self, random: &mut Random) {
        let position = random.position(self.vips.len());
        let vip = &mut self.vips[position];
        let one = random.position(vip.backends.len());
        match random.between(1, 12) {
            1 | 2 => set_state(&mut vip.backends[one], BackendState::Draining),
            3 => set_state(&mut vip.backends[one], BackendState::Disabled),
            4 | 5 => {
                let disabled = |backend: &&mut BackendSpec| backend.state == BackendState::Disabled;
                if let Some(backend) = vip.backends.iter_mut().find(disabled) {
                    backend.state = BackendState::Active;
                }
            }
            6 => vip.backends[one].weight = u16::try_from(random.between(0, 9)).unwrap(),
            7 | 8 => add_backend(random, vip),
            9 if vip.backends.len() > 4 => drop(vip.backends.remove(one)),
            10 => self.toggle(random, "exact", &EXACT),
            11 => self.toggle(random, "extra", &EXTRA),
            _ => {
                vip.name = format!("renamed-{}", random.between(0, 1 << 32));
                vip.backends.rotate_left(one);
            }
        }
    }

    /// What the operator does with a backend that is drained.
    pub(crate) fn drained(&mut self, random: &mut Random, (service, address): Identity) {
        let vip = self.vips.iter_mut().find(|vip| Service::of(vip) == service);
        let vip = vip.unwrap();
        let position = vip
            .backends
            .iter()
            .position(|backend| backend.address == address);
        let position = position.unwrap();
        if random.percent(50) && vip.backends.len() > 4 {
            vip.backends.remove(position);
        } else {
            vip.backends[position].state = BackendState::Active;
        }
    }

    /// A VIP comes, at any place in the file, or goes. Half of its backends are the neighbour's.
    fn toggle(&mut self, random: &mut Random, name: &str, target: &Target) {
        let service = service(target);
        let before = self.vips.len();
        self.vips.retain(|vip| Service::of(vip) != service);
        if self.vips.len() < before {
            return;
        }
        let mut vip = vip(name, target);
        let neighbour = self.vips.iter().find(|vip| vip.address == target.address);
        vip.backends = neighbour.map_or(Vec::new(), |vip| vip.backends[..4].to_vec());
        (0..4).for_each(|_| add_backend(random, &mut vip));
        self.vips.insert(random.position(before + 1), vip);
    }
}

fn service(target: &Target) -> Service {
    Service {
        address: target.address,
        port: NonZeroU16::new(target.port).map_or(PortMatch::Any, PortMatch::Exact),
        protocol: target.protocol,
    }
}

fn vip(name: &str, target: &Target) -> VipSpec {
    let Service {
        address,
        port,
        protocol,
    } = service(target);
    VipSpec {
        name: name.into(),
        address,
        port,
        protocol,
        hash: HashFields::FiveTuple,
        echo: Echo::Reply,
        mss: Mss::Keep,
        all_down: AllDown::Forward,
        min_healthy: 0,
        probing: None,
        new_flows_per_second: None,
        encap: EncapKind::Ipip,
        backends: Vec::new(),
    }
}

fn add_backend(random: &mut Random, vip: &mut VipSpec) {
    let last = u8::try_from(random.between(1, ADDRESSES)).unwrap();
    let address = IpAddr::from([10, 0, 1, last]);
    let known = vip
        .backends
        .iter()
        .any(|backend| backend.address == address);
    if !known && vip.backends.len() < MOST_BACKENDS {
        vip.backends.push(BackendSpec {
            address,
            weight: u16::try_from(random.between(1, 5)).unwrap(),
            state: BackendState::Active,
        });
    }
}

/// Of an active backend; drains go on to their end.
fn set_state(backend: &mut BackendSpec, state: BackendState) {
    if backend.state == BackendState::Active {
        backend.state = state;
    }
}

/// A site as a snapshot tells it to workers, and as the model sees it.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) site: Site,
    takes: Vec<Vec<Takes>>,
}

impl View {
    pub(crate) fn new(snapshot: Arc<Snapshot>, site: Site) -> Self {
        let takes = site.vips.iter().map(|vip| site.takes(vip)).collect();
        Self {
            snapshot,
            site,
            takes,
        }
    }

    /// The position of the VIP that a flow belongs to.
    pub(crate) fn vip(&self, key: &FlowKey) -> Option<usize> {
        let of = |port| {
            self.site.vips.iter().position(|vip| {
                (vip.address, vip.port, vip.protocol) == (key.destination, port, key.protocol)
            })
        };
        let exact = NonZeroU16::new(key.destination_port).map(PortMatch::Exact);
        exact.and_then(of).or_else(|| of(PortMatch::Any))
    }

    /// Which flows a backend of the VIP at `position` takes; `None` where it is not configured.
    pub(crate) fn takes(&self, position: usize, backend: IpAddr) -> Option<Takes> {
        let backends = &self.site.vips[position].backends;
        let at = backends.iter().position(|other| other.address == backend)?;
        Some(self.takes[position][at])
    }

    /// Whether a backend of the VIP at `position` takes new flows.
    pub(crate) fn has_takers(&self, position: usize) -> bool {
        self.takes[position].contains(&Takes::NewFlows)
    }

    /// What the operator wants of a backend.
    pub(crate) fn state(&self, position: usize, backend: IpAddr) -> Option<BackendState> {
        let mut backends = self.site.vips[position].backends.iter();
        Some(backends.find(|other| other.address == backend)?.state)
    }
}
