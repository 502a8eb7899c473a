//! How long snapshots took to build: written by control alone, read from any thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper ends of the buckets: from one backend's change to a reload of 10,000 VIPs (`docs/performance.md`).
const BOUNDS: [Duration; 10] = [
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct BuildTimes {
    /// Below or at each bound and above the one before it; the last holds what is longer than all.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_nanos: AtomicU64,
}

impl BuildTimes {
    /// Counts one.
    pub(super) fn add(&self, took: Duration) {
        let bucket = BOUNDS.partition_point(|&bound| bound < took);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
    }

    /// How many fell into each bucket, by its upper end; `None`: longer than all of them.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let bounds = BOUNDS.into_iter().map(Some).chain([None]);
        bounds.zip(
            self.buckets
                .iter()
                .map(|count| count.load(Ordering::Relaxed)),
        )
    }

    /// Of all together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_falls_into_the_bucket_whose_end_it_does_not_pass() {
        let times = BuildTimes::default();
        for took in [0, 1_000_000, 1_000_001, 5_000_000_000, 5_000_000_001] {
            times.add(Duration::from_nanos(took));
        }
        let counts: Vec<_> = times.buckets().map(|(_, count)| count).collect();
        assert_eq!(counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(times.sum(), Duration::from_nanos(10_002_000_002));
        assert!(BOUNDS.is_sorted());
    }
}
