//! The outer header that carries a packet to its backend: IP in IP (RFC 2003).
//!
//! Last step before egress. The header is written into the head-room in front of the packet, from
//! a template with a pre-computed checksum, so nothing is copied and nothing allocated.

use std::net::Ipv4Addr;

use super::checksum::Sum;
use super::parse::{Meta, Version};

/// Bytes to keep free in front of every packet: the longest outer header any encapsulation will
/// need (link header 14, IPv6 40, UDP 8), rounded up to a cache line.
pub const HEADROOM: usize = 64;

/// Length of the IPv4 outer header in bytes; it carries no options.
const IPV4_HEADER: u16 = 20;

/// The DF bit in the third 16-bit word of an IPv4 header (RFC 791 §3.1).
const DONT_FRAGMENT: u16 = 0x4000;

/// A packet whose outer total length does not fit 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("packet of {length} bytes is too long for the tunnel's length field")]
pub struct TooLong {
    /// The inner packet's length in bytes.
    pub length: u16,
}

/// The outer header of one tunnel, ready to be written before any packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encap {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    ttl: u8,
    /// Sum over the fields that are the same in every packet.
    constant: Sum,
}

impl Encap {
    /// IP in IP between two IPv4 addresses; `ttl` is the outer one (RFC 2003 §3.1).
    #[must_use]
    pub fn ipip(source: Ipv4Addr, destination: Ipv4Addr, ttl: u8) -> Self {
        let constant = Sum::default()
            .add_bytes(&source.octets())
            .add_bytes(&destination.octets());
        Self {
            source,
            destination,
            ttl,
            constant,
        }
    }

    /// Bytes that the outer header adds to a packet.
    #[must_use]
    pub const fn overhead(&self) -> usize {
        IPV4_HEADER as usize
    }

    /// The tunnel's far end.
    #[must_use]
    pub const fn destination(&self) -> Ipv4Addr {
        self.destination
    }

    /// Writes the outer header into the last [`overhead`](Self::overhead) bytes of `headroom`.
    ///
    /// TOS is the inner packet's, DSCP and ECN both (RFC 6040 §4.1 normal mode); DF is set where
    /// the inner packet has it (RFC 2003 §3.1). `identification` is used only where DF is clear;
    /// an unfragmentable packet carries 0 (atomic, RFC 6864 §4.1).
    ///
    /// # Errors
    /// [`TooLong`] when inner and outer length together exceed 65535 bytes.
    pub fn write(
        &self,
        headroom: &mut [u8; HEADROOM],
        inner: &Meta,
        identification: u16,
    ) -> Result<(), TooLong> {
        let Some(total) = inner.length.checked_add(IPV4_HEADER) else {
            return Err(TooLong {
                length: inner.length,
            });
        };
        let (identification, fragment) = if inner.dont_fragment {
            (0, DONT_FRAGMENT)
        } else {
            (identification, 0)
        };
        let protocol = match inner.version {
            Version::V4 => 4,
            Version::V6 => 41,
        };
        let words = [
            u16::from_be_bytes([0x45, inner.traffic_class]),
            total,
            identification,
            fragment,
            u16::from_be_bytes([self.ttl, protocol]),
        ];
        let checksum = words.iter().fold(self.constant, |sum, &w| sum.add_word(w));
        let header = &mut headroom[HEADROOM - usize::from(IPV4_HEADER)..];
        for (field, word) in header.chunks_exact_mut(2).zip(words) {
            field.copy_from_slice(&word.to_be_bytes());
        }
        header[10..12].copy_from_slice(&checksum.finish().to_be_bytes());
        header[12..16].copy_from_slice(&self.source.octets());
        header[16..20].copy_from_slice(&self.destination.octets());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::checksum::checksum;
    use proptest::prelude::*;

    fn encap() -> Encap {
        Encap::ipip(Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 1, 11), 64)
    }

    fn outer(meta: Meta, identification: u16) -> [u8; 20] {
        let mut headroom = [0xaa; HEADROOM];
        encap().write(&mut headroom, &meta, identification).unwrap();
        assert_eq!(headroom[..44], [0xaa; 44], "only the header's bytes change");
        headroom[44..].try_into().unwrap()
    }

    #[test]
    fn literal_header_with_df() {
        let meta = Meta {
            version: Version::V4,
            length: 60,
            traffic_class: 0xb9,
            dont_fragment: true,
        };
        let expected = [
            0x45, 0xb9, 0x00, 0x50, 0x00, 0x00, 0x40, 0x00, 0x40, 0x04, 0x24, 0xe5, 10, 0, 0, 2,
            10, 0, 1, 11,
        ];
        assert_eq!(outer(meta, 7), expected);
    }

    #[test]
    fn identification_and_no_df() {
        let meta = Meta {
            version: Version::V4,
            length: 60,
            traffic_class: 0,
            dont_fragment: false,
        };
        let header = outer(meta, 0x1234);
        assert_eq!(header[4..8], [0x12, 0x34, 0, 0]);
        assert_eq!(checksum(&header), 0);
    }

    #[test]
    fn longest_packet() {
        let meta = |length| Meta {
            version: Version::V4,
            length,
            traffic_class: 0,
            dont_fragment: true,
        };
        let mut headroom = [0; HEADROOM];
        assert_eq!(encap().write(&mut headroom, &meta(65_515), 0), Ok(()));
        let length = 65_516;
        let refused = encap().write(&mut headroom, &meta(length), 0);
        assert_eq!(refused, Err(TooLong { length }));
    }

    proptest! {
        #[test]
        fn checksum_is_always_right(length in 20u16..65_000, traffic_class: u8, dont_fragment: bool, id: u16, v6: bool) {
            let version = if v6 { Version::V6 } else { Version::V4 };
            let header = outer(Meta { version, length, traffic_class, dont_fragment }, id);
            prop_assert_eq!(checksum(&header), 0);
            prop_assert_eq!(header[9], if v6 { 41 } else { 4 });
            prop_assert_eq!(header[1], traffic_class);
        }
    }
}
