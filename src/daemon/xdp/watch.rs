//! What others see of the data path.

use std::sync::Arc;

use super::flows::shared_flow;
use crate::control::published::Current;
use crate::control::{DriverInterface, DriverWatch, FlowChunk, FlowError, FlowRequest, MAX_FLOWS};
use crate::director::{FlowCursor, KnownFlow};
use crate::io::sys::monotonic_ns;
use crate::io::xdp::layout::{OUTCOMES, flow_of};
use crate::io::xdp::{FlowMaps, FlowPart, MapCounts};

/// The end of those who watch.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) interfaces: Vec<DriverInterface>,
    pub(super) counts: Arc<MapCounts>,
    pub(super) flows: FlowMaps,
    pub(super) current: Current,
}

/// Set in the bucket of a cursor that is among the flows of one packet.
const FIRST: u32 = 1 << 31;

impl DriverWatch for Watch {
    fn interfaces(&self) -> &[DriverInterface] {
        &self.interfaces
    }

    fn packets(&self) -> Vec<(&'static str, u64)> {
        OUTCOMES.into_iter().zip(self.counts.outcomes()).collect()
    }

    fn list(&self, request: FlowRequest) -> Result<FlowChunk, FlowError> {
        let snapshot = Arc::clone(&self.current.load().snapshot);
        let (bucket, passed) = (request.from.bucket(), request.from.after().unwrap_or(0));
        let part = if bucket & FIRST == 0 {
            FlowPart::Lasting
        } else {
            FlowPart::First
        };
        let page = self.flows.page(part, bucket & !FIRST);
        let (rows, next) = page.map_err(FlowError::Map)?;
        let now_ns = monotonic_ns();
        let mut flows = Vec::new();
        for (at, (key, row)) in (0..).zip(&rows).skip(passed as usize) {
            let Some(key) = flow_of(key) else { continue };
            let flow = shared_flow(row, now_ns);
            let known = KnownFlow {
                key,
                backend: flow.backend,
                class: flow.class,
                idle: flow.idle,
            };
            let is_over = flow.idle >= flow.class.timeout(&snapshot.flow_limits().timeouts);
            if is_over || !request.filter.wants(&snapshot, &known) {
                continue;
            }
            if flows.len() == request.most.min(MAX_FLOWS) {
                let next = Some(FlowCursor::new(bucket, Some(at)));
                return Ok(FlowChunk {
                    flows,
                    next,
                    snapshot,
                });
            }
            flows.push(known);
        }
        let next = match (next, part) {
            (Some(next), _) => Some(next | bucket & FIRST),
            (None, FlowPart::Lasting) => Some(FIRST),
            (None, FlowPart::First) => None,
        };
        Ok(FlowChunk {
            flows,
            next: next.map(|bucket| FlowCursor::new(bucket, None)),
            snapshot,
        })
    }
}
