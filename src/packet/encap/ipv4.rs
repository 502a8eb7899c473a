//! The outer IPv4 header (RFC 2003 §3.1).

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU8;

use super::{Entropy, Payload, SourceRule};
use crate::packet::checksum::Sum;
use crate::packet::parse::Meta;

/// Length in bytes; the outer header carries no options.
pub(super) const IPV4_HEADER: usize = 20;

/// The DF bit in the fourth 16-bit word of an IPv4 header (RFC 791 §3.1).
const DONT_FRAGMENT: u16 = 0x4000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ipv4Tunnel {
    source: SourceRule,
    destination: Ipv4Addr,
    ttl: u8,
}

impl Ipv4Tunnel {
    /// `None` when the source is not IPv4.
    pub(super) fn new(source: SourceRule, destination: Ipv4Addr, ttl: NonZeroU8) -> Option<Self> {
        match source {
            SourceRule::Fixed(IpAddr::V4(_)) => {}
            SourceRule::Entropy(prefix) if prefix.net().addr().is_ipv4() => {}
            SourceRule::Fixed(_) | SourceRule::Entropy(_) => return None,
        }
        Some(Self {
            source,
            destination,
            ttl: ttl.get(),
        })
    }

    pub(super) const fn source(&self, flow_hash: u64) -> Ipv4Addr {
        let address = match self.source {
            SourceRule::Fixed(address) => address,
            SourceRule::Entropy(prefix) => prefix.address(flow_hash),
        };
        match address {
            IpAddr::V4(v4) => v4,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED, // `new` admits IPv4 only
        }
    }

    /// DF is set where the inner packet must not be fragmented, with identification 0 then
    /// (atomic, RFC 6864 §4.1). `None` when the total length does not fit.
    pub(super) fn header(
        &self,
        inner: &Meta,
        payload: Payload,
        entropy: Entropy,
    ) -> Option<[u8; IPV4_HEADER]> {
        let total = payload.length.checked_add(20)?;
        let (identification, fragment) = if inner.dont_fragment {
            (0, DONT_FRAGMENT)
        } else {
            (entropy.identification, 0)
        };
        let words = [
            u16::from_be_bytes([0x45, inner.traffic_class]),
            total,
            identification,
            fragment,
            u16::from_be_bytes([self.ttl, payload.protocol]),
        ];
        let mut header = [0; IPV4_HEADER];
        for (field, word) in header.chunks_exact_mut(2).zip(words) {
            field.copy_from_slice(&word.to_be_bytes());
        }
        header[12..16].copy_from_slice(&self.source(entropy.flow_hash).octets());
        header[16..].copy_from_slice(&self.destination.octets());
        let checksum = Sum::default().add_bytes(&header).finish();
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        Some(header)
    }
}
