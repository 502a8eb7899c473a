//! The ring itself, without flows: shares of the slots, memory, and what a change moves.

use std::collections::HashMap;
use std::net::IpAddr;

use tunlb::director::{Ring, RingMember, RingSize};

use crate::site::{Backends, KEY};
use crate::{number, spread};

fn build(size: u64, backends: &Backends) -> Ring {
    let members: Vec<_> = (0..)
        .zip(backends.iter())
        .map(|(index, (address, weight))| RingMember {
            address,
            weight,
            index,
        })
        .collect();
    Ring::build(RingSize::new(size).unwrap(), &KEY, &members).unwrap()
}

/// The address in each slot.
fn held(size: u64, ring: &Ring, backends: &Backends) -> Vec<IpAddr> {
    let addresses = backends.addresses();
    (0..size)
        .map(|hash| addresses[usize::from(ring.backend(ring.slot(hash)))])
        .collect()
}

fn shares(slots: &[IpAddr], backends: &Backends) -> Vec<usize> {
    let mut counts = HashMap::new();
    for address in slots {
        *counts.entry(*address).or_insert(0) += 1;
    }
    let of = |address| counts.get(address).copied().unwrap_or(0);
    backends.addresses().iter().map(of).collect()
}

/// Shares of equal backends differ by a slot at most, so small rings for many are the uneven ones.
#[test]
fn size_decides_how_even_and_how_stable() {
    println!("slots, backends: bytes, max/mean, survivors' slots that the removal of one moves");
    for size in [251, 4093, 16_381, 65_537, 655_373] {
        for count in [10, 100, 1000] {
            if size < count {
                continue;
            }
            let all = Backends::equal(usize::try_from(count).unwrap());
            let fewer = all.without(5);
            let ring = build(size, &all);
            let before = held(size, &ring, &all);
            let after = held(size, &build(size, &fewer), &fewer);
            let counts = shares(&before, &all);
            let gone = all.addresses()[5];
            let survivors = before.iter().zip(&after).filter(|(was, _)| **was != gone);
            let moved = survivors.clone().filter(|(was, now)| was != now).count();
            let moved = 100.0 * number(moved) / number(survivors.count());
            let (bytes, spread) = (ring.bytes(), spread(&counts));
            println!("{size}, {count}: {bytes}, {spread:.4}, {moved:.2} %");
            let [least, most] = [counts.iter().min(), counts.iter().max()].map(Option::unwrap);
            assert!(most - least <= 1, "{size} slots, {count} backends");
            if size == 65_537 && count == 100 {
                assert!(spread <= 1.01 && moved <= 1.5, "{spread}, {moved} %");
            }
        }
    }
}

#[test]
fn largest_ring() {
    let size = if cfg!(debug_assertions) {
        1_048_573 // the largest one takes ten seconds without optimisation
    } else {
        RingSize::MAX
    };
    let ring = build(size.into(), &Backends::weighted(&[1, 1, 2]));
    let shares = [0, 1, 2].map(|index| ring.share(index));
    println!(
        "{size} slots, weights 1:1:2: {shares:?}, {} bytes",
        ring.bytes()
    );
    let quarter = size / 4;
    for (share, quarters) in shares.into_iter().zip([1, 1, 2]) {
        assert!(share.abs_diff(quarters * quarter) <= 2, "{shares:?}");
    }
}
