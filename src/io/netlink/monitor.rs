//! What changes on this machine, told by the kernel as it happens, for an event loop: addresses, devices,
//! their settings, ways through the network (rtnetlink(7)), packet filters and IPsec policies.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
};

use mio::{Interest, Registry, Token, event::Source};
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
    route::RouteHeader,
};
use netlink_sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_XFRM},
};

use super::{
    Address, HEADER_BYTES, Link, NetlinkError, Operation, address::address_of,
    answer::split_message, link::link_of, socket_error,
};
use crate::io::sys;

/// Room for what waits: 4 MiB, some ten thousand messages.
const RECEIVE_BUFFER: libc::c_int = 4 << 20;

/// The kernel tells of one object in one datagram; a device with many virtual functions takes most.
const DATAGRAM_BYTES: usize = 64 * 1024;

/// Datagrams read by one call, so that a flood of them does not keep the caller from its other work.
const DATAGRAMS_PER_CALL: usize = 256;

/// Messages about settings of a device (linux/rtnetlink.h); the library does not read them.
const RTM_NEWNETCONF: u16 = 80;
const RTM_DELNETCONF: u16 = 81;

/// What to be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Addresses that come and go.
    Addresses,
    /// Devices that come, change and go.
    Links,
    /// Settings of devices, of `all` and of `default`. Of IPv4 the kernel tells of `rp_filter` and
    /// `forwarding` when their value changes (`devinet_conf_proc`, linux/net/ipv4/devinet.c), of
    /// `arp_ignore`, `arp_announce` and IPv6's `disable_ipv6` it does not.
    Settings,
    /// Routes and policy rules.
    Routes,
    /// Neighbours, next hops and queueing disciplines.
    Ways,
}

/// What can be watched beside [topics](Topic), each by a socket of its own protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyTopic {
    /// Rules of nftables, and those of iptables where it keeps them there.
    Filters,
    /// IPsec policies; needs CAP_NET_ADMIN.
    Ipsec,
}

impl PolicyTopic {
    /// Protocol and group (linux/nfnetlink.h, linux/xfrm.h).
    const fn group(self) -> (isize, u32) {
        const NFNLGRP_NFTABLES: u32 = 7;
        const XFRMNLGRP_POLICY: u32 = 4;
        match self {
            Self::Filters => (NETLINK_NETFILTER, bit(NFNLGRP_NFTABLES)),
            Self::Ipsec => (NETLINK_XFRM, bit(XFRMNLGRP_POLICY)),
        }
    }
}

const fn bit(group: u32) -> u32 {
    1 << (group - 1)
}

impl Topic {
    /// Multicast groups as a bit mask (`RTNLGRP_*`, linux/rtnetlink.h).
    const fn groups(self) -> u32 {
        const IPV4_NETCONF: u32 = 24;
        const IPV6_NETCONF: u32 = 25;
        const NEXTHOP: u32 = 32;
        match self {
            Self::Addresses => bit(libc::RTNLGRP_IPV4_IFADDR) | bit(libc::RTNLGRP_IPV6_IFADDR),
            Self::Links => bit(libc::RTNLGRP_LINK),
            Self::Settings => bit(IPV4_NETCONF) | bit(IPV6_NETCONF),
            Self::Routes => {
                bit(libc::RTNLGRP_IPV4_ROUTE)
                    | bit(libc::RTNLGRP_IPV6_ROUTE)
                    | bit(libc::RTNLGRP_IPV4_RULE)
                    | bit(libc::RTNLGRP_IPV6_RULE)
            }
            Self::Ways => bit(libc::RTNLGRP_NEIGH) | bit(libc::RTNLGRP_TC) | bit(NEXTHOP),
        }
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A device has this address; it may have had it before.
    AddressAdded(Address),
    /// A device does not have this address any more.
    AddressRemoved(Address),
    /// A device is new, or something about it changed.
    Link(Link),
    /// The device with this index is not in this network namespace any more.
    LinkRemoved {
        /// Its index.
        index: u32,
        /// Where it went.
        to: Departure,
    },
    /// A setting of a device, of `all` or of `default` changed; read those that matter.
    Settings,
    /// A route of the main table or a policy rule came, changed or went.
    Routes,
    /// A neighbour, a next hop, a queueing discipline or a route of another table came, changed or went.
    Way,
    /// A rule of a firewall or a policy is another one; look it up.
    Policy,
    /// Messages were lost, or could not be read: anything may have changed.
    Lost,
}

/// What became of a device that left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// It was deleted.
    Deleted,
    /// It is in another network namespace now.
    Moved,
}

/// Whether all that waited was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Nothing is left; the socket becomes readable again.
    Empty,
    /// More may wait; no event will tell.
    More,
}

/// A non-blocking socket that becomes readable when something changes.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
    buffer: Vec<u8>,
    reading: Reading,
}

/// How a socket's datagrams are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// As messages of rtnetlink.
    Messages,
    /// Each is a change.
    Changes,
}

impl Monitor {
    /// Opens it; needs no privileges. Open it before the first listing, so that no change falls between.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open(topics: &[Topic]) -> Result<Self, NetlinkError> {
        let groups = topics.iter().fold(0, |all, topic| all | topic.groups());
        Self::of_groups(NETLINK_ROUTE, groups, Reading::Messages)
    }

    /// Opens one that tells of policies; open it before they are read.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`]; EPROTONOSUPPORT on a kernel without such policies.
    pub fn open_policies(topic: PolicyTopic) -> Result<Self, NetlinkError> {
        let (protocol, group) = topic.group();
        Self::of_groups(protocol, group, Reading::Changes)
    }

    fn of_groups(protocol: isize, groups: u32, reading: Reading) -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(protocol)?;
            socket.set_non_blocking(true)?;
            // Not allowed in a user namespace: up to net.core.rmem_max then.
            sys::force_receive_buffer(socket.as_fd(), RECEIVE_BUFFER)
                .or_else(|_| socket.set_rx_buf_sz(RECEIVE_BUFFER))?;
            socket.bind(&SocketAddr::new(0, groups))?;
            Ok(socket)
        };
        let socket = open().map_err(|cause| socket_error(&operation(), cause))?;
        Ok(Self {
            socket,
            buffer: vec![0; DATAGRAM_BYTES],
            reading,
        })
    }

    /// Reads what waits, in order, as far as one call goes.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn drain(&mut self, mut each: impl FnMut(Event)) -> Result<Drained, NetlinkError> {
        for _ in 0..DATAGRAMS_PER_CALL {
            let mut space = self.buffer.as_mut_slice();
            match self.socket.recv(&mut space, libc::MSG_TRUNC) {
                Ok(_) if self.reading == Reading::Changes => each(Event::Policy),
                Ok(length) => read_datagram(self.buffer.get(..length), &mut each),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Drained::Empty);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => each(Event::Lost),
                Err(error) => return Err(socket_error(&operation(), error)),
            }
        }
        Ok(Drained::More)
    }
}

fn operation() -> Operation {
    Operation::new("watch", "changes of this machine")
}

/// `None`: a datagram longer than the buffer.
fn read_datagram(bytes: Option<&[u8]>, each: &mut impl FnMut(Event)) {
    let Some(mut rest) = bytes else {
        return each(Event::Lost);
    };
    while !rest.is_empty() {
        if is_of_settings(rest) {
            // Nothing else comes in such a datagram, and no more than that is needed of it.
            return each(Event::Settings);
        }
        if is_of_ways(rest) {
            each(Event::Way);
            rest = after_message(rest);
            continue;
        }
        let Ok((message, after)) = split_message::<RouteNetlinkMessage>(&operation(), rest) else {
            return each(Event::Lost);
        };
        rest = after;
        let NetlinkPayload::InnerMessage(message) = message.payload else {
            return each(Event::Lost);
        };
        if let Some(event) = event_of(message) {
            each(event);
        }
    }
}

/// The message's type, at offset 4 (`struct nlmsghdr`).
fn kind_of(bytes: &[u8]) -> Option<u16> {
    let kind = bytes.get(4..6).and_then(|pair| pair.first_chunk());
    kind.copied().map(u16::from_ne_bytes)
}

fn is_of_settings(bytes: &[u8]) -> bool {
    matches!(kind_of(bytes), Some(RTM_NEWNETCONF | RTM_DELNETCONF))
}

/// Only that there was one matters.
fn is_of_ways(bytes: &[u8]) -> bool {
    const RTM_NEWNEXTHOP: u16 = 104;
    const RTM_DELNEXTHOP: u16 = 105;
    kind_of(bytes).is_some_and(|kind| {
        matches!(
            kind,
            libc::RTM_NEWNEIGH
                | libc::RTM_DELNEIGH
                | libc::RTM_NEWQDISC
                | libc::RTM_DELQDISC
                | RTM_NEWNEXTHOP
                | RTM_DELNEXTHOP
        )
    })
}

/// What follows a message in its datagram, by its length at offset 0 (`struct nlmsghdr`).
fn after_message(bytes: &[u8]) -> &[u8] {
    let length = bytes.first_chunk().copied().map_or(0, u32::from_ne_bytes);
    let length = usize::try_from(length)
        .unwrap_or(usize::MAX)
        .max(HEADER_BYTES);
    bytes
        .get(length.saturating_add(3) / 4 * 4..)
        .unwrap_or_default()
}

fn event_of(message: RouteNetlinkMessage) -> Option<Event> {
    if let RouteNetlinkMessage::NewAddress(message) = message {
        address_of(message).map(Event::AddressAdded)
    } else if let RouteNetlinkMessage::DelAddress(message) = message {
        address_of(message).map(Event::AddressRemoved)
    } else if let RouteNetlinkMessage::NewLink(message) = message {
        is_of_device(&message).then(|| Event::Link(link_of(message)))
    } else if let RouteNetlinkMessage::DelLink(message) = message {
        is_of_device(&message).then(|| removed(&message))
    } else if let RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message) =
        message
    {
        match message.header.table {
            RouteHeader::RT_TABLE_MAIN => Some(Event::Routes),
            _ => Some(Event::Way),
        }
    } else if let RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) = message {
        Some(Event::Routes)
    } else {
        None
    }
}

/// The same group tells of bridge ports and of wireless events, in messages that do not name the device's
/// family or not its name.
fn is_of_device(message: &LinkMessage) -> bool {
    let has_name = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfName(_));
    message.header.interface_family == AddressFamily::Unspec
        && message.attributes.iter().any(has_name)
}

fn removed(message: &LinkMessage) -> Event {
    let moved = |attribute: &LinkAttribute| {
        matches!(
            attribute,
            LinkAttribute::NewNetnsId(_) | LinkAttribute::NewIfIndex(_)
        )
    };
    Event::LinkRemoved {
        index: message.header.index,
        to: if message.attributes.iter().any(moved) {
            Departure::Moved
        } else {
            Departure::Deleted
        },
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Source for Monitor {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        mio::unix::SourceFd(&self.as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        mio::unix::SourceFd(&self.as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        mio::unix::SourceFd(&self.as_raw_fd()).deregister(registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{
        netlink::Netlink,
        sysctl::Sysctl,
        testing::in_namespace,
        tun::{Offloads, TunDevice, TunError},
        undo::Undo,
    };
    use proptest::prelude::*;
    use std::{num::NonZeroUsize, process::Command};

    fn events(monitor: &mut Monitor) -> Vec<Event> {
        let mut events = Vec::new();
        assert_eq!(
            monitor.drain(|event| events.push(event)).unwrap(),
            Drained::Empty
        );
        events
    }

    fn tun(name: &str) -> Result<TunDevice, TunError> {
        let mut undo = Undo::new().unwrap();
        TunDevice::open(name, NonZeroUsize::MIN, Offloads::Never, 1480, &mut undo)
    }

    #[test]
    fn the_kernel_tells_what_changes() {
        in_namespace("io::netlink::monitor::tests::the_kernel_tells_what_changes_inside");
    }

    #[test]
    #[ignore = "run by the_kernel_tells_what_changes in a namespace of its own"]
    fn the_kernel_tells_what_changes_inside() {
        let mut monitor =
            Monitor::open(&[Topic::Addresses, Topic::Links, Topic::Settings]).unwrap();
        assert_eq!(events(&mut monitor), []);
        let device = tun("tun0").unwrap();
        let index = device.index;
        let up =
            |event: &Event| matches!(event, Event::Link(link) if link.index == index && link.up);
        assert!(events(&mut monitor).iter().any(up));

        let mut netlink = Netlink::open().unwrap();
        for net in ["10.1.0.1/24", "2001:db8::1/64"] {
            let net = net.parse().unwrap();
            let address = Address { link: index, net };
            netlink.add_address(index, net).unwrap();
            assert!(events(&mut monitor).contains(&Event::AddressAdded(address)));
            netlink.remove_address(index, net).unwrap();
            assert!(events(&mut monitor).contains(&Event::AddressRemoved(address)));
        }

        for device in ["tun0", "all", "default"] {
            let key = Sysctl::ipv4_conf(device, "rp_filter").unwrap();
            key.write(2 - key.read().unwrap()).unwrap();
            assert_eq!(events(&mut monitor), [Event::Settings], "{device}");
        }

        netlink.set_down(index).unwrap();
        let down =
            |event: &Event| matches!(event, Event::Link(link) if link.index == index && !link.up);
        assert!(events(&mut monitor).iter().any(down));
    }

    #[test]
    fn ways_and_policies_tell() {
        in_namespace("io::netlink::monitor::tests::ways_and_policies_tell_inside");
    }

    #[test]
    #[ignore = "run by ways_and_policies_tell in a namespace of its own"]
    fn ways_and_policies_tell_inside() {
        let device = tun("tun0").unwrap();
        let ran = |line: &str| {
            let mut words = line.split(' ');
            let program = words.next().unwrap();
            let status = Command::new(program).args(words).status().unwrap();
            assert!(status.success(), "{line}");
        };
        ran("ip address add 10.1.0.1/24 dev tun0");
        let mut ways = Monitor::open(&[Topic::Routes, Topic::Ways]).unwrap();
        for line in [
            "ip route add 10.9.0.0/16 dev tun0",
            "ip -6 route add 2001:db8:9::/48 dev tun0",
            "ip route del 10.9.0.0/16 dev tun0",
            "ip neigh add 10.1.0.9 lladdr 02:00:00:00:00:09 dev tun0 nud permanent",
            "ip rule add pref 7 to 10.9.0.0/16 table 7",
            "ip nexthop add id 7 dev tun0",
            "tc qdisc add dev tun0 clsact",
        ] {
            ran(line);
            let told = events(&mut ways);
            let is_way = |event: &Event| matches!(event, Event::Way | Event::Routes);
            assert!(
                !told.is_empty() && told.iter().all(is_way),
                "{line}: {told:?}"
            );
        }
        let mut filters = Monitor::open_policies(PolicyTopic::Filters).unwrap();
        ran("nft add table inet t");
        assert!(events(&mut filters).contains(&Event::Policy));
        let mut ipsec = Monitor::open_policies(PolicyTopic::Ipsec).unwrap();
        ran("ip xfrm policy add dir out src 0.0.0.0/0 dst 10.9.0.0/16 action block");
        assert!(events(&mut ipsec).contains(&Event::Policy));
        drop(device);
    }

    #[test]
    fn where_a_device_went() {
        in_namespace("io::netlink::monitor::tests::where_a_device_went_inside");
    }

    #[test]
    #[ignore = "run by where_a_device_went in a namespace of its own"]
    fn where_a_device_went_inside() {
        let mut elsewhere = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo there; cat"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut word = [0; 6];
        io::Read::read_exact(elsewhere.stdout.as_mut().unwrap(), &mut word).unwrap();
        let pid = elsewhere.id().to_string();
        for (arguments, to) in [
            (&["del", "tun0"][..], Departure::Deleted),
            (&["set", "tun0", "netns", &pid], Departure::Moved),
        ] {
            let device = tun("tun0").unwrap();
            let mut monitor = Monitor::open(&[Topic::Links]).unwrap();
            let status = Command::new("ip").arg("link").args(arguments).status();
            assert!(status.unwrap().success());
            let index = device.index;
            let expected = Event::LinkRemoved { index, to };
            assert!(events(&mut monitor).contains(&expected), "{arguments:?}");
        }
        drop(elsewhere.stdin.take());
        elsewhere.wait().unwrap();
    }

    #[test]
    fn bridge_ports_and_wireless_events_are_no_devices() {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        assert_eq!(
            event_of(RouteNetlinkMessage::NewLink(message.clone())),
            None
        );
        message.attributes = vec![LinkAttribute::IfName("eth0".into())];
        let removed = Event::LinkRemoved {
            index: 7,
            to: Departure::Deleted,
        };
        assert_eq!(
            event_of(RouteNetlinkMessage::DelLink(message.clone())),
            Some(removed)
        );
        message.header.interface_family = AddressFamily::Bridge;
        assert_eq!(event_of(RouteNetlinkMessage::DelLink(message)), None);
    }

    #[test]
    fn what_was_not_read_whole_is_lost() {
        let mut events = Vec::new();
        read_datagram(None, &mut |event| events.push(event));
        read_datagram(Some(&[1, 2, 3]), &mut |event| events.push(event));
        assert_eq!(events, [Event::Lost, Event::Lost]);
    }

    proptest! {
        #[test]
        fn any_datagram_is_read_without_panic(
            kind in prop_oneof![16_u16..25, 80_u16..83, any::<u16>()],
            body in prop::collection::vec(any::<u8>(), 0..96),
        ) {
            let length = u32::try_from(16 + body.len()).unwrap();
            let head = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10]].concat();
            read_datagram(Some(&[&head[..], &body].concat()), &mut drop);
        }
    }
}
