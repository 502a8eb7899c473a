//! What happened to the packets, counted.

use std::{fmt, ops::Add};

use super::admission::Refusal;

/// How many counts there are.
pub(super) const COUNTS: usize = 3 + Refusal::ALL.len();

/// Counts since the start; `received` is the sum of `injected` and all that were refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Tunnel packets that arrived.
    pub received: u64,
    /// Inner packets given to the kernel.
    pub injected: u64,
    /// Of those injected, the ones that came while another decapsulator took the same packets: the
    /// service may have got them twice.
    pub doubled: u64,
    /// Packets refused, by the position of the reason in [`Refusal::ALL`].
    refused: [u64; Refusal::ALL.len()],
}

impl Totals {
    /// Counts packets that were given to the kernel.
    pub(super) const fn count_injected(&mut self, packets: u64) {
        self.received += packets;
        self.injected += packets;
    }

    /// So many of those that were injected came while another decapsulator took the same packets.
    pub(super) const fn count_doubled(&mut self, packets: u64) {
        self.doubled += packets;
    }

    /// Counts packets that were refused.
    pub(super) fn count_refused(&mut self, reason: Refusal, packets: u64) {
        self.received += packets;
        if let Some(count) = self.refused.get_mut(reason as usize) {
            *count += packets;
        }
    }

    /// Every count, as [`Totals::from_counts`] takes them.
    pub(super) fn counts(&self) -> [u64; COUNTS] {
        let mut counts = [0; COUNTS];
        counts[..3].copy_from_slice(&[self.received, self.injected, self.doubled]);
        counts[3..].copy_from_slice(&self.refused);
        counts
    }

    /// From every count.
    pub(super) fn from_counts(counts: [u64; COUNTS]) -> Self {
        let [received, injected, doubled, refused @ ..] = counts;
        Self {
            received,
            injected,
            doubled,
            refused,
        }
    }

    /// How many packets were refused for that reason.
    #[must_use]
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused
            .get(reason as usize)
            .copied()
            .unwrap_or_default()
    }
}

impl Add for Totals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let mut counts = self.counts();
        for (count, more) in counts.iter_mut().zip(other.counts()) {
            *count += more;
        }
        Self::from_counts(counts)
    }
}

/// One line: `received 12 injected 10 not_vip 2 …`, every reason named, also those that never occurred.
impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "received {} injected {}", self.received, self.injected)?;
        for reason in Refusal::ALL {
            write!(f, " {} {}", reason.name(), self.refused(reason))?;
        }
        write!(f, " doubled {}", self.doubled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_count() {
        let mut totals = Totals::default();
        totals.count_injected(1);
        totals.count_doubled(1);
        for (packets, reason) in (1..).zip(Refusal::ALL) {
            totals.count_refused(reason, packets);
        }
        assert_eq!(
            totals.to_string(),
            "received 29 injected 1 malformed 1 unsupported_protocol 2 not_director 3 not_vip 4 \
             local_source 5 ecn 6 injection_failed 7 doubled 1"
        );
    }
}
