//! The Maglev ring: a table of slots that names a backend for every hash value.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, §3.4:
//! every backend has a permutation of the slots and in turn takes the first free slot of its own.
//! The result is even, and changes little when the set of backends changes.
//!
//! Permutations come from the backends' addresses and the hash key, and turns are taken in the
//! order of addresses, so the ring depends on the set of backends alone.

use std::net::IpAddr;

use siphasher::sip::SipHasher13;

use super::spec::{HashKey, RingSize};

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
    slots: Box<[u16]>,
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
        let mut turns: Vec<_> = members
            .iter()
            .filter(|member| member.weight > 0)
            .map(|member| Turn::new(member, size, key))
            .collect();
        turns.sort_unstable_by_key(|turn| turn.member.address);
        let heaviest = turns.iter().map(|turn| turn.member.weight).max()?;
        Some(Self {
            slots: fill(size, &mut turns, heaviest),
        })
    }

    /// The slot of a hash value: the hash modulo M.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a ring has at most RingSize::MAX slots, and a remainder is below that"
    )]
    pub const fn slot(&self, hash: u64) -> Slot {
        Slot((hash % self.slots.len() as u64) as u32)
    }

    /// The index of the backend that holds `slot`.
    #[must_use]
    pub fn backend(&self, slot: Slot) -> u16 {
        self.slots[slot.0 as usize]
    }

    /// How many slots the backend with this index holds.
    #[must_use]
    pub fn share(&self, index: u16) -> usize {
        self.slots.iter().filter(|&&slot| slot == index).count()
    }
}

/// Marks a slot that nobody has taken; no backend has this index (see [`MAX_MEMBERS`]).
const FREE: u16 = u16::MAX;

/// Backends that a ring can tell apart; indices are below it.
pub const MAX_MEMBERS: usize = FREE as usize;

/// A backend at its turns: where its permutation stands.
struct Turn<'a> {
    member: &'a RingMember,
    position: u32,
    skip: u32,
}

impl<'a> Turn<'a> {
    fn new(member: &'a RingMember, size: RingSize, key: &HashKey) -> Self {
        let slots = size.slots();
        Self {
            member,
            position: identity_hash(key, b'o', member.address, slots),
            skip: identity_hash(key, b's', member.address, slots - 1) + 1,
        }
    }

    /// Takes the first free slot of the permutation `offset + j * skip mod M`.
    fn take(&mut self, slots: &mut [u16], size: u32) {
        while slots[self.position as usize] != FREE {
            self.advance(size);
        }
        slots[self.position as usize] = self.member.index;
        self.advance(size);
    }

    const fn advance(&mut self, size: u32) {
        self.position += self.skip;
        if self.position >= size {
            self.position -= size;
        }
    }
}

/// Takes turns until no slot is free.
fn fill(size: RingSize, turns: &mut [Turn<'_>], heaviest: u16) -> Box<[u16]> {
    let mut slots = vec![FREE; size.slots() as usize].into_boxed_slice();
    let weights: Vec<u16> = turns.iter().map(|turn| turn.member.weight).collect();
    for next in turn_order(&weights, heaviest).take(slots.len()) {
        turns[next].take(&mut slots, size.slots());
    }
    slots
}

/// Whose turn it is, without end. In round r a backend of weight w has a turn when r·w passes a
/// multiple of the heaviest weight, so a weight's share is even along the way, not only at the end.
fn turn_order(weights: &[u16], heaviest: u16) -> impl Iterator<Item = usize> {
    let heaviest = u64::from(heaviest);
    let has_turn = move |round: u64, weight: u16| {
        let weight = u64::from(weight);
        (round + 1) * weight / heaviest > round * weight / heaviest
    };
    (0u64..).flat_map(move |round| {
        (0..weights.len()).filter(move |&index| has_turn(round, weights[index]))
    })
}

/// A hash of the backend's identity below `bound`: SipHash-1-3 over a tag, then the address's bytes.
#[allow(
    clippy::cast_possible_truncation,
    reason = "a remainder is below the bound"
)]
fn identity_hash(key: &HashKey, tag: u8, address: IpAddr, bound: u32) -> u32 {
    let mut bytes = [tag; 17];
    let length = match address {
        IpAddr::V4(v4) => {
            bytes[1..5].copy_from_slice(&v4.octets());
            5
        }
        IpAddr::V6(v6) => {
            bytes[1..].copy_from_slice(&v6.octets());
            17
        }
    };
    let hash = SipHasher13::new_with_key(&key.0).hash(&bytes[..length]);
    (hash % u64::from(bound)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
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
        let first: Vec<_> = ring.slots[..16].to_vec();
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

    #[test]
    fn removal_moves_few_others() {
        let all = members(&[1; 100]);
        let before = Ring::build(RingSize::DEFAULT, &KEY, &all).unwrap();
        let after = Ring::build(RingSize::DEFAULT, &KEY, &all[1..]).unwrap();
        let pairs = || before.slots.iter().zip(&after.slots);
        let moved = pairs().filter(|&(b, a)| *b != 0 && a != b).count();
        assert!(
            moved * 1000 < before.slots.len() * 15,
            "{moved} slots of survivors moved"
        );
    }

    proptest! {
        #[test]
        fn equals_the_oracle(weights in prop::collection::vec(0u16..20, 0..12), slots in prop::sample::select(vec![251u64, 257, 509]), key: [u8; 16]) {
            let (key, all) = (HashKey(key), members(&weights));
            let ring = Ring::build(size(slots), &key, &all);
            let built: Vec<_> = ring.map_or_else(
                || vec![None; usize::try_from(slots).unwrap()],
                |ring| ring.slots.iter().copied().map(Some).collect(),
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
        fn every_hash_finds_a_member(hash: u64) {
            let ring = Ring::build(size(251), &KEY, &members(&[1, 0, 3])).unwrap();
            let slot = ring.slot(hash);
            prop_assert_eq!(u64::from(slot.number()), hash % 251);
            prop_assert!([0, 2].contains(&ring.backend(slot)));
        }
    }
}
