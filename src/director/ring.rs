//! The Maglev ring: a table of slots that names a backend for every hash value.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, §3.4:
//! every backend has a permutation of the slots and in turn takes the first free slot of its own.
//! The result is even, and changes little when the set of backends changes.
//!
//! Permutations come from the backends' addresses and the hash key, and turns are taken in the
//! order of addresses, so the ring depends on the set of backends alone.

mod facts;
mod permutation;
mod turns;

use std::net::IpAddr;

use super::spec::{HashKey, RingSize};
use facts::Facts;
use permutation::{FreeSlots, Permutation};
use turns::Turns;

/// One backend as the ring sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingMember {
    /// Identity: chooses the permutation. Unique within a ring.
    pub address: IpAddr,
    /// Turns per round, relative to the largest weight of the ring; 0 takes no slot.
    pub weight: u16,
    /// What a slot of this backend holds.
    pub index: u16,
}

/// A lookup table of length M (the prime [`RingSize`]); a slot holds a [`RingMember::index`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    size: RingSize,
    slots: Slots,
    facts: Facts,
}

/// As narrow as the indices allow: a small ring stays in the caches longer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Slots {
    Narrow(Box<[u8]>),
    Wide(Box<[u16]>),
}

/// A position in a ring, below its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(u32);

impl Slot {
    /// The position, below the ring's size.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl Ring {
    /// Fills a ring of `size` slots; `None` when no member has a weight.
    ///
    /// A member whose share of the weights is less than a slot may get none.
    #[must_use]
    pub fn build(size: RingSize, key: &HashKey, members: &[RingMember]) -> Option<Self> {
        let mut members: Vec<_> = members.iter().filter(|member| member.weight > 0).collect();
        members.sort_unstable_by_key(|member| member.address);
        let turns = Turns::new(members.iter().map(|member| member.weight))?;
        let permutations: Vec<_> = members
            .iter()
            .map(|member| Permutation::new(size, key, member.address))
            .collect();
        let narrow: Result<Vec<u8>, _> = members.iter().map(|m| m.index.try_into()).collect();
        let slots = match narrow {
            Ok(indices) => Slots::Narrow(fill(size, turns, permutations, &indices)),
            Err(_) => {
                let indices: Vec<_> = members.iter().map(|member| member.index).collect();
                Slots::Wide(fill(size, turns, permutations, &indices))
            }
        };
        let facts = match &slots {
            Slots::Narrow(indices) => Facts::of(indices, &members),
            Slots::Wide(indices) => Facts::of(indices, &members),
        };
        Some(Self { size, slots, facts })
    }

    /// How many slots it has.
    #[must_use]
    pub const fn size(&self) -> RingSize {
        self.size
    }

    /// The slot of a hash value: the hash modulo M.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a ring has at most RingSize::MAX slots, and a remainder is below that"
    )]
    pub const fn slot(&self, hash: u64) -> Slot {
        Slot((hash % self.size.slots() as u64) as u32)
    }

    /// The index of the backend that holds `slot`.
    #[must_use]
    pub fn backend(&self, slot: Slot) -> u16 {
        let slot = slot.0 as usize;
        match &self.slots {
            Slots::Narrow(indices) => indices[slot].into(),
            Slots::Wide(indices) => indices[slot],
        }
    }

    /// How many slots the backend with this index holds.
    #[must_use]
    pub fn share(&self, index: u16) -> u32 {
        self.facts.share(index)
    }

    /// A hash over the addresses in the slots, in their order: rings that choose alike have the same, whatever
    /// their indices are, and others hardly ever. How it is made: `ring/facts.rs`.
    #[must_use]
    pub const fn fingerprint(&self) -> u32 {
        self.facts.fingerprint
    }

    /// How many slots each of the first `members` indices holds, in one pass.
    #[must_use]
    pub fn shares(&self, members: usize) -> Vec<u32> {
        match &self.slots {
            Slots::Narrow(indices) => {
                // Four, since the next slot of one backend would wait for the count of the last.
                let mut counts = [[0_u32; 256]; 4];
                for (at, &index) in indices.iter().enumerate() {
                    counts[at % 4][usize::from(index)] += 1;
                }
                let sum = |index: usize| counts.iter().map(|lane| lane[index]).sum();
                (0..members)
                    .map(|index| if index < 256 { sum(index) } else { 0 })
                    .collect()
            }
            Slots::Wide(indices) => {
                let mut counts = vec![0; members];
                for &index in indices {
                    if let Some(count) = counts.get_mut(usize::from(index)) {
                        *count += 1;
                    }
                }
                counts
            }
        }
    }

    /// How many slots it has.
    #[must_use]
    pub const fn slots(&self) -> u32 {
        self.size.slots()
    }

    /// The memory that its slots take: a byte each while every index is below 256, else two.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.slots {
            Slots::Narrow(indices) => size_of_val::<[_]>(indices),
            Slots::Wide(indices) => size_of_val::<[_]>(indices),
        }
    }
}

/// Backends that a ring can tell apart; indices are below it.
pub const MAX_MEMBERS: usize = u16::MAX as usize;

/// Takes turns until no slot is free. `indices` is what a slot of each backend holds.
fn fill<I: Copy + Default>(
    size: RingSize,
    mut turns: Turns,
    mut permutations: Vec<Permutation>,
    indices: &[I],
) -> Box<[I]> {
    let mut slots = vec![I::default(); size.slots() as usize].into_boxed_slice();
    let mut free = FreeSlots::new(size);
    loop {
        for next in turns.next_stretch() {
            let Some(slot) = free.take(&mut permutations[next]) else {
                return slots;
            };
            slots[slot as usize] = indices[next];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;
    use std::net::Ipv4Addr;

    const KEY: HashKey = HashKey(*b"0123456789abcdef");

    fn size(slots: u64) -> RingSize {
        RingSize::new(slots).unwrap()
    }

    fn members(weights: &[u16]) -> Vec<RingMember> {
        (0u16..)
            .zip(weights)
            .map(|(index, &weight)| RingMember {
                address: Ipv4Addr::from_bits(0x0a00_0100 + u32::from(index)).into(),
                weight,
                index,
            })
            .collect()
    }

    /// What each slot holds.
    fn held(ring: &Ring) -> impl Iterator<Item = u16> {
        (0..ring.size.slots()).map(|number| ring.backend(Slot(number)))
    }

    /// The oracle: the pseudocode of §3.4 as printed, with whole permutations, a turn per unit of
    /// weight spread by Bresenham's rule.
    fn oracle(slots: u32, key: &HashKey, members: &[RingMember]) -> Vec<Option<u16>> {
        let mut members: Vec<_> = members.iter().filter(|m| m.weight > 0).collect();
        members.sort_by_key(|m| m.address);
        let permutation: Vec<Vec<u32>> = members
            .iter()
            .map(|m| {
                let hash = |tag: &[u8]| {
                    let octets = match m.address {
                        IpAddr::V4(v4) => v4.octets().to_vec(),
                        IpAddr::V6(v6) => v6.octets().to_vec(),
                    };
                    SipHasher13::new_with_key(&key.0).hash(&[tag, &octets].concat())
                };
                let (offset, skip) = (
                    hash(b"o") % u64::from(slots),
                    hash(b"s") % u64::from(slots - 1) + 1,
                );
                (0..u64::from(slots))
                    .map(|j| u32::try_from((offset + j * skip) % u64::from(slots)).unwrap())
                    .collect()
            })
            .collect();
        let heaviest = i64::from(members.iter().map(|m| m.weight).max().unwrap_or(1));
        let mut next = vec![0; members.len()];
        let mut credit = vec![0i64; members.len()];
        let mut entry = vec![None; slots as usize];
        let mut filled = 0;
        while filled < slots && !members.is_empty() {
            for (i, member) in members.iter().enumerate() {
                credit[i] += i64::from(member.weight);
                if credit[i] < heaviest {
                    continue;
                }
                credit[i] -= heaviest;
                let mut c = permutation[i][next[i]];
                while entry[c as usize].is_some() {
                    next[i] += 1;
                    c = permutation[i][next[i]];
                }
                entry[c as usize] = Some(member.index);
                next[i] += 1;
                filled += 1;
                if filled == slots {
                    break;
                }
            }
        }
        entry
    }

    #[test]
    fn nobody_to_choose() {
        assert_eq!(Ring::build(size(251), &KEY, &[]), None);
        assert_eq!(Ring::build(size(251), &KEY, &members(&[0, 0])), None);
    }

    /// Two directors of different builds must agree: these values may never change. They come from
    /// an independent computation in Python.
    #[test]
    fn pinned_slots() {
        let ring = Ring::build(size(251), &KEY, &members(&[1, 1, 2])).unwrap();
        let first: Vec<_> = held(&ring).take(16).collect();
        assert_eq!(first, PINNED, "the ring is a contract between directors");
    }

    const PINNED: [u16; 16] = [2, 2, 2, 2, 0, 2, 2, 1, 2, 0, 1, 2, 2, 2, 2, 2];

    #[test]
    fn even_shares() {
        let ring = Ring::build(RingSize::DEFAULT, &KEY, &members(&[1; 100])).unwrap();
        for index in 0..100 {
            let share = ring.share(index);
            assert!((655..=656).contains(&share), "backend {index}: {share}");
        }
    }

    #[test]
    fn weighted_shares() {
        let ring = Ring::build(RingSize::DEFAULT, &KEY, &members(&[65_535, 65_535, 1])).unwrap();
        assert!(ring.share(0).abs_diff(ring.share(1)) <= 1);
        let ring = Ring::build(RingSize::DEFAULT, &KEY, &members(&[300, 100])).unwrap();
        assert!(ring.share(0).abs_diff(3 * ring.share(1)) <= 3);
    }

    /// Different builds must agree on it, as on the slots. It comes from an independent computation in Python.
    #[test]
    fn pinned_fingerprint() {
        let ring = Ring::build(size(251), &KEY, &members(&[1, 1, 2])).unwrap();
        assert_eq!(ring.fingerprint(), FINGERPRINT, "{:#x}", ring.fingerprint());
    }

    const FINGERPRINT: u32 = 0x54a8_ac81;

    #[test]
    fn removal_moves_few_others() {
        let all = members(&[1; 100]);
        let before = Ring::build(RingSize::DEFAULT, &KEY, &all).unwrap();
        let after = Ring::build(RingSize::DEFAULT, &KEY, &all[1..]).unwrap();
        let pairs = || held(&before).zip(held(&after));
        let moved = pairs().filter(|&(b, a)| b != 0 && a != b).count();
        assert!(
            moved * 1000 < pairs().count() * 15,
            "{moved} slots of survivors moved"
        );
    }

    fn assert_oracle(slots: u32, members: &[RingMember]) {
        let ring = Ring::build(size(slots.into()), &KEY, members).unwrap();
        let expected = oracle(slots, &KEY, members).into_iter().map(Option::unwrap);
        assert!(held(&ring).eq(expected), "{slots} slots, {members:?}");
    }

    #[test]
    fn equals_the_oracle_with_uneven_weights() {
        assert_oracle(65_537, &members(&[0, 1, 65_535, 300, 0, 7]));
        assert_oracle(16_381, &members(&[65_535, 65_534, 1, 1, 2]));
    }

    #[test]
    fn equals_the_oracle_with_both_families() {
        let mut all = members(&[3, 1, 1, 2, 5]);
        for member in &mut all[1..4] {
            member.address = [0x2001, 0xdb8, 0, 0, 0, 0, 0, member.index].into();
        }
        assert_oracle(16_381, &all);
    }

    #[test]
    fn equals_the_oracle_with_wide_slots() {
        let weights: Vec<_> = (0..300).map(|number| number % 7).collect();
        assert_oracle(4093, &members(&weights));
    }

    #[test]
    fn equals_the_oracle_in_a_large_ring() {
        assert_oracle(655_373, &members(&[1, 1, 2]));
    }

    #[test]
    fn bytes() {
        for (count, bytes) in [(1, 251), (256, 251), (257, 502)] {
            let ring = Ring::build(size(251), &KEY, &members(&vec![1; count])).unwrap();
            assert_eq!(ring.bytes(), bytes, "{count} members");
            let shares: Vec<_> = (0..count)
                .map(|n| ring.share(n.try_into().unwrap()))
                .collect();
            let counted = ring.shares(count).into_iter();
            assert!(counted.eq(shares), "{count} members");
        }
    }

    proptest! {
        #[test]
        fn equals_the_oracle(weights in prop::collection::vec(0u16..20, 0..12), slots in prop::sample::select(vec![251u64, 257, 509]), key: [u8; 16]) {
            let (key, all) = (HashKey(key), members(&weights));
            let ring = Ring::build(size(slots), &key, &all);
            let built: Vec<_> = ring.map_or_else(
                || vec![None; usize::try_from(slots).unwrap()],
                |ring| held(&ring).map(Some).collect(),
            );
            prop_assert_eq!(built, oracle(u32::try_from(slots).unwrap(), &key, &all));
        }

        #[test]
        fn order_does_not_matter(weights in prop::collection::vec(1u16..50, 2..20), seed: prop::sample::Index) {
            let all = members(&weights);
            let mut turned = all.clone();
            turned.rotate_left(seed.index(all.len()));
            turned.swap(0, 1);
            prop_assert_eq!(Ring::build(size(509), &KEY, &all), Ring::build(size(509), &KEY, &turned));
        }

        #[test]
        fn shares_are_of_the_slots(weights in prop::collection::vec(0u16..9, 1..300)) {
            let weights = [&weights[..], &[1]].concat();
            let ring = Ring::build(size(509), &KEY, &members(&weights)).unwrap();
            for index in 0..u16::try_from(weights.len()).unwrap() {
                let slots = held(&ring).filter(|&holder| holder == index).count();
                prop_assert_eq!(ring.share(index) as usize, slots);
            }
            prop_assert_eq!(ring.share(u16::MAX), 0);
        }

        /// Equal where and only where every slot has the same address, however the backends are numbered.
        #[test]
        fn fingerprints_tell_what_is_chosen(
            weights in prop::collection::vec(1u16..4, 1..6),
            others in prop::collection::vec(1u16..4, 1..6),
            shift in 0u16..400,
        ) {
            let build = |weights: &[u16], shift| {
                let mut members = members(weights);
                members.iter_mut().for_each(|member| member.index += shift);
                Ring::build(size(251), &KEY, &members).unwrap()
            };
            let (one, renumbered) = (build(&weights, 0), build(&weights, shift));
            prop_assert_eq!(one.fingerprint(), renumbered.fingerprint());
            let other = build(&others, 0);
            let alike = held(&one).eq(held(&other));
            prop_assert_eq!(one.fingerprint() == other.fingerprint(), alike);
        }

        #[test]
        fn every_hash_finds_a_member(hash: u64) {
            let ring = Ring::build(size(251), &KEY, &members(&[1, 0, 3])).unwrap();
            let slot = ring.slot(hash);
            prop_assert_eq!(u64::from(slot.number()), hash % 251);
            prop_assert!([0, 2].contains(&ring.backend(slot)));
        }
    }
}
