//! Chance by a seed: the same day in every run.

use std::time::Duration;

/// xorshift64* (Vigna 2016).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // Seeds are small numbers; the generator wants many bits, and never 0.
        let mut random = Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..8).for_each(|_| {
            random.number();
        });
        random
    }

    fn number(&mut self) -> u64 {
        for shift in [-12, 25, -27] {
            self.0 ^= if shift < 0 {
                self.0 >> -shift
            } else {
                self.0 << shift
            };
        }
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// From `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.number() % (high - low + 1)
    }

    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.between(1, 100) <= chance
    }

    pub(crate) fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    /// The pause before the next of events that come `per_day` times a day, independently.
    pub(crate) fn until_next(&mut self, per_day: u64) -> Duration {
        let part = f64::from(u32::try_from(self.between(1, 1 << 24)).unwrap()) / f64::from(1 << 24);
        let mean = crate::day::LENGTH.div_f64(per_day as f64);
        mean.mul_f64(-part.ln())
    }

    pub(crate) fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.position(choices.len())]
    }

    /// A position in something of this length, which is not 0.
    pub(crate) fn position(&mut self, length: usize) -> usize {
        usize::try_from(self.between(1, u64::try_from(length).unwrap())).unwrap() - 1
    }
}
