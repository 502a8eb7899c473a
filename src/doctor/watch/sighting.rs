//! Reads a captured packet: out of its tunnel where it is in one, and what it is.

use super::observation::{Kind, Outer, Quotation, Segment, Summary};
use crate::doctor::facts::Encap;
use crate::packet::{FlowKey, Icmp, Packet, Transport};

/// Flags of a TCP segment (RFC 9293 §3.1).
const TCP_FLAGS: usize = 13;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

const UDP_HEADER: usize = 8;
const GUE_HEADER: usize = 4;

/// What it is, with its tunnel; nothing where it can say nothing about a flow.
pub(super) fn read(bytes: &[u8], encap: Encap) -> Option<(Option<Outer>, Summary)> {
    let packet = Packet::parse(bytes).ok()?;
    match tunnelled(&packet, encap) {
        Some((outer, inner)) => Some((Some(outer), summary(&Packet::parse(inner).ok()?)?)),
        None => Some((None, summary(&packet)?)),
    }
}

fn tunnelled<'a>(packet: &Packet<'a>, encap: Encap) -> Option<(Outer, &'a [u8])> {
    let outer = |encap| Outer {
        source: packet.source(),
        destination: packet.destination(),
        encap,
    };
    match (packet.protocol(), encap) {
        (4 | 41, _) => Some((outer(Encap::Ipip), packet.payload())),
        (17, Encap::Gue(port)) => match packet.transport().ok()? {
            Transport::Udp { key } if key.destination_port == port => {
                let inner = after_gue(packet.payload().get(UDP_HEADER..)?)?;
                Some((outer(encap), inner))
            }
            _ => None,
        },
        _ => None,
    }
}

/// What follows the header of GUE (draft-ietf-intarea-gue-09 §3): variant 1 has none.
fn after_gue(payload: &[u8]) -> Option<&[u8]> {
    match payload.first()? {
        first if first >> 6 == 0 => payload.get(GUE_HEADER + usize::from(first & 0x1f) * 4..),
        first if first >> 6 == 1 => Some(payload),
        _ => None,
    }
}

fn summary(packet: &Packet<'_>) -> Option<Summary> {
    if packet
        .fragment()
        .is_some_and(|fragment| fragment.offset > 0)
    {
        return None; // the ports are in the first one
    }
    let ports = |key: FlowKey| (key.source_port, key.destination_port);
    let kind = match packet.transport().ok()? {
        Transport::Tcp { key, .. } => Kind::Tcp {
            ports: ports(key),
            segment: segment(*packet.payload().get(TCP_FLAGS)?),
        },
        Transport::Udp { key } => Kind::Udp { ports: ports(key) },
        Transport::Icmp(Icmp::Error(quoted)) => Kind::Error {
            icmp_type: *packet.payload().first()?,
            code: *packet.payload().get(1)?,
            about: Quotation {
                source: quoted.source,
                destination: quoted.destination,
                protocol: quoted.protocol,
                ports: quoted.ports,
            },
        },
        Transport::Icmp(_) | Transport::Other(_) => return None,
    };
    Some(Summary {
        source: packet.source(),
        destination: packet.destination(),
        kind,
    })
}

const fn segment(flags: u8) -> Segment {
    match (flags & RST != 0, flags & SYN != 0, flags & ACK != 0) {
        (true, _, _) => Segment::Rst,
        (false, true, false) => Segment::Syn,
        (false, true, true) => Segment::SynAck,
        (false, false, _) => Segment::Other,
    }
}
