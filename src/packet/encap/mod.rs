//! The outer header that carries a packet to its backend: IP in IP (RFC 2003, RFC 2473, RFC 4213)
//! or GUE (draft-ietf-intarea-gue §4, variant 1: the packet directly after a UDP header).
//!
//! Last step before egress. The header is written into the head-room in front of the packet, so
//! nothing is copied and nothing allocated. The outer family is the backend's, whatever the inner.

mod gue;
mod ipv4;
mod ipv6;
mod source;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::{NonZeroU8, NonZeroU16};

use super::checksum::Sum;
use super::parse::{Meta, Version};
use gue::UDP_HEADER;
use ipv4::IPV4_HEADER;
use ipv6::IPV6_HEADER;
pub use source::{EntropyPrefix, EntropyPrefixError};

/// Bytes to keep free in front of every packet: the longest outer header any encapsulation needs
/// (link header 14, IPv6 40, UDP 8), rounded up to a cache line.
pub const HEADROOM: usize = 64;

/// The longest outer header, without a link header.
const LONGEST_HEADER: usize = IPV6_HEADER + UDP_HEADER;

/// The number by which [`Tunnels`] knows a tunnel; small, so that an egress can keep arrays by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelId(pub u32);

/// Where an egress finds the outer header for a packet.
pub trait Tunnels {
    /// The tunnel of that number; `None` where there is none.
    fn tunnel(&self, id: TunnelId) -> Option<&Encap>;

    /// All numbers are below it.
    fn bound(&self) -> u32;
}

/// What stands between the outer IP header and the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EncapKind {
    /// Nothing: IP in IP.
    #[default]
    Ipip,
    /// A UDP header to this port.
    Gue {
        /// The port on which backends decapsulate.
        port: NonZeroU16,
    },
}

impl EncapKind {
    /// Bytes that the outer header adds to a packet for a backend of that address family.
    #[must_use]
    pub const fn overhead(self, backend: &IpAddr) -> usize {
        let udp = match self {
            Self::Ipip => 0,
            Self::Gue { .. } => UDP_HEADER,
        };
        match backend {
            IpAddr::V4(_) => IPV4_HEADER + udp,
            IpAddr::V6(_) => IPV6_HEADER + udp,
        }
    }
}

/// Where the outer source address comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceRule {
    /// Always this address; the unspecified one leaves it to the raw socket (raw(7)).
    Fixed(IpAddr),
    /// Prefix and flow hash, so that a backend's NIC spreads tunnels over its receive queues.
    Entropy(EntropyPrefix),
}

/// A source of another address family than the tunnel's far end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the outer source is not of the address family of backend {destination}")]
pub struct FamilyMismatch {
    /// The tunnel's far end.
    pub destination: IpAddr,
}

/// A packet whose outer length does not fit 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("packet of {length} bytes is too long for the tunnel's length field")]
pub struct TooLong {
    /// The inner packet's length in bytes.
    pub length: u16,
}

/// What differs from packet to packet, beside the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entropy {
    /// The flow's hash: source port of GUE, low bits of an entropy source.
    pub flow_hash: u64,
    /// The outer IPv4 identification where DF is clear (RFC 6864 §4.3).
    pub identification: u16,
}

/// The outer header of one tunnel, ready to be copied before any packet; what differs from packet to packet is
/// zero in it. Small, so that with what else a packet needs of its backend it fits a cache line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encap {
    /// The outer header is the last [`overhead`](Self::overhead) bytes.
    template: [u8; LONGEST_HEADER],
    /// Over the words of the outer IPv4 header that are the same in every packet.
    constant: u16,
    shape: Shape,
    /// How many low bits of the outer source the flow hash fills; 0 where the source is fixed.
    entropy_bits: u8,
}

/// The headers that an outer header is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Ipv4,
    Ipv4Udp,
    Ipv6,
    Ipv6Udp,
}

impl Shape {
    const fn overhead(self) -> usize {
        match self {
            Self::Ipv4 => IPV4_HEADER,
            Self::Ipv4Udp => IPV4_HEADER + UDP_HEADER,
            Self::Ipv6 => IPV6_HEADER,
            Self::Ipv6Udp => LONGEST_HEADER,
        }
    }

    const fn is_ipv4(self) -> bool {
        matches!(self, Self::Ipv4 | Self::Ipv4Udp)
    }

    const fn is_udp(self) -> bool {
        matches!(self, Self::Ipv4Udp | Self::Ipv6Udp)
    }
}

impl Encap {
    /// A tunnel to `destination`; `ttl` is the outer TTL or hop limit (RFC 2003 §3.1).
    ///
    /// # Errors
    /// [`FamilyMismatch`] when source and destination are of different address families.
    pub fn new(
        kind: EncapKind,
        source: SourceRule,
        destination: IpAddr,
        ttl: NonZeroU8,
    ) -> Result<Self, FamilyMismatch> {
        let shape = match (destination, kind) {
            (IpAddr::V4(_), EncapKind::Ipip) => Shape::Ipv4,
            (IpAddr::V4(_), EncapKind::Gue { .. }) => Shape::Ipv4Udp,
            (IpAddr::V6(_), EncapKind::Ipip) => Shape::Ipv6,
            (IpAddr::V6(_), EncapKind::Gue { .. }) => Shape::Ipv6Udp,
        };
        let (address, entropy_bits) = match source {
            SourceRule::Fixed(address) => (address, 0),
            SourceRule::Entropy(prefix) => (prefix.net().addr(), prefix.free_bits()),
        };
        let mut encap = Self {
            template: [0; LONGEST_HEADER],
            constant: 0,
            shape,
            entropy_bits,
        };
        let (_, header) = encap
            .template
            .split_at_mut(LONGEST_HEADER - shape.overhead());
        match (address, destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                header[..IPV4_HEADER].copy_from_slice(&ipv4::template(from, to, ttl));
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                header[..IPV6_HEADER].copy_from_slice(&ipv6::template(from, to, ttl));
            }
            _ => return Err(FamilyMismatch { destination }),
        }
        if let EncapKind::Gue { port } = kind {
            let start = header.len() - UDP_HEADER;
            header[start..].copy_from_slice(&gue::template(port));
        }
        if shape.is_ipv4() {
            encap.constant = ipv4::constant(&header[..IPV4_HEADER]);
        }
        Ok(encap)
    }

    /// Bytes that the outer header adds to a packet.
    #[must_use]
    pub const fn overhead(&self) -> usize {
        self.shape.overhead()
    }

    /// The outer header, in which what differs from packet to packet is 0: for those that write it in another
    /// place.
    #[must_use]
    pub fn template(&self) -> &[u8] {
        self.ip_header()
    }

    /// How many low bits of the outer source the flow hash fills; 0 where the source is fixed.
    #[must_use]
    pub const fn entropy_bits(&self) -> u8 {
        self.entropy_bits
    }

    /// Whether the outer length field can hold a packet of that length in bytes.
    #[must_use]
    pub const fn holds(&self, length: u16) -> bool {
        let counted = match self.shape {
            Shape::Ipv4 | Shape::Ipv4Udp => self.shape.overhead(),
            Shape::Ipv6 => 0, // its field counts what follows the header
            Shape::Ipv6Udp => UDP_HEADER,
        };
        length as usize + counted <= u16::MAX as usize
    }

    /// The tunnel's far end.
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        let header = self.ip_header();
        match self.shape.is_ipv4() {
            true => IpAddr::from(bytes_at::<4>(header, ipv4::DESTINATION)),
            false => IpAddr::from(bytes_at::<16>(header, ipv6::DESTINATION)),
        }
    }

    /// What stands between the outer IP header and the packet.
    #[must_use]
    pub fn kind(&self) -> EncapKind {
        let [.., high, low, _, _, _, _] = self.template;
        let port = NonZeroU16::new(u16::from_be_bytes([high, low]));
        port.filter(|_| self.shape.is_udp())
            .map_or(EncapKind::Ipip, |port| EncapKind::Gue { port })
    }

    /// Whether the flow hash shows in the outer header at all.
    #[must_use]
    pub const fn takes_entropy(&self) -> bool {
        self.entropy_bits > 0 || self.shape.is_udp()
    }

    /// Whether some flow has this outer source; never where the [kernel](Self::source_is_chosen_by_kernel)
    /// chooses it.
    #[must_use]
    pub fn may_come_from(&self, source: IpAddr) -> bool {
        let bits = u32::from(self.entropy_bits);
        let fits = match (self.source(0), source) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits())
                    .checked_shr(bits)
                    .unwrap_or(0)
                    == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits())
                    .checked_shr(bits)
                    .unwrap_or(0)
                    == 0
            }
            _ => false,
        };
        fits && !self.lacks_source()
    }

    /// Whether some flow has this UDP source port; a tunnel without UDP has none.
    #[must_use]
    pub const fn may_use_source_port(&self, port: u16) -> bool {
        self.shape.is_udp() && port >= gue::FIRST_DYNAMIC_PORT
    }

    /// The UDP source port of a flow; `None` for a tunnel without UDP.
    #[must_use]
    pub fn source_port(&self, flow_hash: u64) -> Option<u16> {
        self.shape.is_udp().then(|| gue::source_port(flow_hash))
    }

    /// Whether the raw socket chooses the outer source (raw(7)).
    #[must_use]
    pub fn source_is_chosen_by_kernel(&self) -> bool {
        self.lacks_source()
    }

    /// Whether the outer source is left to whoever sends the packet (raw(7)).
    #[must_use]
    pub fn lacks_source(&self) -> bool {
        self.entropy_bits == 0 && self.source(0).is_unspecified()
    }

    /// The outer source of a flow.
    #[must_use]
    pub fn source(&self, flow_hash: u64) -> IpAddr {
        let header = self.ip_header();
        match self.shape.is_ipv4() {
            true => {
                let own = u32::from_be_bytes(bytes_at(header, ipv4::SOURCE));
                Ipv4Addr::from_bits(own | ipv4::entropy(flow_hash, self.entropy_bits)).into()
            }
            false => {
                let own = u128::from_be_bytes(bytes_at(header, ipv6::SOURCE));
                Ipv6Addr::from_bits(own | ipv6::entropy(flow_hash, self.entropy_bits)).into()
            }
        }
    }

    /// Writes the outer header of `inner`, a whole packet in two parts, the first of even length where the
    /// second is not empty, into the last [`overhead`](Self::overhead) bytes of `headroom`.
    ///
    /// TOS or traffic class is the inner packet's, DSCP and ECN both (RFC 6040 §4.1 normal mode).
    ///
    /// # Errors
    /// [`TooLong`] when inner and outer length together do not fit the outer length field.
    pub fn write(
        &self,
        headroom: &mut [u8; HEADROOM],
        meta: &Meta,
        inner: [&[u8]; 2],
        entropy: Entropy,
    ) -> Result<(), TooLong> {
        let length = meta.length;
        if !self.holds(length) {
            return Err(TooLong { length });
        }
        match self.shape {
            Shape::Ipv4 => {
                let header = self.copy::<IPV4_HEADER>(headroom);
                self.patch_ipv4(header, meta, (length, carried(meta)), entropy);
            }
            Shape::Ipv4Udp => {
                let header = self.copy::<{ IPV4_HEADER + UDP_HEADER }>(headroom);
                let (ip, udp) = header.split_at_mut(IPV4_HEADER);
                let length = length + gue::LENGTH;
                gue::patch(udp, entropy.flow_hash, length);
                self.patch_ipv4(ip, meta, (length, gue::PROTOCOL), entropy);
            }
            Shape::Ipv6 => {
                let header = self.copy::<IPV6_HEADER>(headroom);
                self.patch_ipv6(header, meta, (length, carried(meta)), entropy);
            }
            Shape::Ipv6Udp => {
                let header = self.copy::<LONGEST_HEADER>(headroom);
                let (ip, udp) = header.split_at_mut(IPV6_HEADER);
                let udp_length = length + gue::LENGTH;
                gue::patch(udp, entropy.flow_hash, udp_length);
                self.patch_ipv6(ip, meta, (udp_length, gue::PROTOCOL), entropy);
                gue::set_checksum(udp, &ip[ipv6::SOURCE..], inner);
            }
        }
        Ok(())
    }

    /// Copies the template before the packet.
    fn copy<'a, const OVERHEAD: usize>(
        &self,
        headroom: &'a mut [u8; HEADROOM],
    ) -> &'a mut [u8; OVERHEAD] {
        const { assert!(OVERHEAD <= LONGEST_HEADER) };
        let (_, header) = headroom
            .split_last_chunk_mut()
            .expect("the head-room holds every outer header");
        let (_, template) = self.template.split_last_chunk().expect("as asserted above");
        *header = *template;
        header
    }

    fn patch_ipv4(&self, header: &mut [u8], meta: &Meta, payload: (u16, u8), entropy: Entropy) {
        let own = ipv4::entropy(entropy.flow_hash, self.entropy_bits);
        let constant = Sum::default().add_word(self.constant);
        ipv4::patch(
            header,
            constant,
            meta,
            payload,
            (own, entropy.identification),
        );
    }

    fn patch_ipv6(&self, header: &mut [u8], meta: &Meta, payload: (u16, u8), entropy: Entropy) {
        let own = ipv6::entropy(entropy.flow_hash, self.entropy_bits);
        ipv6::patch(header, meta, payload, own);
    }

    fn ip_header(&self) -> &[u8] {
        &self.template[LONGEST_HEADER - self.shape.overhead()..]
    }
}

/// So many bytes of a header, from `start` on.
fn bytes_at<const LENGTH: usize>(header: &[u8], start: usize) -> [u8; LENGTH] {
    std::array::from_fn(|at| header[start + at])
}

/// The protocol number of IPv4 or IPv6 in IP.
const fn carried(meta: &Meta) -> u8 {
    match meta.version {
        Version::V4 => 4,
        Version::V6 => 41,
    }
}

#[cfg(test)]
mod tests;
