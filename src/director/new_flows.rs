//! How many flows of a VIP may enter the table: a guard against floods of new ones. Beyond it
//! packets go by the ring alone.

use std::num::{NonZeroU16, NonZeroU32};

use super::rate_limit::RateLimit;
use super::snapshot::{Snapshot, Vip, VipIndex};
use super::time::Timestamp;

/// One worker's part of the limits of one snapshot's VIPs.
#[derive(Debug)]
pub(super) struct NewFlowLimits(Vec<Option<RateLimit>>);

impl NewFlowLimits {
    /// Each worker has an equal part; a second's worth may come at once.
    pub(super) fn new(snapshot: &Snapshot, workers: u16) -> Self {
        let workers = NonZeroU32::from(NonZeroU16::new(workers).unwrap_or(NonZeroU16::MIN));
        let limit = |vip: &Vip| {
            let part = vip.new_flows_per_second?.div_ceil(workers);
            Some(RateLimit::new(part, part))
        };
        Self(snapshot.vips().iter().map(limit).collect())
    }

    /// Whether one more flow of this VIP may enter.
    pub(super) fn allows(&mut self, vip: VipIndex, now: Timestamp) -> bool {
        let limit = self.0.get_mut(vip.position()).and_then(Option::as_mut);
        limit.is_none_or(|limit| limit.allows(now))
    }
}
