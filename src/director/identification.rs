//! Outer identifications for packets that may be fragmented (RFC 6864 §4.3).

/// One worker's sequence. Worker w of n takes every n-th from w, n rounded up to a power of two, so
/// that workers never share one.
#[derive(Debug)]
pub(super) struct Identifications {
    next: u16,
    stride: u16,
}

impl Identifications {
    pub(super) fn new(worker: u16, workers: u16) -> Self {
        Self {
            next: worker,
            stride: workers.checked_next_power_of_two().unwrap_or(1 << 15),
        }
    }

    /// Never 0, which a raw socket would replace by a number of the kernel's (raw(7)).
    pub(super) const fn take(&mut self) -> u16 {
        if self.next == 0 {
            self.next = self.stride;
        }
        let taken = self.next;
        self.next = self.next.wrapping_add(self.stride);
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
            let mut identifications = Identifications::new(worker, 3);
            for _ in 0..65_536 / 4 - 1 {
                let taken = identifications.take();
                assert!(taken != 0 && seen.insert(taken), "worker {worker}: {taken}");
            }
        }
    }
}
