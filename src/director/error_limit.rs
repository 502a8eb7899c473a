//! How many ICMP errors a worker sends (RFC 4443 §2.4 f, RFC 1812 §4.3.2.8): few about one flow, enough for
//! every flow.
//!
//! A sender that does not know the path learns it from one error; its first packets come in a row, and an error
//! about each would be of no use. A new flow, though, needs its own: other connections of the client that have
//! sent already, and other clients behind the same address, learn nothing from it.

use std::num::NonZeroU32;

use super::rate_limit::RateLimit;
use super::time::Timestamp;
use super::verdict::DropReason;

/// Errors of one worker, whatever the flows. Each costs about as much as two packets that are forwarded, and
/// has no more bytes than the packet that it is about, but where the path has less room than 576 bytes: it
/// protects the worker, and does not make it of use as an amplifier.
const PER_SECOND: NonZeroU32 = const { NonZeroU32::new(10_000).expect("not 0") };

/// In a row, after a pause.
const BURST: NonZeroU32 = const { NonZeroU32::new(1_000).expect("not 0") };

/// About one flow, as many in a row: one or two may be lost on their way.
const FLOW_BURST: u64 = 4;

/// Then one in this time.
const FLOW_INTERVAL_NS: u64 = 10_000_000;

/// Flows are told apart by so many slots; those that share one share its errors.
const SLOTS: usize = 4096;

/// Token buckets.
#[derive(Debug)]
pub(super) struct ErrorLimit {
    all: RateLimit,
    /// When the errors sent so far would have been due at an even rate, in nanoseconds of a [`Timestamp`].
    flows: Box<[u64]>,
}

impl ErrorLimit {
    pub(super) fn new() -> Self {
        Self {
            all: RateLimit::new(PER_SECOND, BURST),
            flows: vec![0; SLOTS].into_boxed_slice(),
        }
    }

    /// Takes one error about the flow of this hash.
    ///
    /// # Errors
    /// [`DropReason::TooBig`] where the flow was told just now, [`DropReason::RateLimited`] where too many
    /// flows were.
    pub(super) fn take(&mut self, flow_hash: u64, now: Timestamp) -> Result<(), DropReason> {
        let slot = usize::try_from(flow_hash % SLOTS as u64).unwrap_or_default();
        let now_ns = now.as_nanos();
        let due = self.flows[slot].max(now_ns);
        if due - now_ns > (FLOW_BURST - 1) * FLOW_INTERVAL_NS {
            return Err(DropReason::TooBig);
        }
        if !self.all.allows(now) {
            return Err(DropReason::RateLimited);
        }
        self.flows[slot] = due.saturating_add(FLOW_INTERVAL_NS);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(millis: u64) -> Timestamp {
        Timestamp::after(Duration::from_millis(millis))
    }

    #[test]
    fn a_flow_gets_few_and_others_get_theirs() {
        let mut limit = ErrorLimit::new();
        let mut allowed = |flow, millis, tries| {
            let tries = 0..tries;
            tries
                .filter(|_| limit.take(flow, at(millis)).is_ok())
                .count()
        };
        assert_eq!(allowed(1, 0, 100), 4);
        assert_eq!(allowed(2, 0, 100), 4, "another flow");
        assert_eq!(allowed(1, 9, 100), 0);
        assert_eq!(allowed(1, 10, 100), 1);
        assert_eq!(allowed(1, 35, 100), 2);
        assert_eq!(allowed(1, 5000, 100), 4, "after a pause");
    }

    #[test]
    fn all_flows_together_have_a_limit() {
        let mut limit = ErrorLimit::new();
        let mut allowed = |millis, flows: u64| {
            let told = (0..flows).filter(|flow| limit.take(*flow, at(millis)).is_ok());
            told.count()
        };
        assert_eq!(allowed(1000, 4096), 1000);
        assert_eq!(allowed(1050, 4096), 500);
        assert_eq!(limit.take(4095, at(1050)), Err(DropReason::RateLimited));
    }
}
