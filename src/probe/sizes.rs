//! The longest packet that gets through, by a few rounds of packets of several sizes at once (RFC 4821 §7.6 searches
//! one by one; a packet that gets through is answered soon, one that does not costs a whole timeout).

use std::collections::BTreeMap;

/// Sizes that are sent at once: three rounds find one of 4,900.
const AT_ONCE: u16 = 16;

/// A search that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SizeSearch {
    /// Bytes that got through.
    passed: u16,
    /// Bytes that did not.
    failed: u16,
    /// Of the round that goes on.
    answers: BTreeMap<u16, bool>,
}

impl SizeSearch {
    /// One between a size that gets through and a larger one that does not; `None` where they are no such two.
    #[must_use]
    pub fn new(passed: u16, failed: u16) -> Option<Self> {
        (passed < failed).then(|| Self {
            passed,
            failed,
            answers: BTreeMap::new(),
        })
    }

    /// The sizes to be tried now; none where the answer is known.
    #[must_use]
    pub fn round(&self) -> Vec<u16> {
        let between = self.failed.saturating_sub(self.passed.saturating_add(1));
        let count = between.min(AT_ONCE);
        let size = |step: u16| {
            let share = u32::from(between) * u32::from(step) / u32::from(count.max(1));
            self.passed + u16::try_from(share).unwrap_or(between)
        };
        (1..=count).map(size).collect()
    }

    /// Whether a packet of that size got through.
    pub fn observe(&mut self, size: u16, got_through: bool) {
        self.answers.insert(size, got_through);
    }

    /// The round is over: packets of up to the largest size that got through do so, whatever was lost of smaller ones.
    pub fn close_round(&mut self) {
        let answers = std::mem::take(&mut self.answers);
        let largest = answers.iter().rev().find(|(_, passed)| **passed);
        if let Some((size, _)) = largest {
            self.passed = self.passed.max(*size);
        }
        let mut longer = answers.range(self.passed.saturating_add(1)..);
        if let Some((size, _)) = longer.next() {
            self.failed = self.failed.min(*size);
        }
    }

    /// The longest that got through so far, in bytes.
    #[must_use]
    pub const fn longest(&self) -> u16 {
        self.passed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The longest that is found where `mtu` gets through, and the rounds that it took.
    fn found(passed: u16, failed: u16, mtu: u16) -> (u16, u32) {
        let mut search = SizeSearch::new(passed, failed).unwrap();
        let mut rounds = 0;
        loop {
            let sizes = search.round();
            if sizes.is_empty() {
                return (search.longest(), rounds);
            }
            assert!(sizes.len() <= usize::from(AT_ONCE));
            for size in sizes {
                assert!(size > search.passed && size < search.failed, "{size}");
                search.observe(size, size <= mtu);
            }
            search.close_round();
            rounds += 1;
        }
    }

    #[test]
    fn three_rounds_find_it() {
        for mtu in [84, 85, 576, 1279, 1280, 1379, 1380, 1478, 1479] {
            let (longest, rounds) = found(84, 1480, mtu);
            assert_eq!(longest, mtu);
            assert!(rounds <= 3, "{rounds}");
        }
        assert_eq!(SizeSearch::new(1480, 1480), None);
    }

    #[test]
    fn one_that_was_lost_hides_no_larger_one() {
        let mut search = SizeSearch::new(84, 1480).unwrap();
        let sizes = search.round();
        for size in sizes {
            search.observe(size, size == 1043);
        }
        assert!(search.round().contains(&1043));
        search.close_round();
        assert_eq!(search.longest(), 1043);
    }

    proptest! {
        #[test]
        fn every_mtu_is_found(passed in 28_u16..2000, room in 1_u16..60_000, place: u16) {
            let failed = passed.saturating_add(room);
            let mtu = passed + place % (failed - passed);
            let (longest, rounds) = found(passed, failed, mtu);
            prop_assert_eq!(longest, mtu);
            prop_assert!(rounds <= 5);
        }
    }
}
