//! Routes: which way the kernel would send a packet, and the few routes that tunlb adds itself.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
        RouteProtocol, RouteScope, RouteType, RouteVia,
    },
};

use super::{Netlink, NetlinkError, Operation, address::family_of};
use crate::packet::Version;

/// Further conditions of a route look-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RouteQuery {
    /// The packet's source address.
    pub from: Option<IpAddr>,
    /// Index of the device it would come in on: the kernel then runs its input path, `rp_filter` included.
    pub iif: Option<u32>,
    /// The packet's protocol by its IANA number, for policy rules that select by it.
    pub protocol: Option<u8>,
    /// The packet's source port, for policy rules that select by it.
    pub source_port: Option<u16>,
    /// The packet's destination port, for policy rules that select by it.
    pub destination_port: Option<u16>,
    /// The packet's firewall mark, for policy rules that select by it.
    pub mark: Option<u32>,
}

impl RouteQuery {
    fn attributes(self) -> Vec<RouteAttribute> {
        let conditions = [
            self.from.map(|from| RouteAttribute::Source(from.into())),
            self.iif.map(RouteAttribute::Iif),
            self.protocol.map(RouteAttribute::IpProto),
            self.source_port.map(RouteAttribute::Sport),
            self.destination_port.map(RouteAttribute::Dport),
            self.mark.map(RouteAttribute::Mark),
        ];
        conditions.into_iter().flatten().collect()
    }
}

/// What the kernel does with a packet to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// What happens to the packet.
    pub kind: RouteKind,
    /// Index of the device it leaves by.
    pub oif: Option<u32>,
    /// The next hop where the destination is not on link; of either family.
    pub gateway: Option<IpAddr>,
    /// The source address that the kernel would give it.
    pub preferred_source: Option<IpAddr>,
    /// MTU in bytes of the route itself (set by hand, or learnt by path MTU discovery); the device has its own.
    pub mtu: Option<u32>,
    /// The largest segment in bytes that TCP announces over it, where that is set by hand (`advmss`).
    pub advmss: Option<u32>,
    /// Whether it encapsulates what it carries (a lightweight tunnel: `encap …`).
    pub encapsulates: bool,
    /// The table that it was found in; the kernel keeps the local table inside the main one, and says
    /// so, until a policy rule is added.
    pub table: Option<u32>,
}

/// What a route does with packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// Sent on.
    Unicast,
    /// For this machine.
    Local,
    /// To all of a segment.
    Broadcast,
    /// To a group.
    Multicast,
    /// Refused with an ICMP error.
    Unreachable,
    /// Thrown away in silence.
    Blackhole,
    /// Refused by the administrator.
    Prohibit,
    /// Another of `rtm_type`, by its number.
    Other(u8),
}

impl Netlink {
    /// Asks the kernel where a packet to `destination` would go, as `ip route get` does.
    ///
    /// # Errors
    /// ENETUNREACH or EHOSTUNREACH where there is no way; EINVAL (EXDEV) where `rp_filter` refuses an
    /// input query; any other [`NetlinkError`].
    pub fn route_to(
        &mut self,
        destination: IpAddr,
        query: RouteQuery,
    ) -> Result<Route, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family_of(destination);
        message.header.destination_prefix_length = prefix_length_of_host(destination);
        message.header.source_prefix_length = query.from.map_or(0, prefix_length_of_host);
        if destination.is_ipv4() {
            // Without it the answer says "main" always; IPv6 tells the table unasked, and refuses it.
            message.header.flags = RouteFlags::LookupTable;
        }
        message.attributes = vec![RouteAttribute::Destination(destination.into())];
        message.attributes.extend(query.attributes());
        let operation = Operation::new("look up route to", destination);
        let answers = self.query(&operation, RouteNetlinkMessage::GetRoute(message))?;
        answers
            .into_iter()
            .find_map(route_of)
            .ok_or_else(|| super::malformed(&operation, 0, "no route in it"))
    }

    /// The MTU in bytes that is set by hand on the route which a packet to `destination` takes, whatever was
    /// learnt by path MTU discovery.
    ///
    /// # Errors
    /// As of [`route_to`](Self::route_to).
    pub fn configured_mtu(&mut self, destination: IpAddr) -> Result<Option<u32>, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family_of(destination);
        message.header.destination_prefix_length = prefix_length_of_host(destination);
        message.header.flags = RouteFlags::FibMatch;
        message.attributes = vec![RouteAttribute::Destination(destination.into())];
        let operation = Operation::new("look up the route entry for", destination);
        let answers = self.query(&operation, RouteNetlinkMessage::GetRoute(message))?;
        Ok(answers
            .into_iter()
            .find_map(route_of)
            .and_then(|route| route.mtu))
    }

    /// Adds a route for `net` through the device `oif` to the main table.
    ///
    /// # Errors
    /// [`NetlinkError::Exists`] where the table has a route for `net`; any other [`NetlinkError`].
    pub fn add_route(&mut self, net: IpNet, oif: u32) -> Result<(), NetlinkError> {
        let operation = Operation::new("add route", format_args!("{net} dev {oif}"));
        let message = RouteNetlinkMessage::NewRoute(device_route(net, oif, RouteScope::Universe));
        self.change(&operation, message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Removes the route that [`Netlink::add_route`] added.
    ///
    /// # Errors
    /// ESRCH where it is not there; any other [`NetlinkError`].
    pub fn remove_route(&mut self, net: IpNet, oif: u32) -> Result<(), NetlinkError> {
        let operation = Operation::new("remove route", format_args!("{net} dev {oif}"));
        let message = RouteNetlinkMessage::DelRoute(device_route(net, oif, RouteScope::NoWhere));
        self.change(&operation, message, 0)
    }

    /// Adds a route to the main table that answers packets for `net` with "unreachable", where no route with
    /// a better metric is.
    ///
    /// # Errors
    /// [`NetlinkError::Exists`] where the table has a route for `net` with that metric; any other
    /// [`NetlinkError`].
    pub fn add_unreachable(&mut self, net: IpNet, metric: u32) -> Result<(), NetlinkError> {
        let operation = Operation::new("add route", format_args!("unreachable {net}"));
        let message = RouteNetlinkMessage::NewRoute(unreachable(net, metric));
        self.change(&operation, message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Removes the route that [`Netlink::add_unreachable`] added.
    ///
    /// # Errors
    /// ESRCH where it is not there; any other [`NetlinkError`].
    pub fn remove_unreachable(&mut self, net: IpNet, metric: u32) -> Result<(), NetlinkError> {
        let operation = Operation::new("remove route", format_args!("unreachable {net}"));
        let message = RouteNetlinkMessage::DelRoute(unreachable(net, metric));
        self.change(&operation, message, 0)
    }

    /// What the routes of the main table through the device `oif` are for.
    ///
    /// # Errors
    /// Any [`NetlinkError`].
    pub fn routes_through(&mut self, oif: u32) -> Result<Vec<IpNet>, NetlinkError> {
        let mut request = RouteMessage::default();
        request.attributes = vec![RouteAttribute::Oif(oif)];
        self.destinations(&request, |_| true)
    }

    /// What the unreachable routes of the main table with that metric are for.
    ///
    /// # Errors
    /// Any [`NetlinkError`].
    pub fn unreachable_routes(&mut self, metric: u32) -> Result<Vec<IpNet>, NetlinkError> {
        let mut request = RouteMessage::default();
        request.header.kind = RouteType::Unreachable;
        let metric = RouteAttribute::Priority(metric);
        self.destinations(&request, |route| route.attributes.contains(&metric))
    }

    /// What routes of both families are for.
    fn destinations(
        &mut self,
        request: &RouteMessage,
        chosen: impl Fn(&RouteMessage) -> bool,
    ) -> Result<Vec<IpNet>, NetlinkError> {
        let mut nets = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let routes = self.main_routes(family, request.clone(), &chosen)?;
            nets.extend(routes.iter().filter_map(net_of));
        }
        Ok(nets)
    }

    /// The devices of the default routes of the main table, by index, for the family of `version`.
    ///
    /// # Errors
    /// Any [`NetlinkError`].
    pub fn default_devices(&mut self, version: Version) -> Result<Vec<u32>, NetlinkError> {
        let default = |route: &RouteMessage| route.header.destination_prefix_length == 0;
        let routes = self.main_routes(family(version), RouteMessage::default(), default)?;
        Ok(routes.iter().flat_map(devices_of).collect())
    }

    /// The devices of the IPv6 routes that came by router advertisement, by index.
    ///
    /// # Errors
    /// Any [`NetlinkError`].
    pub fn advertised_devices(&mut self) -> Result<Vec<u32>, NetlinkError> {
        let mut request = RouteMessage::default();
        request.header.protocol = RouteProtocol::Ra;
        let routes = self.main_routes(AddressFamily::Inet6, request, |_| true)?;
        Ok(routes.iter().flat_map(devices_of).collect())
    }

    /// Routes of one family in the main table; the kernel filters by what `request` says.
    fn main_routes(
        &mut self,
        family: AddressFamily,
        mut request: RouteMessage,
        chosen: impl Fn(&RouteMessage) -> bool,
    ) -> Result<Vec<RouteMessage>, NetlinkError> {
        request.header.address_family = family;
        let request = RouteNetlinkMessage::GetRoute(request);
        let answers = self.dump(&Operation::new("list", "routes"), &request)?;
        let route = |answer| {
            if let RouteNetlinkMessage::NewRoute(route) = answer {
                Some(route)
            } else {
                None
            }
        };
        let in_main = |route: &RouteMessage| {
            let RouteHeader {
                table,
                address_family,
                ..
            } = route.header;
            (table, address_family) == (RouteHeader::RT_TABLE_MAIN, family)
        };
        let routes = answers.into_iter().filter_map(route);
        Ok(routes
            .filter(|route| in_main(route) && chosen(route))
            .collect())
    }
}

/// The devices that a route leads to: one, or that of each of its next hops.
pub(super) fn devices_of(route: &RouteMessage) -> Vec<u32> {
    let mut devices = Vec::new();
    for attribute in &route.attributes {
        if let RouteAttribute::Oif(index) = attribute {
            devices.push(*index);
        } else if let RouteAttribute::MultiPath(hops) = attribute {
            devices.extend(hops.iter().map(|hop| hop.interface_index));
        }
    }
    devices
}

pub(super) const fn family(version: Version) -> AddressFamily {
    match version {
        Version::V4 => AddressFamily::Inet,
        Version::V6 => AddressFamily::Inet6,
    }
}

fn net_of(route: &RouteMessage) -> Option<IpNet> {
    let destination = route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Destination(address) = attribute {
            ip_of(address)
        } else {
            None
        }
    });
    IpNet::new(destination?, route.header.destination_prefix_length).ok()
}

/// A route without a way.
fn unreachable(net: IpNet, metric: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family_of(net.addr()),
        destination_prefix_length: net.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Static,
        scope: RouteScope::Universe,
        kind: RouteType::Unreachable,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(net.network().into()),
        RouteAttribute::Priority(metric),
    ];
    message
}

/// A route without a next hop: everything for `net` goes into the device.
///
/// Its scope is "universe" although nothing is behind the device, so that the [probes'](super::ProbeRoute) route can
/// be told from it. "Nowhere" finds one of any scope, also that of a former version (`fib_table_delete`,
/// linux/net/ipv4/fib_trie.c).
fn device_route(net: IpNet, oif: u32, scope: RouteScope) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family_of(net.addr()),
        destination_prefix_length: net.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Static,
        scope,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(net.network().into()),
        RouteAttribute::Oif(oif),
    ];
    message
}

fn prefix_length_of_host(address: IpAddr) -> u8 {
    IpNet::from(address).max_prefix_len()
}

pub(super) fn route_of(message: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else {
        return None;
    };
    let mut route = Route {
        kind: kind_of(message.header.kind),
        oif: None,
        gateway: None,
        preferred_source: None,
        mtu: None,
        advmss: None,
        encapsulates: false,
        table: Some(u32::from(message.header.table)).filter(|table| *table != 0),
    };
    for attribute in &message.attributes {
        read_attribute(&mut route, attribute);
    }
    Some(route)
}

fn read_attribute(route: &mut Route, attribute: &RouteAttribute) {
    if let RouteAttribute::Oif(oif) = attribute {
        route.oif = Some(*oif);
    } else if let RouteAttribute::Gateway(gateway) = attribute {
        route.gateway = ip_of(gateway);
    } else if let RouteAttribute::Via(via) = attribute {
        route.gateway = via_of(via);
    } else if let RouteAttribute::PrefSource(source) = attribute {
        route.preferred_source = ip_of(source);
    } else if let RouteAttribute::Metrics(metrics) = attribute {
        route.mtu = metrics.iter().find_map(mtu_of);
        route.advmss = metrics.iter().find_map(advmss_of);
    } else if matches!(
        attribute,
        RouteAttribute::EncapType(_) | RouteAttribute::Encap(_)
    ) {
        route.encapsulates = true;
    } else if let RouteAttribute::Table(table) = attribute {
        route.table = Some(*table).filter(|table| *table != 0);
    }
}

fn advmss_of(metric: &RouteMetric) -> Option<u32> {
    if let RouteMetric::Advmss(advmss) = metric {
        Some(*advmss)
    } else {
        None
    }
}

fn mtu_of(metric: &RouteMetric) -> Option<u32> {
    if let RouteMetric::Mtu(mtu) = metric {
        Some(*mtu)
    } else {
        None
    }
}

pub(super) fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(address) = address {
        Some((*address).into())
    } else if let RouteAddress::Inet6(address) = address {
        Some((*address).into())
    } else {
        None
    }
}

/// A next hop of the other family (RFC 5549).
fn via_of(via: &RouteVia) -> Option<IpAddr> {
    if let RouteVia::Inet(address) = via {
        Some((*address).into())
    } else if let RouteVia::Inet6(address) = via {
        Some((*address).into())
    } else {
        None
    }
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "the crate's enum is open; what has no name here keeps its number"
)]
fn kind_of(kind: RouteType) -> RouteKind {
    match kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        RouteType::Broadcast => RouteKind::Broadcast,
        RouteType::Multicast => RouteKind::Multicast,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Prohibit => RouteKind::Prohibit,
        other => RouteKind::Other(other.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_becomes_a_route() {
        let mut message = RouteMessage::default();
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![
            RouteAttribute::Oif(4),
            RouteAttribute::Gateway(RouteAddress::Inet("10.0.1.1".parse().unwrap())),
            RouteAttribute::PrefSource(RouteAddress::Inet("10.0.1.2".parse().unwrap())),
            RouteAttribute::Metrics(vec![RouteMetric::Advmss(1360), RouteMetric::Mtu(1400)]),
            RouteAttribute::Table(1000),
        ];
        let expected = Route {
            kind: RouteKind::Unicast,
            oif: Some(4),
            gateway: Some("10.0.1.1".parse().unwrap()),
            preferred_source: Some("10.0.1.2".parse().unwrap()),
            mtu: Some(1400),
            advmss: Some(1360),
            encapsulates: false,
            table: Some(1000),
        };
        assert_eq!(
            route_of(RouteNetlinkMessage::NewRoute(message)),
            Some(expected)
        );
    }

    #[test]
    fn host_bits_are_cut_from_a_route() {
        let message = device_route("10.0.0.100/24".parse().unwrap(), 4, RouteScope::Universe);
        let network: IpAddr = "10.0.0.0".parse().unwrap();
        assert_eq!(
            message.attributes[0],
            RouteAttribute::Destination(network.into())
        );
    }

    #[test]
    fn the_kernel_knows_its_loopback() {
        let mut netlink = Netlink::open().unwrap();
        let route = netlink
            .route_to("127.0.0.1".parse().unwrap(), RouteQuery::default())
            .unwrap();
        assert_eq!(route.kind, RouteKind::Local);
    }
}
