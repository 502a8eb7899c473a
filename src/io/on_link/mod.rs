//! Addresses in this host's own subnets: the machines there do not send a packet for one to a router, they
//! ask the segment who has it. Finds the subnet of an address, asks as they do, and announces.
//!
//! Knows nothing of VIPs; adds no entry to the kernel's tables (`netlink` does).

mod announce;
mod answering;
mod ask;
mod socket;

use std::net::IpAddr;

use ipnet::IpNet;

pub use announce::Announcer;
pub use answering::{Missing, missing};
pub use ask::{Question, ask};

use super::netlink::{Address, ConnectedSubnet, Link, Netlink, NetlinkError};
use crate::packet::neighbour::MacAddress;

/// A subnet on an Ethernet segment that this host is part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// The subnet.
    pub net: IpNet,
    /// Index of the device.
    pub link: u32,
    /// Name of the device.
    pub device: String,
    /// Link-layer address of the device.
    pub mac: MacAddress,
    /// The address of this host with which it asks there; none where the device has none of the family.
    pub source: Option<IpAddr>,
}

/// The subnets of this host, the narrowest first; of equal ones in the order in which the kernel takes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subnets(Vec<Subnet>);

impl Subnets {
    /// Reads them from the kernel; needs no privileges.
    ///
    /// # Errors
    /// Any [`NetlinkError`].
    pub fn read(netlink: &mut Netlink) -> Result<Self, NetlinkError> {
        let links = netlink.links()?;
        let addresses = netlink.addresses()?;
        Ok(Self::new(netlink.connected_subnets()?, &links, &addresses))
    }

    /// Of the connected subnets those of devices that are up and speak ARP: on others no machine is asked.
    #[must_use]
    pub fn new(mut connected: Vec<ConnectedSubnet>, links: &[Link], addresses: &[Address]) -> Self {
        connected.sort_by_key(|subnet| {
            let length = std::cmp::Reverse(subnet.net.prefix_len());
            (length, subnet.metric, subnet.link)
        });
        let subnet = |connected: &ConnectedSubnet| {
            let link = links.iter().find(|link| link.index == connected.link)?;
            let on_it = addresses.iter().filter(|held| held.link == link.index);
            Some(Subnet {
                net: connected.net,
                link: link.index,
                device: link.name.clone(),
                mac: link.mac.filter(|_| link.arp && link.up)?,
                source: source(connected.net, on_it.map(|held| held.net)),
            })
        };
        Self(connected.iter().filter_map(subnet).collect())
    }

    /// The narrowest subnet that an address is in.
    #[must_use]
    pub fn of(&self, address: IpAddr) -> Option<&Subnet> {
        self.0.iter().find(|subnet| subnet.net.contains(&address))
    }

    /// The narrowest subnet of that device that an address is in.
    #[must_use]
    pub fn of_device(&self, device: &str, address: IpAddr) -> Option<&Subnet> {
        let mut subnets = self.0.iter().filter(|subnet| subnet.device == device);
        subnets.find(|subnet| subnet.net.contains(&address))
    }
}

/// Of IPv6 the link-local address, as the kernel asks; else one in the subnet, else any of the family.
fn source(net: IpNet, on_device: impl Iterator<Item = IpNet> + Clone) -> Option<IpAddr> {
    let addresses = || on_device.clone().map(|held| held.addr());
    let same_family = |address: &IpAddr| address.is_ipv4() == net.addr().is_ipv4();
    addresses()
        .find(|address| same_family(address) && is_link_local(*address))
        .or_else(|| addresses().find(|address| net.contains(address)))
        .or_else(|| addresses().find(same_family))
}

const fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.into(),
            up: true,
            arp: true,
            mac: Some(MacAddress([2, 0, 0, 0, 0, u8::try_from(index).unwrap()])),
            ..Link::default()
        }
    }

    fn connected(net: &str, link: u32, metric: u32) -> ConnectedSubnet {
        ConnectedSubnet {
            net: net.parse().unwrap(),
            link,
            metric,
        }
    }

    fn address(net: &str, link: u32) -> Address {
        Address {
            link,
            net: net.parse().unwrap(),
        }
    }

    #[test]
    fn the_narrowest_subnet_counts() {
        let down = Link {
            up: false,
            ..link(4, "eth3")
        };
        let tun = Link {
            arp: false,
            ..link(5, "tunlb0")
        };
        let links = [link(2, "eth0"), link(3, "br0"), down, tun];
        let subnets = Subnets::new(
            vec![
                connected("10.0.0.0/8", 2, 0),
                connected("10.0.1.0/24", 3, 0),
                connected("10.0.2.0/24", 3, 200),
                connected("10.0.2.0/24", 2, 100),
                connected("10.0.1.128/25", 4, 0),
                connected("10.0.1.0/25", 5, 0),
                connected("2001:db8::/64", 3, 256),
            ],
            &links,
            &[],
        );
        for (address, expected) in [
            ("10.9.0.1", Some("eth0 10.0.0.0/8")),
            ("10.0.1.7", Some("br0 10.0.1.0/24")),
            ("10.0.1.200", Some("br0 10.0.1.0/24")),
            ("10.0.2.1", Some("eth0 10.0.2.0/24")),
            ("2001:db8::7", Some("br0 2001:db8::/64")),
            ("192.0.2.1", None),
            ("2001:db8:1::7", None),
        ] {
            let found = subnets.of(address.parse().unwrap());
            let found = found.map(|subnet| format!("{} {}", subnet.device, subnet.net));
            assert_eq!(found.as_deref(), expected, "{address}");
        }
        let on_eth0 = subnets.of_device("eth0", "10.0.1.7".parse().unwrap());
        assert_eq!(on_eth0.unwrap().net, "10.0.0.0/8".parse().unwrap());
        assert_eq!(
            subnets.of_device("eth0", "2001:db8::7".parse().unwrap()),
            None
        );
    }

    #[test]
    fn a_host_asks_as_its_kernel_does() {
        let addresses = [
            address("192.0.2.2/24", 2),
            address("10.0.0.2/24", 2),
            address("2001:db8::2/64", 2),
            address("fe80::2/64", 2),
            address("10.0.0.3/24", 3),
        ];
        let subnets = Subnets::new(
            vec![
                connected("10.0.0.0/24", 2, 0),
                connected("2001:db8::/64", 2, 0),
                connected("198.51.100.0/24", 2, 0),
                connected("2001:db8:3::/64", 3, 0),
            ],
            &[link(2, "eth0"), link(3, "eth1")],
            &addresses,
        );
        for (address, expected) in [
            ("10.0.0.100", Some("10.0.0.2")),
            ("2001:db8::100", Some("fe80::2")),
            ("198.51.100.1", Some("192.0.2.2")),
            ("2001:db8:3::1", None),
        ] {
            let subnet = subnets.of(address.parse().unwrap()).unwrap();
            let source = subnet.source.map(|source| source.to_string());
            assert_eq!(source.as_deref(), expected, "{address}");
        }
    }
}
