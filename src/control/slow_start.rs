//! Slow start: a backend that turned healthy while the director runs takes a tenth of its weight, and more step by step.
//! Control work: a step is a change of the ring, like any other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::error;

use super::health::measured_by;
use super::host::Host;
use super::pending::{Pending, Then};
use super::{Control, State};
use crate::config::Config;
use crate::director::{BackendState, Takes, Tenths, VipIndex, VipSpec};
use crate::probe::Target;

/// How soon a step that failed is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// The backends that are starting.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SlowStarts(BTreeMap<Target, Start>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Start {
    begun: Instant,
    time: Duration,
    tenths: Tenths,
}

impl SlowStarts {
    /// The part of its weight that a backend takes; `None` for one that is not starting.
    #[must_use]
    pub fn of(&self, vip: &VipSpec, address: IpAddr) -> Option<Tenths> {
        if self.0.is_empty() {
            return None;
        }
        let vip = vip.name.as_str().into();
        Some(self.0.get(&Target { vip, address })?.tenths)
    }

    fn begin(&mut self, target: Target, time: Duration, now: Instant) {
        let tenths = Tenths::due(Duration::ZERO, time);
        let begun = now;
        self.0.insert(
            target,
            Start {
                begun,
                time,
                tenths,
            },
        );
    }

    /// Those that go on by another configuration.
    pub(super) fn followed(&self, effective: &Config) -> Self {
        let goes_on = |target: &Target| {
            let vip = effective.vips.iter().find(|vip| *vip.name == *target.vip)?;
            let mut backends = vip.backends.iter();
            let is_there = backends.any(|backend| {
                backend.address == target.address && backend.state == BackendState::Active
            });
            vip.probing.as_ref()?.slow_start.filter(|_| is_there)
        };
        let going_on = self.0.iter().filter_map(|(target, start)| {
            let time = goes_on(target)?;
            Some((target.clone(), Start { time, ..*start }))
        });
        Self(going_on.collect())
    }

    /// When the next step is due.
    fn next(&self) -> Option<Instant> {
        let steps = self.0.values().map(|start| {
            let steps = u32::from(start.tenths.number()) + 1;
            start.begun + start.time * steps / 10
        });
        steps.min()
    }

    /// What holds at `now`, and the names of the VIPs of which it is something else than before.
    fn stepped(&self, now: Instant) -> (Self, BTreeSet<Arc<str>>) {
        let mut changed = BTreeSet::new();
        let starts = self.0.iter().filter_map(|(target, start)| {
            let elapsed = now.saturating_duration_since(start.begun);
            let tenths = Tenths::due(elapsed, start.time).max(start.tenths);
            if tenths != start.tenths {
                changed.insert(Arc::clone(&target.vip));
            }
            let start = Start { tenths, ..*start };
            (tenths != Tenths::ALL).then(|| (target.clone(), start))
        });
        let starts = Self(starts.collect());
        (starts, changed)
    }
}

impl<H: Host> Control<H> {
    /// Those that `turned` from down to up begin a slow start where their VIPs have one, those that are down end it. One
    /// that took flows all the same has nothing to begin.
    pub(super) fn begin_slow_starts(&mut self, turned: &[(Target, Turned)]) {
        let of_vip = |vip: &VipSpec| vip.probing.as_ref()?.slow_start;
        if turned.is_empty()
            || !self
                .state
                .effective
                .vips
                .iter()
                .any(|v| of_vip(v).is_some())
        {
            return;
        }
        let now = Instant::now();
        let mut starts = (*self.state.slow_starts).clone();
        let current = self.publisher.current().load();
        for (spec, vip) in self
            .state
            .effective
            .vips
            .iter()
            .zip(current.snapshot.vips())
        {
            let (Some(time), Some(probing)) = (of_vip(spec), &spec.probing) else {
                continue;
            };
            let name = measured_by(spec, probing);
            for (target, turned) in turned.iter().filter(|(target, _)| *target.vip == *name) {
                let own = Target {
                    vip: spec.name.as_str().into(),
                    address: target.address,
                };
                let seats = spec.backends.iter().zip(vip.backends());
                let takes_new = seats
                    .filter(|(backend, _)| backend.address == target.address)
                    .filter_map(|(_, &index)| current.snapshot.lane(index))
                    .any(|lane| lane.takes == Takes::NewFlows);
                match turned {
                    Turned::Down => drop(starts.0.remove(&own)),
                    Turned::Up if takes_new => {}
                    Turned::Up => starts.begin(own, time, now),
                }
            }
        }
        self.state.slow_starts = Arc::new(starts);
    }

    /// How long until the next step; `None` without one, or while a change is under way, which comes first.
    pub(super) fn until_step(&self) -> Option<Duration> {
        let next = self.state.slow_starts.next()?.max(self.no_step_before);
        let left = next.saturating_duration_since(Instant::now());
        self.pending.is_empty().then_some(left)
    }

    /// Takes the steps that are due.
    pub(super) fn step_slow_starts(&mut self) {
        if self.until_step() == Some(Duration::ZERO) {
            self.step_to(Instant::now());
        }
    }

    pub(super) fn step_to(&mut self, now: Instant) {
        let (starts, names) = self.state.slow_starts.stepped(now);
        let state = State {
            slow_starts: Arc::new(starts),
            ..self.state.clone()
        };
        let current = self.publisher.current().load();
        let vips = current.snapshot.vips().iter();
        let changed = vips.filter(|vip| names.contains(&*vip.name));
        let changed: Vec<VipIndex> = changed.map(|vip| vip.index).collect();
        drop(current);
        match self.publish(&state, Some(&changed), self.host.device_mtu()) {
            Ok(epoch) => {
                self.state = state;
                self.pending.push_back(Pending::new(epoch, Then::Rest));
                self.show_view();
            }
            Err(error) => {
                error!("cannot take a step of a slow start yet: {error:#}");
                self.no_step_before = Instant::now() + RETRY;
            }
        }
    }
}

/// How a backend's health turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turned {
    /// It answers again.
    Up,
    /// It does not any more.
    Down,
}

#[cfg(test)]
mod tests {
    use super::super::ReloadOptions;
    use super::super::tests::{Fixture, state};
    use super::*;
    use crate::probe::ProbeResult;

    const A: &str = "10.0.1.11";
    const B: &str = "10.0.1.12";

    fn text(health: &str) -> String {
        format!(
            "backend = [{{ address = \"{A}\" }}, {{ address = \"{B}\" }}]\n[vip.health]\n{health}\n"
        )
    }

    impl Fixture {
        /// The share of the first backend of new flows, in percent.
        fn share(&self) -> u32 {
            let view = self.control.view().load();
            let vip = &view.snapshot.vips()[0];
            let slots = vip.slots().unwrap_or(1);
            (vip.share(vip.backends()[0]) * 1000 / slots).div_ceil(10)
        }

        fn after(&mut self, time: Duration) -> u32 {
            let begun = self.control.state.slow_starts.0.values().next();
            let begun = begun.map_or_else(Instant::now, |start| start.begun);
            self.control.step_to(begun + time);
            self.adopt();
            self.share()
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn weights_rise_in_tenths() {
        let mut fixture = Fixture::new(&text("slow_start = \"100s\""));
        fixture.report(A, ProbeResult::Ok);
        assert_eq!(fixture.share(), 50, "nothing starts with the process");
        fixture.report(A, ProbeResult::NoAnswer);
        assert_eq!(fixture.share(), 0);
        fixture.report(A, ProbeResult::Ok);
        assert_eq!(fixture.share(), 9, "1 of 11");
        let patience = fixture.control.until_step().unwrap();
        assert!(
            patience > 15 * SECOND && patience <= 20 * SECOND,
            "{patience:?}"
        );
        assert_eq!(fixture.after(19 * SECOND), 9);
        assert_eq!(fixture.after(20 * SECOND), 17, "2 of 12");
        assert_eq!(fixture.after(50 * SECOND), 34, "5 of 15");
        assert_eq!(fixture.after(100 * SECOND), 50);
        assert!(fixture.control.state.slow_starts.0.is_empty());
        assert_eq!(fixture.control.until_step(), None);
    }

    #[test]
    fn the_ring_of_all_directors_is_the_same() {
        let fingerprint = |fixture: &Fixture| {
            let view = fixture.control.view().load();
            view.snapshot.vips()[0].fingerprint()
        };
        let mut first = Fixture::new(&text("slow_start = \"100s\""));
        let before = fingerprint(&first);
        let mut second = Fixture::new(&text("slow_start = \"100s\""));
        for (fixture, seconds) in [(&mut first, 31), (&mut second, 39)] {
            fixture.report(A, ProbeResult::Refused);
            fixture.report(A, ProbeResult::Ok);
            fixture.after(seconds * SECOND);
        }
        assert_eq!(fingerprint(&first), fingerprint(&second));
        assert_ne!(fingerprint(&first), before);
        first.after(100 * SECOND);
        assert_eq!(fingerprint(&first), before, "what was is again");
    }

    #[test]
    fn what_took_flows_or_was_never_up_does_not_start() {
        let mut fixture = Fixture::new(&text("slow_start = \"100s\""));
        for address in [A, B] {
            fixture.report(address, ProbeResult::NoAnswer);
        }
        assert_eq!(fixture.share(), 50, "all count as healthy");
        fixture.report(A, ProbeResult::Ok);
        assert_eq!(fixture.share(), 100);
        assert_eq!(fixture.control.state.slow_starts.0.len(), 0);
        let mut fixture = Fixture::new(&text("slow_start = \"100s\"\ninitial = \"unhealthy\""));
        fixture.report(B, ProbeResult::Ok);
        fixture.report(A, ProbeResult::Ok);
        assert_eq!(fixture.share(), 50);
    }

    #[test]
    fn it_ends_with_health_with_a_drain_and_with_the_key() {
        let starting = |fixture: &Fixture| fixture.control.state.slow_starts.0.len();
        let start = || {
            let mut fixture = Fixture::new(&text("slow_start = \"100s\""));
            fixture.report(A, ProbeResult::Refused);
            fixture.report(A, ProbeResult::Ok);
            assert_eq!(starting(&fixture), 1);
            fixture
        };
        let mut fixture = start();
        fixture.report(A, ProbeResult::Refused);
        assert_eq!(starting(&fixture), 0);
        let mut fixture = start();
        fixture.change(A, state(BackendState::Draining), None);
        fixture.adopt();
        assert_eq!(starting(&fixture), 0);
        let mut fixture = start();
        fixture.reload(&text("slow_start = \"50s\""), ReloadOptions::default());
        fixture.adopt();
        assert_eq!((starting(&fixture), fixture.share()), (1, 9));
        assert_eq!(fixture.after(10 * SECOND), 17, "by the new time");
        fixture.reload(&text(""), ReloadOptions::default());
        fixture.adopt();
        assert_eq!((starting(&fixture), fixture.share()), (0, 50));
    }
}
