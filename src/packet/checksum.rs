//! The Internet checksum (RFC 1071): whole, and updated in place after a change (RFC 1624).
//!
//! All sums are over 16-bit big-endian words; a result is the value as it stands in a header
//! field, in host order.

/// A running one's-complement sum, not yet folded or inverted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Adds `bytes`; an odd last byte counts as the high half of a word (RFC 1071 §4.1), so only
    /// the last piece of a message may have an odd length.
    #[must_use]
    pub fn add_bytes(mut self, bytes: &[u8]) -> Self {
        // Summed in the machine's byte order and turned at the end (RFC 1071 §2 B), in lanes that the compiler
        // puts into one vector.
        let (blocks, rest) = bytes.as_chunks::<16>();
        let mut lanes = [0_u64; 4];
        for block in blocks {
            for (lane, four) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
                *lane += u64::from(u32::from_ne_bytes(*four));
            }
        }
        let (fours, rest) = rest.as_chunks::<4>();
        for four in fours {
            lanes[0] += u64::from(u32::from_ne_bytes(*four));
        }
        lanes[1] += match *rest {
            [a, b, c] => u64::from(u32::from_ne_bytes([a, b, c, 0])),
            [a, b] => u64::from(u16::from_ne_bytes([a, b])),
            [a] => u64::from(u16::from_ne_bytes([a, 0])),
            _ => 0,
        };
        self.0 += u64::from(u16::from_be(fold(lanes.iter().sum())));
        self
    }

    /// Adds one word.
    #[must_use]
    pub const fn add_word(mut self, word: u16) -> Self {
        self.0 += word as u64;
        self
    }

    /// Folds the carries and inverts: the value for the checksum field.
    #[must_use]
    pub const fn finish(self) -> u16 {
        !fold(self.0)
    }
}

/// Adds the carries in, until 16 bits are left.
#[allow(
    clippy::cast_possible_truncation,
    reason = "the fold leaves at most 16 bits"
)]
const fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The checksum of `bytes`; over a header that carries its correct checksum it is 0.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::default().add_bytes(bytes).finish()
}

/// The checksum after one covered word changed from `old` to `new` (RFC 1624 §3, equation 3).
#[must_use]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    Sum(0)
        .add_word(!checksum)
        .add_word(!old)
        .add_word(new)
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The header of RFC 1071's usual worked example; checksum 0xb861 at offset 10.
    const HEADER: [u8; 20] = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00,
        0x01, 0xc0, 0xa8, 0x00, 0xc7,
    ];

    #[test]
    fn known_header() {
        assert_eq!(checksum(&HEADER), 0);
        let mut zeroed = HEADER;
        zeroed[10..12].fill(0);
        assert_eq!(checksum(&zeroed), 0xb861);
    }

    #[test]
    fn odd_length_pads_with_zero() {
        assert_eq!(
            checksum(&[0x12, 0x34, 0x56]),
            checksum(&[0x12, 0x34, 0x56, 0])
        );
        assert_eq!(checksum(&[]), 0xffff);
    }

    #[test]
    fn update_carries() {
        // The example of RFC 1624 §4: 0x5555 becomes 0x3285 under checksum 0xdd2f.
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        /// An update equals a new sum, up to the two forms of zero.
        #[test]
        fn update_agrees_with_recomputation(mut bytes in prop::collection::vec(any::<u8>(), 4..64), new: u16) {
            bytes.truncate(bytes.len() & !1);
            let before = checksum(&bytes);
            let old = u16::from_be_bytes([bytes[2], bytes[3]]);
            bytes[2..4].copy_from_slice(&new.to_be_bytes());
            let (updated, whole) = (update(before, old, new), checksum(&bytes));
            prop_assert_eq!(updated % 0xffff, whole % 0xffff);
        }

        /// The oracle: word by word, as RFC 1071 §1 says it.
        #[test]
        fn agrees_with_the_text(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
            let mut sum: u32 = bytes.chunks(2).map(word).sum();
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            prop_assert_eq!(u32::from(!checksum(&bytes)), sum);
        }

        /// The oracle of RFC 1071: bytes followed by their checksum sum to zero.
        #[test]
        fn verifies(mut bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            bytes.truncate(bytes.len() & !1);
            let sum = checksum(&bytes);
            bytes.extend(sum.to_be_bytes());
            prop_assert_eq!(checksum(&bytes), 0);
        }
    }
}
