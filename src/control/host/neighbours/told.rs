//! What the log is told of VIPs inside this host's own subnets.

use std::collections::BTreeSet;
use std::net::IpAddr;

use log::{error, warn};

use super::Vip;
use crate::config::{Config, Neighbour};
use crate::io::netlink::Netlink;
use crate::io::on_link::{Missing, Subnet};
use crate::io::sysctl::Sysctl;
use crate::packet::neighbour::MacAddress;
use crate::site::NAMED;
use crate::text::plain::Plain;
use crate::text::shell;

/// A line each for a few VIPs, and one for all further ones.
pub(super) fn warn_of_mute(vips: &[(Vip<'_>, Vec<Missing>)], mode: &Neighbour) {
    // Where only the host's forwarding is off, `forwarding` has said so.
    let vips: Vec<_> = vips
        .iter()
        .map(|(vip, lacks)| (vip, commands(vip, lacks)))
        .filter(|(_, commands)| !commands.is_empty())
        .collect();
    for (vip, commands) in vips.iter().take(NAMED) {
        let Subnet { net, device, .. } = vip.subnet;
        let otherwise = match mode {
            Neighbour::Auto | Neighbour::Off => "run with --setup".to_owned(),
            Neighbour::Device(_) => format!("director.neighbour = \"{}\"", Plain(device)),
        };
        warn!(
            "vip {} is in {net}, the subnet of {}, where nothing answers {} for it: the hosts there \
             cannot reach it [D41]; {}, or {otherwise}",
            vip.address,
            Plain(device),
            protocol(vip.address),
            commands.join("; "),
        );
    }
    let further = vips.len().saturating_sub(NAMED);
    if further > 0 {
        warn!("{further} more VIPs are in subnets of this host where nothing answers for them");
    }
}

/// What makes the kernel answer, beside the forwarding of the whole host.
fn commands(vip: &Vip<'_>, lacks: &[Missing]) -> Vec<String> {
    let device = vip.subnet.device.as_str();
    let host = match vip.address {
        IpAddr::V4(_) => Sysctl::ipv4_forward(),
        IpAddr::V6(_) => Sysctl::ipv6_forward(),
    };
    let host_forwards = host.read().is_ok_and(|value| value != 0);
    let mut commands = Vec::new();
    for missing in lacks {
        if *missing == Missing::Forwarding && !host_forwards {
            continue;
        }
        if *missing == Missing::Forwarding && hears_advertisements(vip) {
            let device = device.replace('.', "/");
            let keep = format!("net.ipv6.conf.{device}.accept_ra=2");
            commands.push(shell::line(&["sysctl", "-w", &keep]));
        }
        commands.push(shell::line(&missing.command(vip.address, device)));
    }
    commands
}

/// Whether forwarding would cost the device what came by router advertisement.
fn hears_advertisements(vip: &Vip<'_>) -> bool {
    let key = Sysctl::ipv6_conf(&vip.subnet.device, "accept_ra");
    vip.address.is_ipv6() && key.is_ok_and(|key| key.read().is_ok_and(|value| value == 1))
}

pub(super) fn warn_of_others(
    others: &[(Vip<'_>, BTreeSet<MacAddress>)],
    config: &Config,
    netlink: &mut Netlink,
) {
    if others.is_empty() {
        return;
    }
    let known = netlink.neighbours().unwrap_or_default();
    let backends: BTreeSet<_> = config
        .vips
        .iter()
        .flat_map(|vip| &vip.backends)
        .map(|backend| backend.address)
        .collect();
    let who = |mac: &MacAddress| {
        let of_mac = known.iter().filter(|one| one.link_layer_address == mac.0);
        let mut addresses = of_mac.map(|one| one.address);
        match addresses.find(|address| backends.contains(address)) {
            Some(backend) => format!("{mac}, the backend {backend}"),
            None => mac.to_string(),
        }
    };
    for (vip, macs) in others.iter().take(NAMED) {
        let whose: Vec<_> = macs.iter().map(who).collect();
        let (address, protocol) = (vip.address, protocol(vip.address));
        let (device, advice) = (Plain(&vip.subnet.device), advice(address));
        let not = if vip.wanted { "not claimed, and " } else { "" };
        error!(
            "vip {address}: another machine ({}) answers {protocol} for it on {device}: {not}its packets \
             pass this director by [D42]; {advice}, then reload",
            whose.join("; "),
        );
    }
    let further = others.len().saturating_sub(NAMED);
    if further > 0 {
        error!("other machines answer for {further} more VIPs");
    }
}

const fn advice(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => {
            "on a backend: the VIP on lo and net.ipv4.conf.all.arp_ignore=1 [B8]; on any other: remove the \
             address"
        }
        IpAddr::V6(_) => {
            "on a backend: the VIP on lo, no other device; on any other: remove the address"
        }
    }
}

const fn protocol(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "ARP",
        IpAddr::V6(_) => "neighbour discovery",
    }
}

pub(super) fn named(addresses: &[IpAddr]) -> String {
    if addresses.len() > NAMED {
        return format!("{} VIPs", addresses.len());
    }
    let texts: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_named_and_many_counted() {
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        assert_eq!(named(&[address(1), address(2)]), "10.0.0.1, 10.0.0.2");
        let many: Vec<_> = (0..9).map(address).collect();
        assert_eq!(named(&many), "9 VIPs");
    }
}
