//! Connected subnets: the routes of the main table that lead out of a device without a next hop, so that
//! this machine, like its neighbours, asks on the link itself for every address in them.

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType},
};

use super::{Netlink, NetlinkError, Operation};

/// Who adds such routes: the kernel with an address, an operator or a script, DHCP clients, router
/// advertisements. Routing daemons are left out, whose tables may hold a million of routes.
const PROTOCOLS: [RouteProtocol; 5] = [
    RouteProtocol::Kernel,
    RouteProtocol::Boot,
    RouteProtocol::Static,
    RouteProtocol::Ra,
    RouteProtocol::Dhcp,
];

/// A subnet that is on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectedSubnet {
    /// The subnet; neither a host nor everything.
    pub net: IpNet,
    /// Index of the device.
    pub link: u32,
    /// The route's metric; of two equal subnets the kernel takes the lower one.
    pub metric: u32,
}

impl Netlink {
    /// All connected subnets of the main table.
    ///
    /// # Errors
    /// Any [`NetlinkError`].
    pub fn connected_subnets(&mut self) -> Result<Vec<ConnectedSubnet>, NetlinkError> {
        let mut subnets = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for protocol in PROTOCOLS {
                let mut request = RouteMessage::default();
                request.header.address_family = family;
                request.header.table = RouteHeader::RT_TABLE_MAIN;
                request.header.protocol = protocol;
                request.header.kind = RouteType::Unicast;
                let request = RouteNetlinkMessage::GetRoute(request);
                let answers = self.dump(&Operation::new("list", "connected subnets"), &request)?;
                subnets.extend(answers.into_iter().filter_map(subnet_of));
            }
        }
        Ok(subnets)
    }
}

fn subnet_of(message: RouteNetlinkMessage) -> Option<ConnectedSubnet> {
    let RouteNetlinkMessage::NewRoute(message) = message else {
        return None;
    };
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let (mut destination, mut link, mut metric) = (None, None, 0);
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(RouteAddress::Inet(address)) = attribute {
            destination = Some((*address).into());
        } else if let RouteAttribute::Destination(RouteAddress::Inet6(address)) = attribute {
            destination = Some((*address).into());
        } else if let RouteAttribute::Oif(index) = attribute {
            link = Some(*index);
        } else if let RouteAttribute::Priority(priority) = attribute {
            metric = *priority;
        } else if is_next_hop(attribute) {
            return None;
        }
    }
    let net = IpNet::new(destination?, header.destination_prefix_length).ok()?;
    let is_subnet = (1..net.max_prefix_len()).contains(&net.prefix_len());
    let link = link.filter(|_| is_subnet)?;
    Some(ConnectedSubnet { net, link, metric })
}

/// Whether packets go to another machine first.
fn is_next_hop(attribute: &RouteAttribute) -> bool {
    matches!(
        attribute,
        RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_)
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::io::testing::in_namespace;

    #[test]
    fn what_is_a_subnet() {
        let message = |attributes: Vec<RouteAttribute>, length| {
            let mut message = RouteMessage::default();
            message.header.address_family = AddressFamily::Inet;
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            message.header.kind = RouteType::Unicast;
            message.header.destination_prefix_length = length;
            message.attributes = attributes;
            subnet_of(RouteNetlinkMessage::NewRoute(message))
        };
        let to = |address: &str| {
            RouteAttribute::Destination(RouteAddress::Inet(address.parse().unwrap()))
        };
        let gateway = RouteAttribute::Gateway(RouteAddress::Inet("10.0.0.1".parse().unwrap()));
        let expected = ConnectedSubnet {
            net: "10.0.0.0/24".parse().unwrap(),
            link: 4,
            metric: 100,
        };
        let attributes = vec![
            to("10.0.0.0"),
            RouteAttribute::Oif(4),
            RouteAttribute::Priority(100),
        ];
        assert_eq!(message(attributes.clone(), 24), Some(expected));
        assert_eq!(message(attributes.clone(), 32), None, "a host");
        let routed = [attributes, vec![gateway]].concat();
        assert_eq!(message(routed, 24), None, "behind a router");
        assert_eq!(message(vec![RouteAttribute::Oif(4)], 0), None, "everything");
        assert_eq!(message(vec![to("10.0.0.0")], 24), None, "no device");
    }

    #[test]
    fn subnets_of_the_kernel() {
        in_namespace("io::netlink::connected::tests::subnets_of_the_kernel_inside");
    }

    #[test]
    #[ignore = "run by subnets_of_the_kernel in a namespace of its own"]
    fn subnets_of_the_kernel_inside() {
        let script = "ip link add eth0 type veth peer name eth1
            ip link set eth0 up; ip link set eth1 up
            ip addr add 10.0.0.2/24 dev eth0
            ip addr add 2001:db8::2/64 dev eth0 nodad
            ip addr add 10.9.0.2/24 dev eth1 noprefixroute
            ip addr add 10.8.0.2/32 dev eth1
            ip route add 10.7.0.0/16 dev eth1 proto static metric 7
            ip route add 10.6.0.0/16 via 10.0.0.1
            ip route add default dev eth1
            ip route add unreachable 10.5.0.0/16
            ip route add 10.4.0.0/16 dev eth1 table 100
            ip route add 10.3.0.0/16 dev eth1 proto bird";
        let status = Command::new("sh").args(["-euc", script]).status().unwrap();
        assert!(status.success());
        let mut netlink = Netlink::open().unwrap();
        let subnets = netlink.connected_subnets().unwrap();
        let mut texts: Vec<_> = subnets
            .iter()
            .filter(|subnet| !subnet.net.to_string().starts_with("fe80"))
            .map(|subnet| format!("{} {}", subnet.net, subnet.metric))
            .collect();
        texts.sort();
        assert_eq!(
            texts,
            ["10.0.0.0/24 0", "10.7.0.0/16 7", "2001:db8::/64 256"]
        );
    }
}
