//! The outer header that carries a packet to its backend: IP in IP (RFC 2003, RFC 2473, RFC 4213)
//! or GUE (draft-ietf-intarea-gue §4, variant 1: the packet directly after a UDP header).
//!
//! Last step before egress. The header is written into the head-room in front of the packet, so
//! nothing is copied and nothing allocated. The outer family is the backend's, whatever the inner.

mod gue;
mod ipv4;
mod ipv6;
mod source;

use std::net::IpAddr;
use std::num::{NonZeroU8, NonZeroU16};

use super::parse::{Meta, Version};
use gue::UDP_HEADER;
use ipv4::{IPV4_HEADER, Ipv4Tunnel};
use ipv6::{IPV6_HEADER, Ipv6Tunnel};
pub use source::{EntropyPrefix, EntropyPrefixError};

/// Bytes to keep free in front of every packet: the longest outer header any encapsulation needs
/// (link header 14, IPv6 40, UDP 8), rounded up to a cache line.
pub const HEADROOM: usize = 64;

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

/// The outer header of one tunnel, ready to be written before any packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encap {
    outer: Outer,
    kind: EncapKind,
    destination: IpAddr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Outer {
    V4(Ipv4Tunnel),
    V6(Ipv6Tunnel),
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
        let outer = match destination {
            IpAddr::V4(v4) => Ipv4Tunnel::new(source, v4, ttl).map(Outer::V4),
            IpAddr::V6(v6) => Ipv6Tunnel::new(source, v6, ttl).map(Outer::V6),
        };
        Ok(Self {
            outer: outer.ok_or(FamilyMismatch { destination })?,
            kind,
            destination,
        })
    }

    /// Bytes that the outer header adds to a packet.
    #[must_use]
    pub const fn overhead(&self) -> usize {
        self.kind.overhead(&self.destination)
    }

    /// Whether the outer length field can hold a packet of that length in bytes.
    #[must_use]
    pub const fn holds(&self, length: u16) -> bool {
        let counted = match self.destination {
            IpAddr::V4(_) => self.overhead(),
            IpAddr::V6(_) => self.overhead() - IPV6_HEADER, // its field counts what follows the header
        };
        length as usize + counted <= u16::MAX as usize
    }

    /// The tunnel's far end.
    #[must_use]
    pub const fn destination(&self) -> IpAddr {
        self.destination
    }

    /// What stands between the outer IP header and the packet.
    #[must_use]
    pub const fn kind(&self) -> EncapKind {
        self.kind
    }

    /// Whether the flow hash shows in the outer header at all.
    #[must_use]
    pub const fn takes_entropy(&self) -> bool {
        self.takes_source_entropy() || matches!(self.kind, EncapKind::Gue { .. })
    }

    /// Whether some flow has this outer source; never where the [kernel](Self::source_is_chosen_by_kernel)
    /// chooses it.
    #[must_use]
    pub fn may_come_from(&self, source: IpAddr) -> bool {
        let rule = match &self.outer {
            Outer::V4(tunnel) => tunnel.source_rule(),
            Outer::V6(tunnel) => tunnel.source_rule(),
        };
        match rule {
            SourceRule::Fixed(address) => address == source && !source.is_unspecified(),
            SourceRule::Entropy(prefix) => prefix.net().contains(&source),
        }
    }

    /// Whether some flow has this UDP source port; a tunnel without UDP has none.
    #[must_use]
    pub const fn may_use_source_port(&self, port: u16) -> bool {
        matches!(self.kind, EncapKind::Gue { .. }) && port >= gue::FIRST_DYNAMIC_PORT
    }

    /// The UDP source port of a flow; `None` for a tunnel without UDP.
    #[must_use]
    pub const fn source_port(&self, flow_hash: u64) -> Option<u16> {
        match self.kind {
            EncapKind::Gue { .. } => Some(gue::source_port(flow_hash)),
            EncapKind::Ipip => None,
        }
    }

    /// Whether the raw socket chooses the outer source.
    #[must_use]
    pub fn source_is_chosen_by_kernel(&self) -> bool {
        !self.takes_source_entropy() && self.source(0).is_unspecified()
    }

    const fn takes_source_entropy(&self) -> bool {
        match &self.outer {
            Outer::V4(tunnel) => tunnel.takes_entropy(),
            Outer::V6(tunnel) => tunnel.takes_entropy(),
        }
    }

    /// Whether the outer source is left to whoever sends the packet (raw(7)).
    #[must_use]
    pub const fn lacks_source(&self) -> bool {
        match &self.outer {
            Outer::V4(tunnel) => tunnel.source(0).is_unspecified(),
            Outer::V6(tunnel) => tunnel.source(0).is_unspecified(),
        }
    }

    /// The outer source of a flow.
    #[must_use]
    pub const fn source(&self, flow_hash: u64) -> IpAddr {
        match &self.outer {
            Outer::V4(tunnel) => IpAddr::V4(tunnel.source(flow_hash)),
            Outer::V6(tunnel) => IpAddr::V6(tunnel.source(flow_hash)),
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
        let too_long = TooLong {
            length: meta.length,
        };
        let mut payload_length = meta.length;
        let mut protocol = match meta.version {
            Version::V4 => 4,
            Version::V6 => 41,
        };
        let mut end = HEADROOM;
        if let EncapKind::Gue { port } = self.kind {
            let udp_length = payload_length.checked_add(8).ok_or(too_long)?;
            end -= UDP_HEADER;
            let udp = gue::header(port, entropy.flow_hash, udp_length);
            headroom[end..].copy_from_slice(&udp);
            payload_length = udp_length;
            protocol = gue::PROTOCOL;
        }
        let payload = Payload {
            length: payload_length,
            protocol,
        };
        match &self.outer {
            Outer::V4(tunnel) => {
                let header = tunnel.header(meta, payload, entropy).ok_or(too_long)?;
                headroom[end - IPV4_HEADER..end].copy_from_slice(&header);
            }
            Outer::V6(tunnel) => {
                let header = tunnel.header(meta, payload, entropy.flow_hash);
                headroom[end - IPV6_HEADER..end].copy_from_slice(&header);
                if protocol == gue::PROTOCOL {
                    let addresses = &header[8..];
                    gue::set_checksum(&mut headroom[end..], addresses, inner);
                }
            }
        }
        Ok(())
    }
}

/// What follows the outer IP header.
#[derive(Debug, Clone, Copy)]
struct Payload {
    /// In bytes.
    length: u16,
    protocol: u8,
}

#[cfg(test)]
mod tests;
