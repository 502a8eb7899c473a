//! Outer identifications for packets that may be fragmented (RFC 6864 §4.3).

use std::cell::Cell;

/// One worker's sequence. Worker w of n takes every n-th from w, n rounded up to a power of two, so
/// that workers never share one.
#[derive(Debug)]
pub(super) struct Identifications {
    next: Cell<u16>,
    stride: u16,
}

impl Identifications {
    pub(super) fn new(worker: u16, workers: u16) -> Self {
        Self {
            next: Cell::new(worker),
            stride: workers.checked_next_power_of_two().unwrap_or(1 << 15),
        }
    }

    /// Never 0, which a raw socket would replace by a number of the kernel's (raw(7)).
    pub(super) fn take(&self) -> u16 {
        let taken = match self.next.get() {
            0 => self.stride,
            next => next,
        };
        self.next.set(taken.wrapping_add(self.stride));
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn workers_never_share_one() {
        let mut seen = HashSet::new();
        for worker in 0..3 {
            let identifications = Identifications::new(worker, 3);
            for _ in 0..65_536 / 4 - 1 {
                let taken = identifications.take();
                assert!(taken != 0 && seen.insert(taken), "worker {worker}: {taken}");
            }
        }
    }
}
