//! A director's own facts: the TUN, what the kernel does with packets of VIPs, the ways to backends.
//!
//! To each backend one outer packet without content is sent, exactly as data is (raw socket, outer source,
//! TTL): only that shows what a firewall does (EPERM). It disturbs nothing. The kernel's tunnels drop it,
//! silently, because no inner header fits in (`tunnel4_rcv`, linux/net/ipv4/tunnel4.c; `gue_udp_recv`,
//! fou_core.c), and so does `tunlb decap`; a backend without a tunnel answers it with the ICMP error that
//! data gets.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;
use std::time::Duration;

use super::network::Network;
use crate::config::{Config, Egress as ConfiguredEgress, Neighbour};
use crate::director::{PortMatch, VipSpec};
use crate::doctor::facts::{
    BackendOnDirector, DirectorFacts, Encap as EncapFact, Neighbour as Entry, Observed,
    RouteAnswer, VipOnDirector, client_of,
};
use crate::io::egress::{Direct, Egress, Hops, PacketEgress, SendError};
use crate::io::netlink::{Netlink, RouteQuery};
use crate::io::next_hop::resolve;
use crate::packet::{
    Burst, Encap, EncapKind, Entropy, Meta, Outgoing, Piece, SourceRule, TunnelId, Tunnels, Version,
};

/// How often the neighbour table is read again while next hops of backends are being looked for.
const LOOKS: usize = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(40);

/// Looks at all that the configuration names.
pub(super) fn read(config: &Config, network: &mut Network) -> DirectorFacts {
    let mut backends = backends(config, network);
    send(config, &mut backends);
    DirectorFacts {
        tun: config.director.tun.clone(),
        tun_in_use: tun_in_use(&config.director.tun, network),
        client: None,
        neighbour_off: config.director.neighbour == Neighbour::Off,
        vips: vips(config, &backends, network),
        backends,
    }
}

/// A TUN device has a carrier while a process holds it open.
fn tun_in_use(name: &str, network: &Network) -> Observed<bool> {
    if let Observed::Unseen(reason) = &network.links {
        return Observed::Unseen(reason.clone());
    }
    let held = |tun: crate::io::netlink::TunAttributes| tun.open_queues > 0;
    let in_use = network
        .device(name)
        .is_some_and(|link| link.carrier || link.tun.is_some_and(held));
    Observed::Seen(in_use)
}

fn backends(config: &Config, network: &mut Network) -> BTreeMap<IpAddr, BackendOnDirector> {
    let mut backends = BTreeMap::new();
    for vip in &config.vips {
        for backend in &vip.backends {
            backends
                .entry(backend.address)
                .or_insert_with(|| way_to(backend.address, vip.encap, network));
        }
    }
    backends
}

fn way_to(backend: IpAddr, encap: EncapKind, network: &mut Network) -> BackendOnDirector {
    let route = network.ask(backend, RouteQuery::default());
    let mtu = match &route {
        RouteAnswer::Route(route) => {
            let device = route.device.as_ref().and_then(|name| network.device(name));
            route.mtu.or(device.map(|link| link.mtu))
        }
        RouteAnswer::Refused(_) | RouteAnswer::Unseen(_) => None,
    };
    BackendOnDirector {
        route,
        mtu,
        send: Observed::default(),
        encap: match encap {
            EncapKind::Ipip => EncapFact::Ipip,
            EncapKind::Gue { port } => EncapFact::Gue(port.get()),
        },
        past_filters: false,
    }
}

/// The next hops of backends that the configuration sends to past this host's filters. Where it chooses by
/// itself it passes by none.
fn hops_past_filters(config: &Config) -> Hops {
    let by = match config.director.egress {
        ConfiguredEgress::Packet | ConfiguredEgress::Xsk => Direct::Packet,
        ConfiguredEgress::Auto | ConfiguredEgress::Raw => return Hops::default(),
    };
    let backends = config.vips.iter().flat_map(|vip| &vip.backends);
    let far_ends = backends.map(|backend| backend.address).collect();
    let resolved = Netlink::open().and_then(|mut netlink| resolve(&far_ends, by, &mut netlink));
    let found = resolved.map(|resolved| resolved.hops).unwrap_or_default();
    Hops {
        direct: found
            .into_iter()
            .filter_map(|(far_end, hop)| Some((far_end, hop.ok()?)))
            .collect(),
        ..Hops::default()
    }
}

fn vips(
    config: &Config,
    backends: &BTreeMap<IpAddr, BackendOnDirector>,
    network: &mut Network,
) -> BTreeMap<IpAddr, VipOnDirector> {
    let mut vips = BTreeMap::new();
    for vip in &config.vips {
        vips.entry(vip.address).or_insert_with(|| {
            let route = network.ask(vip.address, RouteQuery::default());
            VipOnDirector {
                own_answers: own_answers(vip, &route, backends, network),
                route,
                on_link: None,
                services: services(config, vip.address),
                clients_by: None,
            }
        });
    }
    vips
}

/// What is balanced at an address.
fn services(config: &Config, address: IpAddr) -> Vec<(u8, Option<u16>)> {
    let of_it = config.vips.iter().filter(|vip| vip.address == address);
    let services = of_it.map(|vip| {
        let port = match vip.port {
            PortMatch::Exact(port) => Some(port.get()),
            PortMatch::Any => None,
        };
        (vip.protocol.number(), port)
    });
    services.collect()
}

/// By which device the clients' packets come in.
pub(super) fn find_clients(facts: &mut DirectorFacts, network: &mut Network) {
    for (vip, seen) in &mut facts.vips {
        let client = client_of(facts.client, *vip);
        let way = network.ask(client, RouteQuery::default());
        let device = match way {
            RouteAnswer::Route(route) => route.device,
            RouteAnswer::Refused(_) | RouteAnswer::Unseen(_) => None,
        };
        seen.clients_by = device.filter(|device| *device != facts.tun);
    }
}

/// The director's own request to the VIP has the source that the VIP's route gives it; the answer comes
/// in from the VIP's backends.
fn own_answers(
    vip: &VipSpec,
    route: &RouteAnswer,
    backends: &BTreeMap<IpAddr, BackendOnDirector>,
    network: &mut Network,
) -> RouteAnswer {
    let source = match route {
        RouteAnswer::Route(route) => route.source,
        RouteAnswer::Refused(_) | RouteAnswer::Unseen(_) => None,
    };
    let Some(source) = source else {
        return RouteAnswer::Unseen(format!("no address of this host goes with {}", vip.address));
    };
    let device =
        vip.backends
            .iter()
            .find_map(|backend| match &backends.get(&backend.address)?.route {
                RouteAnswer::Route(route) => network.device(route.device.as_ref()?),
                RouteAnswer::Refused(_) | RouteAnswer::Unseen(_) => None,
            });
    let Some(device) = device else {
        return RouteAnswer::Unseen("no backend of it has a route".to_owned());
    };
    let query = RouteQuery {
        from: Some(vip.address),
        iif: Some(device.index),
        ..RouteQuery::default()
    };
    network.ask(source, query)
}

/// Sends the empty outer packets and notes what became of each.
fn send(config: &Config, backends: &mut BTreeMap<IpAddr, BackendOnDirector>) {
    let hops = hops_past_filters(config);
    let mut egress = match PacketEgress::open() {
        Ok(egress) => egress,
        Err(error) => {
            let reason = format!("raw socket: {error}; needs CAP_NET_RAW; run as root");
            for backend in backends.values_mut() {
                backend.send = Observed::Unseen(reason.clone());
            }
            return;
        }
    };
    for vip in &config.vips {
        for backend in &vip.backends {
            let Some(fact) = backends.get_mut(&backend.address) else {
                continue;
            };
            if fact.send == Observed::default() {
                let way = (&fact.route, &hops);
                fact.send = send_empty(config, vip, backend.address, way, &mut egress);
                fact.past_filters = hops.direct.contains_key(&backend.address);
            }
        }
    }
}

fn send_empty(
    config: &Config,
    vip: &VipSpec,
    backend: IpAddr,
    (route, hops): (&RouteAnswer, &Hops),
    egress: &mut PacketEgress,
) -> Observed<Option<i32>> {
    let source = outer_source(config, backend, route);
    let encap = match Encap::new(vip.encap, source, backend, config.director.encap.ttl) {
        Ok(encap) => encap,
        Err(error) => return Observed::Unseen(error.to_string()),
    };
    let mut burst = Burst::new(0);
    burst.push(0);
    let mut results = [Ok(())];
    let tunnel = One(encap);
    egress.adopt(&tunnel, hops);
    egress.send(&mut burst, &mut [empty(vip)], &tunnel, &mut results);
    Observed::Seen(results[0].err().map(SendError::errno))
}

/// A packet without a byte, in the first frame.
fn empty(vip: &VipSpec) -> Outgoing {
    Outgoing {
        frame: 0,
        piece: Piece::Whole,
        tunnel: TunnelId(0),
        meta: Meta {
            version: match vip.address {
                IpAddr::V4(_) => Version::V4,
                IpAddr::V6(_) => Version::V6,
            },
            length: 0,
            traffic_class: 0,
            dont_fragment: true,
            segmentation: None,
        },
        entropy: Entropy {
            flow_hash: 0,
            identification: 0,
        },
    }
}

/// The one tunnel that is tried.
struct One(Encap);

impl Tunnels for One {
    fn tunnel(&self, _: TunnelId) -> Option<&Encap> {
        Some(&self.0)
    }

    fn bound(&self) -> u32 {
        1
    }
}

/// As data has it: what is configured, else what the route says, else the raw socket's choice.
fn outer_source(config: &Config, backend: IpAddr, route: &RouteAnswer) -> SourceRule {
    let preferred = match route {
        RouteAnswer::Route(route) => route.source,
        RouteAnswer::Refused(_) | RouteAnswer::Unseen(_) => None,
    };
    let unspecified = match backend {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let configured = config.director.encap.source.rule_for(backend);
    configured.unwrap_or(SourceRule::Fixed(preferred.unwrap_or(unspecified)))
}

/// The neighbour tables, once the next hops that the sending made the kernel look for are found, or
/// after a fifth of a second.
pub(super) fn settled_neighbours(
    facts: &DirectorFacts,
    network: &mut Network,
) -> Observed<Vec<Entry>> {
    let next_hops: Vec<_> = facts.backends.iter().filter_map(next_hop).collect();
    let mut neighbours = network.neighbours();
    for _ in 0..LOOKS {
        let sought = |neighbour: &Entry| {
            neighbour.state == "INCOMPLETE" && next_hops.contains(&neighbour.address)
        };
        if !neighbours.seen().is_some_and(|all| all.iter().any(sought)) {
            break;
        }
        thread::sleep(BETWEEN_LOOKS);
        neighbours = network.neighbours();
    }
    neighbours
}

fn next_hop((address, backend): (&IpAddr, &BackendOnDirector)) -> Option<IpAddr> {
    match &backend.route {
        RouteAnswer::Route(route) => Some(route.gateway.unwrap_or(*address)),
        RouteAnswer::Refused(_) | RouteAnswer::Unseen(_) => None,
    }
}
