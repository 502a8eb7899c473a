//! One backend's way between healthy and unhealthy. What it is depends on its check, and on the results in
//! their order and at their moments, on nothing else.

use std::sync::Arc;
use std::time::Duration;

use super::flaps::Flaps;
use super::{Check, Initial, Moment, ProbeResult, Verdict};

/// What a backend is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Healthy, and the next verdict alone decides.
    Trial,
    /// It answers.
    Healthy,
    /// It does not.
    Unhealthy,
}

impl Standing {
    /// Whether it takes flows as far as its health is concerned.
    #[must_use]
    pub const fn is_up(self) -> bool {
        match self {
            Self::Trial | Self::Healthy => true,
            Self::Unhealthy => false,
        }
    }
}

/// A standing that another one follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// As it was.
    pub from: Standing,
    /// As it is.
    pub to: Standing,
    /// The result that tipped the scales.
    pub result: ProbeResult,
    /// Verdicts of that kind in a row.
    pub streak: u32,
}

impl Turn {
    /// Whether flows go another way.
    #[must_use]
    pub const fn is_edge(&self) -> bool {
        self.from.is_up() != self.to.is_up()
    }
}

/// One probe that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Last {
    /// What it found.
    pub result: ProbeResult,
    /// When.
    pub at: Moment,
}

/// The health of one backend of one VIP.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    check: Arc<Check>,
    standing: Standing,
    /// When it became so.
    since: Moment,
    /// Verdicts of the last one's kind in a row.
    streak: u32,
    verdict: Option<(Verdict, ProbeResult)>,
    /// When the last verdict came; the start before the first.
    verdict_at: Moment,
    last: Option<Last>,
    /// Edges since the start.
    changes: u64,
    flaps: Flaps,
    held_until: Option<Moment>,
}

impl Machine {
    /// One that begins now.
    #[must_use]
    pub fn new(check: Arc<Check>, now: Moment) -> Self {
        let standing = match check.initial {
            Initial::Trial => Standing::Trial,
            Initial::Healthy => Standing::Healthy,
            Initial::Unhealthy => Standing::Unhealthy,
        };
        Self {
            check,
            standing,
            since: now,
            streak: 0,
            verdict: None,
            verdict_at: now,
            last: None,
            changes: 0,
            flaps: Flaps::default(),
            held_until: None,
        }
    }

    /// By what it is measured.
    #[must_use]
    pub const fn check(&self) -> &Arc<Check> {
        &self.check
    }

    /// What the backend is taken for.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        self.standing
    }

    /// Since when.
    #[must_use]
    pub const fn since(&self) -> Moment {
        self.since
    }

    /// Verdicts like the last one in a row.
    #[must_use]
    pub const fn streak(&self) -> u32 {
        self.streak
    }

    /// How often flows had to go another way.
    #[must_use]
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// The last probe that ended, whatever it found.
    #[must_use]
    pub const fn last(&self) -> Option<Last> {
        self.last
    }

    /// Until when it is held down, because it changed too often.
    #[must_use]
    pub fn held_until(&self, now: Moment) -> Option<Moment> {
        self.held_until
            .filter(|until| *until > now && !self.standing.is_up())
    }

    /// Whether so long no probe proved anything that what it is taken for is only what it was. The first verdict
    /// may take as long.
    #[must_use]
    pub fn is_unknown(&self, now: Moment) -> bool {
        let silence = now.saturating_sub(self.verdict_at);
        silence > self.check.timing.patience()
    }

    /// A probe ended. What it tips, if anything. A result that is no verdict tips nothing and counts for
    /// nothing.
    pub fn observe(&mut self, result: ProbeResult, now: Moment) -> Option<Turn> {
        self.last = Some(Last { result, at: now });
        let verdict = result.verdict()?;
        let goes_on = self.verdict.is_some_and(|(before, _)| before == verdict);
        self.streak = if goes_on {
            self.streak.saturating_add(1)
        } else {
            1
        };
        self.verdict = Some((verdict, result));
        self.verdict_at = now;
        let (from, to) = (self.standing, self.next(verdict, now));
        if from == to {
            return None;
        }
        let turn = Turn {
            from,
            to,
            result,
            streak: self.streak,
        };
        self.standing = to;
        self.since = now;
        if turn.is_edge() {
            self.changes += 1;
            self.flaps.add(now);
            self.held_until = match to {
                Standing::Unhealthy => self.flaps.holds_until(now),
                Standing::Trial | Standing::Healthy => None,
            };
        }
        Some(turn)
    }

    fn next(&self, verdict: Verdict, now: Moment) -> Standing {
        let has = |count: std::num::NonZeroU8| self.streak >= u32::from(count.get());
        match (self.standing, verdict) {
            (Standing::Trial, Verdict::Passed) => Standing::Healthy,
            (Standing::Trial, Verdict::Failed) => Standing::Unhealthy,
            (Standing::Healthy, Verdict::Failed) if has(self.check.fall) => Standing::Unhealthy,
            (Standing::Unhealthy, Verdict::Passed) if has(self.check.rise) => {
                match self.held_until(now) {
                    Some(_) => Standing::Unhealthy,
                    None => Standing::Healthy,
                }
            }
            (standing, _) => standing,
        }
    }

    /// From the start of a probe to the start of the next one.
    #[must_use]
    pub fn interval(&self) -> Duration {
        let timing = &self.check.timing;
        let verdict = self.verdict.map(|(verdict, _)| verdict);
        match (self.standing, verdict) {
            (Standing::Trial, _)
            | (Standing::Healthy, Some(Verdict::Failed))
            | (Standing::Unhealthy, Some(Verdict::Passed)) => timing.edge,
            (Standing::Healthy, _) => timing.interval,
            (Standing::Unhealthy, _) => timing.down,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::num::NonZeroU8;

    use super::super::{Close, Kind, Timing, Via};
    use super::*;

    pub(in super::super) fn check(rise: u8, fall: u8, initial: Initial) -> Arc<Check> {
        Arc::new(Check {
            kind: Kind::Tcp,
            port: None,
            timing: Timing {
                interval: Duration::from_secs(2),
                edge: Duration::from_secs(1),
                down: Duration::from_secs(5),
                timeout: Duration::from_secs(1),
            },
            rise: NonZeroU8::new(rise).unwrap(),
            fall: NonZeroU8::new(fall).unwrap(),
            initial,
            source: None,
            close: Close::Reset,
            via: Via::Tunnel,
            passive: false,
        })
    }

    const GOOD: ProbeResult = ProbeResult::Ok;
    const BAD: ProbeResult = ProbeResult::NoAnswer;
    const LOCAL: ProbeResult = ProbeResult::NoPort;

    /// Feeds results a second apart; returns after each whether it is up.
    fn ups(machine: &mut Machine, from: u64, results: &[ProbeResult]) -> Vec<bool> {
        let mut up = Vec::new();
        for (&result, second) in results.iter().zip(from..) {
            machine.observe(result, Moment::from_secs(second));
            up.push(machine.standing().is_up());
        }
        up
    }

    #[test]
    fn so_many_in_a_row_tip_it() {
        let mut machine = Machine::new(check(2, 3, Initial::Healthy), Moment::ZERO);
        let results = [
            BAD, BAD, GOOD, BAD, BAD, LOCAL, BAD, GOOD, BAD, GOOD, LOCAL, GOOD,
        ];
        let (t, f) = (true, false);
        let expected = [t, t, t, t, t, t, f, f, f, f, f, t];
        assert_eq!(ups(&mut machine, 1, &results), expected);
        assert_eq!((machine.changes(), machine.streak()), (2, 2));
        assert_eq!(machine.since(), Moment::from_secs(12));
    }

    #[test]
    fn what_it_is_before_the_first_result() {
        for (initial, results, expected) in [
            (Initial::Trial, [LOCAL, BAD], [true, false]),
            (Initial::Trial, [GOOD, BAD], [true, true]),
            (Initial::Healthy, [BAD, BAD], [true, true]),
            (Initial::Unhealthy, [GOOD, GOOD], [false, true]),
        ] {
            let mut machine = Machine::new(check(2, 3, initial), Moment::ZERO);
            assert_eq!(machine.standing().is_up(), initial != Initial::Unhealthy);
            assert_eq!(
                ups(&mut machine, 1, &results),
                expected,
                "{initial}: {results:?}"
            );
        }
    }

    #[test]
    fn the_interval_is_short_at_an_edge() {
        let mut machine = Machine::new(check(2, 2, Initial::Trial), Moment::ZERO);
        let mut seconds = vec![machine.interval().as_secs()];
        for result in [GOOD, BAD, GOOD, BAD, BAD, GOOD, LOCAL, GOOD] {
            machine.observe(result, Moment::from_secs(1));
            seconds.push(machine.interval().as_secs());
        }
        assert_eq!(seconds, [1, 2, 1, 2, 1, 5, 1, 1, 2]);
    }

    #[test]
    fn what_flaps_is_held_down() {
        let mut machine = Machine::new(check(1, 1, Initial::Healthy), Moment::ZERO);
        let up = ups(&mut machine, 0, &[BAD, GOOD, BAD, GOOD, BAD, GOOD, GOOD]);
        assert_eq!(up, [false, true, false, true, false, false, false]);
        let until = machine.held_until(Moment::from_secs(7)).unwrap();
        machine.observe(GOOD, until);
        assert_eq!(machine.standing(), Standing::Healthy);
        assert_eq!(machine.held_until(until), None);
    }

    #[test]
    fn without_verdicts_nothing_is_known_and_nothing_changes() {
        let mut machine = Machine::new(check(1, 1, Initial::Trial), Moment::ZERO);
        let at = Moment::from_secs;
        machine.observe(GOOD, at(1));
        machine.observe(ProbeResult::NotSent, at(16));
        assert!(!machine.is_unknown(at(16)));
        assert!(
            machine.is_unknown(at(17)),
            "three intervals, of the longest one"
        );
        assert_eq!(machine.standing(), Standing::Healthy);
        machine.observe(GOOD, at(18));
        assert!(!machine.is_unknown(at(18)));
    }
}
