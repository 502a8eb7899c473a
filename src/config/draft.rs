//! A configuration that was read but not yet judged as a whole.
//!
//! The file and the flags both become a [`Draft`]; [`unsupported`](super::unsupported) and
//! [`relations`](super::relations) judge it; [`Draft::finish`] makes it a [`Config`]. A value that
//! was written wrongly is `None` here and already has its problem; a value that was not written has
//! its default.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::{NonZeroU8, NonZeroU16, NonZeroU32, NonZeroUsize};
use std::time::Duration;

use super::health::HealthDraft;
use super::problem::{Site, Written};
use super::source::SourceChoice;
use super::value::{Choice, DEFAULT_GUE_PORT};
use super::workers::{self, Cpus, WorkerCount};
use super::{
    ApiSocket, Compat, Config, Datapath, DirectorConfig, Egress, EncapConfig, Group, Interfaces,
    MetricsConfig, MetricsListener, Neighbour, XdpMode,
};
use crate::director::{
    AllDown, BackendSpec, BackendState, Echo, FlowLimits, FlowTimeouts, HashFields, HashKey, Mss,
    PortMatch, Protocol, RingSize, VipSpec,
};
use crate::packet::EncapKind;

/// `None` where the value has a problem.
pub(super) type Field<T> = Option<Written<T>>;
/// `None` where the value has a problem or was left out.
pub(super) type Extra<T> = Option<Written<T>>;
/// `None` where the value has a problem, `Some(None)` where it was left out.
pub(super) type Optional<T> = Option<Option<Written<T>>>;

/// The whole configuration.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) director: DirectorDraft,
    pub(super) metrics: MetricsDraft,
    pub(super) vips: Vec<VipDraft>,
    /// Where a VIP would have been named, for saying that there is none.
    pub(super) site: Site,
}

/// `[director]`
#[derive(Debug)]
pub(super) struct DirectorDraft {
    pub(super) tun: Field<String>,
    pub(super) workers: Field<WorkerCount>,
    pub(super) cpus: Field<Cpus>,
    pub(super) busy_poll: Field<Duration>,
    pub(super) queue_length: Field<u32>,
    pub(super) datapath: Field<Datapath>,
    pub(super) interface: Optional<Interfaces>,
    pub(super) xdp_mode: Field<XdpMode>,
    pub(super) egress: Field<Egress>,
    pub(super) neighbour: Field<Neighbour>,
    pub(super) api: Field<ApiSocket>,
    pub(super) api_group: Extra<Group>,
    pub(super) metrics: Field<MetricsListener>,
    pub(super) hash_key: Field<HashKey>,
    pub(super) ring_size: Field<RingSize>,
    pub(super) flows: Field<NonZeroUsize>,
    pub(super) timeouts: TimeoutsDraft,
    pub(super) encap: EncapDraft,
}

/// `[metrics]`
#[derive(Debug, Default)]
pub(super) struct MetricsDraft {
    pub(super) per_backend: Extra<bool>,
    pub(super) compat: Extra<Vec<Compat>>,
}

/// `[director.timeouts]`
#[derive(Debug)]
pub(super) struct TimeoutsDraft {
    pub(super) half_open: Field<Duration>,
    pub(super) established: Field<Duration>,
    pub(super) closing: Field<Duration>,
    pub(super) reset: Field<Duration>,
    pub(super) udp: Field<Duration>,
}

/// `[director.encap]`
#[derive(Debug)]
pub(super) struct EncapDraft {
    pub(super) tunnel: TunnelDraft,
    pub(super) source: Field<SourceChoice>,
    pub(super) ttl: Field<NonZeroU8>,
}

/// The kind of tunnel, of `[director.encap]` or `[vip.encap]`.
#[derive(Debug, Clone)]
pub(super) struct TunnelDraft {
    /// The port in it is the default one.
    pub(super) kind: Optional<EncapKind>,
    pub(super) port: Optional<NonZeroU16>,
}

/// `[[vip]]`
#[derive(Debug)]
pub(super) struct VipDraft {
    pub(super) site: Site,
    pub(super) name: Optional<String>,
    pub(super) address: Field<IpAddr>,
    pub(super) port: Field<PortMatch>,
    pub(super) protocol: Field<Protocol>,
    pub(super) hash: Field<HashFields>,
    pub(super) echo: Optional<Echo>,
    pub(super) mss: Field<Mss>,
    pub(super) all_down: Field<AllDown>,
    /// In percent.
    pub(super) min_healthy: Field<u8>,
    pub(super) new_flows_per_second: Optional<NonZeroU32>,
    pub(super) encap: TunnelDraft,
    pub(super) health: Option<HealthDraft>,
    pub(super) backends: Vec<BackendDraft>,
}

/// `[[vip.backend]]`
#[derive(Debug, Clone)]
pub(super) struct BackendDraft {
    pub(super) address: Field<IpAddr>,
    pub(super) weight: Field<u16>,
    pub(super) state: Field<BackendState>,
}

impl Choice for Egress {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("raw", Self::Raw),
        ("packet", Self::Packet),
        ("xsk", Self::Xsk),
    ];
}

impl Choice for EncapKind {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("ipip", Self::Ipip),
        (
            "gue",
            Self::Gue {
                port: DEFAULT_GUE_PORT,
            },
        ),
    ];
}

impl Choice for Echo {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("reply", Self::Reply),
        ("forward", Self::Forward),
        ("drop", Self::Drop),
    ];
}

impl Choice for Protocol {
    const NAMES: &'static [(&'static str, Self)] = &[("tcp", Self::Tcp), ("udp", Self::Udp)];
}

impl Choice for HashFields {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("5-tuple", Self::FiveTuple),
        ("source-address", Self::SourceAddress),
        ("destination-port", Self::DestinationPort),
    ];
}

impl Choice for AllDown {
    const NAMES: &'static [(&'static str, Self)] =
        &[("forward", Self::Forward), ("drop", Self::Drop)];
}

impl Choice for Mss {
    const NAMES: &'static [(&'static str, Self)] = &[("keep", Self::Keep), ("clamp", Self::Clamp)];
}

impl Choice for BackendState {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("active", Self::Active),
        ("draining", Self::Draining),
        ("disabled", Self::Disabled),
    ];
}

impl Draft {
    /// The configuration; `None` if a value has a problem or is not supported.
    pub(super) fn finish(&self) -> Option<Config> {
        let director = self.director.finish()?;
        let echoes = self.echoes();
        let vips = self.vips.iter().map(|vip| {
            let echo = echoes.get(&copy(&vip.address)?);
            let echo = echo.map_or(Echo::default(), |written| written.value);
            vip.finish(director.encap.kind, echo)
        });
        Some(Config {
            vips: vips.collect::<Option<_>>()?,
            director,
            metrics: self.metrics.finish(),
            exposed: None,
        })
    }

    /// What becomes of echo requests to each address, where a VIP says it; the first one counts.
    pub(super) fn echoes(&self) -> HashMap<IpAddr, &Written<Echo>> {
        let mut echoes = HashMap::new();
        for vip in &self.vips {
            if let (Some(address), Some(Some(echo))) = (&vip.address, &vip.echo) {
                echoes.entry(address.value).or_insert(echo);
            }
        }
        echoes
    }
}

impl DirectorDraft {
    /// The defaults, for a section that `parent` does not have.
    pub(super) fn default_at(parent: &Site) -> Self {
        let DirectorConfig {
            tun,
            cpus,
            busy_poll,
            queue_length,
            api,
            metrics,
            hash_key,
            ring_size,
            flows,
            ..
        } = DirectorConfig::default();
        let site = parent.absent("director");
        Self {
            tun: default(tun, &site),
            workers: default(workers::DEFAULT_COUNT, &site),
            cpus: default(cpus, &site),
            busy_poll: default(busy_poll, &site),
            queue_length: default(queue_length, &site),
            datapath: default(Datapath::Tun, &site),
            interface: Some(None),
            xdp_mode: default(XdpMode::Auto, &site),
            egress: default(Egress::Auto, &site),
            neighbour: default(Neighbour::Auto, &site),
            api: default(api, &site),
            api_group: None,
            metrics: default(metrics, &site),
            hash_key: default(hash_key, &site),
            ring_size: default(ring_size, &site),
            flows: default(flows.bound, &site),
            timeouts: TimeoutsDraft::default_at(&site),
            encap: EncapDraft::default_at(&site),
        }
    }

    fn finish(&self) -> Option<DirectorConfig> {
        let cpus = copy(&self.cpus)?;
        Some(DirectorConfig {
            tun: copy(&self.tun)?,
            workers: copy(&self.workers)?.number(&cpus),
            cpus,
            busy_poll: copy(&self.busy_poll)?,
            queue_length: copy(&self.queue_length)?,
            datapath: copy(&self.datapath)?,
            interfaces: self
                .interface
                .as_ref()?
                .as_ref()
                .map(|written| written.value.clone())
                .unwrap_or_default(),
            xdp_mode: copy(&self.xdp_mode)?,
            egress: copy(&self.egress)?,
            neighbour: copy(&self.neighbour)?,
            api: copy(&self.api)?,
            api_group: copy(&self.api_group),
            metrics: copy(&self.metrics)?,
            hash_key: copy(&self.hash_key)?,
            ring_size: copy(&self.ring_size)?,
            flows: FlowLimits {
                bound: copy(&self.flows)?,
                timeouts: self.timeouts.finish()?,
            },
            encap: self.encap.finish()?,
        })
    }
}

impl MetricsDraft {
    fn finish(&self) -> MetricsConfig {
        MetricsConfig {
            per_backend: copy(&self.per_backend),
            compat: copy(&self.compat).unwrap_or_default(),
        }
    }
}

impl TimeoutsDraft {
    /// The defaults, for a section that `parent` does not have.
    pub(super) fn default_at(parent: &Site) -> Self {
        let site = parent.absent("timeouts");
        let timeouts = FlowTimeouts::default();
        Self {
            half_open: default(timeouts.half_open, &site),
            established: default(timeouts.established, &site),
            closing: default(timeouts.closing, &site),
            reset: default(timeouts.reset, &site),
            udp: default(timeouts.udp, &site),
        }
    }

    fn finish(&self) -> Option<FlowTimeouts> {
        Some(FlowTimeouts {
            half_open: copy(&self.half_open)?,
            established: copy(&self.established)?,
            closing: copy(&self.closing)?,
            reset: copy(&self.reset)?,
            udp: copy(&self.udp)?,
        })
    }
}

impl EncapDraft {
    /// The defaults, for a section that `parent` does not have.
    pub(super) fn default_at(parent: &Site) -> Self {
        let site = parent.absent("encap");
        Self {
            tunnel: TunnelDraft::inherited(),
            source: default(SourceChoice::Auto, &site),
            ttl: default(EncapConfig::default().ttl, &site),
        }
    }

    fn finish(&self) -> Option<EncapConfig> {
        Some(EncapConfig {
            kind: self.tunnel.finish(EncapKind::default())?,
            source: copy(&self.source)?.source(),
            ttl: copy(&self.ttl)?,
        })
    }
}

impl TunnelDraft {
    /// Nothing written: the kind and port of the section above.
    pub(super) const fn inherited() -> Self {
        Self {
            kind: Some(None),
            port: Some(None),
        }
    }

    /// What is written here, over what is `inherited`.
    pub(super) fn finish(&self, inherited: EncapKind) -> Option<EncapKind> {
        let kind = copy(self.kind.as_ref()?);
        let port = copy(self.port.as_ref()?);
        Some(match (kind.unwrap_or(inherited), inherited, port) {
            (EncapKind::Ipip, ..) => EncapKind::Ipip,
            (EncapKind::Gue { .. }, _, Some(port)) | (_, EncapKind::Gue { port }, None) => {
                EncapKind::Gue { port }
            }
            (default, EncapKind::Ipip, None) => default,
        })
    }
}

impl VipDraft {
    /// What clients address: two VIPs may not have it in common.
    pub(super) fn service(&self) -> Option<(IpAddr, PortMatch, Protocol)> {
        Some((
            copy(&self.address)?,
            copy(&self.port)?,
            copy(&self.protocol)?,
        ))
    }

    /// The name, or the service's text form where there is none.
    pub(super) fn effective_name(&self) -> Option<String> {
        match self.name.as_ref()? {
            Some(name) => Some(name.value.clone()),
            None => self.service().map(service_text),
        }
    }

    fn finish(&self, inherited: EncapKind, echo: Echo) -> Option<VipSpec> {
        Some(VipSpec {
            name: self.effective_name()?,
            address: copy(&self.address)?,
            port: copy(&self.port)?,
            protocol: copy(&self.protocol)?,
            hash: copy(&self.hash)?,
            echo,
            mss: copy(&self.mss)?,
            all_down: copy(&self.all_down)?,
            min_healthy: copy(&self.min_healthy)?,
            probing: match &self.health {
                Some(health) => health.finish()?,
                None => None,
            },
            new_flows_per_second: copy(self.new_flows_per_second.as_ref()?),
            encap: self.encap.finish(inherited)?,
            backends: self
                .backends
                .iter()
                .map(BackendDraft::finish)
                .collect::<Option<_>>()?,
        })
    }
}

impl BackendDraft {
    fn finish(&self) -> Option<BackendSpec> {
        Some(BackendSpec {
            address: copy(&self.address)?,
            weight: copy(&self.weight)?,
            state: copy(&self.state)?,
        })
    }
}

fn default<T>(value: T, site: &Site) -> Field<T> {
    let site = site.clone();
    Some(Written { value, site })
}

fn copy<T: Clone>(field: &Option<Written<T>>) -> Option<T> {
    field.as_ref().map(|written| written.value.clone())
}

/// A service as the command line writes it: `10.0.0.100:80/tcp`, `[2001:db8::1]:80/tcp`.
pub(super) fn service_text((address, port, protocol): (IpAddr, PortMatch, Protocol)) -> String {
    match address {
        IpAddr::V4(v4) => format!("{v4}:{port}/{protocol}"),
        IpAddr::V6(v6) => format!("[{v6}]:{port}/{protocol}"),
    }
}
