//! How often something is done that another program undoes each time: at once at first, then less and
//! less often, so that two programs never fight in a loop.

use std::time::{Duration, Instant};

/// As often as this, one time follows the other at once: a host that boots sets its devices more than once.
const AT_ONCE: u32 = 3;

/// The first wait after that; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// When nothing was to be done for so long, it is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);

/// The times that something was done lately.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    times: u32,
    last: Instant,
}

impl Pace {
    /// Done never before `now`.
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            times: 0,
            last: now,
        }
    }

    /// How often it was done lately.
    pub(super) const fn times(&self) -> u32 {
        self.times
    }

    /// When it may be done again.
    pub(super) fn due(&self) -> Instant {
        self.last + self.wait()
    }

    /// How long after the last time it may be done again.
    pub(super) fn wait(&self) -> Duration {
        match self.times.checked_sub(AT_ONCE) {
            None => Duration::ZERO,
            Some(doublings) => {
                let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
                FIRST_WAIT.saturating_mul(factor).min(LONGEST_WAIT)
            }
        }
    }

    /// It is done now.
    pub(super) fn done(&mut self, now: Instant) {
        if now.saturating_duration_since(self.last) > FORGOTTEN_AFTER {
            self.times = 0;
        }
        self.times = self.times.saturating_add(1);
        self.last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_once_at_first_then_less_and_less_often() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let mut waits = Vec::new();
        for _ in 0..11 {
            waits.push(pace.due().saturating_duration_since(now).as_secs());
            now = now.max(pace.due());
            pace.done(now);
        }
        assert_eq!(waits, [0, 0, 0, 1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(pace.times(), 11);
        now += FORGOTTEN_AFTER + Duration::from_secs(1);
        assert!(pace.due() < now);
        pace.done(now);
        assert_eq!((pace.times(), pace.due()), (1, now));
    }

    #[test]
    fn no_number_of_times_is_too_large() {
        let now = Instant::now();
        let pace = Pace {
            times: u32::MAX,
            last: now,
        };
        assert_eq!(pace.wait(), LONGEST_WAIT);
    }
}
