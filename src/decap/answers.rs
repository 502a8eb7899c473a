//! The segment size that this machine announces in answers from a VIP: what clients send comes through the
//! tunnel, which has less room than the device.
//!
//! With `--setup` answers go by a table of their own: copies of the main table's routes, each with an
//! `advmss` that fits the tunnel, which a policy rule asks for packets from the VIP. The operator's own routes
//! stay as they are, and where a rule of the operator's comes first, that one decides. The copies
//! follow the main table at once. Where a route cannot be copied there are no copies at all: answers
//! then take the main table, as without `--setup`.

use std::net::IpAddr;

use crate::{
    io::{
        netlink::{Link, MAIN_TABLE, Netlink, NetlinkError, PolicyRule, RouteQuery, TableRoute},
        undo::{COPY_TABLES, Undo, UndoError},
    },
    packet::{EncapKind, Version},
};

use super::{Encapsulation, Settings, lack::Lack};

/// A backend has few routes; one with a table of the Internet needs `advmss` on those, by its operator.
const MOST_ROUTES: usize = 1000;

/// Any client outside: addresses of documentation (RFC 5737, RFC 3849).
const CLIENT_V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const CLIENT_V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// The copies of one family's routes.
#[derive(Debug)]
struct Copies {
    version: Version,
    vips: Vec<IpAddr>,
    /// Where they are; `None` until the first look.
    table: Option<u32>,
    /// What was said about why there are none.
    told: Option<String>,
}

/// The tables that answers from the VIPs go by.
#[derive(Debug)]
pub(super) struct AnswerRoutes(Vec<Copies>);

/// What a tunnel leaves of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    /// Bytes of the outer header.
    overhead: u32,
    /// Of the devices that the directors' packets come in by; `None` where no director is named.
    mtu: Option<u32>,
}

impl AnswerRoutes {
    /// None yet.
    pub(super) fn new(settings: &Settings) -> Self {
        let copies = [Version::V4, Version::V6].map(|version| {
            let is_of = |vip: &&IpAddr| vip.is_ipv4() == (version == Version::V4);
            Copies {
                version,
                vips: settings.vips().iter().filter(is_of).copied().collect(),
                table: None,
                told: None,
            }
        });
        let needed = copies.into_iter().filter(|copies| !copies.vips.is_empty());
        Self(needed.collect())
    }

    /// Makes the copies what the main table is now. Where that is not possible, a warning says so once.
    pub(super) fn follow(
        &mut self,
        settings: &Settings,
        links: &[Link],
        netlink: &mut Netlink,
        undo: &mut Undo,
    ) {
        let room = room(settings, links, netlink);
        for copies in &mut self.0 {
            match copies.follow(room, links, netlink, undo) {
                Ok(()) => copies.told = None,
                Err(error) => copies.complain(&error),
            }
        }
    }
}

/// Why answers go by no table of their own.
#[derive(Debug, thiserror::Error)]
enum AnswerError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Undo(#[from] UndoError),
    #[error("the main table has {0} routes, more than {MOST_ROUTES}")]
    TooMany(usize),
    #[error("tables {} to {} are in use", COPY_TABLES.start(), COPY_TABLES.end())]
    NoTable,
    #[error("no policy rule asks the main table")]
    NoRule,
}

impl Copies {
    fn follow(
        &mut self,
        room: Room,
        links: &[Link],
        netlink: &mut Netlink,
        undo: &mut Undo,
    ) -> Result<(), AnswerError> {
        let rules = netlink.rules()?;
        // Without policy routing every table is the main one.
        let priority = before_main(&rules, self.version, room).ok_or(AnswerError::NoRule)?;
        let main = netlink.routes_of_table(self.version, MAIN_TABLE)?;
        let wanted: Vec<_> = main
            .iter()
            .filter(|route| !route.is_dead)
            .map(|route| match segment(route, room, links, self.version) {
                Some(bytes) => route.with_advmss(bytes),
                None => route.clone(),
            })
            .collect();
        let table = self.table(netlink, undo)?;
        let there = netlink.routes_of_table(self.version, table)?;
        let made = match wanted.len() {
            many if many > MOST_ROUTES => Err(AnswerError::TooMany(many)),
            _ => replace(&there, &wanted, table, netlink),
        };
        if let Err(error) = made {
            for route in netlink.routes_of_table(self.version, table)? {
                netlink.remove_table_route(&route, table).ok(); // others may have removed it
            }
            return Err(error);
        }
        self.ask(table, priority, &rules, undo)
    }

    /// The table for the copies: at the first look an empty one.
    fn table(&mut self, netlink: &mut Netlink, undo: &mut Undo) -> Result<u32, AnswerError> {
        if let Some(table) = self.table {
            return Ok(table);
        }
        for table in COPY_TABLES {
            if netlink.routes_of_table(self.version, table)?.is_empty() {
                undo.keep_table(self.version, table);
                self.table = Some(table);
                return Ok(table);
            }
        }
        Err(AnswerError::NoTable)
    }

    /// Packets from the VIPs ask the copies.
    fn ask(
        &self,
        table: u32,
        priority: u32,
        rules: &[PolicyRule],
        undo: &mut Undo,
    ) -> Result<(), AnswerError> {
        for vip in &self.vips {
            let is_there = rules
                .iter()
                .any(|rule| rule.from == Some((*vip).into()) && rule.table == Some(table));
            if !is_there {
                undo.add_rule(*vip, table, priority)?;
            }
        }
        Ok(())
    }

    fn complain(&mut self, error: &AnswerError) {
        let text = error.to_string();
        if self.told.as_ref() != Some(&text) {
            log::warn!(
                "answers from the VIPs keep the segment size of their device ({text}): connections wait for \
                 Fragmentation Needed of the director; set advmss on the routes to clients"
            );
            self.told = Some(text);
        }
    }
}

/// The priority of a rule that comes before those that ask the main table; the longer the outer header, the
/// earlier, so that of two decapsulators for one VIP the one with less room decides.
fn before_main(rules: &[PolicyRule], version: Version, room: Room) -> Option<u32> {
    let ipv6 = version == Version::V6;
    let of_main = rules
        .iter()
        .filter(|rule| rule.ipv6 == ipv6 && rule.table == Some(MAIN_TABLE));
    let main = of_main.map(|rule| rule.priority).min()?;
    main.checked_sub(room.overhead)
        .filter(|priority| *priority > 0)
}

/// Removes what is not wanted, then adds what is missing.
fn replace(
    there: &[TableRoute],
    wanted: &[TableRoute],
    table: u32,
    netlink: &mut Netlink,
) -> Result<(), AnswerError> {
    for route in there.iter().filter(|route| !wanted.contains(route)) {
        netlink.remove_table_route(route, table)?;
    }
    for route in wanted.iter().filter(|route| !there.contains(route)) {
        netlink.add_table_route(route, table)?;
    }
    Ok(())
}

/// The segment to announce over a route; `None` for one without a device, such as an unreachable one.
fn segment(route: &TableRoute, room: Room, links: &[Link], version: Version) -> Option<u32> {
    let of_route = |index: &u32| links.iter().find(|link| link.index == *index);
    let device = route
        .devices()
        .iter()
        .filter_map(of_route)
        .map(|link| link.mtu)
        .min();
    let mtu = route.mtu().or(device)?;
    let fits = room.segment(mtu, version);
    Some(route.advmss().map_or(fits, |announced| announced.min(fits)))
}

impl Room {
    /// The largest segment that fits the tunnel, where answers leave by a way of that MTU.
    fn segment(self, mtu: u32, version: Version) -> u32 {
        let path = self.mtu.map_or(mtu, |path| path.min(mtu));
        path.saturating_sub(self.overhead + headers(version))
    }
}

/// IP and TCP header without options, which a segment size leaves out (RFC 6691 §2).
const fn headers(version: Version) -> u32 {
    crate::packet::headers_beside_mss(version) as u32
}

/// Where no director is named, the outer header may be IPv6's, which is the longer one.
fn room(settings: &Settings, links: &[Link], netlink: &mut Netlink) -> Room {
    let directors = settings.directors();
    let outer = match directors {
        [] => CLIENT_V6,
        some if some.iter().any(|net| net.addr().is_ipv6()) => CLIENT_V6,
        _ => CLIENT_V4,
    };
    let kind = match settings.encapsulation() {
        Encapsulation::Ipip => EncapKind::Ipip,
        Encapsulation::Gue(port) => EncapKind::Gue { port },
    };
    let mut mtu_to = |director: IpAddr| {
        let route = netlink.route_to(director, RouteQuery::default()).ok()?;
        let link = links.iter().find(|link| Some(link.index) == route.oif)?;
        Some(link.mtu)
    };
    let mtus = directors.iter().filter_map(|net| mtu_to(net.addr()));
    Room {
        overhead: u32::try_from(kind.overhead(&outer)).unwrap_or(u32::MAX),
        mtu: mtus.min(),
    }
}

/// Without `--setup`: the VIPs' families whose answers announce segments that do not fit the tunnel.
pub(super) fn lacks(settings: &Settings, links: &[Link], netlink: &mut Netlink) -> Vec<Lack> {
    let room = room(settings, links, netlink);
    let mut lacks = Vec::new();
    for copies in AnswerRoutes::new(settings).0 {
        let vip = copies.vips.first().copied();
        lacks.extend(vip.and_then(|vip| lack(vip, copies.version, room, links, netlink)));
    }
    lacks
}

fn lack(
    vip: IpAddr,
    version: Version,
    room: Room,
    links: &[Link],
    netlink: &mut Netlink,
) -> Option<Lack> {
    let client = match version {
        Version::V4 => CLIENT_V4,
        Version::V6 => CLIENT_V6,
    };
    let query = RouteQuery {
        from: Some(vip),
        ..RouteQuery::default()
    };
    // The kernel refuses a source that is no address of this machine yet.
    let route = netlink.route_to(client, query);
    let route = route
        .or_else(|_| netlink.route_to(client, RouteQuery::default()))
        .ok()?;
    let link = links.iter().find(|link| Some(link.index) == route.oif)?;
    let mtu = route.mtu.unwrap_or(link.mtu);
    let announced = route
        .advmss
        .unwrap_or_else(|| mtu.saturating_sub(headers(version)));
    let fits = room.segment(mtu, version);
    if announced <= fits {
        return None;
    }
    let main = netlink
        .routes_of_table(version, MAIN_TABLE)
        .unwrap_or_default();
    let is_taken = |route: &&TableRoute| route.is_default() && route.devices() == [link.index];
    let words = main
        .iter()
        .find(is_taken)
        .filter(|_| route.table == Some(MAIN_TABLE))
        .and_then(|route| route.words(&link.name));
    Some(Lack::SegmentSize {
        version,
        announced,
        fits,
        route: words,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_way_counts() {
        for (overhead, tunnel, answers, version, expected) in [
            (20, Some(1500), 1500, Version::V4, 1440),
            (28, Some(1500), 1500, Version::V4, 1432),
            (40, Some(1500), 1500, Version::V6, 1400),
            (48, Some(1500), 9000, Version::V6, 1392),
            (20, Some(9000), 1500, Version::V4, 1440),
            (20, Some(1400), 1500, Version::V4, 1340),
            (40, None, 1500, Version::V4, 1420),
            (40, Some(68), 1500, Version::V4, 0),
        ] {
            let room = Room {
                overhead,
                mtu: tunnel,
            };
            let found = room.segment(answers, version);
            assert_eq!(found, expected, "{room:?} {answers} {version:?}");
        }
    }

    #[test]
    fn rules_come_before_those_of_the_main_table() {
        let rule = |ipv6, priority, table| PolicyRule {
            ipv6,
            priority,
            table: Some(table),
            ..PolicyRule::default()
        };
        let first = [rule(false, 0, 255), rule(true, 0, 255)];
        let room = |overhead| Room {
            overhead,
            mtu: None,
        };
        for (more, overhead, expected) in [
            (vec![rule(false, 32766, 254)], 20, Some(32746)),
            (vec![rule(false, 32766, 254)], 48, Some(32718)),
            (
                vec![rule(false, 1000, 254), rule(false, 32766, 254)],
                20,
                Some(980),
            ),
            (vec![rule(true, 32766, 254)], 20, None),
            (vec![rule(false, 10, 254)], 20, None),
            (vec![], 20, None),
        ] {
            let rules = [&first[..], &more].concat();
            let found = before_main(&rules, Version::V4, room(overhead));
            assert_eq!(found, expected, "{more:?}");
        }
    }
}
