//! Row 35, its last part: does the director's machine forward packets of clients into the TUN?
//!
//! Which settings the kernel asks: `daemon::forwarding`.

use super::case::conf;
use super::commands::{set, show};
use super::outcome::Outcome;
use crate::doctor::facts::{DirectorFacts, Facts};
use crate::doctor::lang::{Lang, say};
use crate::doctor::lines::Snippet;

/// What this looks at.
struct Case<'a> {
    facts: &'a Facts,
    director: &'a DirectorFacts,
}

/// Packets of clients are forwarded into the TUN.
pub(super) fn forwarding(facts: &Facts, director: &DirectorFacts, lang: Lang) -> Outcome {
    let case = &Case { facts, director };
    let families = [
        ("net.ipv4.ip_forward", true),
        ("net.ipv6.conf.all.forwarding", false),
    ];
    for (name, ipv4) in families {
        let concerned = case.director.vips.keys().any(|vip| vip.is_ipv4() == ipv4);
        if !concerned || case.facts.sysctls.get(name) != Some(&0) || a_device_forwards(case, ipv4) {
            continue;
        }
        let tun = &case.director.tun;
        let mut outcome = Outcome::fail(say!(
            lang,
            "forwarding is off ({name}=0): packets of clients are not passed on into {tun}",
            "转发未打开（{name}=0）：客户端的包不会被送进 {tun}"
        ))
        .evidence(name, 0);
        let mut lines = Vec::new();
        if !ipv4 {
            for key in heard_advertisements(case) {
                outcome = outcome.evidence(key.clone(), 1).fix(set(&key, 2, lang));
                lines.push(format!("{key} = 2"));
            }
        }
        lines.push(format!("{name} = 1"));
        return outcome
            .fix(set(name, 1, lang))
            .persist(Snippet::settings(lines))
            .verify(show(name, lang));
    }
    Outcome::pass()
}

/// Names of devices that packets of clients may come in by.
fn doors<'a>(case: &Case<'a>) -> impl Iterator<Item = &'a str> {
    let tun = case.director.tun.as_str();
    let links = case.facts.links.seen().into_iter().flatten();
    let others = links.filter(move |link| link.name != tun && link.name != "lo");
    others.map(|link| link.name.as_str())
}

/// With the setting of the whole host off, single devices may forward all the same.
fn a_device_forwards(case: &Case<'_>, ipv4: bool) -> bool {
    let mut keys = doors(case).map(|device| match ipv4 {
        true => conf(device, "forwarding"),
        false => conf6(device, "force_forwarding"),
    });
    keys.any(|key| {
        case.facts
            .sysctls
            .get(&key)
            .is_some_and(|value| *value != 0)
    })
}

/// `accept_ra` of the devices that take router advertisements: turning forwarding on makes the kernel drop
/// what came by them (`rt6_purge_dflt_routers`), but for a value of 2.
fn heard_advertisements(case: &Case<'_>) -> Vec<String> {
    let is = |key: String, value: i64| case.facts.sysctls.get(&key) == Some(&value);
    let heard = doors(case)
        .filter(|device| is(conf6(device, "accept_ra"), 1) && is(conf6(device, "forwarding"), 0));
    heard.map(|device| conf6(device, "accept_ra")).collect()
}

/// The dotted name of an IPv6 device setting.
fn conf6(device: &str, key: &str) -> String {
    format!("net.ipv6.conf.{}.{key}", device.replace('.', "/"))
}
