//! The flow table alone, while it grows: memory of a flow, and how long its slowest operations take.
//!
//! `cargo bench --bench table`. A pause is what a whole rehash, or a scan, would show here. Times are of the
//! wall clock, so what else runs on the machine is in the slowest ones; `chrt -f 50` keeps it out.

#![allow(
    clippy::print_stdout,
    reason = "printing the figures is what this program does"
)]

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tunlb::director::{
    BackendIndex, Counters, FlowEvent, FlowLimits, FlowTable, FlowTimeouts, Protocol, Timestamp,
};
use tunlb::packet::FlowKey;

/// Flows entered; the table holds all of them.
const FLOWS: u32 = 2_000_000;
/// Where the memory of a flow is read.
const MILLION: u32 = 1_000_000;

fn main() {
    let limits = FlowLimits {
        // Of one-packet UDP a quarter fits.
        bound: NonZeroUsize::new(4 * FLOWS as usize).expect("not 0"),
        timeouts: FlowTimeouts::default(),
    };
    let mut table = FlowTable::new(limits, [1, 2, 3, 4], Arc::new(Counters::new(1)));
    let (mut insertions, mut lookups) = (Vec::new(), Vec::new());
    for number in 0..FLOWS {
        insertions.push(timed(|| {
            let backend = BackendIndex::new(0);
            table.insert(flow(number), backend, FlowEvent::Udp, Timestamp::START);
        }));
        let known = flow(number.wrapping_mul(0x9e37_79b1) % (number + 1));
        lookups.push(timed(|| {
            black_box(table.peek(&known, Timestamp::START));
        }));
        if number + 1 == MILLION {
            let bytes = table.bytes() as f64 / f64::from(MILLION);
            println!("a flow of a million                 {bytes:>10.1} bytes");
        }
    }
    report("insertion", &mut insertions);
    report("look-up", &mut lookups);
}

fn flow(number: u32) -> FlowKey {
    FlowKey {
        source: Ipv4Addr::from_bits(number).into(),
        destination: Ipv4Addr::new(203, 0, 113, 10).into(),
        source_port: 40_000,
        destination_port: 53,
        protocol: Protocol::Udp,
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    for (name, of_10_000) in [("median", 5000), ("slowest of 10,000", 9999)] {
        let time = times[times.len() / 10_000 * of_10_000];
        println!("{what:<10} {name:<24} {:>10.1} µs", micros(time));
    }
    let slowest = times.last().copied().unwrap_or_default();
    println!(
        "{what:<10} {:<24} {:>10.1} µs",
        "slowest of all",
        micros(slowest)
    );
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
