//! VIPs inside this host's own subnets: the machines there ask the segment for them, and the kernel does not
//! answer by itself. Makes it answer, or says that nothing does; never where another machine answers.

mod told;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use log::{info, warn};

use super::forwarding;
use super::preflight::HostSetup;
use crate::config::{Config, Neighbour};
use crate::io::netlink::{Netlink, ProxyNeighbour};
use crate::io::on_link::{self, Announcer, Missing, Question, Subnet, Subnets};
use crate::io::sysctl::Sysctl;
use crate::io::undo::Undo;
use crate::packet::Version;
use crate::packet::neighbour::MacAddress;
use crate::text::plain::Plain;
use told::{named, warn_of_mute, warn_of_others};

/// The entries that this director added.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    /// By VIP the index of the device that answers.
    claimed: BTreeMap<IpAddr, u32>,
    announcer: Announcer,
}

/// Refuses a device that is named and cannot answer, before anything is changed.
pub(super) fn refuse_unusable_device(config: &Config, netlink: &mut Netlink) -> Result<()> {
    let Neighbour::Device(name) = &config.director.neighbour else {
        return Ok(());
    };
    match netlink.link(name)? {
        None => bail!(
            "director.neighbour: there is no device {}; those there are: ip -br link",
            Plain(name)
        ),
        Some(link) if !link.arp || link.mac.is_none() => bail!(
            "director.neighbour: {} is not an Ethernet device, so no ARP or neighbour discovery \
             is spoken there",
            Plain(name)
        ),
        Some(_) => Ok(()),
    }
}

impl Neighbours {
    /// Answers for the VIPs that the configuration wants answered for, and announces them; no more for
    /// others. Tells the log of VIPs that nothing answers for, and of those that another machine has.
    /// Takes a second where there are new ones.
    ///
    /// # Errors
    /// The kernel's refusal of a change; those before it are made.
    pub(super) fn follow(
        &mut self,
        config: &Config,
        setup: HostSetup,
        undo: &mut Undo,
    ) -> Result<()> {
        let mut netlink = Netlink::open()?;
        let subnets = Subnets::read(&mut netlink)?;
        let entries: HashSet<_> = netlink.proxy_neighbours()?.into_iter().collect();
        let vips = neighbours(config, setup, &subnets);
        self.release(&vips, &entries, undo)?;
        let mut rest = vips;
        rest.retain(|vip| !self.claimed.contains_key(&vip.address));
        if let (Neighbour::Device(device), true) = (&config.director.neighbour, rest.is_empty()) {
            self.warn_of_no_effect(device);
        }
        let others = ask(&rest, &mut netlink)?;
        warn_of_others(&others, config, &mut netlink);
        rest.retain(|vip| !others.iter().any(|(other, _)| other.address == vip.address));
        let lacking = rest.into_iter().map(|vip| {
            let lacks = lacks(&vip, &entries);
            (vip, lacks)
        });
        let lacking: Vec<_> = lacking.filter(|(_, lacks)| !lacks.is_empty()).collect();
        let (to_claim, mute): (Vec<_>, Vec<_>) =
            lacking.into_iter().partition(|(vip, _)| vip.wanted);
        warn_of_mute(&mute, &config.director.neighbour);
        self.claim(to_claim, &config.director.tun, undo)
    }

    /// Announces nothing any more.
    pub(super) fn stop(&self) {
        for (vip, link) in &self.claimed {
            self.announcer.forget(*link, *vip);
        }
    }

    /// Answers no more for what is not wanted there, or was removed by others.
    fn release(
        &mut self,
        vips: &[Vip<'_>],
        entries: &HashSet<ProxyNeighbour>,
        undo: &mut Undo,
    ) -> Result<()> {
        let wanted: HashSet<_> = vips
            .iter()
            .filter(|vip| vip.wanted)
            .map(Vip::entry)
            .collect();
        let kept = wanted.intersection(entries).copied();
        let kept: HashSet<ProxyNeighbour> = kept.collect();
        let gone: Vec<_> = self
            .claimed
            .iter()
            .map(|(&address, &link)| ProxyNeighbour { link, address })
            .filter(|entry| !kept.contains(entry))
            .collect();
        for ProxyNeighbour { link, address } in gone {
            self.announcer.forget(link, address);
            undo.remove_neighbour(link, address)
                .with_context(|| format!("vip {address}: cannot stop answering for it"))?;
            self.claimed.remove(&address);
        }
        Ok(())
    }

    fn warn_of_no_effect(&self, device: &str) {
        if self.claimed.is_empty() {
            let device = Plain(device);
            warn!(
                "director.neighbour = \"{device}\" has no effect: no VIP is in a subnet of {device}"
            );
        }
    }

    /// Makes the kernel answer for VIPs, then announces them.
    fn claim(
        &mut self,
        vips: Vec<(Vip<'_>, Vec<Missing>)>,
        tun: &str,
        undo: &mut Undo,
    ) -> Result<()> {
        let mut by_device: BTreeMap<&str, Vec<(Vip<'_>, Vec<Missing>)>> = BTreeMap::new();
        for (vip, lacks) in vips {
            let device = vip.subnet.device.as_str();
            by_device.entry(device).or_default().push((vip, lacks));
        }
        let mut announced = Vec::new();
        for (device, vips) in by_device {
            for (vip, lacks) in &vips {
                prepare_device(vip, lacks, tun, undo)?;
            }
            let addresses: Vec<_> = vips.iter().map(|(vip, _)| vip.address).collect();
            let link = vips[0].0.subnet.link;
            undo.add_neighbours(link, device, &addresses)
                .with_context(|| format!("cannot answer for VIPs on {}", Plain(device)))?;
            self.claimed
                .extend(addresses.iter().map(|address| (*address, link)));
            info!("{}: answering for {}", Plain(device), named(&addresses));
            announced.extend(
                vips.iter()
                    .map(|(vip, _)| (vip.address, vip.subnet.clone())),
            );
        }
        if announced.is_empty() {
            return Ok(());
        }
        self.announcer
            .announce(announced)
            .context("cannot announce VIPs")
    }
}

/// A VIP in a subnet of this host.
#[derive(Debug, Clone, Copy)]
struct Vip<'a> {
    address: IpAddr,
    subnet: &'a Subnet,
    /// Whether the director is to answer for it.
    wanted: bool,
}

impl Vip<'_> {
    const fn entry(&self) -> ProxyNeighbour {
        ProxyNeighbour {
            link: self.subnet.link,
            address: self.address,
        }
    }
}

/// The VIPs that are in a subnet of this host; none where that is nothing to the director.
fn neighbours<'a>(config: &Config, setup: HostSetup, subnets: &'a Subnets) -> Vec<Vip<'a>> {
    let addresses: BTreeSet<_> = config.vips.iter().map(|vip| vip.address).collect();
    let in_subnet = |address: IpAddr| {
        let found = |subnet, wanted| Vip {
            address,
            subnet,
            wanted,
        };
        match &config.director.neighbour {
            Neighbour::Off => None,
            Neighbour::Auto => {
                let subnet = subnets.of(address)?;
                Some(found(subnet, setup == HostSetup::Apply))
            }
            Neighbour::Device(device) => match subnets.of_device(device, address) {
                Some(subnet) => Some(found(subnet, true)),
                None => subnets.of(address).map(|subnet| found(subnet, false)),
            },
        }
    };
    let vips = addresses.into_iter().filter_map(in_subnet);
    // What is inside this host has no neighbours.
    vips.filter(|vip| vip.subnet.device != config.director.tun)
        .collect()
}

/// Per VIP that other machines claim to have, their link-layer addresses.
fn ask<'a>(
    vips: &[Vip<'a>],
    netlink: &mut Netlink,
) -> Result<Vec<(Vip<'a>, BTreeSet<MacAddress>)>> {
    if vips.is_empty() {
        return Ok(Vec::new());
    }
    let own: Vec<_> = netlink
        .links()?
        .iter()
        .filter_map(|link| link.mac)
        .collect();
    let question = |vip: &Vip<'a>| Question {
        address: vip.address,
        subnet: vip.subnet,
    };
    let questions: Vec<_> = vips.iter().map(question).collect();
    let mut claims = on_link::ask(&questions, &own)
        .context("cannot ask whether other machines have the VIPs")?;
    let other = |vip: &Vip<'a>| Some((*vip, claims.remove(&vip.address)?));
    Ok(vips.iter().filter_map(other).collect())
}

/// What the kernel lacks to answer for a VIP, whose route leads into the TUN.
fn lacks(vip: &Vip<'_>, entries: &HashSet<ProxyNeighbour>) -> Vec<Missing> {
    let everywhere = ProxyNeighbour {
        link: 0,
        ..vip.entry()
    };
    let entry = entries.contains(&vip.entry()) || entries.contains(&everywhere);
    let setting = |device: &str, name| {
        let key = setting(vip.address, device, name);
        // One that is not there is off: IPv6 may be switched off as a whole.
        key.and_then(|key| key.read()).map_or(0, i64::from)
    };
    on_link::missing(vip.address, &vip.subnet.device, entry, setting)
}

fn setting(
    address: IpAddr,
    device: &str,
    name: &'static str,
) -> Result<Sysctl, crate::io::sysctl::SysctlError> {
    match address {
        IpAddr::V4(_) => Sysctl::ipv4_conf(device, name),
        IpAddr::V6(_) => Sysctl::ipv6_conf(device, name),
    }
}

/// Whatever entries need of their device; and no delay, which would cost each client's first packet up to
/// 0.8 s (`proxy_delay`, arp(7)).
fn prepare_device(vip: &Vip<'_>, lacks: &[Missing], tun: &str, undo: &mut Undo) -> Result<()> {
    let device = vip.subnet.device.as_str();
    for missing in lacks {
        match missing {
            Missing::Forwarding => {
                forwarding::turn_on_for_answers(version(vip.address), device, tun, undo)?;
            }
            Missing::ProxyNdp => undo.set_sysctl(Sysctl::ipv6_conf(device, "proxy_ndp")?, 1)?,
            Missing::Entry => {}
        }
    }
    let delay = match vip.address {
        IpAddr::V4(_) => Sysctl::ipv4_neigh(device, "proxy_delay")?,
        IpAddr::V6(_) => Sysctl::ipv6_neigh(device, "proxy_delay")?,
    };
    Ok(undo.set_sysctl(delay, 0)?)
}

const fn version(address: IpAddr) -> Version {
    match address {
        IpAddr::V4(_) => Version::V4,
        IpAddr::V6(_) => Version::V6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::netlink::{ConnectedSubnet, Link};

    fn subnets() -> Subnets {
        let link = |index: u8, name: &str| Link {
            index: u32::from(index),
            name: name.into(),
            up: true,
            arp: true,
            mac: Some(MacAddress([2, 0, 0, 0, 0, index])),
            ..Link::default()
        };
        let connected = |net: &str, link| ConnectedSubnet {
            net: net.parse().unwrap(),
            link,
            metric: 0,
        };
        let connected = vec![
            connected("10.0.0.0/24", 2),
            connected("10.0.1.0/24", 3),
            connected("10.0.2.0/24", 4),
            connected("2001:db8::/64", 3),
        ];
        let links = [link(2, "eth0"), link(3, "eth1"), link(4, "tunlb0")];
        Subnets::new(connected, &links, &[])
    }

    /// Three VIPs in subnets, of which one has two ports; one inside of the TUN's; one elsewhere.
    fn config(director: &str) -> Config {
        let vip = |service: &str| {
            format!("[[vip]]\n{service}\nbackend = [{{ address = \"10.0.9.11\" }}]\n")
        };
        let vips: String = [
            "address = \"10.0.0.100\"",
            "address = \"10.0.0.100\"\nport = 443",
            "address = \"10.0.1.100\"",
            "address = \"10.0.2.100\"",
            "address = \"2001:db8::100\"",
            "address = \"203.0.113.10\"",
        ]
        .into_iter()
        .map(vip)
        .collect();
        Config::parse("f", &format!("[director]\n{director}\n{vips}")).unwrap()
    }

    #[test]
    fn which_vips_are_neighbours() {
        let all = ["10.0.0.100 eth0", "10.0.1.100 eth1", "2001:db8::100 eth1"];
        let none: [&str; 0] = [];
        for (director, setup, wanted, others) in [
            ("", HostSetup::Apply, &all[..], &none[..]),
            ("", HostSetup::Warn, &none, &all),
            ("neighbour = \"off\"", HostSetup::Apply, &none, &none),
            (
                "neighbour = \"eth1\"",
                HostSetup::Warn,
                &all[1..],
                &all[..1],
            ),
            (
                "neighbour = \"eth1\"",
                HostSetup::Apply,
                &all[1..],
                &all[..1],
            ),
            ("neighbour = \"eth9\"", HostSetup::Apply, &none, &all),
        ] {
            let (config, subnets) = (config(director), subnets());
            let vips = neighbours(&config, setup, &subnets);
            let texts = |wanted| -> Vec<_> {
                let vips = vips.iter().filter(|vip| vip.wanted == wanted);
                vips.map(|vip| format!("{} {}", vip.address, vip.subnet.device))
                    .collect()
            };
            assert_eq!(texts(true), wanted, "{director:?} {setup:?}");
            assert_eq!(texts(false), others, "{director:?} {setup:?}");
        }
    }
}
