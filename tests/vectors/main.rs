//! What becomes of each kind of packet, as a table: description, input bytes, verdict, output bytes.
//! The table runs through the core itself, and through `tunlb replay` as a capture file.

#![allow(
    clippy::unwrap_used,
    reason = "what cannot be built or run fails the test"
)]

#[cfg(feature = "xdp")]
mod alternate;
mod core;
mod corpus;
mod differential;
#[cfg(feature = "xdp")]
mod driver;
mod echo;
mod forwarding;
mod fragments;
mod icmp;
mod refused;
mod replay;
mod table;
mod wire;

use std::collections::HashMap;
use std::net::IpAddr;

use table::{Table, Vector};

/// All vectors, each table for a director of its own, in order.
fn tables() -> [Table; 2] {
    let mut table = Table::new("vectors", include_str!("site.toml"));
    forwarding::add(&mut table);
    icmp::add(&mut table);
    refused::add(&mut table);
    fragments::add(&mut table);
    echo::add(&mut table);
    [table, forwarding::entropy()]
}

/// What a runner saw of one packet.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    verdict: String,
    reason: Option<String>,
    backend: Option<IpAddr>,
    output: Vec<Vec<u8>>,
}

/// Compares what a runner saw with a whole table.
fn check(table: &Table, seen: &[Seen]) {
    assert_eq!(seen.len(), table.vectors.len());
    let mut groups = HashMap::new();
    for (vector, seen) in table.vectors.iter().zip(seen) {
        check_one(table.name, vector, seen);
        if let Some(group) = vector.group {
            let first = groups.entry(group).or_insert(seen.backend);
            assert_eq!(*first, seen.backend, "{}", vector.description);
        }
    }
}

fn check_one(table: &str, vector: &Vector, seen: &Seen) {
    let what = format!("{table}: {}\n{:02x?}", vector.description, vector.input);
    let verdict = (seen.verdict.as_str(), seen.reason.as_deref());
    assert_eq!(verdict, (vector.verdict, vector.reason), "{what}");
    let possible = vector
        .outputs
        .iter()
        .find(|(backend, _)| *backend == seen.backend);
    let (_, output) = possible.unwrap_or_else(|| panic!("{:?} for {what}", seen.backend));
    assert_eq!(seen.output.len(), output.len(), "{what}");
    for (seen, expected) in seen.output.iter().zip(output) {
        assert_eq!(seen, expected, "{what}");
    }
}
