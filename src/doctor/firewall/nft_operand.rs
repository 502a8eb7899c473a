//! The left side of an nft match: which property of the packet it looks at.

use serde_json::Value as Json;

use super::model::{ClockField, Field, Header, ListenerField, Only, Operand, Register, TcpOption};
use super::names;
use super::nft::{list, word};
use super::nft_value;

/// An expression as operands: one, or those of a concatenation.
pub(super) fn operands(json: &Json) -> Vec<Operand> {
    if json.get("concat").is_some() {
        return list(json, "concat").iter().map(operand).collect();
    }
    vec![operand(json)]
}

fn operand(json: &Json) -> Operand {
    let member = json.as_object().and_then(|map| map.iter().next());
    let Some((kind, content)) = member else {
        return opaque(Only::All);
    };
    match kind.as_str() {
        "payload" => payload(content),
        "meta" => meta(content),
        "ct" => conntrack(content),
        "fib" => fib(content),
        "exthdr" => extension_header(content),
        "tcp option" => tcp_option(content),
        "ip option" => absent_option(content),
        "socket" => match word(content, "key") {
            Some("transparent") => Operand::of(Field::Listener(ListenerField::Transparent)),
            Some("wildcard") => Operand::of(Field::Listener(ListenerField::Wildcard)),
            _ => opaque(Only::All),
        },
        "numgen" | "jhash" | "symhash" => drawn(content),
        "rt" if word(content, "key") == Some("ipsec") => Operand::of(Field::Fixed(0)),
        "&" => masked(content),
        _ => opaque(Only::All),
    }
}

fn opaque(only: Only) -> Operand {
    Operand::of(Field::Opaque).only(only)
}

fn masked(content: &Json) -> Operand {
    let Some([left, right]) = content.as_array().map(Vec::as_slice) else {
        return opaque(Only::All);
    };
    let left = operand(left);
    match nft_value::number(right, left.field) {
        Some(mask) => {
            let mask = left.mask.map_or(mask, |before| before & mask);
            left.masked(mask)
        }
        None => opaque(left.only),
    }
}

fn payload(content: &Json) -> Operand {
    if let Some(base) = word(content, "base") {
        return raw(base, content);
    }
    let (Some(header), Some(field), None) = (
        word(content, "protocol"),
        word(content, "field"),
        content.get("tunnel"),
    ) else {
        return opaque(Only::All);
    };
    match header {
        "ip" if field == "length" => Operand::of(Field::Length).only(Only::V4),
        "ip" if field == "hdrlength" => Operand::of(Field::Fixed(5)).only(Only::V4),
        "ip" if field == "version" => Operand::of(Field::Fixed(4)).only(Only::V4),
        "ip6" if field == "version" => Operand::of(Field::Fixed(6)).only(Only::V6),
        "ip" => network(field).only(Only::V4),
        "ip6" => network(field).only(Only::V6),
        "ether" if field == "type" => Operand::of(Field::EtherType),
        "ether" if field == "saddr" => Operand::of(Field::LinkSource).only(Only::Ethernet),
        "ether" if field == "daddr" => Operand::of(Field::LinkDestination).only(Only::Ethernet),
        "ether" => opaque(Only::Ethernet),
        "vlan" => opaque(Only::All),
        "arp" => opaque(Only::None),
        "th" => transport(field),
        _ => match names::protocol(header) {
            Some(protocol) => transport(field).only(Only::Protocol(protocol)),
            None => opaque(Only::All),
        },
    }
}

/// `numgen random mod 2`, `jhash ip saddr mod 4 offset 1`
fn drawn(content: &Json) -> Operand {
    let number = |key| u32::try_from(content.get(key)?.as_u64()?).ok();
    match number("mod") {
        Some(count) => Operand::of(Field::Drawn {
            from: number("offset").unwrap_or_default(),
            count,
        }),
        None => opaque(Only::All),
    }
}

/// `@nh,72,8`
fn raw(base: &str, content: &Json) -> Operand {
    let number = |key| u32::try_from(content.get(key)?.as_u64()?).ok();
    let header = match base {
        "nh" => Header::Network,
        "th" => Header::Transport,
        _ => return opaque(Only::All),
    };
    match number("offset").zip(number("len")) {
        Some((from, count)) if count <= 128 => Operand::of(Field::Bits {
            of: header,
            from,
            count,
        }),
        _ => opaque(Only::All),
    }
}

fn network(field: &str) -> Operand {
    Operand::of(match field {
        "saddr" => Field::Source,
        "daddr" => Field::Destination,
        "protocol" | "nexthdr" => Field::Protocol,
        "frag-off" => Field::FragmentBits,
        "ttl" | "hoplimit" => Field::TimeToLive,
        // What no rule and no application of ours sets.
        "dscp" => Field::Dscp,
        "ecn" => Field::Ecn,
        "id" | "checksum" => ANY_16_BITS,
        _ => Field::Opaque,
    })
}

fn transport(field: &str) -> Operand {
    Operand::of(match field {
        "sport" => Field::SourcePort,
        "dport" => Field::DestinationPort,
        "flags" => Field::TcpFlags,
        "urgptr" => Field::Fixed(0),
        "checksum" => ANY_16_BITS,
        _ => Field::Opaque,
    })
}

/// What is another number in each packet.
const ANY_16_BITS: Field = Field::Drawn {
    from: 0,
    count: 1 << 16,
};

/// `tcp option maxseg size`, `tcp option sack-perm exists`
fn tcp_option(content: &Json) -> Operand {
    let option = match (
        word(content, "name").unwrap_or_default(),
        word(content, "field"),
    ) {
        ("maxseg", Some("size")) => TcpOption::MssSize,
        ("maxseg", None) => TcpOption::Mss,
        ("window", None) => TcpOption::WindowScale,
        ("sack-perm" | "sack-permitted", None) => TcpOption::SackPermitted,
        ("timestamp", None) => TcpOption::Timestamp,
        (
            "md5sig" | "mptcp" | "fastopen" | "sack" | "sack0" | "sack1" | "sack2" | "sack3",
            None,
        ) => TcpOption::Unusual,
        _ => return opaque(Only::Protocol(6)),
    };
    Operand::of(Field::TcpOption(option)).only(Only::Protocol(6))
}

/// The packets that are judged have no options of IP.
fn absent_option(content: &Json) -> Operand {
    match word(content, "field") {
        Some(_) => opaque(Only::None),
        None => Operand::of(Field::Fixed(0)).only(Only::V4),
    }
}

fn meta(content: &Json) -> Operand {
    Operand::of(match word(content, "key").unwrap_or_default() {
        "l4proto" => Field::Protocol,
        "nfproto" => Field::NetworkFamily,
        "protocol" => Field::EtherType,
        "pkttype" => Field::PacketType,
        "length" => Field::Length,
        "mark" => Field::Register(Register::Mark),
        "iif" | "iifname" => Field::InputDevice,
        "oif" | "oifname" => Field::OutputDevice,
        "iiftype" => Field::InputKind,
        "oiftype" => Field::OutputKind,
        "iifgroup" => Field::InputGroup,
        "oifgroup" => Field::OutputGroup,
        "cpu" => Field::Cpu,
        // What nft writes is in the machine's time zone, but for days of the week (linux/net/netfilter/nft_meta.c).
        "hour" => Field::Clock(ClockField::SecondOfDay { utc: false }),
        "day" => Field::Clock(ClockField::Weekday { utc: true }),
        "time" => Field::Clock(ClockField::Seconds { utc: false }),
        "random" => Field::Drawn {
            from: 0,
            count: u32::MAX,
        },
        "skuid" => Field::SocketUser,
        "skgid" => Field::SocketGroup,
        // No packet that is judged came by IPsec; policies are looked at apart.
        "ipsec" | "secpath" => Field::Fixed(0),
        _ => Field::Opaque,
    })
}

fn conntrack(content: &Json) -> Operand {
    let reply = word(content, "dir") == Some("reply");
    let of = |field| Operand::of(field).only(Only::Tracked);
    match word(content, "key").unwrap_or_default() {
        "saddr" => of(Field::CtSource { reply }),
        "daddr" => of(Field::CtDestination { reply }),
        "ip saddr" => of(Field::CtSource { reply }).only(Only::TrackedV4),
        "ip daddr" => of(Field::CtDestination { reply }).only(Only::TrackedV4),
        "ip6 saddr" => of(Field::CtSource { reply }).only(Only::TrackedV6),
        "ip6 daddr" => of(Field::CtDestination { reply }).only(Only::TrackedV6),
        "proto-src" => of(Field::CtSourcePort { reply }),
        "proto-dst" => of(Field::CtDestinationPort { reply }),
        "protocol" => of(Field::Protocol),
        "l3proto" => of(Field::NetworkFamily),
        "zone" => Operand::of(Field::CtZone),
        "state" => Operand::of(Field::CtState).masked(names::CT_SNAT - 1),
        "status" => Operand::of(Field::CtStatus).only(Only::Tracked),
        "direction" => Operand::of(Field::CtDirection).only(Only::Tracked),
        "mark" => Operand::of(Field::Register(Register::CtMark)).only(Only::Tracked),
        "bytes" | "packets" | "avgpkt" => of(Field::CtCount),
        // A connection that nothing has labelled, and that no helper follows.
        "label" => of(Field::Fixed(0)),
        "helper" => of(Field::Fixed(0)).only(Only::None),
        _ => opaque(Only::Tracked),
    }
}

fn fib(content: &Json) -> Operand {
    let flags = list(content, "flags");
    let has = |name: &str| flags.iter().any(|flag| flag.as_str() == Some(name));
    let field = match word(content, "result").unwrap_or_default() {
        _ if has("oif") => Field::Opaque,
        "oif" | "oifname" if has("saddr") => Field::ReversePath {
            by_its_device: has("iif"),
        },
        "type" if has("saddr") || has("daddr") => Field::AddressType {
            of_source: has("saddr"),
            on_its_device: has("iif"),
        },
        _ => Field::Opaque,
    };
    Operand::of(field)
}

/// The packets that are judged have none; a destination header may hold IPv6's own tunnel limit.
fn extension_header(content: &Json) -> Operand {
    if word(content, "name") == Some("dst") {
        return opaque(Only::V6);
    }
    match word(content, "field") {
        Some(_) => opaque(Only::None),
        None => Operand::of(Field::Fixed(0)).only(Only::V6),
    }
}
