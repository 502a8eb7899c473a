//! The outer IPv4 header (RFC 2003 §3.1).

use std::net::Ipv4Addr;
use std::num::NonZeroU8;

use crate::packet::checksum::Sum;
use crate::packet::parse::Meta;

/// Length in bytes; the outer header carries no options.
pub(super) const IPV4_HEADER: usize = 20;

/// Where the addresses begin.
pub(super) const SOURCE: usize = 12;
pub(super) const DESTINATION: usize = 16;

/// Version 4, and a header of five 32-bit words.
const VERSION_AND_LENGTH: u8 = 0x45;

/// The DF bit in the fourth 16-bit word of an IPv4 header (RFC 791 §3.1).
const DONT_FRAGMENT: u16 = 0x4000;

/// What is the same in every packet; the rest is 0.
pub(super) fn template(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    ttl: NonZeroU8,
) -> [u8; IPV4_HEADER] {
    let mut header = [0; IPV4_HEADER];
    header[0] = VERSION_AND_LENGTH;
    header[8] = ttl.get();
    header[SOURCE..DESTINATION].copy_from_slice(&source.octets());
    header[DESTINATION..].copy_from_slice(&destination.octets());
    header
}

/// The sum over what is the same in every packet; never 0.
pub(super) fn constant(template: &[u8]) -> u16 {
    !Sum::default().add_bytes(template).finish()
}

/// The bits of the outer source that the flow hash fills.
#[allow(
    clippy::cast_possible_truncation,
    reason = "only the low bits are wanted"
)]
pub(super) const fn entropy(flow_hash: u64, bits: u8) -> u32 {
    flow_hash as u32 & (((1_u64 << bits) - 1) as u32) // of at most 32 bits
}

/// Fills in what differs from packet to packet: TOS, length, identification, DF, protocol, the low bits of
/// the source, and the checksum, which begins with the sum of the template.
///
/// DF is set where the inner packet must not be fragmented, with identification 0 then (atomic, RFC 6864
/// §4.1).
pub(super) fn patch(
    header: &mut [u8],
    template: Sum,
    meta: &Meta,
    (payload, protocol): (u16, u8),
    (source_bits, identification): (u32, u16),
) {
    let total = payload + 20; // the caller saw that it fits
    let (identification, fragment) = if meta.dont_fragment {
        (0, DONT_FRAGMENT)
    } else {
        (identification, 0)
    };
    let [a, b, c, d] = source_bits.to_be_bytes();
    let checksum = template
        .add_word(meta.traffic_class.into())
        .add_word(total)
        .add_word(identification)
        .add_word(fragment)
        .add_word(protocol.into())
        .add_word(u16::from_be_bytes([a, b]))
        .add_word(u16::from_be_bytes([c, d]))
        .finish();
    header[1] = meta.traffic_class;
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[4..6].copy_from_slice(&identification.to_be_bytes());
    header[6..8].copy_from_slice(&fragment.to_be_bytes());
    header[9] = protocol;
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    for (byte, bits) in header[SOURCE..DESTINATION].iter_mut().zip([a, b, c, d]) {
        *byte |= bits;
    }
}
