//! Super-packets: up to 64 KiB of one flow behind one header, and the segments that the kernel would have
//! made of them, byte for byte (`tcp_gso_segment`, `__udp_gso_segment`, `inet_gso_segment` of Linux).
//!
//! A segment leaves as a [`Head`], which is made for it, and a part of the super-packet's data, which is not
//! copied. What a [`VnetHeader`] says is checked against the packet once; no segment is made of a lie.

use super::checksum::Sum;
use super::encap::HEADROOM;
use super::parse::{Malformed, Packet, Version};
use super::vnet::{Gso, VnetHeader};

/// Room for a segment's own headers; TCP over IPv4 takes at most 120 bytes.
const LONGEST_HEADERS: usize = 192;

/// What a segment has at least of TCP data: the least MSS less the longest options (`TCP_MIN_GSO_SIZE`,
/// linux/net/tcp.h).
const SMALLEST_TCP: u16 = 8;

/// What a segment has at least of UDP data; a super-packet of single bytes is a lie.
const SMALLEST_UDP: u16 = 2;

const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

/// TCP flags in the 14th byte of its header (RFC 9293 §3.1): in the last segment alone, and in the first alone.
const FIN_AND_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// How a super-packet is to be segmented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segmentation {
    version: Version,
    transport: Transport,
    /// Bytes of the network header.
    network: u16,
    /// Bytes of all headers.
    headers: u16,
    /// Bytes of data in each segment but the last.
    size: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    Udp,
}

impl Segmentation {
    /// What the kernel says of `packet`, if it is one that is to be segmented.
    ///
    /// # Errors
    /// [`Malformed`] where that does not fit the packet.
    pub fn of(packet: &[u8], header: &VnetHeader) -> Result<Option<Self>, Malformed> {
        let Some((gso, size)) = header.gso else {
            return Ok(None);
        };
        let parsed = Packet::parse(packet)?;
        let version = parsed.meta().version;
        let whole =
            usize::from(parsed.meta().length) == packet.len() && parsed.fragment().is_none();
        let network = packet.len() - parsed.payload().len();
        let (transport, length, smallest) = match (gso, parsed.protocol()) {
            (Gso::Tcp(of), 6) if of == version => {
                let words = parsed.payload().get(12).ok_or(Malformed)? >> 4;
                (Transport::Tcp, usize::from(words) * 4, SMALLEST_TCP)
            }
            (Gso::Udp, 17) => (Transport::Udp, UDP_HEADER, SMALLEST_UDP),
            _ => return Err(Malformed),
        };
        let headers = network + length;
        let covers = header.checksum.is_some_and(|checksum| {
            usize::from(checksum.start) == network && checksum.offset == transport.checksum()
        });
        let fits = length >= transport.least_header()
            && headers <= LONGEST_HEADERS
            && headers < packet.len();
        if !(whole && covers && fits && size >= smallest) {
            return Err(Malformed);
        }
        let [network, headers] = [network, headers].map(|bytes| u16::try_from(bytes).unwrap_or(0));
        Ok(Some(Self {
            version,
            transport,
            network,
            headers,
            size,
        }))
    }

    /// The same with segments of at most `room` bytes; `None` where that cannot be, as for datagrams.
    #[must_use]
    pub fn within(self, room: u16) -> Option<Self> {
        let size = room.checked_sub(self.headers)?.min(self.size);
        let can = self.transport == Transport::Tcp && size >= SMALLEST_TCP;
        can.then_some(Self { size, ..self })
    }

    /// How many packets a super-packet of `length` bytes becomes.
    #[must_use]
    pub fn segments(&self, length: usize) -> usize {
        let data = length.saturating_sub(self.headers.into());
        data.div_ceil(self.size.max(1).into())
    }

    /// Bytes of the longest of the packets that it becomes.
    #[must_use]
    pub fn longest(&self, length: u16) -> u16 {
        length.min(self.headers.saturating_add(self.size))
    }
}

impl Transport {
    /// Where its checksum stands, in bytes from its header's start.
    const fn checksum(self) -> u16 {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }

    const fn least_header(self) -> usize {
        match self {
            Self::Tcp => TCP_HEADER,
            Self::Udp => UDP_HEADER,
        }
    }

    const fn protocol(self) -> u16 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// The headers of one segment, with head-room before them.
#[derive(Debug, Clone)]
pub(super) struct Head {
    bytes: [u8; HEADROOM + LONGEST_HEADERS],
    length: usize,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            bytes: [0; HEADROOM + LONGEST_HEADERS],
            length: 0,
        }
    }
}

impl Head {
    /// The head-room, and the headers.
    pub(super) fn parts_mut(&mut self) -> Option<(&mut [u8; HEADROOM], &[u8])> {
        let bytes = self.bytes.get_mut(..HEADROOM + self.length)?;
        let (headroom, headers) = bytes.split_first_chunk_mut()?;
        Some((headroom, headers))
    }

    /// The headers, with the last `overhead` bytes of the head-room before them.
    pub(super) fn with_header(&self, overhead: usize) -> Option<&[u8]> {
        let begin = HEADROOM.checked_sub(overhead)?;
        self.bytes.get(begin..HEADROOM + self.length)
    }

    /// Bytes of the headers.
    pub(super) const fn length(&self) -> usize {
        self.length
    }

    fn set(&mut self, headers: &[u8]) -> &mut [u8] {
        self.length = headers.len().min(LONGEST_HEADERS);
        let bytes = &mut self.bytes[HEADROOM..HEADROOM + self.length];
        bytes.copy_from_slice(&headers[..bytes.len()]);
        bytes
    }
}

/// One segment of a super-packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    split: &'a Split<'a>,
    /// Its number.
    number: usize,
    /// Where its data begins in the super-packet.
    pub(super) start: usize,
    /// Bytes of the whole packet.
    pub(super) length: u16,
}

/// A super-packet about to be segmented: what all segments share.
#[derive(Debug)]
pub(super) struct Split<'a> {
    packet: &'a [u8],
    segmentation: Segmentation,
    /// Over the IPv4 header but length, identification and checksum.
    network: Sum,
    /// Over pseudo-header and transport header, but lengths, sequence number, flags and checksum.
    transport: Sum,
}

impl<'a> Split<'a> {
    /// `segmentation` must be [of](Segmentation::of) this packet; otherwise there are no parts.
    pub(super) fn new(packet: &'a [u8], segmentation: Segmentation) -> Self {
        let mut split = Self {
            packet,
            segmentation,
            network: Sum::default(),
            transport: Sum::default(),
        };
        let mut head = Head::default();
        let headers = head.set(split.headers());
        let (network, transport) =
            headers.split_at_mut(usize::from(segmentation.network).min(headers.len()));
        let addresses = match segmentation.version {
            Version::V4 => network.get(12..20),
            Version::V6 => network.get(8..40), // as the kernel, which knows no routing header here
        };
        split.transport = Sum::default()
            .add_bytes(addresses.unwrap_or_default())
            .add_word(segmentation.transport.protocol());
        if let Version::V4 = segmentation.version {
            clear(network, &[2..6, 10..12]);
            split.network = Sum::default().add_bytes(network);
        }
        match segmentation.transport {
            Transport::Tcp => clear(transport, &[4..8, 12..14, 16..18]),
            Transport::Udp => clear(transport, &[4..6, 6..8]),
        }
        split.transport = split.transport.add_bytes(transport);
        split
    }

    fn headers(&self) -> &'a [u8] {
        let headers = usize::from(self.segmentation.headers);
        self.packet.get(..headers).unwrap_or_default()
    }

    /// The segments, in their order.
    pub(super) fn parts(&'a self) -> impl Iterator<Item = Part<'a>> {
        let headers = usize::from(self.segmentation.headers);
        let step = usize::from(self.segmentation.size.max(1));
        let starts = (headers..self.packet.len()).step_by(step);
        starts.enumerate().map(move |(number, start)| {
            let data = step.min(self.packet.len() - start);
            Part {
                split: self,
                number,
                start,
                length: u16::try_from(headers + data).unwrap_or(u16::MAX),
            }
        })
    }
}

/// Sets ranges of a header to 0, as far as they are in it.
fn clear(header: &mut [u8], ranges: &[std::ops::Range<usize>]) {
    for range in ranges {
        if let Some(bytes) = header.get_mut(range.clone()) {
            bytes.fill(0);
        }
    }
}

impl Part<'_> {
    /// Makes `head` the segment's headers.
    pub(super) fn write_head(&self, head: &mut Head) {
        let segmentation = self.split.segmentation;
        let network = usize::from(segmentation.network);
        let headers = head.set(self.split.headers());
        if headers.len() < network + segmentation.transport.least_header() {
            return; // there are no headers, and so no parts
        }
        let (network, transport) = headers.split_at_mut(network);
        self.write_network(network);
        match segmentation.transport {
            Transport::Tcp => self.write_tcp(transport),
            Transport::Udp => self.write_udp(transport),
        }
    }

    fn is_last(&self) -> bool {
        self.start + self.data().len() == self.split.packet.len()
    }

    fn data(&self) -> &[u8] {
        let headers = usize::from(self.split.segmentation.headers);
        let bytes = usize::from(self.length).saturating_sub(headers);
        let data = self.split.packet.get(self.start..self.start + bytes);
        data.unwrap_or_default()
    }

    /// The identification goes up by one from segment to segment (`inet_gso_segment`).
    fn write_network(&self, header: &mut [u8]) {
        match self.split.segmentation.version {
            Version::V4 => {
                let number = u16::try_from(self.number).unwrap_or(u16::MAX);
                let first = u16::from_be_bytes([header[4], header[5]]);
                let identification = first.wrapping_add(number);
                let sum = self.split.network;
                let sum = sum.add_word(self.length).add_word(identification).finish();
                header[2..4].copy_from_slice(&self.length.to_be_bytes());
                header[4..6].copy_from_slice(&identification.to_be_bytes());
                header[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            Version::V6 => {
                let length = self.length.saturating_sub(40);
                header[4..6].copy_from_slice(&length.to_be_bytes());
            }
        }
    }

    fn write_tcp(&self, header: &mut [u8]) {
        let before = self.start - usize::from(self.split.segmentation.headers);
        let first = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let sequence = first.wrapping_add(u32::try_from(before).unwrap_or(u32::MAX));
        header[4..8].copy_from_slice(&sequence.to_be_bytes());
        if !self.is_last() {
            header[13] &= !FIN_AND_PSH;
        }
        if self.number > 0 {
            header[13] &= !CWR;
        }
        let sum = self.transport_sum().add_bytes(&header[4..8]);
        let sum = sum.add_bytes(&header[12..14]).finish();
        header[16..18].copy_from_slice(&sum.to_be_bytes());
    }

    fn write_udp(&self, header: &mut [u8]) {
        let length = self.transport_length();
        header[4..6].copy_from_slice(&length.to_be_bytes());
        let sum = match self.transport_sum().add_word(length).finish() {
            0 => 0xffff, // 0 is no checksum (RFC 768)
            sum => sum,
        };
        header[6..8].copy_from_slice(&sum.to_be_bytes());
    }

    fn transport_length(&self) -> u16 {
        self.length.saturating_sub(self.split.segmentation.network)
    }

    /// Over all but what differs in the transport header.
    fn transport_sum(&self) -> Sum {
        let sum = self.split.transport.add_word(self.transport_length());
        sum.add_bytes(self.data())
    }
}

#[cfg(test)]
mod tests;
