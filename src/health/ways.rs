//! Which backend the packets out of the probe device are for.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::flight::Flight;
use super::slots::Slots;
use crate::director::{BackendIndex, Snapshot};
use crate::packet::{FlowKey, Packet, Protocol};
use crate::probe::Moment;

/// How long packets of a probe that ended find their way: a reset, an acknowledgement of the last data.
const LINGERING: Duration = Duration::from_secs(2);

/// Which backend the packets of a probe are for.
#[derive(Debug, Default)]
pub(super) struct Ways {
    by_flow: HashMap<FlowKey, Way>,
    /// Of probes that ended, in the order in which they did.
    ended: VecDeque<(Moment, FlowKey, u64)>,
}

/// The way of one probe's packets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    pub(super) backend: BackendIndex,
    pub(super) serial: u64,
    /// The number of the flight while it is under way.
    pub(super) flight: Option<usize>,
}

impl Ways {
    /// Whether packets of such a probe may still be on their way.
    pub(super) fn has(&self, flow: &FlowKey) -> bool {
        self.by_flow.contains_key(flow)
    }

    /// The backend of a probe's flow.
    pub(super) fn backend_of(&self, flow: &FlowKey) -> Option<BackendIndex> {
        self.by_flow.get(flow).map(|way| way.backend)
    }

    pub(super) fn begin(&mut self, flow: FlowKey, way: Way) {
        self.by_flow.insert(flow, way);
    }

    /// The number of the flight that has these packets.
    pub(super) fn flight_of(&self, flow: &FlowKey) -> Option<usize> {
        self.by_flow.get(flow)?.flight
    }

    /// The backend that a packet out of the probe device is for; `None` for one that no probe sent.
    pub(super) fn of(
        &mut self,
        flow: &FlowKey,
        packet: &Packet<'_>,
        flights: &mut Slots<Flight>,
    ) -> Option<BackendIndex> {
        let way = self.by_flow.get(flow)?;
        if let Some(flight) = way.flight.and_then(|number| flights.get_mut(number)) {
            flight.was_sent = true;
            if flight.sequence.is_none() {
                flight.sequence = sequence_of(packet);
            }
        }
        Some(way.backend)
    }

    /// The backend that a client's packet would go to.
    pub(super) fn by_ring(flow: &FlowKey, snapshot: &Snapshot) -> Option<BackendIndex> {
        let vip = snapshot.find_vip(flow)?;
        Some(snapshot.choose(vip, flow)?.backend)
    }

    pub(super) fn end(&mut self, flow: FlowKey, serial: u64, now: Moment) {
        if let Some(way) = self.by_flow.get_mut(&flow) {
            way.flight = None;
            self.ended.push_back((now, flow, serial));
        }
    }

    pub(super) fn forget(&mut self, now: Moment) {
        while let Some((at, flow, serial)) = self.ended.front().copied()
            && at + LINGERING <= now
        {
            self.ended.pop_front();
            if self
                .by_flow
                .get(&flow)
                .is_some_and(|way| way.serial == serial)
            {
                self.by_flow.remove(&flow);
            }
        }
    }
}

/// The sequence number of a TCP segment.
fn sequence_of(packet: &Packet<'_>) -> Option<u32> {
    let bytes = packet.payload().get(4..8)?;
    (packet.protocol() == Protocol::Tcp.number())
        .then(|| bytes.try_into().ok().map(u32::from_be_bytes))
        .flatten()
}
