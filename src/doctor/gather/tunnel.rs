//! Which device a VIP's packets come out of (T), and which they come in by (E).

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::network::Network;
use crate::decap::DEFAULT_TUN;
use crate::doctor::facts::{Decapsulator, Encap, Observed, RouteAnswer};
use crate::io::netlink::{Link, RouteQuery, TunnelAttributes};

/// An address that nobody has or routes by itself, so that its route is the default one: the IPv4 dummy
/// address (RFC 7600 §6), and an address for documentation (RFC 9637).
pub(super) fn faraway(ipv6: bool) -> IpAddr {
    if ipv6 {
        Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 8).into()
    } else {
        Ipv4Addr::new(192, 0, 0, 8).into()
    }
}

/// The device of the route to the director, or else of the default route, IPv4's first, or else the first
/// on whose segment there can be anybody.
pub(super) fn physical(network: &mut Network, director: Option<IpAddr>) -> Option<String> {
    let peers = match director {
        Some(director) => vec![director],
        None => vec![faraway(false), faraway(true)],
    };
    let device = |peer| match network.ask(peer, RouteQuery::default()) {
        RouteAnswer::Route(route) if route.kind == "unicast" => route.device,
        RouteAnswer::Route(_) | RouteAnswer::Refused(_) | RouteAnswer::Unseen(_) => None,
    };
    let routed = peers.into_iter().find_map(device);
    routed.or_else(|| on_a_segment(network))
}

fn on_a_segment(network: &Network) -> Option<String> {
    let global = |link: &&Link| {
        let mut held = network.addresses_on(link.index);
        held.any(|held| !matches!(held.net.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local()))
    };
    let up = network.devices().iter().filter(|link| link.up && link.arp);
    up.into_iter().find(global).map(|link| link.name.clone())
}

/// What is known of the tunnel before it is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) vip: IpAddr,
    pub(super) director: Option<IpAddr>,
    /// None: any.
    pub(super) encap: Option<Encap>,
}

/// A tunnel's end on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) device: Option<String>,
    /// The only director that it takes packets from, where there is one.
    pub(super) director: Option<IpAddr>,
    pub(super) encap: Encap,
}

/// The end of the tunnel: that of a running `tunlb decap`, else the kernel's device that takes the packets,
/// else the one that should.
pub(super) fn find(
    wanted: &Wanted,
    network: &Network,
    decapsulators: &Observed<Vec<Decapsulator>>,
) -> Found {
    let running = decapsulators.seen().map_or(&[][..], Vec::as_slice);
    if let Some(decapsulator) = running.iter().find(|running| serves(running, wanted)) {
        return Found {
            device: Some(decapsulator.device.clone()),
            director: only_host(decapsulator),
            encap: decapsulator.encap,
        };
    }
    let hidden = decapsulators.seen().is_none();
    let default_tun = network.device(DEFAULT_TUN).filter(|_| hidden);
    let own = |address| network.has(address);
    let device = default_tun.or_else(|| of_kernel(network.devices(), wanted, own));
    Found {
        device: device.map(|link| link.name.clone()),
        director: device.and_then(|link| link.tunnel?.remote),
        encap: wanted.encap.unwrap_or_default(),
    }
}

fn serves(decapsulator: &Decapsulator, wanted: &Wanted) -> bool {
    let same = |encap: Encap| encap == decapsulator.encap;
    decapsulator.vips.contains(&wanted.vip) && wanted.encap.is_none_or(same)
}

fn only_host(decapsulator: &Decapsulator) -> Option<IpAddr> {
    let [net] = decapsulator.directors.as_slice() else {
        return None;
    };
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

/// Of the kernel's tunnels that can carry such packets, first those that take them, then those that are
/// up, then in the order in which the kernel chooses (`ip_tunnel_lookup`, linux/net/ipv4/ip_tunnel.c).
fn of_kernel<'a>(
    links: &'a [Link],
    wanted: &Wanted,
    own: impl Fn(IpAddr) -> bool,
) -> Option<&'a Link> {
    let tunnels = links.iter().filter_map(|link| Some((link, link.tunnel?)));
    let fitting = tunnels.filter(|(link, tunnel)| carries(link, tunnel, wanted));
    let best = fitting.min_by_key(|(link, tunnel)| {
        let takes = takes(tunnel, wanted.director, &own);
        (Reverse(takes), Reverse(link.up), rank(link, tunnel))
    });
    best.map(|(link, _)| link)
}

/// Whether the device is for this pair of inner and outer families.
fn carries(link: &Link, tunnel: &TunnelAttributes, wanted: &Wanted) -> bool {
    let inner = if wanted.vip.is_ipv4() { 4 } else { 41 };
    let outer = |v4: bool| {
        wanted
            .director
            .is_none_or(|director| director.is_ipv4() == v4)
    };
    let of_kind = match link.kind.as_deref() {
        Some("ipip") => inner == 4 && outer(true),
        Some("sit") => outer(true),
        Some("ip6tnl") => outer(false),
        _ => false,
    };
    of_kind && tunnel.protocol.is_none_or(|only| only == inner)
}

/// Whether the outer header's addresses match.
fn takes(
    tunnel: &TunnelAttributes,
    director: Option<IpAddr>,
    own: impl Fn(IpAddr) -> bool,
) -> bool {
    let from = tunnel
        .remote
        .is_none_or(|remote| director.is_none_or(|director| director == remote));
    from && tunnel.local.is_none_or(own)
}

/// Lower is asked first.
fn rank(link: &Link, tunnel: &TunnelAttributes) -> u8 {
    const OF_THE_KIND: [&str; 3] = ["tunl0", "sit0", "ip6tnl0"];
    match (tunnel.remote, tunnel.local) {
        (Some(_), Some(_)) => 0,
        (Some(_), None) => 1,
        (None, Some(_)) => 2,
        (None, None) if OF_THE_KIND.contains(&link.name.as_str()) => 5,
        (None, None) if tunnel.external => 4,
        (None, None) => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 100));
    const DIRECTOR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1));
    const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 11));

    /// `name kind up|down [remote] [local] [external] [4|41]` as a device.
    fn link(text: &str) -> Link {
        let mut words = text.split(' ');
        let (name, kind) = (words.next().unwrap(), words.next().unwrap());
        let mut link = Link {
            name: name.into(),
            kind: Some(kind.into()),
            up: words.next() == Some("up"),
            ..Link::default()
        };
        let mut tunnel = TunnelAttributes::default();
        for word in words {
            match word.split_once('=') {
                Some(("remote", address)) => tunnel.remote = address.parse().ok(),
                Some(("local", address)) => tunnel.local = address.parse().ok(),
                Some(("protocol", number)) => tunnel.protocol = number.parse().ok(),
                _ => tunnel.external = word == "external",
            }
        }
        link.tunnel = Some(tunnel);
        link
    }

    #[test]
    fn the_tunnel_that_takes_the_packets_is_chosen() {
        for (description, links, vip, director, expected) in [
            ("no tunnel", vec![], VIP, Some(DIRECTOR), None),
            (
                "tunl0, even down",
                vec!["tunl0 ipip down"],
                VIP,
                Some(DIRECTOR),
                Some("tunl0"),
            ),
            (
                "ipip0 external beside a dead tunl0",
                vec!["tunl0 ipip down", "ipip0 ipip up external"],
                VIP,
                Some(DIRECTOR),
                Some("ipip0"),
            ),
            (
                "the same when no director is known",
                vec!["tunl0 ipip down", "ipip0 ipip up external"],
                VIP,
                None,
                Some("ipip0"),
            ),
            (
                "of this director, not of another one",
                vec![
                    "tunl0 ipip up",
                    "a ipip up remote=10.0.1.2",
                    "b ipip up remote=10.0.1.1",
                ],
                VIP,
                Some(DIRECTOR),
                Some("b"),
            ),
            (
                "tunl0 rather than another director's",
                vec!["a ipip up remote=10.0.1.2", "tunl0 ipip down"],
                VIP,
                Some(DIRECTOR),
                Some("tunl0"),
            ),
            (
                "another director's where there is nothing else",
                vec!["a ipip up remote=10.0.1.2"],
                VIP,
                Some(DIRECTOR),
                Some("a"),
            ),
            (
                "an end that is not ours",
                vec!["a ipip up local=10.0.1.99", "tunl0 ipip up"],
                VIP,
                Some(DIRECTOR),
                Some("tunl0"),
            ),
            (
                "an end that is ours",
                vec!["tunl0 ipip up", "a ipip up local=10.0.1.11"],
                VIP,
                Some(DIRECTOR),
                Some("a"),
            ),
            (
                "IPv6 in IPv4",
                vec![
                    "tunl0 ipip up",
                    "sit0 sit up protocol=41",
                    "ip6tnl0 ip6tnl up",
                ],
                "2001:db8::100".parse().unwrap(),
                Some(DIRECTOR),
                Some("sit0"),
            ),
            (
                "IPv4 in IPv6",
                vec![
                    "tunl0 ipip up",
                    "ip6tnl0 ip6tnl up protocol=41",
                    "t ip6tnl up protocol=4",
                ],
                VIP,
                "2001:db8::1".parse().ok(),
                Some("t"),
            ),
        ] {
            let links: Vec<_> = links.into_iter().map(link).collect();
            let wanted = Wanted {
                vip,
                director,
                encap: None,
            };
            let found = of_kernel(&links, &wanted, |address| address == OWN);
            let found = found.map(|link| link.name.as_str());
            assert_eq!(found, expected, "{description}");
        }
    }

    #[test]
    fn a_decapsulator_of_the_vip_has_its_own_device() {
        let decapsulator = |vip: IpAddr, device: &str, directors: &[&str]| Decapsulator {
            pid: 7,
            device: device.into(),
            vips: vec![vip],
            directors: directors.iter().map(|net| net.parse().unwrap()).collect(),
            encap: Encap::Ipip,
            setup: false,
            stopped: false,
            device_gone: false,
        };
        let running = Observed::Seen(vec![
            decapsulator(OWN, "decap1", &[]),
            decapsulator(VIP, "decap0", &["10.0.1.1/32"]),
        ]);
        let wanted = Wanted {
            vip: VIP,
            director: None,
            encap: None,
        };
        let found = find(&wanted, &Network::read(), &running);
        let expected = Found {
            device: Some("decap0".into()),
            director: Some(DIRECTOR),
            encap: Encap::Ipip,
        };
        assert_eq!(found, expected);
        for (directors, expected) in [
            (vec!["10.0.1.0/24"], None),
            (vec!["10.0.1.1/32", "10.0.1.2/32"], None),
            (vec!["2001:db8::1/128"], "2001:db8::1".parse().ok()),
        ] {
            assert_eq!(
                only_host(&decapsulator(VIP, "decap0", &directors)),
                expected
            );
        }
    }
}
