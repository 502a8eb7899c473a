//! The outer IPv6 header (RFC 2473 §5).

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU8;

use super::{Payload, SourceRule};
use crate::packet::parse::Meta;

/// Length in bytes; no extension header is added, the tunnel encapsulation limit (RFC 2473 §5.1)
/// neither: backends do not tunnel further.
pub(super) const IPV6_HEADER: usize = 40;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ipv6Tunnel {
    source: SourceRule,
    destination: Ipv6Addr,
    hop_limit: u8,
}

impl Ipv6Tunnel {
    /// `None` when the source is not IPv6.
    pub(super) fn new(
        source: SourceRule,
        destination: Ipv6Addr,
        hop_limit: NonZeroU8,
    ) -> Option<Self> {
        match source {
            SourceRule::Fixed(IpAddr::V6(_)) => {}
            SourceRule::Entropy(prefix) if prefix.net().addr().is_ipv6() => {}
            SourceRule::Fixed(_) | SourceRule::Entropy(_) => return None,
        }
        Some(Self {
            source,
            destination,
            hop_limit: hop_limit.get(),
        })
    }

    pub(super) const fn takes_entropy(&self) -> bool {
        matches!(self.source, SourceRule::Entropy(_))
    }

    pub(super) const fn source_rule(&self) -> SourceRule {
        self.source
    }

    pub(super) const fn source(&self, flow_hash: u64) -> Ipv6Addr {
        let address = match self.source {
            SourceRule::Fixed(address) => address,
            SourceRule::Entropy(prefix) => prefix.address(flow_hash),
        };
        match address {
            IpAddr::V6(v6) => v6,
            IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED, // `new` admits IPv6 only
        }
    }

    /// Flow label 0: what entropy there is stands in the source address or the UDP source port.
    pub(super) fn header(
        &self,
        inner: &Meta,
        payload: Payload,
        flow_hash: u64,
    ) -> [u8; IPV6_HEADER] {
        let mut header = [0; IPV6_HEADER];
        let class = u16::from(inner.traffic_class);
        header[..2].copy_from_slice(&(0x6000 | class << 4).to_be_bytes());
        header[4..6].copy_from_slice(&payload.length.to_be_bytes());
        header[6] = payload.protocol;
        header[7] = self.hop_limit;
        header[8..24].copy_from_slice(&self.source(flow_hash).octets());
        header[24..].copy_from_slice(&self.destination.octets());
        header
    }
}
