//! Rates, numbers of connections and quotas of nft rules. How much of them is used up is mostly not told; whether
//! one client's flow can use them up is.

use serde_json::Value as Json;

use super::model::{Bound, Match};
use super::nft::word;

/// A statement that matches while something is within its bound, or with `inv` once it is beyond it.
pub(super) fn bound(name: &str, content: &Json) -> Match {
    let bound = match name {
        "limit" => rate(content),
        "ct count" => number(content, "val").map(connections),
        "quota" => quota(content),
        _ => None,
    };
    let inverted = content.get("inv").and_then(Json::as_bool) == Some(true);
    match (bound, inverted) {
        (Some(bound), false) => Match::Within(bound),
        (Some(bound), true) => Match::Beyond(bound),
        (None, _) => Match::Undecidable,
    }
}

/// A client that tries once a second, and its answers, stay within one a second and more.
pub(super) const fn packets_in(number: u64, seconds: u64) -> Bound {
    if number >= seconds {
        Bound::Ample
    } else {
        Bound::Tight
    }
}

/// One client's connection is the second or third there at most.
pub(super) const fn connections(most: u64) -> Bound {
    match most {
        0 => Bound::Left(0), // the connection itself is one
        1 | 2 => Bound::Tight,
        _ => Bound::Ample,
    }
}

/// A flow's bytes a second, as small as it may be.
pub(super) const fn bytes_in(number: u64, seconds: u64) -> Bound {
    const LEAST: u64 = 1500;
    if number / seconds >= LEAST {
        Bound::Ample
    } else {
        Bound::Tight
    }
}

fn number(content: &Json, key: &str) -> Option<u64> {
    content.get(key)?.as_u64()
}

fn rate(content: &Json) -> Option<Bound> {
    let rate = number(content, "rate")?;
    let seconds = match word(content, "per").unwrap_or("second") {
        "second" => 1,
        "minute" => 60,
        "hour" => 3600,
        "day" => 86_400,
        "week" => 604_800,
        _ => return None,
    };
    Some(match word(content, "rate_unit") {
        None | Some("packets") => packets_in(rate, seconds),
        Some(name) => bytes_in(rate.saturating_mul(unit(name)?), seconds),
    })
}

fn quota(content: &Json) -> Option<Bound> {
    let bytes = |value, of| {
        let unit = word(content, of).map_or(Some(1), unit)?;
        number(content, value)?.checked_mul(unit)
    };
    let used = bytes("used", "used_unit").unwrap_or_default();
    // A quota with a name tells its bytes otherwise.
    let all = bytes("val", "val_unit").or_else(|| number(content, "bytes"))?;
    Some(Bound::Left(all.saturating_sub(used)))
}

fn unit(name: &str) -> Option<u64> {
    match name {
        "bytes" => Some(1),
        "kbytes" => Some(1 << 10),
        "mbytes" => Some(1 << 20),
        "gbytes" => Some(1 << 30),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bounds() {
        let within = |name, content| bound(name, &content);
        for (name, content, expected) in [
            (
                "limit",
                json!({"rate": 25, "per": "second", "burst": 5}),
                Match::Within(Bound::Ample),
            ),
            (
                "limit",
                json!({"rate": 100, "per": "second", "inv": true}),
                Match::Beyond(Bound::Ample),
            ),
            (
                "limit",
                json!({"rate": 1, "per": "day"}),
                Match::Within(Bound::Tight),
            ),
            (
                "limit",
                json!({"rate": 10, "per": "second", "rate_unit": "mbytes", "inv": true}),
                Match::Beyond(Bound::Ample),
            ),
            (
                "ct count",
                json!({"val": 100, "inv": true}),
                Match::Beyond(Bound::Ample),
            ),
            (
                "ct count",
                json!({"val": 1, "inv": true}),
                Match::Beyond(Bound::Tight),
            ),
            (
                "quota",
                json!({"val": 1, "val_unit": "bytes", "inv": true}),
                Match::Beyond(Bound::Left(1)),
            ),
            (
                "quota",
                json!({"val": 1, "val_unit": "kbytes", "used": 1000, "used_unit": "bytes"}),
                Match::Within(Bound::Left(24)),
            ),
            ("limit", json!("named"), Match::Undecidable),
            ("last", json!({}), Match::Undecidable),
        ] {
            assert_eq!(within(name, content), expected, "{name}");
        }
    }
}
