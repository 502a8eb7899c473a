//! Which device and link-layer address the kernel would send a packet to, asked for once instead of for each
//! packet.
//!
//! A far end has a hop where its route leaves by an Ethernet-like device that is up and the next hop's
//! link-layer address is known. Loopback, point-to-point and encapsulating ways, local addresses and unknown
//! neighbours have none: their packets go by a raw socket, which also makes the kernel find the neighbour.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::egress::{Direct, Hop, LinkHeader};
use super::netlink::{Link, Neighbour, Netlink, NetlinkError, RouteKind, RouteQuery};
use crate::packet::neighbour::MacAddress;
use crate::text::Plain;

/// The hop of a far end, or why it has none.
pub type Found = Result<Hop, NoHop>;

/// The hops of some far ends, and what they use.
#[derive(Debug, Default)]
pub struct Resolved {
    /// By far end.
    pub hops: BTreeMap<IpAddr, Found>,
    /// Device and address of each next hop that is to be confirmed.
    pub neighbours: BTreeSet<(u32, IpAddr)>,
    /// Names of all devices, by their index.
    pub devices: BTreeMap<u32, String>,
    /// Those of the hops' devices that segment UDP datagrams.
    pub segmenting: BTreeSet<u32>,
}

/// Why a far end has no hop: the kernel must be given its packets to find their way itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum NoHop {
    /// No route leads there, or one that refuses.
    #[error("no route")]
    Route,
    /// It is an address of this host, or a broadcast or multicast one.
    #[error("not an address of another host")]
    NotAnotherHost,
    /// The route encapsulates what it carries.
    #[error("the route encapsulates")]
    Encapsulates,
    /// The device takes no Ethernet frames, or is down.
    #[error("{} is down or takes no Ethernet frames", Plain(.0))]
    Device(String),
    /// The next hop's link-layer address is not known.
    #[error("no neighbour entry that holds for the next hop")]
    Neighbour,
}

/// Asks the kernel for the hop of each far end, to be reached by that kind of socket.
///
/// # Errors
/// Any [`NetlinkError`] but that of a far end without a route.
pub fn resolve(
    far_ends: &BTreeSet<IpAddr>,
    by: Direct,
    netlink: &mut Netlink,
) -> Result<Resolved, NetlinkError> {
    let tables = Tables::read(netlink)?;
    let mut resolved = Resolved::default();
    for &far_end in far_ends {
        let way = way_to(far_end, netlink)?;
        let found = way.and_then(|way| {
            let hop = tables.hop(far_end, way, by)?;
            let neighbour = (way.link, way.next);
            if !tables.fixed.contains(&neighbour) {
                resolved.neighbours.insert(neighbour);
            }
            Ok(hop)
        });
        resolved.hops.insert(far_end, found);
    }
    for hop in resolved.hops.values().flatten() {
        let name = tables.links.get(&hop.link).map_or("", |link| &link.name);
        if !resolved.segmenting.contains(&hop.link) && netlink.has_feature(name, SEGMENTATION) {
            resolved.segmenting.insert(hop.link);
        }
    }
    let named = tables.links.into_iter();
    resolved.devices = named.map(|(index, link)| (index, link.name)).collect();
    Ok(resolved)
}

/// States of neighbours that need no confirmation.
const FIXED: [&str; 2] = ["PERMANENT", "NOARP"];

/// As ethtool(8) names it.
const SEGMENTATION: &str = "tx-udp-segmentation";

/// What the kernel knows of devices and neighbours.
#[derive(Debug)]
struct Tables {
    links: BTreeMap<u32, Link>,
    neighbours: BTreeMap<(u32, IpAddr), [u8; 6]>,
    /// Those of them that an operator set. To ask the kernel to confirm one would make it forget that
    /// (`NEIGH_UPDATE_F_USE` in `__neigh_update`, linux/net/core/neighbour.c) and ask the network.
    fixed: BTreeSet<(u32, IpAddr)>,
}

impl Tables {
    fn read(netlink: &mut Netlink) -> Result<Self, NetlinkError> {
        let links = netlink.links()?.into_iter();
        let neighbours = netlink.neighbours()?;
        let is_fixed = |known: &&Neighbour| FIXED.contains(&known.state.as_str());
        let key = |known: &Neighbour| (known.link, known.address);
        Ok(Self {
            links: links.map(|link| (link.index, link)).collect(),
            fixed: neighbours.iter().filter(is_fixed).map(key).collect(),
            neighbours: neighbours
                .iter()
                .filter_map(|known| Some((key(known), usable_address(known)?)))
                .collect(),
        })
    }

    fn hop(&self, far_end: IpAddr, way: Way, by: Direct) -> Found {
        let link = self.links.get(&way.link).ok_or(NoHop::Route)?;
        let device = ethernet_address(link).ok_or_else(|| NoHop::Device(link.name.clone()))?;
        let neighbour = self.neighbours.get(&(way.link, way.next));
        let neighbour = neighbour.ok_or(NoHop::Neighbour)?;
        Ok(Hop {
            link: way.link,
            header: LinkHeader::new(*neighbour, device, far_end),
            mtu: way.mtu.unwrap_or(link.mtu).min(link.mtu),
            by,
        })
    }
}

/// Which way a packet leaves.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// Index of the device.
    link: u32,
    /// The address that is looked for on it.
    next: IpAddr,
    /// The route's own MTU in bytes.
    mtu: Option<u32>,
}

fn way_to(far_end: IpAddr, netlink: &mut Netlink) -> Result<Result<Way, NoHop>, NetlinkError> {
    let route = match netlink.route_to(far_end, RouteQuery::default()) {
        Ok(route) => route,
        Err(error) if error.errno().is_some() => return Ok(Err(NoHop::Route)),
        Err(error) => return Err(error),
    };
    Ok(match (route.kind, route.oif) {
        (RouteKind::Unicast, _) if route.encapsulates => Err(NoHop::Encapsulates),
        (RouteKind::Unicast, Some(link)) => Ok(Way {
            link,
            next: route.gateway.unwrap_or(far_end),
            // What the kernel has learnt limits its own packets: it believes errors that the director does not.
            mtu: match route.mtu {
                None => None,
                Some(mtu) => netlink.configured_mtu(far_end).unwrap_or(Some(mtu)),
            },
        }),
        (RouteKind::Local | RouteKind::Broadcast | RouteKind::Multicast, _) => {
            Err(NoHop::NotAnotherHost)
        }
        (
            RouteKind::Unicast
            | RouteKind::Unreachable
            | RouteKind::Blackhole
            | RouteKind::Prohibit
            | RouteKind::Other(_),
            _,
        ) => Err(NoHop::Route),
    })
}

/// Of a device that takes Ethernet frames.
fn ethernet_address(link: &Link) -> Option<[u8; 6]> {
    if !(link.up && link.arp) {
        return None;
    }
    link.mac.map(|MacAddress(bytes)| bytes)
}

/// Where the kernel would use the entry without asking anew (`NUD_VALID`, net/neighbour.h).
fn usable_address(neighbour: &Neighbour) -> Option<[u8; 6]> {
    const VALID: [&str; 6] = ["PERMANENT", "NOARP", "REACHABLE", "PROBE", "STALE", "DELAY"];
    if !VALID.contains(&neighbour.state.as_str()) {
        return None;
    }
    neighbour.link_layer_address.as_slice().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ethernet_that_is_up_has_a_hop() {
        let link = Link {
            up: true,
            arp: true,
            mac: Some(MacAddress([2, 0, 0, 0, 0, 1])),
            ..Link::default()
        };
        assert_eq!(ethernet_address(&link), Some([2, 0, 0, 0, 0, 1]));
        let down = Link {
            up: false,
            ..link.clone()
        };
        let without_arp = Link {
            arp: false,
            ..link.clone()
        };
        let infiniband = Link { mac: None, ..link };
        for other in [down, without_arp, infiniband, Link::default()] {
            assert_eq!(ethernet_address(&other), None, "{other:?}");
        }
    }

    #[test]
    fn only_neighbours_that_the_kernel_would_use() {
        let neighbour = |state: &str| Neighbour {
            link: 4,
            address: [10, 0, 1, 1].into(),
            state: state.into(),
            link_layer_address: vec![2, 0, 0, 0, 0, 1],
        };
        for state in ["REACHABLE", "STALE", "DELAY", "PROBE", "PERMANENT"] {
            assert!(usable_address(&neighbour(state)).is_some(), "{state}");
        }
        for state in ["INCOMPLETE", "FAILED", "NONE"] {
            assert!(usable_address(&neighbour(state)).is_none(), "{state}");
        }
    }
}
