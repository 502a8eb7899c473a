//! ICMP that the director sends itself, from the VIP: echo replies, and "too big" for packets that
//! do not fit the tunnel. Read first: RFC 792, RFC 1191 §4, RFC 4443 §2.4 and §3.2, RFC 1812 §4.3.2.3.

use std::net::{IpAddr, Ipv4Addr};

use super::checksum::{self, Sum};
use super::parse::{Packet, Version};

/// The packets that answer one packet, in one buffer that is used again.
#[derive(Debug, Default)]
pub struct Answer {
    bytes: Vec<u8>,
    /// Where every packet but the last ends.
    cuts: Vec<usize>,
}

/// How a reply is cut where it may not be one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentRule {
    /// The longest packet in bytes, at least 68.
    pub longest: u16,
    /// Of the fragments; IPv4 has room for the low 16 bits.
    pub identification: u32,
}

impl Answer {
    /// An answer of one packet, to be written into the buffer that is returned.
    pub fn one(&mut self) -> &mut Vec<u8> {
        self.cuts.clear();
        self.bytes.clear();
        &mut self.bytes
    }

    /// The packets, in the order in which they are to be sent; one at least once something was written.
    pub fn packets(&self) -> impl Iterator<Item = &[u8]> {
        let starts = [0].into_iter().chain(self.cuts.iter().copied());
        let ends = self.cuts.iter().copied().chain([self.bytes.len()]);
        starts.zip(ends).map(|(start, end)| &self.bytes[start..end])
    }

    /// The reply to an echo request that came in fragments, of which `request` is one and `message`
    /// the whole. Cut again by `rule` where it is longer: no router fragments IPv6, and what comes out of a
    /// TUN with DF set is refused rather than fragmented.
    pub fn echo_reply(&mut self, request: &Packet<'_>, message: &mut [u8], rule: FragmentRule) {
        let version = request.meta().version;
        become_reply(version, message);
        let header = match version {
            Version::V4 => 20,
            Version::V6 => 40,
        };
        let longest = usize::from(rule.longest);
        let out = self.one();
        if header + message.len() <= longest {
            network_header(request, message.len(), out);
            out.extend_from_slice(message);
            return;
        }
        let room = match version {
            Version::V4 => longest.saturating_sub(header),
            Version::V6 => longest.saturating_sub(header + FRAGMENT_HEADER),
        };
        let step = (room & !7).max(8); // all but the last are of multiples of 8 bytes
        for (number, data) in message.chunks(step).enumerate() {
            if number > 0 {
                self.cuts.push(self.bytes.len());
            }
            let place = Place {
                offset: length_field(number * step),
                more: number * step + data.len() < message.len(),
                identification: rule.identification,
            };
            fragment_headers(request, data.len(), place, &mut self.bytes);
            self.bytes.extend_from_slice(data);
        }
    }
}

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
    let message = packet.payload();
    out.clear();
    network_header(packet, message.len(), out);
    let start = out.len();
    out.extend_from_slice(message);
    become_reply(packet.meta().version, &mut out[start..]);
}

/// Turns the echo request in `message` into its reply.
fn become_reply(version: Version, message: &mut [u8]) {
    let (request, reply): ([u8; 2], [u8; 2]) = match version {
        Version::V4 => ([8, 0], [0, 0]),
        Version::V6 => ([128, 0], [129, 0]),
    };
    let Some([kind, _code, high, low]) = message.first_chunk_mut() else {
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
    out.clear();
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

/// Where a fragment stands in its datagram.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// In bytes, a multiple of 8.
    offset: u16,
    more: bool,
    identification: u32,
}

/// Length in bytes of the fragment header of IPv6 (RFC 8200 §4.5).
const FRAGMENT_HEADER: usize = 8;

/// The don't-fragment flag, and nothing else, in the fourth word of an IPv4 header (RFC 791 §3.1).
const DONT_FRAGMENT: u16 = 0x4000;

/// Appends a network header that answers `packet`: its addresses swapped.
fn network_header(packet: &Packet<'_>, payload_length: usize, out: &mut Vec<u8>) {
    match (packet.destination(), packet.source()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let word = (0, DONT_FRAGMENT);
            ipv4_header([source, destination], payload_length, word, out);
        }
        (source, destination) => ipv6_header([source, destination], payload_length, 58, out),
    }
}

/// As [`network_header`], of one fragment of the answer.
fn fragment_headers(packet: &Packet<'_>, length: usize, place: Place, out: &mut Vec<u8>) {
    let [id_0, id_1, id_2, id_3] = place.identification.to_be_bytes();
    match (packet.destination(), packet.source()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let word = u16::from(place.more) << 13 | place.offset >> 3;
            let identification = u16::from_be_bytes([id_2, id_3]);
            ipv4_header([source, destination], length, (identification, word), out);
        }
        (source, destination) => {
            ipv6_header([source, destination], length + FRAGMENT_HEADER, 44, out);
            let [high, low] = (place.offset | u16::from(place.more)).to_be_bytes();
            out.extend_from_slice(&[58, 0, high, low, id_0, id_1, id_2, id_3]);
        }
    }
}

/// `fragment` is the identification, and the word of flags and offset after it.
fn ipv4_header(
    [source, destination]: [Ipv4Addr; 2],
    payload_length: usize,
    fragment: (u16, u16),
    out: &mut Vec<u8>,
) {
    let start = out.len();
    let [high, low] = length_field(payload_length + 20).to_be_bytes();
    out.extend_from_slice(&[0x45, 0, high, low]);
    out.extend_from_slice(&fragment.0.to_be_bytes());
    out.extend_from_slice(&fragment.1.to_be_bytes());
    out.extend_from_slice(&[TTL, 1, 0, 0]);
    out.extend_from_slice(&source.octets());
    out.extend_from_slice(&destination.octets());
    let sum = checksum::checksum(&out[start..]);
    out[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
}

fn ipv6_header(addresses: [IpAddr; 2], payload_length: usize, next: u8, out: &mut Vec<u8>) {
    let [high, low] = length_field(payload_length).to_be_bytes();
    out.extend_from_slice(&[0x60, 0, 0, 0, high, low, next, TTL]);
    for address in addresses {
        out.extend_from_slice(&octets(address));
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

        /// The fragments tile the reply that an unfragmented request would have got.
        #[test]
        fn fragments_of_a_reply(v6: bool, length in 0usize..4000, longest in 68u16..2000, identification: u32) {
            let request = ping(v6, &[]);
            let request = Packet::parse(&request).unwrap();
            let mut message = vec![if v6 { 128 } else { 8 }, 0, 1, 2, 0, 7, 0, 1];
            message.extend((0..length).map(|at| at.to_le_bytes()[0]));
            let mut expected = message.clone();
            become_reply(request.meta().version, &mut expected);
            let mut answer = Answer::default();
            answer.echo_reply(&request, &mut message, FragmentRule { longest, identification });
            let mut reply = Vec::new();
            for bytes in answer.packets() {
                let packet = Packet::parse(bytes).unwrap();
                prop_assert_eq!(usize::from(packet.meta().length), bytes.len());
                prop_assert!(bytes.len() <= usize::from(longest), "{} of {}", bytes.len(), longest);
                prop_assert_eq!(packet.source(), request.destination());
                match packet.fragment() {
                    Some(fragment) => {
                        let mask = if v6 { u32::MAX } else { 0xffff };
                        prop_assert_eq!(fragment.identification, identification & mask);
                        prop_assert_eq!(usize::from(fragment.offset), reply.len());
                        prop_assert_eq!(fragment.more, reply.len() + packet.payload().len() < expected.len());
                        prop_assert!(v6 || !packet.meta().dont_fragment);
                    }
                    None => prop_assert_eq!(packet.payload().len(), expected.len()),
                }
                reply.extend_from_slice(packet.payload());
            }
            prop_assert_eq!(reply, expected);
        }
    }
}
