//! The VIPs' routes into the TUN and its MTU: what brings packets to the workers; and behind each route,
//! for when the process is killed, one that answers "unreachable".
//!
//! The TUN takes packets as long as the host's devices do. What is too long for a tunnel is the workers'
//! business: an answer of the kernel's would come from an address of this host, which the client's network may filter.
//!
//! The kernel drops the route into a TUN with its device. Without another one a host that forwards would
//! then send packets for the VIP by its default route, back to the router that sent them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use log::{debug, warn};

use super::{NAMED, Paths, SMALLEST_IPV6_MTU};
use crate::config::Config;
use crate::io::netlink::Netlink;
use crate::io::sysctl::Sysctl;
use crate::io::undo::Undo;

/// The smallest MTU of an IPv4 link (RFC 791 §3.2).
const SMALLEST_IPV4_MTU: u32 = 68;

/// What is to lead into the TUN.
#[derive(Debug)]
pub(super) struct Wanted {
    vips: BTreeSet<IpAddr>,
    /// Of the TUN, in bytes.
    pub(super) mtu: u32,
}

impl Wanted {
    /// All VIPs of `config`.
    ///
    /// # Errors
    /// A VIP is left with less than its address family needs.
    pub(super) fn new(config: &Config, paths: &Paths) -> Result<Self> {
        let rooms = paths.inner_mtus(config);
        for (vip, &room) in &rooms {
            let smallest = match vip {
                IpAddr::V4(_) => SMALLEST_IPV4_MTU,
                IpAddr::V6(_) => SMALLEST_IPV6_MTU,
            };
            if room < smallest {
                bail!(
                    "vip {vip}: the path to a backend leaves {room} bytes for a packet, less than the \
                     {smallest} that its address family needs; raise the MTU of the device towards it"
                );
            }
        }
        Ok(Self {
            vips: rooms.into_keys().collect(),
            mtu: paths.longest_packet(&config.director.tun),
        })
    }
}

/// The TUN and the routes into it.
#[derive(Debug)]
pub(super) struct Routes {
    tun: String,
    index: u32,
    /// Of the TUN, in bytes.
    mtu: u32,
    vips: BTreeSet<IpAddr>,
    guards: Guards,
}

/// The VIPs with an unreachable route behind that into the TUN.
#[derive(Debug, Default)]
pub(super) struct Guards(BTreeSet<IpAddr>);

impl Guards {
    /// Makes packets for the VIPs of `wanted` unreachable where there is no route into the TUN, before this
    /// host forwards any. Where the kernel refuses, that is a warning: the VIP is served all the same.
    pub(super) fn add(&mut self, wanted: &Wanted, undo: &mut Undo) {
        let mut refused = Vec::new();
        for &vip in &wanted.vips {
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
    fn retain(&mut self, wanted: &Wanted, undo: &mut Undo) -> Result<()> {
        let gone = self.0.iter().copied();
        let gone: Vec<_> = gone.filter(|vip| !wanted.vips.contains(vip)).collect();
        for vip in gone {
            undo.remove_unreachable(vip.into())
                .with_context(|| format!("vip {vip}: cannot remove its unreachable route"))?;
            self.0.remove(&vip);
        }
        Ok(())
    }
}

impl Routes {
    /// No routes yet into the device of this name, index and MTU.
    pub(super) const fn new(tun: String, index: u32, mtu: u32, guards: Guards) -> Self {
        Self {
            tun,
            index,
            mtu,
            vips: BTreeSet::new(),
            guards,
        }
    }

    /// Makes the VIPs of `wanted` unreachable without a route into the TUN, as [`Guards::add`] does.
    pub(super) fn guard(&mut self, wanted: &Wanted, undo: &mut Undo) {
        self.guards.add(wanted, undo);
    }

    /// Of the TUN, in bytes.
    pub(super) const fn device_mtu(&self) -> u32 {
        self.mtu
    }

    /// A host route for every VIP address of `wanted` into the TUN. Routes of other VIPs go.
    ///
    /// # Errors
    /// The kernel's refusal of a change; those before it are made.
    pub(super) fn follow(&mut self, wanted: &Wanted, undo: &mut Undo) -> Result<()> {
        self.prepare_device(wanted, undo)?;
        let gone: Vec<_> = self
            .vips
            .iter()
            .copied()
            .filter(|vip| !wanted.vips.contains(vip))
            .collect();
        for vip in gone {
            undo.remove_route(self.index, vip.into())
                .with_context(|| format!("vip {vip}: cannot remove its route"))?;
            self.vips.remove(&vip);
        }
        self.guards.retain(wanted, undo)?;
        for &vip in &wanted.vips {
            if self.vips.contains(&vip) {
                continue;
            }
            debug!("vip {vip}: routed into {}", self.tun);
            undo.add_route(self.index, &self.tun, IpNet::from(vip))
                .with_context(|| format!("vip {vip}: cannot route it into {}", self.tun))?;
            self.vips.insert(vip);
        }
        Ok(())
    }

    /// What the device itself needs: IPv6, which some hosts switch off for devices to come; and that this
    /// host forwards what comes out of it, answers to echo requests, where it does not for all devices.
    fn prepare_device(&self, wanted: &Wanted, undo: &mut Undo) -> Result<()> {
        if wanted.vips.iter().any(IpAddr::is_ipv6) {
            undo.set_sysctl(Sysctl::ipv6_conf(&self.tun, "disable_ipv6")?, 0)?;
            let forward = Sysctl::ipv6_conf(&self.tun, "force_forwarding")?;
            // Before Linux 6.17 there is no such setting, and all devices forward or none does.
            if Sysctl::ipv6_forward().read()? == 0 && forward.read().is_ok() {
                undo.set_sysctl(forward, 1)?;
            }
        }
        if wanted.vips.iter().any(IpAddr::is_ipv4) {
            undo.set_sysctl(Sysctl::ipv4_conf(&self.tun, "forwarding")?, 1)?;
        }
        Ok(())
    }

    /// Gives the device this MTU, in bytes.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn set_device_mtu(&mut self, mtu: u32, netlink: &mut Netlink) -> Result<()> {
        if mtu != self.mtu {
            netlink
                .set_mtu(self.index, mtu)
                .with_context(|| format!("cannot set the MTU of {} to {mtu}", self.tun))?;
            self.mtu = mtu;
        }
        Ok(())
    }
}
