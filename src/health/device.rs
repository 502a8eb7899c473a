//! The TUN of probes, and the routes into it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroUsize;

use anyhow::{Context as _, Result};
use ipnet::IpNet;

use super::Plan;
use super::plan::Apart;
use crate::io::netlink::{Netlink, NetlinkError, ProbeRoute};
use crate::io::sysctl::Sysctl;
use crate::io::tun::{Offloads, Queue, TunDevice};
use crate::io::undo::Undo;
use crate::site::NAMED;

/// The longest name of a device, in bytes (IFNAMSIZ, less the end).
const LONGEST_NAME: usize = 15;

/// The device of probes beside the data TUN of that name.
pub(super) fn name(data_tun: &str) -> String {
    let mut end = data_tun.len().min(LONGEST_NAME - 1);
    while !data_tun.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}p", &data_tun[..end])
}

#[derive(Debug)]
pub(super) struct ProbeDevice {
    name: String,
    index: u32,
    mtu: u32,
    apart: Apart,
    routes: BTreeSet<ProbeRoute>,
    takes_v6: bool,
}

impl ProbeDevice {
    /// Opens the device, without routes.
    pub(super) fn open(
        name: &str,
        apart: Apart,
        mtu: u32,
        netlink: &mut Netlink,
        undo: &mut Undo,
    ) -> Result<(Self, Queue)> {
        let opened = TunDevice::open(name, NonZeroUsize::MIN, Offloads::Never, mtu, undo);
        let mut opened = opened.context("cannot open the device of health checks")?;
        netlink.set_queue_length(opened.index, QUEUE_LENGTH)?;
        let queue = opened.queues.pop().context("a TUN without a queue")?;
        let device = Self {
            name: opened.name,
            index: opened.index,
            mtu,
            apart,
            routes: BTreeSet::new(),
            takes_v6: false,
        };
        Ok((device, queue))
    }

    /// Its index.
    pub(super) const fn index(&self) -> u32 {
        self.index
    }

    /// Removes routes of VIPs that are not kept.
    pub(super) fn retain(
        &mut self,
        is_kept: impl Fn(IpAddr) -> bool,
        undo: &mut Undo,
    ) -> Result<()> {
        let gone = self
            .routes
            .iter()
            .copied()
            .filter(|route| !is_kept(route.vip));
        for route in gone.collect::<Vec<_>>() {
            self.remove(route, undo)?;
        }
        Ok(())
    }

    /// Has a route for each VIP of `plan`, and no other.
    pub(super) fn follow(
        &mut self,
        plan: &Plan,
        netlink: &mut Netlink,
        undo: &mut Undo,
    ) -> Result<()> {
        if plan.mtu != self.mtu {
            netlink.set_mtu(self.index, plan.mtu)?;
            self.mtu = plan.mtu;
        }
        let wanted: BTreeSet<_> = plan.routes(self.apart).collect();
        let gone: Vec<_> = self.routes.difference(&wanted).copied().collect();
        for route in gone {
            self.remove(route, undo)?;
        }
        let new: Vec<_> = wanted.difference(&self.routes).copied().collect();
        if !self.takes_v6 && new.iter().any(|route| route.vip.is_ipv6()) {
            undo.set_sysctl(Sysctl::ipv6_conf(&self.name, "disable_ipv6")?, 0)?;
            self.takes_v6 = true;
        }
        for route in new {
            undo.add_probe_route(self.index, &self.name, route)
                .with_context(|| {
                    format!(
                        "vip {}: cannot lead its probes into {}",
                        route.vip, self.name
                    )
                })?;
            self.routes.insert(route);
        }
        Ok(())
    }

    /// The device is up, and has the routes that it had. What was not so is told.
    pub(super) fn restore(&self, netlink: &mut Netlink) -> Result<Vec<String>> {
        let name = &self.name;
        let mut restored = Vec::new();
        let Some(link) = netlink.link_at(self.index)? else {
            return Ok(restored); // it was deleted: the thread ends, and what was measured last holds
        };
        if !link.up {
            let up = netlink.set_up(self.index);
            up.with_context(|| format!("cannot set {name} up again"))?;
            restored.push(format!("{name} had been set down, and is up again"));
        }
        let there = netlink.routes_through(self.index)?;
        for vip in self
            .routes
            .iter()
            .map(|route| route.vip)
            .collect::<BTreeSet<_>>()
        {
            let of_vip = || self.routes.iter().filter(move |route| route.vip == vip);
            let net = IpNet::from(vip);
            if there.iter().filter(|known| **known == net).count() >= of_vip().count() {
                continue;
            }
            for route in of_vip() {
                match netlink.add_probe_route(route, self.index) {
                    Ok(()) | Err(NetlinkError::Exists { .. }) => {}
                    Err(error) => {
                        return Err(error).with_context(|| {
                            format!("vip {vip}: cannot lead its probes into {name} again")
                        });
                    }
                }
            }
            restored.push(format!(
                "a route of vip {vip} into {name}, for its probes, had been removed, and is there again"
            ));
        }
        Ok(told(restored))
    }

    fn remove(&mut self, route: ProbeRoute, undo: &mut Undo) -> Result<()> {
        undo.remove_probe_route(self.index, route)
            .with_context(|| format!("vip {}: cannot remove the route of its probes", route.vip))?;
        self.routes.remove(&route);
        Ok(())
    }
}

/// The first lines, and how many more there are.
fn told(mut lines: Vec<String>) -> Vec<String> {
    let more = lines.len().saturating_sub(NAMED);
    lines.truncate(NAMED);
    lines.extend((more > 0).then(|| format!("so are the probes' routes of {more} more VIPs")));
    lines
}

/// Packets that the device holds: every probe in flight has one or two.
const QUEUE_LENGTH: u32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_fits_a_device() {
        for (data, expected) in [
            ("tunlb0", "tunlb0p"),
            ("fourteen-bytes", "fourteen-bytesp"),
            ("fifteen-bytes-x", "fifteen-bytes-p"),
            ("tunneln\u{e4}mei\u{e4}\u{e4}", "tunneln\u{e4}mei\u{e4}p"),
        ] {
            assert_eq!(name(data), expected);
            assert!(name(data).len() <= LONGEST_NAME);
        }
    }
}
