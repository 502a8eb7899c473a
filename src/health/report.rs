//! What changed is reported: coalesced, at most ten times a second, again where control had too much to do.

use std::time::Duration;

use super::engine::Engine;
use super::{Report, Reports};
use crate::probe::ProbeResult;

/// What changed is reported at most this often.
pub(super) const REPORT_INTERVAL: Duration = Duration::from_millis(100);

impl Engine {
    pub(super) fn has_news(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Reports what changed, unless that was done just now.
    pub(super) fn tell(&mut self) {
        let now = self.now();
        if !self.has_news() || now < self.reported + REPORT_INTERVAL {
            return;
        }
        let changes = self.changed.iter().filter_map(|target| {
            let machine = self.board.of(target)?;
            Some(Report {
                target: target.clone(),
                standing: machine.standing(),
                result: machine
                    .last()
                    .map_or(ProbeResult::NoVerdict, |last| last.result),
                streak: machine.streak(),
                cause: self
                    .inquests
                    .cause(target)
                    .filter(|_| !machine.standing().is_up()),
                size: self.inquests.size(target),
            })
        });
        let reports = Reports {
            plan: self.plan.number,
            changes: changes.collect(),
            suspects_itself: self.suspects_itself,
        };
        self.reported = now;
        if (self.report)(reports).is_ok() {
            self.changed.clear();
        }
    }
}
