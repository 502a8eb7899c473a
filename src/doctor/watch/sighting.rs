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
            Transport::Udp { .. }
            | Transport::Tcp { .. }
            | Transport::Icmp(_)
            | Transport::Other(_) => None,
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
                // Of other protocols they are whatever is there.
                ports: quoted.ports.filter(|_| matches!(quoted.protocol, 6 | 17)),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(protocol: u8, source: [u8; 4], destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
        let mut packet = vec![
            0x45, 0, length[0], length[1], 0, 7, 0, 0, 64, protocol, 0, 0,
        ];
        packet.extend(source);
        packet.extend(destination);
        packet.extend(payload);
        packet
    }

    const CLIENT: [u8; 4] = [10, 0, 9, 2];
    const VIP: [u8; 4] = [10, 0, 0, 100];
    const DIRECTOR: [u8; 4] = [10, 0, 1, 2];
    const BACKEND: [u8; 4] = [10, 0, 1, 11];

    fn segment(flags: u8) -> Vec<u8> {
        let mut segment = vec![0; 20];
        segment[..4].copy_from_slice(&[0x0f, 0xa0, 0, 80]);
        segment[12..14].copy_from_slice(&[0x50, flags]);
        ip(6, CLIENT, VIP, &segment)
    }

    fn datagram(port: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(8 + payload.len()).unwrap();
        let header = [0xc0, 0, 0x17, port, 0, length, 0, 0];
        [&header, payload].concat()
    }

    fn text(bytes: &[u8], encap: Encap) -> String {
        match read(bytes, encap) {
            Some((Some(outer), packet)) => format!("{outer}: {packet}"),
            Some((None, packet)) => packet.to_string(),
            None => "nothing".to_owned(),
        }
    }

    #[test]
    fn packets_in_words() {
        let syn = segment(2);
        let headed = |header: &[u8]| datagram(0xc0, &[header, &syn].concat());
        let quoted = ip(4, DIRECTOR, BACKEND, &syn);
        let error = [&[3, 2, 0, 0, 0, 0, 0, 0][..], &quoted].concat();
        let mut later = segment(2);
        later[7] = 9;
        let gue = Encap::Gue(0x17c0);
        let cases = [
            (syn.clone(), "SYN 10.0.9.2:4000 > 10.0.0.100:80"),
            (segment(0x12), "SYN-ACK 10.0.9.2:4000 > 10.0.0.100:80"),
            (segment(0x14), "RST 10.0.9.2:4000 > 10.0.0.100:80"),
            (segment(0x10), "TCP 10.0.9.2:4000 > 10.0.0.100:80"),
            (
                ip(4, DIRECTOR, BACKEND, &syn),
                "IPIP 10.0.1.2 > 10.0.1.11: SYN 10.0.9.2:4000 > 10.0.0.100:80",
            ),
            (
                ip(17, DIRECTOR, BACKEND, &headed(&[0, 4, 0, 0])),
                "GUE 10.0.1.2 > 10.0.1.11: SYN 10.0.9.2:4000 > 10.0.0.100:80",
            ),
            (
                ip(17, DIRECTOR, BACKEND, &headed(&[1, 4, 0, 0, 9, 9, 9, 9])),
                "GUE 10.0.1.2 > 10.0.1.11: SYN 10.0.9.2:4000 > 10.0.0.100:80",
            ),
            (
                ip(17, DIRECTOR, BACKEND, &headed(&[])),
                "GUE 10.0.1.2 > 10.0.1.11: SYN 10.0.9.2:4000 > 10.0.0.100:80",
            ),
            (
                ip(17, CLIENT, VIP, &datagram(53, &[1])),
                "UDP 10.0.9.2:49152 > 10.0.0.100:5941",
            ),
            (
                ip(1, BACKEND, DIRECTOR, &error),
                "ICMP 3/2 10.0.1.11 > 10.0.1.2 about protocol 4 10.0.1.2 > 10.0.1.11",
            ),
            (ip(1, CLIENT, VIP, &[8, 0, 0, 0, 0, 1, 0, 1]), "nothing"),
            (later, "nothing"),
            (ip(4, DIRECTOR, BACKEND, &[0x45; 7]), "nothing"),
            (Vec::new(), "nothing"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(text(&bytes, gue), expected);
        }
        let other = text(&ip(17, DIRECTOR, BACKEND, &headed(&[])), Encap::Ipip);
        assert_eq!(other, "UDP 10.0.1.2:49152 > 10.0.1.11:6080");
    }
}
