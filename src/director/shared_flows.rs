//! A flow table that several data paths have together: this director, those of other workers, and a program in the
//! kernel. Whoever sees a packet of a flow looks it up there and writes there, so that all agree.
//!
//! It takes the place of the director's own table, which stays empty. How a table is kept is its own business:
//! here is what becomes of its flows.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use super::flow_table::{FlowClass, FlowEvent};
use super::identification::Identifications;
use super::indices::{BackendIndex, VipSeat};
use super::{Director, DropReason, Seat, Timestamp};
use crate::packet::FlowKey;

/// A flow of such a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedFlow {
    /// The backend that it keeps.
    pub backend: BackendIndex,
    /// Of the services by which its backend was found to be of its VIP; 0 for none.
    pub generation: u16,
    /// What the client's side shows of its life.
    pub class: FlowClass,
    /// Since its last packet.
    pub idle: Duration,
    /// Of its 5-tuple, as the tunnel shows it.
    pub hash: u64,
}

/// A flow table that several data paths have together. A worker has a handle of its own.
pub trait SharedFlows: fmt::Debug + Send {
    /// A flow; one that was idle for too long may still be there.
    fn find(&self, flow: &FlowKey) -> Option<SharedFlow>;

    /// Enters a flow; false where it is there meanwhile. What cannot be entered goes by the ring.
    fn enter(&mut self, flow: &FlowKey, row: &SharedFlow) -> bool;

    /// Writes a flow that was found as `before`; it is used now.
    fn set(&mut self, flow: &FlowKey, before: &SharedFlow, next: &SharedFlow);

    /// Forgets a flow that was found so.
    fn remove(&mut self, flow: &FlowKey, before: &SharedFlow);

    /// Whether one more flow of the VIP that has this seat may enter.
    fn allows(&self, seat: VipSeat, per_second: NonZeroU32) -> bool;
}

impl Director {
    /// Keeps flows there from now on, together with `others` that number outer packets, too: the workers of
    /// `seat` count first. To be called before the first burst.
    pub fn share_flows(&mut self, flows: Box<dyn SharedFlows>, seat: &Seat, others: u16) {
        let all = seat.workers.saturating_add(others);
        self.identifications = Identifications::new(seat.worker, all);
        self.counters.tell_flow_bound(0); // the shared table has the bound
        self.shared = Some(flows);
    }

    /// The backend of a flow that is known to whichever table is asked, and not over.
    pub(super) fn peek(&self, key: &FlowKey, now: Timestamp) -> Option<BackendIndex> {
        let Some(shared) = &self.shared else {
            return self.flows.peek(key, now);
        };
        let found = shared.find(key)?;
        (!self.flows.is_past(found.class, found.idle)).then_some(found.backend)
    }

    /// As [`target`](Self::target), by the table that is shared.
    pub(super) fn target_shared(
        &mut self,
        key: &FlowKey,
        event: FlowEvent,
    ) -> Result<BackendIndex, DropReason> {
        let Some(mut shared) = self.shared.take() else {
            return Err(DropReason::NoVip);
        };
        let found = self.find_shared(&mut *shared, key, event);
        self.shared = Some(shared);
        found
    }

    fn find_shared(
        &mut self,
        shared: &mut dyn SharedFlows,
        key: &FlowKey,
        event: FlowEvent,
    ) -> Result<BackendIndex, DropReason> {
        let found = shared.find(key);
        let is_over = |flow: &SharedFlow| {
            (flow.class.is_closed() && event.opens()) || self.flows.is_past(flow.class, flow.idle)
        };
        let known = found.filter(|flow| !is_over(flow));
        let generation = self.snapshot.generation();
        if let Some(flow) = known
            && flow.generation == generation
            && let Some(lane) = self.snapshot.lane(flow.backend)
            && lane.takes.keeps(event.opens())
        {
            let class = flow.class.after(event);
            shared.set(key, &flow, &SharedFlow { class, ..flow });
            return Ok(flow.backend);
        }
        let vip = self.snapshot.find_vip(key).ok_or(DropReason::NoVip)?;
        let (backend, reopens) = self.place(vip, key, known.map(|flow| flow.backend), event);
        let backend = backend.ok_or(DropReason::NoBackend)?;
        if let Some(flow) = known.filter(|_| !reopens) {
            let next = SharedFlow {
                backend,
                generation,
                class: flow.class.after(event),
                ..flow
            };
            shared.set(key, &flow, &next);
            return Ok(backend);
        }
        if let Some(past) = found {
            shared.remove(key, &past);
        }
        let limit = vip.new_flows_per_second;
        if limit.is_some_and(|limit| !shared.allows(vip.seat, limit)) {
            self.counters.count_untracked(backend);
            return Ok(backend);
        }
        let row = SharedFlow {
            backend,
            generation,
            class: FlowClass::first(event),
            idle: Duration::ZERO,
            hash: self.snapshot.flow_hash(key),
        };
        if !shared.enter(key, &row) && shared.find(key).is_some() {
            return self.find_shared(shared, key, event);
        }
        self.counters.count_new_flow(backend);
        Ok(backend)
    }
}
