//! The left side of an nft match: which property of the packet it looks at.

use serde_json::Value as Json;

use super::model::{Field, Only, Operand, Register};
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
        "tcp option" => opaque(Only::Protocol(6)),
        "ip option" => opaque(Only::V4),
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
    let (Some(header), Some(field), None) = (
        word(content, "protocol"),
        word(content, "field"),
        content.get("tunnel"),
    ) else {
        return opaque(Only::All);
    };
    match header {
        "ip" if field == "length" => Operand::of(Field::Length).only(Only::V4),
        "ip" => network(field).only(Only::V4),
        "ip6" => network(field).only(Only::V6),
        "ether" if field == "type" => Operand::of(Field::EtherType),
        "ether" | "vlan" => opaque(Only::All),
        "arp" => opaque(Only::None),
        "th" => transport(field),
        _ => match names::protocol(header) {
            Some(protocol) => transport(field).only(Only::Protocol(protocol)),
            None => opaque(Only::All),
        },
    }
}

fn network(field: &str) -> Operand {
    Operand::of(match field {
        "saddr" => Field::Source,
        "daddr" => Field::Destination,
        "protocol" | "nexthdr" => Field::Protocol,
        "frag-off" => Field::FragmentBits,
        _ => Field::Opaque,
    })
}

fn transport(field: &str) -> Operand {
    Operand::of(match field {
        "sport" => Field::SourcePort,
        "dport" => Field::DestinationPort,
        "flags" => Field::TcpFlags,
        _ => Field::Opaque,
    })
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
        _ => Field::Opaque,
    })
}

fn conntrack(content: &Json) -> Operand {
    match word(content, "key").unwrap_or_default() {
        "state" => Operand::of(Field::CtState).masked(names::CT_SNAT - 1),
        "status" => Operand::of(Field::CtStatus).only(Only::Tracked),
        "direction" => Operand::of(Field::CtDirection).only(Only::Tracked),
        "mark" => Operand::of(Field::Register(Register::CtMark)).only(Only::Tracked),
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
