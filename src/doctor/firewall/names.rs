//! Names that nft and iptables print for numbers.

use std::net::IpAddr;

use super::clock;
use super::model::Field;

/// Every name of a protocol, of `/etc/protocols` in its Debian and Fedora forms and of iptables.
/// **4 is `ipencap` (Fedora: `ipv4`); `ipip` is 94.**
const PROTOCOLS: &[(&str, u8)] = &[
    ("ip", 0),
    ("hopopt", 0),
    ("icmp", 1),
    ("igmp", 2),
    ("ggp", 3),
    ("ipencap", 4),
    ("ip-encap", 4),
    ("ipv4", 4),
    ("st", 5),
    ("tcp", 6),
    ("egp", 8),
    ("igp", 9),
    ("pup", 12),
    ("udp", 17),
    ("hmp", 20),
    ("xns-idp", 22),
    ("rdp", 27),
    ("iso-tp4", 29),
    ("dccp", 33),
    ("xtp", 36),
    ("ddp", 37),
    ("idpr-cmtp", 38),
    ("ipv6", 41),
    ("ipv6-route", 43),
    ("ipv6-frag", 44),
    ("idrp", 45),
    ("rsvp", 46),
    ("gre", 47),
    ("esp", 50),
    ("ipv6-crypt", 50),
    ("ah", 51),
    ("ipv6-auth", 51),
    ("skip", 57),
    ("ipv6-icmp", 58),
    ("icmpv6", 58),
    ("ipv6-nonxt", 59),
    ("ipv6-opts", 60),
    ("rspf", 73),
    ("vmtp", 81),
    ("eigrp", 88),
    ("ospf", 89),
    ("ax.25", 93),
    ("ipip", 94),
    ("etherip", 97),
    ("encap", 98),
    ("pim", 103),
    ("ipcomp", 108),
    ("comp", 108),
    ("vrrp", 112),
    ("l2tp", 115),
    ("isis", 124),
    ("sctp", 132),
    ("fc", 133),
    ("mobility-header", 135),
    ("ipv6-mh", 135),
    ("mh", 135),
    ("udplite", 136),
    ("mpls-in-ip", 137),
    ("manet", 138),
    ("hip", 139),
    ("shim6", 140),
    ("wesp", 141),
    ("rohc", 142),
    ("ethernet", 143),
];

/// Bits of `ct state`, as the kernel's NF_CT_STATE_BIT numbers them.
pub(super) const CT_INVALID: u128 = 1;
pub(super) const CT_ESTABLISHED: u128 = 2;
pub(super) const CT_NEW: u128 = 8;
pub(super) const CT_UNTRACKED: u128 = 64;
/// What iptables' `--ctstate` has beside them; nft has it in `ct status`.
pub(super) const CT_SNAT: u128 = 128;
pub(super) const CT_DNAT: u128 = 256;

const CT_STATES: &[(&str, u128)] = &[
    ("invalid", CT_INVALID),
    ("established", CT_ESTABLISHED),
    ("related", 4),
    ("new", CT_NEW),
    ("untracked", CT_UNTRACKED),
    ("snat", CT_SNAT),
    ("dnat", CT_DNAT),
];

/// IPS_* of the kernel's nf_conntrack_common.h.
pub(super) const STATUS_SEEN_REPLY: u128 = 2;
pub(super) const STATUS_ASSURED: u128 = 4;
pub(super) const STATUS_DNAT: u128 = 32;

const CT_STATUSES: &[(&str, u128)] = &[
    ("expected", 1),
    ("seen-reply", STATUS_SEEN_REPLY),
    ("assured", STATUS_ASSURED),
    ("confirmed", 8),
    ("snat", 16),
    ("dnat", STATUS_DNAT),
    ("dying", 512),
];

/// RFC 9293, 3.1.
const TCP_FLAGS: &[(&str, u128)] = &[
    ("none", 0),
    ("fin", 1),
    ("syn", 2),
    ("rst", 4),
    ("psh", 8),
    ("ack", 16),
    ("urg", 32),
    ("ecn", 64),
    ("cwr", 128),
    ("all", 63),
];

/// RTN_* of the kernel's rtnetlink.h.
pub(super) const RTN_UNICAST: u128 = 1;
pub(super) const RTN_LOCAL: u128 = 2;

const ADDRESS_TYPES: &[(&str, u128)] = &[
    ("unspec", 0),
    ("unicast", RTN_UNICAST),
    ("local", RTN_LOCAL),
    ("broadcast", 3),
    ("anycast", 4),
    ("multicast", 5),
    ("blackhole", 6),
    ("unreachable", 7),
    ("prohibit", 8),
    ("throw", 9),
    ("nat", 10),
    ("xresolve", 11),
];

const DIRECTIONS: &[(&str, u128)] = &[("original", 0), ("reply", 1)];

/// NFPROTO_*.
pub(super) const NFPROTO_IPV4: u128 = 2;
pub(super) const NFPROTO_IPV6: u128 = 10;

const FAMILIES: &[(&str, u128)] = &[
    ("ipv4", NFPROTO_IPV4),
    ("ip", NFPROTO_IPV4),
    ("ipv6", NFPROTO_IPV6),
    ("ip6", NFPROTO_IPV6),
];

pub(super) const ETHERTYPE_IPV4: u128 = 0x0800;
pub(super) const ETHERTYPE_IPV6: u128 = 0x86dd;

/// ARPHRD_* of linux/if_arp.h, as nft names them.
const HARDWARE: &[(&str, u128)] = &[
    ("ether", 1),
    ("ppp", 512),
    ("ipip", 768),
    ("ipip6", 769),
    ("loopback", 772),
    ("sit", 776),
    ("ipgre", 778),
    ("none", 65534),
];

/// RFC 4594 §2, RFC 5865, RFC 8622.
const DSCP: &[(&str, u128)] = &[
    ("cs0", 0),
    ("df", 0),
    ("be", 0),
    ("lephb", 1),
    ("cs1", 8),
    ("af11", 10),
    ("af12", 12),
    ("af13", 14),
    ("cs2", 16),
    ("af21", 18),
    ("af22", 20),
    ("af23", 22),
    ("cs3", 24),
    ("af31", 26),
    ("af32", 28),
    ("af33", 30),
    ("cs4", 32),
    ("af41", 34),
    ("af42", 36),
    ("af43", 38),
    ("cs5", 40),
    ("va", 44),
    ("ef", 46),
    ("cs6", 48),
    ("cs7", 56),
];

const ETHERTYPES: &[(&str, u128)] = &[
    ("ip", ETHERTYPE_IPV4),
    ("ip6", ETHERTYPE_IPV6),
    ("arp", 0x0806),
    ("vlan", 0x8100),
    ("8021q", 0x8100),
    ("8021ad", 0x88a8),
];

/// PACKET_* of the kernel's if_packet.h; 0 is what is addressed to this host.
const PACKET_TYPES: &[(&str, u128)] = &[
    ("host", 0),
    ("unicast", 0),
    ("broadcast", 1),
    ("multicast", 2),
    ("other", 3),
];

/// The number of a protocol's name, or of digits.
pub(super) fn protocol(name: &str) -> Option<u8> {
    let name = name.to_ascii_lowercase();
    let known = PROTOCOLS.iter().find(|(known, _)| *known == name);
    known
        .map(|(_, number)| *number)
        .or_else(|| name.parse().ok())
}

/// The number that a text means where it stands beside a field.
pub(super) fn number(field: Field, text: &str) -> Option<u128> {
    let table = match field {
        Field::Source
        | Field::Destination
        | Field::CtSource { .. }
        | Field::CtDestination { .. } => return address(text),
        Field::LinkSource | Field::LinkDestination => return link_address(text),
        Field::Protocol => return protocol(text).map(u128::from),
        Field::Clock(field) => {
            return clock::number(field, text).or_else(|| integer(text).map(u128::from));
        }
        Field::CtState => CT_STATES,
        Field::CtStatus => CT_STATUSES,
        Field::CtDirection => DIRECTIONS,
        Field::TcpFlags => TCP_FLAGS,
        Field::AddressType { .. } => ADDRESS_TYPES,
        Field::NetworkFamily => FAMILIES,
        Field::EtherType => ETHERTYPES,
        Field::PacketType => PACKET_TYPES,
        Field::Dscp => DSCP,
        Field::Ecn => &[("not-ect", 0), ("ect1", 1), ("ect0", 2), ("ce", 3)],
        Field::InputKind | Field::OutputKind => HARDWARE,
        Field::InputGroup | Field::OutputGroup => &[("default", 0)],
        Field::SocketUser | Field::SocketGroup => &[("root", 0)],
        Field::SourcePort
        | Field::DestinationPort
        | Field::CtSourcePort { .. }
        | Field::CtDestinationPort { .. }
        | Field::CtZone
        | Field::TimeToLive
        | Field::TcpOption(_)
        | Field::Length
        | Field::Fixed(_)
        | Field::Drawn { .. }
        | Field::Cpu
        | Field::Bits { .. }
        | Field::CtCount
        | Field::Listener(_)
        | Field::BridgePort
        | Field::FragmentBits
        | Field::InputDevice
        | Field::OutputDevice
        | Field::Register(_)
        | Field::ReversePath { .. }
        | Field::Opaque => &[],
    };
    let name = text.to_ascii_lowercase();
    let known = table.iter().find(|(known, _)| *known == name);
    known
        .map(|(_, number)| *number)
        .or_else(|| integer(text).map(u128::from))
}

/// Decimal, or hexadecimal behind `0x`.
pub(super) fn integer(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// An Ethernet address, such as `02:00:00:00:00:01`, as a number.
pub(super) fn link_address(text: &str) -> Option<u128> {
    let mut parts = text.split(':');
    let number = parts.by_ref().take(6).try_fold(0, |sum, part| {
        let byte = u8::from_str_radix(part, 16).ok()?;
        Some((sum << 8) | u128::from(byte))
    })?;
    (text.len() == 17 && parts.next().is_none()).then_some(number)
}

fn address(text: &str) -> Option<u128> {
    text.parse().ok().map(address_number)
}

/// An address as a number; those of the two families are never compared with each other.
pub(super) fn address_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// First and last address of a prefix, as numbers.
pub(super) fn prefix(address: IpAddr, length: u8) -> Option<(u128, u128)> {
    let net = ipnet::IpNet::new(address, length).ok()?;
    let (first, last) = (net.network(), net.broadcast());
    Some((address_number(first), address_number(last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipip_is_not_protocol_4() {
        assert_eq!(protocol("ipencap"), Some(4));
        assert_eq!(protocol("IP-ENCAP"), Some(4));
        assert_eq!(protocol("4"), Some(4));
        assert_eq!(protocol("ipip"), Some(94));
        assert_eq!(protocol("all"), None);
    }
}
