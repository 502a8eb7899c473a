//! The flows that a worker remembers, for others to see: some buckets of its table at a time.

use std::net::IpAddr;
use std::ops::ControlFlow;

use super::flow_table::{FlowCursor, KnownFlow};
use super::{BackendIndex, Director, Service, Snapshot, Timestamp};

/// Buckets that one step looks at: with two for each flow some 500 flows, of which nearly every one is a cache
/// miss that overlaps with others; about 10 µs.
const BUCKETS: u32 = 1024;

/// Which flows are wanted: those to which every term applies that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowFilter {
    /// Of this VIP.
    pub vip: Option<Service>,
    /// With this backend.
    pub backend: Option<BackendIndex>,
    /// From this address.
    pub client: Option<IpAddr>,
}

impl Director {
    /// Adds flows behind `from` to `flows`, of which no more than `most` are wanted there. Returns where to go
    /// on; `None` at the end. The work is bounded, so that few may come of it, or none. Nothing is allocated
    /// where `flows` has the room.
    pub fn list(
        &self,
        from: FlowCursor,
        filter: &FlowFilter,
        most: usize,
        flows: &mut Vec<KnownFlow>,
        now: Timestamp,
    ) -> Option<FlowCursor> {
        self.flows.visit(from, BUCKETS, now, |flow| {
            if !filter.wants(&self.snapshot, &flow) {
                return ControlFlow::Continue(());
            }
            if flows.len() >= most {
                return ControlFlow::Break(());
            }
            flows.push(flow);
            ControlFlow::Continue(())
        })
    }
}

impl FlowFilter {
    /// Whether every term applies to a flow, by the VIPs of that snapshot.
    #[must_use]
    pub fn wants(&self, snapshot: &Snapshot, flow: &KnownFlow) -> bool {
        self.client.is_none_or(|client| client == flow.key.source)
            && self.backend.is_none_or(|backend| backend == flow.backend)
            && self.vip.is_none_or(|vip| {
                let found = snapshot.vip_of(&flow.key, flow.backend);
                found.is_some_and(|found| found.service == vip)
            })
    }
}
