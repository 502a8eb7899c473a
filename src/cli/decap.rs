//! `tunlb decap`: flags in, totals out.

use std::{net::IpAddr, num::NonZeroU16, process::ExitCode};

use anyhow::anyhow;
use ipnet::IpNet;
use log::warn;

use super::print;
use super::verbosity::Verbosity;
use crate::decap::{self, Encapsulation, Host, Settings, Totals};

/// Arguments of `tunlb decap`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Accept inner packets to this address; repeat for several
    #[arg(long = "vip", value_name = "ADDR", required = true)]
    vips: Vec<IpAddr>,

    /// Accept tunnel packets only from these addresses; repeat for several [default: any]
    #[arg(long = "director", value_name = "CIDR", value_parser = parse_net)]
    directors: Vec<IpNet>,

    /// Take GUE on this UDP port, over IPv4 and IPv6, instead of IP-in-IP
    #[arg(long, value_name = "PORT")]
    gue: Option<NonZeroU16>,

    /// TUN device to inject through; created if absent
    #[arg(long, value_name = "NAME", default_value = decap::DEFAULT_TUN)]
    tun: String,

    /// Also set what the tunnel needs (the VIP on lo; for IPv4 rp_filter, arp_ignore and arp_announce;
    /// for IPv6 disable_ipv6), and undo exactly that on exit
    #[arg(long)]
    setup: bool,

    /// What is logged.
    #[command(flatten)]
    pub(super) verbosity: Verbosity,
}

/// Runs the command until a signal ends it.
///
/// # Errors
/// What keeps the decapsulator from its work.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let settings = settings(args)?;
    let report = |totals: &Totals| {
        if let Err(error) = print(&format!("{totals}\n")) {
            warn!("{error:#}");
        }
    };
    let totals = decap::run(&settings, report)?;
    print(&format!("{totals}\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn settings(args: &Args) -> anyhow::Result<Settings> {
    let host = if args.setup { Host::SetUp } else { Host::Check };
    let settings = Settings::new(
        args.vips.clone(),
        args.directors.clone(),
        args.gue.map_or(Encapsulation::Ipip, Encapsulation::Gue),
        args.tun.clone(),
        host,
    );
    settings.map_err(|errors| {
        let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
        anyhow!(lines.join("\n"))
    })
}

/// A network, or an address alone.
fn parse_net(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse()
        .or_else(|_| address())
        .map_err(|_| "not an address or a network such as 10.0.1.0/24".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directors_are_networks_or_addresses() {
        assert_eq!(parse_net("10.0.1.0/24").unwrap().to_string(), "10.0.1.0/24");
        assert_eq!(parse_net("10.0.1.1").unwrap().to_string(), "10.0.1.1/32");
        assert_eq!(
            parse_net("2001:db8::1").unwrap().to_string(),
            "2001:db8::1/128"
        );
        assert!(parse_net("10.0.1.0/33").is_err());
        assert!(parse_net("director").is_err());
    }
}
