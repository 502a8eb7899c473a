//! What the tunnel needs from this machine and does not have: a pure judgement of facts, each lack with
//! its fault as text and the shell line that fixes it. The rows of the doctor: B5, B8, B9, B10, B11.
//!
//! The least change: an interface's own setting, never `conf.all`; and the settings of a family only
//! where a VIP is of it. IPv6 needs less: it has no reverse-path filter outside of the firewall, and
//! answers neighbour solicitations only for addresses of the very interface that hears them
//! (`ndisc_recv_ns`, linux/net/ipv6/ndisc.c), so a VIP on lo is neither answered for nor announced.

use std::{mem, net::IpAddr};

use ipnet::{IpNet, Ipv4Net};

use crate::{
    packet::Version,
    text::{Plain, shell},
};

use super::{Host, TUN_MTU};

/// The address that makes loose source validation work on the device. Any would do (the kernel asks
/// only whether there is one, `__fib_validate_source`); this one is local anyway and no route's.
pub(super) const LOOPBACK: Ipv4Net =
    Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 42), 32);

/// The loopback device, which holds the VIP.
pub(super) const LOOPBACK_DEVICE: &str = "lo";

/// The machine as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// Name of the TUN device.
    pub(super) tun: String,
    /// Where a VIP is an IPv4 address.
    pub(super) ipv4: Option<Ipv4Facts>,
    /// The device's MTU where an IPv6 VIP needs more.
    pub(super) small_mtu: Option<u32>,
    /// Devices that an IPv6 VIP needs IPv6 on, but that have none.
    pub(super) without_ipv6: Vec<String>,
    pub(super) vips_not_local: Vec<IpAddr>,
}

/// What matters to IPv4 packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ipv4Facts {
    pub(super) rp_filter_all: i32,
    pub(super) rp_filter_tun: i32,
    /// Whether the TUN device has an IPv4 address.
    pub(super) tun_address: Option<IpNet>,
    pub(super) arp: Vec<ArpFacts>,
}

/// An interface that speaks ARP; both values are effective ones: max(all, interface).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ArpFacts {
    pub(super) device: String,
    pub(super) ignore: i32,
    pub(super) announce: i32,
}

/// Something that the tunnel lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lack {
    /// The device has no address: loose source validation drops everything there. With rp_filter off it
    /// is missing only in case that is turned on, as udev does just after a device was made.
    TunAddress { tun: String },
    /// The source validation of the device must have this value.
    ReversePath { tun: String, now: i32, wanted: i32 },
    /// The interface answers ARP for the VIP.
    ArpIgnore { device: String },
    /// The interface announces the VIP in its own ARP requests.
    ArpAnnounce { device: String },
    /// The MTU of the device is so small that it has no IPv6.
    Mtu { tun: String, now: u32 },
    /// The device takes no IPv6 packets and no IPv6 address.
    Ipv6 { device: String },
    /// The VIP is no address of this machine.
    Vip(IpAddr),
    /// Answers announce segments that do not fit the tunnel.
    SegmentSize {
        version: Version,
        announced: u32,
        fits: u32,
        /// The default route that they take, as ip-route(8) has it; `None` where it is none of one next hop
        /// in the main table.
        route: Option<Vec<String>>,
    },
}

/// What a lack is about, whatever its present value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Subject {
    kind: mem::Discriminant<Lack>,
    object: String,
}

impl Lack {
    /// What is wrong, and what comes of it.
    pub(super) fn fault(&self) -> String {
        match self {
            Self::TunAddress { tun } => format!(
                "{} has no address, and a loose rp_filter (2) drops all packets of a device without one",
                Plain(tun)
            ),
            Self::ReversePath { tun, now, .. } => format!(
                "effective rp_filter of {} is {now}: packets from clients are dropped",
                Plain(tun)
            ),
            Self::ArpIgnore { device } => format!(
                "{} answers ARP for the VIP: clients of that segment may reach this machine past the \
                 director",
                Plain(device)
            ),
            Self::ArpAnnounce { device } => {
                format!("{} announces the VIP in ARP requests", Plain(device))
            }
            Self::Mtu { tun, now } => format!(
                "the MTU of {} is {now}: with less than 1280 it takes no IPv6 packets",
                Plain(tun)
            ),
            Self::Ipv6 { device } => format!(
                "IPv6 is off on {}: packets to an IPv6 VIP are dropped",
                Plain(device)
            ),
            Self::Vip(vip) => {
                format!("{vip} is no address of this machine: its packets are not delivered")
            }
            Self::SegmentSize {
                announced, fits, ..
            } => format!(
                "this machine announces TCP segments of {announced} bytes, the tunnel carries {fits}: uploads wait \
                 for Fragmentation Needed of the director, and hang where that does not arrive"
            ),
        }
    }

    /// The line of a shell that fixes it.
    pub(super) fn fix(&self) -> String {
        match self {
            Self::TunAddress { tun } => {
                shell::line(&["ip", "addr", "add", &LOOPBACK.to_string(), "dev", tun])
            }
            Self::ReversePath { tun, wanted, .. } => sysctl("ipv4", tun, "rp_filter", *wanted),
            Self::ArpIgnore { device } => sysctl("ipv4", device, "arp_ignore", 1),
            Self::ArpAnnounce { device } => sysctl("ipv4", device, "arp_announce", 2),
            Self::Mtu { tun, .. } => {
                let mtu = TUN_MTU.to_string();
                shell::line(&["ip", "link", "set", "dev", tun, "mtu", &mtu])
            }
            Self::Ipv6 { device } => sysctl("ipv6", device, "disable_ipv6", 0),
            Self::Vip(vip) => {
                let net = IpNet::from(*vip).to_string();
                shell::line(&["ip", "addr", "add", &net, "dev", LOOPBACK_DEVICE])
            }
            Self::SegmentSize {
                version,
                fits,
                route,
                ..
            } => {
                let family = match version {
                    Version::V4 => "-4",
                    Version::V6 => "-6",
                };
                let Some(route) = route else {
                    return format!("set advmss {fits} on the route by which answers leave");
                };
                let mut words = vec!["ip", family, "route", "change"];
                words.extend(route.iter().map(String::as_str));
                let fits = fits.to_string();
                words.extend(["advmss", &fits]);
                shell::line(&words)
            }
        }
    }

    pub(super) fn subject(&self) -> Subject {
        let object = match self {
            Self::TunAddress { tun } | Self::ReversePath { tun, .. } | Self::Mtu { tun, .. } => {
                tun.clone()
            }
            Self::ArpIgnore { device } | Self::ArpAnnounce { device } | Self::Ipv6 { device } => {
                device.clone()
            }
            Self::Vip(vip) => vip.to_string(),
            Self::SegmentSize { version, .. } => format!("{version:?}"),
        };
        Subject {
            kind: mem::discriminant(self),
            object,
        }
    }
}

fn sysctl(family: &str, device: &str, name: &str, value: i32) -> String {
    let device = device.replace('.', "/");
    let assignment = format!("net.{family}.conf.{device}.{name}={value}");
    shell::line(&["sysctl", "-w", &assignment])
}

/// What is missing, in the order in which it is fixed: the address before loose validation, and the VIP
/// last, when nothing answers or announces it any more.
pub(super) fn judge(facts: &Facts, host: Host) -> Vec<Lack> {
    let mut lacks = Vec::new();
    if let Some(ipv4) = &facts.ipv4 {
        lacks.extend(judge_ipv4(&facts.tun, ipv4, host));
    }
    lacks.extend(facts.small_mtu.map(|now| Lack::Mtu {
        tun: facts.tun.clone(),
        now,
    }));
    let without_ipv6 = facts.without_ipv6.iter().cloned();
    lacks.extend(without_ipv6.map(|device| Lack::Ipv6 { device }));
    lacks.extend(facts.vips_not_local.iter().copied().map(Lack::Vip));
    lacks
}

fn judge_ipv4(tun: &str, facts: &Ipv4Facts, host: Host) -> Vec<Lack> {
    let mut lacks = Vec::new();
    let wants_address = host == Host::SetUp || facts.rp_filter_all > 0;
    if wants_address && facts.tun_address.is_none() {
        lacks.push(Lack::TunAddress {
            tun: tun.to_owned(),
        });
    }
    lacks.extend(reverse_path(tun, facts, host));
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
/// 2 is the best it can be, which works where the device has an address, as `--setup` gives it one.
fn reverse_path(tun: &str, facts: &Ipv4Facts, host: Host) -> Option<Lack> {
    let now = facts.rp_filter_all.max(facts.rp_filter_tun);
    let wanted = if facts.rp_filter_all == 0 { 0 } else { 2 };
    let has_address = facts.tun_address.is_some() || host == Host::SetUp;
    let loose_works = now == 2 && (wanted == 2 || has_address);
    if now == wanted || loose_works {
        return None;
    }
    let tun = tun.to_owned();
    Some(Lack::ReversePath { tun, now, wanted })
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
            small_mtu: None,
            without_ipv6: Vec::new(),
            vips_not_local: Vec::new(),
        }
    }

    #[test]
    fn source_validation() {
        const ADDRESS: Option<&str> = Some("127.0.0.42/32");
        let set = |now, wanted| Lack::ReversePath {
            tun: "decap0".into(),
            now,
            wanted,
        };
        let address = || Lack::TunAddress {
            tun: "decap0".into(),
        };
        for (all, tun, has_address, checked, set_up) in [
            (0, 0, None, vec![], vec![address()]),
            (0, 0, ADDRESS, vec![], vec![]),
            (0, 1, None, vec![set(1, 0)], vec![address(), set(1, 0)]),
            (0, 1, ADDRESS, vec![set(1, 0)], vec![set(1, 0)]),
            (0, 2, None, vec![set(2, 0)], vec![address()]),
            (0, 2, ADDRESS, vec![], vec![]),
            (
                1,
                0,
                None,
                vec![address(), set(1, 2)],
                vec![address(), set(1, 2)],
            ),
            (1, 1, ADDRESS, vec![set(1, 2)], vec![set(1, 2)]),
            (1, 2, None, vec![address()], vec![address()]),
            (2, 0, None, vec![address()], vec![address()]),
            (2, 1, ADDRESS, vec![], vec![]),
        ] {
            for (host, expected) in [(Host::Check, checked), (Host::SetUp, set_up)] {
                let lacks = judge(&facts(all, tun, has_address), host);
                assert_eq!(
                    lacks, expected,
                    "all={all} tun={tun} address={has_address:?} {host:?}"
                );
            }
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
        let lacks = judge(&facts, Host::Check);
        let device = || "eth0.7".to_owned();
        let expected = [
            Lack::ArpIgnore { device: device() },
            Lack::ArpAnnounce { device: device() },
            Lack::Vip(vip),
        ];
        assert_eq!(lacks, expected);
        assert_eq!(
            lacks[1].fix(),
            "sysctl -w net.ipv4.conf.eth0/7.arp_announce=2"
        );
        assert_eq!(lacks[2].fix(), "ip addr add 10.0.0.100/32 dev lo");
    }

    #[test]
    fn an_ipv6_vip_needs_ipv6_on_its_way() {
        let vip: IpAddr = "2001:db8::100".parse().unwrap();
        let facts = Facts {
            tun: "decap.0".into(),
            ipv4: None,
            small_mtu: Some(1279),
            without_ipv6: vec!["decap.0".into(), "lo".into()],
            vips_not_local: vec![vip],
        };
        let lacks = judge(&facts, Host::SetUp);
        let off = |device: &str| Lack::Ipv6 {
            device: device.into(),
        };
        let mtu = Lack::Mtu {
            tun: "decap.0".into(),
            now: 1279,
        };
        assert_eq!(lacks, [mtu, off("decap.0"), off("lo"), Lack::Vip(vip)]);
        assert_eq!(lacks[0].fix(), "ip link set dev decap.0 mtu 65535");
        assert_eq!(
            lacks[1].fix(),
            "sysctl -w net.ipv6.conf.decap/0.disable_ipv6=0"
        );
        assert_eq!(lacks[3].fix(), "ip addr add 2001:db8::100/128 dev lo");
    }

    #[test]
    fn names_of_devices_are_chosen_by_others() {
        let device = || "$(id)\u{1b}[2J".to_owned();
        for lack in [
            Lack::TunAddress { tun: device() },
            Lack::ReversePath {
                tun: device(),
                now: 1,
                wanted: 0,
            },
            Lack::ArpIgnore { device: device() },
            Lack::ArpAnnounce { device: device() },
            Lack::Ipv6 { device: device() },
        ] {
            let texts = [lack.fault(), lack.fix()];
            assert!(!texts.concat().contains('\u{1b}'), "{texts:?}");
            assert!(!lack.fix().contains("$(id)"), "{texts:?}");
        }
        let lack = Lack::ArpIgnore {
            device: "$(id)".to_owned(),
        };
        assert_eq!(lack.fix(), "sysctl -w 'net.ipv4.conf.$(id).arp_ignore=1'");
    }

    #[test]
    fn a_subject_stays_the_same_when_the_value_changes() {
        let lack = |now| Lack::ReversePath {
            tun: "decap0".into(),
            now,
            wanted: 0,
        };
        assert_eq!(lack(1).subject(), lack(2).subject());
        let other = Lack::TunAddress {
            tun: "decap0".into(),
        };
        assert_ne!(lack(1).subject(), other.subject());
    }
}
