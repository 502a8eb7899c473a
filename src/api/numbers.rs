//! Numbers of the workers and of the ring, one function for each.

use super::model::{Counts, Ring};
use crate::control::view::View;
use crate::director::{CounterReader, Counters, DropReason, Traffic, Vip};

/// Flows that began for a backend.
pub(super) const fn new_flows(_traffic: &Traffic) -> u64 {
    0 // MERGE: traffic.new_flows
}

/// Packets for a VIP that were dropped, by reason; those that never occurred are left out.
pub(super) fn vip_drops(_view: &View, _vip: &Vip) -> Counts {
    Counts::new() // MERGE: drops of each VIP
}

/// How flows of a VIP are spread.
pub(super) fn ring(view: &View, _vip: &Vip) -> Ring {
    Ring {
        slots: view.effective.director.ring_size.slots(),
        fingerprint: None, // MERGE: fingerprint of the ring
        changes: 0,        // MERGE: changes of the ring
    }
}

/// Packets that the kernel refused to take, by the name of the error.
pub(super) fn send_errors(_counters: &CounterReader) -> Counts {
    Counts::new() // MERGE: errors by their names
}

/// Bursts of a worker that had packets, and the packets in them.
pub(super) const fn bursts(_worker: &Counters) -> (u64, u64) {
    (0, 0) // MERGE: bursts and packets in them
}

/// Packets dropped, by reason; those that never occurred are left out.
pub(super) fn drops(counters: &CounterReader) -> Counts {
    let all = DropReason::ALL.map(|reason| (reason.name().to_owned(), counters.dropped(reason)));
    all.into_iter()
        .filter(|(_, packets)| *packets > 0)
        .collect()
}
