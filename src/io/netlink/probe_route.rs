//! The second route of a VIP, which only probes take: into a device of their own.
//!
//! Over IPv4 it has the scope of a link, which a look-up of scope "universe" passes by as long as another route is
//! there, and which a socket with SO_DONTROUTE asks for (`fib_table_lookup`, linux/net/ipv4/fib_trie.c). Over
//! IPv6 it is for one source address (ip-route(8): `from`; CONFIG_IPV6_SUBTREES). Neither needs a policy rule, so
//! that the kernel's look-ups for other packets cost what they did.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use serde::{Deserialize, Serialize};

use super::{Netlink, NetlinkError, Operation, address::family_of};

/// The protocol number of such routes (`rtm_protocol`), so that a routing daemon can leave them alone: none that
/// iproute2 names.
pub const PROBE_PROTOCOL: u8 = 146;

/// Worse than what routing daemons use, better than the route of last resort.
pub const PROBE_METRIC: u32 = 40_960;

/// A second route of a VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeRoute {
    /// What it is for.
    pub vip: IpAddr,
    /// For packets from where; IPv6 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// For packets with that TOS alone (ip-route(8): `tos`); 0: with any. IPv4 only.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tos: u8,
    /// Lower goes first.
    pub metric: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
const fn is_zero(tos: &u8) -> bool {
    *tos == 0
}

impl fmt::Display for ProbeRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            vip,
            source,
            tos,
            metric,
        } = self;
        write!(f, "{}", IpNet::from(*vip))?;
        source
            .iter()
            .try_for_each(|source| write!(f, " from {source}"))?;
        if *tos != 0 {
            write!(f, " tos {tos:#x}")?;
        }
        write!(f, " metric {metric}")
    }
}

impl Netlink {
    /// Adds a probe route through the device `oif` to the main table.
    ///
    /// # Errors
    /// [`NetlinkError::Exists`] where the table has one like it; any other [`NetlinkError`].
    pub fn add_probe_route(&mut self, route: &ProbeRoute, oif: u32) -> Result<(), NetlinkError> {
        let operation = Operation::new("add route", format_args!("{route} dev {oif}"));
        let message = RouteNetlinkMessage::NewRoute(message(route, oif));
        self.change(&operation, message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Removes the route that [`Netlink::add_probe_route`] added.
    ///
    /// # Errors
    /// ESRCH where it is not there; any other [`NetlinkError`].
    pub fn remove_probe_route(&mut self, route: &ProbeRoute, oif: u32) -> Result<(), NetlinkError> {
        let operation = Operation::new("remove route", format_args!("{route} dev {oif}"));
        let message = RouteNetlinkMessage::DelRoute(message(route, oif));
        self.change(&operation, message, 0)
    }
}

fn message(route: &ProbeRoute, oif: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    let net = IpNet::from(route.vip);
    message.header = RouteHeader {
        address_family: family_of(route.vip),
        destination_prefix_length: net.prefix_len(),
        source_prefix_length: route
            .source
            .map_or(0, |source| IpNet::from(source).prefix_len()),
        tos: route.tos,
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Other(PROBE_PROTOCOL),
        scope: match route.vip {
            IpAddr::V4(_) => RouteScope::Link,
            IpAddr::V6(_) => RouteScope::Universe, // IPv6 routes have no scope
        },
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(route.vip.into()),
        RouteAttribute::Oif(oif),
        RouteAttribute::Priority(route.metric),
    ];
    message.attributes.extend(
        route
            .source
            .map(|source| RouteAttribute::Source(source.into())),
    );
    message
}
