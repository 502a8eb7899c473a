//! Cuts an IPv4 packet into fragments, as a router does whose next link has a smaller MTU (RFC 791 §3.2).
//!
//! Byte for byte what Linux makes of it (`ip_do_fragment`, linux/net/ipv4/ip_output.c): every fragment has a
//! header as long as the packet's, and of the options only those that are to be copied stay in the
//! later ones, with no-operation in place of the others (`ip_options_fragment`).
//!
//! The first fragment is made in place; the rest is read from a copy. IPv6 packets are never cut.

use super::checksum::checksum;

/// The header of an IPv4 packet with all the options that it may have, in bytes.
const LONGEST_HEADER: usize = 60;

/// A fragment's offset counts these bytes.
const UNIT: u16 = 8;

/// "More fragments" follow, in the fourth word of the header.
const MORE: u16 = 0x2000;
/// "Don't fragment", in the same word.
const DONT_FRAGMENT: u16 = 0x4000;
/// The bits of that word that are the offset.
const OFFSET: u16 = 0x1fff;

/// What makes fragments of the rest of a packet.
#[derive(Debug, Clone, Copy)]
pub struct Fragmentation {
    /// That of the next fragment, but for its length, offset and checksum.
    header: [u8; LONGEST_HEADER],
    /// Its length in bytes.
    header_length: u16,
    /// Bytes of data that a fragment has, if it is not the last one; a multiple of 8.
    step: u16,
    /// Bytes of data that did not leave yet.
    left: u16,
    /// Where they begin in the datagram, in units of 8 bytes.
    offset: u16,
    /// Whether the packet is itself a fragment with others behind it.
    more: bool,
}

impl Fragmentation {
    /// Makes `packet` its own first fragment of at most `longest` bytes, which are 68 at least (RFC 791
    /// §3.2). Returns the length of that in bytes, and what makes the others of the bytes behind it.
    ///
    /// `None`, and nothing is changed, where it is no IPv4 packet of exactly these bytes, may not be
    /// fragmented, or is not longer.
    pub fn begin(packet: &mut [u8], longest: u16) -> Option<(usize, Self)> {
        let [
            version,
            _,
            length_high,
            length_low,
            _,
            _,
            word_high,
            word_low,
            ..,
        ] = *packet
        else {
            return None;
        };
        let length = u16::from_be_bytes([length_high, length_low]);
        let word = u16::from_be_bytes([word_high, word_low]);
        let header_length = u16::from(version & 0xf) * 4;
        let step = longest.checked_sub(header_length)? / UNIT * UNIT;
        let is_whole =
            version >> 4 == 4 && header_length >= 20 && usize::from(length) == packet.len();
        if !is_whole || word & DONT_FRAGMENT != 0 || length <= longest || step == 0 {
            return None;
        }
        let header = packet.get(..usize::from(header_length))?;
        let mut rest = Self {
            header: [0; LONGEST_HEADER],
            header_length,
            step,
            left: length - header_length - step,
            offset: (word & OFFSET) + step / UNIT,
            more: word & MORE != 0,
        };
        rest.header[..header.len()].copy_from_slice(header);
        if word & OFFSET == 0 {
            keep_copied(&mut rest.header[20..header.len()]); // later, a packet has none to be left out
        }
        let header = packet.get_mut(..usize::from(header_length))?;
        finish(header, header_length + step, word & OFFSET | MORE);
        Some((usize::from(header_length + step), rest))
    }

    /// Whether all of it left.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Writes the next fragment to the start of `room`, its data from the start of `data`, which is what
    /// is left. Returns the bytes of both, fragment and data.
    ///
    /// `None` where nothing is left; what does not fit the room is cut.
    pub fn next(&mut self, data: &[u8], room: &mut [u8]) -> Option<(usize, usize)> {
        if self.left == 0 {
            return None;
        }
        let taken = self.left.min(self.step);
        let (header, payload) = room.split_at_mut_checked(usize::from(self.header_length))?;
        header.copy_from_slice(&self.header[..header.len()]);
        self.left -= taken;
        let more = if self.more || self.left > 0 { MORE } else { 0 };
        finish(header, self.header_length + taken, self.offset | more);
        self.offset += taken / UNIT;
        for (to, from) in payload
            .iter_mut()
            .zip(&data[..usize::from(taken).min(data.len())])
        {
            *to = *from;
        }
        Some((usize::from(self.header_length + taken), taken.into()))
    }
}

/// Writes length, flags with offset, and the checksum.
fn finish(header: &mut [u8], length: u16, word: u16) {
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[6..8].copy_from_slice(&word.to_be_bytes());
    header[10..12].fill(0);
    let sum = checksum(header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
}

/// Replaces the options that are only for the first fragment (RFC 791 §3.1: the highest bit of their type is
/// clear) by no-operation. What cannot be read is left as it is.
fn keep_copied(options: &mut [u8]) {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const COPIED: u8 = 0x80;
    let mut rest = options;
    loop {
        let length = match *rest {
            [] | [END, ..] => return,
            [NO_OPERATION, ..] => 1,
            [_, length, ..] if length >= 2 => usize::from(length),
            _ => return,
        };
        let Some((option, behind)) = rest.split_at_mut_checked(length) else {
            return;
        };
        if option[0] & COPIED == 0 {
            option.fill(NO_OPERATION);
        }
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Packet;
    use proptest::prelude::*;

    fn packet(options: &[u8], word: u16, data: usize) -> Vec<u8> {
        let header = 20 + options.len();
        let mut packet = vec![0x40 | u8::try_from(header / 4).unwrap(), 0xb8];
        packet.extend(u16::try_from(header + data).unwrap().to_be_bytes());
        packet.extend([0x12, 0x34]);
        packet.extend(word.to_be_bytes());
        packet.extend([63, 17, 0, 0, 192, 0, 2, 1, 203, 0, 113, 10]);
        packet.extend(options);
        let sum = checksum(&packet).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
        packet.extend((0..data).map(|at| (at % 251).to_le_bytes()[0]));
        packet
    }

    fn cut(mut packet: Vec<u8>, longest: u16) -> Option<Vec<Vec<u8>>> {
        let (first, mut rest) = Fragmentation::begin(&mut packet, longest)?;
        let mut data = packet.split_off(first);
        let mut fragments = vec![packet];
        let mut room = [0; 70_000];
        while let Some((length, taken)) = rest.next(&data, &mut room) {
            fragments.push(room[..length].to_vec());
            data.drain(..taken);
        }
        assert!(data.is_empty());
        Some(fragments)
    }

    #[test]
    fn literal_fragments() {
        // Stream id (copied), record route of one address (not copied), no-operation.
        let options = [0x88, 4, 0, 7, 7, 7, 4, 0, 0, 0, 0, 1];
        let fragments = cut(packet(&options, 0, 100), 32 + 64).unwrap();
        let header = |length: u8, word: u16, options: [u8; 12]| {
            let [high, low] = word.to_be_bytes();
            let mut header = vec![0x48, 0xb8, 0, length, 0x12, 0x34, high, low, 63, 17, 0, 0];
            header.extend([192, 0, 2, 1, 203, 0, 113, 10]);
            header.extend(options);
            let sum = checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            header
        };
        let later = [0x88, 4, 0, 7, 1, 1, 1, 1, 1, 1, 1, 1];
        let data: Vec<u8> = (0..100).collect();
        assert_eq!(
            fragments[0],
            [header(96, 0x2000, options), data[..64].to_vec()].concat()
        );
        assert_eq!(
            fragments[1],
            [header(68, 8, later), data[64..].to_vec()].concat()
        );
        assert_eq!(fragments.len(), 2);
    }

    #[test]
    fn what_is_left_as_it_is() {
        for (what, packet, longest) in [
            ("it fits", packet(&[], 0, 80), 100),
            ("DF", packet(&[], 0x4000, 80), 68),
            ("no room for data", packet(&[1; 40], 0, 80), 67),
            ("IPv6", [&[0x60; 8][..], &[0; 100]].concat(), 68),
            ("cut short", packet(&[], 0, 80)[..90].to_vec(), 68),
            (
                "a short header",
                [&[0x44, 0, 0, 100][..], &[0; 96]].concat(),
                68,
            ),
            ("no header", vec![0x45, 0, 0, 4], 68),
        ] {
            let mut after = packet.clone();
            assert!(
                Fragmentation::begin(&mut after, longest).is_none(),
                "{what}"
            );
            assert_eq!(after, packet, "{what}");
        }
    }

    #[test]
    fn options_that_cannot_be_read_stay() {
        for (options, expected) in [
            ([7, 0, 0, 0], [7, 0, 0, 0]),
            ([7, 9, 0, 0], [7, 9, 0, 0]),
            ([0, 7, 2, 1], [0, 7, 2, 1]),
            ([1, 1, 1, 7], [1, 1, 1, 7]),
            ([7, 3, 9, 0], [1, 1, 1, 0]),
            ([0x87, 3, 9, 0], [0x87, 3, 9, 0]),
        ] {
            let mut after = options;
            keep_copied(&mut after);
            assert_eq!(after, expected, "{options:?}");
        }
    }

    proptest! {
        /// The fragments tile the data, none is too long, and each is a packet with a right checksum.
        #[test]
        fn fragments_tile_the_packet(
            words in 0usize..=10,
            more: bool,
            offset in 0u16..1000,
            data in 0usize..5000,
            longest in 68u16..2000,
        ) {
            let whole = packet(&vec![1; words * 4], u16::from(more) << 13 | offset, data);
            let Some(fragments) = cut(whole.clone(), longest) else {
                prop_assert!(whole.len() <= usize::from(longest));
                return Ok(());
            };
            let mut joined = Vec::new();
            for (number, bytes) in fragments.iter().enumerate() {
                prop_assert!(bytes.len() <= usize::from(longest));
                let header = usize::from(bytes[0] & 0xf) * 4;
                prop_assert_eq!(checksum(&bytes[..header]), 0);
                let packet = Packet::parse(bytes).unwrap();
                prop_assert_eq!(usize::from(packet.meta().length), bytes.len());
                let fragment = packet.fragment().unwrap();
                prop_assert_eq!(usize::from(fragment.offset), usize::from(offset) * 8 + joined.len());
                prop_assert_eq!(fragment.more, more || number + 1 < fragments.len());
                prop_assert_eq!(fragment.identification, 0x1234);
                joined.extend_from_slice(packet.payload());
            }
            prop_assert_eq!(&joined[..], &whole[20 + words * 4..]);
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), longest in 68u16..200) {
            let mut packet = bytes;
            if let Some(length) = packet.get_mut(2..4) {
                length.copy_from_slice(&[0, 0]);
            }
            let length = u16::try_from(packet.len()).unwrap().to_be_bytes();
            if let Some(field) = packet.get_mut(2..4) {
                field.copy_from_slice(&length);
            }
            cut(packet, longest);
        }
    }
}
