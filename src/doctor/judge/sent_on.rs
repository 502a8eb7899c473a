//! Row 30 where a rule sends the VIP's packets on: to a container, or to another host. Does what it goes to exist?

use super::case::{Case, conf, route_text, usable};
use super::outcome::Outcome;
use crate::doctor::facts::{Observed, Onward, Route};
use crate::doctor::lang::say;
use crate::doctor::lines::command;

/// Follows the packets; none where it is not known where they go.
pub(super) fn judge(case: &Case<'_>) -> Option<Outcome> {
    let onward = case.target.onward.as_ref()?;
    let (rule, _) = case.diversion()?;
    let outcome = match usable(&onward.route) {
        None => no_way(case, onward),
        Some(route) => stopped(case, onward, route)
            .or_else(|| gone(case, onward, route))
            .or_else(|| refused(case, onward, route))
            .unwrap_or_else(Outcome::pass),
    };
    let place = place(onward);
    let question = format!("ip route get {}", onward.address);
    let outcome = outcome.evidence(question, route_text(&onward.route));
    Some(
        outcome
            .quoted(rule)
            .evidence(say!(case.lang, "sent on to", "送往"), place),
    )
}

fn place(onward: &Onward) -> String {
    match onward.port {
        Some(port) => std::net::SocketAddr::new(onward.address, port).to_string(),
        None => onward.address.to_string(),
    }
}

fn no_way(case: &Case<'_>, onward: &Onward) -> Outcome {
    let place = place(onward);
    Outcome::fail(say!(
        case.lang,
        "a rule sends the packets on to {place}, and this machine does not route them there",
        "有规则把包送往 {place}，而本机无法把它们路由到那里"
    ))
    .verify(command!["ip", "route", "get", onward.address])
}

/// Forwarding is off.
fn stopped(case: &Case<'_>, onward: &Onward, route: &Route) -> Option<Outcome> {
    if route.kind == "local" {
        return None;
    }
    let place = place(onward);
    let name = conf(case.target.tunnel.as_deref()?, "forwarding");
    let is_off = onward.address.is_ipv4() && case.sysctl(&name) == Some(0);
    is_off.then(|| {
        Outcome::fail(say!(
            case.lang,
            "a rule sends the packets on to {place}, and this machine does not forward",
            "有规则把包送往 {place}，而本机没有打开转发"
        ))
        .evidence(&name, 0)
        .fix("sysctl -w net.ipv4.ip_forward=1")
    })
}

/// Nothing has that address on the segment.
fn gone(case: &Case<'_>, onward: &Onward, route: &Route) -> Option<Outcome> {
    let hop = route.gateway.unwrap_or(onward.address);
    let neighbours = case.facts.neighbours.seen()?;
    let entry = neighbours.iter().find(|entry| entry.address == hop)?;
    let state = entry.state.as_str();
    let place = place(onward);
    matches!(state, "FAILED" | "INCOMPLETE").then(|| {
        Outcome::fail(say!(
            case.lang,
            "a rule sends the packets on to {place}, and {hop} does not answer ({state})",
            "有规则把包送往 {place}，而 {hop} 没有回应（{state}）"
        ))
        .verify(command!["ip", "neigh", "show", "to", hop])
    })
}

/// A container of this machine in which nothing listens.
fn refused(case: &Case<'_>, onward: &Onward, route: &Route) -> Option<Outcome> {
    let kind = case.link(route.device.as_deref()?)?.kind.as_deref()?;
    let is_here = matches!(kind, "veth" | "bridge") && route.gateway.is_none();
    let nobody = matches!(&onward.listeners, Observed::Seen(found) if found.is_empty());
    let place = place(onward);
    (is_here && nobody && onward.port.is_some()).then(|| {
        Outcome::warn(say!(
            case.lang,
            "a rule sends the packets on to {place}, and no program of this machine listens there",
            "有规则把包送往 {place}，而本机没有程序在那里监听"
        ))
    })
}
