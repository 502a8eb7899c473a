//! Durations as the file writes them: a whole number and a unit, such as "50us", "500ms", "2s" or "15m".
//!
//! One reader for all keys, each with its own bounds, and the text that reads as the same duration.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::problem::Fault;
use super::value::{self, Raw};

/// The units, each with its length in microseconds; the longest first.
const UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1000),
    ("us", 1),
];

/// A duration within `bounds`, which are whole microseconds; `example` is one of them.
pub(super) fn read(
    raw: Raw<'_>,
    bounds: RangeInclusive<Duration>,
    example: &str,
) -> Result<Duration, Fault> {
    let (low, high) = (text(*bounds.start()), text(*bounds.end()));
    let accepted = format!("a duration from \"{low}\" to \"{high}\" such as \"{example}\"");
    let written = value::text(&raw, &accepted)?;
    let Some((digits, unit_us)) = split(written) else {
        return Err(Fault::new(
            "not a number with us, ms, s, m, h or d",
            accepted,
        ));
    };
    let number = digits.parse::<u64>().ok();
    number
        .and_then(|number| number.checked_mul(unit_us))
        .map(Duration::from_micros)
        .filter(|duration| bounds.contains(duration))
        .ok_or_else(|| Fault::new("out of range", accepted))
}

/// The duration that such a text says; nothing for any other text.
#[must_use]
pub fn parse(written: &str) -> Option<Duration> {
    let (digits, unit_us) = split(written)?;
    let us = digits.parse::<u64>().ok()?.checked_mul(unit_us)?;
    Some(Duration::from_micros(us))
}

/// The digits, at least one, and the length of the unit after them in microseconds.
fn split(written: &str) -> Option<(&str, u64)> {
    let end = written.find(|c: char| !c.is_ascii_digit())?;
    let (digits, name) = written.split_at(end);
    let (_, unit_us) = UNITS.iter().find(|(unit, _)| *unit == name)?;
    (!digits.is_empty()).then_some((digits, *unit_us))
}

/// A duration in the longest unit of which it is a whole number; below a microsecond nothing counts.
#[must_use]
pub fn text(duration: Duration) -> String {
    let us = duration.as_micros();
    let (name, unit_us) = UNITS
        .into_iter()
        .find(|(_, unit_us)| us >= u128::from(*unit_us) && us.is_multiple_of(u128::from(*unit_us)))
        .unwrap_or(("ms", 1000));
    format!("{}{name}", us / u128::from(unit_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: RangeInclusive<Duration> =
        Duration::from_millis(1)..=Duration::from_secs(7 * 86_400);

    fn read(text: &str) -> Result<Duration, Fault> {
        super::read(Raw::Text(text), BOUNDS, "2s")
    }

    #[test]
    fn durations() {
        for (text, ms) in [
            ("1ms", 1),
            ("1000us", 1),
            ("500ms", 500),
            ("002s", 2000),
            ("15m", 900_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
            ("604800000ms", 604_800_000),
        ] {
            assert_eq!(read(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_none() {
        let accepted = "a duration from \"1ms\" to \"7d\" such as \"2s\"";
        for text in [
            "0s",
            "8d",
            "604800001ms",
            "99999999999999999999s",
            "9999999999999999999d",
        ] {
            assert_eq!(
                read(text),
                Err(Fault::new("out of range", accepted)),
                "{text}"
            );
        }
        let message = "not a number with us, ms, s, m, h or d";
        for text in [
            "", "s", "2", "2 s", "-2s", "+2s", "2.5s", "2sec", "1s2s", "2µs", "٢s",
        ] {
            assert_eq!(read(text), Err(Fault::new(message, accepted)), "{text}");
        }
        let fault = super::read(Raw::Whole(2), BOUNDS, "2s").unwrap_err();
        assert_eq!(fault.message, "wrong type (integer)");
    }

    #[test]
    fn what_is_parsed_reads_the_same() {
        for written in ["50us", "1500ms", "90s", "15m", "7d"] {
            assert_eq!(parse(written).map(text).as_deref(), Some(written));
        }
        for written in [
            "",
            "5",
            "m",
            "-1s",
            "1.5h",
            "99999999999999999999d",
            "9999999999999d",
        ] {
            assert_eq!(parse(written), None, "{written}");
        }
    }

    #[test]
    fn texts() {
        for (ms, expected) in [
            (0, "0ms"),
            (1, "1ms"),
            (1500, "1500ms"),
            (90_000, "90s"),
            (60_000, "1m"),
            (900_000, "15m"),
            (90_000_000, "25h"),
            (604_800_000, "7d"),
        ] {
            assert_eq!(text(Duration::from_millis(ms)), expected);
        }
        assert_eq!(text(Duration::from_micros(50)), "50us");
        assert_eq!(text(Duration::from_micros(2000)), "2ms");
    }
}
