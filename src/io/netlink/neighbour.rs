//! Neighbours: who answers on a link, as the kernel's ARP and neighbour discovery know it; and the
//! addresses that the kernel answers for itself (proxy entries).

use std::net::IpAddr;

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::{
    RouteNetlinkMessage,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
};

use super::{Netlink, NetlinkError, Operation, address::family_of};

/// An entry of the neighbour tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of the device.
    pub link: u32,
    /// Its address.
    pub address: IpAddr,
    /// As `ip neigh` writes it: `REACHABLE`, `STALE`, `FAILED`, `INCOMPLETE`, `PERMANENT`, ….
    pub state: String,
    /// Its link-layer address; empty while it is not known.
    pub link_layer_address: Vec<u8>,
}

/// An address that the kernel answers for on a device, as `ip neigh add proxy` makes it answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProxyNeighbour {
    /// Index of the device; 0: on every device, which only old programs ask for.
    pub link: u32,
    /// The address.
    pub address: IpAddr,
}

impl Netlink {
    /// All IPv4 and IPv6 neighbours of the namespace.
    ///
    /// # Errors
    /// Any [`NetlinkError`].
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>, NetlinkError> {
        let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let answers = self.dump(&Operation::new("list", "neighbours"), &request)?;
        Ok(answers.into_iter().filter_map(neighbour_of).collect())
    }

    /// All IPv4 and IPv6 addresses that the kernel answers for.
    ///
    /// # Errors
    /// Any [`NetlinkError`].
    pub fn proxy_neighbours(&mut self) -> Result<Vec<ProxyNeighbour>, NetlinkError> {
        let mut request = NeighbourMessage::default();
        request.header.flags = NeighbourFlags::Proxy;
        let request = RouteNetlinkMessage::GetNeighbour(request);
        let answers = self.dump(&Operation::new("list", "proxy neighbours"), &request)?;
        Ok(answers.into_iter().filter_map(proxy_of).collect())
    }

    /// Makes the kernel answer for an address; where it does already, nothing changes.
    ///
    /// # Errors
    /// Any [`NetlinkError`].
    pub fn add_proxy_neighbour(&mut self, entry: ProxyNeighbour) -> Result<(), NetlinkError> {
        let operation = Operation::new("add", entry);
        let message = RouteNetlinkMessage::NewNeighbour(proxy_message(entry));
        self.change(&operation, message, NLM_F_CREATE)
    }

    /// Removes what [`Netlink::add_proxy_neighbour`] added.
    ///
    /// # Errors
    /// ENOENT where it is not there, ENODEV where its device is gone; any other [`NetlinkError`].
    pub fn remove_proxy_neighbour(&mut self, entry: ProxyNeighbour) -> Result<(), NetlinkError> {
        let operation = Operation::new("remove", entry);
        let message = RouteNetlinkMessage::DelNeighbour(proxy_message(entry));
        self.change(&operation, message, 0)
    }

    /// Makes the kernel treat a neighbour that it knows as if it had just sent a packet to it: an entry that
    /// is stale is confirmed or fails (`NTF_USE`, linux/neighbour.h).
    ///
    /// # Errors
    /// Any [`NetlinkError`]; EPERM without CAP_NET_ADMIN.
    pub fn use_neighbour(&mut self, link: u32, address: IpAddr) -> Result<(), NetlinkError> {
        self.set_off(link, address, 0)
    }

    /// The same of one that the kernel need not know: it is looked for on the segment, as it would be for a packet.
    ///
    /// # Errors
    /// As of [`use_neighbour`](Self::use_neighbour).
    pub fn look_for_neighbour(&mut self, link: u32, address: IpAddr) -> Result<(), NetlinkError> {
        self.set_off(link, address, NLM_F_CREATE)
    }

    fn set_off(&mut self, link: u32, address: IpAddr, flags: u16) -> Result<(), NetlinkError> {
        let message = entry_message(link, address, NeighbourFlags::Use);
        let operation = Operation::new("use neighbour", format_args!("{address} dev {link}"));
        self.change(
            &operation,
            RouteNetlinkMessage::NewNeighbour(message),
            flags,
        )
    }
}

impl std::fmt::Display for ProxyNeighbour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { link, address } = self;
        write!(f, "proxy neighbour {address} of link {link}")
    }
}

fn proxy_message(entry: ProxyNeighbour) -> NeighbourMessage {
    entry_message(entry.link, entry.address, NeighbourFlags::Proxy)
}

fn entry_message(link: u32, address: IpAddr, flags: NeighbourFlags) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family_of(address);
    message.header.ifindex = link;
    message.header.flags = flags;
    message.attributes = vec![NeighbourAttribute::Destination(address.into())];
    message
}

fn proxy_of(message: RouteNetlinkMessage) -> Option<ProxyNeighbour> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else {
        return None;
    };
    if !message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    Some(ProxyNeighbour {
        link: message.header.ifindex,
        address: message.attributes.iter().find_map(destination)?,
    })
}

fn destination(attribute: &NeighbourAttribute) -> Option<IpAddr> {
    if let NeighbourAttribute::Destination(destination) = attribute {
        ip_of(destination)
    } else {
        None
    }
}

pub(super) fn neighbour_of(message: RouteNetlinkMessage) -> Option<Neighbour> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else {
        return None;
    };
    let mut address = None;
    let mut link_layer_address = Vec::new();
    for attribute in message.attributes {
        address = address.or(destination(&attribute));
        if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
            link_layer_address = bytes;
        }
    }
    Some(Neighbour {
        link: message.header.ifindex,
        address: address?,
        state: state_text(message.header.state),
        link_layer_address,
    })
}

fn ip_of(address: &NeighbourAddress) -> Option<IpAddr> {
    if let NeighbourAddress::Inet(address) = address {
        Some((*address).into())
    } else if let NeighbourAddress::Inet6(address) = address {
        Some((*address).into())
    } else {
        None
    }
}

/// A state without a name is written as its number, as ip(8) does.
fn state_text(state: NeighbourState) -> String {
    if let NeighbourState::Other(number) = state {
        format!("{number:#x}")
    } else {
        state.to_string().to_uppercase()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::testing::in_namespace;
    use netlink_packet_route::AddressFamily;

    #[test]
    fn proxy_entries_come_and_go() {
        in_namespace("io::netlink::neighbour::tests::proxy_entries_come_and_go_inside");
    }

    #[test]
    #[ignore = "run by proxy_entries_come_and_go in a namespace of its own"]
    fn proxy_entries_come_and_go_inside() {
        let mut netlink = Netlink::open().unwrap();
        let link = netlink.link("lo").unwrap().unwrap().index;
        netlink.set_up(link).unwrap();
        let entries = ["10.0.0.100", "2001:db8::100"].map(|address| ProxyNeighbour {
            link,
            address: address.parse().unwrap(),
        });
        for entry in entries {
            netlink.add_proxy_neighbour(entry).unwrap();
            netlink.add_proxy_neighbour(entry).unwrap();
        }
        let mut listed = netlink.proxy_neighbours().unwrap();
        listed.sort();
        assert_eq!(listed, entries);
        for entry in entries {
            netlink.remove_proxy_neighbour(entry).unwrap();
            let again = netlink.remove_proxy_neighbour(entry).unwrap_err();
            assert_eq!(again.errno(), Some(libc::ENOENT), "{again}");
        }
        assert_eq!(netlink.proxy_neighbours().unwrap(), []);
        let entry = ProxyNeighbour {
            link: 4000,
            ..entries[0]
        };
        let error = netlink.add_proxy_neighbour(entry).unwrap_err();
        assert_eq!(
            error.to_string(),
            "add proxy neighbour 10.0.0.100 of link 4000: No such device (os error 19)"
        );
    }

    #[test]
    fn a_message_becomes_a_neighbour() {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = 4;
        message.header.state = NeighbourState::Reachable;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 1, 1].into())),
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1]),
        ];
        let expected = Neighbour {
            link: 4,
            address: IpAddr::from([10, 0, 1, 1]),
            state: "REACHABLE".into(),
            link_layer_address: vec![2, 0, 0, 0, 0, 1],
        };
        let neighbour = neighbour_of(RouteNetlinkMessage::NewNeighbour(message.clone()));
        assert_eq!(neighbour, Some(expected));
        message.attributes.clear();
        assert_eq!(
            neighbour_of(RouteNetlinkMessage::NewNeighbour(message)),
            None
        );
        assert_eq!(state_text(NeighbourState::Other(0x41)), "0x41");
    }
}
