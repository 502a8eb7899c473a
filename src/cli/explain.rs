//! `tunlb explain`: which backend a flow gets, by which rule, and the outer header it leaves with.
//!
//! The answer is the ring's: that of a new flow. It is this host's where the configuration leaves
//! the outer source and the MTU to the kernel's routes. Needs no privileges. With `--running` the director
//! that runs answers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use super::running::ApiArgs;
use super::source::{ConfigSource, SOURCE};
use super::{BAD_NEWS, parse_protocol, print, print_json};
use crate::director::Roster;
use crate::io::netlink::Netlink;
use crate::packet::{FlowKey, Protocol};
use crate::site::explain::Report;
use crate::site::{Paths, taken_for_healthy};
use crate::text::plain::plain;

/// Arguments of `tunlb explain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What decides.
    #[command(flatten)]
    pub source: ConfigSource,

    /// The client, such as `192.0.2.1:40000` or `[2001:db8::1]:40000`
    #[arg(value_name = "SRC:PORT", value_parser = parse_client)]
    pub client: SocketAddr,

    /// What it addresses, such as `203.0.113.10:80/tcp` or `[2001:db8::10]:80/tcp`
    #[arg(value_name = "DST:PORT/PROTO", value_parser = parse_service)]
    pub service: Service,

    /// Ask the director that runs, with its overrides and what it has measured, instead of a file
    #[arg(long, group = SOURCE, conflicts_with_all = ["config", "vip", "backend"])]
    pub running: bool,

    /// The socket of the director to ask [default: that of the director of this network namespace]
    #[arg(long, value_name = "PATH", group = SOURCE, conflicts_with_all = ["config", "vip", "backend"])]
    pub api: Option<PathBuf>,

    /// One JSON document on stdout (described in docs/replay.md)
    #[arg(long)]
    pub json: bool,
}

/// What a client addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// Address and port.
    pub address: SocketAddr,
    /// The transport protocol.
    pub protocol: Protocol,
}

/// Explains one flow: 0 when it would be forwarded, 1 when not.
///
/// # Errors
/// The configuration cannot be read, the flow cannot be one, or the kernel does not tell its routes.
pub fn run(args: &Args) -> Result<ExitCode> {
    let flow = flow(args.client, args.service)?;
    if args.running || args.api.is_some() {
        return ask(args);
    }
    let Some(config) = args.source.load_or_complain(None)? else {
        return Ok(ExitCode::from(BAD_NEWS));
    };
    let paths = Paths::resolve(&config, &mut Netlink::open()?)?;
    let snapshot = paths.snapshot(&config, &mut Roster::default(), taken_for_healthy)?;
    let report = Report::new(&config, &paths, &snapshot, &flow);
    print(&if args.json {
        report.to_json()?
    } else {
        report.to_string()
    })?;
    Ok(code(&report))
}

fn ask(args: &Args) -> Result<ExitCode> {
    let api = args.api.clone();
    let client = ApiArgs { api }.client()?;
    let Service { address, protocol } = args.service;
    let document = client.explain(args.client, address, &protocol.to_string())?;
    let report: Report<'_> = serde_json::from_str(&document)
        .with_context(|| format!("{}: unknown answer", client.socket().display()))?;
    if args.json {
        print_json(&document)?;
    } else {
        let text = report.to_string();
        let lines = text.lines().map(|line| plain(line) + "\n");
        print(&lines.collect::<String>())?;
    }
    Ok(code(&report))
}

fn code(report: &Report<'_>) -> ExitCode {
    if report.is_forwarded() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(BAD_NEWS)
    }
}

fn flow(client: SocketAddr, service: Service) -> Result<FlowKey> {
    if client.is_ipv4() != service.address.is_ipv4() {
        let service = service.address;
        bail!("{client} and {service} are of different address families: no packet has both");
    }
    Ok(FlowKey {
        source: client.ip(),
        destination: service.address.ip(),
        source_port: client.port(),
        destination_port: service.address.port(),
        protocol: service.protocol,
    })
}

fn parse_client(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "not ADDR:PORT such as 192.0.2.1:40000 or [2001:db8::1]:40000".to_owned())
}

fn parse_service(text: &str) -> Result<Service, String> {
    let parse = || {
        let (address, protocol) = text.rsplit_once('/')?;
        let protocol = parse_protocol(protocol)?;
        let address = address.parse().ok()?;
        Some(Service { address, protocol })
    };
    parse().ok_or_else(|| {
        "not ADDR:PORT/PROTO such as 203.0.113.10:80/tcp or [2001:db8::10]:53/udp".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services() {
        let service = |text| parse_service(text).map(|s| (s.address.to_string(), s.protocol));
        assert_eq!(
            service("203.0.113.10:80/tcp"),
            Ok(("203.0.113.10:80".to_owned(), Protocol::Tcp))
        );
        assert_eq!(
            service("[2001:db8::10]:53/udp"),
            Ok(("[2001:db8::10]:53".to_owned(), Protocol::Udp))
        );
        for bad in [
            "203.0.113.10:80",
            "203.0.113.10/tcp",
            "203.0.113.10:80/sctp",
            "2001:db8::10:53/udp",
            "web:80/tcp",
            "203.0.113.10:65536/tcp",
        ] {
            assert!(service(bad).is_err(), "{bad}");
        }
    }
}
