//! How many slots of its ring each backend has. Counting them reads the whole ring, so it is done once for each.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::view::View;
use crate::director::{BackendIndex, RingId, Vip};

/// What is counted ahead at a time may take so long.
const BUDGET: Duration = Duration::from_millis(20);

/// Slots by members of each ring that was counted.
#[derive(Debug, Default)]
pub(super) struct Shares {
    counted: HashMap<RingId, Arc<[u32]>>,
    /// The last snapshot all of whose rings are counted.
    epoch: u64,
}

/// Those of the backends of one VIP.
#[derive(Debug)]
pub(super) struct VipShares {
    /// In the order of indices.
    slots: Vec<(BackendIndex, u32)>,
    all: u32,
}

impl VipShares {
    /// The part of the VIP's new flows that a backend takes, in percent.
    pub(super) fn percent(&self, backend: BackendIndex) -> f64 {
        let found = self
            .slots
            .binary_search_by_key(&backend, |&(index, _)| index);
        let slots = found.map_or(0, |at| self.slots[at].1);
        super::rates::thousandths(100.0 * f64::from(slots) / f64::from(self.all))
    }
}

impl Shares {
    /// Those of a VIP.
    pub(super) fn of(&mut self, vip: &Vip) -> VipShares {
        let Some((id, ring)) = vip.ring() else {
            return VipShares {
                slots: Vec::new(),
                all: 1,
            };
        };
        let members = vip.members();
        let count = || ring.shares(members.len()).into();
        let counted = self.counted.entry(id).or_insert_with(count);
        let mut slots: Vec<_> = members
            .iter()
            .copied()
            .zip(counted.iter().copied())
            .collect();
        slots.sort_unstable_by_key(|&(index, _)| index);
        VipShares {
            slots,
            all: ring.slots(),
        }
    }

    /// Counts rings before they are asked about, for a bounded time, and drops those that are gone, so that a request
    /// never has thousands of them to count at once.
    pub(super) fn count_ahead(&mut self, view: &View) {
        let epoch = view.snapshot.epoch();
        if self.epoch == epoch {
            return;
        }
        let begin = Instant::now();
        for vip in view.snapshot.vips() {
            if vip
                .ring()
                .is_some_and(|(id, _)| !self.counted.contains_key(&id))
            {
                self.of(vip);
                if begin.elapsed() > BUDGET {
                    return;
                }
            }
        }
        let rings = view.snapshot.vips().iter().filter_map(|vip| vip.ring());
        let used: HashSet<_> = rings.map(|(id, _)| id).collect();
        self.counted.retain(|id, _| used.contains(id));
        self.epoch = epoch;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fake;
    use super::*;

    #[test]
    fn shares_are_those_of_the_ring() {
        let fake = Fake::new(2, &["10.0.1.12", "10.0.1.11"]);
        let view = fake.view();
        let mut shares = Shares::default();
        let vip = &view.snapshot.vips()[0];
        let of = shares.of(vip);
        let percent: Vec<_> = vip
            .backends()
            .iter()
            .map(|&index| of.percent(index))
            .collect();
        assert!(
            percent.iter().all(|percent| (percent - 50.0).abs() < 1.0),
            "{percent:?}"
        );
        assert!((percent.iter().sum::<f64>() - 100.0).abs() < 0.01);
        assert_eq!(of.percent(BackendIndex::new(77)), 0.0);
        assert_eq!(shares.counted.len(), 1, "both VIPs have one ring");
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut fake = Fake::new(1, &["10.0.1.11", "10.0.1.12"]);
        let mut shares = Shares::default();
        shares.count_ahead(&fake.view());
        let first: Vec<_> = shares.counted.keys().copied().collect();
        fake.disable("vip0", "10.0.1.11");
        shares.count_ahead(&fake.view());
        assert_eq!(shares.counted.len(), 1);
        assert!(!shares.counted.contains_key(&first[0]));
    }
}
