//! What `tunlb check` says about a valid configuration: the configuration itself with every
//! default, and the plan. The hash key is in it only where it is asked for.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::num::NonZeroU32;

use serde::Serialize;

use super::health::HealthView;
use super::plan::Plan;
use crate::config::{
    Config, Datapath, Group, OuterSource, Problem, Problems, busy_poll_text, duration_text,
};
use crate::director::{BackendSpec, FlowTimeouts, HashKey, PortMatch, VipSpec};
use crate::packet::EncapKind;
use crate::text::json;
use crate::text::plain::is_plain;

/// The version of the JSON document; a change that breaks a reader raises it.
const SCHEMA: u32 = 1;

/// The JSON document.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    schema: u32,
    valid: bool,
    /// The first ones.
    problems: &'a [Problem],
    /// How many there are.
    problems_total: usize,
    warnings: &'a [String],
    /// What this host shows to be impossible; `None` where it was not asked.
    host: Option<&'a [String]>,
    config: Option<ConfigView<'a>>,
    plan: Option<&'a Plan>,
}

impl<'a> Report<'a> {
    pub(super) fn valid(
        config: &'a Config,
        key: KeyDisplay,
        plan: &'a Plan,
        warnings: &'a [String],
        host: Option<&'a [String]>,
    ) -> Self {
        Self {
            schema: SCHEMA,
            valid: true,
            problems: &[],
            problems_total: 0,
            warnings,
            host,
            config: Some(ConfigView::new(config, key)),
            plan: Some(plan),
        }
    }

    pub(super) fn invalid(problems: &'a Problems) -> Self {
        Self {
            schema: SCHEMA,
            valid: false,
            problems: problems.first(),
            problems_total: problems.total(),
            warnings: &[],
            host: None,
            config: None,
            plan: None,
        }
    }

    pub(super) fn to_json(&self) -> serde_json::Result<String> {
        let text = serde_json::to_string(self)?;
        Ok(json::printable(&text) + "\n")
    }
}

/// The configuration with the file's own words.
#[derive(Debug, Serialize)]
struct ConfigView<'a> {
    director: DirectorView<'a>,
    metrics: MetricsView,
    vip: Vec<VipView<'a>>,
}

#[derive(Debug, Serialize)]
struct DirectorView<'a> {
    tun: &'a str,
    workers: usize,
    cpus: &'a [u16],
    busy_poll: String,
    queue_length: u32,
    datapath: String,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    interface: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    xdp_mode: Option<String>,
    egress: String,
    neighbour: String,
    api: String,
    api_group: Option<GroupView<'a>>,
    metrics: String,
    hash_key: String,
    ring_size: u32,
    flows: usize,
    timeouts: TimeoutsView,
    encap: EncapView,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum GroupView<'a> {
    Name(&'a str),
    Number(u32),
}

impl<'a> GroupView<'a> {
    fn new(group: &'a Group) -> Self {
        match group {
            Group::Name(name) => Self::Name(name),
            Group::Number(number) => Self::Number(*number),
        }
    }
}

#[derive(Debug, Serialize)]
struct MetricsView {
    /// None: up to a number of backends.
    per_backend: Option<bool>,
    compat: Vec<String>,
}

/// Durations as the file writes them.
#[derive(Debug, Serialize)]
struct TimeoutsView {
    half_open: String,
    established: String,
    closing: String,
    reset: String,
    udp: String,
}

#[derive(Debug, Serialize)]
struct EncapView {
    #[serde(flatten)]
    tunnel: TunnelView,
    source: SourceView,
    ttl: u8,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct TunnelView {
    kind: &'static str,
    /// Only GUE has one.
    port: Option<u16>,
}

/// "auto", or one entry for each address family that is not.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum SourceView {
    Word(&'static str),
    Entries(Vec<String>),
}

#[derive(Debug, Serialize)]
struct VipView<'a> {
    name: &'a str,
    address: IpAddr,
    port: PortView,
    protocol: String,
    hash: String,
    echo: String,
    mss: String,
    all_down: String,
    /// In percent, with the sign.
    min_healthy: String,
    /// None: no limit.
    new_flows_per_second: Option<u32>,
    /// The effective one.
    encap: TunnelView,
    health: HealthView,
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
    fn new(config: &'a Config, key: KeyDisplay) -> Self {
        let director = &config.director;
        Self {
            director: DirectorView {
                tun: &director.tun,
                workers: director.workers.get(),
                cpus: director.cpus.numbers(),
                busy_poll: busy_poll_text(director.busy_poll),
                queue_length: director.queue_length,
                datapath: director.datapath.to_string(),
                interface: director.interfaces.names(),
                xdp_mode: (director.datapath != Datapath::Tun)
                    .then(|| director.xdp_mode.to_string()),
                egress: director.egress.to_string(),
                neighbour: director.neighbour.to_string(),
                api: director.api.to_string(),
                api_group: director.api_group.as_ref().map(GroupView::new),
                metrics: director.metrics.to_string(),
                hash_key: key.word(director.hash_key),
                ring_size: director.ring_size.slots(),
                flows: director.flows.bound.get(),
                timeouts: TimeoutsView::new(&director.flows.timeouts),
                encap: EncapView {
                    tunnel: TunnelView::new(director.encap.kind),
                    source: SourceView::new(&director.encap.source),
                    ttl: director.encap.ttl.get(),
                },
            },
            metrics: MetricsView {
                per_backend: config.metrics.per_backend,
                compat: config
                    .metrics
                    .compat
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
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
            echo: vip.echo.to_string(),
            mss: vip.mss.to_string(),
            all_down: vip.all_down.to_string(),
            min_healthy: format!("{}%", vip.min_healthy),
            new_flows_per_second: vip.new_flows_per_second.map(NonZeroU32::get),
            encap: TunnelView::new(vip.encap),
            health: HealthView::new(vip.probing.as_ref()),
            backend: vip.backends.iter().map(backend).collect(),
        }
    }
}

impl TimeoutsView {
    fn new(timeouts: &FlowTimeouts) -> Self {
        Self {
            half_open: duration_text(timeouts.half_open),
            established: duration_text(timeouts.established),
            closing: duration_text(timeouts.closing),
            reset: duration_text(timeouts.reset),
            udp: duration_text(timeouts.udp),
        }
    }
}

impl TunnelView {
    const fn new(encap: EncapKind) -> Self {
        match encap {
            EncapKind::Ipip => Self {
                kind: "ipip",
                port: None,
            },
            EncapKind::Gue { port } => Self {
                kind: "gue",
                port: Some(port.get()),
            },
        }
    }
}

impl SourceView {
    fn new(source: &OuterSource) -> Self {
        let entries = source.entries();
        if entries.is_empty() {
            return Self::Word("auto");
        }
        Self::Entries(entries)
    }
}

/// What an output says about the hash key, which is a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyDisplay {
    Hidden,
    Shown,
}

impl KeyDisplay {
    fn word(self, key: HashKey) -> String {
        match self {
            _ if key == HashKey::DEFAULT => "default".to_owned(),
            Self::Hidden => "set".to_owned(),
            Self::Shown => format!("{key:x}"),
        }
    }

    /// The line of the file.
    fn line(self, key: HashKey) -> String {
        match self {
            _ if key == HashKey::DEFAULT => {
                "# hash_key is not set: the default is used, which is public".to_owned()
            }
            Self::Hidden => {
                "# hash_key is set, and left out here as it is a secret; --show-key prints it"
                    .to_owned()
            }
            Self::Shown => format!(
                "hash_key = \"{key:x}\" # a secret; the same on all directors of these VIPs"
            ),
        }
    }
}

/// The configuration as a file that means the same, but for a hash key that is hidden.
pub(super) fn config_text(config: &Config, key: KeyDisplay) -> String {
    let view = ConfigView::new(config, key);
    let key_line = key.line(config.director.hash_key);
    let mut out = director_text(&view.director, &key_line);
    out.push_str(&metrics_text(&view.metrics));
    for vip in &view.vip {
        out.push_str(&vip_text(vip, &view.director.encap.tunnel));
    }
    out
}

fn director_text(director: &DirectorView<'_>, key_line: &str) -> String {
    let mut out = Text::section("[director]");
    out.string("tun", director.tun);
    out.number("workers", director.workers);
    out.numbers("cpus", director.cpus);
    out.string("busy_poll", &director.busy_poll);
    out.number("queue_length", director.queue_length);
    out.string("datapath", &director.datapath);
    if let Some(mode) = &director.xdp_mode {
        out.strings("interface", director.interface);
        out.string("xdp_mode", mode);
    }
    out.string("egress", &director.egress);
    out.string("neighbour", &director.neighbour);
    out.string("api", &director.api);
    match director.api_group {
        Some(GroupView::Name(name)) => out.string("api_group", name),
        Some(GroupView::Number(number)) => out.number("api_group", number),
        None => {}
    }
    out.string("metrics", &director.metrics);
    out.line(key_line);
    out.number("ring_size", director.ring_size);
    out.number("flows", director.flows);
    out.line("\n[director.timeouts]");
    out.string("half_open", &director.timeouts.half_open);
    out.string("established", &director.timeouts.established);
    out.string("closing", &director.timeouts.closing);
    out.string("reset", &director.timeouts.reset);
    out.string("udp", &director.timeouts.udp);
    out.line("\n[director.encap]");
    out.tunnel(&director.encap.tunnel);
    match &director.encap.source {
        SourceView::Word(word) => out.string("source", word),
        SourceView::Entries(entries) => out.strings("source", entries),
    }
    out.number("ttl", director.encap.ttl);
    out.0
}

/// Nothing where all is as by default.
fn metrics_text(metrics: &MetricsView) -> String {
    if metrics.per_backend.is_none() && metrics.compat.is_empty() {
        return String::new();
    }
    let mut out = Text::section("\n[metrics]");
    if let Some(per_backend) = metrics.per_backend {
        out.number("per_backend", per_backend);
    }
    if !metrics.compat.is_empty() {
        out.strings("compat", &metrics.compat);
    }
    out.0
}

/// Without `[vip.encap]` where it is that of the director, so that a change there has effect.
fn vip_text(vip: &VipView<'_>, inherited: &TunnelView) -> String {
    let mut out = Text::section("\n[[vip]]");
    out.string("name", vip.name);
    out.string("address", &vip.address.to_string());
    match vip.port {
        PortView::Number(port) => out.number("port", port),
        PortView::Word(word) => out.string("port", word),
    }
    out.string("protocol", &vip.protocol);
    out.string("hash", &vip.hash);
    out.string("echo", &vip.echo);
    out.string("mss", &vip.mss);
    out.string("all_down", &vip.all_down);
    out.string("min_healthy", &vip.min_healthy);
    if let Some(limit) = vip.new_flows_per_second {
        out.number("new_flows_per_second", limit);
    }
    if vip.encap != *inherited {
        out.line("\n[vip.encap]");
        out.tunnel(&vip.encap);
    }
    out.line("\n[vip.health]");
    for (key, value) in &vip.health.0 {
        match value.bare() {
            Some(bare) => out.number(key, bare),
            None => out.string(key, value.text()),
        }
    }
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

    fn string(&mut self, key: &str, value: &str) {
        self.line(&format!("{key} = {}", toml_string(value)));
    }

    fn strings(&mut self, key: &str, entries: &[String]) {
        let quoted: Vec<_> = entries.iter().map(|entry| toml_string(entry)).collect();
        self.line(&format!("{key} = [{}]", quoted.join(", ")));
    }

    fn numbers(&mut self, key: &str, entries: &[u16]) {
        let entries: Vec<_> = entries.iter().map(u16::to_string).collect();
        self.line(&format!("{key} = [{}]", entries.join(", ")));
    }

    fn tunnel(&mut self, tunnel: &TunnelView) {
        self.string("kind", tunnel.kind);
        if let Some(port) = tunnel.port {
            self.number("port", port);
        }
    }

    fn number(&mut self, key: &str, value: impl std::fmt::Display) {
        self.line(&format!("{key} = {value}"));
    }
}

/// A basic string of TOML. What is not printable is escaped whether TOML wants it or not, so that a
/// terminal shows all of the configuration.
fn toml_string(value: &str) -> String {
    let mut text = String::from("\"");
    for letter in value.chars() {
        match letter {
            '"' | '\\' => text.extend(['\\', letter]),
            _ if is_plain(letter.encode_utf8(&mut [0; 4])) => text.push(letter),
            _ => write!(text, "\\U{:08X}", u32::from(letter)).unwrap_or_default(), // into a String
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{ApiSocket, Compat, DirectorConfig, MetricsConfig};
    use crate::director::BackendState;
    use crate::director::{AllDown, Echo, HashFields, Mss, Protocol};
    use crate::probe::Probing;

    /// Texts as VIPs may have for a name, quotes, backslashes and other scripts among them.
    fn name() -> impl Strategy<Value = String> {
        "[!-~äñ後🙂][ -~äñ後🙂]{0,8}[!-~äñ後🙂]".prop_filter("a name", |name| is_plain(name))
    }

    fn backend() -> impl Strategy<Value = (u16, BackendState)> {
        let states = [
            BackendState::Active,
            BackendState::Draining,
            BackendState::Disabled,
        ];
        (any::<u16>(), prop::sample::select(states.to_vec()))
    }

    prop_compose! {
        fn vip()(
            name in name(),
            port in prop_oneof![Just(PortMatch::Any), any::<NonZeroU16>().prop_map(PortMatch::Exact)],
            protocol in prop::sample::select(vec![Protocol::Tcp, Protocol::Udp]),
            echo in prop::sample::select(vec![Echo::Reply, Echo::Forward, Echo::Drop]),
            mss in prop::sample::select(vec![Mss::Keep, Mss::Clamp]),
            all_down in prop::sample::select(vec![AllDown::Forward, AllDown::Drop]),
            new_flows_per_second in any::<Option<NonZeroU32>>(),
            (min_healthy, probing) in (0..=100_u8, prop::sample::select(probings())),
            gue in any::<Option<NonZeroU16>>(),
            backends in prop::collection::vec(backend(), 0..4),
        ) -> VipSpec {
            let all = [(1, BackendState::Active)].into_iter().chain(backends);
            VipSpec {
                name,
                address: [192, 0, 2, 1].into(),
                port,
                protocol,
                hash: HashFields::SourceAddress,
                echo,
                mss: if protocol == Protocol::Tcp { mss } else { Mss::Keep },
                all_down,
                min_healthy,
                probing,
                new_flows_per_second,
                encap: gue.map_or(EncapKind::Ipip, |port| EncapKind::Gue { port }),
                backends: (1..).zip(all).map(|(number, (weight, state))| BackendSpec {
                    address: [10, 0, 1, number].into(),
                    weight,
                    state,
                }).collect(),
            }
        }
    }

    /// None, and one of every kind with values of its own.
    fn probings() -> Vec<Option<Probing>> {
        let sections = HEALTH.iter().map(|health| {
            let text = format!(
                "[[vip]]\naddress = \"192.0.2.1\"\nbackend = [{{ address = \"10.0.1.1\" }}]\n[vip.health]\n{health}\n"
            );
            Config::parse("f", &text).unwrap().vips[0].probing.clone()
        });
        sections.collect()
    }

    const HEALTH: &[&str] = &[
        "kind = \"none\"",
        "port = 80",
        "port = 80\nclose = \"graceful\"\nrise = 1\nfall = 7\ninitial = \"unhealthy\"\non_unhealthy = \"keep\"",
        "kind = \"http\"\nport = 80\npath = \"/h?a=%20\"\nhost = \"www.example.net\"\nstatus = \"200-204\"\nbody = \"up\\n\"",
        "kind = \"tls\"\nport = 443\nhost = \"www.example.net\"",
        "kind = \"udp\"\nport = 9\npayload = \"00ff\"\nexpect = \"0XX1\"",
        "kind = \"dns\"\nport = 53\nquery = \"example.net\"\ntype = \"TXT\"\nprotocol = \"tcp\"",
        "kind = \"ping\"\nsize = 1400\nsource = \"192.0.2.9\"",
        "kind = \"external\"\nfall = 1",
        "port = 80\ninterval = \"100ms\"\ninterval_edge = \"50ms\"\ninterval_down = \"5s\"\ntimeout = \"3s\"",
    ];

    proptest! {
        #[test]
        fn what_is_printed_is_read_as_the_same(vips in prop::collection::vec(vip(), 1..5), flows in 1024..9999_usize, per_backend: Option<bool>, group: Option<u16>) {
            let mut config = Config {
                director: DirectorConfig::default(),
                vips,
                metrics: MetricsConfig {
                    per_backend,
                    compat: group.map(|_| Compat::NodeIpvs).into_iter().collect(),
                },
                exposed: None,
            };
            config.director.api_group = group.map(|group| match group % 2 {
                0 => Group::Number(group.into()),
                _ => Group::Name(format!("g{group}")),
            });
            config.director.api = ApiSocket::At("/run/a b/é.sock".into());
            config.director.metrics.0 = group.map(|port| ([0; 16], port.max(1)).into());
            config.director.flows.bound = flows.try_into().unwrap();
            for (number, vip) in (1..).zip(&mut config.vips) {
                // Each its own address and name.
                vip.address = [192, 0, 2, number].into();
                vip.name = format!("{number}{}", vip.name);
            }
            let printed = config_text(&config, KeyDisplay::Hidden) + &Plan::new(&config).text();
            prop_assert!(printed.split('\n').all(is_plain), "{}", printed);
            prop_assert_eq!(Config::parse("f", &printed).unwrap(), config);
        }

        #[test]
        fn strings_mean_the_same_and_are_printable(value in any::<String>()) {
            let written = toml_string(&value);
            prop_assert!(is_plain(&written), "{}", written);
            let read = toml::de::DeValue::parse(&written).unwrap();
            prop_assert_eq!(read.get_ref().as_str(), Some(value.as_str()));
        }
    }
}
