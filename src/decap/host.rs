//! What the tunnel needs from this machine: facts are gathered, judged purely, and each lack is either
//! mended (`--setup`) or told with its mend. The rows of the doctor: B5, B8, B9, B10, B11.
//!
//! The least change: an interface's own setting, never `conf.all`; and the settings of a family only
//! where a VIP is of it. IPv6 needs less: it has no reverse-path filter outside of the firewall, and
//! answers neighbour solicitations only for addresses of the very interface that hears them
//! (`ndisc_recv_ns`, linux/net/ipv6/ndisc.c), so a VIP on lo is neither answered for nor announced.

use std::{fmt, net::IpAddr};

use ipnet::{IpNet, Ipv4Net};

use crate::io::{
    netlink::{Link, Netlink, RouteKind, RouteQuery},
    sysctl::{Sysctl, SysctlError},
    tun::TunDevice,
    undo::{Undo, UndoError},
};

use super::{DecapError, Host, Settings};

/// The address that makes loose source validation work on the device. Any would do (the kernel asks
/// only whether there is one, `__fib_validate_source`); this one is local anyway and no one's route.
const LOOPBACK: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 42), 32);

/// The loopback device, which holds the VIP.
const LOOPBACK_DEVICE: &str = "lo";

/// The machine as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    /// Name of the TUN device.
    tun: String,
    /// Where a VIP is an IPv4 address.
    ipv4: Option<Ipv4Facts>,
    /// Devices that an IPv6 VIP needs IPv6 on, but that have none.
    without_ipv6: Vec<String>,
    vips_not_local: Vec<IpAddr>,
}

/// What matters to IPv4 packets.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ipv4Facts {
    rp_filter_all: i32,
    rp_filter_tun: i32,
    /// Whether the TUN device has an IPv4 address.
    tun_address: Option<IpNet>,
    arp: Vec<ArpFacts>,
}

/// An interface that speaks ARP; both values are effective ones: max(all, interface).
#[derive(Debug, Clone, PartialEq, Eq)]
struct ArpFacts {
    device: String,
    ignore: i32,
    announce: i32,
}

/// Something that the tunnel lacks; as text, a warning with its mend.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Lack {
    /// The source validation of the device must have this value.
    ReversePath { tun: String, now: i32, wanted: i32 },
    /// Loose source validation drops everything on a device without an address.
    TunAddress { tun: String },
    /// The interface answers ARP for the VIP.
    ArpIgnore { device: String },
    /// The interface announces the VIP in its own ARP requests.
    ArpAnnounce { device: String },
    /// The device takes no IPv6 packets and no IPv6 address.
    Ipv6 { device: String },
    /// The VIP is no address of this machine.
    Vip(IpAddr),
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReversePath { tun, now, wanted } => write!(
                f,
                "effective rp_filter of {tun} is {now}: packets from clients are dropped; \
                 sysctl -w net.ipv4.conf.{}.rp_filter={wanted}",
                tun.replace('.', "/")
            ),
            Self::TunAddress { tun } => write!(
                f,
                "rp_filter of {tun} is loose and {tun} has no address: packets from clients are dropped; \
                 ip addr add {LOOPBACK} dev {tun}"
            ),
            Self::ArpIgnore { device } => write!(
                f,
                "{device} answers ARP for the VIP: clients of that segment may reach this machine past \
                 the director; sysctl -w net.ipv4.conf.{}.arp_ignore=1",
                device.replace('.', "/")
            ),
            Self::ArpAnnounce { device } => write!(
                f,
                "{device} announces the VIP in ARP requests; \
                 sysctl -w net.ipv4.conf.{}.arp_announce=2",
                device.replace('.', "/")
            ),
            Self::Ipv6 { device } => write!(
                f,
                "IPv6 is off on {device}: packets to an IPv6 VIP are dropped; \
                 sysctl -w net.ipv6.conf.{}.disable_ipv6=0",
                device.replace('.', "/")
            ),
            Self::Vip(vip) => write!(
                f,
                "{vip} is no address of this machine: its packets are not delivered; \
                 ip addr add {} dev {LOOPBACK_DEVICE}",
                IpNet::from(*vip)
            ),
        }
    }
}

/// Mends what the tunnel lacks, or warns about it, as the user wants.
///
/// # Errors
/// [`DecapError::Setup`] where a change fails; those about facts where they cannot be gathered.
pub(super) fn prepare(
    settings: &Settings,
    tun: &TunDevice,
    netlink: &mut Netlink,
    undo: &mut Undo,
) -> Result<(), DecapError> {
    let links = netlink.links()?;
    let facts = gather(settings, tun, netlink, &links)?;
    for lack in judge(&facts) {
        match settings.host() {
            Host::SetUp => mend(&lack, tun, &links, undo)?,
            Host::Check => log::warn!("{lack} (or run with --setup)"),
        }
    }
    Ok(())
}

fn gather(
    settings: &Settings,
    tun: &TunDevice,
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
    let mut without_ipv6 = Vec::new();
    for device in needs_ipv6 {
        if Sysctl::ipv6_conf(device, "disable_ipv6")?.read()? != 0 {
            without_ipv6.push(device.to_owned());
        }
    }
    Ok(Facts {
        tun: tun.name.clone(),
        ipv4,
        without_ipv6,
        vips_not_local,
    })
}

fn gather_ipv4(
    tun: &TunDevice,
    netlink: &mut Netlink,
    links: &[Link],
) -> Result<Ipv4Facts, DecapError> {
    let addresses = netlink.addresses()?;
    let on_tun = |net: &IpNet| net.addr().is_ipv4();
    let tun_addresses = addresses.iter().filter(|address| address.link == tun.index);
    let arp = links
        .iter()
        .filter(|link| link.arp)
        .map(arp_facts)
        .collect::<Result<_, _>>()?;
    Ok(Ipv4Facts {
        rp_filter_all: Sysctl::ipv4_conf("all", "rp_filter")?.read()?,
        rp_filter_tun: Sysctl::ipv4_conf(&tun.name, "rp_filter")?.read()?,
        tun_address: tun_addresses.map(|address| address.net).find(on_tun),
        arp,
    })
}

/// The routing table says it, not the list of addresses: a local route makes an address local, too.
fn is_local(address: IpAddr, netlink: &mut Netlink) -> bool {
    netlink
        .route_to(address, RouteQuery::default())
        .is_ok_and(|route| route.kind == RouteKind::Local)
}

fn arp_facts(link: &Link) -> Result<ArpFacts, SysctlError> {
    let effective = |name| {
        let all = Sysctl::ipv4_conf("all", name)?.read()?;
        Ok(all.max(Sysctl::ipv4_conf(&link.name, name)?.read()?))
    };
    Ok(ArpFacts {
        device: link.name.clone(),
        ignore: effective("arp_ignore")?,
        announce: effective("arp_announce")?,
    })
}

/// What is missing, in the order in which it is mended: the VIP comes last, when nothing answers or
/// announces it any more.
fn judge(facts: &Facts) -> Vec<Lack> {
    let mut lacks = Vec::new();
    if let Some(ipv4) = &facts.ipv4 {
        lacks.extend(judge_ipv4(&facts.tun, ipv4));
    }
    let without_ipv6 = facts.without_ipv6.iter().cloned();
    lacks.extend(without_ipv6.map(|device| Lack::Ipv6 { device }));
    lacks.extend(facts.vips_not_local.iter().copied().map(Lack::Vip));
    lacks
}

fn judge_ipv4(tun: &str, facts: &Ipv4Facts) -> Vec<Lack> {
    let mut lacks = Vec::new();
    lacks.extend(reverse_path(tun, facts));
    if facts.rp_filter_all > 0 && facts.tun_address.is_none() {
        lacks.push(Lack::TunAddress {
            tun: tun.to_owned(),
        });
    }
    for arp in &facts.arp {
        let device = arp.device.clone();
        if arp.ignore < 1 {
            lacks.push(Lack::ArpIgnore {
                device: device.clone(),
            });
        }
        if arp.announce < 2 {
            lacks.push(Lack::ArpAnnounce { device });
        }
    }
    lacks
}

/// The effective value is max(all, device): with all=0 the device can be 0, which always works; else
/// 2 is the best it can be, which works where the device has an address.
fn reverse_path(tun: &str, facts: &Ipv4Facts) -> Option<Lack> {
    let now = facts.rp_filter_all.max(facts.rp_filter_tun);
    let wanted = if facts.rp_filter_all == 0 { 0 } else { 2 };
    let loose_works = now == 2 && (wanted == 2 || facts.tun_address.is_some());
    if now == wanted || loose_works {
        return None;
    }
    let tun = tun.to_owned();
    Some(Lack::ReversePath { tun, now, wanted })
}

fn mend(lack: &Lack, tun: &TunDevice, links: &[Link], undo: &mut Undo) -> Result<(), DecapError> {
    match lack {
        Lack::ReversePath { tun, wanted, .. } => {
            undo.set_sysctl(Sysctl::ipv4_conf(tun, "rp_filter")?, *wanted)?;
        }
        Lack::TunAddress { .. } => undo.add_address(tun.index, &tun.name, LOOPBACK.into())?,
        Lack::ArpIgnore { device } => {
            undo.set_sysctl(Sysctl::ipv4_conf(device, "arp_ignore")?, 1)?;
        }
        Lack::ArpAnnounce { device } => {
            undo.set_sysctl(Sysctl::ipv4_conf(device, "arp_announce")?, 2)?;
        }
        Lack::Ipv6 { device } => {
            undo.set_sysctl(Sysctl::ipv6_conf(device, "disable_ipv6")?, 0)?;
        }
        Lack::Vip(vip) => add_vip(*vip, links, undo)?,
    }
    Ok(())
}

fn add_vip(vip: IpAddr, links: &[Link], undo: &mut Undo) -> Result<(), UndoError> {
    let loopback = links.iter().find(|link| link.name == LOOPBACK_DEVICE);
    let index = loopback.map_or(1, |link| link.index); // the first device of every namespace
    undo.add_address(index, LOOPBACK_DEVICE, vip.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(rp_filter_all: i32, rp_filter_tun: i32, tun_address: Option<&str>) -> Facts {
        Facts {
            tun: "decap0".into(),
            ipv4: Some(Ipv4Facts {
                rp_filter_all,
                rp_filter_tun,
                tun_address: tun_address.map(|net| net.parse().unwrap()),
                arp: Vec::new(),
            }),
            without_ipv6: Vec::new(),
            vips_not_local: Vec::new(),
        }
    }

    #[test]
    fn source_validation() {
        let set = |now, wanted| Lack::ReversePath {
            tun: "decap0".into(),
            now,
            wanted,
        };
        let address = || Lack::TunAddress {
            tun: "decap0".into(),
        };
        for (all, tun, has_address, expected) in [
            (0, 0, None, vec![]),
            (0, 1, None, vec![set(1, 0)]),
            (0, 2, None, vec![set(2, 0)]),
            (0, 2, Some("127.0.0.42/32"), vec![]),
            (1, 0, None, vec![set(1, 2), address()]),
            (1, 1, Some("127.0.0.42/32"), vec![set(1, 2)]),
            (1, 2, None, vec![address()]),
            (2, 0, None, vec![address()]),
            (2, 1, Some("127.0.0.42/32"), vec![]),
        ] {
            let lacks = judge(&facts(all, tun, has_address));
            assert_eq!(
                lacks, expected,
                "all={all} tun={tun} address={has_address:?}"
            );
        }
    }

    #[test]
    fn the_vip_comes_last() {
        let vip = IpAddr::from([10, 0, 0, 100]);
        let mut facts = facts(0, 0, None);
        facts.vips_not_local = vec![vip];
        let arp = |device: &str, ignore, announce| ArpFacts {
            device: device.into(),
            ignore,
            announce,
        };
        facts.ipv4.as_mut().unwrap().arp = vec![arp("eth0.7", 0, 1), arp("eth1", 2, 2)];
        let lacks = judge(&facts);
        let device = || "eth0.7".to_owned();
        let expected = [
            Lack::ArpIgnore { device: device() },
            Lack::ArpAnnounce { device: device() },
            Lack::Vip(vip),
        ];
        assert_eq!(lacks, expected);
        let mend = "sysctl -w net.ipv4.conf.eth0/7.arp_announce=2";
        assert!(lacks[1].to_string().ends_with(mend));
        assert!(
            lacks[2]
                .to_string()
                .ends_with("ip addr add 10.0.0.100/32 dev lo")
        );
    }

    #[test]
    fn an_ipv6_vip_needs_ipv6_on_its_way() {
        let vip: IpAddr = "2001:db8::100".parse().unwrap();
        let facts = Facts {
            tun: "decap.0".into(),
            ipv4: None,
            without_ipv6: vec!["decap.0".into(), "lo".into()],
            vips_not_local: vec![vip],
        };
        let lacks = judge(&facts);
        let off = |device: &str| Lack::Ipv6 {
            device: device.into(),
        };
        assert_eq!(lacks, [off("decap.0"), off("lo"), Lack::Vip(vip)]);
        let texts: Vec<_> = lacks.iter().map(Lack::to_string).collect();
        assert!(texts[0].ends_with("sysctl -w net.ipv6.conf.decap/0.disable_ipv6=0"));
        assert!(texts[2].ends_with("ip addr add 2001:db8::100/128 dev lo"));
    }
}
