//! Readers of the values of `[vip.health]`.

use std::num::NonZeroU8;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::duration;
use super::super::problem::Fault;
use super::super::value::{self, Raw, text, whole};
use crate::probe::check::{Pattern, Verify};

/// The interval or timeout of a probe.
pub(super) fn time(raw: Raw<'_>) -> Result<Duration, Fault> {
    let bounds = Duration::from_millis(10)..=Duration::from_secs(3600);
    duration::read(raw, bounds, "2s")
}

/// The interval of what is done seldom.
pub(super) fn long_time(raw: Raw<'_>) -> Result<Duration, Fault> {
    let bounds = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
    duration::read(raw, bounds, "5m")
}

pub(super) fn slow_start(raw: Raw<'_>) -> Result<Duration, Fault> {
    let bounds = Duration::from_secs(1)..=Duration::from_secs(3600);
    duration::read(raw, bounds, "30s")
}

pub(super) fn count(raw: Raw<'_>) -> Result<NonZeroU8, Fault> {
    let number = whole(raw, 1..=255, "")?;
    let count = u8::try_from(number).ok().and_then(NonZeroU8::new);
    Ok(count.unwrap_or(NonZeroU8::MIN))
}

/// A request target: nothing in it may end the line.
pub(super) fn path(raw: Raw<'_>) -> Result<String, Fault> {
    const ACCEPTED: &str =
        "a path such as \"/health\", up to 1024 printable ASCII characters without a space";
    let text = text(&raw, ACCEPTED)?;
    if !text.starts_with('/') {
        return Err(Fault::new("not a path that begins with '/'", ACCEPTED));
    }
    short(text, 1024, ACCEPTED)
}

/// By what a certificate is judged.
pub(super) fn verify(raw: Raw<'_>) -> Result<Verify, Fault> {
    const ACCEPTED: &str =
        "\"none\", \"system\", or the absolute path of a file of authorities in PEM";
    match text(&raw, ACCEPTED)? {
        "none" => Ok(Verify::None),
        "system" => Ok(Verify::System),
        path if path.starts_with('/') => Ok(Verify::File(path.to_owned())),
        _ => Err(Fault::new("not one of these", ACCEPTED)),
    }
}

pub(super) fn host(raw: Raw<'_>) -> Result<String, Fault> {
    const ACCEPTED: &str =
        "a name such as \"www.example.net\", up to 253 printable ASCII characters";
    short(text(&raw, ACCEPTED)?, 253, ACCEPTED)
}

fn short(text: &str, most: usize, accepted: &str) -> Result<String, Fault> {
    let message = match text {
        "" => "empty",
        _ if text.len() > most => "too long",
        _ if !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            "contains a space, or a character that is not printable ASCII"
        }
        _ => return Ok(text.to_owned()),
    };
    Err(Fault::new(message, accepted))
}

pub(super) fn body(raw: Raw<'_>) -> Result<String, Fault> {
    const ACCEPTED: &str = "a text of 1 to 1024 bytes that the answer contains";
    match text(&raw, ACCEPTED)? {
        "" => Err(Fault::new("empty", ACCEPTED)),
        text if text.len() > 1024 => Err(Fault::new("too long", ACCEPTED)),
        text => Ok(text.to_owned()),
    }
}

/// A status, or two with a hyphen between them.
pub(super) fn status(raw: Raw<'_>) -> Result<RangeInclusive<u16>, Fault> {
    const ACCEPTED: &str =
        "a status such as 200, or a range such as \"200-399\", within 100 to 599";
    let fault = |message| Fault::new(message, ACCEPTED);
    let (first, last) = match raw {
        Raw::Whole(number) => (u16::try_from(number).ok(), u16::try_from(number).ok()),
        Raw::Text(text) => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            (first.parse().ok(), last.parse().ok())
        }
        Raw::List(_) | Raw::Switch(_) | Raw::Other(_) => {
            return Err(value::wrong_type(&raw, ACCEPTED));
        }
    };
    let (Some(first), Some(last)) = (first, last) else {
        return Err(fault("not a status or a range of them"));
    };
    if first > last || first < 100 || last > 599 {
        return Err(fault("out of range"));
    }
    Ok(first..=last)
}

pub(super) fn payload(raw: Raw<'_>) -> Result<Vec<u8>, Fault> {
    const ACCEPTED: &str = "hexadecimal digits, two for each byte, up to 512 bytes";
    let pattern = hex(text(&raw, ACCEPTED)?, None, ACCEPTED)?;
    Ok(pattern.bytes)
}

pub(super) fn expect(raw: Raw<'_>) -> Result<Pattern, Fault> {
    const ACCEPTED: &str =
        "hexadecimal digits, two for each byte, up to 512 bytes; X for any digit";
    let pattern = hex(text(&raw, ACCEPTED)?, Some('X'), ACCEPTED)?;
    if pattern.bytes.is_empty() {
        return Err(Fault::new("empty", ACCEPTED));
    }
    Ok(pattern)
}

fn hex(text: &str, any: Option<char>, accepted: &str) -> Result<Pattern, Fault> {
    let fault = |message| Fault::new(message, accepted);
    let digit = |letter: char| match letter {
        _ if Some(letter) == any => Some((0, 0)),
        _ => letter
            .to_digit(16)
            .and_then(|value| u8::try_from(value).ok())
            .map(|value| (value, 0xf)),
    };
    let digits: Option<Vec<(u8, u8)>> = text.chars().map(digit).collect();
    let digits = digits.ok_or_else(|| fault("not hexadecimal digits"))?;
    if !digits.len().is_multiple_of(2) || digits.len() > 1024 {
        return Err(fault("half a byte at the end, or too long"));
    }
    let pairs = digits.chunks_exact(2);
    Ok(Pattern {
        bytes: pairs
            .clone()
            .map(|pair| pair[0].0 << 4 | pair[1].0)
            .collect(),
        mask: pairs.map(|pair| pair[0].1 << 4 | pair[1].1).collect(),
    })
}

pub(super) fn size(raw: Raw<'_>) -> Result<u16, Fault> {
    let number = whole(raw, 64..=65_535, "")?;
    Ok(u16::try_from(number).unwrap_or(u16::MAX))
}

/// `vip.min_healthy`
pub(in super::super) fn percentage(raw: Raw<'_>) -> Result<u8, Fault> {
    const ACCEPTED: &str = "a share from \"0%\" to \"100%\"";
    let number = text(&raw, ACCEPTED)?.strip_suffix('%');
    let number = number.ok_or_else(|| Fault::new("no percent sign at the end", ACCEPTED))?;
    let share = number.parse().ok().filter(|share| *share <= 100);
    share.ok_or_else(|| Fault::new("not a number from 0 to 100", ACCEPTED))
}
