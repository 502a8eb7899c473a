//! What a client wants to change of a backend: a merge patch (RFC 7396) becomes a [`Change`].

use std::time::Duration;

use serde_json::{Map, Value};

use super::model::{BackendPatch, Problem};
use super::problem;
use super::query::Query;
use crate::control::overlay::{Action, BackendName, Change, Edit, Edits, Overlay};
use crate::director::{BackendState, Health, VipSpec};
use crate::health::Told;
use crate::probe::{ProbeResult, Target};
use crate::text::plain::is_plain;

/// The longest time that an override may last: a year of 365 days.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// The longest reason in bytes.
pub(super) const LONGEST_REASON: usize = 200;

/// The words of a state.
const STATES: &str = "\"active\", \"draining\", \"disabled\" or null";

/// The words of a health.
const HEALTH: &str = "\"up\", \"down\" or null";

/// The backend that a request is about.
pub(super) fn backend(query: &Query) -> Result<BackendName, Problem> {
    const ADDRESS: &str = "an address such as 10.0.1.11";
    let vip = query.needed("vip", "the name of a VIP")?.to_owned();
    query.needed("address", ADDRESS)?;
    let address = query.address("address")?;
    let address = address.ok_or_else(|| problem::of(400, "address", "missing"))?;
    Ok(BackendName { vip, address })
}

/// The body of a request, which may be left out where that means something.
pub(super) fn patch(body: &[u8]) -> Result<BackendPatch, Problem> {
    let mut patch = BackendPatch::default();
    if body.trim_ascii().is_empty() {
        return Ok(patch);
    }
    let members: Map<String, Value> = serde_json::from_slice(body).map_err(|error| {
        let detail = format!("the body: {error}; accepted: a JSON object");
        problem::new(400, problem::excerpt_of(&detail, 300))
    })?;
    for (name, value) in &members {
        match &**name {
            "weight" => patch.weight = Some(or_null(value, weight)?),
            "state" => patch.state = Some(or_null(value, |value| word("state", value, STATES))?),
            "health" => patch.health = Some(or_null(value, |value| word("health", value, HEALTH))?),
            "for_seconds" => patch.for_seconds = or_null(value, seconds)?,
            "reason" => patch.reason = or_null(value, |value| word("reason", value, "a text"))?,
            _ => return Err(unknown(name)),
        }
    }
    Ok(patch)
}

fn unknown(name: &str) -> Problem {
    let accepted = "weight, state, health, for_seconds, reason";
    let detail = format!("unknown field; accepted: {accepted}");
    problem::of(400, &problem::excerpt(name), detail)
}

fn or_null<T>(
    value: &Value,
    read: impl Fn(&Value) -> Result<T, Problem>,
) -> Result<Option<T>, Problem> {
    match value {
        Value::Null => Ok(None),
        Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => read(value).map(Some),
    }
}

fn weight(value: &Value) -> Result<u16, Problem> {
    let weight = value.as_u64().and_then(|number| number.try_into().ok());
    let accepted = "a whole number from 0 to 65535, or null";
    weight.ok_or_else(|| wrong("weight", &value.to_string(), accepted))
}

fn seconds(value: &Value) -> Result<u64, Problem> {
    let most = LONGEST.as_secs();
    let seconds = value
        .as_u64()
        .filter(|seconds| (1..=most).contains(seconds));
    let accepted = format!("a whole number from 1 to {most}");
    seconds.ok_or_else(|| wrong("for_seconds", &value.to_string(), &accepted))
}

fn word(field: &str, value: &Value, accepted: &str) -> Result<String, Problem> {
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| wrong(field, &value.to_string(), accepted))
}

/// `PATCH`: keys of a backend that is there.
pub(super) fn edit(
    backend: BackendName,
    patch: &BackendPatch,
    if_generation: Option<u64>,
    overlay: &Overlay,
) -> Result<Change, Problem> {
    let names_none = patch.weight.is_none() && patch.state.is_none() && patch.health.is_none();
    let says_nothing = patch.for_seconds.is_none() && patch.reason.is_none();
    if names_none && (says_nothing || overlay.of(&backend).is_none()) {
        let detail =
            "nothing to change; accepted: weight, state or health, each with a value or null";
        return Err(problem::new(400, detail));
    }
    change(backend, Action::Edit(edits(patch)?), patch, if_generation)
}

/// `PUT /v1/health`: what others found, and for how long it holds.
pub(super) fn told(backend: &BackendName, patch: &BackendPatch) -> Result<Told, Problem> {
    let is_more = patch.weight.is_some() || patch.state.is_some() || patch.reason.is_some();
    if is_more {
        return Err(problem::new(400, "accepted: health and for_seconds"));
    }
    let Some(Some(word)) = &patch.health else {
        return Err(wrong("health", "missing", "\"up\" or \"down\""));
    };
    let seconds = patch.for_seconds;
    let seconds = seconds.ok_or_else(|| wrong("for_seconds", "missing", "how long it holds"))?;
    Ok(Told {
        target: Target {
            vip: backend.vip.as_str().into(),
            address: backend.address,
        },
        result: match health(word)? {
            Health::Healthy | Health::Starting(_) => ProbeResult::Ok,
            Health::Unhealthy | Health::Doubtful => ProbeResult::NoAnswer,
        },
        holds: Duration::from_secs(seconds),
    })
}

/// `POST`: a backend joins.
pub(super) fn add(
    backend: BackendName,
    patch: &BackendPatch,
    if_generation: Option<u64>,
    vips: &[VipSpec],
) -> Result<Change, Problem> {
    if let Some(why) = crate::config::unusable_address(backend.address) {
        let detail = format!("{why}; accepted: a unicast address such as 10.0.1.11");
        return Err(problem::of(422, "address", detail));
    }
    if let Some(vip) = vips.iter().find(|vip| vip.address == backend.address) {
        let name = &vip.name;
        let detail = format!("the address of the VIP {name}; its tunnel would loop");
        return Err(problem::of(422, "address", detail));
    }
    change(backend, Action::Add(edits(patch)?), patch, if_generation)
}

/// `DELETE` of a backend, or of its override: no more than that is said of it.
pub(super) const fn plain(
    backend: BackendName,
    action: Action,
    if_generation: Option<u64>,
) -> Change {
    Change {
        backend,
        action,
        lasts: None,
        reason: None,
        if_generation,
    }
}

fn change(
    backend: BackendName,
    action: Action,
    patch: &BackendPatch,
    if_generation: Option<u64>,
) -> Result<Change, Problem> {
    Ok(Change {
        lasts: patch.for_seconds.map(Duration::from_secs),
        reason: reason(patch.reason.as_deref())?,
        ..plain(backend, action, if_generation)
    })
}

fn edits(patch: &BackendPatch) -> Result<Edits, Problem> {
    Ok(Edits {
        weight: read(&patch.weight, |weight| Ok(*weight))?,
        state: read(&patch.state, |word| state(word))?,
        health: read(&patch.health, |word| health(word))?,
    })
}

fn read<T, U>(
    field: &Option<Option<T>>,
    value: impl Fn(&T) -> Result<U, Problem>,
) -> Result<Edit<U>, Problem> {
    match field {
        None => Ok(Edit::Keep),
        Some(None) => Ok(Edit::Clear),
        Some(Some(written)) => value(written).map(Edit::Set),
    }
}

fn state(word: &str) -> Result<BackendState, Problem> {
    let states = [
        BackendState::Active,
        BackendState::Draining,
        BackendState::Disabled,
    ];
    let known = states.into_iter().find(|state| state.to_string() == word);
    known.ok_or_else(|| wrong("state", word, STATES))
}

fn health(word: &str) -> Result<Health, Problem> {
    match word {
        "up" => Ok(Health::Healthy),
        "down" => Ok(Health::Unhealthy),
        _ => Err(wrong("health", word, HEALTH)),
    }
}

fn reason(text: Option<&str>) -> Result<Option<String>, Problem> {
    let Some(text) = text else {
        return Ok(None);
    };
    if text.is_empty() || text.len() > LONGEST_REASON || !is_plain(text) {
        let accepted = format!("1 to {LONGEST_REASON} bytes, all printable");
        return Err(wrong("reason", text, &accepted));
    }
    Ok(Some(text.to_owned()))
}

fn wrong(field: &str, value: &str, accepted: &str) -> Problem {
    let value = problem::excerpt(value);
    problem::of(422, field, format!("{value}; accepted: {accepted}"))
}

/// The generation of `If-Match`: an entity tag, or `*` for any.
pub(super) fn if_match(header: Option<&[u8]>) -> Result<Option<u64>, Problem> {
    let Some(header) = header else {
        return Ok(None);
    };
    if header.trim_ascii() == b"*" {
        return Ok(None);
    }
    let tag = std::str::from_utf8(header).ok().map(str::trim);
    let number = tag.and_then(|tag| tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok());
    number.map(Some).ok_or_else(|| {
        let accepted = "accepted: one entity tag, which is a generation in quotes, such as \"418\"";
        problem::of(400, "If-Match", accepted)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name() -> BackendName {
        BackendName {
            vip: "web".into(),
            address: [10, 0, 1, 11].into(),
        }
    }

    fn edit(body: &str) -> Result<Change, Problem> {
        super::edit(name(), &patch(body.as_bytes())?, None, &Overlay::default())
    }

    #[test]
    fn a_patch_sets_clears_and_keeps() {
        let change = edit(
            r#"{"weight": 50, "state": null, "health": "down", "for_seconds": 600, "reason": "disk"}"#,
        );
        let expected = Edits {
            weight: Edit::Set(50),
            state: Edit::Clear,
            health: Edit::Set(Health::Unhealthy),
        };
        let change = change.unwrap();
        assert_eq!(change.action, Action::Edit(expected));
        assert_eq!(change.lasts, Some(Duration::from_secs(600)));
        assert_eq!(change.reason.as_deref(), Some("disk"));
        let kept = edit(r#"{"state": "draining"}"#).unwrap().action;
        let expected = Edits {
            state: Edit::Set(BackendState::Draining),
            ..Edits::default()
        };
        assert_eq!(kept, Action::Edit(expected));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, status, field, detail) in [
            ("", 400, None, "nothing to change"),
            ("{}", 400, None, "nothing to change"),
            (r#"{"reason":"x"}"#, 400, None, "nothing to change"),
            (r#"{"for_seconds":9}"#, 400, None, "nothing to change"),
            ("null", 400, None, "accepted: a JSON object"),
            ("[]", 400, None, "accepted: a JSON object"),
            ("[50]", 400, None, "accepted: a JSON object"),
            ("{", 400, None, "EOF"),
            ("\u{1b}[2J", 400, None, "expected value"),
            (r#"{"weight":50}{"#, 400, None, "trailing"),
            (
                r#"{"wieght":50}"#,
                400,
                Some("wieght"),
                "accepted: weight, state",
            ),
            (
                r#"{"weight":-1}"#,
                422,
                Some("weight"),
                "-1; accepted: a whole number from 0",
            ),
            (r#"{"weight":65536}"#, 422, Some("weight"), "to 65535"),
            (r#"{"weight":1.5}"#, 422, Some("weight"), "1.5; accepted"),
            (
                r#"{"weight":"50"}"#,
                422,
                Some("weight"),
                "\"50\"; accepted",
            ),
            (r#"{"weight":[{}]}"#, 422, Some("weight"), "[{}]; accepted"),
            (r#"{"state":5}"#, 422, Some("state"), "accepted: \"active\""),
            (
                r#"{"health":true}"#,
                422,
                Some("health"),
                "accepted: \"up\"",
            ),
            (r#"{"weight":1,"reason":7}"#, 422, Some("reason"), "a text"),
            (
                r#"{"weight":1,"for_seconds":"9"}"#,
                422,
                Some("for_seconds"),
                "1 to 31536000",
            ),
            (
                r#"{"weight":1,"for_seconds":-9}"#,
                422,
                Some("for_seconds"),
                "1 to 31536000",
            ),
            (
                r#"{"state":"drain"}"#,
                422,
                Some("state"),
                "accepted: \"active\"",
            ),
            (
                r#"{"state":"ACTIVE"}"#,
                422,
                Some("state"),
                "accepted: \"active\"",
            ),
            (
                r#"{"health":"unhealthy"}"#,
                422,
                Some("health"),
                "\"up\", \"down\"",
            ),
            (
                r#"{"weight":1,"for_seconds":0}"#,
                422,
                Some("for_seconds"),
                "1 to 31536000",
            ),
            (
                r#"{"weight":1,"for_seconds":31536001}"#,
                422,
                Some("for_seconds"),
                "1 to",
            ),
            (
                r#"{"weight":1,"reason":""}"#,
                422,
                Some("reason"),
                "printable",
            ),
            (
                r#"{"weight":1,"reason":"\u001b[2J"}"#,
                422,
                Some("reason"),
                "\\u{1b}[2J",
            ),
        ] {
            let problem = edit(body).unwrap_err();
            assert_eq!(problem.status, status, "{body}");
            assert_eq!(problem.field.as_deref(), field, "{body}");
            assert!(
                problem.detail.contains(detail),
                "{body}: {}",
                problem.detail
            );
        }
    }

    #[test]
    fn a_backend_that_joins_has_an_address_of_the_network() {
        let add = |address: &str| {
            let vip = "web".to_owned();
            let address = address.parse().unwrap();
            super::add(
                BackendName { vip, address },
                &BackendPatch::default(),
                Some(7),
                &[],
            )
        };
        let added = add("2001:db8::11").unwrap();
        assert_eq!(added.action, Action::Add(Edits::default()));
        assert_eq!(added.if_generation, Some(7));
        for bad in ["127.0.0.1", "::", "224.0.0.1", "fe80::1", "0.1.2.3"] {
            let problem = add(bad).unwrap_err();
            assert_eq!(
                (problem.status, problem.field.as_deref()),
                (422, Some("address")),
                "{bad}"
            );
        }
    }

    #[test]
    fn entity_tags() {
        assert_eq!(if_match(None), Ok(None));
        assert_eq!(if_match(Some(b" * ")), Ok(None));
        assert_eq!(if_match(Some(b"\"418\"")), Ok(Some(418)));
        for bad in [
            &b"418"[..],
            b"",
            b"\"x\"",
            b"\"1\", \"2\"",
            b"W/\"1\"",
            b"\"-1\"",
            b"\xff",
        ] {
            assert_eq!(if_match(Some(bad)).unwrap_err().status, 400, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_body_is_read_or_refused(body: Vec<u8>) {
            if let Err(problem) = patch(&body) {
                prop_assert!(is_plain(&problem.detail), "{:?}", problem);
            }
        }
    }

    #[test]
    fn what_others_found() {
        let backend = BackendName {
            vip: "web".into(),
            address: "10.0.1.11".parse().unwrap(),
        };
        let told = |body: &str| told(&backend, &patch(body.as_bytes()).unwrap());
        let up = told(r#"{"health":"up","for_seconds":30}"#).unwrap();
        assert_eq!((up.result, up.holds.as_secs()), (ProbeResult::Ok, 30));
        let down = told(r#"{"health":"down","for_seconds":1}"#).unwrap();
        assert_eq!(down.result, ProbeResult::NoAnswer);
        for bad in [
            r#"{}"#,
            r#"{"health":"up"}"#,
            r#"{"for_seconds":3}"#,
            r#"{"health":null,"for_seconds":3}"#,
            r#"{"health":"well","for_seconds":3}"#,
            r#"{"health":"up","for_seconds":3,"weight":1}"#,
        ] {
            assert!(told(bad).is_err(), "{bad}");
        }
    }
}
