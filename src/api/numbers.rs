//! Numbers of the workers and of the ring, one function for each.

use super::model::{Counts, Ring, Xdp, XdpInterface};
use crate::control::DriverWatch;
use crate::control::view::View;
use crate::director::{CounterReader, Counters, DropReason, SendErrno, Traffic, Vip};

/// Flows that began for a backend.
pub(super) const fn new_flows(traffic: &Traffic) -> u64 {
    traffic.new_flows
}

/// Packets for a VIP that were dropped, by reason; those that never occurred are left out.
pub(super) fn vip_drops(view: &View, vip: &Vip) -> Counts {
    some(DropReason::ALL.map(|reason| (reason.name(), view.counters.vip_drops(vip.seat, reason))))
}

/// How flows of a VIP are spread.
pub(super) fn ring(view: &View, vip: &Vip) -> Ring {
    Ring {
        slots: view.effective.director.ring_size.slots(),
        fingerprint: vip.fingerprint().map(|hash| format!("{hash:08x}")),
        changes: vip.ring_changes,
    }
}

/// Packets that the kernel refused to take, by the name of the error.
pub(super) fn send_errors(counters: &CounterReader) -> Counts {
    some(SendErrno::ALL.map(|errno| (errno.name(), counters.send_errors(errno))))
}

/// Bursts of a worker that had packets, and the packets in them.
pub(super) fn bursts(worker: &Counters) -> (u64, u64) {
    let bursts = worker.bursts();
    (bursts.count(), bursts.packets)
}

/// Packets dropped, by reason; those that never occurred are left out.
pub(super) fn drops(counters: &CounterReader) -> Counts {
    some(DropReason::ALL.map(|reason| (reason.name(), counters.dropped(reason))))
}

/// What a program in the driver does, and with which packets.
pub(super) fn xdp(driver: &dyn DriverWatch) -> Xdp {
    let interfaces = driver.interfaces().iter().map(|one| XdpInterface {
        name: one.name.clone(),
        mode: one.mode.clone(),
    });
    let packets = driver.packets().into_iter();
    Xdp {
        interfaces: interfaces.collect(),
        packets: packets
            .map(|(way, count)| (way.to_owned(), count))
            .collect(),
    }
}

/// Those that occurred.
fn some<const N: usize>(all: [(&str, u64); N]) -> Counts {
    let all = all.into_iter().filter(|(_, packets)| *packets > 0);
    all.map(|(name, packets)| (name.to_owned(), packets))
        .collect()
}
