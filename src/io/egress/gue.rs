//! Egress of GUE tunnels by UDP sockets: packets of one size to one backend leave in one system call, and pass
//! the kernel's stack as one ([`UDP_SEGMENT`](sys::send_datagrams)).
//!
//! The kernel writes the outer headers, the same as [`Encap`](crate::packet::Encap) does but for a UDP checksum
//! over IPv4, and routes them, so nothing of this host is passed by. All datagrams of a call have one source
//! port, so flows share [`SOURCE_PORTS`] ports here; a flow keeps its port, whichever way a packet of it leaves.
//! What does not fit leaves by the egress around which this one is: packets of other sizes, of tunnels with an
//! outer source of their own, without DF, and what the kernel refuses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use log::debug;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::hops::{Hops, Segmenting};
use super::{Egress, Header, Sent, XskEgress, write_header};
use crate::io::sys::{self, Datagrams, KernelPathMtu, MOST_DATAGRAMS};
use crate::packet::{
    BURST, Burst, EncapKind, Entropy, HEADROOM, Outgoing, TunnelId, Tunnels, Version,
};

/// Source ports of a family: a power of two. More spread flows over more of a backend's receive queues, and
/// make fewer packets leave together.
pub const SOURCE_PORTS: u16 = 4;

/// The first of the dynamic ports (RFC 6335 §6), of which a flow's hash chooses one.
const FIRST_PORT: u16 = 0xc000;

/// Bytes of one call: the payload of the largest UDP datagram is a little longer.
const MOST_BYTES: usize = 65_000;

/// Where groups are looked for, by tunnel and port.
const SLOTS: usize = 64;

/// UDP sockets, and another egress for the rest.
#[derive(Debug)]
pub struct GueEgress {
    v4: Ports,
    v6: Ports,
    limit: KernelPathMtu,
    /// By number of the tunnel.
    tunnels: Vec<Option<Segmenting>>,
    /// Of the burst.
    groups: Vec<Group>,
    /// Slots whose packets leave by `rest`, as a bit mask.
    elsewhere: u64,
    /// For each slot, the group that may still grow.
    open: [Option<u16>; SLOTS],
    /// For each packet of the burst, what follows it in its group.
    following: Vec<Option<u16>>,
    rest: XskEgress,
}

/// Sockets of one address family, by their ports; empty where no tunnel needs them.
#[derive(Debug, Default)]
struct Ports(Vec<Option<Socket>>);

/// Packets that leave together.
#[derive(Debug)]
struct Group {
    tunnel: TunnelId,
    slot: usize,
    common: Datagrams,
    header: Header,
    first: u16,
    last: u16,
    count: usize,
    bytes: usize,
    /// A shorter one ends it.
    is_full: bool,
}

impl GueEgress {
    /// Sends by `rest` what does not leave this way.
    #[must_use]
    pub fn new(rest: XskEgress) -> Self {
        Self {
            v4: Ports::default(),
            v6: Ports::default(),
            limit: KernelPathMtu::Route,
            tunnels: Vec::new(),
            groups: Vec::with_capacity(2 * BURST),
            elsewhere: 0,
            open: [None; SLOTS],
            following: Vec::with_capacity(2 * BURST),
            rest,
        }
    }

    /// Puts a packet whose outer header is written into a group; false where it fits none. What follows it in
    /// its slot then fits none either, which keeps the order within each flow.
    fn gather(
        &mut self,
        burst: &mut Burst,
        packet: &Outgoing,
        position: usize,
        header: Header,
    ) -> bool {
        let TunnelId(number) = packet.tunnel;
        let Some(Some(segmenting)) = self.tunnels.get(number as usize).copied() else {
            return false;
        };
        let slot = slot_of(packet);
        let common = burst
            .headroom(packet)
            .and_then(|(headroom, _)| read_header(headroom, packet, header))
            .filter(|_| packet.length() <= segmenting.longest && self.elsewhere & 1 << slot == 0);
        let (Some(common), Ok(at)) = (common, u16::try_from(position)) else {
            self.elsewhere |= 1 << slot;
            return false;
        };
        if !self.grow(slot, packet.tunnel, &common, at) {
            self.open[slot] = u16::try_from(self.groups.len()).ok();
            self.groups.push(Group {
                tunnel: packet.tunnel,
                slot,
                common,
                header,
                first: at,
                last: at,
                count: 1,
                bytes: usize::from(common.size),
                is_full: false,
            });
        }
        true
    }

    /// Adds a packet to the open group of a slot; false where that is another one.
    fn grow(&mut self, slot: usize, tunnel: TunnelId, common: &Datagrams, at: u16) -> bool {
        let Some(open) = self.open[slot] else {
            return false;
        };
        let group = &mut self.groups[usize::from(open)];
        let is_same = group.tunnel == tunnel
            && Datagrams {
                size: group.common.size,
                ..*common
            } == group.common;
        let bytes = group.bytes + usize::from(common.size);
        let has_room = !group.is_full
            && group.count < MOST_DATAGRAMS
            && bytes <= MOST_BYTES
            && common.size <= group.common.size;
        if !(is_same && has_room) {
            return false;
        }
        self.following[usize::from(group.last)] = Some(at);
        group.last = at;
        group.count += 1;
        group.bytes = bytes;
        group.is_full = common.size < group.common.size;
        true
    }

    /// Sends the groups. Once one of a slot leaves by `rest`, so do those after it.
    fn send_groups(&mut self, burst: &mut Burst, packets: &[Outgoing], results: &mut [Sent]) {
        let mut elsewhere = 0_u64;
        for at in 0..self.groups.len() {
            let group = &self.groups[at];
            let bit = 1 << group.slot;
            if elsewhere & bit != 0 || !self.leaves_here(group, burst, packets) {
                elsewhere |= bit;
                self.pass_on(at, burst, packets, results);
            }
        }
    }

    /// Sends a group, if that is worth it; false where it was not sent.
    fn leaves_here(&self, group: &Group, burst: &Burst, packets: &[Outgoing]) -> bool {
        let TunnelId(number) = group.tunnel;
        let Some(Some(segmenting)) = self.tunnels.get(number as usize) else {
            return false;
        };
        if group.count < segmenting.fewest {
            return false;
        }
        let ports = match group.common.source {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        let port = group.slot % usize::from(SOURCE_PORTS);
        let Some(Some(socket)) = ports.0.get(port) else {
            return false;
        };
        let datagrams = self
            .members(group)
            .map(|position| burst.with_header(&packets[position], 0));
        match sys::send_datagrams(socket.as_fd(), &group.common, datagrams) {
            Ok(()) => true,
            Err(error) => {
                debug!("no segmentation to {}: {error}", group.common.destination);
                false
            }
        }
    }

    /// The positions of a group's packets.
    fn members(&self, group: &Group) -> impl Iterator<Item = usize> {
        let mut next = Some(group.first);
        std::iter::from_fn(move || {
            let at = usize::from(next?);
            next = self.following[at];
            Some(at)
        })
    }

    fn pass_on(
        &mut self,
        at: usize,
        burst: &mut Burst,
        packets: &[Outgoing],
        results: &mut [Sent],
    ) {
        let group = &self.groups[at];
        let (mut next, header) = (Some(group.first), group.header);
        while let Some(at) = next {
            let position = usize::from(at);
            next = self.following[position];
            let taken = self.rest.take((burst, packets), position, header);
            if taken.is_err() {
                results[position] = taken;
            }
        }
    }

    fn open_ports(&mut self) {
        let is_needed = self.tunnels.iter().any(Option::is_some);
        for (ports, version) in [(&mut self.v4, Version::V4), (&mut self.v6, Version::V6)] {
            if !is_needed {
                ports.0.clear();
            } else if ports.0.is_empty() {
                ports.0 = (0..SOURCE_PORTS)
                    .map(|port| open(version, FIRST_PORT + port, self.limit))
                    .collect();
            }
        }
    }
}

/// What of a header that was written the kernel is told; `None` for one that it would write otherwise.
fn read_header(headroom: &[u8; HEADROOM], packet: &Outgoing, header: Header) -> Option<Datagrams> {
    const DONT_FRAGMENT: u8 = 0x40;
    let written = headroom.get(HEADROOM - header.overhead..)?;
    let (ip, udp) = written.split_at_checked(written.len().checked_sub(8)?)?;
    let port = u16::from_be_bytes([*udp.get(2)?, *udp.get(3)?]);
    let (source, traffic_class, hop_limit) = match header.destination {
        IpAddr::V4(_) if ip.get(6)? & DONT_FRAGMENT == 0 => return None,
        IpAddr::V4(_) => {
            let source: [u8; 4] = ip.get(12..16)?.try_into().ok()?;
            (IpAddr::from(source), *ip.get(1)?, *ip.get(8)?)
        }
        IpAddr::V6(_) => {
            let source: [u8; 16] = ip.get(8..24)?.try_into().ok()?;
            let class = ip.first()? << 4 | ip.get(1)? >> 4;
            (IpAddr::from(source), class, *ip.get(7)?)
        }
    };
    Some(Datagrams {
        destination: SocketAddr::new(header.destination, port),
        source,
        size: packet.meta.length,
        traffic_class,
        hop_limit,
    })
}

/// By the tunnel and the source port, which is the slot's remainder.
#[allow(clippy::cast_possible_truncation, reason = "the remainder is small")]
fn slot_of(packet: &Outgoing) -> usize {
    let TunnelId(number) = packet.tunnel;
    let ports = usize::from(SOURCE_PORTS);
    let port = (packet.entropy.flow_hash % u64::from(SOURCE_PORTS)) as usize;
    (number as usize).wrapping_mul(ports).wrapping_add(port) % SLOTS
}

/// A UDP socket that sends from that port and receives nothing; `None` where the port is another program's.
fn open(version: Version, port: u16, limit: KernelPathMtu) -> Option<Socket> {
    let (domain, any) = match version {
        Version::V4 => (Domain::IPV4, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
        Version::V6 => (Domain::IPV6, IpAddr::from(Ipv6Addr::UNSPECIFIED)),
    };
    let socket = || -> io::Result<Socket> {
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if version == Version::V6 {
            socket.set_only_v6(true)?;
        }
        // Before it is bound: nothing is received. `ret #0` (bpf(2)).
        socket.attach_filter(&[SockFilter::new(0x06, 0, 0, 0)])?;
        socket.set_reuse_address(true)?; // other workers send from it, too
        socket.set_recv_buffer_size(0)?; // of ICMP errors few are kept
        sys::report_full_queues(socket.as_fd(), version)?;
        sys::limit_by(socket.as_fd(), version, limit)?;
        socket.bind(&SocketAddr::new(any, port).into())?;
        Ok(socket)
    };
    socket()
        .inspect_err(|error| debug!("no UDP socket on port {port}: {error}"))
        .ok()
}

impl Egress for GueEgress {
    fn adopt(&mut self, tunnels: &impl Tunnels, hops: &Hops) {
        let segmenting = |number| {
            let encap = tunnels.tunnel(TunnelId(number))?;
            let is_gue = matches!(encap.kind(), EncapKind::Gue { .. });
            // One address for all flows, which the kernel has.
            let is_own = !encap.lacks_source() && encap.source(0) == encap.source(u64::MAX);
            let segmenting = hops.segmenting.get(&encap.destination())?;
            (is_gue && is_own).then_some(*segmenting)
        };
        self.tunnels.clear();
        self.tunnels.extend((0..tunnels.bound()).map(segmenting));
        self.open_ports();
        self.rest.adopt(tunnels, hops);
    }

    fn limit_by(&mut self, limit: KernelPathMtu) -> io::Result<()> {
        self.limit = limit;
        for (ports, version) in [(&self.v4, Version::V4), (&self.v6, Version::V6)] {
            for socket in ports.0.iter().flatten() {
                sys::limit_by(socket.as_fd(), version, limit)?;
            }
        }
        self.rest.limit_by(limit)
    }

    fn send(
        &mut self,
        burst: &mut Burst,
        packets: &mut [Outgoing],
        tunnels: &impl Tunnels,
        results: &mut [Sent],
    ) {
        self.groups.clear();
        self.elsewhere = 0;
        self.open = [None; SLOTS];
        self.following.clear();
        self.following.resize(packets.len(), None);
        for position in 0..packets.len() {
            self.narrow(&mut packets[position]);
            let packet = &packets[position];
            let taken = write_header(burst, packet, tunnels).and_then(|header| {
                if self.gather(burst, packet, position, header) {
                    return Ok(());
                }
                self.rest.take((burst, packets), position, header)
            });
            if taken.is_err() {
                results[position] = taken;
            }
        }
        self.send_groups(burst, packets, results);
        self.rest.flush((burst, packets), results);
    }
}

impl GueEgress {
    /// Gives a packet one of the source ports that there are here.
    fn narrow(&self, packet: &mut Outgoing) {
        let TunnelId(number) = packet.tunnel;
        if let Some(Some(_)) = self.tunnels.get(number as usize) {
            packet.entropy = Entropy {
                flow_hash: packet.entropy.flow_hash % u64::from(SOURCE_PORTS),
                ..packet.entropy
            };
        }
    }
}
