//! Rings that are shared: VIPs with the same backends and weights have one, and one that did not
//! change is taken over into the next snapshot.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::ring::{Ring, RingMember};
use super::spec::{HashKey, RingSize};

/// What a ring depends on: addresses and weights, in the order of addresses, no weight 0.
pub(super) type MemberSet = Vec<(IpAddr, u16)>;

/// The number of a ring, which no other ring of its roster ever had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RingId(pub u32);

/// A ring and its number.
#[derive(Debug, Clone)]
pub(super) struct NumberedRing {
    pub(super) id: RingId,
    pub(super) slots: Arc<Ring>,
}

impl PartialEq for NumberedRing {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for NumberedRing {}

/// All rings of one key and size.
#[derive(Debug)]
pub(super) struct Rings {
    build: BuildRings,
    made_with: Option<(HashKey, RingSize)>,
    by_members: HashMap<MemberSet, Option<NumberedRing>>,
    /// How many sets the last plan had.
    planned: usize,
    /// Rings that were numbered.
    numbered: u32,
}

impl Default for Rings {
    fn default() -> Self {
        Self::built_by(build_in_turn)
    }
}

impl Rings {
    /// No rings yet.
    pub(super) fn built_by(build: BuildRings) -> Self {
        Self {
            build,
            made_with: None,
            by_members: HashMap::new(),
            planned: 0,
            numbered: 0,
        }
    }

    /// The rings of these sets, of which those that `self` has are not built again. A slot holds a
    /// position in its set.
    pub(super) fn next<'a>(
        &self,
        key: &HashKey,
        size: RingSize,
        sets: impl Iterator<Item = &'a MemberSet>,
    ) -> Self {
        let made_with = Some((*key, size));
        let known = (self.made_with == made_with).then_some(&self.by_members);
        let mut next = Self {
            build: self.build,
            made_with,
            by_members: HashMap::new(),
            planned: 0,
            numbered: self.numbered,
        };
        let mut missing = Vec::new();
        for set in sets {
            if next.by_members.contains_key(set) {
                continue;
            }
            let ring = known.and_then(|known| known.get(set)).cloned();
            if ring.is_none() {
                missing.push(set);
            }
            next.by_members.insert(set.clone(), ring.flatten());
        }
        next.build(&missing);
        next.planned = next.by_members.len();
        next
    }

    /// The ring of one more set, of the same key and size. Rings that nothing uses any more are kept for
    /// backends that come and go, but not more of them than the plan has.
    pub(super) fn add(&mut self, set: &MemberSet) {
        if self.by_members.len() > 2 * self.planned {
            let is_used = |ring: &Option<NumberedRing>| {
                ring.as_ref()
                    .is_some_and(|ring| Arc::strong_count(&ring.slots) > 1)
            };
            self.by_members.retain(|_, ring| is_used(ring));
        }
        if !self.by_members.contains_key(set) {
            self.build(&[set]);
        }
    }

    fn build(&mut self, sets: &[&MemberSet]) {
        let Some((key, size)) = &self.made_with else {
            return; // there are no sets before there is a key
        };
        let tasks: Vec<_> = sets
            .iter()
            .map(|&set| RingTask {
                key,
                size: *size,
                set,
            })
            .collect();
        for (set, ring) in sets.iter().zip((self.build)(&tasks)) {
            let ring = ring.map(|ring| self.number(ring));
            self.by_members.insert((*set).clone(), ring);
        }
    }

    fn number(&mut self, ring: Ring) -> NumberedRing {
        self.numbered = self.numbered.wrapping_add(1);
        NumberedRing {
            id: RingId(self.numbered),
            slots: Arc::new(ring),
        }
    }

    /// The ring of a set that [`next`](Self::next) was given; `None` where nobody has a weight.
    pub(super) fn of(&self, set: &MemberSet) -> Option<NumberedRing> {
        self.by_members.get(set).cloned().flatten()
    }

    /// How many different rings there are.
    pub(super) fn len(&self) -> usize {
        self.by_members.values().flatten().count()
    }
}

/// A ring to be built.
#[derive(Debug, Clone, Copy)]
pub struct RingTask<'a> {
    key: &'a HashKey,
    size: RingSize,
    set: &'a MemberSet,
}

impl RingTask<'_> {
    /// Builds it; `None` where nobody has a weight.
    #[must_use]
    pub fn build(&self) -> Option<Ring> {
        Ring::build(self.size, self.key, &members(self.set))
    }
}

/// Builds all rings of a snapshot, in the order of the tasks. The core does it one after the other;
/// who has threads may use them.
pub type BuildRings = fn(&[RingTask<'_>]) -> Vec<Option<Ring>>;

fn build_in_turn(tasks: &[RingTask<'_>]) -> Vec<Option<Ring>> {
    tasks.iter().map(RingTask::build).collect()
}

fn members(set: &MemberSet) -> Vec<RingMember> {
    (0u16..)
        .zip(set)
        .map(|(index, &(address, weight))| RingMember {
            address,
            weight,
            index,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(members: &[(u8, u16)]) -> MemberSet {
        let address = |last| IpAddr::from([10, 0, 1, last]);
        members
            .iter()
            .map(|&(last, weight)| (address(last), weight))
            .collect()
    }

    #[test]
    fn equal_sets_share_and_unchanged_ones_are_taken_over() {
        let size = RingSize::new(251).unwrap();
        let (a, b) = (set(&[(1, 1), (2, 1)]), set(&[(1, 1), (2, 2)]));
        let first = Rings::default().next(&HashKey::DEFAULT, size, [&a, &a, &set(&[])].into_iter());
        assert_eq!(first.len(), 1);
        assert!(first.of(&set(&[])).is_none());
        let second = first.next(&HashKey::DEFAULT, size, [&b, &a].into_iter());
        let slots = |rings: &Rings, set| rings.of(set).unwrap().slots;
        assert!(Arc::ptr_eq(&slots(&first, &a), &slots(&second, &a)));
        assert_ne!(second.of(&a), second.of(&b));
        let other_key = second.next(&HashKey([7; 16]), size, [&a].into_iter());
        assert_ne!(other_key.of(&a), second.of(&a));
        assert_eq!(other_key.len(), 1);
    }
}
