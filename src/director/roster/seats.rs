//! Numbers that are kept: each identity has one as long as it is planned, and an earlier holder's number is
//! given on only when it is free.

use std::collections::HashMap;
use std::hash::Hash;

/// Who holds which number, from 0 on.
#[derive(Debug)]
pub(super) struct Seats<K> {
    numbers: HashMap<K, u32>,
    /// By number.
    holders: Vec<Holder<K>>,
    vacant: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Holder<K> {
    identity: K,
    /// The epoch of the last plan that it was in.
    seen: u64,
    /// The epoch of the first snapshot after that without it.
    left: Option<u64>,
}

/// The number of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seated {
    /// It holds the number already.
    Known(u32),
    /// It holds the number from now on.
    New(u32),
}

impl<K> Default for Seats<K> {
    fn default() -> Self {
        Self {
            numbers: HashMap::new(),
            holders: Vec::new(),
            vacant: Vec::new(),
        }
    }
}

impl<K: Copy + Eq + Hash> Seats<K> {
    /// All numbers are below it.
    pub(super) const fn bound(&self) -> usize {
        self.holders.len()
    }

    /// The number of an identity that is in the plan of this epoch.
    pub(super) fn seat(&mut self, identity: K, epoch: u64) -> Seated {
        if let Some(&number) = self.numbers.get(&identity)
            && let Some(holder) = self.holders.get_mut(number as usize)
        {
            (holder.seen, holder.left) = (epoch, None);
            return Seated::Known(number);
        }
        let holder = Holder {
            identity,
            seen: epoch,
            left: None,
        };
        let number = self.vacant.pop().unwrap_or_else(|| {
            self.holders.push(holder);
            u32::try_from(self.holders.len() - 1).unwrap_or(u32::MAX)
        });
        self.holders[number as usize] = holder;
        self.numbers.insert(identity, number);
        Seated::New(number)
    }

    /// What is not in the plan of this epoch any more has left.
    pub(super) fn note_leavers(&mut self, epoch: u64) {
        for holder in &mut self.holders {
            if holder.seen < epoch && holder.left.is_none() {
                holder.left = Some(epoch);
            }
        }
    }

    /// The numbers of which no identity is planned.
    pub(super) fn left(&self) -> impl Iterator<Item = u32> {
        (0..)
            .zip(&self.holders)
            .filter_map(|(number, holder)| holder.left.map(|_| number))
    }

    /// Makes the numbers vacant whose holders left where `is_free` says so, of the number and the epoch of the
    /// first snapshot without its holder.
    pub(super) fn reclaim(&mut self, is_free: impl Fn(u32, u64) -> bool) {
        let mut free: Vec<_> = self
            .numbers
            .values()
            .copied()
            .filter(|&number| {
                let left = self.holders[number as usize].left;
                left.is_some_and(|left| is_free(number, left))
            })
            .collect();
        free.sort_unstable(); // a map has no order, and runs should be alike
        for &number in &free {
            self.numbers.remove(&self.holders[number as usize].identity);
        }
        self.vacant.extend(free);
    }
}
