//! Completes a TCP or UDP checksum that the kernel left partial, on a packet taken out of a tunnel.
//!
//! A kernel that joins received segments (GRO, on by default on network cards) and one that hands a
//! packet over inside the machine keep in the checksum field only the sum of the pseudo-header, and note
//! beside the packet that the rest is to be added (CHECKSUM_PARTIAL, linux/skbuff.h). A socket delivers
//! the bytes without the note. Read first: RFC 9293 §3.1, RFC 768, RFC 8200 §8.1.

use super::{Version, checksum::Sum};

/// Makes the transport checksum of `packet`, a whole IP packet of that version, complete where it is
/// partial. One that is right, or wrong in any other way, is left to the receiver's judgement; so are
/// fragments and what is behind IPv6 extension headers.
pub(super) fn complete(version: Version, packet: &mut [u8]) {
    if let Some((pseudo, field, segment)) = transport(version, packet) {
        complete_segment(pseudo, field, segment);
    }
}

/// The sum of the pseudo-header, where the checksum field is in the segment, and the segment.
fn transport(version: Version, packet: &mut [u8]) -> Option<(Sum, usize, &mut [u8])> {
    let (protocol, addresses, start) = match version {
        Version::V4 if is_fragment(packet) => return None,
        Version::V4 => (*packet.get(9)?, 12..20, usize::from(packet[0] & 0xf) * 4),
        Version::V6 => (*packet.get(6)?, 8..40, 40),
    };
    let field = match protocol {
        6 => 16,
        17 => 6,
        _ => return None,
    };
    let (header, segment) = packet.split_at_mut_checked(start)?;
    let pseudo = Sum::default()
        .add_bytes(header.get(addresses)?)
        .add_word(protocol.into())
        .add_word(u16::try_from(segment.len()).ok()?);
    Some((pseudo, field, segment))
}

/// Whether more fragments follow, or the offset is not 0 (RFC 791 §3.1).
fn is_fragment(packet: &[u8]) -> bool {
    let bits = packet.get(6..8).and_then(|pair| pair.first_chunk());
    bits.is_some_and(|bits| u16::from_be_bytes(*bits) & 0x3fff != 0)
}

fn complete_segment(pseudo: Sum, field: usize, segment: &mut [u8]) {
    let partial = (!pseudo.finish()).to_be_bytes();
    // What follows is work for each byte of the packet; this is rarely so by chance.
    if segment.get(field..field + 2) != Some(&partial) {
        return;
    }
    let by_chance = pseudo.add_bytes(segment).finish() == 0;
    let sum = match Sum::default().add_bytes(segment).finish() {
        0 => 0xffff, // to UDP, 0 is no checksum (RFC 768); to TCP they are the same number
        sum => sum,
    };
    if let Some(bytes) = segment.get_mut(field..field + 2).filter(|_| !by_chance) {
        bytes.copy_from_slice(&sum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 192.0.2.7:4000 to 10.0.0.100:53, "hi"; its checksum is only the pseudo-header's sum.
    const UDP4: [u8; 30] = [
        0x45, 0, 0, 30, 0, 1, 0, 0, 63, 17, 0, 0, 192, 0, 2, 7, 10, 0, 0, 100, //
        0x0f, 0xa0, 0x00, 0x35, 0x00, 0x0a, 0xcc, 0x86, b'h', b'i',
    ];

    /// [`UDP4`] as the kernel of the receiver wants it.
    const COMPLETE: [u8; 2] = [0xbb, 0x30];

    #[test]
    fn a_partial_checksum_is_completed_once() {
        let mut packet = UDP4;
        complete(Version::V4, &mut packet);
        assert_eq!(packet[26..28], COMPLETE);
        assert_eq!(packet[..26], UDP4[..26]);
        let before = packet;
        complete(Version::V4, &mut packet);
        assert_eq!(packet, before);
    }

    #[test]
    fn other_checksums_are_left_alone() {
        for (description, at, value) in [
            ("none", 26..28, [0, 0]),
            ("wrong", 26..28, [0xcc, 0x87]),
            ("a fragment", 6..8, [0x20, 0]),
            ("a later fragment", 6..8, [0, 1]),
            ("another protocol", 8..10, [63, 132]),
        ] {
            let mut packet = UDP4;
            packet[at].copy_from_slice(&value);
            let before = packet;
            complete(Version::V4, &mut packet);
            assert_eq!(packet, before, "{description}");
        }
    }

    /// An IP packet with a TCP or UDP segment whose checksum is partial.
    fn partial(version: Version, tcp: bool, segment: &[u8]) -> Vec<u8> {
        let protocol = if tcp { 6 } else { 17 };
        let mut packet = match version {
            Version::V4 => vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0],
            Version::V6 => vec![0x60, 0, 0, 0, 0, 0, protocol, 64],
        };
        let addresses = match version {
            Version::V4 => 8,
            Version::V6 => 32,
        };
        packet.extend((1..=addresses).map(|octet| octet * 7));
        packet.extend(segment);
        let (pseudo, field, segment) = transport(version, &mut packet).unwrap();
        segment[field..field + 2].copy_from_slice(&(!pseudo.finish()).to_be_bytes());
        packet
    }

    proptest! {
        /// Afterwards the receiver finds the checksum right; nothing else has changed.
        #[test]
        fn the_receiver_agrees(
            v6: bool,
            tcp: bool,
            segment in prop::collection::vec(any::<u8>(), 20..200),
        ) {
            let version = if v6 { Version::V6 } else { Version::V4 };
            let before = partial(version, tcp, &segment);
            let mut packet = before.clone();
            complete(version, &mut packet);
            let (pseudo, field, segment) = transport(version, &mut packet).unwrap();
            prop_assert_eq!(pseudo.add_bytes(segment).finish(), 0);
            let at = before.len() - segment.len() + field;
            packet[at..at + 2].copy_from_slice(&before[at..at + 2]);
            prop_assert_eq!(packet, before);
        }

        #[test]
        fn random_bytes_never_panic(v6: bool, mut bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            complete(if v6 { Version::V6 } else { Version::V4 }, &mut bytes);
        }
    }
}
