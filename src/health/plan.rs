//! What is to be measured, and by which way.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::gauge::{Counts, Gauge, Gauges};
use super::inquest::unspecified;
use super::ports;
use crate::config::Config;
use crate::director::{
    BackendIndex, BackendState, CounterReader, PortMatch, ProbeEnds, Snapshot, VipSpec,
};
use crate::io::netlink::{PROBE_METRIC, ProbeRoute};
use crate::packet::Protocol;
use crate::probe::{Check, ProbedBy, Target, Via};
use crate::site::{Paths, SMALLEST_IPV6_MTU};

/// By what the routes of one process's probes are told from another's beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Apart {
    /// Of IPv4 packets on their way into the probe device; it is 0 again before they leave.
    pub tos: u8,
    /// Of the routes.
    pub metric: u32,
}

impl Apart {
    /// Of a director.
    pub const DIRECTOR: Self = Self {
        tos: 0,
        metric: PROBE_METRIC,
    };
    /// Of a look from beside it. An IPv6 route of this one takes the director's probes, too, which then count for
    /// nothing.
    pub const LOOK: Self = Self {
        tos: 0x10,
        metric: PROBE_METRIC - 1,
    };
}

/// All that is measured.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Counts plans.
    pub number: u64,
    /// The backends.
    pub probed: Vec<Probed>,
    /// Bytes of the longest packet that fits every tunnel.
    pub mtu: u32,
    /// What the workers count, by the indices of the backends.
    pub counters: CounterReader,
    /// From where probes are sent through tunnels.
    sources: HashSet<IpAddr>,
    /// What the thread counts.
    pub(super) counts: Arc<Counts>,
}

/// One backend of one VIP that is measured.
#[derive(Debug, Clone)]
pub struct Probed {
    /// Which.
    pub target: Target,
    /// By what.
    pub check: Arc<Check>,
    /// Where the snapshot has it.
    pub backend: BackendIndex,
    /// The VIP's address.
    pub vip: IpAddr,
    /// What is probed, and its port; 0 for what has no port.
    pub destination: SocketAddr,
    /// How often packets of full size are sent; `None`: never.
    pub mtu_check: Option<Duration>,
    /// The inner source; `None` where this host has none.
    pub source: Option<IpAddr>,
    /// Bytes of the longest packet that fits its tunnel.
    pub longest: u32,
    /// Whether clients of the VIP open connections, which show that backends answer.
    pub has_connections: bool,
    /// Where others read what was measured.
    pub gauge: Arc<Gauge>,
}

impl Plan {
    /// What `config` wants measured. What was measured of a backend whose check stays the same stays in its gauge.
    #[must_use]
    pub fn new(
        number: u64,
        config: &Config,
        paths: &Paths,
        snapshot: &Snapshot,
        before: &Gauges,
    ) -> Self {
        let mut probed = Vec::new();
        let checked = config.vips.iter().zip(snapshot.vips());
        for (spec, vip) in checked {
            let Some((name, check, port)) = check_of(spec) else {
                continue;
            };
            for (backend, &index) in spec.backends.iter().zip(vip.backends()) {
                if backend.state == BackendState::Disabled {
                    continue;
                }
                let target = Target {
                    vip: Arc::clone(&name),
                    address: backend.address,
                };
                let own = paths.inner_source(spec.address, backend.address);
                let (address, source) = match check.via {
                    Via::Tunnel => (spec.address, check.source.or(own)),
                    Via::Direct => (backend.address, Some(unspecified(backend.address))),
                };
                probed.push(Probed {
                    gauge: before.going_on(&target, &check),
                    target,
                    check: Arc::clone(&check),
                    mtu_check: spec.probing.as_ref().and_then(|probing| probing.mtu_check),
                    backend: index,
                    vip: spec.address,
                    destination: SocketAddr::new(address, port),
                    source,
                    longest: paths.room(spec, backend.address),
                    has_connections: spec.protocol == Protocol::Tcp,
                });
            }
        }
        let measured = |vip: &&VipSpec| check_of(vip).is_some();
        let rooms = paths.inner_mtus(config);
        let rooms = config
            .vips
            .iter()
            .filter(measured)
            .filter_map(|vip| rooms.get(&vip.address));
        let mtu = rooms.min().copied().unwrap_or(SMALLEST_IPV6_MTU);
        let tunnelled = probed.iter().filter(|probed| probed.is_tunnelled());
        Self {
            number,
            sources: tunnelled.filter_map(|probed| probed.source).collect(),
            probed,
            mtu: mtu.max(SMALLEST_IPV6_MTU),
            counters: CounterReader::default(),
            counts: Arc::clone(before.counts()),
        }
    }

    /// Whether probes are sent from that address.
    pub(super) fn has_source(&self, address: IpAddr) -> bool {
        self.sources.contains(&address)
    }

    /// The routes that its probes take.
    pub(super) fn routes(&self, apart: Apart) -> impl Iterator<Item = ProbeRoute> {
        let tunnelled = self.probed.iter().filter(|probed| probed.is_tunnelled());
        let routes = tunnelled.filter_map(move |probed| {
            let (vip, source) = (probed.destination.ip(), probed.source?);
            Some(ProbeRoute {
                vip,
                source: vip.is_ipv6().then_some(source),
                tos: if vip.is_ipv4() { apart.tos } else { 0 },
                metric: apart.metric,
            })
        });
        routes.collect::<BTreeSet<_>>().into_iter()
    }

    /// Where others read what is measured.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let gauges = self.probed.iter();
        let gauges = gauges.map(|probed| (probed.target.clone(), Arc::clone(&probed.gauge)));
        Gauges::new(gauges, Arc::clone(&self.counts))
    }
}

impl Probed {
    /// Whether its probes go through the tunnel.
    pub(super) fn is_tunnelled(&self) -> bool {
        self.check.via == Via::Tunnel
    }
}

/// From where probes of `config` are sent.
#[must_use]
pub fn probe_ends(config: &Config, paths: &Paths) -> ProbeEnds {
    let mut sources = BTreeSet::new();
    for spec in &config.vips {
        let Some((_, check, _)) = check_of(spec) else {
            continue;
        };
        if check.via == Via::Direct || check.kind.protocol() != Some(Protocol::Tcp) {
            continue;
        }
        match check.source {
            Some(source) => drop(sources.insert(source)),
            None => sources.extend(
                spec.backends
                    .iter()
                    .filter_map(|backend| paths.inner_source(spec.address, backend.address)),
            ),
        }
    }
    if sources.is_empty() {
        return ProbeEnds::default();
    }
    ProbeEnds::new(sources, ports::range())
}

/// The name of a VIP that sends probes, what they are, and to which port.
fn check_of(vip: &VipSpec) -> Option<(Arc<str>, Arc<Check>, u16)> {
    let ProbedBy::Check(check) = &vip.probing.as_ref()?.by else {
        return None;
    };
    let own = match vip.port {
        PortMatch::Exact(port) => port.get(),
        PortMatch::Any => 0,
    };
    let port = match check.kind.protocol() {
        Some(_) => check.port.map_or(own, std::num::NonZeroU16::get),
        None => 0,
    };
    Some((vip.name.as_str().into(), Arc::clone(check), port))
}
