//! The TUN of probes, and the routes into it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroUsize;

use anyhow::{Context as _, Result};

use super::Plan;
use super::plan::Apart;
use crate::io::netlink::{Netlink, ProbeRoute};
use crate::io::sysctl::Sysctl;
use crate::io::tun::{Offloads, Queue, TunDevice};
use crate::io::undo::Undo;

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

    fn remove(&mut self, route: ProbeRoute, undo: &mut Undo) -> Result<()> {
        undo.remove_probe_route(self.index, route)
            .with_context(|| format!("vip {}: cannot remove the route of its probes", route.vip))?;
        self.routes.remove(&route);
        Ok(())
    }
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
