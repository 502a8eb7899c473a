//! Facts about this machine are gathered, and what the tunnel lacks is set (`--setup`), each change into
//! the journal: at the start, and whenever `watch` finds that something else changed it.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::io::{
    netlink::{Link, Netlink, NetlinkError, RouteKind, RouteQuery},
    sysctl::{Sysctl, SysctlError},
    undo::{Step, Undo, UndoError},
};

use super::{
    DecapError, Host, Settings, TUN_MTU,
    answers::{self, AnswerRoutes},
    lack::{ArpFacts, Facts, Ipv4Facts, LOOPBACK, LOOPBACK_DEVICE, Lack, judge},
};

/// Warnings of one look; a machine may have thousands of devices.
const MOST_WARNINGS: usize = 10;

/// The TUN device; its name may change while it is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) index: u32,
    pub(super) name: String,
}

/// Sets what the tunnel lacks, or warns about it, as the user wants; returns what it warned about.
///
/// # Errors
/// [`DecapError::Setup`] where a change fails; those about facts where they cannot be gathered.
pub(super) fn prepare(
    settings: &Settings,
    tun: &Device,
    answers: &mut AnswerRoutes,
    netlink: &mut Netlink,
    undo: &mut Undo,
) -> Result<Vec<Lack>, DecapError> {
    let links = netlink.links_that_show()?;
    let lacks = lacks(settings, tun, netlink, &links)?;
    match settings.host() {
        Host::SetUp => {
            answers.follow(settings, &links, netlink, undo);
            for lack in &lacks {
                set(lack, tun, netlink, undo)?;
            }
            Ok(Vec::new())
        }
        Host::Check => {
            warn(&lacks);
            Ok(lacks)
        }
    }
}

/// Warns about what the tunnel lacks.
pub(super) fn warn(lacks: &[Lack]) {
    for lack in lacks.iter().take(MOST_WARNINGS) {
        log::warn!("{}; {} (or run with --setup)", lack.fault(), lack.fix());
    }
    if let Some(more @ 1..) = lacks.len().checked_sub(MOST_WARNINGS) {
        log::warn!(
            "and {more} more of the kind: tunlb doctor --role backend (or run with --setup)"
        );
    }
}

/// What the tunnel lacks now.
pub(super) fn lacks(
    settings: &Settings,
    tun: &Device,
    netlink: &mut Netlink,
    links: &[Link],
) -> Result<Vec<Lack>, DecapError> {
    let facts = gather(settings, tun, netlink, links)?;
    let mut lacks = judge(&facts, settings.host());
    if settings.host() == Host::Check {
        lacks.extend(answers::lacks(settings, links, netlink));
    }
    Ok(lacks)
}

fn gather(
    settings: &Settings,
    tun: &Device,
    netlink: &mut Netlink,
    links: &[Link],
) -> Result<Facts, DecapError> {
    let ipv4 = if settings.vips().iter().any(IpAddr::is_ipv4) {
        Some(gather_ipv4(tun, netlink, links)?)
    } else {
        None
    };
    let mut vips_not_local = settings.vips().to_vec();
    vips_not_local.retain(|vip| !is_local(*vip, netlink));
    let mut needs_ipv6 = Vec::new();
    if settings.vips().iter().any(IpAddr::is_ipv6) {
        needs_ipv6.push(tun.name.as_str());
    }
    if vips_not_local.iter().any(IpAddr::is_ipv6) {
        needs_ipv6.push(LOOPBACK_DEVICE); // before it can get the address
    }
    let mtu = links.iter().find(|link| link.index == tun.index);
    let small_mtu = mtu.map(|link| link.mtu).filter(|mtu| *mtu < IPV6_MIN_MTU);
    let mut without_ipv6 = Vec::new();
    for device in needs_ipv6 {
        match Sysctl::ipv6_conf(device, "disable_ipv6")?.read() {
            Ok(0) => {}
            Ok(_) => without_ipv6.push(device.to_owned()),
            Err(error) if error.is_missing() && small_mtu.is_some() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let has_ipv6_vip = settings.vips().iter().any(IpAddr::is_ipv6);
    Ok(Facts {
        tun: tun.name.clone(),
        ipv4,
        small_mtu: small_mtu.filter(|_| has_ipv6_vip),
        without_ipv6,
        vips_not_local,
    })
}

/// The least MTU of a device with IPv6 (RFC 8200 §5); Linux takes IPv6 off one with less.
const IPV6_MIN_MTU: u32 = 1280;

fn gather_ipv4(
    tun: &Device,
    netlink: &mut Netlink,
    links: &[Link],
) -> Result<Ipv4Facts, DecapError> {
    let devices = links.iter().filter(|link| link.arp);
    let arp = devices.filter_map(|link| arp_facts(link).transpose());
    Ok(Ipv4Facts {
        rp_filter_all: Sysctl::ipv4_conf("all", "rp_filter")?.read()?,
        rp_filter_tun: Sysctl::ipv4_conf(&tun.name, "rp_filter")?.read()?,
        tun_address: netlink.ipv4_addresses_on(tun.index)?.first().copied(),
        arp: arp.collect::<Result<_, _>>()?,
    })
}

/// The routing table says it, not the list of addresses: a local route makes an address local, too.
fn is_local(address: IpAddr, netlink: &mut Netlink) -> bool {
    netlink
        .route_to(address, RouteQuery::default())
        .is_ok_and(|route| route.kind == RouteKind::Local)
}

/// `None`: the device has gone since the devices were listed.
fn arp_facts(link: &Link) -> Result<Option<ArpFacts>, SysctlError> {
    let effective = |name| {
        let all = Sysctl::ipv4_conf("all", name)?.read()?;
        match Sysctl::ipv4_conf(&link.name, name)?.read() {
            Ok(own) => Ok(Some(all.max(own))),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    };
    let (ignore, announce) = (effective("arp_ignore")?, effective("arp_announce")?);
    let facts = ignore.zip(announce).map(|(ignore, announce)| ArpFacts {
        device: link.name.clone(),
        ignore,
        announce,
    });
    Ok(facts)
}

/// Sets what is missing.
///
/// # Errors
/// [`UndoError`].
pub(super) fn set(
    lack: &Lack,
    tun: &Device,
    netlink: &mut Netlink,
    undo: &mut Undo,
) -> Result<(), UndoError> {
    match lack {
        Lack::TunAddress { .. } => {
            add_address(tun.index, &tun.name, LOOPBACK.into(), netlink, undo)
        }
        Lack::ReversePath { tun, wanted, .. } => {
            set_sysctl(Sysctl::ipv4_conf(tun, "rp_filter")?, *wanted, undo)
        }
        Lack::ArpIgnore { device } => set_sysctl(Sysctl::ipv4_conf(device, "arp_ignore")?, 1, undo),
        Lack::ArpAnnounce { device } => {
            set_sysctl(Sysctl::ipv4_conf(device, "arp_announce")?, 2, undo)
        }
        Lack::Mtu { .. } => Ok(netlink.set_mtu(tun.index, TUN_MTU)?),
        Lack::Ipv6 { device } => set_sysctl(Sysctl::ipv6_conf(device, "disable_ipv6")?, 0, undo),
        Lack::Vip(vip) => {
            let lo = netlink.link(LOOPBACK_DEVICE)?;
            let index = lo.map_or(1, |link| link.index); // the first device of every namespace
            add_address(index, LOOPBACK_DEVICE, (*vip).into(), netlink, undo)
        }
        // What `AnswerRoutes` is for.
        Lack::SegmentSize { .. } => Ok(()),
    }
}

/// Gives a setting its value. Where something else puts the same value back time after time, the journal
/// does not grow: undoing the last step of this setting restores that value already.
fn set_sysctl(key: Sysctl, value: i32, undo: &mut Undo) -> Result<(), UndoError> {
    let of_key = |step: &Step| {
        let Step::Sysctl { change, .. } = step else {
            return None;
        };
        (change.key == key).then_some((change.before, change.after))
    };
    let last = undo.steps().into_iter().rev().find_map(of_key);
    if last == Some((key.read()?, value)) {
        return Ok(key.write(value)?);
    }
    undo.set_sysctl(key, value)
}

/// Adds an address, into the journal where it is not there yet.
fn add_address(
    link: u32,
    device: &str,
    net: IpNet,
    netlink: &mut Netlink,
    undo: &mut Undo,
) -> Result<(), UndoError> {
    let is_known = |step: &Step| matches!(step, Step::Address { device, net: n } if (device.index, *n) == (link, net));
    if !undo.steps().into_iter().any(is_known) {
        return undo.add_address(link, device, net);
    }
    match netlink.add_address(link, net) {
        Err(NetlinkError::Exists { .. }) => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::testing::in_namespace;

    #[test]
    fn what_is_set_again_is_undone_once() {
        in_namespace("decap::host::tests::what_is_set_again_is_undone_once_inside");
    }

    #[test]
    #[ignore = "run by what_is_set_again_is_undone_once in a namespace of its own"]
    fn what_is_set_again_is_undone_once_inside() {
        let key = || Sysctl::ipv4_conf("lo", "rp_filter").unwrap();
        let set = |undo: &mut Undo, others: i32| {
            key().write(others).unwrap();
            set_sysctl(key(), 0, undo).unwrap();
            assert_eq!(key().read().unwrap(), 0);
        };
        // Who sets it in between, how many steps that makes, and what is left in the end.
        for (others, steps, left) in [
            (&[2][..], 1, 2),
            (&[2, 2, 2], 1, 2),
            (&[2, 1, 1], 2, 1),
            (&[2, 1, 2], 3, 2),
        ] {
            let mut undo = Undo::new().unwrap();
            for value in others {
                set(&mut undo, *value);
            }
            assert_eq!(undo.steps().len(), steps, "{others:?}");
            assert!(undo.undo_all().is_empty());
            assert_eq!(key().read().unwrap(), left, "{others:?}");
        }
    }

    #[test]
    fn an_address_that_comes_back_is_taken_away_once() {
        in_namespace("decap::host::tests::an_address_that_comes_back_is_taken_away_once_inside");
    }

    #[test]
    #[ignore = "run by an_address_that_comes_back_is_taken_away_once in a namespace of its own"]
    fn an_address_that_comes_back_is_taken_away_once_inside() {
        let mut netlink = Netlink::open().unwrap();
        let lo = netlink.link("lo").unwrap().unwrap().index;
        let before = netlink.addresses().unwrap();
        let mut undo = Undo::new().unwrap();
        let net = "10.0.0.100/32".parse().unwrap();
        for _ in 0..3 {
            add_address(lo, "lo", net, &mut netlink, &mut undo).unwrap();
            add_address(lo, "lo", net, &mut netlink, &mut undo).unwrap();
            assert_eq!(netlink.ipv4_addresses_on(lo).unwrap(), [net]);
            netlink.remove_address(lo, net).unwrap();
        }
        add_address(lo, "lo", net, &mut netlink, &mut undo).unwrap();
        assert_eq!(undo.steps().len(), 1);
        assert!(undo.undo_all().is_empty());
        assert_eq!(netlink.addresses().unwrap(), before);
    }
}
