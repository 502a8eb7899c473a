//! The VIPs' routes into the TUN, and the MTU of each: what brings packets to the workers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use log::debug;

use super::SMALLEST_IPV6_MTU;
use crate::io::netlink::Netlink;
use crate::io::sysctl::Sysctl;
use crate::io::undo::Undo;

/// The smallest MTU of an IPv4 link (RFC 791 §3.2).
const SMALLEST_IPV4_MTU: u32 = 68;

/// Per VIP address the largest packet that fits the tunnels to its backends, in bytes.
pub(super) type Mtus = BTreeMap<IpAddr, u32>;

/// The TUN and the routes into it.
#[derive(Debug)]
pub(super) struct Routes {
    tun: String,
    index: u32,
    mtus: Mtus,
}

impl Routes {
    /// No routes yet into the device of this name and index.
    pub(super) const fn new(tun: String, index: u32) -> Self {
        Self {
            tun,
            index,
            mtus: Mtus::new(),
        }
    }

    /// Of the TUN, in bytes.
    pub(super) fn device_mtu(&self) -> u32 {
        largest(&self.mtus)
    }

    /// A host route for every VIP address of `wanted` into the TUN, with the MTU of its own tunnels:
    /// the kernel tells clients that, not the device's. Routes of other VIPs go.
    ///
    /// # Errors
    /// The kernel's refusal of a change; those before it are made.
    pub(super) fn follow(&mut self, wanted: &Mtus, undo: &mut Undo) -> Result<()> {
        if wanted.keys().any(IpAddr::is_ipv6) {
            // Some hosts switch IPv6 off for devices to come; a route into this one needs it.
            undo.set_sysctl(Sysctl::ipv6_conf(&self.tun, "disable_ipv6")?, 0)?;
        }
        let gone: Vec<_> = self
            .mtus
            .keys()
            .copied()
            .filter(|vip| !wanted.contains_key(vip))
            .collect();
        for vip in gone {
            undo.remove_route(self.index, vip.into())
                .with_context(|| format!("vip {vip}: cannot remove its route"))?;
            self.mtus.remove(&vip);
        }
        for (&vip, &mtu) in wanted {
            self.lead(vip, mtu, undo)
                .with_context(|| format!("vip {vip}: cannot route it into {}", self.tun))?;
            self.mtus.insert(vip, mtu);
        }
        Ok(())
    }

    fn lead(&self, vip: IpAddr, mtu: u32, undo: &mut Undo) -> Result<()> {
        let net = IpNet::from(vip);
        debug!("vip {vip}: routed into {}, MTU {mtu}", self.tun);
        match self.mtus.get(&vip) {
            None => undo.add_route(self.index, &self.tun, net, Some(mtu))?,
            Some(&before) if before != mtu => undo.set_route_mtu(self.index, net, mtu)?,
            Some(_) => {}
        }
        Ok(())
    }

    /// Gives the device this MTU, in bytes.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn set_device_mtu(&self, mtu: u32, netlink: &mut Netlink) -> Result<()> {
        netlink
            .set_mtu(self.index, mtu)
            .with_context(|| format!("cannot set the MTU of {} to {mtu}", self.tun))
    }
}

/// The MTU of the TUN: that of the VIP that allows the largest packets.
///
/// # Errors
/// A VIP is left with less than its address family needs.
pub(super) fn device_mtu(mtus: &Mtus) -> Result<u32> {
    for (vip, &mtu) in mtus {
        let smallest = match vip {
            IpAddr::V4(_) => SMALLEST_IPV4_MTU,
            IpAddr::V6(_) => SMALLEST_IPV6_MTU,
        };
        if mtu < smallest {
            bail!(
                "vip {vip}: the path to a backend leaves {mtu} bytes for a packet, less than the \
                 {smallest} that its address family needs; raise the MTU of the device towards it"
            );
        }
    }
    Ok(largest(mtus))
}

fn largest(mtus: &Mtus) -> u32 {
    mtus.values().max().copied().unwrap_or(SMALLEST_IPV6_MTU)
}
