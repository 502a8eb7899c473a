//! ICMP errors that say how large a packet may be: Fragmentation Needed, Packet Too Big. Read first:
//! RFC 1191, RFC 8201, RFC 4884 §4.
//!
//! Anybody can send one. What is read here is what the error claims, with as much of the packet that it
//! quotes as is needed to tell whether that was ours; who believes it is `director::path_mtu`'s business.

use std::net::IpAddr;

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};

use super::checksum::checksum;
use super::icmp::Quoted;
use super::parse::{Packet, Version, walk_extensions};

/// Bytes before the quotation: type, code, checksum, four more.
const HEADER: usize = 8;

/// An error that says how large a packet may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathMtuError<'a> {
    /// The largest packet that passes, in bytes.
    pub mtu: u32,
    /// Where the error comes from; `None` where that is not known.
    pub sender: Option<IpAddr>,
    /// Where the error was sent; `None` where its IP header is not known.
    pub destination: Option<IpAddr>,
    /// The packet that did not pass.
    pub quoted: QuotedPacket<'a>,
}

/// What an error quotes: a packet as it was on the wire, cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotedPacket<'a> {
    /// Its addresses and protocol.
    pub quoted: Quoted,
    /// IP version.
    pub version: Version,
    /// Length of the whole packet in bytes, as it says itself.
    pub length: u32,
    /// Whether routers may have fragmented it: not with DF, and never in IPv6.
    pub may_be_fragmented: bool,
    /// Whether it is a fragment.
    pub is_fragment: bool,
    /// Bytes before the payload: the header, with options or extension headers.
    pub header: u32,
    /// The start of its payload, as far as it is quoted; nothing that came after the packet.
    pub payload: &'a [u8],
}

impl<'a> PathMtuError<'a> {
    /// Reads an IPv4 packet, as a raw socket delivers it; `None` where it holds something else or its
    /// ICMP checksum is wrong.
    #[must_use]
    pub fn parse_packet(bytes: &'a [u8]) -> Option<Self> {
        let packet = Packet::parse(bytes).ok()?;
        if packet.meta().version != Version::V4 || packet.protocol() != 1 {
            return None;
        }
        let error = Self::parse_v4(packet.payload())?;
        Some(Self {
            sender: Some(packet.source()),
            destination: Some(packet.destination()),
            ..error
        })
    }

    /// Reads an ICMPv6 message, as a raw socket delivers it, whose kernel has verified the checksum; `None`
    /// where it is another one.
    #[must_use]
    pub fn parse_v6(message: &'a [u8]) -> Option<Self> {
        let (header, body) = message.split_at_checked(HEADER)?;
        if header[..2] != [2, 0] {
            return None;
        }
        Some(Self {
            mtu: u32::from_be_bytes(*header[4..].first_chunk()?),
            sender: None,
            destination: None,
            quoted: QuotedPacket::parse_v6(body)?,
        })
    }

    fn parse_v4(message: &'a [u8]) -> Option<Self> {
        let (header, body) = message.split_at_checked(HEADER)?;
        if header[..2] != [3, 4] || checksum(message) != 0 {
            return None;
        }
        // Where extensions follow the quotation, it says where it ends (RFC 4884 §4.1).
        let words = usize::from(header[5]) * 4;
        let quotation = if words == 0 {
            body
        } else {
            body.get(..words).unwrap_or(body)
        };
        let quoted = QuotedPacket::parse_v4(quotation)?;
        let mtu = match u16::from_be_bytes([header[6], header[7]]) {
            0 => next_plateau(quoted.length),
            mtu => mtu.into(),
        };
        Some(Self {
            mtu,
            sender: None,
            destination: None,
            quoted,
        })
    }
}

/// What to try after a packet of `length` bytes where a router does not say (RFC 1191 §7.1).
fn next_plateau(length: u32) -> u32 {
    const PLATEAUS: [u32; 10] = [32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68];
    let next = PLATEAUS.into_iter().find(|&plateau| plateau < length);
    next.unwrap_or(68)
}

impl<'a> QuotedPacket<'a> {
    fn parse_v4(bytes: &'a [u8]) -> Option<Self> {
        let header = Ipv4HeaderSlice::from_slice(bytes).ok()?;
        let length = header.total_len();
        let (start, end) = (header.slice().len(), usize::from(length).min(bytes.len()));
        Some(Self {
            quoted: Quoted::parse_v4(bytes)?,
            version: Version::V4,
            length: length.into(),
            may_be_fragmented: !header.dont_fragment(),
            is_fragment: header.is_fragmenting_payload(),
            header: u32::try_from(start).ok()?,
            payload: bytes.get(start..end)?,
        })
    }

    fn parse_v6(bytes: &'a [u8]) -> Option<Self> {
        let header = Ipv6HeaderSlice::from_slice(bytes).ok()?;
        let start = header.slice().len();
        let length = start + usize::from(header.payload_length());
        let rest = bytes.get(start..length.min(bytes.len()))?;
        let chain = walk_extensions(header.next_header().0, rest).ok()?;
        let extensions = rest.len() - chain.payload.len();
        Some(Self {
            quoted: Quoted::parse_v6(bytes)?,
            version: Version::V6,
            length: u32::try_from(length).ok()?,
            may_be_fragmented: false,
            is_fragment: chain.fragment.is_some(),
            header: u32::try_from(start + extensions).ok()?,
            payload: chain.payload,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// To 10.0.0.2: fragmentation needed (1300), quoting 28 bytes of an IPIP packet of 1500 to 10.0.1.11.
    fn needed() -> Vec<u8> {
        let mut packet = vec![
            0x45, 0, 0, 56, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 9, 1, 10, 0, 0, 2,
        ];
        packet.extend([3, 4, 0, 0, 0, 0, 5, 0x14]);
        packet.extend([
            0x45, 0, 5, 0xdc, 0, 0, 0x40, 0, 63, 4, 0, 0, 10, 0, 0, 2, 10, 0, 1, 11,
        ]);
        packet.extend([0x45, 0, 5, 0xc8, 0, 0, 0x40, 0]);
        packet
    }

    /// With other bytes of ICMP, and its checksum right.
    fn with(changes: &[(usize, u8)]) -> Vec<u8> {
        let mut packet = needed();
        for &(at, value) in changes {
            packet[20 + at] = value;
        }
        packet[22..24].fill(0);
        let sum = checksum(&packet[20..]).to_be_bytes();
        packet[22..24].copy_from_slice(&sum);
        packet
    }

    #[test]
    fn fragmentation_needed() {
        let packet = with(&[]);
        let error = PathMtuError::parse_packet(&packet).unwrap();
        assert_eq!(error.mtu, 1300);
        assert_eq!(error.destination, Some([10, 0, 0, 2].into()));
        let quoted = error.quoted;
        assert_eq!(quoted.quoted.destination, IpAddr::from([10, 0, 1, 11]));
        assert_eq!(
            (quoted.length, quoted.header, quoted.quoted.protocol),
            (1500, 20, 4)
        );
        assert!(!quoted.may_be_fragmented && !quoted.is_fragment);
        assert_eq!(quoted.payload, &packet[48..]);
    }

    #[test]
    fn what_is_no_such_error() {
        assert_eq!(PathMtuError::parse_packet(&needed()), None, "no checksum");
        for (what, changes) in [
            ("host unreachable", (1, 1)),
            ("time exceeded", (0, 11)),
            ("a quoted header that is no IPv4", (8, 0x65)),
        ] {
            assert_eq!(
                PathMtuError::parse_packet(&with(&[changes])),
                None,
                "{what}"
            );
        }
        let packet = with(&[]);
        for end in 0..packet.len() {
            assert_eq!(
                PathMtuError::parse_packet(&packet[..end]),
                None,
                "{end} bytes"
            );
        }
    }

    #[test]
    fn an_mtu_that_is_not_said_is_guessed() {
        let mtu = |changes: &[(usize, u8)]| {
            PathMtuError::parse_packet(&with(changes)).map(|error| error.mtu)
        };
        assert_eq!(mtu(&[(6, 0), (7, 0)]), Some(1492), "the plateau below 1500");
        assert_eq!(mtu(&[(6, 0), (7, 0), (10, 0), (11, 60)]), Some(68));
    }

    #[test]
    fn extensions_are_not_part_of_the_quotation() {
        let mut packet = with(&[(5, 32)]); // 128 bytes of quotation, zeros after the packet
        packet.truncate(48);
        packet.extend([7; 108]);
        packet.extend([0x20, 0, 0, 0, 9, 9, 9, 9]);
        packet[2..4].copy_from_slice(&164u16.to_be_bytes());
        packet[22..24].fill(0);
        let sum = checksum(&packet[20..]).to_be_bytes();
        packet[22..24].copy_from_slice(&sum);
        let error = PathMtuError::parse_packet(&packet).unwrap();
        assert_eq!(error.quoted.payload, [7; 108]);
    }

    #[test]
    fn packet_too_big() {
        let mut message = vec![2, 0, 0, 0, 0, 0, 5, 0x14, 0x60, 0, 0, 0, 5, 0xb4, 41, 60];
        message.extend([0xfd; 16]);
        message.extend([0xfe; 16]);
        message.extend([0x60, 0, 0, 0, 5, 0x8c, 6, 64]);
        let error = PathMtuError::parse_v6(&message).unwrap();
        assert_eq!(
            (error.mtu, error.quoted.length, error.quoted.header),
            (1300, 1500, 40)
        );
        assert_eq!(error.quoted.payload, &message[48..]);
        message[1] = 1;
        assert_eq!(PathMtuError::parse_v6(&message), None);
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200), right: bool) {
            prop_assert!(PathMtuError::parse_packet(&bytes).is_none_or(|error| error.destination.is_some()));
            prop_assert!(PathMtuError::parse_v6(&bytes).is_none_or(|error| error.destination.is_none()));
            for head in [&[3, 4][..], &[2, 0]] {
                bytes.iter_mut().zip(head).for_each(|(byte, &head)| *byte = head);
                if right && bytes.len() >= 8 {
                    bytes[2..4].fill(0);
                    let sum = checksum(&bytes).to_be_bytes();
                    bytes[2..4].copy_from_slice(&sum);
                }
                for error in [PathMtuError::parse_v4(&bytes), PathMtuError::parse_v6(&bytes)].into_iter().flatten() {
                    prop_assert!(error.quoted.payload.len() <= bytes.len());
                    prop_assert!(error.quoted.header + u32::try_from(error.quoted.payload.len()).unwrap() <= error.quoted.length.max(error.quoted.header));
                }
            }
        }
    }
}
