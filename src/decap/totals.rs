//! What happened to the packets, counted.

use std::fmt;

use super::admission::Refusal;

/// Counts since the start; `received` is the sum of all others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Tunnel packets that arrived.
    pub received: u64,
    /// Inner packets given to the kernel.
    pub injected: u64,
    /// Packets refused, by the position of the reason in [`Refusal::ALL`].
    refused: [u64; Refusal::ALL.len()],
}

impl Totals {
    /// Counts one packet that was given to the kernel.
    pub(super) const fn count_injected(&mut self) {
        self.received += 1;
        self.injected += 1;
    }

    /// Counts one packet that was refused.
    pub(super) fn count_refused(&mut self, reason: Refusal) {
        self.received += 1;
        if let Some(count) = self.refused.get_mut(reason as usize) {
            *count += 1;
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

/// One line: `received 12 injected 10 not_vip 2 …`, every reason named, also those that never occurred.
impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "received {} injected {}", self.received, self.injected)?;
        for reason in Refusal::ALL {
            write!(f, " {} {}", reason.name(), self.refused(reason))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_count() {
        let mut totals = Totals::default();
        totals.count_injected();
        for (times, reason) in Refusal::ALL.into_iter().enumerate() {
            (0..=times).for_each(|_| totals.count_refused(reason));
        }
        assert_eq!(
            totals.to_string(),
            "received 29 injected 1 malformed 1 unsupported_protocol 2 not_director 3 not_vip 4 \
             local_source 5 ecn 6 injection_failed 7"
        );
    }
}
