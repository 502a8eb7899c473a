//! Quick mode: a whole configuration from command-line flags, by the rules of the file.

use std::net::IpAddr;

use super::draft::{BackendDraft, DirectorDraft, Draft, MetricsDraft, TunnelDraft, VipDraft};
use super::problem::{Fault, Site, Written, excerpt};
use super::problems::Collector;
use super::value::{self, Raw};
use super::workers::{self, WorkerCount};
use crate::director::{AllDown, BackendState, HashFields, Mss};

/// The texts of the flags, as they were given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--vip ADDR:PORT/PROTO`, each with all the backends.
    pub vips: Vec<String>,
    /// `--backend ADDR[,weight=N][,state=STATE]`
    pub backends: Vec<String>,
    /// `--tun NAME`
    pub tun: Option<String>,
    /// `--workers N|auto`
    pub workers: Option<String>,
    /// `--encap ipip|gue[:PORT]`
    pub encap: Option<String>,
}

pub(super) fn read(flags: &Flags, problems: &mut Collector) -> Draft {
    let site = Site {
        file: None,
        line: None,
        key: "--vip".to_owned(),
        value: None,
    };
    let backends: Vec<_> = flags
        .backends
        .iter()
        .map(|text| backend(text, problems))
        .collect();
    let vips = flags.vips.iter().map(|text| VipDraft {
        backends: backends.clone(),
        ..vip(text, problems)
    });
    let vips = vips.collect();
    Draft {
        director: director(flags, &site, problems),
        metrics: MetricsDraft::default(),
        vips,
        site,
    }
}

fn director(flags: &Flags, site: &Site, problems: &mut Collector) -> DirectorDraft {
    let mut draft = DirectorDraft::default_at(site);
    if let Some(text) = &flags.tun {
        let site = Site::flag("--tun", text);
        draft.tun = Reading { site, problems }.keep(value::device(Raw::Text(text)));
    }
    if let Some(text) = &flags.workers {
        let site = Site::flag("--workers", text);
        draft.workers = Reading { site, problems }.keep(workers(text));
    }
    if let Some(text) = &flags.encap {
        let site = Site::flag("--encap", text);
        draft.encap.tunnel = tunnel(text, &mut Reading { site, problems });
    }
    draft
}

/// `ipip`, `gue` or `gue:PORT`.
fn tunnel(text: &str, reading: &mut Reading<'_>) -> TunnelDraft {
    let mut parts = text.splitn(2, ':');
    let kind = value::choice(Raw::Text(parts.next().unwrap_or_default()));
    let port = parts.next().map(|port| value::port(number_or_text(port)));
    TunnelDraft {
        kind: reading.keep(kind).map(Some),
        port: match port {
            Some(port) => reading.keep(port.map_err(about("port"))).map(Some),
            None => Some(None),
        },
    }
}

fn workers(text: &str) -> Result<WorkerCount, Fault> {
    workers::count(number_or_text(text))
}

/// What a flag says without quotes: a number where it can be one.
fn number_or_text(text: &str) -> Raw<'_> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty();
    match text.parse() {
        Ok(number) if plain => Raw::Whole(number),
        Err(_) if plain => Raw::Whole(i128::MAX),
        Ok(_) | Err(_) => Raw::Text(text),
    }
}

fn vip(text: &str, problems: &mut Collector) -> VipDraft {
    let site = Site::flag("--vip", text);
    let mut reading = Reading {
        site: site.clone(),
        problems,
    };
    let (address, port, protocol) = match split_service(text) {
        Ok((address, port, protocol)) => (
            reading.keep(value::address(Raw::Text(address))),
            reading.keep(value::port_match(number_or_text(port)).map_err(about("port"))),
            reading.keep(value::choice(Raw::Text(protocol)).map_err(about("protocol"))),
        ),
        Err(fault) => {
            reading.keep::<()>(Err(fault));
            (None, None, None)
        }
    };
    VipDraft {
        name: Some(None),
        address,
        port,
        protocol,
        hash: reading.keep(Ok(HashFields::default())),
        echo: Some(None),
        mss: reading.keep(Ok(Mss::default())),
        all_down: reading.keep(Ok(AllDown::default())),
        min_healthy: reading.keep(Ok(0)),
        new_flows_per_second: Some(None),
        encap: TunnelDraft::inherited(),
        health: None,
        backends: Vec::new(),
        site,
    }
}

/// The three parts of `ADDR:PORT/PROTO`; an IPv6 address is in brackets.
fn split_service(text: &str) -> Result<(&str, &str, &str), Fault> {
    const ACCEPTED: &str = "ADDR:PORT/PROTO such as 10.0.0.100:80/tcp or [2001:db8::1]:80/tcp";
    let fault = |message: &str| Fault::new(message, ACCEPTED);
    let (service, protocol) = text
        .rsplit_once('/')
        .ok_or_else(|| fault("the protocol is missing"))?;
    let (host, port) = match service.strip_prefix('[') {
        Some(rest) => rest.rsplit_once("]:"),
        None => service.rsplit_once(':'),
    }
    .ok_or_else(|| fault("the port is missing"))?;
    if !service.starts_with('[') && host.contains(':') {
        return Err(fault("an IPv6 address needs brackets"));
    }
    Ok((host, port, protocol))
}

fn backend(text: &str, problems: &mut Collector) -> BackendDraft {
    let mut reading = Reading {
        site: Site::flag("--backend", text),
        problems,
    };
    let mut parts = text.split(',');
    let address = parts.next().unwrap_or_default();
    let mut draft = BackendDraft {
        address: reading.keep(backend_address(address)),
        weight: reading.keep(Ok(value::DEFAULT_WEIGHT)),
        state: reading.keep(Ok(BackendState::default())),
    };
    let mut seen = Vec::new();
    for part in parts {
        let name = part.split('=').next().unwrap_or_default();
        if seen.contains(&name) {
            let fault = Fault::new(
                format!("{} is given twice", excerpt(name)),
                "each option once",
            );
            reading.keep::<()>(Err(fault));
        }
        seen.push(name);
        backend_option(part, &mut draft, &mut reading);
    }
    draft
}

/// IPv6 may be in brackets, as it is in `--vip`.
fn backend_address(text: &str) -> Result<IpAddr, Fault> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let v6 = bare.filter(|bare| bare.contains(':'));
    value::address(Raw::Text(v6.unwrap_or(text)))
}

fn backend_option(part: &str, draft: &mut BackendDraft, reading: &mut Reading<'_>) {
    match part.split_once('=') {
        Some(("weight", text)) => {
            let weight = value::weight(number_or_text(text));
            draft.weight = reading.keep(weight.map_err(about("weight")));
        }
        Some(("state", text)) => {
            let state = value::choice(Raw::Text(text));
            draft.state = reading.keep(state.map_err(about("state")));
        }
        _ => {
            let fault = Fault::new("unknown option after ','", "weight=N, state=STATE");
            reading.keep::<()>(Err(fault));
        }
    }
}

/// Names the part of a flag that a fault is about.
fn about(part: &'static str) -> impl Fn(Fault) -> Fault {
    move |fault| Fault {
        message: format!("{part}: {}", fault.message),
        ..fault
    }
}

/// The flag that is being read, and where its problems go.
struct Reading<'a> {
    site: Site,
    problems: &'a mut Collector,
}

impl Reading<'_> {
    fn keep<T>(&mut self, outcome: Result<T, Fault>) -> Option<Written<T>> {
        let site = self.site.clone();
        match outcome {
            Ok(value) => Some(Written { value, site }),
            Err(fault) => {
                self.problems.push(site.problem(fault));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ConfigError};
    use super::*;
    use crate::director::PortMatch;
    use crate::packet::EncapKind;

    fn flags(vips: &[&str], backends: &[&str]) -> Flags {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        Flags {
            vips: owned(vips),
            backends: owned(backends),
            ..Flags::default()
        }
    }

    fn problems(flags: &Flags) -> Vec<String> {
        match Config::from_flags(flags) {
            Err(ConfigError::Invalid(problems)) => {
                problems.first().iter().map(ToString::to_string).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_whole_configuration() {
        let config = Config::from_flags(&Flags {
            tun: Some("lb1".to_owned()),
            workers: Some("2".to_owned()),
            ..flags(
                &["10.0.0.100:80/tcp", "10.0.0.100:53/udp"],
                &["10.0.1.11", "10.0.1.12,weight=2,state=draining"],
            )
        })
        .unwrap();
        assert_eq!(config.director.tun, "lb1");
        assert_eq!(config.director.workers.get(), 2);
        assert_eq!(config.vips[0].name, "10.0.0.100:80/tcp");
        assert_eq!(config.vips[1].name, "10.0.0.100:53/udp");
        assert_eq!(config.vips[0].backends, config.vips[1].backends);
        assert_eq!(config.vips[0].backends[0].weight, 1);
        assert_eq!(config.vips[0].backends[1].weight, 2);
        assert_eq!(config.vips[0].backends[1].state, BackendState::Draining);
    }

    #[test]
    fn vips_that_are_not() {
        for (vip, expected) in [
            ("10.0.0.100", "the protocol is missing"),
            ("10.0.0.100:80", "the protocol is missing"),
            ("10.0.0.100/tcp", "the port is missing"),
            ("10.0.0.100:/tcp", "port: wrong type"),
            ("10.0.0.100:0/tcp", "port: out of range"),
            (
                "10.0.0.100:99999999999999999999999999999999999999999/tcp",
                "port: out of range",
            ),
            ("10.0.0.100:80/sctp", "protocol: unknown choice"),
            ("10.0.0.100:all/tcp", "port: wrong type"),
            ("2001:db8::1:80/tcp", "an IPv6 address needs brackets"),
            ("[2001:db8::1]/tcp", "the port is missing"),
            ("host:80/tcp", "not an IPv4 or IPv6 address"),
        ] {
            let found = problems(&flags(&[vip], &["10.0.1.11"]));
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(&format!("--vip {vip}: ")), "{found:?}");
            assert!(found[0].contains(expected), "{found:?}");
        }
    }

    #[test]
    fn backends_that_are_not() {
        for (backend, expected) in [
            ("10.0.0.300", "not an IPv4 or IPv6 address"),
            ("[10.0.1.11]", "an address in brackets"),
            ("[2001:db8::1]:80", "an address with a port"),
            ("10.0.1.11,", "unknown option"),
            ("10.0.1.11,weight", "unknown option"),
            ("10.0.1.11,weight=", "weight: wrong type"),
            ("10.0.1.11,weight=+1", "weight: wrong type"),
            ("10.0.1.11,weight=65536", "weight: out of range"),
            ("10.0.1.11,weight=1,weight=1", "weight is given twice"),
            ("10.0.1.11,state=off", "state: unknown choice"),
            (
                "10.0.0.100",
                "the address of the VIP given as --vip 10.0.0.100:80/tcp",
            ),
        ] {
            let found = problems(&flags(&["10.0.0.100:80/tcp"], &[backend]));
            assert_eq!(found.len(), 1, "{found:?}");
            let start = format!("--backend {backend}: ");
            assert!(found[0].starts_with(&start), "{found:?}");
            assert!(found[0].contains(expected), "{found:?}");
        }
    }

    #[test]
    fn ipv6_and_any_port() {
        let config = Config::from_flags(&flags(
            &["[2001:db8::100]:80/tcp", "10.0.0.100:any/tcp"],
            &["2001:db8:1::11", "[2001:db8:1::12],weight=2", "10.0.1.13"],
        ))
        .unwrap();
        assert_eq!(config.vips[0].name, "[2001:db8::100]:80/tcp");
        assert_eq!(config.vips[1].name, "10.0.0.100:any/tcp");
        assert_eq!(config.vips[1].port, PortMatch::Any);
        let address = |n: usize| config.vips[0].backends[n].address.to_string();
        assert_eq!(address(0), "2001:db8:1::11");
        assert_eq!(address(1), "2001:db8:1::12");
        assert_eq!(config.vips[0].backends[1].weight, 2);
    }

    #[test]
    fn tunnels() {
        let with = |encap: &str| Flags {
            encap: Some(encap.to_owned()),
            ..flags(&["10.0.0.100:80/tcp"], &["10.0.1.11"])
        };
        for (text, port) in [
            ("ipip", None),
            ("gue", Some(6080)),
            ("gue:7000", Some(7000)),
        ] {
            let expected = match port {
                Some(port) => EncapKind::Gue {
                    port: u16::try_into(port).unwrap(),
                },
                None => EncapKind::Ipip,
            };
            let config = Config::from_flags(&with(text)).unwrap();
            assert_eq!(config.vips[0].encap, expected, "{text}");
        }
        for (text, expected) in [
            (
                "fou",
                "--encap fou: unknown choice; accepted: \"ipip\" or \"gue\"",
            ),
            ("", "unknown choice"),
            ("gue:", "--encap gue:: port: wrong type"),
            ("gue:0", "port: out of range"),
            ("gue:1:2", "port: wrong type"),
            (
                "ipip:1",
                "--encap ipip:1: port applies only to kind \"gue\"",
            ),
        ] {
            let found = problems(&with(text));
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(expected), "{found:?}");
        }
    }

    #[test]
    fn flags_have_the_rules_of_the_file() {
        let twice = flags(&["10.0.0.100:80/tcp"; 2], &["10.0.1.11", "10.0.1.11"]);
        let found = problems(&twice);
        assert_eq!(found.len(), 2, "each problem once: {found:?}");
        let idle = flags(&["10.0.0.100:80/tcp"], &["10.0.1.11,weight=0"]);
        assert_eq!(
            problems(&idle),
            [
                "--vip 10.0.0.100:80/tcp: every backend of the VIP has weight 0; \
              accepted: at least one active backend with weight 1 or more"
            ]
        );
        assert_eq!(problems(&Flags::default()).len(), 1);
    }
}
