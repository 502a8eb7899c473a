//! The outer IPv6 header (RFC 2473 §5).

use std::net::Ipv6Addr;
use std::num::NonZeroU8;

use crate::packet::parse::Meta;

/// Length in bytes; no extension header is added, the tunnel encapsulation limit (RFC 2473 §5.1)
/// neither: backends do not tunnel further.
pub(super) const IPV6_HEADER: usize = 40;

/// Where the addresses begin.
pub(super) const SOURCE: usize = 8;
pub(super) const DESTINATION: usize = 24;

/// What is the same in every packet; the rest is 0, the flow label too: what entropy there is stands in the
/// source address or the UDP source port.
pub(super) fn template(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    hop_limit: NonZeroU8,
) -> [u8; IPV6_HEADER] {
    let mut header = [0; IPV6_HEADER];
    header[0] = 0x60;
    header[7] = hop_limit.get();
    header[SOURCE..DESTINATION].copy_from_slice(&source.octets());
    header[DESTINATION..].copy_from_slice(&destination.octets());
    header
}

/// The bits of the outer source that the flow hash fills.
pub(super) fn entropy(flow_hash: u64, bits: u8) -> u128 {
    let free = 1_u128
        .checked_shl(bits.into())
        .map_or(u128::MAX, |end| end - 1);
    u128::from(flow_hash) & free
}

/// Fills in what differs from packet to packet: traffic class, length, protocol, the low bits of the source.
pub(super) fn patch(
    header: &mut [u8],
    meta: &Meta,
    (payload, protocol): (u16, u8),
    source_bits: u128,
) {
    let class = u16::from(meta.traffic_class);
    header[..2].copy_from_slice(&(0x6000 | class << 4).to_be_bytes());
    header[4..6].copy_from_slice(&payload.to_be_bytes());
    header[6] = protocol;
    let bits = source_bits.to_be_bytes();
    for (byte, bits) in header[SOURCE..DESTINATION].iter_mut().zip(bits) {
        *byte |= bits;
    }
}
