//! Numbers that are given out in runs and taken back: rows of a map.

use std::collections::BTreeMap;

/// The numbers below a bound that are free, in runs: where each begins, and how long it is.
#[derive(Debug)]
pub(super) struct Pool {
    free: BTreeMap<u32, u32>,
}

impl Pool {
    /// All numbers below `bound` are free.
    pub(super) fn new(bound: u32) -> Self {
        Self {
            free: (bound > 0).then_some((0, bound)).into_iter().collect(),
        }
    }

    /// The first of `length` numbers that follow one another; `None` where there is no such run. A run of none
    /// begins anywhere.
    pub(super) fn take(&mut self, length: u32) -> Option<u32> {
        if length == 0 {
            return Some(0);
        }
        let mut runs = self.free.iter();
        let (&start, &free) = runs.find(|&(_, &free)| free >= length)?;
        self.free.remove(&start);
        if free > length {
            self.free.insert(start + length, free - length);
        }
        Some(start)
    }

    /// Takes a run back.
    pub(super) fn give(&mut self, start: u32, length: u32) {
        if length == 0 {
            return;
        }
        let (mut start, mut length) = (start, length);
        if let Some((&before, &free)) = self.free.range(..start).next_back()
            && before + free == start
        {
            self.free.remove(&before);
            (start, length) = (before, free + length);
        }
        if let Some(free) = self.free.remove(&(start + length)) {
            length += free;
        }
        self.free.insert(start, length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn runs_join_again() {
        let mut pool = Pool::new(10);
        assert_eq!(pool.take(0), Some(0));
        let runs = [3, 3, 4].map(|length| pool.take(length));
        assert_eq!(runs, [Some(0), Some(3), Some(6)]);
        assert_eq!(pool.take(1), None);
        pool.give(0, 3);
        pool.give(6, 4);
        assert_eq!(pool.take(5), None);
        pool.give(3, 3);
        assert_eq!(pool.take(10), Some(0));
    }

    proptest! {
        /// No number is given out twice.
        #[test]
        fn runs_never_overlap(steps in prop::collection::vec((any::<bool>(), 1..9_u32), 1..80)) {
            let (mut pool, mut taken) = (Pool::new(40), Vec::<(u32, u32)>::new());
            for (takes, number) in steps {
                if takes {
                    if let Some(start) = pool.take(number) {
                        prop_assert!(start + number <= 40);
                        for &(other, length) in &taken {
                            prop_assert!(start + number <= other || other + length <= start);
                        }
                        taken.push((start, number));
                    }
                } else if !taken.is_empty() {
                    let (start, length) = taken.swap_remove(number as usize % taken.len());
                    pool.give(start, length);
                }
            }
        }
    }
}
