//! Which device and link-layer address the kernel would send a packet to, asked for once instead of for each
//! packet.
//!
//! A far end has a hop where its route leaves by an Ethernet-like device that is up and the next hop's
//! link-layer address is known. Loopback, point-to-point and encapsulating ways, local addresses and unknown
//! neighbours have none: their packets go by a raw socket, which also makes the kernel find the neighbour.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::egress::{Direct, Hop, Hops, LinkHeader};
use super::netlink::{Link, Neighbour, Netlink, NetlinkError, RouteKind, RouteQuery};
use crate::packet::neighbour::MacAddress;

/// The hops of some far ends, and the neighbours that they use.
#[derive(Debug, Default)]
pub struct Resolved {
    /// By far end.
    pub hops: Hops,
    /// Device and address of each next hop.
    pub neighbours: BTreeSet<(u32, IpAddr)>,
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
    let links: BTreeMap<_, _> = netlink
        .links()?
        .into_iter()
        .filter_map(|link| Some((link.index, (ethernet_address(&link)?, link.mtu))))
        .collect();
    let neighbours: BTreeMap<_, _> = netlink
        .neighbours()?
        .into_iter()
        .filter_map(|known| Some(((known.link, known.address), usable_address(&known)?)))
        .collect();
    let mut resolved = Resolved::default();
    for &far_end in far_ends {
        let Some(way) = way_to(far_end, netlink)? else {
            continue;
        };
        let device = links.get(&way.link);
        let neighbour = neighbours.get(&(way.link, way.next));
        if let (Some(&(device, mtu)), Some(neighbour)) = (device, neighbour) {
            let hop = Hop {
                link: way.link,
                header: LinkHeader::new(*neighbour, device, far_end),
                mtu: way.mtu.unwrap_or(mtu).min(mtu),
                by,
            };
            resolved.hops.0.insert(far_end, hop);
            resolved.neighbours.insert((way.link, way.next));
        }
    }
    Ok(resolved)
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

fn way_to(far_end: IpAddr, netlink: &mut Netlink) -> Result<Option<Way>, NetlinkError> {
    let route = match netlink.route_to(far_end, RouteQuery::default()) {
        Ok(route) => route,
        Err(error) if error.errno().is_some() => return Ok(None),
        Err(error) => return Err(error),
    };
    if route.kind != RouteKind::Unicast || route.encapsulates {
        return Ok(None);
    }
    Ok(route.oif.map(|link| Way {
        link,
        next: route.gateway.unwrap_or(far_end),
        mtu: route.mtu,
    }))
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
