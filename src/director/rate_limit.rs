//! A token bucket.

use std::num::NonZeroU32;

use super::time::Timestamp;

const SECOND_NS: u64 = 1_000_000_000;

/// Allows so many a second. Its credit is time: each one costs its part of a second.
#[derive(Debug)]
pub(super) struct RateLimit {
    cost_ns: u64,
    credit_ns: u64,
    most_ns: u64,
    counted: Timestamp,
}

impl RateLimit {
    /// `per_second` and, after a pause, `burst` at once.
    pub(super) const fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        let cost_ns = SECOND_NS / per_second.get() as u64;
        let most_ns = cost_ns.saturating_mul(burst.get() as u64);
        Self {
            cost_ns,
            credit_ns: most_ns,
            most_ns,
            counted: Timestamp::START,
        }
    }

    /// The same with no more credit than another one has, which it follows.
    pub(super) const fn after(self, before: &Self) -> Self {
        let credit_ns = if before.credit_ns < self.most_ns {
            before.credit_ns
        } else {
            self.most_ns
        };
        Self {
            credit_ns,
            counted: before.counted,
            ..self
        }
    }

    /// Whether one more is allowed.
    pub(super) fn allows(&mut self, now: Timestamp) -> bool {
        let earned_ns = now.as_nanos().saturating_sub(self.counted.as_nanos());
        self.credit_ns = self.most_ns.min(self.credit_ns.saturating_add(earned_ns));
        self.counted = now;
        let left = self.credit_ns.checked_sub(self.cost_ns);
        self.credit_ns = left.unwrap_or(self.credit_ns);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn limit(per_second: u32) -> RateLimit {
        let per_second = NonZeroU32::new(per_second).unwrap();
        RateLimit::new(per_second, per_second)
    }

    #[test]
    fn a_burst_then_a_rate() {
        let mut limit = limit(100);
        let allowed = |limit: &mut RateLimit, millis, tries| {
            let now = Timestamp::after(Duration::from_millis(millis));
            (0..tries).filter(|_| limit.allows(now)).count()
        };
        assert_eq!(allowed(&mut limit, 0, 1000), 100);
        assert_eq!(allowed(&mut limit, 9, 10), 0);
        assert_eq!(allowed(&mut limit, 30, 10), 3);
        assert_eq!(allowed(&mut limit, 60_000, 1000), 100);
    }

    /// Found by review: a token a call, whatever time was left over, made 66 a second of 100.
    #[test]
    fn parts_of_an_interval_add_up() {
        let mut limit = limit(100);
        let allowed = (0..1000).filter(|call| {
            let now = Duration::from_millis(call * 15);
            limit.allows(Timestamp::after(now)) && limit.allows(Timestamp::after(now))
        });
        assert!(allowed.count() > 500);
    }
}
