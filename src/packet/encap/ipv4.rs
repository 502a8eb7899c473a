//! The outer IPv4 header (RFC 2003 §3.1).

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU8;

use super::{Entropy, Payload, SourceRule};
use crate::packet::checksum::Sum;
use crate::packet::parse::Meta;

/// Length in bytes; the outer header carries no options.
pub(super) const IPV4_HEADER: usize = 20;

/// Version 4, and a header of five 32-bit words.
const VERSION_AND_LENGTH: u8 = 0x45;

/// The DF bit in the fourth 16-bit word of an IPv4 header (RFC 791 §3.1).
const DONT_FRAGMENT: u16 = 0x4000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ipv4Tunnel {
    source: SourceRule,
    destination: Ipv4Addr,
    ttl: u8,
    /// Sum over the destination, the same in every packet.
    constant: Sum,
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
            constant: Sum::default().add_bytes(&destination.octets()),
        })
    }

    pub(super) const fn takes_entropy(&self) -> bool {
        matches!(self.source, SourceRule::Entropy(_))
    }

    pub(super) const fn source_rule(&self) -> SourceRule {
        self.source
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
        let [class, ttl] = [inner.traffic_class, self.ttl];
        let source = self.source(entropy.flow_hash).octets();
        let checksum = self
            .constant
            .add_word(u16::from_be_bytes([VERSION_AND_LENGTH, class]))
            .add_word(total)
            .add_word(identification)
            .add_word(fragment)
            .add_word(u16::from_be_bytes([ttl, payload.protocol]))
            .add_word(u16::from_be_bytes([source[0], source[1]]))
            .add_word(u16::from_be_bytes([source[2], source[3]]))
            .finish();
        let mut header = [0; IPV4_HEADER];
        header[..2].copy_from_slice(&[VERSION_AND_LENGTH, class]);
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[4..6].copy_from_slice(&identification.to_be_bytes());
        header[6..8].copy_from_slice(&fragment.to_be_bytes());
        header[8..10].copy_from_slice(&[ttl, payload.protocol]);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header[12..16].copy_from_slice(&source);
        header[16..].copy_from_slice(&self.destination.octets());
        Some(header)
    }
}
