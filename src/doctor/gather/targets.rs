//! What is examined on a backend: VIPs with their services, and for each the kernel's answers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::network::Network;
use super::sockets::ListenersElsewhere;
use super::tunnel::{self, Wanted};
use super::{BackendOptions, Service};
use crate::doctor::facts::{Decapsulator, Facts, Observed, Onward, RouteAnswer, Socket, Target};
use crate::doctor::judge::{Questions, questions};
use crate::io::netlink::{self, RouteQuery};
use crate::io::processes::Processes;
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
        input: input(network, vip, client, found.device.as_deref(), None),
        input_by_mark: BTreeMap::new(),
        way_back: network.ask(client, reply(vip, service.port, service.protocol.number())),
        way_back_of_any: network.ask(client, RouteQuery::default()),
        way_back_by_mark: BTreeMap::new(),
        outer_inputs: outer_inputs(network, director),
        onward: None,
        hop_claims: Vec::new(),
        listeners_elsewhere: around.elsewhere.on(vip, service.port, &protocol),
        physical,
        tunnel: found.device,
        protocol,
    }
}

/// `ip route get V from C iif T`.
fn input(
    network: &mut Network,
    vip: IpAddr,
    client: IpAddr,
    tunnel: Option<&str>,
    mark: Option<u32>,
) -> RouteAnswer {
    let Some(device) = tunnel.and_then(|name| network.device(name)) else {
        return RouteAnswer::Unseen("there is no tunnel device to ask about".to_owned());
    };
    let query = RouteQuery {
        from: Some(client),
        iif: Some(device.index),
        mark,
        ..RouteQuery::default()
    };
    network.ask(vip, query)
}

/// A packet that answers the client.
fn reply(vip: IpAddr, port: Option<u16>, protocol: u8) -> RouteQuery {
    RouteQuery {
        from: Some(vip),
        protocol: Some(protocol),
        source_port: port,
        destination_port: port.map(|_| CLIENT_PORT),
        ..RouteQuery::default()
    }
}

/// A port of a client, as good as any other (RFC 6056 §3.2).
const CLIENT_PORT: u16 = 49152;

/// What else the kernel is asked once the rules are known.
pub(super) fn follow_up(facts: &mut Facts, network: &mut Network, processes: &Processes) {
    let questions = questions(facts);
    for (target, asked) in facts.targets.iter_mut().zip(questions) {
        ask_marked(target, &asked, network);
        let onward = asked.onward.map(|(address, port)| Onward {
            address,
            port,
            route: input(
                network,
                address,
                target.client,
                target.tunnel.as_deref(),
                None,
            ),
            listeners: ListenersElsewhere::read(processes).on(address, port, &target.protocol),
        });
        target.onward = onward;
    }
}

fn ask_marked(target: &mut Target, asked: &Questions, network: &mut Network) {
    if let Some(mark) = asked.arriving {
        let answer = input(
            network,
            target.vip,
            target.client,
            target.tunnel.as_deref(),
            Some(mark),
        );
        target.input_by_mark.insert(mark, answer);
    }
    if let Some(mark) = asked.answering {
        let number = if target.protocol == "udp" { 17 } else { 6 };
        let query = RouteQuery {
            mark: Some(mark),
            ..reply(target.vip, target.port, number)
        };
        target
            .way_back_by_mark
            .insert(mark, network.ask(target.client, query));
    }
}

/// `ip route get R from D iif DEVICE`, of each device that speaks ARP and has an address of the director's family.
fn outer_inputs(network: &mut Network, director: Option<IpAddr>) -> BTreeMap<String, RouteAnswer> {
    let Some(director) = director.filter(|director| !network.has(*director)) else {
        return BTreeMap::new();
    };
    let up = network.devices().iter().filter(|link| link.up && link.arp);
    let own = |link: &netlink::Link| {
        let held = network.addresses_on(link.index).map(|held| held.net.addr());
        let own = held
            .into_iter()
            .find(|own| own.is_ipv4() == director.is_ipv4())?;
        Some((link.name.clone(), link.index, own))
    };
    let places: Vec<_> = up.filter_map(own).take(MOST_DEVICES).collect();
    let mut inputs = BTreeMap::new();
    for (device, link, own) in places {
        let query = RouteQuery {
            from: Some(director),
            iif: Some(link),
            ..RouteQuery::default()
        };
        inputs.insert(device, network.ask(own, query));
    }
    inputs
}

/// More devices than this are not asked for.
const MOST_DEVICES: usize = 16;

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
            memory: None,
            transparent: None,
            signed_peers: Vec::new(),
            stopped: false,
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
