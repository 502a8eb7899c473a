//! What is examined on a backend: VIPs with their services, and for each the kernel's answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::network::Network;
use super::sockets::ListenersElsewhere;
use super::tunnel::{self, Wanted};
use super::{BackendOptions, Service};
use crate::doctor::facts::{Decapsulator, Observed, RouteAnswer, Socket, Target};
use crate::io::netlink::{self, RouteQuery};
use crate::packet::Protocol;

/// More services of one VIP than this are not examined unasked: they fail or pass together.
const MOST_SERVICES: usize = 8;

/// The port of sshd, which listens everywhere and is no service of a VIP.
const SSH: u16 = 22;

/// What the targets are found in.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    pub(super) network: &'a mut Network,
    pub(super) decapsulators: &'a Observed<Vec<Decapsulator>>,
    pub(super) sockets: &'a Observed<Vec<Socket>>,
    pub(super) elsewhere: &'a ListenersElsewhere<'a>,
}

/// The named service, or every one that is found.
pub(super) fn find(options: &BackendOptions, mut around: Surroundings<'_>) -> Vec<Target> {
    let services = match options.service {
        Some(service) => vec![service],
        None => services(around.network, around.decapsulators, around.sockets),
    };
    services
        .into_iter()
        .map(|service| target(service, options, &mut around))
        .collect()
}

fn services(
    network: &Network,
    decapsulators: &Observed<Vec<Decapsulator>>,
    sockets: &Observed<Vec<Socket>>,
) -> Vec<Service> {
    let sockets = sockets.seen().map_or(&[][..], Vec::as_slice);
    vips(network, decapsulators)
        .into_iter()
        .flat_map(|vip| services_of(vip, sockets))
        .collect()
}

/// Addresses that look like VIPs: those on lo (a wide prefix there is a finding of its own), those on
/// tunnels, and what each `tunlb decap` decapsulates for. An address that a further device has too is
/// the machine's own.
pub(super) fn vips(network: &Network, decapsulators: &Observed<Vec<Decapsulator>>) -> Vec<IpAddr> {
    let running = decapsulators.seen().map_or(&[][..], Vec::as_slice);
    let devices = network.devices();
    // A device that leads nowhere, as good for a VIP as lo.
    let is_apart = |link: &netlink::Link| match link.kind.as_deref() {
        Some("dummy") => true,
        Some("bridge") => devices.iter().all(|port| port.master != Some(link.index)),
        _ => false,
    };
    let is_end = |link: &netlink::Link| {
        let of_decap = running.iter().any(|running| running.device == link.name);
        link.name == "lo" || of_decap || is_apart(link)
    };
    let (ends, others): (Vec<_>, Vec<_>) = devices
        .iter()
        .partition(|link| is_end(link) || link.tunnel.is_some());
    let addresses = |links: Vec<&netlink::Link>| -> Vec<IpAddr> {
        let on = |link: &netlink::Link| {
            let hosts_only = is_apart(link);
            let held = network.addresses_on(link.index);
            let held = held.filter(move |held| {
                !hosts_only || held.net.prefix_len() == held.net.max_prefix_len()
            });
            held.map(|held| held.net.addr()).collect::<Vec<_>>()
        };
        links.into_iter().flat_map(on).collect()
    };
    let own = addresses(others);
    let on_ends = addresses(ends).into_iter();
    let found = on_ends
        .filter(|address| is_global(*address) && !own.contains(address))
        .chain(running.iter().flat_map(|running| running.vips.clone()));
    let mut vips = Vec::new();
    for vip in found {
        if !vips.contains(&vip) {
            vips.push(vip);
        }
    }
    vips
}

fn is_global(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(link_local || address.is_loopback())
}

/// The sockets that are bound to the VIP itself. Without any, TCP listeners of all addresses but sshd, and
/// UDP sockets beside them on the same port (DNS, HTTP/3): further ones (DHCP, mDNS) serve no VIP.
/// Without these, TCP of any port.
fn services_of(vip: IpAddr, sockets: &[Socket]) -> Vec<Service> {
    let bound = sockets.iter().filter(|socket| socket.address == vip);
    let mut services: Vec<_> = bound.filter_map(|socket| service(vip, socket)).collect();
    if services.is_empty() {
        services = services_of_all_addresses(vip, sockets);
    }
    services.sort_unstable_by_key(|service| (service.port, service.protocol.number()));
    services.dedup();
    services.truncate(MOST_SERVICES);
    if services.is_empty() {
        services.push(Service {
            address: vip,
            port: None,
            protocol: Protocol::Tcp,
        });
    }
    services
}

fn services_of_all_addresses(vip: IpAddr, sockets: &[Socket]) -> Vec<Service> {
    let hears = |socket: &&Socket| {
        let family = socket.address.is_ipv4() == vip.is_ipv4();
        let both = socket.address.is_ipv6() && !socket.v6_only;
        socket.address.is_unspecified() && (family || both) && socket.port != SSH
    };
    let listens = |port: u16| {
        let tcp = |socket: &Socket| socket.protocol == "tcp" && socket.port == port;
        sockets.iter().filter(hears).any(tcp)
    };
    let of_service = |socket: &&Socket| listens(socket.port);
    let hearing = sockets.iter().filter(hears).filter(of_service);
    hearing.filter_map(|socket| service(vip, socket)).collect()
}

fn service(vip: IpAddr, socket: &Socket) -> Option<Service> {
    let protocol = match socket.protocol.as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    Some(Service {
        address: vip,
        port: Some(socket.port),
        protocol,
    })
}

fn target(service: Service, options: &BackendOptions, around: &mut Surroundings<'_>) -> Target {
    let network = &mut *around.network;
    let vip = service.address;
    let wanted = Wanted {
        vip,
        director: options.director,
        encap: options.encap,
    };
    let found = tunnel::find(&wanted, network, around.decapsulators);
    let director = options.director.or(found.director);
    let physical = tunnel::physical(network, director);
    let assumed = || assumed_client(network, vip, director, physical.as_deref());
    let client = options.client.unwrap_or_else(assumed);
    let protocol = service.protocol.to_string();
    Target {
        vip,
        port: service.port,
        client,
        client_is_assumed: options.client.is_none(),
        director,
        encap: found.encap,
        vip_route: network.ask(vip, RouteQuery::default()),
        input: input(network, vip, client, found.device.as_deref()),
        way_back: network.ask(client, reply(service)),
        way_back_of_any: network.ask(client, RouteQuery::default()),
        way_back_by_mark: by_mark(network, client, service, around.sockets.seen()),
        listeners_elsewhere: around.elsewhere.on(vip, service.port, &protocol),
        physical,
        tunnel: found.device,
        protocol,
    }
}

/// `ip route get V from C iif T`.
fn input(network: &mut Network, vip: IpAddr, client: IpAddr, tunnel: Option<&str>) -> RouteAnswer {
    let Some(device) = tunnel.and_then(|name| network.device(name)) else {
        return RouteAnswer::Unseen("there is no tunnel device to ask about".to_owned());
    };
    let query = RouteQuery {
        from: Some(client),
        iif: Some(device.index),
        ..RouteQuery::default()
    };
    network.ask(vip, query)
}

/// A packet that answers the client.
fn reply(service: Service) -> RouteQuery {
    RouteQuery {
        from: Some(service.address),
        protocol: Some(service.protocol.number()),
        source_port: service.port,
        destination_port: service.port.map(|_| CLIENT_PORT),
        ..RouteQuery::default()
    }
}

/// A port of a client, as good as any other (RFC 6056 §3.2).
const CLIENT_PORT: u16 = 49152;

/// More marks than this are not asked for.
const MOST_MARKS: usize = 32;

/// The way back of packets with the marks that policy rules and sockets of the service have.
fn by_mark(
    network: &mut Network,
    client: IpAddr,
    service: Service,
    sockets: Option<&Vec<Socket>>,
) -> BTreeMap<u32, RouteAnswer> {
    let rules = network.rules.seen().into_iter().flatten();
    let of_rules = rules.filter_map(|rule| Some(rule.mark?.0));
    let sockets = sockets.into_iter().flatten();
    let serving = sockets.filter(|socket| Some(socket.port) == service.port);
    let of_sockets = serving.map(|socket| socket.mark);
    let marks: BTreeSet<_> = of_rules
        .chain(of_sockets)
        .filter(|mark| *mark != 0)
        .collect();
    let asked = marks.into_iter().take(MOST_MARKS).map(|mark| {
        let query = RouteQuery {
            mark: Some(mark),
            ..reply(service)
        };
        (mark, network.ask(client, query))
    });
    asked.collect()
}

/// An address that stands for a client where none is named: the director's; else one beyond the default
/// route; else, where there is none, one of the segment of the physical device.
fn assumed_client(
    network: &mut Network,
    vip: IpAddr,
    director: Option<IpAddr>,
    physical: Option<&str>,
) -> IpAddr {
    let same_family = |address: &IpAddr| address.is_ipv4() == vip.is_ipv4();
    let other = |director: &IpAddr| same_family(director) && !network.has(*director);
    if let Some(director) = director.filter(other) {
        return director;
    }
    let faraway = tunnel::faraway(vip.is_ipv6());
    if let RouteAnswer::Route(_) = network.ask(faraway, RouteQuery::default()) {
        return faraway;
    }
    let device = physical.and_then(|name| network.device(name));
    let held = device
        .into_iter()
        .flat_map(|link| network.addresses_on(link.index));
    let beside = held
        .filter(|held| same_family(&held.net.addr()))
        .find_map(|held| beside(held.net));
    beside.unwrap_or(faraway)
}

/// Another host of an address's own subnet.
fn beside(net: IpNet) -> Option<IpAddr> {
    net.hosts().take(2).find(|host| *host != net.addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 100));

    /// `tcp 0.0.0.0 80` or `tcp :: 80 only` as a socket.
    fn socket(text: &str) -> Socket {
        let mut words = text.split(' ');
        let mut word = || words.next().unwrap_or_default();
        Socket {
            protocol: word().into(),
            address: word().parse().unwrap(),
            port: word().parse().unwrap(),
            v6_only: word() == "only",
            device: None,
            queued: 0,
            queue_limit: 0,
            program: None,
            user: None,
            group: None,
            mark: 0,
        }
    }

    #[test]
    fn services_are_found_by_their_sockets() {
        for (description, sockets, expected) in [
            ("none", vec![], vec!["any/tcp"]),
            (
                "sshd alone",
                vec!["tcp 0.0.0.0 22", "raw 0.0.0.0 4"],
                vec!["any/tcp"],
            ),
            (
                "bound to the VIP",
                vec!["tcp 0.0.0.0 80", "udp 10.0.0.100 53", "tcp 10.0.0.100 22"],
                vec!["22/tcp", "53/udp"],
            ),
            (
                "bound to all",
                vec![
                    "tcp :: 443",
                    "udp :: 443",
                    "udp 0.0.0.0 68",
                    "tcp 0.0.0.0 80",
                ],
                vec!["80/tcp", "443/tcp", "443/udp"],
            ),
            (
                "IPv6 only, or of another address",
                vec!["tcp :: 443 only", "tcp 10.0.0.9 80"],
                vec!["any/tcp"],
            ),
        ] {
            let sockets: Vec<_> = sockets.into_iter().map(socket).collect();
            let found = services_of(VIP, &sockets);
            let text = |service: &Service| {
                let port = service
                    .port
                    .map_or("any".to_owned(), |port| port.to_string());
                format!("{port}/{}", service.protocol)
            };
            let found: Vec<_> = found.iter().map(text).collect();
            assert_eq!(found, expected, "{description}");
        }
    }

    #[test]
    fn many_services_are_cut() {
        let sockets: Vec<_> = (1000..1100)
            .map(|port| socket(&format!("tcp 0.0.0.0 {port}")))
            .collect();
        assert_eq!(services_of(VIP, &sockets).len(), MOST_SERVICES);
    }

    #[test]
    fn another_host_of_the_subnet() {
        for (net, expected) in [
            ("10.0.1.11/24", Some("10.0.1.1")),
            ("10.0.1.1/24", Some("10.0.1.2")),
            ("10.0.1.1/32", None),
            ("10.0.1.0/31", Some("10.0.1.1")),
        ] {
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(beside(net.parse().unwrap()), expected, "{net}");
        }
    }
}
