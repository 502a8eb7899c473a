//! Rings that are shared: VIPs with the same backends and weights have one, and one that did not
//! change is taken over into the next snapshot.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::ring::{Ring, RingMember};
use super::spec::{HashKey, RingSize};

/// What a ring depends on: addresses and weights, in the order of addresses, no weight 0.
pub(super) type MemberSet = Vec<(IpAddr, u16)>;

/// All rings of one key and size.
#[derive(Debug, Default)]
pub(super) struct Rings {
    made_with: Option<(HashKey, RingSize)>,
    by_members: HashMap<MemberSet, Option<Arc<Ring>>>,
}

impl Rings {
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
        let mut by_members = HashMap::new();
        let mut missing = Vec::new();
        for set in sets {
            if by_members.contains_key(set) {
                continue;
            }
            let ring = known.and_then(|known| known.get(set)).cloned();
            if ring.is_none() {
                missing.push(set);
            }
            by_members.insert(set.clone(), ring.flatten());
        }
        for (set, ring) in missing.iter().zip(build_all(key, size, &missing)) {
            by_members.insert((*set).clone(), ring.map(Arc::new));
        }
        Self {
            made_with,
            by_members,
        }
    }

    /// The ring of a set that [`next`](Self::next) was given; `None` where nobody has a weight.
    pub(super) fn of(&self, set: &MemberSet) -> Option<Arc<Ring>> {
        self.by_members.get(set).cloned().flatten()
    }

    /// How many different rings there are.
    pub(super) fn len(&self) -> usize {
        self.by_members.values().flatten().count()
    }
}

/// Builds rings on all cores; in the order of the sets.
fn build_all(key: &HashKey, size: RingSize, sets: &[&MemberSet]) -> Vec<Option<Ring>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let part = sets.len().div_ceil(threads).max(MIN_PART);
    let build = |sets: &[&MemberSet]| -> Vec<_> {
        let one = |set: &&MemberSet| Ring::build(size, key, &members(set));
        sets.iter().map(one).collect()
    };
    if sets.len() <= part {
        return build(sets);
    }
    std::thread::scope(|scope| {
        let parts: Vec<_> = sets
            .chunks(part)
            .map(|sets| scope.spawn(move || build(sets)))
            .collect();
        parts
            .into_iter()
            .flat_map(|part| {
                part.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}

/// A thread is worth it from this many rings on, at about a millisecond each.
const MIN_PART: usize = 8;

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
        assert!(Arc::ptr_eq(&first.of(&a).unwrap(), &second.of(&a).unwrap()));
        assert_ne!(second.of(&a), second.of(&b));
        let other_key = second.next(&HashKey([7; 16]), size, [&a].into_iter());
        assert_ne!(other_key.of(&a), second.of(&a));
        assert_eq!(other_key.len(), 1);
    }

    /// On several threads each ring is still that of its own set.
    #[test]
    fn many_rings() {
        let size = RingSize::new(251).unwrap();
        let sets: Vec<_> = (1..100).map(|last| set(&[(0, 1), (last, 3)])).collect();
        let rings = Rings::default().next(&HashKey::DEFAULT, size, sets.iter());
        for set in &sets {
            let alone = Ring::build(size, &HashKey::DEFAULT, &members(set));
            assert_eq!(rings.of(set).as_deref(), alone.as_ref());
        }
    }
}
