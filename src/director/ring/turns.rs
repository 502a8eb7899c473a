//! Whose turn it is to take a slot, by weight.
//!
//! In round r a backend of weight w has a turn when r·w passes a multiple of the heaviest weight h,
//! that is when ⌊(r+1)·w/h⌋ > ⌊r·w/h⌋, so a weight's share is even along the way, not only at the
//! end. Within a round, turns are in the order of the backends.
//!
//! Rounds are worked out several at a time, about as many as give each backend one turn on average:
//! going through a thousand backends for each turn of the only heavy one would cost the product.

/// The turns of backends with given weights, without end.
pub(super) struct Turns {
    backends: Vec<Progress>,
    heaviest: usize,
    /// Whose turns the rounds of the current stretch have, for each round.
    stretch: Vec<Vec<usize>>,
    /// All stretches are the same, as they are for equal weights.
    repeats: bool,
}

/// Where a backend stands between two turns.
struct Progress {
    weight: usize,
    /// r·w modulo the heaviest weight.
    credit: usize,
}

impl Turns {
    /// For weights above 0; `None` where there are none.
    pub(super) fn new(weights: impl Iterator<Item = u16>) -> Option<Self> {
        let backends: Vec<_> = weights
            .map(|weight| Progress {
                weight: weight.into(),
                credit: 0,
            })
            .collect();
        let heaviest = backends.iter().map(|backend| backend.weight).max()?;
        let sum: usize = backends.iter().map(|backend| backend.weight).sum();
        let rounds = (heaviest * backends.len()).div_ceil(sum);
        Some(Self {
            backends,
            heaviest,
            stretch: (0..rounds).map(|_| Vec::new()).collect(),
            repeats: false,
        })
    }

    /// Whose turn it is in the next stretch of rounds, by their positions among the weights.
    pub(super) fn next_stretch(&mut self) -> impl Iterator<Item = usize> {
        if !self.repeats {
            let from_start = self.is_at_start();
            self.stretch.iter_mut().for_each(Vec::clear);
            for (index, backend) in self.backends.iter_mut().enumerate() {
                backend.take_turns(index, self.heaviest, &mut self.stretch);
            }
            self.repeats = from_start && self.is_at_start();
        }
        self.stretch.iter().flatten().copied()
    }

    fn is_at_start(&self) -> bool {
        self.backends.iter().all(|backend| backend.credit == 0)
    }
}

impl Progress {
    /// Enters `index` into the rounds where this backend has a turn.
    fn take_turns(&mut self, index: usize, heaviest: usize, stretch: &mut [Vec<usize>]) {
        let end = self.credit + self.weight * stretch.len();
        let mut multiple = heaviest;
        while multiple <= end {
            // The first round at whose end the credit has reached the multiple.
            let round = (multiple - self.credit - 1) / self.weight;
            stretch[round].push(index);
            multiple += heaviest;
        }
        self.credit = end + heaviest - multiple;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn first(weights: &[u16], count: usize) -> Vec<usize> {
        let mut turns = Turns::new(weights.iter().copied()).unwrap();
        let mut seen = Vec::new();
        while seen.len() < count {
            seen.extend(turns.next_stretch());
        }
        seen.truncate(count);
        seen
    }

    #[test]
    fn literal_orders() {
        assert!(Turns::new(std::iter::empty()).is_none());
        for (weights, order) in [
            (&[1, 1, 1][..], [0, 1, 2, 0, 1, 2, 0, 1]),
            (&[1, 2], [1, 0, 1, 1, 0, 1, 1, 0]),
            (&[3, 1], [0, 0, 0, 1, 0, 0, 0, 1]),
            (&[2, 3], [1, 0, 1, 0, 1, 1, 0, 1]),
        ] {
            assert_eq!(first(weights, 8), order, "{weights:?}");
        }
    }

    proptest! {
        /// The definition, round by round.
        #[test]
        fn equals_the_definition(weights in prop::collection::vec(prop_oneof![1u16..20, 1u16..], 1..20)) {
            let heaviest = u64::from(*weights.iter().max().unwrap());
            let passes = |round: u64, weight: u16| {
                let weight = u64::from(weight);
                (round + 1) * weight / heaviest > round * weight / heaviest
            };
            let weights = &weights;
            let expected: Vec<_> = (0..)
                .flat_map(|round| (0..weights.len()).filter(move |&i| passes(round, weights[i])))
                .take(500)
                .collect();
            prop_assert_eq!(first(weights, 500), expected);
        }
    }
}
