//! A day of a director's life, in memory and by a clock of its own: flows come and go while backends
//! flap, are drained, disabled, reweighted, added and removed, and SYN floods pass. A model
//! ([`model`]) knows what ought to become of every packet.
//!
//! `TUNLB_SIMULATION` says how many flows (a million: use `--release`), `TUNLB_SIMULATION_SEED` which
//! day; a failure names its seed.

#![allow(
    clippy::unwrap_used,
    reason = "what cannot be built or run fails the test"
)]

mod day;
mod model;
mod operator;
mod random;
mod site;
mod strays;
mod tally;
mod traffic;

use std::time::Instant;

use day::Day;

/// Flows of the day that every `cargo test` runs.
const FLOWS: u64 = 20_000;

#[test]
#[allow(
    clippy::print_stdout,
    reason = "the figures are half of what it is for; cargo shows them with --nocapture"
)]
fn a_day() {
    let started = Instant::now();
    let seed = Seed(variable("TUNLB_SIMULATION_SEED").unwrap_or(1));
    let flows = variable("TUNLB_SIMULATION").unwrap_or(FLOWS);
    let tally = Day::new(flows, seed.0).run();
    println!("{tally}\nwall time            {:>12.1?}", started.elapsed());
    tally.assert_all_happened();
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// Named when the test fails, so that it can fail again.
struct Seed(u64);

impl Drop for Seed {
    #[allow(clippy::print_stderr, reason = "beside the panic's own message")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("TUNLB_SIMULATION_SEED={} was this day", self.0);
        }
    }
}
