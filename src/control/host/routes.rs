//! The VIPs' routes into the TUN and its MTU: what brings packets to the workers; and behind each route,
//! for when the process is killed, one that answers "unreachable".
//!
//! The TUN takes packets as long as the host's devices do. What is too long for a tunnel is the workers'
//! business: an answer of the kernel's would come from an address of this host, which the client's network may filter.
//!
//! The kernel drops the route into a TUN with its device. Without another one a host that forwards would
//! then send packets for the VIP by its default route, back to the router that sent them.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use log::{debug, warn};

use crate::config::Config;
use crate::io::netlink::Netlink;
use crate::io::sysctl::Sysctl;
use crate::io::undo::Undo;
use crate::site::{NAMED, Paths, SMALLEST_IPV6_MTU};

/// The smallest MTU of an IPv4 link (RFC 791 §3.2).
const SMALLEST_IPV4_MTU: u32 = 68;

/// What is to lead into the TUN.
#[derive(Debug)]
pub struct Wanted {
    vips: BTreeSet<IpAddr>,
    /// Of the TUN, in bytes.
    pub mtu: u32,
}

impl Wanted {
    /// All VIPs of `config`.
    ///
    /// # Errors
    /// A VIP is left with less than its address family needs.
    pub fn new(config: &Config, paths: &Paths) -> Result<Self> {
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

    /// Whether it is one of the VIPs.
    pub(super) fn has(&self, vip: IpAddr) -> bool {
        self.vips.contains(&vip)
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
    pub(super) fn retain(&mut self, wanted: &Wanted, undo: &mut Undo) -> Result<()> {
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
    pub(super) const fn new(tun: String, index: u32, mtu: u32) -> Self {
        Self {
            tun,
            index,
            mtu,
            vips: BTreeSet::new(),
        }
    }

    /// Of the TUN, in bytes.
    pub(super) const fn device_mtu(&self) -> u32 {
        self.mtu
    }

    /// The device is up and has the MTU of `wanted`, and every VIP address of it a host route into the device.
    /// Routes of other VIPs go. Returns what others had changed and is so again.
    ///
    /// # Errors
    /// The kernel's refusal of a change; those before it are made.
    pub(super) fn lead(
        &mut self,
        wanted: &Wanted,
        netlink: &mut Netlink,
        undo: &mut Undo,
    ) -> Result<Vec<String>> {
        let mut restored = self.restore_device(netlink)?;
        self.set_mtu(wanted.mtu, netlink)?;
        self.prepare_device(wanted, undo)?;
        restored.extend(self.restore_routes(wanted, netlink)?);
        self.follow(wanted, undo)?;
        Ok(restored)
    }

    /// Gives the device its state and MTU back.
    fn restore_device(&self, netlink: &mut Netlink) -> Result<Vec<String>> {
        let tun = &self.tun;
        let mut restored = Vec::new();
        let Some(link) = netlink.link_at(self.index)? else {
            return Ok(restored); // it was deleted: its workers end, and the director with them
        };
        if !link.up {
            let up = netlink.set_up(self.index);
            up.with_context(|| format!("cannot set {tun} up again"))?;
            restored.push(format!("{tun} had been set down, and is up again"));
        }
        if link.mtu != self.mtu {
            self.write_mtu(self.mtu, netlink)?;
            let mtu = self.mtu;
            restored.push(format!("{tun} had MTU {}, and has {mtu} again", link.mtu));
        }
        Ok(restored)
    }

    /// Adds the routes that were there and are gone.
    fn restore_routes(&self, wanted: &Wanted, netlink: &mut Netlink) -> Result<Vec<String>> {
        if self.vips.is_empty() {
            return Ok(Vec::new());
        }
        let there: HashSet<_> = netlink.routes_through(self.index)?.into_iter().collect();
        let gone = self.vips.intersection(&wanted.vips).copied();
        let gone: Vec<_> = gone
            .filter(|vip| !there.contains(&IpNet::from(*vip)))
            .collect();
        for &vip in &gone {
            let added = netlink.add_route(vip.into(), self.index);
            added.with_context(|| format!("vip {vip}: cannot route it into {} again", self.tun))?;
        }
        let told = gone.iter().take(NAMED);
        let told = told.map(|vip| {
            format!(
                "the route of vip {vip} into {} had been removed, and is there again",
                self.tun
            )
        });
        let more = gone.len().saturating_sub(NAMED);
        let more = (more > 0).then(|| format!("so are the routes of {more} more VIPs"));
        Ok(told.chain(more).collect())
    }

    /// A host route for every VIP address of `wanted`.
    fn follow(&mut self, wanted: &Wanted, undo: &mut Undo) -> Result<()> {
        let gone = self.vips.difference(&wanted.vips).copied();
        for vip in gone.collect::<Vec<_>>() {
            undo.remove_route(self.index, vip.into())
                .with_context(|| format!("vip {vip}: cannot remove its route"))?;
            self.vips.remove(&vip);
        }
        let new = wanted.vips.difference(&self.vips).copied();
        for vip in new.collect::<Vec<_>>() {
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

    fn set_mtu(&mut self, mtu: u32, netlink: &mut Netlink) -> Result<()> {
        if mtu != self.mtu {
            self.write_mtu(mtu, netlink)?;
            self.mtu = mtu;
        }
        Ok(())
    }

    fn write_mtu(&self, mtu: u32, netlink: &mut Netlink) -> Result<()> {
        netlink
            .set_mtu(self.index, mtu)
            .with_context(|| format!("cannot set the MTU of {} to {mtu}", self.tun))
    }
}
