//! What comes out of the probe device leaves for the backend that it is for.

use std::io;

use log::debug;

use super::engine::Engine;
use super::plan::Apart;
use super::ways::Ways;
use crate::io::egress::SendError;
use crate::io::ingress::Reading;
use crate::packet::FlowKey;
use crate::probe::ProbeResult;

impl Engine {
    /// Sends what waits in the probe device.
    pub(super) fn forward(&mut self) -> io::Result<()> {
        loop {
            let snapshot = (self.snapshots)();
            let mut failures = Vec::new();
            let is_alone = self.apart == Apart::DIRECTOR;
            let (ways, flights, plan) = (&mut self.ways, &mut self.flights, &self.plan);
            let reading = self.forwarder.turn(
                &mut self.queue,
                &snapshot,
                |flow, packet| {
                    let known = ways.of(flow, packet, flights);
                    if known.is_some() {
                        return known;
                    }
                    plan.counts.count_stray();
                    // One that no probe sent, of a program of this host's that asks for such a route, goes where a
                    // client's would; beside a director that is the director's business. A client's own came by
                    // mistake: the other route of the VIP is gone, and this one must not take its place.
                    let is_own = is_alone && plan.has_source(flow.source);
                    is_own.then(|| Ways::by_ring(flow, &snapshot)).flatten()
                },
                |flow, error| failures.push((*flow, error)),
            )?;
            for (flow, error) in failures {
                self.not_sent(&flow, error);
            }
            if reading == Reading::Empty {
                return Ok(());
            }
        }
    }

    /// The kernel refused a packet: without a way to the backend clients' packets have none either.
    fn not_sent(&mut self, flow: &FlowKey, error: SendError) {
        let result = Self::meaning(error);
        debug!("a probe, {flow}: {error}");
        if let Some(number) = self.ways.flight_of(flow) {
            self.land(number, result);
        }
    }

    pub(super) const fn meaning(error: SendError) -> ProbeResult {
        match error {
            SendError::Unreachable(_) => ProbeResult::Unreachable,
            SendError::TooBig
            | SendError::Full(_)
            | SendError::Refused(_)
            | SendError::Other(_) => ProbeResult::NotSent,
        }
    }
}
