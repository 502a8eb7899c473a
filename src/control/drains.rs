//! Backends that are draining: each is reported when its last flow ends.

use std::collections::BTreeSet;

use log::info;

use super::events::{EventKind, EventLog, Happening};
use crate::director::{BackendIndex, BackendState, Roster, Snapshot};

/// Who is draining and was not reported yet.
#[derive(Debug, Default)]
pub(super) struct Drains {
    draining: BTreeSet<BackendIndex>,
    reported: BTreeSet<BackendIndex>,
}

impl Drains {
    /// Follows a change: every backend that drains now is watched; one that was reported and still drains is not
    /// reported again.
    pub(super) fn follow(&mut self, snapshot: &Snapshot) {
        let draining = snapshot
            .backends()
            .filter(|(_, backend)| backend.state == BackendState::Draining)
            .map(|(index, _)| index)
            .collect();
        self.reported = &self.reported & &draining;
        self.draining = &draining - &self.reported;
    }

    /// Whether a draining backend is not reported yet.
    pub(super) fn is_waiting(&self) -> bool {
        !self.draining.is_empty()
    }

    /// Says of every backend that was waited for and has no flow left that it is drained.
    pub(super) fn report(&mut self, snapshot: &Snapshot, roster: &Roster, events: &EventLog) {
        if !roster.is_adopted(snapshot.epoch()) {
            return; // a worker may still give it a new flow
        }
        let ended = |index: &BackendIndex| roster.counters().traffic(*index).flows == 0;
        let drained: Vec<_> = self.draining.iter().copied().filter(ended).collect();
        for index in drained {
            self.draining.remove(&index);
            self.reported.insert(index);
            if let Some(backend) = snapshot.backend(index) {
                let (vip, address) = (&snapshot.vip(backend.vip).name, backend.address);
                let text = format!("vip {vip}: backend {address} is drained: its last flow ended");
                info!("{text}");
                events.tell(Happening {
                    vip: Some(vip.clone()),
                    backend: Some(address),
                    ..Happening::new(EventKind::Drained, text)
                });
            }
        }
    }
}
