//! Neighbours: who answers on a link, as the kernel's ARP and neighbour discovery know it.

use std::net::IpAddr;

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
}

impl Netlink {
    /// Makes the kernel treat a neighbour that it knows as if it had just sent a packet to it: an entry that
    /// is stale is confirmed or fails (`NTF_USE`, linux/neighbour.h).
    ///
    /// # Errors
    /// Any [`NetlinkError`]; EPERM without CAP_NET_ADMIN.
    pub fn use_neighbour(&mut self, link: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = family_of(address);
        message.header.ifindex = link;
        message.header.flags = NeighbourFlags::Use;
        message.attributes = vec![NeighbourAttribute::Destination(address.into())];
        let operation = Operation::new("use neighbour", format_args!("{address} dev {link}"));
        self.change(&operation, RouteNetlinkMessage::NewNeighbour(message), 0)
    }
}

fn neighbour_of(message: RouteNetlinkMessage) -> Option<Neighbour> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else {
        return None;
    };
    let mut address = None;
    let mut link_layer_address = Vec::new();
    for attribute in message.attributes {
        if let NeighbourAttribute::Destination(destination) = attribute {
            address = ip_of(&destination);
        } else if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
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
    use netlink_packet_route::AddressFamily;

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
