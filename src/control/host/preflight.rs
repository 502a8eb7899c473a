//! What must be true of the host before packets flow: checked before anything is opened.

use std::collections::HashSet;
use std::net::IpAddr;

use anyhow::{Result, bail};
use ipnet::IpNet;
use log::warn;

use super::forwarding;
use crate::config::Config;
use crate::io::netlink::{Netlink, RouteKind, RouteQuery};
use crate::io::sysctl::Sysctl;
use crate::io::undo::Undo;
use crate::packet::Version;
use crate::site::Paths;
use crate::text::plain::Plain;
use crate::text::shell;

/// What is done about a host that is not set up for a director.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostSetup {
    /// Warn, with the command that fixes it.
    Warn,
    /// Change it, and change it back on exit.
    Apply,
}

/// Refuses a VIP that is an address of this host: its packets would be delivered here, and the
/// TUN would never see one (doctor D35).
pub(super) fn refuse_local_vips(config: &Config, netlink: &mut Netlink) -> Result<()> {
    for vip in &config.vips {
        let route = netlink.route_to(vip.address, RouteQuery::default());
        if !route.is_ok_and(|route| route.kind == RouteKind::Local) {
            continue;
        }
        let (address, name) = (vip.address, &vip.name);
        let fix = match holder(vip.address, netlink)? {
            Some((net, device)) => {
                let words = ["ip", "addr", "del", &net.to_string(), "dev", &device];
                format!("remove it: {}", shell::line(&words))
            }
            None => format!("find why: ip route get {address}; ip route show table local"),
        };
        bail!(
            "vip {name}: {address} is a local address of this host, so the kernel answers its \
             packets and they never reach the TUN [D35]; {fix}"
        );
    }
    Ok(())
}

/// Refuses a backend that is this very host: what it decapsulates is for a VIP, whose route leads into the TUN
/// again.
pub(super) fn refuse_local_backends(config: &Config, netlink: &mut Netlink) -> Result<()> {
    let addresses: HashSet<_> = netlink
        .addresses()?
        .iter()
        .map(|held| held.net.addr())
        .collect();
    for vip in &config.vips {
        for backend in &vip.backends {
            let address = backend.address;
            if addresses.contains(&address) || address.is_loopback() {
                bail!(
                    "vip {}: backend {address} is an address of this host, which cannot be a backend of its \
                     own: packets that it decapsulates would come back into {}; run the backend in a network \
                     namespace or on a host of its own",
                    vip.name,
                    config.director.tun
                );
            }
        }
    }
    Ok(())
}

/// The address and device that make an address local.
fn holder(address: IpAddr, netlink: &mut Netlink) -> Result<Option<(IpNet, String)>> {
    let addresses = netlink.addresses()?;
    let Some(found) = addresses
        .into_iter()
        .find(|held| held.net.addr() == address)
    else {
        return Ok(None);
    };
    let device = netlink
        .links()?
        .into_iter()
        .find(|link| link.index == found.link);
    Ok(device.map(|device| (found.net, device.name)))
}

/// Forwarding on for the families of the VIPs, and reverse-path filtering not strict where it
/// would cost the director's own requests their answers.
pub(super) fn prepare_host(
    config: &Config,
    setup: HostSetup,
    paths: &Paths,
    undo: &mut Undo,
) -> Result<()> {
    let tun = &config.director.tun;
    if config.vips.iter().any(|vip| vip.address.is_ipv4()) {
        forwarding::prepare(Version::V4, tun, setup, paths, undo)?;
        prepare_reverse_path(setup, paths, undo)?;
    }
    if config.vips.iter().any(|vip| vip.address.is_ipv6()) {
        forwarding::prepare(Version::V6, tun, setup, paths, undo)?;
    }
    Ok(())
}

/// Backends answer the director's own requests to a VIP with source VIP, whose route leads into
/// the TUN: where they come in by another device, a strict filter drops them (doctor D36).
fn prepare_reverse_path(setup: HostSetup, paths: &Paths, undo: &mut Undo) -> Result<()> {
    let all = Sysctl::ipv4_conf("all", "rp_filter")?.read()?;
    for link in paths.links() {
        let own = Sysctl::ipv4_conf(&link.name, "rp_filter")?;
        if all.max(own.read()?) != STRICT {
            continue;
        }
        match setup {
            HostSetup::Apply => undo.set_sysctl(own, LOOSE)?,
            HostSetup::Warn => warn!(
                "{} is strict: this host's own requests to a VIP get no answer [D36]; \
                 {}, or run with --setup",
                Plain(own.to_string()),
                shell::line(&["sysctl", "-w", &format!("{own}={LOOSE}")])
            ),
        }
    }
    Ok(())
}

/// Values of `rp_filter`; the kernel uses the larger of `all` and the device's own.
const STRICT: i32 = 1;
const LOOSE: i32 = 2;
