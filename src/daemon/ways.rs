//! Which way packets leave for each backend, and why: past this host's filters, policies and queueing
//! disciplines only where the configuration says so, or where none of them would touch a packet.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use log::{debug, info};

use crate::config;
use crate::director::Snapshot;
use crate::doctor::departure::{Departure, DepartureFilters};
use crate::doctor::facts::Encap as EncapFact;
use crate::io::egress::{Direct, Hop, Hops, Segmenting};
use crate::io::netlink::{Netlink, outgoing_ipsec_policies};
use crate::io::next_hop::{NoHop, Resolved};
use crate::packet::{EncapKind, Version};
use crate::text::{count, plain::Plain};

/// What the configuration asks for, where it is not raw sockets for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// By that kind of socket where there is a next hop, whatever that passes by.
    Always(Direct),
    /// By that kind of socket where there is a next hop and nothing is passed by.
    Unfiltered(Direct),
}

impl Policy {
    /// `None`: by raw sockets only.
    pub(super) const fn of(egress: config::Egress) -> Option<Self> {
        match egress {
            config::Egress::Auto => Some(Self::Unfiltered(Direct::Xsk)),
            config::Egress::Xsk => Some(Self::Always(Direct::Xsk)),
            config::Egress::Packet => Some(Self::Always(Direct::Packet)),
            config::Egress::Raw => None,
        }
    }

    pub(super) const fn direct(self) -> Direct {
        match self {
            Self::Always(direct) | Self::Unfiltered(direct) => direct,
        }
    }
}

/// The packets for one far end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    /// Kind of the tunnel, version of what is in it, and source of the outer packet where it is known.
    tunnels: Vec<(EncapKind, Version, Option<IpAddr>)>,
}

impl Traffic {
    fn has_gue(&self) -> bool {
        let mut kinds = self.tunnels.iter().map(|(kind, _, _)| *kind);
        kinds.any(|kind| kind != EncapKind::Ipip)
    }
}

/// The far ends of a snapshot.
pub(super) fn traffic(snapshot: &Snapshot) -> BTreeMap<IpAddr, Traffic> {
    let mut all = BTreeMap::<_, Traffic>::new();
    for (_, backend) in snapshot.backends() {
        let inner = match snapshot.vip(backend.vip).address() {
            IpAddr::V4(_) => Version::V4,
            IpAddr::V6(_) => Version::V6,
        };
        let source = (!backend.encap.lacks_source()).then(|| backend.encap.source(0));
        let tunnel = (backend.encap.kind(), inner, source);
        let tunnels = &mut all.entry(backend.address).or_default().tunnels;
        if !tunnels.contains(&tunnel) {
            tunnels.push(tunnel);
        }
    }
    all
}

/// Why packets for a far end go by raw socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    NoHop(NoHop),
    /// What would be passed by.
    Obstacle(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHop(why) => why.fmt(f),
            Self::Obstacle(text) => write!(f, "so as not to pass by {}", Plain(text)),
        }
    }
}

/// What on this host acts on packets that leave it.
#[derive(Debug)]
pub(super) struct Obstacles {
    /// On every device.
    everywhere: Option<String>,
    /// By index of the device.
    queueing: BTreeMap<u32, String>,
    filters: DepartureFilters,
    /// What the filters do, as far as they were asked.
    known: BTreeMap<(IpAddr, u32), Option<String>>,
}

impl Obstacles {
    pub(super) fn read(netlink: &mut Netlink) -> Self {
        let everywhere = match outgoing_ipsec_policies() {
            Ok(0) => None,
            Ok(number) => Some(format!("{number} IPsec policies for what leaves")),
            Err(error) => Some(format!("IPsec policies that cannot be read: {error}")),
        };
        let mut obstacles = Self {
            everywhere,
            queueing: BTreeMap::new(),
            filters: DepartureFilters::read(),
            known: BTreeMap::new(),
        };
        obstacles.read_queueing(netlink);
        obstacles
    }

    /// Reads again what changes along with ways.
    pub(super) fn read_queueing(&mut self, netlink: &mut Netlink) {
        match netlink.queueing_disciplines() {
            Ok(all) => {
                let acting = all.into_iter().filter(|one| one.acts_on_departures());
                self.queueing = acting.map(|one| (one.link, one.kind)).collect();
            }
            // A kernel without queueing disciplines has no such messages either.
            Err(error) => debug!("{error}"),
        }
    }

    /// Other tunnels are asked about from now on.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }

    fn before(
        &mut self,
        far_end: IpAddr,
        hop: &Hop,
        device: &str,
        traffic: &Traffic,
    ) -> Option<String> {
        if let Some(text) = &self.everywhere {
            return Some(text.clone());
        }
        if let Some(kind) = self.queueing.get(&hop.link) {
            return Some(format!("queueing discipline {kind} of {device}"));
        }
        let filters = &self.filters;
        let known = self.known.entry((far_end, hop.link));
        let ask = || {
            let mut tunnels = traffic.tunnels.iter();
            tunnels.find_map(|tunnel| filters.obstacle(&departure(far_end, device, *tunnel)))
        };
        known.or_insert_with(ask).clone()
    }
}

fn departure(
    far_end: IpAddr,
    device: &str,
    (kind, inner, source): (EncapKind, Version, Option<IpAddr>),
) -> Departure {
    Departure {
        device: Some(device.to_owned()),
        source,
        destination: far_end,
        encap: match kind {
            EncapKind::Ipip => EncapFact::Ipip,
            EncapKind::Gue { port } => EncapFact::Gue(port.get()),
        },
        inner,
    }
}

/// The way to each far end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ways {
    /// Those that leave directly.
    pub(super) hops: Hops,
    /// The others.
    raw: BTreeMap<IpAddr, Reason>,
}

impl Ways {
    /// `obstacles` where they count; then GUE tunnels may go by UDP sockets, too.
    pub(super) fn choose(
        resolved: &Resolved,
        traffic: &BTreeMap<IpAddr, Traffic>,
        mut obstacles: Option<&mut Obstacles>,
    ) -> Self {
        let mut ways = Self::choose_hops(resolved, traffic, obstacles.as_deref_mut());
        if let Some(obstacles) = obstacles
            && obstacles.everywhere.is_none()
        {
            for (far_end, _) in traffic.iter().filter(|(_, sent)| sent.has_gue()) {
                let found = resolved.hops.get(far_end);
                let hop = found.and_then(|found| found.as_ref().ok());
                let by_device = hop.is_some_and(|hop| resolved.segmenting.contains(&hop.link));
                let is_direct = ways.hops.direct.contains_key(far_end);
                let segmenting = segmenting(by_device, is_direct);
                ways.hops.segmenting.insert(*far_end, segmenting);
            }
        }
        ways
    }

    fn choose_hops(
        resolved: &Resolved,
        traffic: &BTreeMap<IpAddr, Traffic>,
        mut obstacles: Option<&mut Obstacles>,
    ) -> Self {
        let mut ways = Self::default();
        for (&far_end, found) in &resolved.hops {
            let hop = match found {
                Ok(hop) => hop,
                Err(why) => {
                    ways.raw.insert(far_end, Reason::NoHop(why.clone()));
                    continue;
                }
            };
            let device = resolved.devices.get(&hop.link).map_or("", String::as_str);
            let sent = traffic.get(&far_end).cloned().unwrap_or_default();
            let obstacle = obstacles
                .as_mut()
                .and_then(|obstacles| obstacles.before(far_end, hop, device, &sent));
            match obstacle {
                Some(text) => drop(ways.raw.insert(far_end, Reason::Obstacle(text))),
                None => drop(ways.hops.direct.insert(far_end, *hop)),
            }
        }
        ways
    }

    /// One line for the direct ways, and one for each reason against.
    pub(super) fn log(&self) {
        let mut kinds = BTreeMap::<Direct, Vec<IpAddr>>::new();
        for (&far_end, hop) in &self.hops.direct {
            kinds.entry(hop.by).or_default().push(far_end);
        }
        for (kind, far_ends) in kinds {
            let socket = match kind {
                Direct::Packet => "packet socket",
                Direct::Xsk => "AF_XDP socket",
            };
            info!("{} by {socket}", backends(&far_ends));
        }
        let mut reasons = BTreeMap::<&Reason, Vec<IpAddr>>::new();
        for (&far_end, reason) in &self.raw {
            reasons.entry(reason).or_default().push(far_end);
        }
        for (reason, far_ends) in reasons {
            info!("{} by raw socket: {reason}", backends(&far_ends));
        }
        let segmenting: Vec<_> = self.hops.segmenting.keys().copied().collect();
        if !segmenting.is_empty() {
            let far_ends = backends(&segmenting);
            info!("{far_ends} by UDP socket where several packets of one length leave together");
        }
    }
}

/// Up to which length and from which number on packets of a GUE tunnel leave together. A device that segments
/// makes it cheap. Software pays each packet's checksum once more, which long ones do not earn back, and
/// competes with sockets that go straight to the device. The numbers for software are estimates from the costs
/// of each way alone (one call by UDP socket some 2.9 µs, one packet in a large one 0.8, by AF_XDP 0.7).
const fn segmenting(by_device: bool, is_direct: bool) -> Segmenting {
    match (by_device, is_direct) {
        (true, _) => Segmenting {
            longest: 65_535,
            fewest: 3,
        },
        (false, true) => Segmenting {
            longest: 512,
            fewest: 12,
        },
        (false, false) => Segmenting {
            longest: 512,
            fewest: 3,
        },
    }
}

/// More backends than this are not named.
const NAMED: usize = 3;

/// `2 backends (10.0.1.11, 10.0.1.12)`
fn backends(far_ends: &[IpAddr]) -> String {
    let named: Vec<_> = far_ends.iter().take(NAMED).map(IpAddr::to_string).collect();
    let more = if far_ends.len() > NAMED { ", …" } else { "" };
    let number = count(far_ends.len(), "backend");
    format!("{number} ({}{more})", named.join(", "))
}

/// The far ends of the tunnels in `traffic`.
pub(super) fn far_ends(traffic: &BTreeMap<IpAddr, Traffic>) -> BTreeSet<IpAddr> {
    traffic.keys().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::facts::{FirewallFacts, Observed};
    use crate::io::egress::LinkHeader;
    use std::num::NonZeroU16;

    const NEAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 11));
    const LOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 12));

    fn resolved() -> Resolved {
        let hop = Hop {
            link: 2,
            header: LinkHeader::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], NEAR),
            mtu: 1500,
            by: Direct::Xsk,
        };
        Resolved {
            hops: [(NEAR, Ok(hop)), (LOST, Err(NoHop::Neighbour))].into(),
            devices: [(2, "eth0".to_owned())].into(),
            ..Resolved::default()
        }
    }

    fn traffic(kind: EncapKind) -> BTreeMap<IpAddr, Traffic> {
        let source = Some([10, 0, 1, 2].into());
        let sent = Traffic {
            tunnels: vec![(kind, Version::V4, source)],
        };
        [NEAR, LOST].map(|far_end| (far_end, sent.clone())).into()
    }

    fn obstacles(rules: &str) -> Obstacles {
        let save = format!("*filter\n:OUTPUT ACCEPT [0:0]\n{rules}COMMIT\n");
        let facts = FirewallFacts {
            iptables: [("iptables-legacy-save".to_owned(), Observed::Seen(save))].into(),
            nft: Observed::Seen(String::new()),
            ..FirewallFacts::default()
        };
        Obstacles {
            everywhere: None,
            queueing: BTreeMap::new(),
            filters: DepartureFilters::of(&facts),
            known: BTreeMap::new(),
        }
    }

    fn reason(ways: &Ways, far_end: IpAddr) -> Option<String> {
        ways.raw.get(&far_end).map(Reason::to_string)
    }

    #[test]
    fn what_keeps_packets_from_leaving_directly() {
        let drops = obstacles("-A OUTPUT -p ipencap -j DROP\n");
        let passes = obstacles("-A OUTPUT -p ipencap -j ACCEPT\n-A OUTPUT -p tcp -j DROP\n");
        let shaped = Obstacles {
            queueing: [(2, "htb".to_owned())].into(),
            ..obstacles("")
        };
        let elsewhere = Obstacles {
            queueing: [(3, "htb".to_owned())].into(),
            ..obstacles("")
        };
        let ipsec = Obstacles {
            everywhere: Some("1 IPsec policies for what leaves".to_owned()),
            ..obstacles("")
        };
        for (description, obstacles, expected) in [
            ("whatever it passes by", None, None),
            ("no rules", Some(obstacles("")), None),
            ("rules for others", Some(passes), None),
            ("a rule", Some(drops), Some("iptables")),
            (
                "a shaper",
                Some(shaped),
                Some("queueing discipline htb of eth0"),
            ),
            ("a shaper of another device", Some(elsewhere), None),
            ("IPsec", Some(ipsec), Some("1 IPsec policies")),
        ] {
            let mut obstacles = obstacles;
            let ways = Ways::choose(&resolved(), &traffic(EncapKind::Ipip), obstacles.as_mut());
            let said = reason(&ways, NEAR);
            assert_eq!(
                said.is_none(),
                ways.hops.direct.contains_key(&NEAR),
                "{description}"
            );
            match (said, expected) {
                (None, None) => {}
                (Some(said), Some(part)) => assert!(said.contains(part), "{description}: {said}"),
                (said, _) => panic!("{description}: {said:?}"),
            }
            let lost = reason(&ways, LOST).unwrap();
            assert_eq!(lost, NoHop::Neighbour.to_string(), "{description}");
            assert!(ways.hops.segmenting.is_empty(), "{description}");
        }
    }

    #[test]
    fn gue_leaves_together_where_nothing_forbids_it() {
        let gue = EncapKind::Gue {
            port: NonZeroU16::new(6080).unwrap(),
        };
        let (mut resolved, traffic) = (resolved(), traffic(gue));
        let segmenting = |resolved: &Resolved, obstacles: Option<Obstacles>| {
            let mut obstacles = obstacles;
            let ways = Ways::choose(resolved, &traffic, obstacles.as_mut());
            ways.hops.segmenting.get(&NEAR).copied()
        };
        assert_eq!(segmenting(&resolved, None), None);
        let software = segmenting(&resolved, Some(obstacles(""))).unwrap();
        assert_eq!(software, super::segmenting(false, true));
        let filtered = obstacles("-A OUTPUT -p udp -j DROP\n");
        let by_raw = segmenting(&resolved, Some(filtered)).unwrap();
        assert_eq!(by_raw, super::segmenting(false, false));
        resolved.segmenting.insert(2);
        let device = segmenting(&resolved, Some(obstacles(""))).unwrap();
        assert_eq!(device, super::segmenting(true, true));
        let ipsec = Obstacles {
            everywhere: Some("1 IPsec policies for what leaves".to_owned()),
            ..obstacles("")
        };
        assert_eq!(segmenting(&resolved, Some(ipsec)), None);
    }
}
