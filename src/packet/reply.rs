//! ICMP that the director sends itself, from the VIP: echo replies, and "too big" for packets that
//! do not fit the tunnel. Read first: RFC 792, RFC 1191 §4, RFC 4443 §2.4 and §3.2, RFC 1812 §4.3.2.3.

use std::net::IpAddr;

use super::checksum::{self, Sum};
use super::parse::{Packet, Version};

/// TTL or hop limit of packets that the director sends itself (RFC 1700).
const TTL: u8 = 64;

/// An ICMP error may be this long, header included (RFC 1812 §4.3.2.3)…
const LONGEST_V4_ERROR: usize = 576;
/// …and an ICMPv6 error fits the smallest IPv6 link (RFC 4443 §2.4 c).
const LONGEST_V6_ERROR: usize = 1280;

/// Makes `out` the reply to the echo request in `packet`, from the address that was pinged.
///
/// The checksum is updated for the changed type, with carry; a wrong one stays wrong, so that
/// the pinger sees it.
pub fn echo_reply(packet: &Packet<'_>, out: &mut Vec<u8>) {
    let (request, reply): ([u8; 2], [u8; 2]) = match packet.meta().version {
        Version::V4 => ([8, 0], [0, 0]),
        Version::V6 => ([128, 0], [129, 0]),
    };
    let message = packet.payload();
    network_header(packet, message.len(), out);
    let start = out.len();
    out.extend_from_slice(message);
    let Some([kind, _code, high, low]) = out[start..].first_chunk_mut() else {
        return; // a message without a header is no echo request
    };
    let sum = checksum::update(
        u16::from_be_bytes([*high, *low]),
        u16::from_be_bytes(request),
        u16::from_be_bytes(reply),
    );
    *kind = reply[0];
    [*high, *low] = sum.to_be_bytes();
}

/// Makes `out` an error about `original`, whose bytes are `bytes`: it may have at most `mtu` bytes.
/// From the VIP, to the sender: Fragmentation Needed (RFC 1191) or Packet Too Big (RFC 4443 §3.2).
pub fn packet_too_big(original: &Packet<'_>, bytes: &[u8], mtu: u16, out: &mut Vec<u8>) {
    let (kind, code, longest) = match original.meta().version {
        Version::V4 => (3, 4, LONGEST_V4_ERROR - 20),
        Version::V6 => (2, 0, LONGEST_V6_ERROR - 40),
    };
    let whole = usize::from(original.meta().length).min(bytes.len());
    let quoted = &bytes[..whole.min(longest - 8)];
    network_header(original, 8 + quoted.len(), out);
    let start = out.len();
    let [high, low] = mtu.to_be_bytes();
    // RFC 1191 §4 has the MTU in the last two bytes, RFC 4443 §3.2 in all four.
    out.extend_from_slice(&[kind, code, 0, 0, 0, 0, high, low]);
    out.extend_from_slice(quoted);
    let sum = pseudo_header(original, 8 + quoted.len())
        .add_bytes(&out[start..])
        .finish();
    out[start + 2..start + 4].copy_from_slice(&sum.to_be_bytes());
}

/// Starts `out` with a network header that answers `packet`: its addresses swapped.
fn network_header(packet: &Packet<'_>, payload_length: usize, out: &mut Vec<u8>) {
    out.clear();
    match (packet.destination(), packet.source()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = length_field(payload_length + 20).to_be_bytes();
            out.extend_from_slice(&[0x45, 0, total[0], total[1], 0, 0, 0x40, 0, TTL, 1, 0, 0]);
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&destination.octets());
            let sum = checksum::checksum(out);
            out[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (source, destination) => {
            let [high, low] = length_field(payload_length).to_be_bytes();
            out.extend_from_slice(&[0x60, 0, 0, 0, high, low, 58, TTL]);
            out.extend_from_slice(&octets(source));
            out.extend_from_slice(&octets(destination));
        }
    }
}

/// What an ICMPv6 checksum covers beside the message (RFC 8200 §8.1); nothing for ICMP.
fn pseudo_header(packet: &Packet<'_>, payload_length: usize) -> Sum {
    match packet.meta().version {
        Version::V4 => Sum::default(),
        Version::V6 => Sum::default()
            .add_bytes(&octets(packet.source()))
            .add_bytes(&octets(packet.destination()))
            .add_word(length_field(payload_length))
            .add_word(58),
    }
}

/// A length that came out of another packet's length field, or is below 1280.
fn length_field(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::checksum::checksum;
    use proptest::prelude::*;

    fn ping(v6: bool, body: &[u8]) -> Vec<u8> {
        let length = u8::try_from(body.len() + 8).unwrap();
        let mut packet = if v6 {
            let mut header = vec![0x6a, 0, 0, 0, 0, length, 58, 9];
            header.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            header.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]);
            header
        } else {
            vec![
                0x45,
                0,
                0,
                length + 20,
                0,
                9,
                0,
                0,
                9,
                1,
                0,
                0,
                192,
                0,
                2,
                1,
                203,
                0,
                113,
                10,
            ]
        };
        let start = packet.len();
        packet.extend([if v6 { 128 } else { 8 }, 0, 0, 0, 0, 7, 0, 1]);
        packet.extend(body);
        let sum = {
            let parsed = Packet::parse(&packet).unwrap();
            pseudo_header(&parsed, body.len() + 8)
                .add_bytes(&packet[start..])
                .finish()
        };
        packet[start + 2..start + 4].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    /// Whether the ICMP message of a packet has a correct checksum.
    fn verifies(bytes: &[u8]) -> bool {
        let packet = Packet::parse(bytes).unwrap();
        let payload = packet.payload();
        pseudo_header(&packet, payload.len())
            .add_bytes(payload)
            .finish()
            == 0
    }

    #[test]
    fn literal_echo_reply() {
        let request = ping(false, b"abc");
        let mut reply = Vec::new();
        echo_reply(&Packet::parse(&request).unwrap(), &mut reply);
        let mut expected = vec![
            0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, 1, 0, 0, 203, 0, 113, 10, 192, 0, 2, 1,
        ];
        let sum = checksum(&expected);
        expected[10..12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(reply[..20], expected);
        assert_eq!(reply[20..22], [0, 0]);
        assert_eq!(reply[24..], request[24..]);
        assert!(verifies(&reply));
    }

    /// The carry that a plain addition of 0x0800 would lose: checksum 0xf800 and above.
    #[test]
    fn carry_in_the_echo_checksum() {
        for body in 0..=u16::MAX {
            let request = ping(false, &body.to_be_bytes());
            let mut reply = Vec::new();
            echo_reply(&Packet::parse(&request).unwrap(), &mut reply);
            assert!(verifies(&reply), "{request:02x?}");
        }
    }

    #[test]
    fn a_wrong_checksum_stays_wrong() {
        let mut request = ping(false, b"abcd");
        request[25] ^= 1;
        let mut reply = Vec::new();
        echo_reply(&Packet::parse(&request).unwrap(), &mut reply);
        assert!(!verifies(&reply));
    }

    #[test]
    fn too_big_quotes_what_fits() {
        for (v6, longest, mtu_at) in [(false, 576, 26), (true, 1280, 46)] {
            let mut original = ping(v6, &[1; 100]);
            let length = u16::try_from(1400 - if v6 { 40 } else { 0 }).unwrap();
            let at = if v6 { 4 } else { 2 };
            original[at..at + 2].copy_from_slice(&length.to_be_bytes());
            original.resize(1400, 2);
            let mut error = Vec::new();
            packet_too_big(
                &Packet::parse(&original).unwrap(),
                &original,
                1300,
                &mut error,
            );
            assert_eq!(error.len(), longest);
            assert_eq!(error[mtu_at..mtu_at + 2], 1300u16.to_be_bytes());
            assert!(verifies(&error));
            let start = mtu_at + 2;
            assert_eq!(error[start..], original[..longest - start]);
            let answer = Packet::parse(&error).unwrap();
            let asked = Packet::parse(&original).unwrap();
            assert_eq!(
                (answer.source(), answer.destination()),
                (asked.destination(), asked.source())
            );
        }
    }

    proptest! {
        #[test]
        fn replies_verify(v6: bool, body in prop::collection::vec(any::<u8>(), 0..100)) {
            let request = ping(v6, &body);
            let mut reply = Vec::new();
            echo_reply(&Packet::parse(&request).unwrap(), &mut reply);
            prop_assert!(verifies(&reply));
            prop_assert_eq!(&reply[reply.len() - body.len()..], &body[..]);
        }
    }
}
