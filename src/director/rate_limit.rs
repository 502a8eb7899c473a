//! A token bucket for ICMP errors (RFC 4443 §2.4 f, RFC 1812 §4.3.2.8).

use std::time::Duration;

use super::time::Timestamp;

/// Errors that a worker may send at once.
const BURST: u32 = 100;
/// The time in which one more may be sent: 100 a second, enough for every client that meets the
/// path's MTU, too little to be of use as an amplifier.
const INTERVAL: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct RateLimit {
    tokens: u32,
    counted: Timestamp,
}

impl RateLimit {
    pub(super) const fn new() -> Self {
        Self {
            tokens: BURST,
            counted: Timestamp::START,
        }
    }

    /// Whether one more may be sent.
    pub(super) fn allows(&mut self, now: Timestamp) -> bool {
        let earned = now.since(self.counted).as_nanos() / INTERVAL.as_nanos();
        let earned = u32::try_from(earned).unwrap_or(BURST);
        self.tokens = self.tokens.saturating_add(earned);
        if self.tokens >= BURST {
            self.tokens = BURST;
            self.counted = now;
        } else {
            // What is left of an interval counts towards the next token.
            self.counted = self.counted.plus(INTERVAL * earned);
        }
        let allowed = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_rate() {
        let mut limit = RateLimit::new();
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
        let mut limit = RateLimit::new();
        let allowed = (0..1000).filter(|call| {
            let now = Duration::from_millis(call * 15);
            limit.allows(Timestamp::after(now)) && limit.allows(Timestamp::after(now))
        });
        assert!(allowed.count() > 500);
    }
}
