//! The way to each backend: by which device, from which address, with which MTU.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result, bail};
use log::warn;

use crate::config::{Config, EncapConfig, OuterSource};
use crate::io::netlink::{Link, Netlink, NetlinkError, Route, RouteQuery};
use crate::packet::Encap;

/// The MTU to assume where no backend has a route yet: Ethernet's.
const ETHERNET_MTU: u32 = 1500;

/// The way to one backend at start.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) encap: Encap,
    /// `None` while there is no route.
    pub(super) link: Option<Link>,
    /// Bytes that an outer packet may have; `None` while there is no route.
    mtu: Option<u32>,
}

/// The ways to all backends, by address.
#[derive(Debug)]
pub(super) struct Paths(BTreeMap<IpAddr, Path>);

impl Paths {
    /// Asks the kernel for the way to every backend of every VIP. A backend without a route is
    /// warned about, not refused: the route may come later.
    pub(super) fn resolve(config: &Config, netlink: &mut Netlink) -> Result<Self> {
        let mut paths = BTreeMap::new();
        for backend in config.vips.iter().flat_map(|vip| &vip.backends) {
            if let Entry::Vacant(entry) = paths.entry(backend.address) {
                entry.insert(resolve(backend.address, config, netlink)?);
            }
        }
        Ok(Self(paths))
    }

    /// The tunnel to a backend of the configuration that was resolved.
    pub(super) fn encap(&self, backend: IpAddr) -> Encap {
        self.0[&backend].encap.clone()
    }

    /// The largest packet that fits every tunnel: the smallest path MTU less the outer header, so
    /// that the kernel answers larger ones itself (RFC 1191).
    pub(super) fn inner_mtu(&self) -> u32 {
        self.0
            .values()
            .filter_map(Path::inner_mtu)
            .min()
            .unwrap_or(ETHERNET_MTU - 20)
    }

    /// The devices that packets for backends leave by, and backends' answers may come in by.
    pub(super) fn links(&self) -> BTreeMap<u32, &Link> {
        self.0
            .values()
            .filter_map(|path| path.link.as_ref())
            .map(|link| (link.index, link))
            .collect()
    }
}

impl Path {
    fn inner_mtu(&self) -> Option<u32> {
        let overhead = u32::try_from(self.encap.overhead()).ok()?;
        self.mtu.map(|mtu| mtu.saturating_sub(overhead))
    }
}

fn resolve(address: IpAddr, config: &Config, netlink: &mut Netlink) -> Result<Path> {
    let IpAddr::V4(backend) = address else {
        bail!("backend {address}: IPv6 is not supported yet");
    };
    let Some(route) = route_to(address, netlink)? else {
        warn!("backend {address}: no route; its packets count as send_failed until there is one");
        return Ok(Path {
            encap: encap(backend, None, &config.director.encap)?,
            link: None,
            mtu: None,
        });
    };
    let link = link_of(&route, netlink)?;
    let tun = &config.director.tun;
    if link.as_ref().is_some_and(|link| link.name == *tun) {
        bail!(
            "backend {address}: its route leads into {tun}, so its packets would come back; \
             add a route to it by another device: ip route add {address}/32 via GATEWAY"
        );
    }
    Ok(Path {
        encap: encap(backend, route.preferred_source, &config.director.encap)?,
        mtu: route.mtu.or(link.as_ref().map(|link| link.mtu)),
        link,
    })
}

fn route_to(address: IpAddr, netlink: &mut Netlink) -> Result<Option<Route>> {
    const NO_WAY: [i32; 4] = [
        libc::ENETUNREACH,
        libc::EHOSTUNREACH,
        libc::EACCES,
        libc::EINVAL,
    ];
    match netlink.route_to(address, RouteQuery::default()) {
        Ok(route) => Ok(Some(route)),
        Err(error) if error.errno().is_some_and(|errno| NO_WAY.contains(&errno)) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("backend {address}")),
    }
}

fn link_of(route: &Route, netlink: &mut Netlink) -> Result<Option<Link>, NetlinkError> {
    let links = netlink.links()?;
    Ok(links.into_iter().find(|link| Some(link.index) == route.oif))
}

/// The tunnel's outer header. Without a known source it says 0.0.0.0, which the raw socket
/// replaces by the address of the device that the packet leaves by (raw(7)).
fn encap(backend: Ipv4Addr, preferred: Option<IpAddr>, encap: &EncapConfig) -> Result<Encap> {
    let source = match (encap.source, preferred) {
        (OuterSource::Fixed(address), _) => Some(address),
        (OuterSource::Auto, preferred) => preferred,
    };
    let source = match source {
        Some(IpAddr::V4(source)) => source,
        None => Ipv4Addr::UNSPECIFIED,
        Some(IpAddr::V6(source)) => {
            bail!("backend {backend}: the outer source {source} is not an IPv4 address")
        }
    };
    Ok(Encap::ipip(source, backend, encap.ttl.get()))
}
