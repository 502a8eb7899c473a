//! The moment at which rules are judged, for those that hold at some times only (`meta hour` of nft, the match time of
//! iptables).

use serde::{Deserialize, Serialize};

use super::iptables_match::compare;
use super::iptables_rule::Choice;
use super::model::{ClockField, Field, Match, Operand, Value};

/// A moment, and the time zone that tools write times in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Since 1970, UTC.
    pub seconds: i64,
    /// Seconds that the time zone is ahead of UTC.
    pub east: i32,
}

const DAY: i64 = 86_400;

impl Clock {
    /// As `date +%s%z` prints it: `1700000000+0130`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let at = text.len().checked_sub(5)?;
        let (seconds, zone) = text.split_at_checked(at)?;
        let zone: i32 = zone.parse().ok()?;
        Some(Self {
            seconds: seconds.parse().ok()?,
            east: (zone / 100 * 60 + zone % 100) * 60,
        })
    }

    pub(super) fn value(self, field: ClockField) -> u128 {
        let of = |utc: bool| self.seconds + if utc { 0 } else { i64::from(self.east) };
        let number = match field {
            ClockField::SecondOfDay { utc } => of(utc).rem_euclid(DAY),
            ClockField::Weekday { utc } => (of(utc).div_euclid(DAY) + 4).rem_euclid(7),
            ClockField::DayOfMonth { utc } => day_of_month(of(utc).div_euclid(DAY)),
            ClockField::Seconds { utc } => of(utc),
        };
        u128::try_from(number).unwrap_or_default()
    }
}

/// Of days since 1970, in the Gregorian calendar.
fn day_of_month(days: i64) -> i64 {
    // Years that begin in March put the leap day at their end.
    let day_of_era = (days + 719_468).rem_euclid(146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    day_of_year - (153 * ((5 * day_of_year + 2) / 153) + 2) / 5 + 1
}

/// Days since 1970 of a date.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * month + 2) / 5 + day
        - 1
        - 719_468
}

const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// The number that a text means beside a field: `22:00`, `Monday`, `2020-01-01 00:00:00`.
pub(super) fn number(field: ClockField, text: &str) -> Option<u128> {
    let number = match field {
        ClockField::SecondOfDay { .. } => time_of_day(text)?,
        ClockField::Weekday { .. } => {
            let name = text.get(..3)?.to_ascii_lowercase();
            i64::try_from(WEEKDAYS.iter().position(|day| *day == name)?).ok()?
        }
        ClockField::DayOfMonth { .. } => text.parse().ok()?,
        ClockField::Seconds { .. } => {
            let (date, time) = text.split_once([' ', 'T']).unwrap_or((text, "00:00"));
            let mut parts = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
            let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
            days(year, month, day) * DAY + time_of_day(time)?
        }
    };
    u128::try_from(number).ok()
}

/// `22:00`, `22:00:59`
fn time_of_day(text: &str) -> Option<i64> {
    let mut parts = text.split(':').map(|part| part.parse::<i64>().ok());
    let (hours, minutes) = (parts.next()??, parts.next()??);
    let seconds = parts.next().unwrap_or(Some(0))?;
    Some(hours * 3600 + minutes * 60 + seconds)
}

/// The conditions of iptables' match `time`.
pub(super) fn conditions(options: &[&Choice]) -> Vec<Match> {
    let utc = options.iter().all(|option| option.name != "--kerneltz");
    let value = |name: &str, field| {
        let option = options.iter().find(|option| option.name == name)?;
        number(field, option.value())
    };
    let between = |names: [&str; 2], field, last| {
        let ends = names.map(|name| value(name, field));
        let is_asked = ends.iter().any(Option::is_some);
        // One that ends before it begins passes midnight.
        let elements = vec![vec![Value::Range(
            ends[0].unwrap_or(0),
            ends[1].unwrap_or(last),
        )]];
        is_asked.then(|| compare(Operand::of(Field::Clock(field)), &Choice::plain(), elements))
    };
    let listed = |name: &str, field| {
        let option = options.iter().find(|option| option.name == name)?;
        let numbers = option.value().split(',').map(|text| number(field, text));
        let elements = numbers.map(|number| {
            vec![number.map_or(Value::Opaque, |number| Value::Range(number, number))]
        });
        Some(compare(
            Operand::of(Field::Clock(field)),
            option,
            elements.collect(),
        ))
    };
    let day_end = u128::from(DAY.unsigned_abs());
    let all = [
        between(
            ["--datestart", "--datestop"],
            ClockField::Seconds { utc },
            u128::MAX,
        ),
        between(
            ["--timestart", "--timestop"],
            ClockField::SecondOfDay { utc },
            day_end,
        ),
        listed("--monthdays", ClockField::DayOfMonth { utc }),
        listed("--weekdays", ClockField::Weekday { utc }),
    ];
    all.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Saturday, 28 November 2026, 03:56:04 UTC, on a machine one and a half hours ahead.
    const NOW: Clock = Clock {
        seconds: 1_795_838_164,
        east: 5400,
    };

    #[test]
    fn moments() {
        assert_eq!(Clock::parse("1795838164+0130\n"), Some(NOW));
        assert_eq!(Clock::parse("1795838164-0030").unwrap().east, -1800);
        assert_eq!(Clock::parse("now"), None);
        let utc = true;
        for (field, text) in [
            (ClockField::SecondOfDay { utc }, "03:56:04"),
            (ClockField::SecondOfDay { utc: false }, "05:26:04"),
            (ClockField::Weekday { utc }, "Saturday"),
            (ClockField::DayOfMonth { utc }, "28"),
            (ClockField::Seconds { utc }, "2026-11-28 03:56:04"),
            (ClockField::Seconds { utc: false }, "2026-11-28T05:26:04"),
        ] {
            assert_eq!(Some(NOW.value(field)), number(field, text), "{text}");
        }
        for (days_since, expected) in [(0, 1), (58, 28), (59, 1), (789, 29), (790, 1), (-1, 31)] {
            assert_eq!(day_of_month(days_since), expected, "{days_since}");
        }
    }
}
