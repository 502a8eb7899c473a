//! What of this host keeps packets from their way while the director runs: found again whenever the kernel tells
//! of a change.

use std::net::IpAddr;

use crate::config::Config;
use crate::control::view::HostProblem;
use crate::io::netlink::{Netlink, RouteKind, RouteQuery};
use crate::io::sysctl::Sysctl;
use crate::text::plain::Plain;

/// All there are, in the order of the list above each.
pub(super) fn find(config: &Config, netlink: &mut Netlink) -> Vec<HostProblem> {
    let mut problems = local_vips(config, netlink);
    problems.extend(not_forwarding(config, netlink));
    problems
}

/// A VIP that became an address of this host: the kernel answers, and the TUN sees nothing (doctor D35).
fn local_vips(config: &Config, netlink: &mut Netlink) -> Vec<HostProblem> {
    let mut is_local = |address: IpAddr| {
        let route = netlink.route_to(address, RouteQuery::default());
        route.is_ok_and(|route| route.kind == RouteKind::Local)
    };
    let mut found = Vec::<HostProblem>::new();
    for vip in &config.vips {
        let what = format!("local_vip {}", vip.address);
        if found.iter().any(|problem| problem.what == what) || !is_local(vip.address) {
            continue;
        }
        found.push(HostProblem {
            what,
            text: format!(
                "vip {}: {} is a local address of this host, so the kernel answers its packets and they \
                 never reach the TUN [D35]; find it and remove it: ip -br addr; ip route show table local",
                vip.name, vip.address
            ),
            keeps_from_work: true,
        });
    }
    found
}

/// Forwarding that was switched off for the host and for every device.
fn not_forwarding(config: &Config, netlink: &mut Netlink) -> Vec<HostProblem> {
    let of = |is_v4: bool| config.vips.iter().any(|vip| vip.address.is_ipv4() == is_v4);
    let links = netlink.links().unwrap_or_default();
    let devices = links
        .iter()
        .filter(|link| link.up && !link.loopback && link.name != config.director.tun);
    let devices: Vec<_> = devices.map(|link| link.name.as_str()).collect();
    let is_on = |key: Result<Sysctl, _>| {
        key.is_ok_and(|key: Sysctl| key.read().is_ok_and(|value| value != 0))
    };
    let mut found = Vec::new();
    let v4 = || {
        devices
            .iter()
            .any(|device| is_on(Sysctl::ipv4_conf(device, "forwarding")))
    };
    if of(true)
        && !is_on(Ok::<_, crate::io::sysctl::SysctlError>(
            Sysctl::ipv4_forward(),
        ))
        && !v4()
    {
        found.push(off(&Sysctl::ipv4_forward()));
    }
    let v6 = || {
        devices
            .iter()
            .any(|device| is_on(Sysctl::ipv6_conf(device, "force_forwarding")))
    };
    if of(false)
        && !is_on(Ok::<_, crate::io::sysctl::SysctlError>(
            Sysctl::ipv6_forward(),
        ))
        && !v6()
    {
        found.push(off(&Sysctl::ipv6_forward()));
    }
    found
}

fn off(key: &Sysctl) -> HostProblem {
    HostProblem {
        what: key.to_string(),
        text: format!(
            "{} is 0: packets of other hosts never reach the TUN; sysctl -w {key}=1",
            Plain(key.to_string())
        ),
        keeps_from_work: true,
    }
}
