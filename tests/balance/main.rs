//! How evenly and how stably flows are spread: the properties that `docs/balance.md` promises,
//! measured through the public API. `--nocapture` shows the figures, `TUNLB_BALANCE_FLOWS` says how
//! many flows to measure them with.

#![allow(
    clippy::unwrap_used,
    reason = "what cannot be built or run fails the test"
)]

mod ring;
mod site;

use site::{Backends, KEY, OTHER_KEY, Site, flows};

/// Largest share over the mean.
fn spread(counts: &[usize]) -> f64 {
    let largest = *counts.iter().max().unwrap();
    number(largest * counts.len()) / number(counts.iter().sum())
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

#[test]
fn flows_spread_evenly() {
    let backends = Backends::equal(100);
    let site = Site::new(KEY, &backends);
    let random = flows(1);
    let mut counts = vec![0; 100];
    for flow in random.iter() {
        counts[backends.position(site.choose(&flow))] += 1;
    }
    let spread = spread(&counts);
    println!("100 equal backends, {random}: max/mean {spread:.4}");
    // What chance adds to fewer flows: four standard deviations of a backend's share.
    let chance = 4.0 / (number(random.count()) / 100.0).sqrt();
    assert!(spread <= 1.0 + f64::max(0.04, chance), "{spread}");
}

#[test]
fn weights_are_kept() {
    let backends = Backends::weighted(&[3, 1]);
    let site = Site::new(KEY, &backends);
    let random = flows(2);
    let heavy = random
        .iter()
        .filter(|flow| backends.position(site.choose(flow)) == 0)
        .count();
    let ratio = number(heavy) / number(random.count() - heavy);
    println!("weights 3:1, {random}: {ratio:.4}:1");
    assert!((ratio / 3.0 - 1.0).abs() <= 0.02, "{ratio}");
}

#[test]
fn removal_moves_few_others() {
    let all = Backends::equal(100);
    let fewer = all.without(42);
    let gone = all.addresses()[42];
    let (before, after) = (Site::new(KEY, &all), Site::new(KEY, &fewer));
    let random = flows(3);
    let (mut survivors, mut moved) = (0, 0);
    for flow in random.iter() {
        let was = before.choose(&flow);
        if was != gone {
            survivors += 1;
            moved += usize::from(after.choose(&flow) != was);
        }
    }
    let share = number(moved) / number(survivors);
    println!(
        "1 of 100 removed, {random}: {:.3} % of the survivors' moved",
        share * 100.0
    );
    assert!(share <= 0.015, "{share}");
}

#[test]
fn addition_moves_little_but_its_share() {
    let all = Backends::equal(101);
    let fewer = all.without(42);
    let new = all.addresses()[42];
    let (before, after) = (Site::new(KEY, &fewer), Site::new(KEY, &all));
    let random = flows(4);
    let (mut taken, mut others) = (0, 0);
    for flow in random.iter() {
        match (before.choose(&flow), after.choose(&flow)) {
            (_, now) if now == new => taken += 1,
            (was, now) => others += usize::from(was != now),
        }
    }
    let [taken, others] = [taken, others].map(|count| number(count) / number(random.count()));
    println!(
        "1 added to 100, {random}: it takes {:.3} %, of all flows {:.3} % move between others",
        taken * 100.0,
        others * 100.0
    );
    assert!((taken * 101.0 - 1.0).abs() <= 0.15, "{taken}");
    assert!(others <= 0.015, "{others}");
}

#[test]
fn directors_agree() {
    let backends = Backends::weighted(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 100]);
    let [one, other] = [&backends, &backends.reversed()].map(|set| Site::new(KEY, set));
    let random = flows(5);
    for flow in random.iter() {
        assert_eq!(one.choose(&flow), other.choose(&flow), "{flow}");
    }
    println!("11 backends in another order, {random}: the same choice each time");
}

/// By chance two unrelated choices among n agree for 1/n of the flows.
#[test]
fn another_key_chooses_apart() {
    let backends = Backends::equal(100);
    let [one, other] = [KEY, OTHER_KEY].map(|key| Site::new(key, &backends));
    let random = flows(6);
    let same = random
        .iter()
        .filter(|flow| one.choose(flow) == other.choose(flow))
        .count();
    let share = number(same) / number(random.count());
    println!(
        "another key, 100 backends, {random}: {:.3} % agree",
        share * 100.0
    );
    assert!((share * 100.0 - 1.0).abs() <= 0.15, "{share}");
}
