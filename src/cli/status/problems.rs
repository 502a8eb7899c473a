//! What is wrong with a running director, from one look or two: for `tunlb status --problems`.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use super::overview::FAIL_OPEN;
use crate::api::model::{Backend, Counts, Status, Vip};
use crate::text::Plain;

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Problem {
    /// Of which kind.
    kind: Kind,
    /// The name of a VIP, where it is about one.
    vip: Option<String>,
    backend: Option<IpAddr>,
    /// In a sentence.
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    NotReady,
    ReloadFailed,
    FailOpen,
    NoNewFlows,
    BackendTakesNothing,
    BackendUnhealthy,
    MtuBlackHole,
    TunDrops,
    SendErrors,
    DeviceDrops,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(vip) = &self.vip {
            write!(f, "vip {}: ", Plain(vip))?;
        }
        if let Some(backend) = self.backend {
            write!(f, "backend {backend}: ")?;
        }
        write!(f, "{}", Plain(&self.text))
    }
}

/// What is wrong now; what grew since an earlier look, where there was one.
pub(super) fn found(before: Option<&Status>, now: &Status) -> Vec<Problem> {
    let mut found = of_director(now);
    if let Some(before) = before {
        found.extend(grown(before, now));
    }
    for vip in &now.vips {
        found.extend(of_vip(vip));
        found.extend(vip.backends.iter().filter_map(of_backend));
        found.extend(vip.backends.iter().filter_map(of_tunnel));
    }
    found
}

fn general(kind: Kind, text: impl Into<String>) -> Problem {
    Problem {
        kind,
        vip: None,
        backend: None,
        text: text.into(),
    }
}

fn of_director(now: &Status) -> Vec<Problem> {
    let director = &now.director;
    let reasons = director.ready.reasons.iter();
    let not_ready = |reason: &String| general(Kind::NotReady, format!("not ready: {reason}"));
    let mut found: Vec<_> = reasons.map(not_ready).collect();
    if !director.ready.ok && found.is_empty() {
        found.push(general(Kind::NotReady, "not ready"));
    }
    let failed = director.config.last_reload.iter().filter(|last| !last.ok);
    found.extend(failed.map(|last| {
        let problems = last.problems.join("; ");
        let text = format!("the reload at {} was refused: {problems}", last.at);
        general(Kind::ReloadFailed, text)
    }));
    found
}

fn grown(before: &Status, now: &Status) -> Vec<Problem> {
    let mut found = Vec::new();
    let (old, new) = (before.director.tun_drops, now.director.tun_drops);
    if new > old {
        let text = format!(
            "the queue of {} overflows: {} packets were dropped within a second, {new} since the start",
            now.director.tun,
            new - old
        );
        found.push(general(Kind::TunDrops, text));
    }
    let (old, new) = (&before.director.send_errors, &now.director.send_errors);
    found.extend(more(old, new).map(|(error, more)| {
        let text = format!("the kernel refused {more} packets within a second: {error}");
        general(Kind::SendErrors, text)
    }));
    let (old, new) = (&before.director.device_drops, &now.director.device_drops);
    found.extend(more(old, new).map(|(device, more)| {
        let text = format!(
            "{device} dropped {more} packets on their way out within a second: \
             tc -s qdisc show dev {device}; ip -s link show dev {device}"
        );
        general(Kind::DeviceDrops, text)
    }));
    found
}

/// What grew, with its name and by how much.
fn more<'a>(old: &'a Counts, new: &'a Counts) -> impl Iterator<Item = (&'a str, u64)> {
    let grown = new.iter().map(|(name, new)| {
        let old = old.get(name).copied().unwrap_or_default();
        (name.as_str(), new.saturating_sub(old))
    });
    grown.filter(|(_, more)| *more > 0)
}

fn of_vip(vip: &Vip) -> Option<Problem> {
    let (kind, text) = if vip.fail_open {
        (Kind::FailOpen, FAIL_OPEN)
    } else if vip.takes_new == 0 {
        (Kind::NoNewFlows, "no backend takes new flows")
    } else {
        return None;
    };
    Some(Problem {
        vip: Some(vip.name.clone()),
        ..general(kind, text)
    })
}

/// What an operator wants is no problem.
fn of_backend(backend: &Backend) -> Option<Problem> {
    let is_wanted =
        backend.state.effective != "active" || backend.health.overridden.as_deref() == Some("down");
    let fails = backend.health.status == "unhealthy";
    let is_wrong = (backend.takes == "nothing" || fails) && !is_wanted;
    let why = backend.why.as_deref().unwrap_or("of an unknown reason");
    is_wrong.then(|| Problem {
        vip: Some(backend.vip.clone()),
        backend: Some(backend.address),
        ..match (fails, &backend.health.result) {
            (true, Some(result)) => general(Kind::BackendUnhealthy, format!("unhealthy: {result}")),
            (true, None) | (false, _) => {
                general(Kind::BackendTakesNothing, format!("takes nothing: {why}"))
            }
        }
    })
}

fn of_tunnel(backend: &Backend) -> Option<Problem> {
    let cause = backend.health.mtu.as_ref()?.cause.as_ref()?;
    Some(Problem {
        vip: Some(backend.vip.clone()),
        backend: Some(backend.address),
        ..general(Kind::MtuBlackHole, cause.text.clone())
    })
}
