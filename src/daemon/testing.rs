//! What tests of the daemon share.

use std::thread;
use std::time::{Duration, Instant};

/// More than the machine ever needs.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a condition.
pub(super) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::yield_now();
    }
}
