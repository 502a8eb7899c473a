//! Sizes on the command line: bytes, or a number with a unit.

/// The units, by powers of 1000 and of 1024; a letter alone is the latter, as `dd` and systemd have it.
const UNITS: [(&str, u64); 11] = [
    ("", 1),
    ("b", 1),
    ("kb", 1000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("g", 1 << 30),
    ("gib", 1 << 30),
];

/// The bytes of a size such as `64MiB`, `10MB` or `67108864`.
///
/// # Errors
/// What was expected.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    let end = text.find(|letter: char| !letter.is_ascii_digit());
    let (digits, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = unit.trim_start().to_ascii_lowercase();
    let bytes = UNITS
        .into_iter()
        .find(|(name, _)| *name == unit)
        .zip(digits.parse::<u64>().ok())
        .and_then(|((_, bytes), number)| number.checked_mul(bytes));
    bytes.ok_or_else(|| "not a size such as 64MiB, 10MB or 67108864 (bytes)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("4096", 4096),
            ("4096B", 4096),
            ("10MB", 10_000_000),
            ("10 MB", 10_000_000),
            ("64MiB", 64 << 20),
            ("64m", 64 << 20),
            ("2G", 2 << 30),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "MB",
            "-1",
            "+1",
            "1.5MB",
            "1XB",
            "0x10",
            "18446744073709551616",
            "99999999999G",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
