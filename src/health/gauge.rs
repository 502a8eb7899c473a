//! Where others read what was measured, while it is measured.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::probe::{
    Cause, Check, Initial, Machine, Moment, ProbeResult, SizeFound, Standing, Target,
};

/// What was measured of one backend: written by the thread of health checks, read by any.
#[derive(Debug)]
pub struct Gauge {
    check: Arc<Check>,
    seen: Mutex<Seen>,
}

/// What was measured of a backend.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// What it is taken for.
    pub standing: Standing,
    /// Since when.
    pub since: SystemTime,
    /// How often flows had to go another way.
    pub changes: u64,
    /// Verdicts like the last one in a row.
    pub streak: u32,
    /// The last probe.
    pub last: Option<LastProbe>,
    /// Why it fails, as far as that is known.
    pub cause: Option<Cause>,
    /// When the certificate that it showed last expires, in seconds after the Unix epoch.
    pub certificate_expires: Option<u64>,
    /// Until when it is held down, because it changed too often.
    pub held_until: Option<SystemTime>,
    /// What packets of full size found, where they are sent.
    pub size: Option<SizeFound>,
    /// Probes that ended, by the number of their result.
    pub counts: [u64; ProbeResult::ALL.len()],
    /// The last probe that proved something, or the start.
    pub verdict_at: Instant,
}

/// A probe that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastProbe {
    /// What it found.
    pub result: ProbeResult,
    /// When.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
}

impl Gauge {
    /// Of a backend that was never probed.
    #[must_use]
    pub fn new(check: Arc<Check>) -> Self {
        let standing = match check.initial {
            Initial::Trial => Standing::Trial,
            Initial::Healthy => Standing::Healthy,
            Initial::Unhealthy => Standing::Unhealthy,
        };
        let seen = Seen {
            standing,
            since: SystemTime::now(),
            changes: 0,
            streak: 0,
            last: None,
            cause: None,
            certificate_expires: None,
            held_until: None,
            size: None,
            counts: [0; ProbeResult::ALL.len()],
            verdict_at: Instant::now(),
        };
        Self {
            check,
            seen: Mutex::new(seen),
        }
    }

    /// By what it is measured.
    #[must_use]
    pub const fn check(&self) -> &Arc<Check> {
        &self.check
    }

    /// What was measured so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.lock().clone()
    }

    /// A probe ended.
    pub(super) fn record(
        &self,
        machine: &Machine,
        result: ProbeResult,
        started: Moment,
        now: Moment,
    ) {
        let wall = SystemTime::now();
        let mut seen = self.lock();
        if seen.standing != machine.standing() {
            seen.standing = machine.standing();
            seen.since = wall;
        }
        if seen.standing.is_up() && result != ProbeResult::NotSent {
            seen.cause = None;
        }
        seen.streak = machine.streak();
        seen.changes = machine.changes();
        seen.held_until = machine
            .held_until(now)
            .map(|until| wall + until.saturating_sub(now));
        seen.counts[result as usize] += 1;
        seen.last = Some(LastProbe {
            result,
            at: wall,
            took: now.saturating_sub(started),
        });
        if result.verdict().is_some() {
            seen.verdict_at = Instant::now();
        }
    }

    /// It showed a certificate that expires then.
    pub(super) fn certify(&self, expires: u64) {
        self.lock().certificate_expires = Some(expires);
    }

    /// Why it fails became known.
    pub(super) fn explain(&self, cause: Option<Cause>) {
        let mut seen = self.lock();
        let is_local = seen.last.is_some_and(|last| last.result.is_local());
        seen.cause = cause.filter(|_| is_local || !seen.standing.is_up());
    }

    /// What packets of full size found.
    pub fn measure(&self, found: SizeFound) {
        self.lock().size = Some(found);
    }

    /// Whether so long no probe proved anything that nothing is known.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.lock().verdict_at.elapsed() > self.check.timing.patience()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread of health checks counts beside results.
#[derive(Debug, Default)]
pub struct Counts {
    strays: AtomicU64,
    in_flight: AtomicU64,
    lag_nanos: AtomicU64,
    /// By the numbers of results.
    local: [AtomicU64; ProbeResult::ALL.len()],
}

impl Counts {
    /// A packet came out of the probe device that no probe sent.
    pub(super) fn count_stray(&self) {
        self.strays.fetch_add(1, Ordering::Relaxed);
    }

    /// How many did.
    #[must_use]
    pub fn strays(&self) -> u64 {
        self.strays.load(Ordering::Relaxed)
    }

    /// A probe started, so much later than planned, as one of so many.
    pub(super) fn note_start(&self, lag: Duration, in_flight: usize) {
        let nanos = u64::try_from(lag.as_nanos()).unwrap_or(u64::MAX);
        self.lag_nanos.store(nanos, Ordering::Relaxed);
        self.note_in_flight(in_flight);
    }

    pub(super) fn note_in_flight(&self, in_flight: usize) {
        self.in_flight.store(in_flight as u64, Ordering::Relaxed);
    }

    /// Probes and follow-ups that wait for an answer.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How much later than planned the last probe started.
    #[must_use]
    pub fn lag(&self) -> Duration {
        Duration::from_nanos(self.lag_nanos.load(Ordering::Relaxed))
    }

    pub(super) fn count_local(&self, result: ProbeResult) {
        if result.is_local() {
            self.local[result as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Probes that ended so, where it is a fault of this host.
    #[must_use]
    pub fn local(&self, result: ProbeResult) -> u64 {
        self.local[result as usize].load(Ordering::Relaxed)
    }
}

/// The gauges of all backends that are measured.
#[derive(Debug, Clone, Default)]
pub struct Gauges {
    by_target: BTreeMap<Target, Arc<Gauge>>,
    counts: Arc<Counts>,
}

impl Gauges {
    /// Those of these backends.
    pub(super) fn new(
        gauges: impl Iterator<Item = (Target, Arc<Gauge>)>,
        counts: Arc<Counts>,
    ) -> Self {
        Self {
            by_target: gauges.collect(),
            counts,
        }
    }

    /// What the thread counts beside them.
    #[must_use]
    pub const fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// That of a backend.
    #[must_use]
    pub fn of(&self, target: &Target) -> Option<&Arc<Gauge>> {
        self.by_target.get(target)
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Target, &Arc<Gauge>)> {
        self.by_target.iter()
    }

    /// That of a backend where its check is the same; else a new one.
    fn known(&self, target: &Target, check: &Check) -> Option<Arc<Gauge>> {
        let gauge = self.by_target.get(target)?;
        (*gauge.check == *check).then(|| Arc::clone(gauge))
    }

    pub(super) fn going_on(&self, target: &Target, check: &Arc<Check>) -> Arc<Gauge> {
        let known = self.known(target, check);
        known.unwrap_or_else(|| Arc::new(Gauge::new(Arc::clone(check))))
    }
}

impl FromIterator<(Target, Arc<Gauge>)> for Gauges {
    fn from_iter<I: IntoIterator<Item = (Target, Arc<Gauge>)>>(gauges: I) -> Self {
        Self::new(gauges.into_iter(), Arc::default())
    }
}

#[cfg(test)]
impl Gauges {
    /// That of one backend which answered once, and showed a certificate that expires then.
    pub(crate) fn of_one(target: Target, expires: u64) -> Self {
        let check = Arc::<Check>::default();
        let gauge = Gauge::new(Arc::clone(&check));
        let mut machine = Machine::new(check, Moment::ZERO);
        machine.observe(ProbeResult::Ok, Moment::from_secs(1));
        gauge.record(
            &machine,
            ProbeResult::Ok,
            Moment::ZERO,
            Moment::from_secs(1),
        );
        gauge.certify(expires);
        Self::new(std::iter::once((target, Arc::new(gauge))), Arc::default())
    }
}
