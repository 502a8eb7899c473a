//! Addresses of this machine: list, add, remove.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage, AddressScope},
};

use super::{Consistency, Netlink, NetlinkError, Operation};

/// An address on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    /// Index of the device.
    pub link: u32,
    /// The address with its prefix length; host bits are kept.
    pub net: IpNet,
}

impl Netlink {
    /// All IPv4 and IPv6 addresses of the namespace.
    ///
    /// # Errors
    /// Any [`NetlinkError`].
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.dump(&Operation::new("list", "addresses"), &request)?;
        Ok(addresses_of(answers))
    }

    /// All IPv4 and IPv6 addresses of the namespace; where they keep changing, all that showed.
    ///
    /// # Errors
    /// Any [`NetlinkError`] but [`NetlinkError::Unsettled`].
    pub fn addresses_that_show(&mut self) -> Result<(Vec<Address>, Consistency), NetlinkError> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let operation = Operation::new("list", "addresses");
        let (answers, consistency) = self.dump_what_shows(&operation, &request)?;
        Ok((addresses_of(answers), consistency))
    }

    /// The IPv4 addresses of the device with index `link`; none where there is no such device.
    ///
    /// # Errors
    /// Any [`NetlinkError`] but [`NetlinkError::Unsettled`].
    pub fn ipv4_addresses_on(&mut self, link: u32) -> Result<Vec<IpNet>, NetlinkError> {
        let mut request = AddressMessage::default();
        request.header.family = AddressFamily::Inet;
        request.header.index = link;
        let operation = Operation::new("list", format_args!("addresses of link {link}"));
        let answers = self.dump_what_shows(&operation, &RouteNetlinkMessage::GetAddress(request));
        match answers {
            Ok((answers, _)) => Ok(addresses_of(answers)
                .iter()
                .map(|address| address.net)
                .collect()),
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Adds an address to the device with index `link`.
    ///
    /// # Errors
    /// [`NetlinkError::Exists`] where the device has it already; any other [`NetlinkError`].
    pub fn add_address(&mut self, link: u32, net: IpNet) -> Result<(), NetlinkError> {
        let operation = Operation::new("add address", format_args!("{net} to link {link}"));
        let message = RouteNetlinkMessage::NewAddress(message_for(link, net));
        self.change(&operation, message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Removes an address from the device with index `link`.
    ///
    /// # Errors
    /// EADDRNOTAVAIL where it is not there; any other [`NetlinkError`].
    pub fn remove_address(&mut self, link: u32, net: IpNet) -> Result<(), NetlinkError> {
        let operation = Operation::new("remove address", format_args!("{net} from link {link}"));
        let message = RouteNetlinkMessage::DelAddress(message_for(link, net));
        self.change(&operation, message, 0)
    }
}

fn message_for(link: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family_of(net.addr());
    message.header.prefix_len = net.prefix_len();
    message.header.index = link;
    message.header.scope = scope_of(net.addr());
    message.attributes = vec![
        AddressAttribute::Local(net.addr()),
        AddressAttribute::Address(net.addr()),
    ];
    message
}

/// As ip(8): only an IPv4 loopback address stays inside the host by its scope.
fn scope_of(address: IpAddr) -> AddressScope {
    match address {
        IpAddr::V4(address) if address.is_loopback() => AddressScope::Host,
        IpAddr::V4(_) | IpAddr::V6(_) => AddressScope::Universe,
    }
}

pub(super) fn family_of(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

pub(super) fn addresses_of(answers: Vec<RouteNetlinkMessage>) -> Vec<Address> {
    let address = |answer| {
        if let RouteNetlinkMessage::NewAddress(message) = answer {
            address_of(message)
        } else {
            None
        }
    };
    answers.into_iter().filter_map(address).collect()
}

pub(super) fn address_of(message: AddressMessage) -> Option<Address> {
    // With a peer, IFA_ADDRESS is the peer's; IFA_LOCAL is always ours (rtnetlink(7)).
    let find =
        |pick: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(pick);
    let address = find(local).or_else(|| find(other))?;
    let net = IpNet::new(address, message.header.prefix_len).ok()?;
    Some(Address {
        link: message.header.index,
        net,
    })
}

fn local(attribute: &AddressAttribute) -> Option<IpAddr> {
    if let AddressAttribute::Local(address) = attribute {
        Some(*address)
    } else {
        None
    }
}

fn other(attribute: &AddressAttribute) -> Option<IpAddr> {
    if let AddressAttribute::Address(address) = attribute {
        Some(*address)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_end_of_a_pair_is_ours() {
        let mut message = message_for(3, "10.1.0.1/32".parse().unwrap());
        message.attributes[1] = AddressAttribute::Address("10.1.0.2".parse().unwrap());
        let address = address_of(message).unwrap();
        assert_eq!(address.net.to_string(), "10.1.0.1/32");
        assert_eq!(address.link, 3);
    }

    #[test]
    fn an_ipv6_message_without_local_is_read() {
        let mut message = message_for(3, "2001:db8::1/64".parse().unwrap());
        message.attributes.remove(0);
        let address = address_of(message).unwrap();
        assert_eq!(address.net.to_string(), "2001:db8::1/64");
    }

    #[test]
    fn scopes_follow_ip() {
        assert_eq!(scope_of("127.0.0.42".parse().unwrap()), AddressScope::Host);
        assert_eq!(
            scope_of("10.0.0.100".parse().unwrap()),
            AddressScope::Universe
        );
    }
}
