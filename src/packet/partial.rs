//! Finds a TCP or UDP checksum that the kernel left partial, on a packet taken out of a tunnel, so that the
//! kernel is told again when it gets the packet back.
//!
//! A kernel that joins received segments (GRO, on by default on network cards) and one that hands a
//! packet over inside the machine keep in the checksum field only the sum of the pseudo-header, and note
//! beside the packet that the rest is to be added (CHECKSUM_PARTIAL, linux/skbuff.h). A socket delivers
//! the bytes without the note. Read first: RFC 9293 §3.1, RFC 768, RFC 8200 §8.1.

use super::{Version, checksum::Sum, vnet::PartialChecksum};

/// What the transport checksum of a packet covers.
#[derive(Debug)]
pub(super) struct Covered<'a> {
    pseudo: Sum,
    /// Where the checksum field is in the segment.
    field: usize,
    /// From the transport header on.
    segment: &'a [u8],
    start: usize,
}

/// The checksum of `packet`, a whole IP packet of that version, where it is partial. By chance a complete one
/// looks the same, one in 65,536; then it is right, too, that the kernel adds the rest. Fragments and what is
/// behind IPv6 extension headers are not looked at.
pub(super) fn find(version: Version, packet: &[u8]) -> Option<PartialChecksum> {
    let covered = covered(version, packet)?;
    covered.is_partial().then_some(PartialChecksum {
        start: u16::try_from(covered.start).ok()?,
        offset: u16::try_from(covered.field).ok()?,
    })
}

/// Completes the transport checksum of a packet from a sender on this machine, where it is partial and so
/// not right as it is. What the link padded is left out.
pub fn complete_partial(packet: &mut [u8]) {
    let Some((version, length)) = extent(packet) else {
        return;
    };
    let Some(packet) = packet.get_mut(..length) else {
        return;
    };
    let is_partial = covered(version, packet)
        .is_some_and(|covered| covered.is_partial() && !covered.is_complete());
    if is_partial && let Some(checksum) = find(version, packet) {
        checksum.complete(packet).ok(); // it is in the packet
    }
}

/// The version of a packet, and its length by its header.
fn extent(packet: &[u8]) -> Option<(Version, usize)> {
    let word = |at: usize| Some(u16::from_be_bytes(*packet.get(at..)?.first_chunk()?));
    match packet.first()? >> 4 {
        4 => Some((Version::V4, word(2)?.into())),
        6 => Some((Version::V6, usize::from(word(4)?) + 40)),
        _ => None,
    }
}

/// What the transport checksum of `packet` covers, where it is TCP or UDP and no fragment.
pub(super) fn covered(version: Version, packet: &[u8]) -> Option<Covered<'_>> {
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
    let (header, segment) = packet.split_at_checked(start)?;
    let pseudo = Sum::default()
        .add_bytes(header.get(addresses)?)
        .add_word(protocol.into())
        .add_word(u16::try_from(segment.len()).ok()?);
    Some(Covered {
        pseudo,
        field,
        segment,
        start,
    })
}

impl Covered<'_> {
    /// Whether the field holds the sum of the pseudo-header.
    pub(super) fn is_partial(&self) -> bool {
        let partial = (!self.pseudo.finish()).to_be_bytes();
        self.segment.get(self.field..self.field + 2) == Some(&partial)
    }

    /// Whether the field holds the right checksum.
    pub(super) fn is_complete(&self) -> bool {
        self.pseudo.add_bytes(self.segment).finish() == 0
    }
}

/// Whether more fragments follow, or the offset is not 0 (RFC 791 §3.1).
fn is_fragment(packet: &[u8]) -> bool {
    let bits = packet.get(6..8).and_then(|pair| pair.first_chunk());
    bits.is_some_and(|bits| u16::from_be_bytes(*bits) & 0x3fff != 0)
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

    /// [`UDP4`] with the checksum that the receiver wants.
    const COMPLETE: [u8; 2] = [0xbb, 0x30];

    #[test]
    fn partial_and_complete() {
        let found = find(Version::V4, &UDP4).unwrap();
        assert_eq!((found.start, found.offset), (20, 6));
        assert!(!covered(Version::V4, &UDP4).unwrap().is_complete());
        let mut packet = UDP4;
        packet[26..28].copy_from_slice(&COMPLETE);
        assert_eq!(find(Version::V4, &packet), None);
        assert!(covered(Version::V4, &packet).unwrap().is_complete());
    }

    #[test]
    fn what_a_neighbour_left_is_completed() {
        let mut complete = UDP4;
        complete[26..28].copy_from_slice(&COMPLETE);
        let padded = [&UDP4[..], &[0x55; 16]].concat();
        for (description, packet) in [
            ("partial", &UDP4[..]),
            ("complete", &complete),
            ("with what a link padded", &padded),
        ] {
            let mut packet = packet.to_vec();
            complete_partial(&mut packet);
            assert_eq!(packet[..30], complete, "{description}");
        }
        let mut wrong = UDP4;
        wrong[26..28].copy_from_slice(&[0xcc, 0x87]);
        let mut packet = wrong;
        complete_partial(&mut packet);
        assert_eq!(packet, wrong, "a wrong one stays wrong");
        for length in 0..UDP4.len() {
            let mut packet = UDP4[..length].to_vec();
            complete_partial(&mut packet);
            assert_eq!(packet, UDP4[..length], "cut at {length}");
        }
    }

    #[test]
    fn other_checksums_are_not_partial() {
        for (description, at, value) in [
            ("none", 26..28, [0, 0]),
            ("wrong", 26..28, [0xcc, 0x87]),
            ("a fragment", 6..8, [0x20, 0]),
            ("a later fragment", 6..8, [0, 1]),
            ("another protocol", 8..10, [63, 132]),
        ] {
            let mut packet = UDP4;
            packet[at].copy_from_slice(&value);
            assert_eq!(find(Version::V4, &packet), None, "{description}");
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
        let covered = covered(version, &packet).unwrap();
        let at = covered.start + covered.field;
        let sum = !covered.pseudo.finish();
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    proptest! {
        /// The kernel does with what was found what the receiver then finds right.
        #[test]
        fn the_receiver_agrees(
            v6: bool,
            tcp: bool,
            segment in prop::collection::vec(any::<u8>(), 20..200),
        ) {
            let version = if v6 { Version::V6 } else { Version::V4 };
            let mut packet = partial(version, tcp, &segment);
            let found = find(version, &packet).unwrap();
            let start = usize::from(found.start);
            let sum = Sum::default().add_bytes(&packet[start..]).finish();
            let at = start + usize::from(found.offset);
            packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            prop_assert!(covered(version, &packet).unwrap().is_complete());
        }

        #[test]
        fn random_bytes_never_panic(v6: bool, bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let version = if v6 { Version::V6 } else { Version::V4 };
            if let Some(found) = find(version, &bytes) {
                prop_assert!(usize::from(found.start + found.offset) + 2 <= bytes.len());
            }
        }
    }
}
