//! Routes of a table that are copied to another one, and the rule by which that one is asked.
//!
//! A copy is the message that the kernel lists, so whatever a route has goes along: next hops, their devices
//! and weights, source, metrics. Left out is what only describes the present state.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, Nla};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
        RouteNextHop, RouteNextHopFlags, RouteType,
    },
    rule::{RuleAction, RuleAttribute, RuleMessage},
};

use super::address::family_of;
use super::route::{devices_of, family, ip_of};
use super::{Netlink, NetlinkError, Operation};
use crate::packet::Version;

/// The number of the main table.
pub const MAIN_TABLE: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// A route, whatever the table that it is in.
#[derive(Debug, Clone)]
pub struct TableRoute {
    /// Without a table.
    message: RouteMessage,
    devices: Vec<u32>,
    /// Whether the kernel passes it by: its device, or that of a next hop, is down.
    pub is_dead: bool,
}

/// Two are the same where the kernel would route by them alike.
impl PartialEq for TableRoute {
    fn eq(&self, other: &Self) -> bool {
        self.message == other.message
    }
}

impl TableRoute {
    fn new(mut message: RouteMessage) -> Self {
        let (devices, is_dead) = (devices_of(&message), is_dead(&message));
        message.header.table = 0;
        message.header.flags &= RouteFlags::Onlink;
        let attributes = &mut message.attributes;
        let by_object = attributes.iter().any(is_next_hop_object);
        attributes.retain(|attribute| !(is_state(attribute) || by_object && is_way(attribute)));
        attributes.sort_by_key(Nla::kind); // the kernel's order is another one
        for attribute in attributes {
            if let RouteAttribute::MultiPath(hops) = attribute {
                for hop in hops {
                    hop.flags &= RouteNextHopFlags::Onlink;
                }
            }
        }
        Self {
            message,
            devices,
            is_dead,
        }
    }

    /// The devices that it leads to, by index.
    #[must_use]
    pub fn devices(&self) -> &[u32] {
        &self.devices
    }

    /// Whether it is for everything.
    #[must_use]
    pub const fn is_default(&self) -> bool {
        self.message.header.destination_prefix_length == 0
    }

    /// The MTU in bytes that is set on it by hand.
    #[must_use]
    pub fn mtu(&self) -> Option<u32> {
        self.metrics().iter().find_map(mtu)
    }

    /// The largest segment in bytes that TCP announces over it, where that is set by hand.
    #[must_use]
    pub fn advmss(&self) -> Option<u32> {
        self.metrics().iter().find_map(advmss)
    }

    /// The same route, over which TCP announces segments of that many bytes.
    #[must_use]
    pub fn with_advmss(&self, bytes: u32) -> Self {
        let mut metrics = self.metrics().to_vec();
        metrics.retain(|metric| advmss(metric).is_none());
        metrics.push(RouteMetric::Advmss(bytes));
        metrics.sort_by_key(Nla::kind);
        let mut route = self.clone();
        let attributes = &mut route.message.attributes;
        let there = attributes.iter_mut().find_map(metrics_mut);
        match there {
            Some(there) => *there = metrics,
            None => attributes.push(RouteAttribute::Metrics(metrics)),
        }
        attributes.sort_by_key(Nla::kind);
        route
    }

    /// Its destination, next hop, metric and source, as ip-route(8) takes them, where it has one next hop on
    /// the device of that name.
    #[must_use]
    pub fn words(&self, device: &str) -> Option<Vec<String>> {
        if !self.is_default() || self.devices.len() != 1 {
            return None;
        }
        let mut words = vec!["default".to_owned()];
        let mut add = |name: &str, value: String| words.extend([name.to_owned(), value]);
        for attribute in &self.message.attributes {
            if let RouteAttribute::Gateway(gateway) = attribute {
                add("via", ip_of(gateway)?.to_string());
            } else if let RouteAttribute::PrefSource(source) = attribute {
                add("src", ip_of(source)?.to_string());
            } else if let RouteAttribute::Priority(metric) = attribute {
                add("metric", metric.to_string());
            } else if matches!(attribute, RouteAttribute::Via(_) | RouteAttribute::NhId(_)) {
                return None;
            }
        }
        add("dev", device.to_owned());
        Some(words)
    }

    fn metrics(&self) -> &[RouteMetric] {
        let metrics = self.message.attributes.iter().find_map(metrics_of);
        metrics.unwrap_or_default()
    }

    fn in_table(&self, table: u32) -> RouteMessage {
        let mut message = self.message.clone();
        message.attributes.push(RouteAttribute::Table(table));
        message
    }
}

fn metrics_of(attribute: &RouteAttribute) -> Option<&[RouteMetric]> {
    if let RouteAttribute::Metrics(metrics) = attribute {
        Some(metrics)
    } else {
        None
    }
}

fn metrics_mut(attribute: &mut RouteAttribute) -> Option<&mut Vec<RouteMetric>> {
    if let RouteAttribute::Metrics(metrics) = attribute {
        Some(metrics)
    } else {
        None
    }
}

const fn mtu(metric: &RouteMetric) -> Option<u32> {
    if let RouteMetric::Mtu(mtu) = metric {
        Some(*mtu)
    } else {
        None
    }
}

const fn advmss(metric: &RouteMetric) -> Option<u32> {
    if let RouteMetric::Advmss(bytes) = metric {
        Some(*bytes)
    } else {
        None
    }
}

/// The next hops of a route that has several.
fn hops_of(attribute: &RouteAttribute) -> &[RouteNextHop] {
    if let RouteAttribute::MultiPath(hops) = attribute {
        hops
    } else {
        &[]
    }
}

fn is_next_hop_object(attribute: &RouteAttribute) -> bool {
    matches!(attribute, RouteAttribute::NhId(_))
}

/// What the kernel lists beside a next hop object, and takes only without one.
fn is_way(attribute: &RouteAttribute) -> bool {
    matches!(
        attribute,
        RouteAttribute::Gateway(_)
            | RouteAttribute::Via(_)
            | RouteAttribute::Oif(_)
            | RouteAttribute::MultiPath(_)
    )
}

/// What is not a property of the route.
fn is_state(attribute: &RouteAttribute) -> bool {
    matches!(
        attribute,
        RouteAttribute::Table(_) | RouteAttribute::CacheInfo(_) | RouteAttribute::Expires(_)
    )
}

fn is_dead(message: &RouteMessage) -> bool {
    let mut hops = message.attributes.iter().flat_map(hops_of);
    message.header.flags.contains(RouteFlags::Dead)
        || hops.any(|hop| hop.flags.contains(RouteNextHopFlags::Dead))
}

impl Netlink {
    /// The routes of a table that packets may take or are refused by, in an order in which they can be
    /// added to another one: those without a next hop first.
    ///
    /// # Errors
    /// Any [`NetlinkError`].
    pub fn routes_of_table(
        &mut self,
        version: Version,
        table: u32,
    ) -> Result<Vec<TableRoute>, NetlinkError> {
        let mut request = RouteMessage::default();
        request.header.address_family = family(version);
        request.attributes = vec![RouteAttribute::Table(table)];
        let request = RouteNetlinkMessage::GetRoute(request);
        let operation = Operation::new("list routes of table", table);
        let answers = match self.dump(&operation, &request) {
            // There never was a route in it.
            Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(Vec::new()),
            other => other?,
        };
        let mut routes = Vec::new();
        for answer in answers {
            if let RouteNetlinkMessage::NewRoute(message) = answer
                && is_of(&message, version, table)
            {
                routes.push(TableRoute::new(message));
            }
        }
        routes.sort_by_key(|route| u8::from(has_next_hop(&route.message)));
        Ok(routes)
    }

    /// Adds a route to a table, behind those of the same destination and metric: both families may have such.
    ///
    /// # Errors
    /// Any [`NetlinkError`].
    pub fn add_table_route(&mut self, route: &TableRoute, table: u32) -> Result<(), NetlinkError> {
        let operation = Operation::new("add a route to table", table);
        let message = RouteNetlinkMessage::NewRoute(route.in_table(table));
        let behind = if route.message.header.address_family == AddressFamily::Inet {
            NLM_F_APPEND
        } else {
            0 // of IPv6 it would join them to one of several next hops
        };
        self.change(&operation, message, NLM_F_CREATE | behind)
    }

    /// Removes a route from a table.
    ///
    /// # Errors
    /// ESRCH where it is not there; any other [`NetlinkError`].
    pub fn remove_table_route(
        &mut self,
        route: &TableRoute,
        table: u32,
    ) -> Result<(), NetlinkError> {
        let operation = Operation::new("remove a route from table", table);
        let message = RouteNetlinkMessage::DelRoute(route.in_table(table));
        self.change(&operation, message, 0)
    }

    /// Adds a policy rule: what comes from `from` asks `table`, before rules with a larger `priority`.
    ///
    /// # Errors
    /// [`NetlinkError::Exists`] where it is there; EOPNOTSUPP of a kernel without policy routing; any other
    /// [`NetlinkError`].
    pub fn add_rule_from(
        &mut self,
        from: IpAddr,
        table: u32,
        priority: u32,
    ) -> Result<(), NetlinkError> {
        let operation = Operation::new("add rule", format_args!("from {from} lookup {table}"));
        let message = RouteNetlinkMessage::NewRule(rule_from(from, table, priority));
        self.change(&operation, message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Removes the rule that [`Netlink::add_rule_from`] added.
    ///
    /// # Errors
    /// ENOENT where it is not there; any other [`NetlinkError`].
    pub fn remove_rule_from(
        &mut self,
        from: IpAddr,
        table: u32,
        priority: u32,
    ) -> Result<(), NetlinkError> {
        let operation = Operation::new("remove rule", format_args!("from {from} lookup {table}"));
        let message = RouteNetlinkMessage::DelRule(rule_from(from, table, priority));
        self.change(&operation, message, 0)
    }
}

fn rule_from(from: IpAddr, table: u32, priority: u32) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family_of(from);
    message.header.src_len = if from.is_ipv4() { 32 } else { 128 };
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Source(from),
        RuleAttribute::Priority(priority),
        RuleAttribute::Table(table),
    ];
    message
}

fn is_of(message: &RouteMessage, version: Version, table: u32) -> bool {
    let RouteHeader {
        address_family,
        table: number,
        kind,
        ..
    } = message.header;
    let attribute = message.attributes.iter().find_map(table_of);
    let is_taken = matches!(
        kind,
        RouteType::Unicast
            | RouteType::Unreachable
            | RouteType::BlackHole
            | RouteType::Prohibit
            | RouteType::Throw
    );
    address_family == family(version)
        && attribute.unwrap_or_else(|| number.into()) == table
        && is_taken
        && !message.header.flags.contains(RouteFlags::Cloned)
}

fn table_of(attribute: &RouteAttribute) -> Option<u32> {
    if let RouteAttribute::Table(table) = attribute {
        Some(*table)
    } else {
        None
    }
}

fn has_next_hop(message: &RouteMessage) -> bool {
    let attributes = message.attributes.iter();
    let of_hops = attributes
        .clone()
        .flat_map(hops_of)
        .flat_map(|hop| &hop.attributes);
    attributes.chain(of_hops).any(is_next_hop)
}

fn is_next_hop(attribute: &RouteAttribute) -> bool {
    matches!(
        attribute,
        RouteAttribute::Gateway(RouteAddress::Inet(_) | RouteAddress::Inet6(_))
            | RouteAttribute::Via(_)
            | RouteAttribute::NhId(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::netlink::RouteQuery;
    use crate::io::testing::in_namespace;
    use std::process::Command;

    #[test]
    fn tables_are_copied() {
        in_namespace("io::netlink::table::tests::tables_are_copied_inside");
    }

    /// Runs lines of ip(8).
    fn ip(lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let status = Command::new("ip").args(line.split_whitespace()).status();
            assert!(status.unwrap().success(), "ip {line}");
        }
    }

    #[test]
    #[ignore = "run by tables_are_copied in a namespace of its own"]
    fn tables_are_copied_inside() {
        ip("link add v0 type veth peer name v1
            link set v0 up
            link set v1 up
            addr add 10.0.1.11/24 dev v0
            addr add 2001:db8:1::11/64 dev v0 nodad
            -6 route add 2001:db8:7::/64 dev v0 metric 256
            -6 route append 2001:db8:7::/64 dev v1 metric 256
            route add 10.7.0.0/24 dev v0 metric 5
            route append 10.7.0.0/24 dev v1 metric 5
            route add default via 10.0.1.1 src 10.0.1.11 metric 100
            route add 10.2.0.0/16 via 10.0.1.7 mtu lock 1400 advmss 1000 initcwnd 20
            route add 10.3.0.0/16 nexthop via 10.0.1.2 weight 2 nexthop via 10.0.1.3
            route add 10.4.0.0/16 via 192.0.2.1 dev v0 onlink
            route add unreachable 10.5.0.0/16
            nexthop add id 7 via 10.0.1.9 dev v0
            route add 10.6.0.0/16 nhid 7
            -6 route add default via 2001:db8:1::1 metric 7
            -6 route add 2001:db8:3::/48 nexthop via 2001:db8:1::2 nexthop via 2001:db8:1::3
            -6 route add unreachable 2001:db8:5::/48");
        let mut netlink = Netlink::open().unwrap();
        for (version, at_least) in [(Version::V4, 7), (Version::V6, 4)] {
            let main = netlink.routes_of_table(version, MAIN_TABLE).unwrap();
            assert!(main.len() >= at_least, "{main:#?}");
            assert!(netlink.routes_of_table(version, 6080).unwrap().is_empty());
            let copies: Vec<_> = main.iter().map(|route| route.with_advmss(1234)).collect();
            for copy in &copies {
                netlink.add_table_route(copy, 6080).unwrap();
            }
            let there = netlink.routes_of_table(version, 6080).unwrap();
            assert_eq!(there.len(), copies.len());
            for copy in &copies {
                assert!(there.contains(copy), "{copy:#?} in {there:#?}");
                assert_eq!(copy.advmss(), Some(1234));
            }
            for copy in &there {
                netlink.remove_table_route(copy, 6080).unwrap();
            }
            assert!(netlink.routes_of_table(version, 6080).unwrap().is_empty());
            assert_eq!(netlink.routes_of_table(version, MAIN_TABLE).unwrap(), main);
        }
        let main = netlink.routes_of_table(Version::V4, MAIN_TABLE).unwrap();
        let default = main.iter().find(|route| route.is_default()).unwrap();
        let words = "default src 10.0.1.11 via 10.0.1.1 metric 100 dev v0";
        let mut found = default.words("v0").unwrap();
        let mut expected: Vec<_> = words.split(' ').map(str::to_owned).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
        let limited = main.iter().find(|route| route.mtu().is_some()).unwrap();
        assert_eq!((limited.mtu(), limited.advmss()), (Some(1400), Some(1000)));
    }

    #[test]
    fn rules_come_and_go() {
        in_namespace("io::netlink::table::tests::rules_come_and_go_inside");
    }

    #[test]
    #[ignore = "run by rules_come_and_go in a namespace of its own"]
    fn rules_come_and_go_inside() {
        ip("link add v0 type veth peer name v1
            link set v0 up
            link set v1 up
            addr add 10.0.1.11/24 dev v0
            addr add 10.0.0.100/32 dev lo
            route add default via 10.0.1.1");
        let mut netlink = Netlink::open().unwrap();
        let before = netlink.rules().unwrap();
        let vip: IpAddr = [10, 0, 0, 100].into();
        for route in netlink.routes_of_table(Version::V4, MAIN_TABLE).unwrap() {
            let copy = route.with_advmss(1440);
            netlink.add_table_route(&copy, 6080).unwrap();
        }
        let query = RouteQuery {
            from: Some(vip),
            ..RouteQuery::default()
        };
        let client = [192, 0, 2, 1].into();
        let advmss = |netlink: &mut Netlink, query| netlink.route_to(client, query).unwrap().advmss;
        assert_eq!(advmss(&mut netlink, query), None);
        netlink.add_rule_from(vip, 6080, 32765).unwrap();
        assert!(matches!(
            netlink.add_rule_from(vip, 6080, 32765),
            Err(NetlinkError::Exists { .. })
        ));
        assert_eq!(advmss(&mut netlink, query), Some(1440));
        assert_eq!(advmss(&mut netlink, RouteQuery::default()), None);
        netlink.remove_rule_from(vip, 6080, 32765).unwrap();
        let again = netlink.remove_rule_from(vip, 6080, 32765).unwrap_err();
        assert_eq!(again.errno(), Some(libc::ENOENT));
        assert_eq!(netlink.rules().unwrap(), before);
    }
}
