//! Joins received packets of one burst to super-packets, as the kernel's GRO does on a network card: one
//! write for up to 64 segments instead of one for each.
//!
//! Only what segmentation would take apart again into the very packets that came is joined (`segment` has the
//! rules, those of Linux). Whoever is given a super-packet trusts its checksum; so a segment's own checksum is
//! verified before it is joined, and a packet that cannot be joined is handed on untouched. Packets of a flow
//! keep their order, and nothing waits for another burst.
//!
//! Read first: linux/net/ipv4/tcp_offload.c (`tcp_gro_receive`), udp_offload.c (`udp_gro_receive_segment`),
//! af_inet.c (`inet_gro_receive`).

mod headers;
mod segment;

use std::hash::{BuildHasher, Hasher};

use self::{
    headers::Headers,
    segment::{Run, Segment, SuperHeader},
};
use super::{Protocol, partial, vnet::VnetHeader};

/// Packets that are looked at together.
pub const WINDOW: usize = 256;

/// Segments of a super-packet, at most: what UDP GRO takes (`UDP_GRO_CNT_MAX`, linux/net/ipv4/udp_offload.c),
/// and 45 segments of an Ethernet path fill one of TCP.
pub const MAX_SEGMENTS: usize = 64;

/// The most that the length field of an IP header says.
const LONGEST: usize = 65_535;

/// The table of flows: never more than half full.
const TABLE: usize = 2 * WINDOW;

/// No packet, or no group.
const NONE: u16 = u16::MAX;

// Positions of packets and groups are kept in 16 bits.
const _: () = assert!(WINDOW < NONE as usize);

/// Whether UDP datagrams are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UdpRule {
    /// They are.
    Join,
    /// The receiver cannot take them apart (Linux before 6.2).
    Leave,
}

/// The memory that windows work with, used again and again.
#[derive(Debug)]
pub struct Coalescer {
    hasher: ahash::RandomState,
    groups: Vec<Group>,
    /// For each packet the next one of its group.
    next: [u16; WINDOW],
    /// By the flow's hash: its latest group.
    table: [u16; TABLE],
    udp: UdpRule,
}

/// Packets that leave as one; in the order of the first of each, groups leave.
#[derive(Debug, Clone, Copy)]
struct Group {
    first: u16,
    last: u16,
    packets: u16,
    /// Of the first packet; none where it has no ports.
    headers: Option<Headers>,
    /// Of the first packet; none where it can only be alone.
    head: Option<Segment>,
    state: State,
    /// Bytes of the super-packet.
    bytes: usize,
}

/// Whether a group takes more packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It does; the checksums of its only packet are not verified yet, which would be in vain if it stays alone.
    Unverified,
    /// It does.
    Verified,
    /// It does not.
    Closed,
}

/// The packets of a part of a burst, to be joined.
#[derive(Debug)]
pub struct Window<'c, 'p> {
    coalescer: &'c mut Coalescer,
    packets: [&'p [u8]; WINDOW],
    filled: u16,
}

/// What is to be written at once: the header for the kernel, then the packet or its parts.
#[derive(Debug)]
pub struct Frame<'w, 'p> {
    window: &'w Window<'w, 'p>,
    group: Group,
    header: Header,
}

/// What is written in front of the payloads.
#[derive(Debug)]
enum Header {
    /// The packet follows as it is.
    Alone([u8; VnetHeader::LENGTH]),
    /// The payloads of the packets follow.
    Joined(SuperHeader),
}

impl Default for Coalescer {
    fn default() -> Self {
        Self {
            hasher: ahash::RandomState::new(),
            groups: Vec::with_capacity(WINDOW),
            next: [NONE; WINDOW],
            table: [NONE; TABLE],
            udp: UdpRule::Join,
        }
    }
}

impl Coalescer {
    /// Sets whether UDP datagrams are joined from now on.
    pub const fn set_udp(&mut self, rule: UdpRule) {
        self.udp = rule;
    }

    /// An empty window.
    pub fn window<'p>(&mut self) -> Window<'_, 'p> {
        self.clear();
        Window {
            coalescer: self,
            packets: [&[]; WINDOW],
            filled: 0,
        }
    }

    fn clear(&mut self) {
        if !self.groups.is_empty() {
            self.groups.clear();
            self.table.fill(NONE);
        }
    }

    /// Where the latest group of the packet's flow is in the table, or is to be.
    fn slot(&self, packets: &[&[u8]], headers: Headers, packet: &[u8]) -> usize {
        let ends = headers.ends(packet);
        let mut hasher = self.hasher.build_hasher();
        if let Some((addresses, ports)) = ends {
            hasher.write(addresses);
            hasher.write(ports);
        }
        let start = usize::try_from(hasher.finish() % TABLE as u64).unwrap_or_default();
        let fits = |slot: &usize| {
            let group = self.table.get(*slot).copied().unwrap_or(NONE);
            let Some(group) = self.groups.get(usize::from(group)) else {
                return true; // vacant
            };
            let is_alike = |of_group: Headers| {
                of_group.version == headers.version && of_group.protocol == headers.protocol
            };
            let first = packets.get(usize::from(group.first));
            group.headers.is_some_and(is_alike)
                && first.is_some_and(|first| group.headers.and_then(|h| h.ends(first)) == ends)
        };
        let slot = (start..TABLE).chain(0..start).find(fits);
        slot.unwrap_or_default() // at least half of them are vacant
    }
}

impl<'p> Window<'_, 'p> {
    /// Whether no packet fits any more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        usize::from(self.filled) == WINDOW
    }

    /// Takes a whole IP packet into the window; one beyond [`WINDOW`] is not taken.
    pub fn push(&mut self, packet: &'p [u8]) {
        let index = self.filled;
        let Some(place) = self.packets.get_mut(usize::from(index)) else {
            return;
        };
        *place = packet;
        self.filled += 1;
        let Some(headers) = Headers::of(packet) else {
            self.begin_group(index, None);
            return;
        };
        let slot = self.coalescer.slot(&self.packets, headers, packet);
        let latest = self.coalescer.table.get(slot).copied().unwrap_or(NONE);
        if self.join(latest, headers, index) {
            return;
        }
        let group = self.begin_group(index, Some(headers));
        if let Some(entry) = self.coalescer.table.get_mut(slot) {
            *entry = group;
        }
    }

    /// Puts the packet into its flow's latest group where it continues that; else that group is closed.
    fn join(&mut self, group: u16, headers: Headers, index: u16) -> bool {
        let packets = &self.packets;
        let Some(group) = self.coalescer.groups.get_mut(usize::from(group)) else {
            return false;
        };
        let packet = packets[usize::from(index)];
        let Some(segment) = group.continued_by(headers, packet, packets) else {
            group.state = State::Closed;
            return false;
        };
        if let Some(next) = self.coalescer.next.get_mut(usize::from(group.last)) {
            *next = index;
        }
        if let Some(next) = self.coalescer.next.get_mut(usize::from(index)) {
            *next = NONE; // a window before this one may have left something else
        }
        group.add(index, &segment, packet);
        true
    }

    /// Returns the position of the new group.
    fn begin_group(&mut self, index: u16, headers: Option<Headers>) -> u16 {
        let packet = self.packet(index);
        let coalescer = &mut *self.coalescer;
        let head = headers
            .filter(|headers| coalescer.udp == UdpRule::Join || headers.protocol == Protocol::Tcp)
            .and_then(|headers| Segment::of(headers, packet))
            .filter(|segment| !segment.is_end(packet));
        if let Some(next) = coalescer.next.get_mut(usize::from(index)) {
            *next = NONE;
        }
        coalescer.groups.push(Group {
            first: index,
            last: index,
            packets: 1,
            headers,
            head,
            state: match head {
                Some(_) => State::Unverified,
                None => State::Closed,
            },
            bytes: packet.len(),
        });
        u16::try_from(coalescer.groups.len() - 1).unwrap_or(NONE)
    }

    /// Empties the window.
    pub fn clear(&mut self) {
        self.coalescer.clear();
        self.filled = 0;
    }

    /// The packets joined, each group at the place of its first one.
    pub fn frames(&self) -> impl Iterator<Item = Frame<'_, 'p>> {
        self.coalescer.groups.iter().map(|group| Frame {
            window: self,
            group: *group,
            header: self.header(group),
        })
    }

    fn packet(&self, index: u16) -> &'p [u8] {
        self.packets
            .get(usize::from(index))
            .copied()
            .unwrap_or_default()
    }

    fn header(&self, group: &Group) -> Header {
        let first = self.packet(group.first);
        match group.head {
            Some(head) if group.packets > 1 => {
                let last = self.packet(group.last);
                Header::Joined(SuperHeader::new(&head, (first, last), group.bytes))
            }
            _ => Header::Alone(alone(first)),
        }
    }
}

impl Group {
    /// The facts of `packet`, where it continues the group and its checksums are right.
    fn continued_by(
        &mut self,
        headers: Headers,
        packet: &[u8],
        packets: &[&[u8]; WINDOW],
    ) -> Option<Segment> {
        let head = self.head.filter(|_| self.state != State::Closed)?;
        let segment = Segment::of(headers, packet)?;
        let run = Run {
            head,
            first: packets[usize::from(self.first)],
            last: packets[usize::from(self.last)],
            packets: usize::from(self.packets),
        };
        let fits = run.packets < MAX_SEGMENTS && self.bytes + segment.payload_bytes() <= LONGEST;
        if !fits || !segment.continues(packet, &run) {
            return None;
        }
        if self.state == State::Unverified && !head.is_verified(run.first) {
            return None;
        }
        self.state = State::Verified;
        segment.is_verified(packet).then_some(segment)
    }

    fn add(&mut self, index: u16, segment: &Segment, packet: &[u8]) {
        self.last = index;
        self.packets += 1;
        self.bytes += segment.payload_bytes();
        let shorter = |head: Segment| segment.payload_bytes() < head.payload_bytes();
        if segment.is_end(packet) || self.head.is_some_and(shorter) {
            self.state = State::Closed;
        }
    }
}

/// Completes the checksum of a packet that leaves as it came and without a header, where it is partial.
pub fn complete(packet: &mut [u8]) {
    let partial = headers::version(packet).and_then(|version| partial::find(version, packet));
    if let Some(checksum) = partial {
        checksum.complete(packet).ok(); // it was found in the packet
    }
}

/// The header of a packet that leaves as it came: the kernel is told of a checksum that is partial.
#[must_use]
pub fn alone(packet: &[u8]) -> [u8; VnetHeader::LENGTH] {
    let checksum = headers::version(packet).and_then(|version| partial::find(version, packet));
    VnetHeader {
        checksum,
        ..VnetHeader::default()
    }
    .encode()
}

impl<'p> Frame<'_, 'p> {
    /// The packets that leave in it, as they came.
    pub fn packets(&self) -> impl Iterator<Item = &'p [u8]> {
        let after = |index: &u16| {
            let next = self.window.coalescer.next.get(usize::from(*index));
            next.copied().filter(|next| *next != NONE)
        };
        std::iter::successors(Some(self.group.first), after).map(|index| self.window.packet(index))
    }

    /// How many packets leave in it.
    #[must_use]
    pub fn count(&self) -> u16 {
        self.group.packets
    }

    /// Whether they are UDP datagrams.
    #[must_use]
    pub fn is_udp(&self) -> bool {
        let protocol = self.group.headers.map(|headers| headers.protocol);
        protocol == Some(Protocol::Udp)
    }

    /// What is to be written first: the [`VnetHeader`], followed by the super-packet's own headers.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        match &self.header {
            Header::Alone(header) => header,
            Header::Joined(header) => header.bytes(),
        }
    }

    /// What is to be written after the header, in order.
    pub fn payloads(&self) -> impl Iterator<Item = &'p [u8]> {
        let skipped = match &self.header {
            Header::Alone(_) => 0,
            Header::Joined(header) => header.packet_header_bytes(),
        };
        self.packets()
            .map(move |packet| packet.get(skipped..).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
