//! How many packets bursts had.

use std::iter::Sum;
use std::ops::Add;

use crate::packet::BURST;

/// The upper bounds, in packets, of the sizes by which bursts are counted.
pub const BURST_SIZES: [u64; 7] = [1, 2, 4, 8, 16, 32, 64];

const _: () = assert!(
    BURST_SIZES[BURST_SIZES.len() - 1] == BURST as u64,
    "no burst is longer"
);

/// Bursts with packets since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bursts {
    /// Bursts of at most as many packets as [`BURST_SIZES`] has at that place, and more than at the place
    /// before.
    pub of_size: [u64; BURST_SIZES.len()],
    /// The packets in them, as they were read: one that the kernel joined of several segments is one.
    pub packets: u64,
}

impl Bursts {
    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.of_size.iter().sum()
    }
}

impl Add for Bursts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            of_size: std::array::from_fn(|size| self.of_size[size] + other.of_size[size]),
            packets: self.packets + other.packets,
        }
    }
}

impl Sum for Bursts {
    fn sum<I: Iterator<Item = Self>>(bursts: I) -> Self {
        bursts.fold(Self::default(), Add::add)
    }
}

/// The place in [`BURST_SIZES`] of a burst; `None` for an empty one.
pub(super) fn size(packets: usize) -> Option<usize> {
    let doublings = packets.checked_sub(1)?.checked_ilog2();
    let size = doublings.map_or(0, |doublings| doublings as usize + 1);
    Some(size.min(BURST_SIZES.len() - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_of_the_smallest_size_that_holds_it() {
        assert_eq!(size(0), None);
        for packets in 1..=BURST {
            let fits = |&bound: &u64| packets as u64 <= bound;
            assert_eq!(
                size(packets),
                BURST_SIZES.iter().position(fits),
                "{packets}"
            );
        }
    }
}
