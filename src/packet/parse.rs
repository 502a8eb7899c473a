//! A checked view of a packet as it comes out of the TUN: IPv4 or IPv6, then TCP, UDP or ICMP.
//!
//! First step of a packet's way. [`Packet::parse`] checks every length against the bytes at hand
//! once; what it returns can be read without further checks. Read first: RFC 791 §3.1, RFC 8200
//! §3 and §4, RFC 9293 §3.1, RFC 768, RFC 792, RFC 4443.

use std::net::IpAddr;

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice, TcpHeaderSlice, UdpHeaderSlice};

use super::flow::{FlowKey, Protocol};
use super::icmp::Icmp;
use super::segmentation::Segmentation;

/// Extension headers walked before giving up. RFC 8200 §4.1 recommends an order that needs at
/// most seven; a longer chain is an attack on parsers (RFC 9098).
const MAX_EXTENSION_HEADERS: usize = 8;

/// Headers that do not fit their bytes; dropped and counted as `malformed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("headers do not fit the packet's bytes")]
pub struct Malformed;

/// An IP packet whose network header fits its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    source: IpAddr,
    destination: IpAddr,
    meta: Meta,
    fragment: Option<Fragment>,
    ports_hidden: bool,
    protocol: u8,
    payload: &'a [u8],
}

/// What encapsulation copies or derives from the inner network header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// IP version of the packet.
    pub version: Version,
    /// Length of the whole packet in bytes, header included.
    pub length: u16,
    /// DSCP and ECN: TOS (IPv4) or traffic class (IPv6).
    pub traffic_class: u8,
    /// Whether routers may not fragment it: DF, and always for IPv6.
    pub dont_fragment: bool,
    /// How it is segmented before it leaves; `None` for all but super-packets.
    pub segmentation: Option<Segmentation>,
}

impl Meta {
    /// Bytes of the longest packet that it leaves as: of itself, or of its segments.
    #[must_use]
    pub fn longest(&self) -> u16 {
        let length = self.length;
        self.segmentation
            .map_or(length, |segmentation| segmentation.longest(length))
    }

    /// How many packets it leaves as.
    #[must_use]
    pub fn packets(&self) -> u64 {
        let length = usize::from(self.length);
        self.segmentation
            .map_or(1, |segmentation| segmentation.segments(length) as u64)
    }
}

/// The IP version of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Where a fragment stands in its datagram (RFC 791 §3.2, RFC 8200 §4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Identification; 16 bits in IPv4.
    pub identification: u32,
    /// Offset in bytes; 0 is the first fragment, the one with the ports.
    pub offset: u16,
    /// Whether more fragments follow.
    pub more: bool,
    /// Bytes of a first fragment's data that are extension headers, before the payload; IPv6 only.
    pub headers: u16,
}

/// What a packet carries, seen from the balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A TCP segment.
    Tcp {
        /// Its 5-tuple.
        key: FlowKey,
        /// The flags that open and close a connection.
        flags: TcpFlags,
    },
    /// A UDP datagram.
    Udp {
        /// Its 5-tuple.
        key: FlowKey,
    },
    /// An ICMP or ICMPv6 message.
    Icmp(Icmp),
    /// Anything else, by its protocol number.
    Other(u8),
}

/// The TCP flags that open and close a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpFlags {
    /// SYN without ACK: the client opens a connection.
    pub opens: bool,
    /// FIN.
    pub fin: bool,
    /// RST.
    pub rst: bool,
}

impl<'a> Packet<'a> {
    /// Checks the network header (and the extension chain of IPv6) against `bytes`; bytes after
    /// the packet's own length are ignored.
    ///
    /// # Errors
    /// [`Malformed`] when a header or length does not fit, or the version is neither 4 nor 6.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        match bytes.first().map(|byte| byte >> 4) {
            Some(4) => parse_v4(bytes),
            Some(6) => parse_v6(bytes),
            _ => Err(Malformed),
        }
    }

    /// The sender: a client.
    #[must_use]
    pub const fn source(&self) -> IpAddr {
        self.source
    }

    /// The receiver: a VIP, if the packet is for us.
    #[must_use]
    pub const fn destination(&self) -> IpAddr {
        self.destination
    }

    /// The same packet, to be segmented in this way.
    #[must_use]
    pub const fn segmented(mut self, segmentation: Option<Segmentation>) -> Self {
        self.meta.segmentation = segmentation;
        self
    }

    /// What encapsulation needs of the network header.
    #[must_use]
    pub const fn meta(&self) -> Meta {
        self.meta
    }

    /// Where a fragment stands in its datagram; `None` for a whole packet.
    #[must_use]
    pub const fn fragment(&self) -> Option<Fragment> {
        self.fragment
    }

    /// Whether the kernel's flow hash reads no ports of it: it is a fragment, or they are behind an IPv6
    /// extension header that `__skb_flow_dissect` (linux/net/core/flow_dissector.c) does not follow.
    #[must_use]
    pub const fn hides_ports(&self) -> bool {
        self.ports_hidden
    }

    /// The protocol number after the network header and any extension headers. In a fragment of
    /// IPv6 other than the first it is what the fragment header says.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// What follows the network header and any extension headers.
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Checks the transport header of a whole packet or a first fragment, and reads what chooses
    /// a backend. A later fragment has no transport header.
    ///
    /// # Errors
    /// [`Malformed`] when a header or length does not fit; in a first fragment, too, the header
    /// must be whole (RFC 8200 §4.5, RFC 3128).
    pub fn transport(&self) -> Result<Transport, Malformed> {
        match (self.protocol, self.meta.version) {
            (6, _) => self.tcp(),
            (17, _) => self.udp(),
            (1, Version::V4) | (58, Version::V6) => {
                Icmp::parse(self.meta.version, self.payload).map(Transport::Icmp)
            }
            (other, _) => Ok(Transport::Other(other)),
        }
    }

    /// The 5-tuple of a TCP segment or UDP datagram, or of its first fragment.
    #[must_use]
    pub fn flow(&self) -> Option<FlowKey> {
        if self.fragment.is_some_and(|fragment| fragment.offset > 0) {
            return None;
        }
        match self.transport() {
            Ok(Transport::Tcp { key, .. } | Transport::Udp { key }) => Some(key),
            Ok(Transport::Icmp(_) | Transport::Other(_)) | Err(Malformed) => None,
        }
    }

    fn tcp(&self) -> Result<Transport, Malformed> {
        let tcp = TcpHeaderSlice::from_slice(self.payload).map_err(|_| Malformed)?;
        Ok(Transport::Tcp {
            key: self.key(tcp.source_port(), tcp.destination_port(), Protocol::Tcp),
            flags: TcpFlags {
                opens: tcp.syn() && !tcp.ack(),
                fin: tcp.fin(),
                rst: tcp.rst(),
            },
        })
    }

    fn udp(&self) -> Result<Transport, Malformed> {
        let udp = UdpHeaderSlice::from_slice(self.payload).map_err(|_| Malformed)?;
        // Zero stands for "the rest" only in jumbograms (RFC 2675 §4), which no TUN delivers.
        let length = usize::from(udp.length());
        let too_long = self.fragment.is_none() && length > self.payload.len();
        if length < udp.slice().len() || too_long {
            return Err(Malformed);
        }
        Ok(Transport::Udp {
            key: self.key(udp.source_port(), udp.destination_port(), Protocol::Udp),
        })
    }

    const fn key(&self, source_port: u16, destination_port: u16, protocol: Protocol) -> FlowKey {
        FlowKey {
            source: self.source,
            destination: self.destination,
            source_port,
            destination_port,
            protocol,
        }
    }
}

fn parse_v4(bytes: &[u8]) -> Result<Packet<'_>, Malformed> {
    let header = Ipv4HeaderSlice::from_slice(bytes).map_err(|_| Malformed)?;
    let length = header.total_len();
    let payload = bytes
        .get(header.slice().len()..usize::from(length))
        .ok_or(Malformed)?;
    let fragment = header.is_fragmenting_payload().then(|| Fragment {
        identification: header.identification().into(),
        offset: header.fragments_offset().value() * 8,
        more: header.more_fragments(),
        headers: 0,
    });
    Ok(Packet {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        meta: Meta {
            version: Version::V4,
            length,
            traffic_class: bytes[1],
            dont_fragment: header.dont_fragment(),
            segmentation: None,
        },
        fragment,
        ports_hidden: fragment.is_some(),
        protocol: header.protocol().0,
        payload,
    })
}

fn parse_v6(bytes: &[u8]) -> Result<Packet<'_>, Malformed> {
    let header = Ipv6HeaderSlice::from_slice(bytes).map_err(|_| Malformed)?;
    let start = header.slice().len();
    let length = usize::from(header.payload_length()) + start;
    let rest = bytes.get(start..length).ok_or(Malformed)?;
    let chain = walk_extensions(header.next_header().0, rest)?;
    Ok(Packet {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        meta: Meta {
            version: Version::V6,
            length: u16::try_from(length).map_err(|_| Malformed)?,
            traffic_class: header.traffic_class(),
            dont_fragment: true,
            segmentation: None,
        },
        fragment: chain.fragment,
        ports_hidden: chain.hides_ports,
        protocol: chain.protocol,
        payload: chain.payload,
    })
}

/// Where an extension chain ends.
pub(super) struct Chain<'a> {
    pub(super) protocol: u8,
    pub(super) payload: &'a [u8],
    pub(super) fragment: Option<Fragment>,
    /// Whether a header other than hop-by-hop, routing and destination options is in it.
    pub(super) hides_ports: bool,
}

/// Follows the extension headers to the upper-layer header, or to the end of what a non-first
/// fragment holds.
pub(super) fn walk_extensions(mut protocol: u8, mut rest: &[u8]) -> Result<Chain<'_>, Malformed> {
    let mut fragment: Option<Fragment> = None;
    let mut hides_ports = false;
    for _ in 0..=MAX_EXTENSION_HEADERS {
        let Some(length) = extension_length(protocol, rest)? else {
            return Ok(Chain {
                protocol,
                payload: rest,
                fragment,
                hides_ports,
            });
        };
        hides_ports |= !matches!(protocol, 0 | 43 | 60);
        if protocol == FRAGMENT {
            if fragment.is_some() {
                return Err(Malformed); // a fragment of a fragment has no place in a chain
            }
            fragment = fragment_header(rest);
        } else if let Some(first) = &mut fragment {
            first.headers += u16::try_from(length).map_err(|_| Malformed)?;
        }
        protocol = rest[0];
        rest = rest.get(length..).ok_or(Malformed)?;
        if fragment.is_some_and(|piece| piece.offset > 0) {
            return Ok(Chain {
                protocol,
                payload: rest,
                fragment,
                hides_ports,
            });
        }
    }
    Err(Malformed)
}

/// The fragment extension header (RFC 8200 §4.5).
const FRAGMENT: u8 = 44;

/// Length in bytes of the extension header `protocol` at the start of `rest`; `None` for an
/// upper-layer protocol (RFC 8200 §4, RFC 4302 §2.2 for AH's unit of four bytes).
fn extension_length(protocol: u8, rest: &[u8]) -> Result<Option<usize>, Malformed> {
    let units = |rest: &[u8]| rest.get(1).copied().map(usize::from).ok_or(Malformed);
    let length = match protocol {
        0 | 43 | 60 | 135 | 139 | 140 => (units(rest)? + 1) * 8,
        51 => (units(rest)? + 2) * 4,
        FRAGMENT => 8,
        _ => return Ok(None),
    };
    if length > rest.len() {
        return Err(Malformed);
    }
    Ok(Some(length))
}

/// Reads a fragment header of at least eight bytes; `None` for an atomic fragment (RFC 6946),
/// which is a whole packet.
fn fragment_header(header: &[u8]) -> Option<Fragment> {
    let word = u16::from_be_bytes([header[2], header[3]]);
    let fragment = Fragment {
        identification: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
        offset: word & !7,
        more: word & 1 == 1,
        headers: 0,
    };
    (fragment.offset > 0 || fragment.more).then_some(fragment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// SYN 192.0.2.1:40000 -> 203.0.113.10:80, DF, TOS 0x10, no options.
    const SYN: [u8; 40] = [
        0x45, 0x10, 0x00, 0x28, 0x12, 0x34, 0x40, 0x00, 0x40, 0x06, 0x00, 0x00, 192, 0, 2, 1, 203,
        0, 113, 10, // IPv4
        0x9c, 0x40, 0x00, 0x50, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0,
    ];

    /// UDP [2001:db8::1]:1000 -> [2001:db8::2]:53, traffic class 0xb8, payload "hi".
    const UDP6: [u8; 50] = [
        0x6b, 0x80, 0, 0, 0, 10, 17, 64, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
        0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, // IPv6
        3, 0xe8, 0, 53, 0, 10, 0, 0, b'h', b'i',
    ];

    fn with(bytes: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for &(at, value) in changes {
            bytes[at] = value;
        }
        bytes
    }

    /// [`UDP6`] with `extensions` between the network and the UDP header.
    fn udp6_behind(first: u8, extensions: &[u8]) -> Vec<u8> {
        let mut bytes = [&UDP6[..40], extensions, &UDP6[40..]].concat();
        bytes[5] = u8::try_from(bytes.len() - 40).unwrap();
        bytes[6] = first;
        bytes
    }

    fn transport(bytes: &[u8]) -> Result<Transport, Malformed> {
        Packet::parse(bytes)?.transport()
    }

    #[test]
    fn tcp_syn() {
        let packet = Packet::parse(&SYN).unwrap();
        let meta = Meta {
            version: Version::V4,
            length: 40,
            traffic_class: 0x10,
            dont_fragment: true,
            segmentation: None,
        };
        assert_eq!(packet.meta(), meta);
        let Ok(Transport::Tcp { key, flags }) = packet.transport() else {
            panic!("{packet:?}");
        };
        assert_eq!(key.to_string(), "192.0.2.1:40000 -> 203.0.113.10:80/tcp");
        let opens = TcpFlags {
            opens: true,
            fin: false,
            rst: false,
        };
        assert_eq!(flags, opens);
    }

    #[test]
    fn tcp_flags() {
        for (byte, opens, fin, rst) in [
            (0x10, false, false, false),
            (0x12, false, false, false),
            (0x11, false, true, false),
            (0x04, false, false, true),
        ] {
            let Ok(Transport::Tcp { flags, .. }) = transport(&with(&SYN, &[(33, byte)])) else {
                panic!("flags {byte:#x}");
            };
            assert_eq!(flags, TcpFlags { opens, fin, rst }, "flags {byte:#x}");
        }
    }

    #[test]
    fn udp_over_ipv6() {
        let packet = Packet::parse(&UDP6).unwrap();
        assert_eq!(packet.meta().traffic_class, 0xb8);
        assert!(packet.meta().dont_fragment);
        let Ok(Transport::Udp { key }) = packet.transport() else {
            panic!("{packet:?}");
        };
        assert_eq!(
            key.to_string(),
            "[2001:db8::1]:1000 -> [2001:db8::2]:53/udp"
        );
    }

    #[test]
    fn options_and_extensions_are_parsed_past() {
        let mut options = with(&SYN, &[(0, 0x46), (3, 44)]);
        options.splice(20..20, [1, 1, 1, 0]);
        assert!(matches!(transport(&options), Ok(Transport::Tcp { .. })));
        let hop_by_hop = [17, 0, 1, 4, 0, 0, 0, 0];
        assert_eq!(transport(&udp6_behind(0, &hop_by_hop)), transport(&UDP6));
        let authentication = [17, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1];
        assert_eq!(
            transport(&udp6_behind(51, &authentication)),
            transport(&UDP6)
        );
        let atomic_fragment = [17, 0, 0, 0, 0, 0, 0, 9];
        assert_eq!(
            transport(&udp6_behind(44, &atomic_fragment)),
            transport(&UDP6)
        );
    }

    #[test]
    fn fragments() {
        let piece = |identification, offset, more| {
            Some(Fragment {
                identification,
                offset,
                more,
                headers: 0,
            })
        };
        let fragment = |bytes: &[u8]| Packet::parse(bytes).unwrap().fragment();
        assert_eq!(fragment(&with(&SYN, &[(6, 0x20)])), piece(0x1234, 0, true));
        assert_eq!(
            fragment(&with(&SYN, &[(6, 0), (7, 2)])),
            piece(0x1234, 16, false)
        );
        let first = [17, 0, 0, 1, 0, 0, 0, 9];
        assert_eq!(fragment(&udp6_behind(44, &first)), piece(9, 0, true));
        let second = [17, 0, 0x05, 0xa8, 0, 0, 0, 9];
        assert_eq!(fragment(&udp6_behind(44, &second)), piece(9, 1448, false));
        let nested = [44, 0, 0, 1, 0, 0, 0, 9, 17, 0, 0, 0, 0, 0, 0, 9];
        assert_eq!(Packet::parse(&udp6_behind(44, &nested)), Err(Malformed));
    }

    #[test]
    fn malformed() {
        let endless = udp6_behind(60, &[60, 0, 1, 4, 0, 0, 0, 0].repeat(10));
        for (what, bytes) in [
            ("empty", vec![]),
            ("version 5", with(&SYN, &[(0, 0x55)])),
            ("IHL of 4 words", with(&SYN, &[(0, 0x44)])),
            (
                "IHL beyond the packet",
                with(&SYN[..24], &[(0, 0x4f), (3, 24)]),
            ),
            ("total length beyond the bytes", with(&SYN, &[(3, 41)])),
            ("total length below the header", with(&SYN, &[(3, 19)])),
            ("TCP header cut", with(&SYN, &[(3, 39)])),
            ("data offset beyond the segment", with(&SYN, &[(32, 0x60)])),
            ("data offset of 4 words", with(&SYN, &[(32, 0x40)])),
            (
                "IPv6 payload length beyond the bytes",
                with(&UDP6, &[(5, 11)]),
            ),
            ("UDP length below its header", with(&UDP6, &[(45, 7)])),
            ("UDP length beyond the packet", with(&UDP6, &[(45, 11)])),
            (
                "extension beyond the packet",
                udp6_behind(0, &[17, 9, 1, 4, 0, 0, 0, 0]),
            ),
            ("extension chain without end", endless),
        ] {
            assert_eq!(transport(&bytes), Err(Malformed), "{what}");
        }
    }

    #[test]
    fn every_truncation_is_malformed() {
        for packet in [&SYN[..], &UDP6[..]] {
            for end in 0..packet.len() {
                assert_eq!(transport(&packet[..end]), Err(Malformed), "{end} bytes");
            }
        }
    }

    #[test]
    fn trailing_bytes_are_ignored() {
        let padded = [&SYN[..], &[0; 6]].concat();
        assert_eq!(transport(&padded), transport(&SYN));
        assert_eq!(Packet::parse(&padded).unwrap().meta().length, 40);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..256), version in 4u8..=6) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = version << 4 | *first & 0xf;
            }
            if let Ok(packet) = Packet::parse(&bytes) {
                prop_assert!(usize::from(packet.meta().length) <= bytes.len());
                packet.transport().ok();
            }
        }

        /// Valid packets with random bytes changed: near misses reach deeper than noise.
        #[test]
        fn mutations_never_panic(v6: bool, changes in prop::collection::vec((0usize..50, any::<u8>()), 0..6)) {
            let base = if v6 { &UDP6[..] } else { &SYN[..] };
            let fitting: Vec<_> = changes.into_iter().filter(|&(at, _)| at < base.len()).collect();
            transport(&with(base, &fitting)).ok();
        }
    }
}
