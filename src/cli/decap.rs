//! `tunlb decap`: flags in, totals out.

use std::{
    net::IpAddr,
    num::{NonZeroU16, NonZeroUsize},
    process::ExitCode,
};

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
    #[arg(long = "vip", value_name = "ADDR", required = true, value_parser = decap::parse_vip)]
    vips: Vec<IpAddr>,

    /// Accept tunnel packets only from these addresses; repeat for several
    ///
    /// Give the director's outer source address, or a network of directors. Without it tunnel packets are
    /// taken from any source that reaches this machine, and with them inner packets of any source address.
    #[arg(long = "director", value_name = "CIDR", value_parser = decap::parse_network)]
    directors: Vec<IpNet>,

    /// Take GUE on this UDP port, over IPv4 and IPv6, instead of IP-in-IP
    #[arg(long, value_name = "PORT", value_parser = decap::parse_gue)]
    gue: Option<NonZeroU16>,

    /// TUN device to inject through; created if absent
    #[arg(long, value_name = "NAME", default_value = decap::DEFAULT_TUN)]
    tun: String,

    /// Threads, each with a queue of the TUN device and sockets of its own; "auto" is one per core
    ///
    /// A flow stays with one of them. One is enough unless it uses up a core.
    #[arg(long, value_name = "N|auto", default_value = "1", value_parser = decap::parse_workers)]
    workers: NonZeroUsize,

    /// Take tunnel packets out in the driver of this device; repeat for several
    ///
    /// By the same rules, before the kernel's stack has them; fragments, packets with options and whatever is
    /// refused take the sockets' way. Needs a build with the cargo feature xdp, and CAP_BPF.
    #[arg(long = "xdp", value_name = "DEVICE")]
    interfaces: Vec<String>,

    /// Also set what the tunnel needs, keep it set, and undo exactly that on exit
    ///
    /// Sets the VIP on lo; for IPv4 an address and rp_filter of the TUN device, arp_ignore and arp_announce;
    /// for IPv6 disable_ipv6. What another program changes meanwhile is set again and logged. Without
    /// --setup all that is missing is only warned about.
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
    let settings = settings.map(|settings| {
        let settings = settings.with_workers(args.workers);
        settings.with_interfaces(args.interfaces.clone())
    });
    settings.map_err(|errors| {
        let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
        anyhow!(lines.join("\n"))
    })
}
