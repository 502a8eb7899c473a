//! The UDP header of GUE variant 1 (draft-ietf-intarea-gue §4): the IP packet follows directly,
//! its version nibble tells it from a GUE header.

use std::num::NonZeroU16;

use crate::packet::checksum::Sum;

/// Length of a UDP header in bytes.
pub(super) const UDP_HEADER: usize = 8;

/// The same as a part of a length field.
pub(super) const LENGTH: u16 = 8;

/// UDP's protocol number.
pub(super) const PROTOCOL: u8 = 17;

/// The first of the 16384 dynamic ports (RFC 6335 §6); the flow hash chooses one of them, so that
/// networks and NICs spread flows.
pub(super) const FIRST_DYNAMIC_PORT: u16 = 0xc000;

/// The source port of a flow.
#[allow(
    clippy::cast_possible_truncation,
    reason = "only the low bits of the hash are wanted"
)]
pub(super) const fn source_port(flow_hash: u64) -> u16 {
    FIRST_DYNAMIC_PORT | flow_hash as u16
}

/// The header before a packet's length and source port are known; checksum 0, which is right over IPv4
/// (RFC 768).
pub(super) fn template(port: NonZeroU16) -> [u8; UDP_HEADER] {
    let mut header = [0; UDP_HEADER];
    header[2..4].copy_from_slice(&port.get().to_be_bytes());
    header
}

/// Fills in what differs from packet to packet, but the checksum.
pub(super) fn patch(udp: &mut [u8], flow_hash: u64, length: u16) {
    udp[..2].copy_from_slice(&source_port(flow_hash).to_be_bytes());
    udp[4..6].copy_from_slice(&length.to_be_bytes());
}

/// Sets the checksum that IPv6 asks for (RFC 8200 §8.1), over the pseudo-header, the UDP header and
/// the inner packet in its two parts. `addresses` are the outer source and destination.
pub(super) fn set_checksum(udp: &mut [u8], addresses: &[u8], inner: [&[u8]; 2]) {
    let length = u16::from_be_bytes([udp[4], udp[5]]);
    let checksum = Sum::default()
        .add_bytes(addresses)
        .add_word(length)
        .add_word(PROTOCOL.into())
        .add_bytes(udp)
        .add_bytes(inner[0])
        .add_bytes(inner[1])
        .finish();
    // A sum of 0 is sent as its other form, since 0 means "none" (RFC 768).
    let checksum = if checksum == 0 { 0xffff } else { checksum };
    udp[6..8].copy_from_slice(&checksum.to_be_bytes());
}
