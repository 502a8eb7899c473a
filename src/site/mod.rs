//! A site: a configuration, and what this host says of the ways to its backends: by which device, from which
//! address, with which MTU. Both together are the snapshot that packets are forwarded by. No threads.

pub mod explain;
#[cfg(test)]
pub(crate) mod testing;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;

use anyhow::{Context as _, Result, bail};
use log::{debug, warn};

use crate::config::Config;
use crate::director::{Health, Roster, Snapshot, Vip, VipIndex, VipSpec};
use crate::io::netlink::{Link, Netlink, NetlinkError, Route, RouteQuery};
use crate::packet::{Encap, EncapKind, FamilyMismatch, SourceRule};
use crate::text::Plain;

/// More objects than this are counted in the log, not named.
pub(crate) const NAMED: usize = 8;

/// The smallest MTU of an IPv6 link (RFC 8200 §5).
pub(crate) const SMALLEST_IPV6_MTU: u32 = 1280;

/// The largest MTU that the TUN driver takes (`tun_setup`, linux/drivers/net/tun.c).
const LONGEST_TUN_MTU: u32 = 65_535;

/// The MTU to assume where no backend has a route yet: Ethernet's.
const ETHERNET_MTU: u32 = 1500;

/// For [`Paths::snapshot`], where nothing is measured.
#[must_use]
pub const fn taken_for_healthy(_: &VipSpec, _: IpAddr) -> Health {
    Health::Healthy
}

/// The way to one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Path {
    /// Where the outer source of its tunnels comes from.
    source: SourceRule,
    /// The address that this host has towards it; `None` while there is no route.
    own: Option<IpAddr>,
    /// Index of the device; `None` while there is no route.
    link: Option<u32>,
    /// Bytes that an outer packet may have; `None` while there is no route.
    mtu: Option<u32>,
}

/// The ways to all backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// By address of the backend.
    paths: BTreeMap<IpAddr, Path>,
    /// The host's devices, by index.
    links: BTreeMap<u32, Link>,
    /// The host's addresses that others can answer to, each with the index of its device.
    addresses: Vec<(u32, IpAddr)>,
}

impl Paths {
    /// Asks the kernel for the way to every backend of every VIP. A backend without a route is
    /// warned about, not refused: the route may come later. Needs no privileges.
    ///
    /// # Errors
    /// A route that leads back into the TUN; a kernel that does not answer.
    pub fn resolve(config: &Config, netlink: &mut Netlink) -> Result<Self> {
        let mut paths = Self::looked_up(netlink)?;
        paths.complete(config, netlink)?;
        warn_of_no_route(&paths.paths);
        Ok(paths)
    }

    /// The host's devices, and no way yet.
    fn looked_up(netlink: &mut Netlink) -> Result<Self> {
        let links = netlink.links()?;
        let addresses = netlink.addresses()?.into_iter();
        let addresses = addresses.map(|held| (held.link, held.net.addr()));
        Ok(Self {
            paths: BTreeMap::new(),
            links: links.into_iter().map(|link| (link.index, link)).collect(),
            addresses: addresses
                .filter(|(_, address)| is_reachable(*address))
                .collect(),
        })
    }

    /// Asks for the ways to backends of `config` that are not known yet.
    ///
    /// # Errors
    /// As of [`resolve`](Self::resolve).
    pub fn complete(&mut self, config: &Config, netlink: &mut Netlink) -> Result<()> {
        for backend in config.vips.iter().flat_map(|vip| &vip.backends) {
            if let Entry::Vacant(entry) = self.paths.entry(backend.address) {
                entry.insert(resolve(backend.address, config, &self.links, netlink)?);
            }
        }
        Ok(())
    }

    /// Asks for all ways again. One that cannot be used now, because it leads back into the TUN, stays what it
    /// was, and is told.
    ///
    /// # Errors
    /// A kernel that does not answer.
    pub fn again(&self, config: &Config, netlink: &mut Netlink) -> Result<(Self, Vec<String>)> {
        let mut next = Self::looked_up(netlink)?;
        let mut unusable = Vec::new();
        for backend in config.vips.iter().flat_map(|vip| &vip.backends) {
            let Entry::Vacant(entry) = next.paths.entry(backend.address) else {
                continue;
            };
            let found = resolve(backend.address, config, &next.links, netlink);
            let path = match (found, self.paths.get(&backend.address)) {
                (Ok(path), _) => path,
                (Err(error), Some(known)) => {
                    unusable.push(format!("{error:#}"));
                    *known
                }
                (Err(error), None) => return Err(error),
            };
            entry.insert(path);
        }
        Ok((next, unusable))
    }

    /// What is different of the ways in `next`, one line for each backend that has one in both.
    #[must_use]
    pub fn differences(&self, next: &Self) -> Vec<(IpAddr, String)> {
        let both = self.paths.iter().filter_map(|(backend, before)| {
            let after = next.paths.get(backend)?;
            let (old, new) = (self.way(before), next.way(after));
            (old != new).then(|| (*backend, format!("{new}, not {old} any more")))
        });
        both.collect()
    }

    /// In a few words.
    fn way(&self, path: &Path) -> String {
        let device = path.link.and_then(|index| self.links.get(&index));
        let (Some(device), Some(mtu)) = (device, path.mtu) else {
            return "no route".to_owned();
        };
        let source = match path.source {
            SourceRule::Fixed(source) if !source.is_unspecified() => {
                format!(", outer source {source}")
            }
            SourceRule::Fixed(_) | SourceRule::Entropy(_) => String::new(),
        };
        format!("by {}, MTU {mtu}{source}", Plain(&device.name))
    }

    /// The way to a backend in a few words: device, MTU, outer source; or that there is none.
    #[must_use]
    pub fn described(&self, backend: IpAddr) -> Option<String> {
        self.paths.get(&backend).map(|path| self.way(path))
    }

    /// The name of the device by which packets for a backend leave; `None` while it has no route.
    #[must_use]
    pub fn device(&self, backend: IpAddr) -> Option<&str> {
        let link = self.paths.get(&backend)?.link?;
        Some(&self.links.get(&link)?.name)
    }

    /// The names of the devices by which packets leave for backends.
    #[must_use]
    pub fn devices(&self) -> BTreeSet<&str> {
        let links: BTreeSet<_> = self.paths.values().filter_map(|path| path.link).collect();
        let named = links.into_iter().filter_map(|link| self.links.get(&link));
        named.map(|link| link.name.as_str()).collect()
    }

    /// Where the outer source of its tunnels comes from.
    #[must_use]
    pub fn source(&self, backend: IpAddr) -> Option<SourceRule> {
        Some(self.paths.get(&backend)?.source)
    }

    /// The address of this host by which it can itself reach a VIP through the tunnel to a backend, and that the
    /// backend can answer to: that of the route to it, or, where the VIP is of the other family, one of the
    /// same device, else of any. `None` where there is none.
    #[must_use]
    pub fn inner_source(&self, vip: IpAddr, backend: IpAddr) -> Option<IpAddr> {
        let path = self.paths.get(&backend)?;
        if vip.is_ipv4() == backend.is_ipv4() {
            return path.own;
        }
        let of_family = || {
            self.addresses
                .iter()
                .filter(|(_, own)| own.is_ipv4() == vip.is_ipv4())
        };
        let there = of_family().find(|(link, _)| Some(*link) == path.link);
        there.or_else(|| of_family().next()).map(|(_, own)| *own)
    }

    /// The ways as the configuration alone has them: no backend has a route, and an outer source
    /// that is the kernel's choice stays the unspecified address. The same on every machine.
    #[must_use]
    pub fn without_routes(config: &Config) -> Self {
        let backends = config.vips.iter().flat_map(|vip| &vip.backends);
        let path = |backend: IpAddr| Path {
            source: source_without_route(backend, config),
            own: None,
            link: None,
            mtu: None,
        };
        Self {
            paths: backends
                .map(|backend| (backend.address, path(backend.address)))
                .collect(),
            links: BTreeMap::new(),
            addresses: Vec::new(),
        }
    }

    /// What the packet path of `config` reads, with tunnels along these ways; it follows the last
    /// snapshot of `roster`. `health` tells what was measured of a backend of a VIP.
    ///
    /// # Errors
    /// What validation of the configuration would have refused.
    pub fn snapshot(
        &self,
        config: &Config,
        roster: &mut Roster,
        health: impl Fn(&VipSpec, IpAddr) -> Health,
    ) -> Result<Snapshot> {
        let tunnel = |vip: &VipSpec, backend| self.tunnel(config, vip, backend);
        let snapshot = roster.build(&config.plan(), health, tunnel)?;
        for vip in snapshot.vips() {
            self.configure_mtus(&snapshot, vip);
        }
        Ok(snapshot)
    }

    /// As [`snapshot`](Self::snapshot), where the last one was of the same VIPs and backends, and of nothing
    /// but these `changed` VIPs the backends' weights, states, health or ways are different. At their cost.
    ///
    /// # Errors
    /// What validation of the configuration would have refused.
    pub fn refreshed(
        &self,
        config: &Config,
        roster: &mut Roster,
        changed: &[VipIndex],
        health: impl Fn(&VipSpec, IpAddr) -> Health,
    ) -> Result<Snapshot> {
        let tunnel = |vip: &VipSpec, backend| self.tunnel(config, vip, backend);
        let snapshot = roster.refresh(&config.plan(), changed, health, tunnel)?;
        for &index in changed {
            self.configure_mtus(&snapshot, snapshot.vip(index));
        }
        Ok(snapshot)
    }

    fn tunnel(
        &self,
        config: &Config,
        vip: &VipSpec,
        backend: IpAddr,
    ) -> Result<Encap, FamilyMismatch> {
        let source = self.paths[&backend].source;
        Encap::new(vip.encap, source, backend, config.director.encap.ttl)
    }

    fn configure_mtus(&self, snapshot: &Snapshot, vip: &Vip) {
        for &index in vip.backends() {
            let mtu = snapshot
                .backend(index)
                .and_then(|backend| self.mtu(backend.address));
            let mtus = snapshot.path_mtus();
            mtus.configure(index, mtu.and_then(NonZeroU32::new));
        }
    }

    /// The longest packet in bytes that comes in by a device of this host, so that the kernel lets each pass
    /// into a TUN with that MTU.
    #[must_use]
    pub fn longest_packet(&self, tun: &str) -> u32 {
        let clients = |link: &&Link| link.up && !link.loopback && link.name != tun;
        let mtus = self.links.values().filter(clients).map(|link| link.mtu);
        mtus.fold(ETHERNET_MTU, u32::max).min(LONGEST_TUN_MTU)
    }

    /// For every VIP address the largest packet that fits the tunnels to all of its backends: the smallest
    /// path MTU less the outer header.
    #[must_use]
    pub fn inner_mtus(&self, config: &Config) -> BTreeMap<IpAddr, u32> {
        let mut mtus = BTreeMap::new();
        for vip in &config.vips {
            for backend in &vip.backends {
                let inner = self.room(vip, backend.address);
                let smallest = mtus.entry(vip.address).or_insert(inner);
                *smallest = inner.min(*smallest);
            }
        }
        mtus
    }

    /// The largest packet in bytes that fits the tunnel to one backend of a VIP.
    #[must_use]
    pub fn room(&self, vip: &VipSpec, backend: IpAddr) -> u32 {
        let mtu = self.mtu(backend).unwrap_or(ETHERNET_MTU);
        mtu.saturating_sub(overhead(vip.encap, backend))
    }

    /// Bytes that an outer packet to a backend may have; `None` while it has no route.
    #[must_use]
    pub fn mtu(&self, backend: IpAddr) -> Option<u32> {
        self.paths.get(&backend)?.mtu
    }

    /// With one more device that is up and that no backend is reached by.
    #[cfg(test)]
    pub(crate) fn with_device(mut self, mtu: u32) -> Self {
        let device = Link {
            mtu,
            up: true,
            ..Link::default()
        };
        self.links.insert(device.index, device);
        self
    }

    /// The devices that packets for backends leave by, and backends' answers may come in by.
    pub(crate) fn links(&self) -> impl Iterator<Item = &Link> {
        let used: BTreeSet<_> = self.paths.values().filter_map(|path| path.link).collect();
        used.into_iter().filter_map(|index| self.links.get(&index))
    }
}

/// Whether an address means this host beyond its own links.
fn is_reachable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

fn overhead(encap: EncapKind, backend: IpAddr) -> u32 {
    u32::try_from(encap.overhead(&backend)).unwrap_or(u32::MAX)
}

/// `links` are all devices of the host: listing them for each backend would be quadratic.
fn resolve(
    backend: IpAddr,
    config: &Config,
    links: &BTreeMap<u32, Link>,
    netlink: &mut Netlink,
) -> Result<Path> {
    let rule = config.director.encap.source.rule_for(backend);
    let route = route_to(backend, netlink).with_context(|| format!("backend {backend}"))?;
    let Some(route) = route else {
        return Ok(Path {
            source: source_without_route(backend, config),
            own: None,
            link: None,
            mtu: None,
        });
    };
    let link = route.oif.and_then(|index| links.get(&index));
    let tun = &config.director.tun;
    if link.is_some_and(|link| link.name == *tun) {
        bail!(
            "backend {backend}: its route leads into {tun}, so its packets would come back; \
             add a route to it by another device: ip route add {backend} via GATEWAY"
        );
    }
    let mtu = path_mtu(backend, &route, link, netlink);
    let device = link.map_or("no device", |link| &link.name);
    debug!(
        "backend {backend}: by {}, path MTU {}",
        Plain(device),
        mtu.unwrap_or_default()
    );
    let preferred = route.preferred_source.map(SourceRule::Fixed);
    Ok(Path {
        source: rule
            .or(preferred)
            .unwrap_or_else(|| chosen_by_kernel(backend)),
        mtu,
        own: route.preferred_source,
        link: link.map(|link| link.index),
    })
}

/// One line each for a few backends, and one for all further ones: without a default route it may
/// be every one of thousands.
fn warn_of_no_route(paths: &BTreeMap<IpAddr, Path>) {
    let stranded = || paths.iter().filter(|(_, path)| path.mtu.is_none());
    for (backend, _) in stranded().take(NAMED) {
        warn!("backend {backend}: no route; its packets count as send_failed until there is one");
    }
    let further = stranded().skip(NAMED).count();
    if further > 0 {
        warn!("{further} more backends have no route");
    }
}

fn source_without_route(backend: IpAddr, config: &Config) -> SourceRule {
    let rule = config.director.encap.source.rule_for(backend);
    rule.unwrap_or_else(|| chosen_by_kernel(backend))
}

/// The unspecified address, which the raw socket replaces by one of the device that the packet
/// leaves by (raw(7)).
fn chosen_by_kernel(backend: IpAddr) -> SourceRule {
    SourceRule::Fixed(match backend {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    })
}

/// The MTU of the way to a backend: the route's own, else the device's. One that the kernel learnt may be
/// the work of a forged ICMP error.
fn path_mtu(
    backend: IpAddr,
    route: &Route,
    link: Option<&Link>,
    netlink: &mut Netlink,
) -> Option<u32> {
    let limits = limits(backend, route, link, netlink);
    limits.route.or(limits.device)
}

/// Which packets to a backend the kernel refuses as too long, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MtuLimits {
    /// The device's MTU.
    pub(crate) device: Option<u32>,
    /// The route's own, set by hand.
    pub(crate) route: Option<u32>,
    /// A smaller one that the kernel learnt by path MTU discovery.
    pub(crate) learnt: Option<u32>,
}

/// `None` without a route.
pub(crate) fn limits_to(
    backend: IpAddr,
    netlink: &mut Netlink,
) -> Result<Option<MtuLimits>, NetlinkError> {
    let Some(route) = route_to(backend, netlink)? else {
        return Ok(None);
    };
    let links = netlink.links()?;
    let link = links.iter().find(|link| Some(link.index) == route.oif);
    Ok(Some(limits(backend, &route, link, netlink)))
}

fn limits(backend: IpAddr, route: &Route, link: Option<&Link>, netlink: &mut Netlink) -> MtuLimits {
    let device = link.map(|link| link.mtu);
    let own = match route.mtu {
        None => None,
        // A kernel that cannot tell (before Linux 4.13) has one for both.
        Some(mtu) => netlink.configured_mtu(backend).unwrap_or(Some(mtu)),
    };
    let configured = own.or(device);
    let is_smaller = |mtu: &u32| configured.is_none_or(|configured| *mtu < configured);
    MtuLimits {
        device,
        route: own,
        learnt: route.mtu.filter(is_smaller),
    }
}

fn route_to(backend: IpAddr, netlink: &mut Netlink) -> Result<Option<Route>, NetlinkError> {
    const NO_WAY: [i32; 4] = [
        libc::ENETUNREACH,
        libc::EHOSTUNREACH,
        libc::EACCES,
        libc::EINVAL,
    ];
    match netlink.route_to(backend, RouteQuery::default()) {
        Ok(route) => Ok(Some(route)),
        Err(error) if error.errno().is_some_and(|errno| NO_WAY.contains(&errno)) => Ok(None),
        Err(error) => Err(error),
    }
}
