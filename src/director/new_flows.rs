//! How many flows of a VIP may enter the table: a guard against floods of new ones. Beyond it
//! packets go by the ring alone.

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use hashbrown::HashMap;

use super::indices::VipIndex;
use super::rate_limit::RateLimit;
use super::services::Service;
use super::snapshot::{Snapshot, Vip};
use super::time::Timestamp;

/// One worker's part of the limits of one snapshot's VIPs.
#[derive(Debug)]
pub(super) struct NewFlowLimits {
    /// By VIP.
    limits: Vec<Option<RateLimit>>,
    /// Each worker has an equal part.
    workers: NonZeroU32,
}

impl NewFlowLimits {
    /// A second's worth may come at once.
    pub(super) fn new(snapshot: &Snapshot, workers: u16) -> Self {
        let workers = NonZeroU32::from(NonZeroU16::new(workers).unwrap_or(NonZeroU16::MIN));
        let limit = |vip: &Arc<Vip>| Some(full(part(vip, workers)?));
        Self {
            limits: snapshot.vips().iter().map(limit).collect(),
            workers,
        }
    }

    /// Takes the limits of the VIPs that follow `before`. What a service used up of its second stays used
    /// up, whatever its limit is now: a change of something else allows no second flood.
    pub(super) fn adopt(&mut self, before: &Snapshot, next: &Snapshot) {
        if before.generation() == next.generation() {
            for (limit, vip) in self.limits.iter_mut().zip(next.vips()) {
                *limit = follow(limit.take(), part(vip, self.workers));
            }
            return;
        }
        let before = before.vips().iter().map(|vip| vip.service);
        let mut used: HashMap<Service, _, ahash::RandomState> =
            before.zip(self.limits.drain(..)).collect();
        let next = next.vips().iter();
        self.limits.extend(next.map(|vip| {
            let used = used.remove(&vip.service).flatten();
            follow(used, part(vip, self.workers))
        }));
    }

    /// Whether one more flow of this VIP may enter.
    pub(super) fn allows(&mut self, vip: VipIndex, now: Timestamp) -> bool {
        let limit = self.limits.get_mut(vip.position()).and_then(Option::as_mut);
        limit.is_none_or(|limit| limit.allows(now))
    }
}

fn part(vip: &Vip, workers: NonZeroU32) -> Option<NonZeroU32> {
    Some(vip.new_flows_per_second?.div_ceil(workers))
}

const fn full(per_second: NonZeroU32) -> RateLimit {
    RateLimit::new(per_second, per_second)
}

fn follow(used: Option<RateLimit>, per_second: Option<NonZeroU32>) -> Option<RateLimit> {
    let next = full(per_second?);
    Some(match used {
        Some(used) => next.after(&used),
        None => next,
    })
}
