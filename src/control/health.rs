//! What was measured, as far as packets go by it. Reports change it; overrides and the file hold against it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use log::{error, info, warn};

use super::events::{EventKind, Happening};
use super::host::Host;
use super::overlay::{BackendName, ChangeError, Overlay};
use super::pending::{Pending, Then};
use super::slow_start::{SlowStarts, Turned};
use super::view::HostProblem;
use super::{Control, State};
use crate::config::Config;
use crate::director::{BackendState, Health, VipIndex, VipSpec};
use crate::health::{Plan, Report, Reports, Told};
use crate::probe::{
    Cause, Check, Initial, Kind, OnUnhealthy, ProbeResult, ProbedBy, Probing, SizeFound, Standing,
    Target,
};

/// The word of the problem that all probes fail at once.
pub(super) const SUSPICION: &str = "health_checks";

/// What was measured of the backends that are probed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Measured {
    /// Those that are probed, and by what.
    checks: BTreeMap<Target, Arc<Check>>,
    /// Those that are down, and what showed it.
    down: BTreeMap<Target, ProbeResult>,
    /// Those that are on trial: no probe proved anything yet.
    untested: BTreeSet<Target>,
    /// Why, as far as that is known.
    causes: BTreeMap<Target, Cause>,
    /// Those through whose tunnels long packets do not get, without anybody saying so.
    black_holes: BTreeMap<Target, SizeFound>,
    /// Whether rather this host is at fault, so that all count as healthy.
    suspects_itself: bool,
}

impl Measured {
    /// The same for another configuration: what was measured of a backend stays where its check does.
    pub(super) fn followed(&self, effective: &Config) -> Self {
        let mut checks = BTreeMap::new();
        let mut down = BTreeMap::new();
        let mut untested = BTreeSet::new();
        for vip in &effective.vips {
            let Some(Probing {
                by: ProbedBy::Check(check),
                ..
            }) = &vip.probing
            else {
                continue;
            };
            let name: Arc<str> = vip.name.as_str().into();
            let probed = vip
                .backends
                .iter()
                .filter(|backend| backend.state != BackendState::Disabled);
            for backend in probed {
                let target = Target {
                    vip: Arc::clone(&name),
                    address: backend.address,
                };
                let is_known = self.checks.get(&target).is_some_and(|known| known == check);
                let result = match check.initial {
                    _ if is_known => self.down.get(&target).copied(),
                    Initial::Unhealthy => Some(ProbeResult::NoVerdict),
                    Initial::Trial | Initial::Healthy => None,
                };
                let was_untested = self.untested.contains(&target);
                if check.initial == Initial::Trial && (!is_known || was_untested) {
                    untested.insert(target.clone());
                }
                down.extend(result.map(|result| (target.clone(), result)));
                checks.insert(target, Arc::clone(check));
            }
        }
        let causes = self
            .causes
            .iter()
            .filter(|(target, _)| down.contains_key(target));
        let mut black_holes = self.black_holes.clone();
        black_holes.retain(|target, _| checks.contains_key(target));
        Self {
            black_holes,
            causes: causes
                .map(|(target, cause)| (target.clone(), cause.clone()))
                .collect(),
            checks,
            down,
            untested,
            suspects_itself: self.suspects_itself,
        }
    }

    /// What a backend of a VIP counts as.
    #[must_use]
    pub fn health(&self, vip: &VipSpec, address: IpAddr) -> Health {
        let Some(probing) = &vip.probing else {
            return Health::Healthy;
        };
        if self.suspects_itself || self.down.is_empty() {
            return Health::Healthy;
        }
        let Some(result) = self.failure(vip, address) else {
            return Health::Healthy;
        };
        match probing.on_unhealthy {
            OnUnhealthy::Move => Health::Unhealthy,
            OnUnhealthy::Keep => Health::Doubtful,
            OnUnhealthy::Auto if result.is_proof() => Health::Unhealthy,
            OnUnhealthy::Auto => Health::Doubtful,
        }
    }

    /// What showed that a backend of a VIP is down; `None` for one that is not.
    #[must_use]
    pub fn failure(&self, vip: &VipSpec, address: IpAddr) -> Option<ProbeResult> {
        let name = measured_by(vip, vip.probing.as_ref()?);
        let target = Target {
            vip: name.into(),
            address,
        };
        self.down.get(&target).copied()
    }

    /// Whether no probe of a backend of a VIP proved anything yet.
    #[must_use]
    pub fn is_untested(&self, vip: &VipSpec, address: IpAddr) -> bool {
        let Some(probing) = vip.probing.as_ref().filter(|_| !self.untested.is_empty()) else {
            return false;
        };
        let vip = measured_by(vip, probing).into();
        self.untested.contains(&Target { vip, address })
    }

    /// What keeps this host from its work, where everything failed everywhere at once.
    pub(super) fn suspicion(&self) -> Option<HostProblem> {
        self.suspects_itself.then(|| HostProblem {
            what: SUSPICION.to_owned(),
            text: "every backend of every VIP failed its probes at once: rather a fault of this host or its \
                   network; all count as healthy until one answers"
                .to_owned(),
            keeps_from_work: true,
        })
    }

    /// Takes a report over.
    fn take(&mut self, report: &Report) {
        if !self.checks.contains_key(&report.target) {
            return;
        }
        match report.size.filter(SizeFound::is_black_hole) {
            Some(found) => self.black_holes.insert(report.target.clone(), found),
            None => self.black_holes.remove(&report.target),
        };
        if report.standing != Standing::Trial {
            self.untested.remove(&report.target);
        }
        if report.standing.is_up() {
            self.down.remove(&report.target);
            self.causes.remove(&report.target);
        } else {
            // What it was when it went down holds, so that flows do not move back and forth with results.
            self.down
                .entry(report.target.clone())
                .or_insert(report.result);
            let cause = report.cause.iter();
            self.causes
                .extend(cause.map(|cause| (report.target.clone(), cause.clone())));
        }
    }
}

/// The name of the VIP whose probes measure this one.
pub(super) fn measured_by<'a>(vip: &'a VipSpec, probing: &'a Probing) -> &'a str {
    match &probing.by {
        ProbedBy::Check(_) => &vip.name,
        ProbedBy::Track(other) => other,
    }
}

impl<H: Host> Control<H> {
    /// Has measured what the configuration that holds wants measured.
    pub(super) fn measure(&mut self) {
        self.plan += 1;
        let mut plan = Plan::new(
            self.plan,
            &self.state.effective,
            &self.state.paths,
            &self.publisher.current().load().snapshot,
            &self.gauges,
        );
        plan.counters = self.roster.counters().clone();
        self.gauges = Arc::new(plan.gauges());
        if let Err(error) = self.host.measure(plan) {
            let line =
                format!("health checks cannot go on, what was measured last holds: {error:#}");
            error!("{line}");
            self.events
                .tell(Happening::new(EventKind::HostProblem, line));
        }
    }

    /// What was reported holds from now on. Reports of a former plan say nothing of this one.
    pub(super) fn take_reports(&mut self, reports: &Reports) {
        if reports.plan != self.plan {
            return;
        }
        let mut measured = (*self.state.measured).clone();
        measured.suspects_itself = reports.suspects_itself;
        for report in &reports.changes {
            measured.take(report);
        }
        if measured == *self.state.measured {
            return;
        }
        let before = std::mem::replace(&mut self.state.measured, Arc::new(measured));
        if before.suspects_itself != self.state.measured.suspects_itself {
            self.follow_suspicion();
        }
        self.tell_changes(&before, reports);
        self.tell_causes(&before);
        self.tell_sizes(&before);
        self.begin_slow_starts(&self.turned(&before));
        let changed = self.vips_of(&before);
        if !changed.is_empty() {
            let state = self.state.clone();
            match self.publish(&state, Some(&changed), self.host.device_mtu()) {
                Ok(epoch) => self.pending.push_back(Pending::new(epoch, Then::Rest)),
                Err(error) => error!("cannot follow a change of health: {error:#}"),
            }
        }
        self.generation += 1;
        let names = reports.changes.iter().map(|report| &*report.target.vip);
        let names: BTreeSet<_> = names.collect();
        if before.suspects_itself == self.state.measured.suspects_itself {
            self.judge_addresses(Some(&names));
        } else {
            self.judge_addresses(None);
        }
        self.show_view();
    }

    /// Backends whose health turned. What was never up before does not turn up.
    fn turned(&self, before: &Measured) -> Vec<(Target, Turned)> {
        let now = &self.state.measured.down;
        let down = now
            .keys()
            .filter(|target| !before.down.contains_key(target));
        let was_up = |(_, result): &(&Target, &ProbeResult)| **result != ProbeResult::NoVerdict;
        let up = before.down.iter().filter(was_up);
        let up = up.filter(|(target, _)| !now.contains_key(target));
        let up = up.map(|(target, _)| (target.clone(), Turned::Up));
        down.map(|target| (target.clone(), Turned::Down))
            .chain(up)
            .collect()
    }

    /// The VIPs of which a backend counts as something else than before.
    fn vips_of(&self, before: &Measured) -> Vec<VipIndex> {
        let now = &self.state.measured;
        let names: BTreeSet<&Target> = now.down.keys().chain(before.down.keys()).collect();
        let names: BTreeSet<&str> = names.into_iter().map(|target| &*target.vip).collect();
        let differs = |vip: &VipSpec| {
            let measured = vip.probing.as_ref();
            let concerned =
                measured.is_some_and(|probing| names.contains(measured_by(vip, probing)));
            concerned
                && vip.backends.iter().any(|backend| {
                    before.health(vip, backend.address) != now.health(vip, backend.address)
                })
        };
        let current = self.publisher.current().load();
        let vips = self
            .state
            .effective
            .vips
            .iter()
            .zip(current.snapshot.vips());
        vips.filter(|(spec, _)| differs(spec))
            .map(|(_, vip)| vip.index)
            .collect()
    }

    fn tell_changes(&self, before: &Measured, reports: &Reports) {
        for report in &reports.changes {
            let Target { vip, address } = &report.target;
            let was_down = before.down.contains_key(&report.target);
            let is_down = self.state.measured.down.contains_key(&report.target);
            if was_down == is_down {
                continue;
            }
            let word = if is_down { "unhealthy" } else { "healthy" };
            let text = format!(
                "vip {vip}: backend {address}: {word}: {} ({} in a row)",
                report.result, report.streak
            );
            if is_down {
                warn!("{text}");
            } else {
                info!("{text}");
            }
            self.events.tell(Happening {
                vip: Some(vip.to_string()),
                backend: Some(*address),
                ..Happening::new(EventKind::HealthChanged, text)
            });
        }
    }
}

impl<H: Host> Control<H> {
    fn tell_causes(&self, before: &Measured) {
        for (target, cause) in &self.state.measured.causes {
            if before.causes.get(target) == Some(cause) {
                continue;
            }
            let Target { vip, address } = target;
            let text = format!("vip {vip}: backend {address}: {cause}");
            warn!("{text}");
            self.events.tell(Happening {
                vip: Some(vip.to_string()),
                backend: Some(*address),
                codes: cause.codes.clone(),
                ..Happening::new(EventKind::HealthChanged, text)
            });
        }
    }

    fn tell_sizes(&self, before: &Measured) {
        let (before, now) = (&before.black_holes, &self.state.measured.black_holes);
        for (target, found) in now {
            let cause = found.cause().filter(|_| before.get(target) != Some(found));
            if let Some(cause) = cause {
                self.tell_size(target, &cause.to_string(), cause.codes);
            }
        }
        for (target, found) in before {
            if !now.contains_key(target) && self.state.measured.checks.contains_key(target) {
                let text = format!(
                    "packets of {} bytes get through the tunnel again",
                    found.wanted
                );
                self.tell_size(target, &text, Vec::new());
            }
        }
    }

    fn tell_size(&self, Target { vip, address }: &Target, text: &str, codes: Vec<&'static str>) {
        let text = format!("vip {vip}: backend {address}: {text}");
        if codes.is_empty() {
            info!("{text}");
        } else {
            warn!("{text}");
        }
        self.events.tell(Happening {
            vip: Some(vip.to_string()),
            backend: Some(*address),
            codes,
            ..Happening::new(EventKind::HealthChanged, text)
        });
    }

    /// Has what others found of a backend count.
    pub(super) fn take_told(&mut self, told: Told) -> Result<(), ChangeError> {
        let is_external = |check: &Arc<Check>| check.kind == Kind::External;
        if !self
            .state
            .measured
            .checks
            .get(&told.target)
            .is_some_and(is_external)
        {
            return Err(ChangeError::NotExternal(BackendName {
                vip: told.target.vip.to_string(),
                address: told.target.address,
            }));
        }
        let heard = self.host.tell(told);
        heard.map_err(|error| ChangeError::Refused(format!("{error:#}")))
    }
}

impl State {
    /// What is known of a backend's health: what an operator says, else what was measured.
    pub(super) fn health(&self, vip: &VipSpec, address: IpAddr) -> Health {
        let at = (vip, address);
        effective(&self.overlay, &self.measured, &self.slow_starts, at)
    }
}

/// What a backend of a VIP counts as: what an operator says, else what was measured, which may be that it is only
/// starting.
pub(super) fn effective(
    overlay: &Overlay,
    measured: &Measured,
    slow_starts: &SlowStarts,
    (vip, address): (&VipSpec, IpAddr),
) -> Health {
    if let Some(said) = overlay.health(&vip.name, address) {
        return said;
    }
    match measured.health(vip, address) {
        Health::Healthy => slow_starts
            .of(vip, address)
            .map_or(Health::Healthy, Health::Starting),
        unhealthy @ (Health::Unhealthy | Health::Doubtful) => unhealthy,
        starting @ Health::Starting(_) => starting,
    }
}

#[cfg(test)]
mod tests;
