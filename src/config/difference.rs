//! What separates two configurations, in the words of the file: what a reload says it changed.
//!
//! The hash key is a secret: a difference says that it changed, never from what to what.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;

use super::duration::text as duration;
use super::{Compat, Config, DirectorConfig, EncapConfig, MetricsConfig};
use crate::director::{BackendSpec, FlowLimits, FlowTimeouts, VipSpec};
use crate::packet::EncapKind;
use crate::probe::Probing;
use crate::text::Plain;

/// One difference between two configurations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What is different.
    pub subject: Subject,
    /// How.
    pub kind: DifferenceKind,
}

/// What can be different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// `[director]`
    Director,
    /// `[metrics]`
    Metrics,
    /// A VIP, by its name.
    Vip(String),
    /// A backend of a VIP.
    Backend {
        /// The VIP's name.
        vip: String,
        /// The backend's address.
        address: IpAddr,
    },
}

/// How something is different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DifferenceKind {
    /// Only the new configuration has it.
    Added,
    /// Only the old configuration has it.
    Removed,
    /// The hash key is another.
    HashKey,
    /// The value of a key, such as `weight`.
    Value {
        /// The key, as the file calls it.
        key: &'static str,
        /// As it was.
        old: String,
        /// As it is.
        new: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::Director => f.write_str("director:")?,
            Subject::Metrics => f.write_str("metrics:")?,
            Subject::Vip(name) => write!(f, "vip {}:", Plain(name))?,
            Subject::Backend { vip, address } => {
                write!(f, "vip {}: backend {address}:", Plain(vip))?;
            }
        }
        match &self.kind {
            DifferenceKind::Added => f.write_str(" added"),
            DifferenceKind::Removed => f.write_str(" removed"),
            DifferenceKind::HashKey => f.write_str(" hash_key changed"),
            DifferenceKind::Value { key, old, new } => {
                write!(f, " {key} {} -> {}", Plain(old), Plain(new))
            }
        }
    }
}

impl Config {
    /// What `new` has that this configuration has not, or has otherwise, in the order of `new`; what it
    /// lacks comes last. Only what a running director can take over
    /// ([`restart_needed`](Self::restart_needed) has the rest).
    #[must_use]
    pub fn differences(&self, new: &Self) -> Vec<Difference> {
        let mut found = Differences(Vec::new());
        found.in_director(&self.director, &new.director);
        found.in_metrics(&self.metrics, &new.metrics);
        let inherited = (self.director.encap.kind, new.director.encap.kind);
        let partners = Partners::new(&self.vips);
        let mut kept = HashSet::new();
        for vip in &new.vips {
            match partners.of(vip) {
                Some((index, old)) if kept.insert(index) => found.in_vip(old, vip, inherited),
                Some(_) | None => found.add(Subject::Vip(vip.name.clone()), DifferenceKind::Added),
            }
        }
        for (index, vip) in self.vips.iter().enumerate() {
            if !kept.contains(&index) {
                found.add(Subject::Vip(vip.name.clone()), DifferenceKind::Removed);
            }
        }
        found.0
    }
}

/// Finds the old VIP that a new one continues: that of its address, port and protocol, else of its name.
struct Partners<'a> {
    vips: &'a [VipSpec],
    by_service: HashMap<String, usize>,
    by_name: HashMap<&'a str, usize>,
}

impl<'a> Partners<'a> {
    fn new(vips: &'a [VipSpec]) -> Self {
        let places = || vips.iter().enumerate();
        Self {
            vips,
            by_service: places().map(|(index, vip)| (service(vip), index)).collect(),
            by_name: places().map(|(index, vip)| (&*vip.name, index)).collect(),
        }
    }

    fn of(&self, vip: &VipSpec) -> Option<(usize, &'a VipSpec)> {
        let by_name = || self.by_name.get(&*vip.name);
        let index = *self.by_service.get(&service(vip)).or_else(by_name)?;
        Some((index, self.vips.get(index)?))
    }
}

fn service(vip: &VipSpec) -> String {
    format!("{} {} {}", vip.address, vip.port, vip.protocol)
}

struct Differences(Vec<Difference>);

impl Differences {
    fn add(&mut self, subject: Subject, kind: DifferenceKind) {
        self.0.push(Difference { subject, kind });
    }

    fn compare(&mut self, subject: &Subject, key: &'static str, old: String, new: String) {
        if old != new {
            self.add(subject.clone(), DifferenceKind::Value { key, old, new });
        }
    }

    fn in_director(&mut self, old: &DirectorConfig, new: &DirectorConfig) {
        // Every key is named, so that one which is added later is not forgotten here.
        let DirectorConfig {
            tun: _,
            workers: _,
            cpus: _,
            busy_poll: _,
            queue_length: _,
            datapath: _,
            interfaces: _,
            xdp_mode: _,
            egress: _,
            api: _,
            api_group: _,
            metrics: _, // fixed at start
            neighbour,
            hash_key,
            ring_size,
            flows: FlowLimits { bound, timeouts },
            encap,
        } = new;
        let director = &Subject::Director;
        if old.hash_key != *hash_key {
            self.add(Subject::Director, DifferenceKind::HashKey);
        }
        let [was, is] = [old.ring_size, *ring_size].map(|size| size.slots().to_string());
        self.compare(director, "ring_size", was, is);
        let [was, is] = [old.flows.bound, *bound].map(|bound| bound.to_string());
        self.compare(director, "flows", was, is);
        let [was, is] = [&old.neighbour, neighbour].map(ToString::to_string);
        self.compare(director, "neighbour", was, is);
        self.in_timeouts(&old.flows.timeouts, timeouts);
        self.in_encap(&old.encap, encap);
    }

    fn in_metrics(&mut self, old: &MetricsConfig, new: &MetricsConfig) {
        let MetricsConfig {
            per_backend,
            compat,
        } = new;
        let switch = |switch: Option<bool>| switch.map_or("auto".to_owned(), |on| on.to_string());
        let names = |list: &[Compat]| {
            let names: Vec<_> = list.iter().map(ToString::to_string).collect();
            format!("[{}]", names.join(", "))
        };
        let metrics = &Subject::Metrics;
        let [was, is] = [old.per_backend, *per_backend].map(switch);
        self.compare(metrics, "per_backend", was, is);
        self.compare(metrics, "compat", names(&old.compat), names(compat));
    }

    fn in_timeouts(&mut self, old: &FlowTimeouts, new: &FlowTimeouts) {
        for (key, old, new) in [
            ("timeouts.half_open", old.half_open, new.half_open),
            ("timeouts.established", old.established, new.established),
            ("timeouts.closing", old.closing, new.closing),
            ("timeouts.reset", old.reset, new.reset),
            ("timeouts.udp", old.udp, new.udp),
        ] {
            self.compare(&Subject::Director, key, duration(old), duration(new));
        }
    }

    fn in_encap(&mut self, old: &EncapConfig, new: &EncapConfig) {
        let EncapConfig { kind, source, ttl } = new;
        let director = &Subject::Director;
        self.compare(director, "encap", tunnel(old.kind), tunnel(*kind));
        let [was, is] = [old.source, *source].map(|source| match source.entries() {
            entries if entries.is_empty() => "auto".to_owned(),
            entries => entries.join(", "),
        });
        self.compare(director, "encap.source", was, is);
        self.compare(director, "encap.ttl", old.ttl.to_string(), ttl.to_string());
    }

    /// A tunnel that the VIP has from the director is the director's difference.
    fn in_vip(&mut self, old: &VipSpec, new: &VipSpec, inherited: (EncapKind, EncapKind)) {
        let VipSpec {
            name,
            address,
            port,
            protocol,
            hash,
            echo,
            mss,
            all_down,
            min_healthy,
            probing,
            new_flows_per_second,
            encap,
            backends,
        } = new;
        let limit = |limit: Option<NonZeroU32>| match limit {
            Some(limit) => limit.to_string(),
            None => "none".to_owned(),
        };
        let vip = &Subject::Vip(name.clone());
        for (key, old, new) in [
            ("name", old.name.clone(), name.clone()),
            ("address", old.address.to_string(), address.to_string()),
            ("port", old.port.to_string(), port.to_string()),
            ("protocol", old.protocol.to_string(), protocol.to_string()),
            ("hash", old.hash.to_string(), hash.to_string()),
            ("echo", old.echo.to_string(), echo.to_string()),
            ("mss", old.mss.to_string(), mss.to_string()),
            ("all_down", old.all_down.to_string(), all_down.to_string()),
            (
                "min_healthy",
                format!("{}%", old.min_healthy),
                format!("{min_healthy}%"),
            ),
            ("health", health(&old.probing), health(probing)),
            (
                "new_flows_per_second",
                limit(old.new_flows_per_second),
                limit(*new_flows_per_second),
            ),
        ] {
            self.compare(vip, key, old, new);
        }
        if (old.encap, *encap) != inherited {
            self.compare(vip, "encap", tunnel(old.encap), tunnel(*encap));
        }
        self.in_backends(name, &old.backends, backends);
    }

    fn in_backends(&mut self, vip: &str, old: &[BackendSpec], new: &[BackendSpec]) {
        let subject = |address| Subject::Backend {
            vip: vip.to_owned(),
            address,
        };
        let by_address = |backend: &'_ BackendSpec| (backend.address, backend.clone());
        let mut before: BTreeMap<_, _> = old.iter().map(by_address).collect();
        for backend in new {
            let subject = subject(backend.address);
            let Some(old) = before.remove(&backend.address) else {
                self.add(subject, DifferenceKind::Added);
                continue;
            };
            let [was, is] = [&old, backend].map(|backend| backend.weight.to_string());
            self.compare(&subject, "weight", was, is);
            let [was, is] = [&old, backend].map(|backend| backend.state.to_string());
            self.compare(&subject, "state", was, is);
        }
        for address in before.into_keys() {
            self.add(subject(address), DifferenceKind::Removed);
        }
    }
}

fn health(probing: &Option<Probing>) -> String {
    match probing {
        Some(probing) => probing.to_string(),
        None => "none".to_owned(),
    }
}

/// As a flag writes it.
fn tunnel(kind: EncapKind) -> String {
    match kind {
        EncapKind::Ipip => "ipip".to_owned(),
        EncapKind::Gue { port } => format!("gue:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(director: &str, vips: &str) -> Config {
        let text = format!("[director]\n{director}\n{vips}");
        Config::parse("f", &text).unwrap_or_else(|error| panic!("{error}"))
    }

    fn vip(name: &str, port: u16, more: &str, backends: &str) -> String {
        format!(
            "[[vip]]\nname = \"{name}\"\naddress = \"10.0.0.100\"\nport = {port}\n{more}\n\
             backend = [{backends}]\n"
        )
    }

    const B1: &str = "{ address = \"10.0.1.11\" }";
    const B2: &str = "{ address = \"10.0.1.12\", weight = 2 }";

    fn both() -> String {
        format!("{B1}, {B2}")
    }

    fn texts(old: &Config, new: &Config) -> Vec<String> {
        let differences = old.differences(new);
        differences.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nothing_is_different() {
        let old = config("", &vip("web", 80, "", &both()));
        assert_eq!(old.differences(&old), []);
        let swapped = config("", &vip("web", 80, "", &format!("{B2}, {B1}")));
        assert_eq!(texts(&old, &swapped), [] as [&str; 0]);
    }

    #[test]
    fn backends() {
        let old = config("", &vip("web", 80, "", &both()));
        let third = "{ address = \"10.0.1.12\", weight = 3, state = \"draining\" }, \
                     { address = \"2001:db8::13\" }";
        let new = config("", &vip("web", 80, "", third));
        assert_eq!(
            texts(&old, &new),
            [
                "vip web: backend 10.0.1.12: weight 2 -> 3",
                "vip web: backend 10.0.1.12: state active -> draining",
                "vip web: backend 2001:db8::13: added",
                "vip web: backend 10.0.1.11: removed",
            ]
        );
    }

    #[test]
    fn vips_come_go_and_change_names() {
        let old = config("", &(vip("web", 80, "", B1) + &vip("tls", 443, "", B1)));
        let more = "hash = \"source-address\"\necho = \"drop\"\nall_down = \"drop\"\n\
                    min_healthy = \"50%\"\nhealth = { fall = 2, on_unhealthy = \"move\" }\n\
                    mss = \"clamp\"\nnew_flows_per_second = 5\nencap.kind = \"gue\"";
        let new = vip("other", 8080, "echo = \"drop\"", B1) + &vip("www", 80, more, B1);
        assert_eq!(
            texts(&old, &config("", &new)),
            [
                "vip other: added",
                "vip www: name web -> www",
                "vip www: hash 5-tuple -> source-address",
                "vip www: echo reply -> drop",
                "vip www: mss keep -> clamp",
                "vip www: all_down forward -> drop",
                "vip www: min_healthy 0% -> 50%",
                "vip www: health none -> tcp every 2s timeout 1s rise 2 fall 2 on_unhealthy move",
                "vip www: new_flows_per_second none -> 5",
                "vip www: encap ipip -> gue:6080",
                "vip tls: removed",
            ]
        );
        let moved = config("", &(vip("web", 80, "", B1) + &vip("tls", 8443, "", B1)));
        assert_eq!(texts(&old, &moved), ["vip tls: port 443 -> 8443"]);
    }

    #[test]
    fn metrics() {
        let web = vip("web", 80, "", B1);
        let set = "[metrics]\nper_backend = false\ncompat = [\"node_ipvs\"]";
        assert_eq!(
            texts(&config("", &web), &config(set, &web)),
            [
                "metrics: per_backend auto -> false",
                "metrics: compat [] -> [node_ipvs]",
            ]
        );
    }

    /// A new VIP of the service of one and the name of another continues the first.
    #[test]
    fn names_that_swap() {
        let old = config("", &(vip("a", 80, "", B1) + &vip("b", 443, "", B1)));
        let new = config("", &(vip("b", 80, "", B1) + &vip("a", 443, "", B1)));
        assert_eq!(
            texts(&old, &new),
            ["vip b: name a -> b", "vip a: name b -> a"]
        );
    }

    #[test]
    fn the_director_and_what_is_inherited() {
        let web = vip("web", 80, "", B1);
        let director = "hash_key = \"c0a1f75e9b3344d2817f06e9ab5d20c8\"\nring_size = 251\n\
                        flows = 2048\ntimeouts.udp = \"2m\"\n\
                        encap = { kind = \"gue\", source = \"10.0.0.2\", ttl = 3 }";
        let found = texts(&config("", &web), &config(director, &web));
        assert_eq!(
            found,
            [
                "director: hash_key changed",
                "director: ring_size 65537 -> 251",
                "director: flows 1000000 -> 2048",
                "director: timeouts.udp 1m -> 2m",
                "director: encap ipip -> gue:6080",
                "director: encap.source auto -> 10.0.0.2",
                "director: encap.ttl 64 -> 3",
            ]
        );
    }
}
