//! Numbers as tables show them: how many, how many in a second, how long.

use std::time::Duration;

/// From 1000 on, each a thousand times the one before.
const UNITS: [&str; 6] = ["", "k", "M", "G", "T", "P"];

/// Up to here a count is shown exactly.
const EXACT: u64 = 100_000;

/// A count: exact while it is short, else as [`rate`] shows it.
pub(super) fn count(number: u64) -> String {
    if number < EXACT {
        number.to_string()
    } else {
        rate(approximate(number))
    }
}

#[allow(clippy::cast_precision_loss, reason = "three digits of it are shown")]
const fn approximate(number: u64) -> f64 {
    number as f64
}

/// A rate with a unit of thousands and up to three digits, such as `0.3`, `812` or `91.2k`.
pub(super) fn rate(number: f64) -> String {
    let mut rest = number.max(0.0); // also of what is no number
    let mut unit = 0;
    while rest >= 999.5 && unit + 1 < UNITS.len() {
        rest /= 1000.0;
        unit += 1;
    }
    digits(rest) + UNITS[unit]
}

/// One digit behind the point below 100, unless it is 0.
fn digits(number: f64) -> String {
    if number < 99.95 {
        let text = format!("{number:.1}");
        text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
    } else {
        format!("{number:.0}")
    }
}

/// Pairs of a unit and its seconds.
const TIMES: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

/// How long something lasts, by its two largest units: `3d 4h`, `2m 10s`, `0s`.
pub(super) fn lasting(duration: Duration) -> String {
    let mut rest = duration.as_secs();
    let first = TIMES.iter().position(|(_, seconds)| rest >= *seconds);
    let units = &TIMES[first.unwrap_or(TIMES.len() - 1)..];
    let mut parts = Vec::new();
    for (unit, seconds) in units.iter().take(2) {
        if rest >= *seconds || parts.is_empty() {
            parts.push(format!("{}{unit}", rest / seconds));
        }
        rest %= seconds;
    }
    parts.join(" ")
}

/// From one time of RFC 3339 in UTC to a later one; nothing where one is none.
pub(super) fn between(earlier: &str, later: &str) -> Option<Duration> {
    let seconds = unix_seconds(later)?.saturating_sub(unix_seconds(earlier)?);
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Seconds since 1970 of a time such as `2026-11-27T15:20:00.123Z`.
fn unix_seconds(text: &str) -> Option<i64> {
    let text = text.strip_suffix('Z')?;
    let (date, time) = text.split_once('T')?;
    let time = time.split_once('.').map_or(time, |(whole, _)| whole);
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    let is_time = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60
        && (1970..10_000).contains(&year);
    is_time.then(|| days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

fn numbers(text: &str, between: char) -> Option<[i64; 3]> {
    let all: Option<Vec<i64>> = text
        .split(between)
        .map(|part| part.parse::<u16>().ok().map(i64::from))
        .collect();
    all?.try_into().ok()
}

/// Days since 1970 in the Gregorian calendar, with years that begin in March, so that a leap day ends one.
const fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let of_years = year * 365 + year / 4 - year / 100 + year / 400;
    let of_months = (month * 153 + 2) / 5;
    of_years + of_months + day - 1 - 719_468 // days from March of year 0 to 1970
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (number, text) in [
            (0.0, "0"),
            (0.04, "0"),
            (0.26, "0.3"),
            (9.96, "10"),
            (99.94, "99.9"),
            (99.96, "100"),
            (812.4, "812"),
            (999.4, "999"),
            (999.6, "1k"),
            (1100.0, "1.1k"),
            (91_200.0, "91.2k"),
            (999_600.0, "1M"),
            (4.12e8, "412M"),
            (1e10, "10G"),
            (1e15, "1P"),
            (1.5e19, "15000P"),
            (-1.0, "0"),
            (f64::NAN, "0"),
        ] {
            assert_eq!(rate(number), text, "{number}");
        }
        assert_eq!(rate(f64::INFINITY), "infP");
    }

    #[test]
    fn counts() {
        for (number, text) in [
            (0, "0"),
            (18_204, "18204"),
            (99_999, "99999"),
            (100_000, "100k"),
            (1_234_567, "1.2M"),
            (u64::MAX, "18447P"),
        ] {
            assert_eq!(count(number), text);
        }
    }

    #[test]
    fn durations() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (130, "2m 10s"),
            (3600, "1h"),
            (3605, "1h"),
            (273_600, "3d 4h"),
            (86_400 * 400, "400d"),
        ] {
            assert_eq!(lasting(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn times() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:00:00Z", Some(951_825_600)),
            ("2000-03-01T00:00:00.5Z", Some(951_868_800)),
            ("2026-11-27T15:20:00.123Z", Some(1_795_792_800)),
            ("2026-11-27T15:20:00+01:00", None),
            ("2026-13-27T15:20:00Z", None),
            ("2026-11-27", None),
            ("garbage", None),
            ("", None),
        ] {
            assert_eq!(unix_seconds(text), seconds, "{text}");
        }
        let later = "2026-11-27T15:22:10Z";
        let earlier = "2026-11-27T15:20:00Z";
        assert_eq!(between(earlier, later), Some(Duration::from_secs(130)));
        assert_eq!(between(later, earlier), Some(Duration::ZERO));
    }
}
