//! Waiting for a device whose queue is full: what would be lost now has room some microseconds later, and the
//! TUN's queue holds what comes meanwhile. A device that stays full is not waited for again and again, since
//! others may share the worker.

use std::thread;
use std::time::{Duration, Instant};

/// What one burst waits at most, in all.
const LONGEST_WAIT: Duration = Duration::from_millis(1);

/// So many bursts do not wait after one that did in vain.
const BURSTS_WITHOUT: u32 = 64;

/// Whether the next burst may wait.
#[derive(Debug, Default)]
pub(super) struct Patience {
    bursts_without: u32,
}

/// What one burst has waited.
#[derive(Debug)]
pub(super) struct Waiting {
    may_wait: bool,
    until: Option<Instant>,
}

impl Patience {
    /// For one burst.
    pub(super) const fn begin(&mut self) -> Waiting {
        let may_wait = self.bursts_without == 0;
        if !may_wait {
            self.bursts_without -= 1;
        }
        Waiting {
            may_wait,
            until: None,
        }
    }

    /// The burst is over.
    pub(super) const fn end(&mut self, waiting: &Waiting) {
        if waiting.until.is_some() && !waiting.may_wait {
            self.bursts_without = BURSTS_WITHOUT;
        }
    }
}

impl Waiting {
    /// Lets others run for a moment; false where that was done for long enough.
    pub(super) fn wait(&mut self) -> bool {
        if self.may_wait {
            let now = Instant::now();
            self.may_wait = now < *self.until.get_or_insert(now + LONGEST_WAIT);
            thread::yield_now();
        }
        self.may_wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_stays_full_is_not_waited_for_each_time() {
        let mut patience = Patience::default();
        let begun = Instant::now();
        let mut waiting = patience.begin();
        while waiting.wait() {}
        assert!(begun.elapsed() >= LONGEST_WAIT);
        patience.end(&waiting);
        for _ in 0..BURSTS_WITHOUT {
            let mut waiting = patience.begin();
            assert!(!waiting.wait());
            patience.end(&waiting);
        }
        assert!(patience.begin().wait());
    }

    #[test]
    fn a_short_wait_costs_nothing_later() {
        let mut patience = Patience::default();
        for _ in 0..3 {
            let mut waiting = patience.begin();
            assert!(waiting.wait());
            patience.end(&waiting);
        }
    }
}
