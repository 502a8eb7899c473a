//! Which packets may be joined, and the headers of what they become.
//!
//! The rules are those of Linux: equal headers but for lengths and checksums; TCP sequence numbers that follow
//! one another, no SYN, RST, URG or CWR, nothing after PSH or FIN; UDP with a checksum; one payload size, and
//! nothing after a shorter one. Identifications rise by one; where DF is set they may also stay the same,
//! since those of atomic datagrams mean nothing (RFC 6864 §4.1).

use super::headers::Headers;
use crate::packet::{
    Protocol, Version,
    checksum::{Sum, checksum},
    partial,
    vnet::{Gso, PartialChecksum, VnetHeader},
};

/// The longest headers: IPv6 (40) and TCP with all options (60).
const MOST_HEADERS: usize = 100;

const UDP_HEADER: usize = 8;

/// Positions in a TCP header (RFC 9293 §3.1).
const SEQUENCE: usize = 4;
const DATA_OFFSET: usize = 12;
const FLAGS: usize = 13;
const CHECKSUM: usize = 16;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
/// A segment with one of these stays alone: SYN, RST, URG, CWR.
const ALONE: u8 = 0x02 | 0x04 | 0x20 | 0x80;

/// DF in an IPv4 header's seventh byte.
const DONT_FRAGMENT: u8 = 0x40;

/// The facts of a packet that may be joined with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    headers: Headers,
    header_bytes: usize,
    payload_bytes: usize,
}

/// The packets that a segment may continue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run<'p> {
    pub(super) head: Segment,
    pub(super) first: &'p [u8],
    pub(super) last: &'p [u8],
    pub(super) packets: usize,
}

impl Segment {
    /// `None` for a packet that cannot be one of several, whatever the others are.
    pub(super) fn of(headers: Headers, packet: &[u8]) -> Option<Self> {
        if !headers.is_plain() || !says_its_length(&headers, packet) {
            return None;
        }
        let transport = packet.get(headers.network_bytes..)?;
        let transport_bytes = match headers.protocol {
            Protocol::Tcp => tcp_header_bytes(transport)?,
            Protocol::Udp => udp_header_bytes(transport)?,
        };
        let payload_bytes = transport.len().checked_sub(transport_bytes)?;
        (payload_bytes > 0).then_some(Self {
            headers,
            header_bytes: headers.network_bytes + transport_bytes,
            payload_bytes,
        })
    }

    pub(super) const fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Whether nothing may follow `packet` in a super-packet: it is to be pushed, or ends its stream.
    pub(super) fn is_end(&self, packet: &[u8]) -> bool {
        self.headers.protocol == Protocol::Tcp && flags(&self.headers, packet) & (PSH | FIN) != 0
    }

    /// Whether `packet`, of the same flow, is what segmentation would put next.
    pub(super) fn continues(&self, packet: &[u8], run: &Run<'_>) -> bool {
        self.header_bytes == run.head.header_bytes
            && self.payload_bytes <= run.head.payload_bytes
            && self.continues_network(packet, run)
            && match self.headers.protocol {
                Protocol::Tcp => self.continues_tcp(packet, run),
                Protocol::Udp => true, // the ports are the flow's, the rest is verified
            }
    }

    fn continues_network(&self, packet: &[u8], run: &Run<'_>) -> bool {
        let equal =
            |range: std::ops::Range<usize>| packet.get(range.clone()) == run.first.get(range);
        match self.headers.version {
            // Traffic class; fragment bits, TTL and protocol.
            Version::V4 => equal(0..2) && equal(6..10) && continues_identification(packet, run),
            // Traffic class and flow label; next header and hop limit.
            Version::V6 => equal(0..4) && equal(6..8),
        }
    }

    fn continues_tcp(&self, packet: &[u8], run: &Run<'_>) -> bool {
        let at = self.headers.network_bytes;
        let pair = |from: usize, to: usize| {
            packet.get(at + from..at + to) == run.first.get(at + from..at + to)
        };
        let sent = u32::try_from(run.packets * run.head.payload_bytes).unwrap_or_default();
        let changed = flags(&self.headers, packet) ^ flags(&self.headers, run.first);
        sequence(packet, at) == sequence(run.first, at).wrapping_add(sent)
            && pair(SEQUENCE + 4, FLAGS) // acknowledgement, data offset, reserved bits
            && changed & !(PSH | FIN) == 0
            && pair(FLAGS + 1, CHECKSUM) // window
            && pair(CHECKSUM + 2, self.header_bytes - at) // urgent pointer, options
    }

    /// Whether the packet's checksums are right, or are the kernel's to be completed.
    pub(super) fn is_verified(&self, packet: &[u8]) -> bool {
        let Headers {
            version,
            network_bytes,
            ..
        } = self.headers;
        let network =
            version == Version::V6 || packet.get(..network_bytes).map(checksum) == Some(0);
        network
            && partial::covered(version, packet)
                .is_some_and(|covered| covered.is_partial() || covered.is_complete())
    }
}

fn says_its_length(headers: &Headers, packet: &[u8]) -> bool {
    let length = match headers.version {
        Version::V4 => usize::from(word(packet, 2)),
        Version::V6 => headers.network_bytes + usize::from(word(packet, 4)),
    };
    length == packet.len()
}

fn tcp_header_bytes(transport: &[u8]) -> Option<usize> {
    let bytes = usize::from(transport.get(DATA_OFFSET)? >> 4) * 4;
    let joinable = transport.get(FLAGS)? & ALONE == 0;
    (joinable && bytes >= 20).then_some(bytes)
}

/// Without a checksum a datagram is nothing to vouch for.
fn udp_header_bytes(transport: &[u8]) -> Option<usize> {
    let fits = usize::from(word(transport, 4)) == transport.len();
    (fits && word(transport, 6) != 0).then_some(UDP_HEADER)
}

fn continues_identification(packet: &[u8], run: &Run<'_>) -> bool {
    let [new, first, last] = [packet, run.first, run.last].map(|packet| word(packet, 4));
    let position = u16::try_from(run.packets).unwrap_or_default();
    let rises = new == first.wrapping_add(position) && (position == 1 || last != first);
    let atomic = packet.get(6).is_some_and(|bits| bits & DONT_FRAGMENT != 0);
    rises || (atomic && new == first && last == first)
}

fn flags(headers: &Headers, packet: &[u8]) -> u8 {
    let flags = packet.get(headers.network_bytes + FLAGS);
    flags.copied().unwrap_or_default()
}

fn sequence(packet: &[u8], transport: usize) -> u32 {
    let at = transport + SEQUENCE;
    let bytes = packet.get(at..at + 4).and_then(|four| four.first_chunk());
    bytes.copied().map_or(0, u32::from_be_bytes)
}

/// The big-endian word at `offset`; 0 beyond the end.
fn word(bytes: &[u8], offset: usize) -> u16 {
    let pair = bytes
        .get(offset..offset + 2)
        .and_then(|pair| pair.first_chunk());
    pair.copied().map_or(0, u16::from_be_bytes)
}

/// What stands in front of the payloads of a super-packet.
#[derive(Debug)]
pub(super) struct SuperHeader {
    bytes: [u8; VnetHeader::LENGTH + MOST_HEADERS],
    packet_header_bytes: usize,
}

impl SuperHeader {
    /// Of a super-packet of `bytes` bytes, headers and all; `segment` is of its first packet.
    pub(super) fn new(segment: &Segment, (first, last): (&[u8], &[u8]), bytes: usize) -> Self {
        let headers = &segment.headers;
        let mut header = Self {
            bytes: [0; VnetHeader::LENGTH + MOST_HEADERS],
            packet_header_bytes: segment.header_bytes,
        };
        let (vnet, packet) = header.bytes.split_at_mut(VnetHeader::LENGTH);
        vnet.copy_from_slice(&vnet_header(segment).encode());
        let packet = &mut packet[..segment.header_bytes];
        packet.copy_from_slice(&first[..segment.header_bytes]);
        write_length(headers, packet, bytes);
        if headers.protocol == Protocol::Tcp {
            packet[headers.network_bytes + FLAGS] |= flags(headers, last) & (PSH | FIN);
        }
        write_pseudo_sum(headers, packet, bytes - headers.network_bytes);
        header
    }

    pub(super) const fn packet_header_bytes(&self) -> usize {
        self.packet_header_bytes
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..VnetHeader::LENGTH + self.packet_header_bytes]
    }
}

fn vnet_header(segment: &Segment) -> VnetHeader {
    let headers = &segment.headers;
    let short = |bytes: usize| u16::try_from(bytes).unwrap_or_default();
    VnetHeader {
        checksum: Some(PartialChecksum {
            start: short(headers.network_bytes),
            offset: short(checksum_at(headers)),
        }),
        gso: Some((
            match headers.protocol {
                Protocol::Tcp => Gso::Tcp(headers.version),
                Protocol::Udp => Gso::Udp,
            },
            short(segment.payload_bytes),
        )),
        header_length: short(segment.header_bytes),
    }
}

/// Where the checksum is in the transport header.
const fn checksum_at(headers: &Headers) -> usize {
    match headers.protocol {
        Protocol::Tcp => CHECKSUM,
        Protocol::Udp => 6,
    }
}

/// Writes the length of the super-packet into the headers that say it.
fn write_length(headers: &Headers, packet: &mut [u8], bytes: usize) {
    let transport_bytes = bytes - headers.network_bytes;
    match headers.version {
        Version::V4 => {
            set_word(packet, 2, bytes);
            set_word(packet, 10, 0);
            let sum = checksum(&packet[..headers.network_bytes]);
            set_word(packet, 10, sum.into());
        }
        Version::V6 => set_word(packet, 4, transport_bytes),
    }
    if headers.protocol == Protocol::Udp {
        set_word(packet, headers.network_bytes + 4, transport_bytes);
    }
}

fn write_pseudo_sum(headers: &Headers, packet: &mut [u8], transport_bytes: usize) {
    let protocol = match headers.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    let (addresses, _) = headers.ends(packet).unwrap_or_default();
    let sum = Sum::default()
        .add_bytes(addresses)
        .add_word(protocol)
        .add_word(u16::try_from(transport_bytes).unwrap_or_default())
        .finish();
    set_word(
        packet,
        headers.network_bytes + checksum_at(headers),
        (!sum).into(),
    );
}

fn set_word(bytes: &mut [u8], offset: usize, value: usize) {
    let value = u16::try_from(value).unwrap_or_default();
    if let Some(pair) = bytes.get_mut(offset..offset + 2) {
        pair.copy_from_slice(&value.to_be_bytes());
    }
}
