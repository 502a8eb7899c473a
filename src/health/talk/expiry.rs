//! When a certificate expires: the one field of it that is looked at whoever signed it. Read first: RFC 5280 §4.1.2.5.

/// Tags of what comes before that field (ITU-T X.690 §8).
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

const DAY: u64 = 86_400;

/// The end of a certificate's validity in seconds after the Unix epoch; `None` for bytes that are none, and before it.
pub(in super::super) fn not_after(certificate: &[u8]) -> Option<u64> {
    let (body, _) = expect(SEQUENCE, certificate)?;
    let (mut fields, _) = expect(SEQUENCE, body)?;
    if let Some((_, rest)) = expect(VERSION, fields) {
        fields = rest;
    }
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        (_, fields) = expect(tag, fields)?; // serial number, algorithm, issuer
    }
    let (validity, _) = expect(SEQUENCE, fields)?;
    let (_, _, rest) = element(validity)?;
    let (tag, text, _) = element(rest)?;
    time(tag, text)
}

/// The content of an element with that tag, and what follows it.
fn expect(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(bytes)?;
    (found == tag).then_some((content, rest))
}

/// The tag and the content of the first element, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, bytes) = bytes.split_first()?;
    let (&first, bytes) = bytes.split_first()?;
    let (length, bytes) = match first {
        0..=0x7f => (usize::from(first), bytes),
        0x81..=0x83 => {
            let (digits, rest) = bytes.split_at_checked(usize::from(first & 0x7f))?;
            let length = digits
                .iter()
                .fold(0, |sum, &digit| sum << 8 | usize::from(digit));
            (length, rest)
        }
        _ => return None, // of unknown length, or longer than any certificate
    };
    let (content, rest) = bytes.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn time(tag: u8, text: &[u8]) -> Option<u64> {
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |digits: &[u8]| {
        digits
            .iter()
            .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'))
    };
    let (year, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) => {
            let year = number(&digits[..2]);
            (
                if year < 50 { 2000 + year } else { 1900 + year },
                &digits[2..],
            )
        }
        (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
        _ => return None,
    };
    let [month, day, hour, minute, second] =
        std::array::from_fn(|place| number(&rest[2 * place..2 * place + 2]));
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds = hour * 3600 + minute * 60 + second;
    Some(days(year, month, day)? * DAY + seconds)
}

/// Days from the Unix epoch to a date of the Gregorian calendar.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    // Years from March on, so that a leap day is a year's last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year.checked_sub(1)?, month + 9)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    days.checked_sub(719_468) // to 1 January 1970
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times() {
        for (tag, text, expected) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "000301000000Z", Some(951_868_800)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (GENERALIZED_TIME, "20500101000000Z", Some(2_524_608_000)),
            (GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799)),
            (GENERALIZED_TIME, "19691231235959Z", None),
            (GENERALIZED_TIME, "00000101000000Z", None),
            (UTC_TIME, "701301000000Z", None),
            (UTC_TIME, "7001010000Z", None),
            (UTC_TIME, "70010100000aZ", None),
        ] {
            assert_eq!(time(tag, text.as_bytes()), expected, "{text}");
        }
    }

    /// The fields of a certificate as far as the validity, with lengths of one byte and of two.
    fn certificate(not_after: &str) -> Vec<u8> {
        let der = |tag: u8, content: &[u8]| {
            let length = u8::try_from(content.len()).unwrap();
            let head = if length < 128 {
                vec![tag, length]
            } else {
                vec![tag, 0x81, length]
            };
            [head, content.to_vec()].concat()
        };
        let validity = [
            der(UTC_TIME, b"200101000000Z"),
            der(UTC_TIME, not_after.as_bytes()),
        ];
        let fields = [
            der(VERSION, &der(INTEGER, &[2])),
            der(INTEGER, &[0x55; 20]),
            der(SEQUENCE, &[6, 1, 1]),
            der(SEQUENCE, &[0x31; 60]),
            der(SEQUENCE, &validity.concat()),
        ];
        der(SEQUENCE, &der(SEQUENCE, &fields.concat()))
    }

    #[test]
    fn a_certificate() {
        let certificate = certificate("350102030405Z");
        assert_eq!(not_after(&certificate), Some(2_051_319_845));
        for length in 0..certificate.len() {
            assert_eq!(not_after(&certificate[..length]), None, "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_may_come(bytes: Vec<u8>, place: prop::sample::Index, byte: u8) {
            not_after(&bytes);
            let mut certificate = certificate("350102030405Z");
            let place = place.index(certificate.len());
            certificate[place] = byte;
            not_after(&certificate);
        }
    }
}
