//! Forwarding: whether the kernel passes clients' packets on into the TUN, and the least change that makes
//! it do so.
//!
//! IPv4 asks `net.ipv4.conf.DEVICE.forwarding` of the device that a packet comes in by
//! (`ip_route_input_slow`, linux/net/ipv4/route.c); `ip_forward` only sets that of every device. IPv6 asks
//! `net.ipv6.conf.all.forwarding`, and since Linux 6.17 `force_forwarding` of the device as well
//! (`ip6_forward`, linux/net/ipv6/ip6_output.c).
//!
//! Turning IPv6 forwarding on makes the kernel drop every route that it learnt by router advertisement, and
//! ignore further ones, but for devices whose `accept_ra` is 2 (`rt6_purge_dflt_routers`,
//! linux/net/ipv6/route.c): those that listen get that first.

use anyhow::{Context as _, Result};
use log::{info, warn};

use super::preflight::HostSetup;
use crate::io::netlink::{Link, Netlink};
use crate::io::sysctl::{Sysctl, SysctlError};
use crate::io::undo::Undo;
use crate::packet::Version;
use crate::site::Paths;
use crate::text::plain::Plain;
use crate::text::shell;

/// A device by which clients' packets may come in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Door {
    device: String,
    index: u32,
    forwards: bool,
    /// The way to clients outside, or the way to backends.
    default_route: bool,
    to_backends: bool,
}

/// What is to be done about forwarding.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// Nothing; packets that come in by these devices are not forwarded.
    Keep { closed: Vec<String> },
    /// The setting for the whole host is to be turned on.
    Host,
    /// The host forwards, but these devices were left out, and clients come in by them.
    Devices(Vec<String>),
}

/// Turns forwarding on where it is off by the devices that matter, or warns.
pub(super) fn prepare(
    version: Version,
    tun: &str,
    setup: HostSetup,
    paths: &Paths,
    undo: &mut Undo,
) -> Result<()> {
    let mut netlink = Netlink::open()?;
    let links = netlink.links()?;
    let global = forward_of_host(version).read()? != 0;
    if version == Version::V6 && global {
        return Ok(());
    }
    let doors = doors(version, tun, paths, &links, &mut netlink);
    match plan(global, &doors) {
        Plan::Keep { closed } => {
            if !closed.is_empty() {
                let closed = names(&closed);
                info!(
                    "{} is not forwarded where it comes in by {closed}: clients there do not reach a VIP",
                    family_name(version)
                );
            }
            Ok(())
        }
        Plan::Devices(devices) => {
            let why = "this host forwards, but not what comes in by these devices, where the way to clients is";
            let keys = devices
                .iter()
                .map(|device| Sysctl::ipv4_conf(device, "forwarding"));
            let keys = keys.collect::<Result<Vec<_>, _>>()?;
            turn_on(&keys, why, setup, undo)
        }
        Plan::Host if version == Version::V4 => {
            turn_on(&[forward_of_host(version)], WHY_HOST, setup, undo)
        }
        Plan::Host => turn_on_ipv6(tun, &links, &mut netlink, setup, undo),
    }
}

/// Turns forwarding on by one device, which is to answer for what it forwards.
pub(super) fn turn_on_for_answers(
    version: Version,
    device: &str,
    tun: &str,
    undo: &mut Undo,
) -> Result<()> {
    match version {
        Version::V4 => Ok(undo.set_sysctl(Sysctl::ipv4_conf(device, "forwarding")?, 1)?),
        Version::V6 => {
            let mut netlink = Netlink::open()?;
            let links = netlink.links()?;
            let key = Sysctl::ipv6_conf(device, "forwarding")?;
            let roles = roles(tun, &links, &mut netlink)?;
            keeping_advertisements(&roles, undo, |undo| Ok(undo.set_sysctl(key, 1)?))
        }
    }
}

const WHY_HOST: &str = "clients may come in by any device";

fn forward_of_host(version: Version) -> Sysctl {
    match version {
        Version::V4 => Sysctl::ipv4_forward(),
        Version::V6 => Sysctl::ipv6_forward(),
    }
}

const fn family_name(version: Version) -> &'static str {
    match version {
        Version::V4 => "IPv4",
        Version::V6 => "IPv6",
    }
}

/// Sets each to 1, or says how.
fn turn_on(keys: &[Sysctl], why: &str, setup: HostSetup, undo: &mut Undo) -> Result<()> {
    let texts: Vec<_> = keys.iter().map(ToString::to_string).collect();
    match setup {
        HostSetup::Apply => {
            info!("turning {} on: {why}", names(&texts));
            for key in keys {
                undo.set_sysctl(key.clone(), 1)?;
            }
        }
        HostSetup::Warn => {
            let mut words = vec!["sysctl".to_owned(), "-w".to_owned()];
            words.extend(texts.iter().map(|key| format!("{key}=1")));
            warn!(
                "{} is 0: packets of other hosts never reach the TUN ({why}); {}, or run with --setup",
                names(&texts),
                shell::line(&words)
            );
        }
    }
    Ok(())
}

/// The devices that clients may come in by: up, neither the loopback nor the TUN, and with an address of
/// the family where any has one.
fn doors(
    version: Version,
    tun: &str,
    paths: &Paths,
    links: &[Link],
    netlink: &mut Netlink,
) -> Vec<Door> {
    let is_of_version = |net: &ipnet::IpNet| net.addr().is_ipv4() == (version == Version::V4);
    let addresses = netlink.addresses().unwrap_or_default();
    let has_address = |index: u32| {
        addresses
            .iter()
            .any(|address| address.link == index && is_of_version(&address.net))
    };
    let to_backends: Vec<_> = paths.links().map(|link| link.index).collect();
    let up = links
        .iter()
        .filter(|link| link.up && !link.loopback && link.name != tun);
    let doors = up.filter_map(|link| {
        Some(Door {
            device: link.name.clone(),
            index: link.index,
            forwards: forwards(version, &link.name).ok()?, // else it is gone
            default_route: false,
            to_backends: to_backends.contains(&link.index),
        })
    });
    let mut doors: Vec<_> = doors.collect();
    if doors.iter().any(|door| has_address(door.index)) {
        doors.retain(|door| has_address(door.index));
    }
    if is_mixed(&doors) {
        // Only here does it matter, and with all routes of the Internet it takes a second.
        let defaults = netlink.default_devices(version).unwrap_or_default();
        for door in &mut doors {
            door.default_route = defaults.contains(&door.index);
        }
    }
    doors
}

fn forwards(version: Version, device: &str) -> Result<bool, SysctlError> {
    let key = match version {
        Version::V4 => Sysctl::ipv4_conf(device, "forwarding")?,
        Version::V6 => Sysctl::ipv6_conf(device, "force_forwarding")?,
    };
    match key.read() {
        // A kernel without the setting forwards by none of them.
        Err(error) if version == Version::V6 && error.is_missing() => Ok(false),
        other => Ok(other? != 0),
    }
}

fn is_mixed(doors: &[Door]) -> bool {
    doors.iter().any(|door| door.forwards) && doors.iter().any(|door| !door.forwards)
}

/// Which setting is to be turned on, where `global` says whether that of the whole host is on.
///
/// Where some devices forward and others do not, an operator chose them. The devices of the default routes
/// then matter: the way to clients. Without any, it is those that do not lead to backends.
fn plan(global: bool, doors: &[Door]) -> Plan {
    let closed = |doors: &[&Door]| -> Vec<String> {
        let closed = doors.iter().filter(|door| !door.forwards);
        closed.map(|door| door.device.clone()).collect()
    };
    let all: Vec<_> = doors.iter().collect();
    let outside: Vec<_> = doors.iter().filter(|door| door.default_route).collect();
    let beside: Vec<_> = doors.iter().filter(|door| !door.to_backends).collect();
    let matters = match (is_mixed(doors), outside.is_empty(), global) {
        (true, false, _) => outside,
        // A device that was left out of a host's forwarding is not put back on a guess.
        (true, true, true) => doors.iter().filter(|door| door.forwards).collect(),
        (true, true, false) if !beside.is_empty() => beside,
        _ => all.clone(),
    };
    let off = closed(&matters);
    if off.is_empty() && (global || !matters.is_empty()) {
        Plan::Keep {
            closed: closed(&all),
        }
    } else if global {
        Plan::Devices(off)
    } else {
        Plan::Host
    }
}

/// Turns IPv6 forwarding on for the host, and keeps what it has by router advertisement.
fn turn_on_ipv6(
    tun: &str,
    links: &[Link],
    netlink: &mut Netlink,
    setup: HostSetup,
    undo: &mut Undo,
) -> Result<()> {
    let roles = roles(tun, links, netlink)?;
    if setup == HostSetup::Warn {
        warn!("{}", missing_ipv6(&roles.listening));
        return Ok(());
    }
    keeping_advertisements(&roles, undo, |undo| {
        turn_on(&[Sysctl::ipv6_forward()], WHY_HOST, setup, undo)
    })
}

/// The devices that router advertisements are something to.
struct Roles<'a> {
    listening: Vec<&'a Link>,
    frozen: Vec<&'a Link>,
}

fn roles<'a>(tun: &str, links: &'a [Link], netlink: &mut Netlink) -> Result<Roles<'a>> {
    let advertised = netlink.advertised_devices().unwrap_or_default();
    let others = links
        .iter()
        .filter(|link| !link.loopback && link.name != tun);
    let (mut listening, mut frozen) = (Vec::new(), Vec::new());
    for link in others {
        match advertisements(link, &advertised)? {
            Advertisements::None => {}
            Advertisements::Heard => listening.push(link),
            Advertisements::Frozen => frozen.push(link),
        }
    }
    Ok(Roles { listening, frozen })
}

/// Turns IPv6 forwarding on, of whichever setting, without the loss of what came by router advertisement.
fn keeping_advertisements(
    roles: &Roles<'_>,
    undo: &mut Undo,
    turn_on: impl FnOnce(&mut Undo) -> Result<()>,
) -> Result<()> {
    for link in roles.listening.iter().chain(&roles.frozen) {
        undo.set_sysctl(accept_ra(&link.name)?, HEARD_BY_ROUTERS)
            .with_context(|| {
                format!(
                    "cannot keep what {} has by router advertisement",
                    Plain(&link.name)
                )
            })?;
    }
    turn_on(undo)?;
    for link in &roles.frozen {
        undo.restore_sysctl(&accept_ra(&link.name)?)?;
    }
    Ok(())
}

/// What router advertisements are to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Advertisements {
    /// Nothing that forwarding would change.
    None,
    /// They are taken, and would not be any more.
    Heard,
    /// They are not taken any more, but a route is there that one brought.
    Frozen,
}

/// The value of `accept_ra` by which a host that forwards takes advertisements all the same.
const HEARD_BY_ROUTERS: i32 = 2;

fn accept_ra(device: &str) -> Result<Sysctl, SysctlError> {
    Sysctl::ipv6_conf(device, "accept_ra")
}

fn advertisements(link: &Link, advertised: &[u32]) -> Result<Advertisements, SysctlError> {
    let accepted = match accept_ra(&link.name)?.read() {
        // The device is gone, or speaks no IPv6.
        Err(error) if error.is_missing() => return Ok(Advertisements::None),
        other => other?,
    };
    let forwards = Sysctl::ipv6_conf(&link.name, "forwarding")?.read()? != 0;
    Ok(match accepted {
        HEARD_BY_ROUTERS => Advertisements::None,
        1 if !forwards => Advertisements::Heard,
        _ if advertised.contains(&link.index) => Advertisements::Frozen,
        _ => Advertisements::None,
    })
}

fn missing_ipv6(listening: &[&Link]) -> String {
    let forward = Sysctl::ipv6_forward();
    let mut words = vec!["sysctl".to_owned(), "-w".to_owned()];
    for link in listening {
        let device = link.name.replace('.', "/");
        words.push(format!(
            "net.ipv6.conf.{device}.accept_ra={HEARD_BY_ROUTERS}"
        ));
    }
    words.push(format!("{forward}=1"));
    let mut text = format!("{forward} is 0: packets of other hosts never reach the TUN");
    if !listening.is_empty() {
        text += "; accept_ra comes first, or the host loses its routes by router advertisement";
    }
    format!("{text}; {}, or run with --setup", shell::line(&words))
}

fn names(names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(|name| Plain(name).to_string()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(device: &str, forwards: bool) -> Door {
        Door {
            device: device.into(),
            index: 2,
            forwards,
            default_route: false,
            to_backends: false,
        }
    }

    fn outside(device: &str, forwards: bool) -> Door {
        Door {
            default_route: true,
            ..door(device, forwards)
        }
    }

    fn inside(device: &str, forwards: bool) -> Door {
        Door {
            to_backends: true,
            ..door(device, forwards)
        }
    }

    #[test]
    fn the_least_change() {
        let keep = |closed: &[&str]| Plan::Keep {
            closed: closed.iter().map(|&name| name.into()).collect(),
        };
        let devices =
            |names: &[&str]| Plan::Devices(names.iter().map(|&name| name.into()).collect());
        for (description, global, doors, expected) in [
            ("a fresh host", false, vec![door("eth0", false)], Plan::Host),
            ("a router", true, vec![door("eth0", true)], keep(&[])),
            ("no devices known, off", false, vec![], Plan::Host),
            ("no devices known, on", true, vec![], keep(&[])),
            (
                "its only device",
                false,
                vec![inside("eth0", true)],
                keep(&[]),
            ),
            (
                "clients' side on",
                false,
                vec![door("eth0", true), inside("eth1", false)],
                keep(&["eth1"]),
            ),
            (
                "backends' side on",
                false,
                vec![door("eth0", false), inside("eth1", true)],
                Plan::Host,
            ),
            (
                "the way out on",
                false,
                vec![outside("eth0", true), door("mgmt", false)],
                keep(&["mgmt"]),
            ),
            (
                "the way out off",
                false,
                vec![outside("eth0", false), door("lan", true)],
                Plan::Host,
            ),
            (
                "a router whose way out was left out",
                true,
                vec![outside("eth0", false), door("lan", true)],
                devices(&["eth0"]),
            ),
            (
                "a router with a management device",
                true,
                vec![door("eth0", true), door("mgmt", false)],
                keep(&["mgmt"]),
            ),
            (
                "a router in name only",
                true,
                vec![door("eth0", false)],
                devices(&["eth0"]),
            ),
        ] {
            assert_eq!(plan(global, &doors), expected, "{description}");
        }
    }

    #[test]
    fn the_warning_names_accept_ra_first() {
        let link = Link {
            name: "eth0.7".into(),
            ..Link::default()
        };
        let text = missing_ipv6(&[&link]);
        assert!(
            text.contains(
                "sysctl -w net.ipv6.conf.eth0/7.accept_ra=2 net.ipv6.conf.all.forwarding=1"
            ),
            "{text}"
        );
        assert!(!missing_ipv6(&[]).contains("accept_ra"));
    }
}
