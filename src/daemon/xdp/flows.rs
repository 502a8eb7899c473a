//! The flow table in the maps of the program, as the workers' directors see it: one table for all, so that a flow
//! whose packets come now by the driver and now by the TUN keeps its backend.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use log::debug;

use crate::director::{BackendIndex, FlowClass, SharedFlow, SharedFlows, VipSeat};
use crate::io::sys::{SharedArray, monotonic_ns};
use crate::io::xdp::layout::{FlowRow, flow_key, tick_ns, tick_of};
use crate::io::xdp::{FlowMaps, FlowPart};
use crate::packet::FlowKey;

/// A worker's handle.
#[derive(Debug)]
pub struct DriverFlows {
    maps: FlowMaps,
    limits: Arc<SharedArray>,
}

impl DriverFlows {
    /// By these maps, which the program has, too.
    #[must_use]
    pub const fn new(maps: FlowMaps, limits: Arc<SharedArray>) -> Self {
        Self { maps, limits }
    }
}

/// A flow as the map has it, at a moment of CLOCK_MONOTONIC.
#[must_use]
pub(super) fn shared_flow(row: &FlowRow, now_ns: u64) -> SharedFlow {
    let idle = tick_of(now_ns).wrapping_sub(row.used);
    // A packet may have come after the clock was read.
    let idle = if idle > u32::MAX / 2 { 0 } else { idle };
    let class = FlowClass::ALL.get(usize::from(row.class));
    SharedFlow {
        backend: BackendIndex::new(row.backend),
        generation: row.generation,
        class: class.copied().unwrap_or(FlowClass::HalfOpen),
        idle: Duration::from_nanos(tick_ns(idle)),
        hash: row.hash,
    }
}

fn row(flow: &SharedFlow) -> FlowRow {
    FlowRow {
        hash: flow.hash,
        backend: flow.backend.tunnel().0,
        used: tick_of(monotonic_ns()),
        generation: flow.generation,
        class: flow.class as u8,
    }
}

/// Where a flow of a class is.
const fn part(class: FlowClass) -> FlowPart {
    match class {
        FlowClass::HalfOpen | FlowClass::FirstDatagram => FlowPart::First,
        FlowClass::Established | FlowClass::Closing | FlowClass::Reset | FlowClass::Udp => {
            FlowPart::Lasting
        }
    }
}

impl SharedFlows for DriverFlows {
    fn find(&self, flow: &FlowKey) -> Option<SharedFlow> {
        let (_, row) = self.maps.find(&flow_key(flow))?;
        Some(shared_flow(&row, monotonic_ns()))
    }

    fn enter(&mut self, flow: &FlowKey, shared: &SharedFlow) -> bool {
        match self.maps.enter(&flow_key(flow), &row(shared)) {
            Ok(is_new) => is_new,
            Err(error) => {
                debug!("cannot enter a flow: {error}");
                false
            }
        }
    }

    fn set(&mut self, flow: &FlowKey, before: &SharedFlow, next: &SharedFlow) {
        let parts = (part(before.class), part(next.class));
        if let Err(error) = self.maps.set(&flow_key(flow), &row(next), parts) {
            debug!("cannot write a flow: {error}");
        }
    }

    fn remove(&mut self, flow: &FlowKey, before: &SharedFlow) {
        self.maps.remove(&flow_key(flow), part(before.class));
    }

    /// As `allows` of `bpf/flows.h`, by the same word.
    fn allows(&self, seat: VipSeat, per_second: NonZeroU32) -> bool {
        let Some(paid) = self.limits.row(seat.position()).first() else {
            return true;
        };
        let cost_ns = 1_000_000_000 / u64::from(per_second.get());
        let burst_ns = cost_ns * u64::from(per_second.get());
        let now = monotonic_ns();
        let pay = |before: u64| {
            let after = before.max(now) + cost_ns;
            (after <= now + burst_ns).then_some(after)
        };
        paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay)
            .is_ok()
    }
}
