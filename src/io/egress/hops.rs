//! Next hops: the device and link header by which a tunnel's far end is reached.
//!
//! What the kernel would look up for each packet of a raw socket, looked up once and kept current by
//! [`io::next_hop`](crate::io::next_hop).

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Bytes of an Ethernet header.
pub(super) const LINK_HEADER: usize = 14;

/// The way to a next hop on an Ethernet-like device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Index of the device.
    pub link: u32,
    /// What comes before the outer header.
    pub header: LinkHeader,
    /// Bytes that an outer packet may have: the smaller MTU of route and device.
    pub mtu: u32,
    /// By which kind of socket.
    pub by: Direct,
}

/// A kind of socket that takes whole frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direct {
    /// AF_PACKET.
    Packet,
    /// AF_XDP; AF_PACKET where that does not work.
    Xsk,
}

/// An Ethernet header: destination, source, type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkHeader([u8; LINK_HEADER]);

impl LinkHeader {
    /// From this device to that neighbour, for packets of the family of `destination`.
    #[must_use]
    pub const fn new(neighbour: [u8; 6], device: [u8; 6], destination: IpAddr) -> Self {
        let ethertype = match destination {
            IpAddr::V4(_) => [0x08, 0x00],
            IpAddr::V6(_) => [0x86, 0xdd],
        };
        let [a, b, c, d, e, f] = neighbour;
        let [g, h, i, j, k, l] = device;
        let [high, low] = ethertype;
        Self([a, b, c, d, e, f, g, h, i, j, k, l, high, low])
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; LINK_HEADER] {
        &self.0
    }

    /// The type in it.
    #[must_use]
    pub const fn ethertype(&self) -> u16 {
        u16::from_be_bytes([self.0[12], self.0[13]])
    }
}

/// How packets of GUE tunnels leave by UDP sockets, together with others of the same size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segmenting {
    /// Packets up to this length in bytes.
    pub longest: usize,
    /// In at least this number.
    pub fewest: usize,
}

/// The ways to far ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hops {
    /// The next hop of each far end that has one; the others go by a raw socket.
    pub direct: BTreeMap<IpAddr, Hop>,
    /// Those whose GUE tunnels may go by UDP sockets.
    pub segmenting: BTreeMap<IpAddr, Segmenting>,
}
