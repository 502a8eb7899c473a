//! The VIPs' routes into the TUN, and the MTU of each: what brings packets to the workers; and behind each,
//! for when the process is killed, a route that answers "unreachable".
//!
//! The kernel drops the route into a TUN with its device. Without another one a host that forwards would
//! then send packets for the VIP by its default route, back to the router that sent them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use log::{debug, warn};

use super::{NAMED, SMALLEST_IPV6_MTU};
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
    guards: Guards,
}

/// The VIPs with an unreachable route behind that into the TUN.
#[derive(Debug, Default)]
pub(super) struct Guards(BTreeSet<IpAddr>);

impl Guards {
    /// Makes packets for the VIPs of `wanted` unreachable where there is no route into the TUN, before this
    /// host forwards any. Where the kernel refuses, that is a warning: the VIP is served all the same.
    pub(super) fn add(&mut self, wanted: &Mtus, undo: &mut Undo) {
        let mut refused = Vec::new();
        for &vip in wanted.keys() {
            if self.0.contains(&vip) {
                continue;
            }
            match undo.add_unreachable(vip.into()) {
                Ok(()) => {
                    self.0.insert(vip);
                }
                Err(error) => refused.push((vip, error)),
            }
        }
        for (vip, error) in refused.iter().take(NAMED) {
            warn!(
                "vip {vip}: {error}; should this process be killed, packets for it may circle between \
                 this host and its router"
            );
        }
        if refused.len() > NAMED {
            warn!("the same for {} more VIPs", refused.len() - NAMED);
        }
    }

    /// Removes those of other VIPs than the `wanted` ones.
    fn retain(&mut self, wanted: &Mtus, undo: &mut Undo) -> Result<()> {
        let gone = self.0.iter().copied();
        let gone: Vec<_> = gone.filter(|vip| !wanted.contains_key(vip)).collect();
        for vip in gone {
            undo.remove_unreachable(vip.into())
                .with_context(|| format!("vip {vip}: cannot remove its unreachable route"))?;
            self.0.remove(&vip);
        }
        Ok(())
    }
}

impl Routes {
    /// No routes yet into the device of this name and index.
    pub(super) const fn new(tun: String, index: u32, guards: Guards) -> Self {
        Self {
            tun,
            index,
            mtus: Mtus::new(),
            guards,
        }
    }

    /// Makes the VIPs of `wanted` unreachable without a route into the TUN, as [`Guards::add`] does.
    pub(super) fn guard(&mut self, wanted: &Mtus, undo: &mut Undo) {
        self.guards.add(wanted, undo);
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
        self.prepare_device(wanted, undo)?;
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
        self.guards.retain(wanted, undo)?;
        for (&vip, &mtu) in wanted {
            self.lead(vip, mtu, undo)
                .with_context(|| format!("vip {vip}: cannot route it into {}", self.tun))?;
            self.mtus.insert(vip, mtu);
        }
        Ok(())
    }

    /// What the device itself needs: IPv6, which some hosts switch off for devices to come; and that this
    /// host forwards what comes out of it, answers to echo requests, where it does not for all devices.
    fn prepare_device(&self, wanted: &Mtus, undo: &mut Undo) -> Result<()> {
        if wanted.keys().any(IpAddr::is_ipv6) {
            undo.set_sysctl(Sysctl::ipv6_conf(&self.tun, "disable_ipv6")?, 0)?;
            let forward = Sysctl::ipv6_conf(&self.tun, "force_forwarding")?;
            // Before Linux 6.17 there is no such setting, and all devices forward or none does.
            if Sysctl::ipv6_forward().read()? == 0 && forward.read().is_ok() {
                undo.set_sysctl(forward, 1)?;
            }
        }
        if wanted.keys().any(IpAddr::is_ipv4) {
            undo.set_sysctl(Sysctl::ipv4_conf(&self.tun, "forwarding")?, 1)?;
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
