//! The quick look at a packet: the rule, a whole TCP segment or UDP datagram behind a plain IP header, in a
//! few loads and nothing that does not fit a register.
//!
//! It says nothing that [`Packet::parse`](super::Packet::parse) and its transport would not; what it does not
//! know (options, extension headers, fragments, other protocols, malformed packets), it leaves to them.

use super::flow::{FlowKey, Protocol};
use super::parse::{Meta, TcpFlags, Version};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A [`FlowKey`] in 37 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PackedFlow {
    /// Source and destination: both in the first word where both are IPv4.
    pub addresses: [u64; 4],
    /// Source and destination port.
    pub ports: u32,
    /// The protocol's number, with a bit for each address that is IPv6; 0 is no flow's.
    pub kind: u8,
}

impl PackedFlow {
    const SOURCE_V6: u8 = 0x80;
    const DESTINATION_V6: u8 = 0x40;
    const BOTH_V6: u8 = Self::SOURCE_V6 | Self::DESTINATION_V6;

    /// Packs a key.
    #[must_use]
    pub fn new(key: &FlowKey) -> Self {
        let (addresses, family) = match (key.source, key.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let pair = u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits());
                ([pair, 0, 0, 0], 0)
            }
            (source, destination) => {
                let ([a, b], source_v6) = wide(source);
                let ([c, d], destination_v6) = wide(destination);
                let family = (u8::from(source_v6) * Self::SOURCE_V6)
                    | (u8::from(destination_v6) * Self::DESTINATION_V6);
                ([a, b, c, d], family)
            }
        };
        Self {
            addresses,
            ports: u32::from(key.source_port) << 16 | u32::from(key.destination_port),
            kind: key.protocol.number() | family,
        }
    }

    /// Whether an address is IPv6, so that all words count.
    #[must_use]
    pub const fn is_wide(&self) -> bool {
        self.kind & Self::BOTH_V6 != 0
    }

    /// What was packed.
    #[must_use]
    pub fn key(&self) -> FlowKey {
        let [a, b, c, d] = self.addresses;
        let (source, destination) = if self.is_wide() {
            let source = narrow([a, b], self.kind & Self::SOURCE_V6 != 0);
            (
                source,
                narrow([c, d], self.kind & Self::DESTINATION_V6 != 0),
            )
        } else {
            let [source, destination] = halves(a);
            (v4(source), v4(destination))
        };
        let [a, b, c, d] = self.ports.to_be_bytes();
        FlowKey {
            source,
            destination,
            source_port: u16::from_be_bytes([a, b]),
            destination_port: u16::from_be_bytes([c, d]),
            protocol: match self.kind & !Self::BOTH_V6 {
                TCP => Protocol::Tcp,
                _ => Protocol::Udp,
            },
        }
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A whole TCP segment or UDP datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its 5-tuple.
    pub flow: PackedFlow,
    /// Of TCP, the flags that open and close a connection.
    pub flags: Option<TcpFlags>,
    /// What encapsulation needs of the network header.
    pub meta: Meta,
}

impl Segment {
    /// Reads a packet; bytes after its own length are ignored. `None`: to be parsed.
    #[inline]
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? {
            0x45 => Self::read_v4(bytes),
            first if first >> 4 == 6 => Self::read_v6(bytes),
            _ => None,
        }
    }

    #[inline]
    fn read_v4(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; 20] = bytes.first_chunk()?;
        let length = word(header, 2);
        let fragment = word(header, 6);
        if fragment & 0x3fff != 0 {
            return None; // more fragments, or an offset
        }
        let (ports, flags) = transport(header[9], bytes.get(20..usize::from(length))?)?;
        Some(Self {
            flow: PackedFlow {
                addresses: [long(header, 12), 0, 0, 0],
                ports,
                kind: header[9],
            },
            flags,
            meta: Meta {
                version: Version::V4,
                length,
                traffic_class: header[1],
                dont_fragment: fragment & 0x4000 != 0,
                segmentation: None,
            },
        })
    }

    #[inline]
    fn read_v6(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; 40] = bytes.first_chunk()?;
        let length = word(header, 4).checked_add(40)?;
        let (ports, flags) = transport(header[6], bytes.get(40..usize::from(length))?)?;
        let [traffic_class, _] = (word(header, 0) << 4).to_be_bytes();
        Some(Self {
            flow: PackedFlow {
                addresses: [8, 16, 24, 32].map(|at| long(header, at)),
                ports,
                kind: header[6] | PackedFlow::BOTH_V6,
            },
            flags,
            meta: Meta {
                version: Version::V6,
                length,
                traffic_class,
                dont_fragment: true,
                segmentation: None,
            },
        })
    }
}

/// The ports of a TCP or UDP header that fits its packet, and the flags of TCP.
#[inline]
fn transport(protocol: u8, payload: &[u8]) -> Option<(u32, Option<TcpFlags>)> {
    match protocol {
        TCP => {
            let header: &[u8; 20] = payload.first_chunk()?;
            let header_length = usize::from(header[12] >> 4) * 4;
            let fits = header_length >= 20 && header_length <= payload.len();
            let bits = header[13];
            let flags = TcpFlags {
                opens: bits & 0x12 == 0x02, // SYN without ACK
                fin: bits & 0x01 != 0,
                rst: bits & 0x04 != 0,
            };
            fits.then_some((ports(header), Some(flags)))
        }
        UDP => {
            let header: &[u8; 8] = payload.first_chunk()?;
            let length = usize::from(word(header, 4));
            let fits = length >= 8 && length <= payload.len();
            fits.then_some((ports(header), None))
        }
        _ => None,
    }
}

#[inline]
fn word(header: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

/// The first four bytes, as one load.
#[inline]
fn ports(header: &[u8]) -> u32 {
    u32::from_be_bytes(header.first_chunk().copied().unwrap_or_default())
}

#[inline]
fn long(header: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(header[at..].first_chunk().copied().unwrap_or_default())
}

fn v4(bits: u32) -> IpAddr {
    Ipv4Addr::from_bits(bits).into()
}

/// An address in two words, and whether it is IPv6.
fn wide(address: IpAddr) -> ([u64; 2], bool) {
    match address {
        IpAddr::V4(address) => ([0, address.to_bits().into()], false),
        IpAddr::V6(address) => {
            let octets = address.octets();
            ([long(&octets, 0), long(&octets, 8)], true)
        }
    }
}

fn narrow([high, low]: [u64; 2], is_v6: bool) -> IpAddr {
    if is_v6 {
        Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into()
    } else {
        v4(halves(low)[1])
    }
}

fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_be_bytes();
    [[a, b, c, d], [e, f, g, h]].map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Packet, Transport};
    use proptest::prelude::*;

    /// What the parser says of a whole TCP or UDP packet.
    fn parsed(bytes: &[u8]) -> Option<Segment> {
        let packet = Packet::parse(bytes).ok()?;
        let (key, flags) = match packet.transport().ok()? {
            Transport::Tcp { key, flags } => (key, Some(flags)),
            Transport::Udp { key } => (key, None),
            Transport::Icmp(_) | Transport::Other(_) => return None,
        };
        packet.fragment().is_none().then(|| Segment {
            flow: PackedFlow::new(&key),
            flags,
            meta: packet.meta(),
        })
    }

    /// A packet with a plain header, before it is changed.
    fn plain(v6: bool, tcp: bool, data: &[u8]) -> Vec<u8> {
        let protocol = if tcp { TCP } else { UDP };
        let header = if tcp { 20 } else { 8 };
        let length = u16::try_from(header + data.len()).unwrap();
        let mut bytes = if v6 {
            let mut bytes = vec![0x6b, 0x90, 1, 2];
            bytes.extend(length.to_be_bytes());
            bytes.extend([protocol, 64]);
            bytes.extend(1..=32);
            bytes
        } else {
            let mut bytes = vec![0x45, 0xb9];
            bytes.extend((length + 20).to_be_bytes());
            bytes.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
            bytes.extend(1..=8);
            bytes
        };
        bytes.extend([0x9c, 0x40, 0, 80]);
        match tcp {
            true => bytes.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]),
            false => {
                bytes.extend(length.to_be_bytes());
                bytes.extend([0, 0]);
            }
        }
        bytes.extend(data);
        bytes
    }

    proptest! {
        #[test]
        fn plain_packets_are_read(v6: bool, tcp: bool, flags: u8, data in prop::collection::vec(any::<u8>(), 0..40), padding in 0..9_usize) {
            let mut bytes = plain(v6, tcp, &data);
            if tcp {
                let at = bytes.len() - data.len() - 7;
                bytes[at] = flags;
            }
            bytes.resize(bytes.len() + padding, 0xaa);
            let segment = Segment::read(&bytes);
            prop_assert!(segment.is_some());
            prop_assert_eq!(segment, parsed(&bytes));
            let flow = segment.unwrap().flow;
            prop_assert_eq!(PackedFlow::new(&flow.key()), flow);
        }

        #[test]
        fn it_says_nothing_that_the_parser_does_not(v6: bool, tcp: bool, data in prop::collection::vec(any::<u8>(), 0..40), changes in prop::collection::vec((0..80_usize, any::<u8>()), 0..4), cut in 0..90_usize) {
            let mut bytes = plain(v6, tcp, &data);
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            bytes.truncate(cut);
            if let Some(segment) = Segment::read(&bytes) {
                prop_assert_eq!(Some(segment), parsed(&bytes));
            }
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            if let Some(segment) = Segment::read(&bytes) {
                prop_assert_eq!(Some(segment), parsed(&bytes));
            }
        }
    }
}
