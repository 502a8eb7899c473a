//! Flap damping: a backend that changes again and again is held down for a while.

use std::time::Duration;

use super::Moment;

/// Half of a penalty is forgotten in this time.
const HALF_LIFE: Duration = Duration::from_secs(60);

/// A backend that goes down with more than this is held down,
const TOO_MUCH: f64 = 4.0;

/// until its penalty is below this,
const ENOUGH: f64 = 2.0;

/// but never longer than that.
const LONGEST: Duration = Duration::from_secs(300);

/// How often a backend changed lately: each change adds 1, and what is there halves every minute.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Flaps {
    penalty: f64,
    at: Moment,
}

impl Flaps {
    /// It changed now.
    pub(super) fn add(&mut self, now: Moment) {
        self.penalty = self.penalty(now) + 1.0;
        self.at = now;
    }

    /// Until when it is held down, where it goes down now.
    pub(super) fn holds_until(&self, now: Moment) -> Option<Moment> {
        let penalty = self.penalty(now);
        if penalty <= TOO_MUCH {
            return None;
        }
        let halves = (penalty / ENOUGH).log2();
        Some(now + HALF_LIFE.mul_f64(halves).min(LONGEST))
    }

    fn penalty(&self, now: Moment) -> f64 {
        let age = now.saturating_sub(self.at);
        self.penalty * (-age.as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Moment {
        Moment::from_secs(seconds)
    }

    #[test]
    fn what_changes_often_is_held_down() {
        let mut flaps = Flaps::default();
        for second in 0..4 {
            flaps.add(at(second));
            assert_eq!(flaps.holds_until(at(second)), None, "change {second}");
        }
        flaps.add(at(4));
        let held = flaps.holds_until(at(4)).unwrap();
        assert!(held > at(4 + 60) && held < at(4 + 90), "{held:?}");
        assert!(flaps.penalty(held) < ENOUGH + 1e-9);
        for second in 5..500 {
            flaps.add(at(second));
        }
        assert_eq!(
            flaps.holds_until(at(499)),
            Some(at(499) + LONGEST),
            "bounded"
        );
    }

    #[test]
    fn what_changes_rarely_is_not() {
        let mut flaps = Flaps::default();
        for change in 0..100 {
            let now = at(change * 30);
            flaps.add(now);
            assert_eq!(flaps.holds_until(now), None, "{flaps:?}");
        }
    }
}
