//! What `tunlb check` says about a valid configuration: the configuration itself with every
//! default, and the plan. The hash key is never in it.

use std::net::IpAddr;

use serde::Serialize;

use crate::config::{Config, Problem};
use crate::director::{BackendSpec, BackendState, HashKey, PortMatch, VipSpec};

/// The version of the JSON document; a change that breaks a reader raises it.
const SCHEMA: u32 = 1;

/// The JSON document.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    schema: u32,
    valid: bool,
    problems: &'a [Problem],
    warnings: &'a [String],
    config: Option<ConfigView<'a>>,
    plan: Option<&'a Plan>,
}

impl<'a> Report<'a> {
    pub(super) fn valid(config: &'a Config, plan: &'a Plan, warnings: &'a [String]) -> Self {
        Self {
            schema: SCHEMA,
            valid: true,
            problems: &[],
            warnings,
            config: Some(ConfigView::new(config)),
            plan: Some(plan),
        }
    }

    pub(super) fn invalid(problems: &'a [Problem]) -> Self {
        Self {
            schema: SCHEMA,
            valid: false,
            problems,
            warnings: &[],
            config: None,
            plan: None,
        }
    }

    pub(super) fn to_json(&self) -> serde_json::Result<String> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        Ok(text)
    }
}

/// The configuration with the file's own words.
#[derive(Debug, Serialize)]
struct ConfigView<'a> {
    director: DirectorView<'a>,
    vip: Vec<VipView<'a>>,
}

#[derive(Debug, Serialize)]
struct DirectorView<'a> {
    tun: &'a str,
    workers: usize,
    datapath: &'static str,
    egress: String,
    hash_key: &'static str,
    ring_size: u32,
    flows: usize,
    encap: EncapView,
}

#[derive(Debug, Serialize)]
struct EncapView {
    kind: &'static str,
    source: String,
    ttl: u8,
}

#[derive(Debug, Serialize)]
struct VipView<'a> {
    name: &'a str,
    address: IpAddr,
    port: PortView,
    protocol: String,
    hash: String,
    all_down: String,
    backend: Vec<BackendView>,
}

/// A number, or "any".
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum PortView {
    Number(u16),
    Word(&'static str),
}

#[derive(Debug, Serialize)]
struct BackendView {
    address: IpAddr,
    weight: u16,
    state: String,
}

impl<'a> ConfigView<'a> {
    fn new(config: &'a Config) -> Self {
        let director = &config.director;
        Self {
            director: DirectorView {
                tun: &director.tun,
                workers: director.workers.get(),
                datapath: "tun",
                egress: director.egress.to_string(),
                hash_key: hash_key_word(director.hash_key),
                ring_size: director.ring_size.slots(),
                flows: director.flows.get(),
                encap: EncapView {
                    kind: "ipip",
                    source: director.encap.source.to_string(),
                    ttl: director.encap.ttl.get(),
                },
            },
            vip: config.vips.iter().map(VipView::new).collect(),
        }
    }
}

impl<'a> VipView<'a> {
    fn new(vip: &'a VipSpec) -> Self {
        let backend = |backend: &BackendSpec| BackendView {
            address: backend.address,
            weight: backend.weight,
            state: backend.state.to_string(),
        };
        Self {
            name: &vip.name,
            address: vip.address,
            port: match vip.port {
                PortMatch::Exact(port) => PortView::Number(port.get()),
                PortMatch::Any => PortView::Word("any"),
            },
            protocol: vip.protocol.to_string(),
            hash: vip.hash.to_string(),
            all_down: vip.all_down.to_string(),
            backend: vip.backends.iter().map(backend).collect(),
        }
    }
}

/// All that an output may say about the key.
fn hash_key_word(key: HashKey) -> &'static str {
    if key == HashKey::DEFAULT {
        "default"
    } else {
        "set"
    }
}

/// What `tunlb run` would do with the configuration.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    device: String,
    queues: usize,
    routes: Vec<String>,
    overhead_bytes: u8,
    mtu: &'static str,
    needs: Vec<&'static str>,
    vip: Vec<VipPlan>,
}

#[derive(Debug, Serialize)]
struct VipPlan {
    name: String,
    backend: Vec<Share>,
}

#[derive(Debug, Serialize)]
struct Share {
    address: IpAddr,
    /// Of the VIP's new flows, 0 to 100, by weight.
    share_percent: f64,
}

impl Plan {
    pub(super) fn new(config: &Config) -> Self {
        let mut routes = Vec::new();
        for vip in &config.vips {
            let bits = if vip.address.is_ipv4() { 32 } else { 128 };
            let route = format!("{}/{bits} dev {}", vip.address, config.director.tun);
            if !routes.contains(&route) {
                routes.push(route);
            }
        }
        Self {
            device: config.director.tun.clone(),
            queues: config.director.workers.get(),
            routes,
            overhead_bytes: overhead_bytes(config),
            mtu: "the smallest MTU on the way to a backend minus overhead_bytes, measured at start",
            needs: vec!["/dev/net/tun", "CAP_NET_ADMIN", "CAP_NET_RAW"],
            vip: config.vips.iter().map(VipPlan::new).collect(),
        }
    }

    /// The plan as TOML comments, so that all of the output is a configuration file.
    pub(super) fn text(&self) -> String {
        let mut lines = vec![
            "plan".to_owned(),
            format!("device    {} with {} queue(s)", self.device, self.queues),
            format!("mtu       {}", self.mtu),
            format!("overhead  {} bytes per packet", self.overhead_bytes),
            format!("needs     {}", self.needs.join(", ")),
        ];
        let routes = self.routes.iter();
        lines.extend(routes.map(|route| format!("route     {route}")));
        for vip in &self.vip {
            let shares = vip.backend.iter().map(|backend| {
                let name = &vip.name;
                let (address, percent) = (backend.address, backend.share_percent);
                format!("share     {name} → {address} {percent:.1} %")
            });
            lines.extend(shares);
        }
        lines.iter().map(|line| format!("# {line}\n")).collect()
    }
}

impl VipPlan {
    fn new(vip: &VipSpec) -> Self {
        let total: u64 = vip.backends.iter().map(turns).sum();
        let share = |backend: &BackendSpec| Share {
            address: backend.address,
            share_percent: percent(turns(backend), total),
        };
        Self {
            name: vip.name.clone(),
            backend: vip.backends.iter().map(share).collect(),
        }
    }
}

/// The weight with which a backend is in the ring at start.
fn turns(backend: &BackendSpec) -> u64 {
    match backend.state {
        BackendState::Active => u64::from(backend.weight),
        BackendState::Draining | BackendState::Disabled => 0,
    }
}

/// With two decimals; both numbers are sums of 16-bit weights, far below 2⁵³.
fn percent(part: u64, total: u64) -> f64 {
    let hundredths = (part as f64 * 10_000.0 / total.max(1) as f64).round();
    hundredths / 100.0
}

/// The largest outer header: IPv4 20 bytes (RFC 791), IPv6 40 bytes (RFC 8200).
fn overhead_bytes(config: &Config) -> u8 {
    let mut backends = config.vips.iter().flat_map(|vip| &vip.backends);
    if backends.any(|backend| backend.address.is_ipv6()) {
        40
    } else {
        20
    }
}

/// The configuration as a file that means the same, but for the hash key.
pub(super) fn config_text(config: &Config) -> String {
    let view = ConfigView::new(config);
    let mut out = director_text(&view.director);
    for vip in &view.vip {
        out.push_str(&vip_text(vip));
    }
    out
}

fn director_text(director: &DirectorView<'_>) -> String {
    let mut out = Text::section("[director]");
    out.string("tun", director.tun);
    out.number("workers", director.workers);
    out.string("datapath", director.datapath);
    out.string("egress", &director.egress);
    out.line(&format!("# hash_key: {}", director.hash_key));
    out.number("ring_size", director.ring_size);
    out.number("flows", director.flows);
    out.line("\n[director.encap]");
    out.string("kind", director.encap.kind);
    out.string("source", &director.encap.source);
    out.number("ttl", director.encap.ttl);
    out.0
}

fn vip_text(vip: &VipView<'_>) -> String {
    let mut out = Text::section("\n[[vip]]");
    out.string("name", vip.name);
    out.string("address", &vip.address.to_string());
    match vip.port {
        PortView::Number(port) => out.number("port", port),
        PortView::Word(word) => out.string("port", word),
    }
    out.string("protocol", &vip.protocol);
    out.string("hash", &vip.hash);
    out.string("all_down", &vip.all_down);
    for backend in &vip.backend {
        out.line("\n[[vip.backend]]");
        out.string("address", &backend.address.to_string());
        out.number("weight", backend.weight);
        out.string("state", &backend.state);
    }
    out.0
}

/// TOML that is being written.
struct Text(String);

impl Text {
    fn section(header: &str) -> Self {
        Self(format!("{header}\n"))
    }

    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    /// Names have no control characters, so quotes and backslashes are all that needs escaping.
    fn string(&mut self, key: &str, value: &str) {
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
        self.line(&format!("{key} = \"{escaped}\""));
    }

    fn number(&mut self, key: &str, value: impl std::fmt::Display) {
        self.line(&format!("{key} = {value}"));
    }
}
