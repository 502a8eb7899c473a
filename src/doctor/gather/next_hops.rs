//! The next hops of answers: the kernel looks for those that it does not know, as it would for an answer, and the
//! segment is asked whether those that it knows are still where it believes.
//!
//! No packet of its own is sent to a next hop but the question who has its address.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::network::Network;
use crate::doctor::facts::{Facts, Neighbour, Observed, RouteAnswer, Target};
use crate::io::netlink::{Link, Netlink};
use crate::io::on_link::{self, Question, Subnet};

/// What the kernel waits for the answer to its first question, and some more (`retrans_time_ms`, 1 s).
const PATIENCE: Duration = Duration::from_millis(1200);
const LOOK: Duration = Duration::from_millis(5);

/// Reads the neighbour tables once all next hops were looked for; asks for those that need it.
pub(super) fn read(facts: &mut Facts, network: &mut Network) {
    let hops: Vec<_> = facts.targets.iter().flat_map(hops).collect();
    let mut neighbours = network.neighbours();
    let unknown: Vec<_> = hops
        .iter()
        .filter(|hop| speaks_arp(network, &hop.device) && !is_known(&neighbours, network, hop))
        .cloned()
        .collect();
    if !unknown.is_empty() && look_for(&unknown, network) {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end
            && unknown
                .iter()
                .any(|hop| !is_known(&neighbours, network, hop))
        {
            thread::sleep(LOOK);
            neighbours = network.neighbours();
        }
    }
    for target in &mut facts.targets {
        let hop = self::hops(target).next();
        let asked =
            hop.filter(|hop| !unknown.contains(hop) && is_believed(&neighbours, network, hop));
        target.hop_claims = asked.map_or_else(Vec::new, |hop| claims(network, &hop));
    }
    facts.neighbours = neighbours;
}

/// A next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hop {
    device: String,
    address: IpAddr,
}

/// Those that answers of a target go to; the one that they most likely go to first.
fn hops(target: &Target) -> impl Iterator<Item = Hop> {
    let marked = target.way_back_by_mark.values();
    let answers = marked.chain([&target.way_back, &target.way_back_of_any]);
    let onward = target
        .onward
        .as_ref()
        .map(|onward| (&onward.route, onward.address));
    let with_address = answers.map(|answer| (answer, target.client)).chain(onward);
    let hop = |(answer, destination): (&RouteAnswer, IpAddr)| match answer {
        RouteAnswer::Route(route) if route.kind == "unicast" => Some(Hop {
            device: route.device.clone()?,
            address: route.gateway.unwrap_or(destination),
        }),
        RouteAnswer::Route(_) | RouteAnswer::Refused(_) | RouteAnswer::Unseen(_) => None,
    };
    let found: Vec<_> = with_address.filter_map(hop).collect();
    found.into_iter()
}

fn speaks_arp(network: &Network, device: &str) -> bool {
    network
        .device(device)
        .is_some_and(|link| link.arp && link.up)
}

fn entry<'n>(
    neighbours: &'n Observed<Vec<Neighbour>>,
    network: &Network,
    hop: &Hop,
) -> Option<&'n Neighbour> {
    let link = network.device(&hop.device)?.index;
    let mut all = neighbours.seen()?.iter();
    all.find(|entry| entry.address == hop.address && entry.link == link)
}

fn is_known(neighbours: &Observed<Vec<Neighbour>>, network: &Network, hop: &Hop) -> bool {
    let entry = entry(neighbours, network, hop);
    entry.is_some_and(|entry| !matches!(entry.state.as_str(), "FAILED" | "INCOMPLETE" | "NONE"))
}

/// Whether an entry is one that nothing has confirmed of late.
fn is_believed(neighbours: &Observed<Vec<Neighbour>>, network: &Network, hop: &Hop) -> bool {
    let entry = entry(neighbours, network, hop);
    entry.is_some_and(|entry| {
        matches!(
            entry.state.as_str(),
            "STALE" | "DELAY" | "PROBE" | "PERMANENT"
        )
    })
}

/// Whether the kernel could be told to.
fn look_for(hops: &[Hop], network: &Network) -> bool {
    let Ok(mut netlink) = Netlink::open() else {
        return false;
    };
    let links = hops
        .iter()
        .filter_map(|hop| Some((network.device(&hop.device)?.index, hop.address)));
    let told: Vec<_> = links
        .map(|(link, address)| netlink.look_for_neighbour(link, address).is_ok())
        .collect();
    told.contains(&true)
}

/// The link-layer addresses of those who say that they have the hop's address.
fn claims(network: &Network, hop: &Hop) -> Vec<String> {
    let Some(link) = network
        .device(&hop.device)
        .filter(|link| link.arp && link.up)
    else {
        return Vec::new();
    };
    let Some(subnet) = segment(network, link, hop.address) else {
        return Vec::new();
    };
    let question = Question {
        address: hop.address,
        subnet: &subnet,
    };
    let own: Vec<_> = link.mac.into_iter().collect();
    let claims = on_link::ask(&[question], &own).unwrap_or_default();
    let macs = claims.into_values().flatten();
    macs.map(|mac| mac.to_string()).collect()
}

fn segment(network: &Network, link: &Link, hop: IpAddr) -> Option<Subnet> {
    let of_family = |net: &IpNet| net.addr().is_ipv4() == hop.is_ipv4();
    let held: Vec<_> = network
        .addresses_on(link.index)
        .map(|held| held.net)
        .collect();
    let own = held.iter().filter(|net| of_family(net)).copied();
    let within = own.clone().find(|net| net.contains(&hop));
    Some(Subnet {
        net: hop.into(),
        link: link.index,
        device: link.name.clone(),
        mac: link.mac?,
        source: within.or_else(|| own.clone().next()).map(|net| net.addr()),
    })
}
