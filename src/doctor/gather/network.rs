//! Devices, addresses, neighbours and rules, and what the kernel answers to route questions: all by
//! netlink, which needs no privileges for it.

use std::net::IpAddr;

use crate::doctor::facts::{
    Address, Link, Neighbour, Observed, PolicyRule, Route, RouteAnswer, TunnelFacts,
};
use crate::io::netlink::{self, Netlink, NetlinkError, ProxyNeighbour, RouteKind, RouteQuery};
use crate::io::on_link::Subnets;

/// The network of this namespace, and a connection for questions.
#[derive(Debug)]
pub(super) struct Network {
    netlink: Result<Netlink, String>,
    /// The devices as netlink has them, with more than the facts need.
    devices: Vec<netlink::Link>,
    pub(super) links: Observed<Vec<Link>>,
    pub(super) addresses: Observed<Vec<Address>>,
    pub(super) rules: Observed<Vec<PolicyRule>>,
}

impl Network {
    pub(super) fn read() -> Self {
        let mut network = Self {
            netlink: Netlink::open().map_err(|error| error.to_string()),
            devices: Vec::new(),
            links: Observed::default(),
            addresses: Observed::default(),
            rules: Observed::default(),
        };
        let devices = network.list(Netlink::links);
        network.links = devices.as_deref().map(links).into();
        network.devices = devices.unwrap_or_default();
        let addresses = network.list(Netlink::addresses);
        network.addresses = addresses.map(addresses_of).into();
        network.rules = network.list(Netlink::rules).map(rules_of).into();
        network
    }

    /// The neighbour tables as they are now.
    pub(super) fn neighbours(&mut self) -> Observed<Vec<Neighbour>> {
        self.list(Netlink::neighbours).map(neighbours_of).into()
    }

    /// The subnets of this machine.
    pub(super) fn subnets(&mut self) -> Result<Subnets, String> {
        self.list(Subnets::read)
    }

    /// The addresses that the kernel answers for on a device.
    pub(super) fn proxy_neighbours(&mut self) -> Result<Vec<ProxyNeighbour>, String> {
        self.list(Netlink::proxy_neighbours)
    }

    fn list<T>(
        &mut self,
        ask: impl Fn(&mut Netlink) -> Result<T, NetlinkError>,
    ) -> Result<T, String> {
        let netlink = self.netlink.as_mut().map_err(|reason| reason.clone())?;
        ask(netlink).map_err(|error| error.to_string())
    }

    /// The devices with all that netlink tells.
    pub(super) fn devices(&self) -> &[netlink::Link] {
        &self.devices
    }

    /// The device of that name.
    pub(super) fn device(&self, name: &str) -> Option<&netlink::Link> {
        self.devices.iter().find(|link| link.name == name)
    }

    /// The name of the device with that index.
    pub(super) fn name_of(&self, index: u32) -> Option<String> {
        let link = self.devices.iter().find(|link| link.index == index)?;
        Some(link.name.clone())
    }

    /// The addresses on a device.
    pub(super) fn addresses_on(&self, index: u32) -> impl Iterator<Item = &Address> {
        let all = self.addresses.seen().map_or(&[][..], Vec::as_slice);
        all.iter().filter(move |address| address.link == index)
    }

    /// Whether a device of this namespace has that address.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        let has = |all: &Vec<Address>| all.iter().any(|held| held.net.addr() == address);
        self.addresses.seen().is_some_and(has)
    }

    /// `ip route get`.
    pub(super) fn ask(&mut self, destination: IpAddr, query: RouteQuery) -> RouteAnswer {
        let families_differ = |from: IpAddr| from.is_ipv4() != destination.is_ipv4();
        if query.from.is_some_and(families_differ) {
            let reason = format!("{destination} and its peer are of different address families");
            return RouteAnswer::Unseen(reason);
        }
        let netlink = match &mut self.netlink {
            Ok(netlink) => netlink,
            Err(reason) => return RouteAnswer::Unseen(reason.clone()),
        };
        match netlink.route_to(destination, query) {
            Ok(route) => RouteAnswer::Route(self.named(&route)),
            Err(error) => match error.errno() {
                Some(errno) => RouteAnswer::Refused(errno),
                None => RouteAnswer::Unseen(error.to_string()),
            },
        }
    }

    fn named(&self, route: &netlink::Route) -> Route {
        Route {
            kind: kind_text(route.kind),
            device: route.oif.and_then(|index| self.name_of(index)),
            gateway: route.gateway,
            source: route.preferred_source,
            mtu: route.mtu,
            advmss: route.advmss,
            table: route.table,
        }
    }
}

/// As ip(8) writes it (`rtnl_rtntype_n2a` of iproute2).
fn kind_text(kind: RouteKind) -> String {
    let text = match kind {
        RouteKind::Unicast => "unicast",
        RouteKind::Local => "local",
        RouteKind::Broadcast => "broadcast",
        RouteKind::Multicast => "multicast",
        RouteKind::Unreachable => "unreachable",
        RouteKind::Blackhole => "blackhole",
        RouteKind::Prohibit => "prohibit",
        RouteKind::Other(4) => "anycast",
        RouteKind::Other(9) => "throw",
        RouteKind::Other(10) => "nat",
        RouteKind::Other(11) => "xresolve",
        RouteKind::Other(number) => return number.to_string(),
    };
    text.to_owned()
}

fn links(devices: &[netlink::Link]) -> Vec<Link> {
    let link = |device: &netlink::Link| Link {
        index: device.index,
        name: device.name.clone(),
        mtu: device.mtu,
        up: device.up,
        arp: device.arp,
        hardware: device.hardware,
        group: device.group,
        kind: device.kind.clone(),
        bridge: device.master,
        tunnel: device.tunnel.map(|tunnel| TunnelFacts {
            local: tunnel.local,
            remote: tunnel.remote,
            protocol: tunnel.protocol,
            external: tunnel.external,
        }),
        rx_packets: device.rx_packets,
        tx_packets: device.tx_packets,
    };
    devices.iter().map(link).collect()
}

fn addresses_of(addresses: Vec<netlink::Address>) -> Vec<Address> {
    let address = |address: netlink::Address| Address {
        link: address.link,
        net: address.net,
    };
    addresses.into_iter().map(address).collect()
}

/// Without those that need no look-up, as ip(8) lists them.
fn neighbours_of(neighbours: Vec<netlink::Neighbour>) -> Vec<Neighbour> {
    let looked_up = |neighbour: &netlink::Neighbour| neighbour.state != "NOARP";
    let neighbour = |neighbour: netlink::Neighbour| Neighbour {
        link: neighbour.link,
        address: neighbour.address,
        state: neighbour.state,
        lladdr: colon_form(&neighbour.link_layer_address),
    };
    let neighbours = neighbours.into_iter().filter(looked_up);
    neighbours.map(neighbour).collect()
}

fn colon_form(bytes: &[u8]) -> Option<String> {
    let parts: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(parts.join(":")).filter(|text| !text.is_empty())
}

fn rules_of(rules: Vec<netlink::PolicyRule>) -> Vec<PolicyRule> {
    let rule = |rule: netlink::PolicyRule| PolicyRule {
        ipv6: rule.ipv6,
        priority: rule.priority,
        inverted: rule.inverted,
        from: rule.from,
        to: rule.to,
        iif: rule.iif,
        oif: rule.oif,
        mark: rule.mark,
        table: rule.table,
        text: rule.text,
    };
    rules.into_iter().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_layer_addresses_in_colon_form() {
        assert_eq!(colon_form(&[2, 0, 0xab]), Some("02:00:ab".to_owned()));
        assert_eq!(colon_form(&[]), None);
    }

    #[test]
    fn the_loopback_address_is_local() {
        let mut network = Network::read();
        let answer = network.ask([127, 0, 0, 1].into(), RouteQuery::default());
        let RouteAnswer::Route(route) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(route.kind, "local");
        assert_eq!(route.device.as_deref(), Some("lo"));
        assert!(network.has([127, 0, 0, 1].into()));
    }

    #[test]
    fn questions_across_families_are_not_asked() {
        let query = RouteQuery {
            from: Some("2001:db8::1".parse().unwrap()),
            ..RouteQuery::default()
        };
        let answer = Network::read().ask([127, 0, 0, 1].into(), query);
        assert!(matches!(answer, RouteAnswer::Unseen(_)), "{answer:?}");
    }
}
