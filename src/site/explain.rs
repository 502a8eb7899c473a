//! The explanation of a flow as data, text and JSON. Pure: everything it needs is handed in.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;

use serde::{Deserialize, Serialize};

use super::Paths;
use crate::config::{Config, Datapath};
use crate::director::{DropReason, Mss, PortMatch, Snapshot, VipSpec};
use crate::packet::{Encap, EncapKind, Entropy, FlowKey, HEADROOM, Meta, Version};
use crate::text::json;

/// The version of the JSON document; a change that breaks a reader raises it.
const SCHEMA: u32 = 1;

/// The JSON document; its fields are documented in `docs/replay.md`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report<'a> {
    schema: u32,
    flow: Flow,
    verdict: Cow<'a, str>,
    reason: Option<Cow<'a, str>>,
    vip: Option<Vip<'a>>,
    slot: Option<u32>,
    backend: Option<IpAddr>,
    outer: Option<Outer>,
    mtu: Option<Mtu>,
    /// Where the packets of the flow are decided; `None` for a drop.
    datapath: Option<Way<'a>>,
    /// What could have been addressed, where nothing was.
    vips: Vec<Vip<'a>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Flow {
    source: SocketAddr,
    destination: SocketAddr,
    protocol: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Vip<'a> {
    name: Cow<'a, str>,
    address: IpAddr,
    /// "exact" or "any"; which of them is the rule by which the VIP was found.
    port_rule: Cow<'a, str>,
    port: Option<u16>,
    protocol: String,
    hash: String,
    ring_size: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Outer {
    kind: Cow<'static, str>,
    /// `None`: the kernel chooses it as the packet leaves.
    source: Option<IpAddr>,
    destination: IpAddr,
    ttl: NonZeroU8,
    protocol: u8,
    source_port: Option<u16>,
    destination_port: Option<u16>,
    overhead_bytes: usize,
}

/// In bytes.
#[derive(Debug, Serialize, Deserialize)]
struct Mtu {
    /// Of the way to the backend; `None` while there is no route.
    path: Option<u32>,
    /// The largest packet of this flow that fits its tunnel.
    inner: Option<u32>,
    /// Of the TUN, as long as the packets that come in by this host's devices.
    tun: u32,
}

/// The way that packets of a flow take through this host.
#[derive(Debug, Serialize, Deserialize)]
struct Way<'a> {
    /// `director.datapath`.
    kind: Cow<'a, str>,
    /// The devices whose packets do not come by the TUN.
    interfaces: Cow<'a, [String]>,
    /// Whether SYNs come by the TUN in any case, since their MSS is clamped.
    syns_by_tun: bool,
}

impl<'a> Report<'a> {
    /// What becomes of a new flow by that configuration, which the ways and the snapshot are of.
    #[must_use]
    pub fn new(config: &'a Config, paths: &Paths, snapshot: &Snapshot, flow: &FlowKey) -> Self {
        let ring_size = config.director.ring_size.slots();
        let view = |spec: &'a VipSpec| Vip::new(spec, ring_size);
        let Some(vip) = snapshot.find_vip(flow) else {
            let vips = config.vips.iter().map(view).collect();
            return Self {
                vips,
                ..Self::dropped(flow, DropReason::NoVip)
            };
        };
        let spec = config.vips.iter().find(|spec| spec.name == vip.name);
        let choice = snapshot.choose(vip, flow);
        let backend = choice.and_then(|choice| snapshot.backend(choice.backend));
        let (Some(choice), Some(backend)) = (choice, backend) else {
            return Self {
                vip: spec.map(view),
                ..Self::dropped(flow, DropReason::NoBackend)
            };
        };
        let encap = &backend.encap;
        let ttl = config.director.encap.ttl;
        Self {
            verdict: "forward".into(),
            reason: None,
            vip: spec.map(view),
            slot: Some(choice.slot.number()),
            backend: Some(backend.address),
            outer: Some(Outer::new(encap, flow, snapshot.flow_hash(flow), ttl)),
            mtu: Some(Mtu::new(config, paths, encap)),
            datapath: spec.map(|spec| Way::new(config, spec)),
            ..Self::dropped(flow, DropReason::NoBackend)
        }
    }

    fn dropped(flow: &FlowKey, reason: DropReason) -> Self {
        Self {
            schema: SCHEMA,
            flow: Flow {
                source: SocketAddr::new(flow.source, flow.source_port),
                destination: SocketAddr::new(flow.destination, flow.destination_port),
                protocol: flow.protocol.to_string(),
            },
            verdict: "drop".into(),
            reason: Some(reason.name().into()),
            vip: None,
            slot: None,
            backend: None,
            outer: None,
            mtu: None,
            datapath: None,
            vips: Vec::new(),
        }
    }

    /// Whether it gets a backend.
    #[must_use]
    pub const fn is_forwarded(&self) -> bool {
        self.backend.is_some()
    }

    /// One line of JSON that a terminal may show.
    ///
    /// # Errors
    /// The serializer's; there is no such value.
    pub fn to_json(&self) -> serde_json::Result<String> {
        let text = serde_json::to_string(self)?;
        Ok(json::printable(&text) + "\n")
    }
}

impl<'a> Vip<'a> {
    fn new(spec: &'a VipSpec, ring_size: u32) -> Self {
        let (port_rule, port) = match spec.port {
            PortMatch::Exact(port) => ("exact", Some(port.get())),
            PortMatch::Any => ("any", None),
        };
        Self {
            name: spec.name.as_str().into(),
            address: spec.address,
            port_rule: port_rule.into(),
            port,
            protocol: spec.protocol.to_string(),
            hash: spec.hash.to_string(),
            ring_size,
        }
    }
}

impl Outer {
    /// As the encapsulation itself writes it, before the smallest packet of the flow.
    fn new(encap: &Encap, flow: &FlowKey, flow_hash: u64, ttl: NonZeroU8) -> Self {
        let entropy = Entropy {
            flow_hash,
            identification: 0,
        };
        let mut headroom = [0; HEADROOM];
        // Only a packet of nearly 64 KiB does not fit.
        encap
            .write(&mut headroom, &smallest_packet(flow), [&[]; 2], entropy)
            .unwrap_or_default();
        let header = &headroom[HEADROOM - encap.overhead()..];
        let destination = encap.destination();
        let protocol = header[if destination.is_ipv4() { 9 } else { 6 }];
        let [.., a, b, _, _, _, _, _, _] = headroom;
        let (kind, source_port, destination_port) = match encap.kind() {
            EncapKind::Ipip => ("ipip", None, None),
            EncapKind::Gue { port } => ("gue", Some(u16::from_be_bytes([a, b])), Some(port.get())),
        };
        let source = encap.source(flow_hash);
        Self {
            kind: kind.into(),
            source: (!source.is_unspecified()).then_some(source),
            destination,
            ttl,
            protocol,
            source_port,
            destination_port,
            overhead_bytes: encap.overhead(),
        }
    }
}

/// An IP header alone; its length does not matter to what is shown of the outer header.
const fn smallest_packet(flow: &FlowKey) -> Meta {
    let (version, length) = match flow.destination {
        IpAddr::V4(_) => (Version::V4, 20),
        IpAddr::V6(_) => (Version::V6, 40),
    };
    Meta {
        version,
        length,
        traffic_class: 0,
        dont_fragment: true,
        segmentation: None,
    }
}

impl Mtu {
    fn new(config: &Config, paths: &Paths, encap: &Encap) -> Self {
        let path = paths.mtu(encap.destination());
        let overhead = u32::try_from(encap.overhead()).unwrap_or(u32::MAX);
        Self {
            path,
            inner: path.map(|path| path.saturating_sub(overhead)),
            tun: paths.longest_packet(&config.director.tun),
        }
    }
}

impl<'a> Way<'a> {
    fn new(config: &'a Config, vip: &VipSpec) -> Self {
        let Config { director, .. } = config;
        let decides_in_driver = matches!(director.datapath, Datapath::Xdp | Datapath::Auto);
        Self {
            kind: director.datapath.to_string().into(),
            interfaces: director.interfaces.names().into(),
            syns_by_tun: decides_in_driver && vip.mss == Mss::Clamp,
        }
    }

    fn is_tun(&self) -> bool {
        self.kind == Datapath::Tun.to_string()
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "flow     {}", self.flow)?;
        if let Some(reason) = &self.reason {
            writeln!(f, "verdict  {} {reason}", self.verdict)?;
        }
        for vip in &self.vips {
            writeln!(f, "known    {vip}")?;
        }
        if let Some(vip) = &self.vip {
            writeln!(f, "vip      {vip}, matched by {} port", vip.port_rule)?;
            if let Some(slot) = self.slot {
                let Vip {
                    hash, ring_size, ..
                } = vip;
                writeln!(f, "ring     hash of {hash}: slot {slot} of {ring_size}")?;
            }
        }
        if let Some(backend) = self.backend {
            writeln!(
                f,
                "backend  {backend}, for a new flow; a running director may know the flow and keep \
                 it elsewhere"
            )?;
        }
        if let Some(outer) = &self.outer {
            writeln!(f, "outer    {outer}")?;
        }
        if let Some(mtu) = &self.mtu {
            writeln!(f, "mtu      {mtu}")?;
        }
        if let Some(way) = self.datapath.as_ref().filter(|way| !way.is_tun()) {
            writeln!(f, "datapath {way}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} > {}/{}",
            self.source, self.destination, self.protocol
        )
    }
}

impl fmt::Display for Vip<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, address, protocol) = (&self.name, self.address, &self.protocol);
        match (self.port, address) {
            (Some(port), _) => {
                let service = SocketAddr::new(address, port);
                write!(f, "{name} {service}/{protocol}")
            }
            (None, IpAddr::V4(v4)) => write!(f, "{name} {v4}:any/{protocol}"),
            (None, IpAddr::V6(v6)) => write!(f, "{name} [{v6}]:any/{protocol}"),
        }
    }
}

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        match self.source {
            Some(source) => write!(f, "{source}")?,
            None => f.write_str("(an address of this host)")?,
        }
        let Self {
            destination,
            ttl,
            protocol,
            overhead_bytes,
            ..
        } = self;
        write!(f, " > {destination}, TTL {ttl}, protocol {protocol}")?;
        if let (Some(source), Some(destination)) = (self.source_port, self.destination_port) {
            write!(f, ", UDP {source} > {destination}")?;
        }
        write!(f, ", {overhead_bytes} bytes")
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.path, self.inner) {
            (Some(path), Some(inner)) => write!(
                f,
                "{inner} bytes for a packet of this flow, {path} on the way to the backend"
            )?,
            _ => f.write_str("unknown, there is no route to the backend")?,
        }
        write!(f, "; the TUN takes {}", self.tun)
    }
}

impl fmt::Display for Way<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interfaces = self.interfaces.join(", ");
        let takes = match &*self.kind {
            "xsk" => "AF_XDP sockets take",
            "auto" => "XDP, where this host lets it, decides",
            _ => "XDP decides",
        };
        write!(f, "{takes} what comes by {interfaces}; by the TUN come ")?;
        if self.syns_by_tun {
            f.write_str("SYNs (mss = \"clamp\"), ")?;
        }
        f.write_str(
            "fragments, IP options, packets that are too long, and what other devices bring",
        )
    }
}
