//! Links: network devices as netlink shows them.

use std::{collections::BTreeMap, net::IpAddr, os::fd::AsFd as _};

use netlink_packet_core::Nla;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        InfoData, InfoIpTunnel, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
        LinkXdp,
    },
};

use super::{Netlink, NetlinkError, Operation};
use crate::io::sys;
use crate::packet::neighbour::MacAddress;

/// A network device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it, unique in its namespace.
    pub index: u32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// The largest network-layer packet it takes, in bytes.
    pub mtu: u32,
    /// Packets that may wait to leave by it (`txqueuelen`).
    pub queue_length: u32,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// The loopback device (`IFF_LOOPBACK`).
    pub loopback: bool,
    /// Has a carrier; of a TUN device: a process holds it open.
    pub carrier: bool,
    /// Speaks ARP: Ethernet, not loopback, not `IFF_NOARP`.
    pub arp: bool,
    /// Its link-layer address, of Ethernet devices.
    pub mac: Option<MacAddress>,
    /// ARPHRD_* (linux/if_arp.h): 1 is Ethernet, 65534 none.
    pub hardware: u16,
    /// Its group; 0 is the default one.
    pub group: u32,
    /// Index of the bridge or bond that it is a port of.
    pub master: Option<u32>,
    /// Index of the device that its packets leave by, of a VLAN, macvlan or ipvlan.
    pub lower: Option<u32>,
    /// Its driver kind where it has one: "veth", "tun", "ipip".
    pub kind: Option<String>,
    /// The kernel's number of the XDP program on it, and the way in which it is attached.
    pub xdp: Option<XdpProgram>,
    /// What a TUN or TAP device tells about itself.
    pub tun: Option<TunAttributes>,
    /// What an IP-in-IP tunnel (ipip, sit, ip6tnl) tells about itself.
    pub tunnel: Option<TunnelAttributes>,
    /// Packets received, of all time.
    pub rx_packets: u64,
    /// Packets sent, of all time.
    pub tx_packets: u64,
    /// Packets that it was to send and did not, of all time; of a TUN device: its queue was full, or no process
    /// read it.
    pub tx_dropped: u64,
}

/// An XDP program on a device; the first one where there are several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XdpProgram {
    /// The kernel's number of it.
    pub id: u32,
    /// Whether the device's driver runs it (native) or the stack behind it (generic).
    pub is_native: bool,
}

/// Which packets an IP-in-IP tunnel of the kernel takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TunnelAttributes {
    /// The only outer destination that it takes packets for; none: any.
    pub local: Option<IpAddr>,
    /// The only outer source that it takes packets from; none: any.
    pub remote: Option<IpAddr>,
    /// The only protocol that it takes, of those of its kind: 4 or 41; none: all of them.
    pub protocol: Option<u8>,
    /// Collects metadata (`external`): takes what no other device takes, before the kind's own
    /// first device (`tunl0`) does.
    pub external: bool,
}

/// The attributes of a TUN or TAP device that matter to those who open it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TunAttributes {
    /// Ethernet frames (TAP) or IP packets (TUN).
    pub mode: TunMode,
    /// Whether it was created with `IFF_MULTI_QUEUE`, and so must be opened with it.
    pub queueing: TunQueueing,
    /// Queues that processes hold open; known for multi-queue devices.
    pub open_queues: u32,
}

/// What a TUN driver's device carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TunMode {
    /// IP packets.
    #[default]
    Tun,
    /// Ethernet frames.
    Tap,
}

/// How many queues a TUN device can have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TunQueueing {
    /// One.
    #[default]
    Single,
    /// Several.
    Multi,
}

impl Netlink {
    /// Whether a feature of ethtool(8), such as "tx-udp-segmentation", is on for the device of that name.
    #[must_use]
    pub fn has_feature(&self, device: &str, feature: &str) -> bool {
        sys::has_device_feature(self.socket.as_fd(), device, feature)
    }

    /// All devices of the namespace.
    ///
    /// # Errors
    /// Any [`NetlinkError`].
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.dump(&Operation::new("list", "links"), &request)?;
        Ok(links_of(answers))
    }

    /// All devices of the namespace; where they keep changing, all that showed, as they were last.
    ///
    /// # Errors
    /// Any [`NetlinkError`] but [`NetlinkError::Unsettled`].
    pub fn links_that_show(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let (answers, _) = self.dump_what_shows(&Operation::new("list", "links"), &request)?;
        let links = links_of(answers).into_iter();
        let by_index: BTreeMap<_, _> = links.map(|link| (link.index, link)).collect();
        Ok(by_index.into_values().collect())
    }

    /// The device with that name, if there is one.
    ///
    /// # Errors
    /// Any [`NetlinkError`].
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut request = LinkMessage::default();
        request.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        self.one_link(&Operation::new("look up link", name), request)
    }

    /// The device with that index, if there is one: a name may have gone to another device.
    ///
    /// # Errors
    /// Any [`NetlinkError`].
    pub fn link_at(&mut self, index: u32) -> Result<Option<Link>, NetlinkError> {
        let mut request = LinkMessage::default();
        request.header.index = index;
        self.one_link(&Operation::new("look up link", index), request)
    }

    fn one_link(
        &mut self,
        operation: &Operation,
        request: LinkMessage,
    ) -> Result<Option<Link>, NetlinkError> {
        match self.query(operation, RouteNetlinkMessage::GetLink(request)) {
            Ok(answers) => Ok(links_of(answers).pop()),
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Brings the device with that index up.
    ///
    /// # Errors
    /// Any [`NetlinkError`]; EPERM without CAP_NET_ADMIN.
    pub fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.set_flags(
            Operation::new("set up", format_args!("link {index}")),
            index,
            LinkFlags::Up,
        )
    }

    /// Takes the device with that index down.
    ///
    /// # Errors
    /// Any [`NetlinkError`]; EPERM without CAP_NET_ADMIN.
    pub fn set_down(&mut self, index: u32) -> Result<(), NetlinkError> {
        let operation = Operation::new("set down", format_args!("link {index}"));
        self.set_flags(operation, index, LinkFlags::empty())
    }

    fn set_flags(
        &mut self,
        operation: Operation,
        index: u32,
        flags: LinkFlags,
    ) -> Result<(), NetlinkError> {
        let mut request = LinkMessage::default();
        request.header.index = index;
        request.header.flags = flags;
        request.header.change_mask = LinkFlags::Up;
        self.change(&operation, RouteNetlinkMessage::SetLink(request), 0)
    }

    /// Sets the MTU in bytes.
    ///
    /// # Errors
    /// Any [`NetlinkError`]; EINVAL where the device does not take that MTU.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let mut request = LinkMessage::default();
        request.header.index = index;
        request.attributes = vec![LinkAttribute::Mtu(mtu)];
        let operation = Operation::new("set", format_args!("mtu {mtu} of link {index}"));
        self.change(&operation, RouteNetlinkMessage::SetLink(request), 0)
    }

    /// Sets how many packets may wait to leave by a device (`txqueuelen`); those of a TUN wait in each of its
    /// queues until they are read.
    ///
    /// # Errors
    /// Any [`NetlinkError`]; ENOMEM where the kernel has no room for a queue of that length.
    pub fn set_queue_length(&mut self, index: u32, packets: u32) -> Result<(), NetlinkError> {
        let mut request = LinkMessage::default();
        request.header.index = index;
        request.attributes = vec![LinkAttribute::TxQueueLen(packets)];
        let what = format_args!("txqueuelen {packets} of link {index}");
        let operation = Operation::new("set", what);
        self.change(&operation, RouteNetlinkMessage::SetLink(request), 0)
    }
}

pub(super) fn links_of(answers: Vec<RouteNetlinkMessage>) -> Vec<Link> {
    let link = |answer| {
        if let RouteNetlinkMessage::NewLink(message) = answer {
            Some(link_of(message))
        } else {
            None
        }
    };
    answers.into_iter().filter_map(link).collect()
}

pub(super) fn link_of(message: LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        up: flags.contains(LinkFlags::Up),
        loopback: flags.contains(LinkFlags::Loopback),
        arp: message.header.link_layer_type == LinkLayerType::Ether
            && !flags.intersects(LinkFlags::Noarp | LinkFlags::Loopback),
        hardware: message.header.link_layer_type.into(),
        ..Link::default()
    };
    for attribute in message.attributes {
        read_attribute(&mut link, attribute);
    }
    // Of others it is the other end of a pair, maybe in another namespace, or what a tunnel is bound to.
    if !link
        .kind
        .as_deref()
        .is_some_and(|kind| ON_ANOTHER.contains(&kind))
    {
        link.lower = None;
    }
    link
}

/// Kinds of devices that are on top of another one.
const ON_ANOTHER: [&str; 3] = ["vlan", "macvlan", "ipvlan"];

fn read_attribute(link: &mut Link, attribute: LinkAttribute) {
    if let LinkAttribute::IfName(name) = attribute {
        link.name = name;
    } else if let LinkAttribute::Mtu(mtu) = attribute {
        link.mtu = mtu;
    } else if let LinkAttribute::Controller(master) = attribute {
        link.master = Some(master);
    } else if let LinkAttribute::Link(lower) = attribute {
        link.lower = Some(lower);
    } else if let LinkAttribute::Group(group) = attribute {
        link.group = group;
    } else if let LinkAttribute::TxQueueLen(packets) = attribute {
        link.queue_length = packets;
    } else if let LinkAttribute::Address(bytes) = attribute {
        link.mac = bytes.try_into().ok().map(MacAddress);
    } else if let LinkAttribute::Carrier(carrier) = attribute {
        link.carrier = carrier != 0;
    } else if let LinkAttribute::Stats64(stats) = attribute {
        link.rx_packets = stats.rx_packets;
        link.tx_packets = stats.tx_packets;
        link.tx_dropped = stats.tx_dropped;
    } else if let LinkAttribute::Xdp(attributes) = attribute {
        link.xdp = xdp_of(&attributes);
    } else if let LinkAttribute::LinkInfo(infos) = attribute {
        link.kind = infos.iter().find_map(kind_of);
        link.tun = infos.iter().find_map(tun_of);
        link.tunnel = infos.iter().find_map(tunnel_of);
    }
}

fn xdp_of(attributes: &[LinkXdp]) -> Option<XdpProgram> {
    let program = |attribute: &LinkXdp| {
        if let LinkXdp::DrvProgId(id) | LinkXdp::HwProgId(id) = attribute {
            Some((*id, true))
        } else if let LinkXdp::SkbProgId(id) = attribute {
            Some((*id, false))
        } else {
            None
        }
    };
    let (id, is_native) = attributes.iter().find_map(program)?;
    Some(XdpProgram { id, is_native })
}

fn kind_of(info: &LinkInfo) -> Option<String> {
    if let LinkInfo::Kind(kind) = info {
        Some(kind.to_string())
    } else {
        None
    }
}

fn tun_of(info: &LinkInfo) -> Option<TunAttributes> {
    // The attributes' numbers: IFLA_TUN_* of linux/if_link.h.
    const TYPE: u16 = 3;
    const MULTI_QUEUE: u16 = 7;
    const NUM_QUEUES: u16 = 8;
    const IFF_TAP: u8 = 2;
    let LinkInfo::Data(InfoData::Tun(attributes)) = info else {
        return None;
    };
    let mut tun = TunAttributes::default();
    for attribute in attributes {
        let value = value_of(attribute);
        match (attribute.kind(), value.as_slice()) {
            (TYPE, [IFF_TAP]) => tun.mode = TunMode::Tap,
            (MULTI_QUEUE, [1]) => tun.queueing = TunQueueing::Multi,
            (NUM_QUEUES, bytes) => tun.open_queues = bytes.try_into().map_or(0, u32::from_ne_bytes),
            _ => {}
        }
    }
    Some(tun)
}

fn tunnel_of(info: &LinkInfo) -> Option<TunnelAttributes> {
    let LinkInfo::Data(InfoData::IpTunnel(attributes)) = info else {
        return None;
    };
    let mut tunnel = TunnelAttributes::default();
    for attribute in attributes {
        if let InfoIpTunnel::Local(local) = attribute {
            tunnel.local = Some(*local).filter(|local| !local.is_unspecified());
        } else if let InfoIpTunnel::Remote(remote) = attribute {
            tunnel.remote = Some(*remote).filter(|remote| !remote.is_unspecified());
        } else if let InfoIpTunnel::CollectMetadata = attribute {
            tunnel.external = true;
        } else if let InfoIpTunnel::Protocol(protocol) = attribute {
            tunnel.protocol = Some(u8::from(*protocol)).filter(|protocol| *protocol != 0);
        }
    }
    Some(tunnel)
}

fn value_of(attribute: &impl Nla) -> Vec<u8> {
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::DefaultNla;
    use netlink_packet_route::link::{InfoKind, InfoTun};

    #[test]
    fn a_message_becomes_a_link() {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = LinkFlags::Up | LinkFlags::Broadcast;
        message.attributes = vec![
            LinkAttribute::IfName("eth0".into()),
            LinkAttribute::Mtu(1500),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 7]),
            LinkAttribute::Carrier(1),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
        ];
        let expected = Link {
            index: 7,
            name: "eth0".into(),
            mtu: 1500,
            up: true,
            carrier: true,
            arp: true,
            mac: Some(MacAddress([2, 0, 0, 0, 0, 7])),
            hardware: 1,
            kind: Some("veth".into()),
            ..Link::default()
        };
        assert_eq!(link_of(message.clone()), expected);
        message.header.flags |= LinkFlags::Noarp;
        assert!(!link_of(message.clone()).arp);
        assert_eq!(links_of(vec![RouteNetlinkMessage::DelLink(message)]), []);
    }

    #[test]
    fn a_tun_device_tells_its_queues() {
        let nla = |kind, value: &[u8]| InfoTun::Other(DefaultNla::new(kind, value.to_vec()));
        let info = LinkInfo::Data(InfoData::Tun(vec![
            nla(3, &[1]),
            nla(7, &[1]),
            nla(8, &2u32.to_ne_bytes()),
        ]));
        let expected = TunAttributes {
            mode: TunMode::Tun,
            queueing: TunQueueing::Multi,
            open_queues: 2,
        };
        assert_eq!(tun_of(&info), Some(expected));
    }

    #[test]
    fn a_tunnel_tells_what_it_takes() {
        let tunnel = |remote: &str, protocol: u8| {
            tunnel_of(&LinkInfo::Data(InfoData::IpTunnel(vec![
                InfoIpTunnel::Local("10.0.1.11".parse().unwrap()),
                InfoIpTunnel::Remote(remote.parse().unwrap()),
                InfoIpTunnel::Protocol(protocol.into()),
            ])))
        };
        let any = TunnelAttributes {
            local: Some(IpAddr::from([10, 0, 1, 11])),
            ..TunnelAttributes::default()
        };
        assert_eq!(tunnel("0.0.0.0", 0), Some(any));
        assert_eq!(tunnel("::", 0), Some(any));
        let one = TunnelAttributes {
            remote: Some(IpAddr::from([10, 0, 1, 1])),
            protocol: Some(41),
            ..any
        };
        assert_eq!(tunnel("10.0.1.1", 41), Some(one));
        let external = TunnelAttributes {
            external: true,
            ..TunnelAttributes::default()
        };
        let attributes = vec![InfoIpTunnel::CollectMetadata];
        assert_eq!(
            tunnel_of(&LinkInfo::Data(InfoData::IpTunnel(attributes))),
            Some(external)
        );
        assert_eq!(tunnel_of(&LinkInfo::Kind(InfoKind::IpIp)), None);
    }

    #[test]
    fn the_loopback_device_is_found_by_name_and_in_the_list() {
        let mut netlink = Netlink::open().unwrap();
        let lo = netlink.link("lo").unwrap().unwrap();
        assert!(!lo.arp && lo.loopback);
        assert!(
            netlink
                .links()
                .unwrap()
                .iter()
                .any(|link| link.name == "lo")
        );
        assert_eq!(netlink.link("no-such-link").unwrap(), None);
        assert_eq!(netlink.link_at(lo.index).unwrap().unwrap().name, "lo");
        assert_eq!(netlink.link_at(2_000_000_000).unwrap(), None);
    }
}
