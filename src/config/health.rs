//! `[vip.health]`: its keys, to which kinds of probes they belong, and what they make together.

mod values;

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::{NonZeroU8, NonZeroU16};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::draft::{Field, Optional, VipDraft};
use super::problem::{Fault, Problem, Site, Written};
use super::problems::Collector;
use super::section::Section;
use super::unsupported::Supported;
use super::value::{self, Choice, LEFT_OUT, Raw};
use crate::director::{PortMatch, Protocol};
use crate::probe::check::{Datagram, Dns, Http, Https, Pattern, Ping, Record, Tls, Verify};
use crate::probe::{Check, Close, Initial, Kind, OnUnhealthy, ProbedBy, Probing, Timing, Via};
pub(super) use values::percentage;
use values::{
    body, count, expect, host, long_time, path, payload, size, slow_start, status, time, verify,
};

/// `[vip.health]`
#[derive(Debug)]
pub(super) struct HealthDraft {
    /// Where the section begins.
    site: Site,
    /// `Some(None)` where it was left out, which is "tcp".
    pub(super) kind: Optional<HealthKind>,
    pub(super) track: Optional<String>,
    on_unhealthy: Field<OnUnhealthy>,
    mtu_check: Optional<Duration>,
    slow_start: Optional<Duration>,
    check: CheckDraft,
    /// All keys that belong to a probe and were written.
    written: Vec<(&'static str, Site)>,
}

/// The keys of a probe.
#[derive(Debug)]
struct CheckDraft {
    port: Optional<NonZeroU16>,
    interval: Optional<Duration>,
    interval_edge: Optional<Duration>,
    interval_down: Optional<Duration>,
    timeout: Optional<Duration>,
    rise: Optional<NonZeroU8>,
    fall: Optional<NonZeroU8>,
    initial: Optional<Initial>,
    source: Optional<IpAddr>,
    close: Optional<Close>,
    via: Optional<Via>,
    passive: Optional<bool>,
    path: Optional<String>,
    host: Optional<String>,
    status: Optional<RangeInclusive<u16>>,
    body: Optional<String>,
    verify: Optional<Verify>,
    payload: Optional<Vec<u8>>,
    expect: Optional<Pattern>,
    query: Optional<String>,
    record: Optional<Record>,
    protocol: Optional<Protocol>,
    size: Optional<u16>,
}

/// `vip.health.kind`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HealthKind {
    Tcp,
    Http,
    Tls,
    Https,
    Dns,
    Udp,
    Ping,
    External,
    None,
}

impl Choice for HealthKind {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("tcp", Self::Tcp),
        ("http", Self::Http),
        ("tls", Self::Tls),
        ("https", Self::Https),
        ("dns", Self::Dns),
        ("udp", Self::Udp),
        ("ping", Self::Ping),
        ("external", Self::External),
        ("none", Self::None),
    ];
}

impl Supported for HealthKind {
    fn is_supported(&self) -> bool {
        *self != Self::Https || cfg!(feature = "https")
    }
}

/// A choice of the probe layer, which knows nothing of files.
macro_rules! choices {
    ($($choice:ty: $($name:literal => $value:ident),+;)+) => {$(
        impl Supported for $choice {}

        impl Choice for $choice {
            const NAMES: &'static [(&'static str, Self)] = &[$(($name, Self::$value)),+];
        }
    )+};
}

choices! {
    Initial: "trial" => Trial, "healthy" => Healthy, "unhealthy" => Unhealthy;
    OnUnhealthy: "auto" => Auto, "move" => Move, "keep" => Keep;
    Via: "tunnel" => Tunnel, "direct" => Direct;
    Close: "reset" => Reset, "graceful" => Graceful;
    Record: "A" => A, "AAAA" => Aaaa, "SOA" => Soa, "TXT" => Txt;
}

/// The kinds that a key belongs to; a key that is not here belongs to all that send something.
const KEYS: [(&str, &[HealthKind]); 13] = {
    use HealthKind::{Dns, Http, Https, Ping, Tcp, Tls, Udp};
    [
        ("port", &[Tcp, Http, Tls, Https, Dns, Udp]),
        ("close", &[Tcp]),
        ("path", &[Http, Https]),
        ("host", &[Http, Https, Tls]),
        ("status", &[Http, Https]),
        ("body", &[Http, Https]),
        ("verify", &[Https]),
        ("payload", &[Udp]),
        ("expect", &[Udp]),
        ("query", &[Dns]),
        ("type", &[Dns]),
        ("protocol", &[Dns]),
        ("size", &[Ping]),
    ]
};

/// Probes a second for all VIPs that one thread can send.
const MOST_PROBES: f64 = 20_000.0;

pub(super) fn read(mut section: Section<'_>, problems: &mut Collector) -> HealthDraft {
    let kind = section.absent_or("kind", problems, value::choice);
    let track = section.absent_or("track", problems, value::name);
    let on_unhealthy = section.or_default(
        "on_unhealthy",
        OnUnhealthy::default(),
        problems,
        value::choice,
    );
    let slow_start = section.absent_or("slow_start", problems, slow_start);
    let mut reader = Reader {
        section: &mut section,
        problems,
        written: Vec::new(),
    };
    let check = CheckDraft {
        port: reader.key("port", value::port),
        interval: reader.key("interval", time),
        interval_edge: reader.key("interval_edge", time),
        interval_down: reader.key("interval_down", time),
        timeout: reader.key("timeout", time),
        rise: reader.key("rise", count),
        fall: reader.key("fall", count),
        initial: reader.key("initial", value::choice),
        source: reader.key("source", value::address),
        close: reader.key("close", value::choice),
        via: reader.key("via", value::choice),
        passive: reader.key("passive", value::boolean),
        path: reader.key("path", path),
        host: reader.key("host", host),
        status: reader.key("status", status),
        body: reader.key("body", body),
        verify: reader.key("verify", verify),
        payload: reader.key("payload", payload),
        expect: reader.key("expect", expect),
        query: reader.key("query", host),
        record: reader.key("type", value::choice),
        protocol: reader.key("protocol", value::choice),
        size: reader.key("size", size),
    };
    let mtu_check = reader.key("mtu_check", long_time);
    let written = reader.written;
    let site = section.site().clone();
    section.finish(problems);
    HealthDraft {
        site,
        kind,
        track,
        on_unhealthy,
        mtu_check,
        slow_start,
        check,
        written,
    }
}

struct Reader<'r, 'a> {
    section: &'r mut Section<'a>,
    problems: &'r mut Collector,
    written: Vec<(&'static str, Site)>,
}

impl Reader<'_, '_> {
    fn key<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(Raw<'_>) -> Result<T, Fault>,
    ) -> Optional<T> {
        let field = self.section.absent_or(key, self.problems, read);
        if let Some(Some(written)) = &field {
            self.written.push((key, written.site.clone()));
        }
        field
    }
}

impl HealthDraft {
    /// How the VIP is measured; `Some(None)`: not at all.
    pub(super) fn finish(&self) -> Option<Option<Probing>> {
        let on_unhealthy = self.on_unhealthy.as_ref()?.value;
        let slow_start = value_of(&self.slow_start)?;
        let probing = |by, mtu_check| Probing {
            by,
            on_unhealthy,
            mtu_check,
            slow_start,
        };
        if let Some(track) = value_of(&self.track)? {
            return Some(Some(probing(ProbedBy::Track(track), None)));
        }
        let kind = value_of(&self.kind)?.unwrap_or(HealthKind::Tcp);
        let Some(kind) = self.check.kind(kind)? else {
            return Some(None);
        };
        let check = Arc::new(self.check.finish(kind)?);
        let mtu_check = value_of(&self.mtu_check)?;
        Some(Some(probing(ProbedBy::Check(check), mtu_check)))
    }
}

impl CheckDraft {
    fn kind(&self, kind: HealthKind) -> Option<Option<Kind>> {
        Some(Some(match kind {
            HealthKind::Tcp => Kind::Tcp,
            HealthKind::Http => Kind::Http(self.http()?),
            HealthKind::Https => Kind::Https(Https {
                http: self.http()?,
                verify: value_of(&self.verify)?.unwrap_or_default(),
            }),
            HealthKind::Tls => Kind::Tls(Tls {
                host: value_of(&self.host)?,
            }),
            HealthKind::Udp => Kind::Udp(Datagram {
                payload: value_of(&self.payload)?.unwrap_or_default(),
                expect: value_of(&self.expect)?,
            }),
            HealthKind::Dns => Kind::Dns(Dns {
                query: value_of(&self.query)?.unwrap_or_else(|| ".".to_owned()),
                record: value_of(&self.record)?.unwrap_or(Record::Soa),
                protocol: value_of(&self.protocol)?.unwrap_or(Protocol::Udp),
            }),
            HealthKind::Ping => Kind::Ping(Ping {
                size: value_of(&self.size)?,
            }),
            HealthKind::External => Kind::External,
            HealthKind::None => return Some(None),
        }))
    }

    fn http(&self) -> Option<Http> {
        Some(Http {
            path: value_of(&self.path)?.unwrap_or_else(|| "/".to_owned()),
            host: value_of(&self.host)?,
            status: value_of(&self.status)?.unwrap_or(200..=399),
            body: value_of(&self.body)?,
        })
    }

    fn finish(&self, kind: Kind) -> Option<Check> {
        let interval = value_of(&self.interval)?.unwrap_or(Check::INTERVAL);
        Some(Check {
            kind,
            port: value_of(&self.port)?,
            timing: Timing {
                interval,
                edge: value_of(&self.interval_edge)?.unwrap_or(interval),
                down: value_of(&self.interval_down)?.unwrap_or(interval),
                timeout: value_of(&self.timeout)?.unwrap_or(Check::TIMEOUT),
            },
            rise: value_of(&self.rise)?.unwrap_or(Check::RISE),
            fall: value_of(&self.fall)?.unwrap_or(Check::FALL),
            initial: value_of(&self.initial)?.unwrap_or_default(),
            source: value_of(&self.source)?,
            close: value_of(&self.close)?.unwrap_or_default(),
            via: value_of(&self.via)?.unwrap_or_default(),
            passive: value_of(&self.passive)?.unwrap_or_default(),
        })
    }
}

fn value_of<T: Clone>(field: &Optional<T>) -> Option<Option<T>> {
    Some(
        field
            .as_ref()?
            .as_ref()
            .map(|written| written.value.clone()),
    )
}

fn written<T>(field: &Optional<T>) -> Option<&Written<T>> {
    field.as_ref()?.as_ref()
}

/// Finds what does not go together: within a section, with its VIP, and with other VIPs.
pub(super) fn check(vips: &[VipDraft], problems: &mut Collector) {
    let names = vips
        .iter()
        .filter_map(|vip| Some((vip.effective_name()?, vip)));
    let names: HashMap<_, _> = names.collect();
    let mut probes = 0.0;
    for vip in vips {
        let Some(health) = &vip.health else { continue };
        match written(&health.track) {
            Some(track) => tracking(vip, health, track, &names, problems),
            None => probing(vip, health, problems),
        }
        probes += probes_per_second(vip, health);
        if probes > MOST_PROBES {
            let message = format!(
                "with this VIP {probes:.0} probes are sent each second, more than one thread can send"
            );
            let accepted =
                "a longer interval; or track, for VIPs that have their backends in common";
            problems.push(
                health
                    .site
                    .absent("interval")
                    .problem(Fault::new(message, accepted)),
            );
            return;
        }
    }
}

fn probes_per_second(vip: &VipDraft, health: &HealthDraft) -> f64 {
    let Some(Some(Probing {
        by: ProbedBy::Check(check),
        ..
    })) = health.finish()
    else {
        return 0.0;
    };
    let backends = u32::try_from(vip.backends.len()).unwrap_or(u32::MAX);
    f64::from(backends) / check.timing.interval.as_secs_f64()
}

/// A section that measures nothing itself.
fn tracking(
    vip: &VipDraft,
    health: &HealthDraft,
    track: &Written<String>,
    names: &HashMap<String, &VipDraft>,
    problems: &mut Collector,
) {
    let kind = written(&health.kind).map(|kind| &kind.site);
    let others = kind
        .into_iter()
        .chain(health.written.iter().map(|(_, site)| site));
    let fault = || Fault::new("has no effect beside track", LEFT_OUT);
    problems.extend(others.map(|site| site.problem(fault())));
    let with_check = |vip: &&VipDraft| {
        let health = vip.health.as_ref();
        health.is_some_and(|health| written(&health.track).is_none())
    };
    let accepted = "the name of a VIP with probes of its own";
    let Some(other) = names.get(&track.value) else {
        let fault = Fault::new("no VIP has that name", accepted);
        return problems.push(track.site.problem(fault));
    };
    if !Some(*other).as_ref().is_some_and(with_check) {
        let fault = Fault::new("that VIP sends no probes", accepted);
        return problems.push(track.site.problem(fault));
    }
    let addresses = |vip: &VipDraft| -> Vec<IpAddr> {
        let addresses = vip
            .backends
            .iter()
            .filter_map(|backend| backend.address.as_ref());
        addresses.map(|address| address.value).collect()
    };
    let measured = addresses(other);
    if let Some(lone) = addresses(vip)
        .iter()
        .find(|address| !measured.contains(address))
    {
        let message = format!("that VIP has no backend {lone}");
        let accepted = "a VIP that has all backends of this one";
        problems.push(track.site.problem(Fault::new(message, accepted)));
    }
}

fn probing(vip: &VipDraft, health: &HealthDraft, problems: &mut Collector) {
    let Some(kind) = value_of(&health.kind) else {
        return;
    };
    let kind = kind.unwrap_or(HealthKind::Tcp);
    if !kind.is_supported() {
        return; // that is the one problem of the section
    }
    let word = name_of(kind);
    for (key, site) in &health.written {
        let kinds = KEYS.iter().find(|(listed, _)| listed == key);
        let belongs = match kind {
            HealthKind::None => false,
            HealthKind::External => matches!(*key, "interval" | "rise" | "fall" | "initial"),
            HealthKind::Tcp
            | HealthKind::Http
            | HealthKind::Tls
            | HealthKind::Https
            | HealthKind::Dns
            | HealthKind::Udp
            | HealthKind::Ping => kinds.is_none_or(|(_, kinds)| kinds.contains(&kind)),
        };
        if !belongs {
            let message = format!("has no effect while kind is \"{word}\"");
            problems.push(site.problem(Fault::new(message, LEFT_OUT)));
        }
    }
    problems.extend(no_port(vip, health, kind));
    problems.extend(source_without_tunnel(health).or_else(|| source_of_other_family(vip, health)));
}

/// A VIP of every port names none that could be probed.
fn no_port(vip: &VipDraft, health: &HealthDraft, kind: HealthKind) -> Option<Problem> {
    let (_, kinds) = KEYS.iter().find(|(key, _)| *key == "port")?;
    let is_any = vip.port.as_ref()?.value == PortMatch::Any;
    let is_missing = health.check.port.as_ref()?.is_none();
    let fault = || Fault::new("missing, and the VIP has every port", "the port to probe");
    let site = health.site.absent("port");
    (is_any && is_missing && kinds.contains(&kind)).then(|| site.problem(fault()))
}

/// Without the tunnel the kernel chooses the source.
fn source_without_tunnel(health: &HealthDraft) -> Option<Problem> {
    let source = written(&health.check.source)?;
    let via = written(&health.check.via)?;
    let fault = || Fault::new("has no effect while via is \"direct\"", LEFT_OUT);
    (via.value == Via::Direct).then(|| source.site.problem(fault()))
}

fn source_of_other_family(vip: &VipDraft, health: &HealthDraft) -> Option<Problem> {
    let source = written(&health.check.source)?;
    let address = vip.address.as_ref()?.value;
    let fault = || {
        Fault::new(
            "not of the family of the VIP",
            "an address of this host of the VIP's family",
        )
    };
    (source.value.is_ipv4() != address.is_ipv4()).then(|| source.site.problem(fault()))
}

fn name_of(kind: HealthKind) -> &'static str {
    let named = HealthKind::NAMES.iter().find(|(_, value)| *value == kind);
    named.map_or("", |(name, _)| name)
}

#[cfg(test)]
mod tests;
