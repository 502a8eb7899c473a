//! Rows 41 and 42: a VIP in a subnet of the director. The machines there ask the segment who has it; what do
//! they hear?

use std::cmp::Ordering;
use std::net::IpAddr;

use super::commands::set;
use super::director::Case;
use super::outcome::Outcome;
use crate::doctor::facts::{Observed, VipOnLink};
use crate::doctor::lang::say;
use crate::doctor::lines::{FixLine, Snippet, command};
use crate::io::on_link::{self, Missing};

/// Nothing answers for the VIP.
pub(super) fn mute(case: &Case<'_>) -> Outcome {
    worst(case, |vip, on_link| match &on_link.entry {
        Observed::Unseen(why) => Outcome::unknown(why.clone()),
        Observed::Seen(entry) => {
            let value = |device: &str, name| sysctl(case, vip, device, name);
            let missing = on_link::missing(vip, &on_link.device, *entry, value);
            if missing.is_empty() {
                return with_settings(case, vip, on_link, *entry, Outcome::pass());
            }
            let outcome = unanswered(case, vip, on_link);
            let outcome = with_settings(case, vip, on_link, *entry, outcome);
            advised(case, vip, on_link, &missing, outcome)
        }
    })
}

/// Another machine answers for the VIP.
pub(super) fn taken(case: &Case<'_>) -> Outcome {
    worst(case, |vip, on_link| match &on_link.others {
        Observed::Unseen(why) => Outcome::unknown(why.clone()),
        Observed::Seen(macs) if macs.is_empty() => Outcome::pass(),
        Observed::Seen(macs) => {
            let (device, protocol) = (&on_link.device, protocol(vip));
            let whose: Vec<_> = macs.iter().map(|mac| who(case, mac)).collect();
            let whose = whose.join(", ");
            Outcome::fail(say!(
                case.lang,
                "another machine ({whose}) answers {protocol} for {vip} on {device}: clients there reach it past the \
                 director",
                "另一台机器（{whose}）在 {device} 上应答 {vip} 的 {protocol}：该网段的客户端会绕过 director"
            ))
            .evidence(format!("who has {vip} on {device}"), macs.join(" "))
            .fix(there(case, vip))
            .verify(asking(vip, device))
        }
    })
}

/// Commands of one finding; more VIPs than that are fixed by `--setup`.
const MOST_COMMANDS: usize = 100;

/// Of the VIPs that are in a subnet, and that the client is concerned with, the worst outcome, with the
/// evidence and commands of all that come to the same.
fn worst(case: &Case<'_>, examine: impl Fn(IpAddr, &VipOnLink) -> Outcome) -> Outcome {
    let concerned = |vip: IpAddr| {
        let client = case.director.client;
        client.is_none_or(|client| client.is_ipv4() == vip.is_ipv4())
    };
    let on_link = case.director.vips.iter().filter_map(|(vip, seen)| {
        let on_link = seen.on_link.as_ref()?;
        concerned(*vip).then_some((*vip, on_link))
    });
    let outcomes = on_link.map(|(vip, on_link)| examine(vip, on_link));
    outcomes.reduce(worse_or_both).unwrap_or_else(|| {
        Outcome::skip(say!(
            case.lang,
            "no VIP is in a subnet of this machine",
            "没有 VIP 位于本机的子网内"
        ))
    })
}

fn worse_or_both(one: Outcome, other: Outcome) -> Outcome {
    match other.status.cmp(&one.status) {
        Ordering::Greater => other,
        Ordering::Less => one,
        Ordering::Equal => both(one, other),
    }
}

fn both(mut one: Outcome, other: Outcome) -> Outcome {
    let room = MOST_COMMANDS.saturating_sub(one.fix.len());
    let new: Vec<_> = other
        .fix
        .into_iter()
        .filter(|command| !one.fix.contains(command))
        .take(room)
        .collect();
    if !new.is_empty() {
        one.evidence.extend(other.evidence);
    }
    one.fix.extend(new);
    for lines in other.persist {
        if !one.persist.contains(&lines) {
            one.persist.push(lines);
        }
    }
    one
}

/// A fault for the machines of the subnet; what a router sends here is none of theirs.
fn unanswered(case: &Case<'_>, vip: IpAddr, on_link: &VipOnLink) -> Outcome {
    let VipOnLink { subnet, device, .. } = on_link;
    let protocol = protocol(vip);
    let text = say!(
        case.lang,
        "{vip} is in {subnet}, the subnet of {device}, and nothing answers {protocol} for it there: the machines \
         of that subnet cannot reach it",
        "{vip} 位于 {device} 的子网 {subnet} 内，但没有任何机器应答它的 {protocol}：该子网内的机器无法访问它"
    );
    let elsewhere = case
        .director
        .client
        .is_some_and(|client| !subnet.contains(&client));
    if elsewhere || case.director.neighbour_off {
        return Outcome::warn(say!(
            case.lang,
            "{text}; the router needs a route of its own to {vip} by the director",
            "{text}；路由器需要有经 director 到 {vip} 的主机路由"
        ));
    }
    Outcome::fail(text)
}

fn with_settings(
    case: &Case<'_>,
    vip: IpAddr,
    on_link: &VipOnLink,
    entry: bool,
    outcome: Outcome,
) -> Outcome {
    let proxy = if vip.is_ipv4() {
        "proxy_arp"
    } else {
        "proxy_ndp"
    };
    let device = &on_link.device;
    let listed = if entry { "yes" } else { "none" };
    let outcome = outcome
        .evidence(format!("subnet of {device}"), on_link.subnet)
        .evidence(format!("ip neigh show proxy {vip} dev {device}"), listed);
    let settings = [
        (device.as_str(), "forwarding"),
        ("all", proxy),
        (device, proxy),
    ];
    settings
        .into_iter()
        .fold(outcome, |outcome, (device, name)| {
            outcome.evidence(key(vip, device, name), sysctl(case, vip, device, name))
        })
}

fn advised(
    case: &Case<'_>,
    vip: IpAddr,
    on_link: &VipOnLink,
    missing: &[Missing],
    mut outcome: Outcome,
) -> Outcome {
    let device = &on_link.device;
    // Forwarding would cost it what came by router advertisement.
    let hears = vip.is_ipv6() && sysctl(case, vip, device, "accept_ra") == 1;
    if hears && missing.contains(&Missing::Forwarding) {
        let name = key(vip, device, "accept_ra");
        outcome = outcome.fix(set(&name, 2, case.lang));
    }
    let commands = missing
        .iter()
        .map(|missing| FixLine::Command(missing.command(vip, device)));
    commands
        .fold(outcome, Outcome::fix)
        .persist(Snippet::naming(
            device,
            "tunlb.toml".to_owned(),
            &format!("[director]\nneighbour = \"{device}\""),
        ))
        .verify(command!["ip", "neigh", "show", "proxy", "dev", device])
}

/// A link-layer address, with what the neighbour table knows of it.
fn who(case: &Case<'_>, mac: &str) -> String {
    let neighbours = case.facts.neighbours.seen().into_iter().flatten();
    let of_mac = neighbours.filter(|one| one.lladdr.as_deref() == Some(mac));
    let mut addresses = of_mac.map(|one| one.address);
    match addresses.find(|address| case.director.backends.contains_key(address)) {
        Some(backend) => say!(
            case.lang,
            "{mac}, the backend {backend}",
            "{mac}，后端 {backend}"
        ),
        None => mac.to_owned(),
    }
}

fn there(case: &Case<'_>, vip: IpAddr) -> String {
    if vip.is_ipv6() {
        return say!(
            case.lang,
            "# on that machine: remove {vip}; a backend has it on lo only",
            "# 在那台机器上：移除 {vip}；后端只应把它配在 lo 上"
        );
    }
    say!(
        case.lang,
        "# on that machine: remove {vip}; on a backend: sysctl -w net.ipv4.conf.all.arp_ignore=1 (B8)",
        "# 在那台机器上：移除 {vip}；若是后端：sysctl -w net.ipv4.conf.all.arp_ignore=1（B8）"
    )
}

fn asking(vip: IpAddr, device: &str) -> FixLine {
    let vip = vip.to_string();
    if vip.contains(':') {
        command!["ndisc6", vip, device]
    } else {
        command!["arping", "-c", "3", "-I", device, vip]
    }
}

const fn protocol(vip: IpAddr) -> &'static str {
    match vip {
        IpAddr::V4(_) => "ARP",
        IpAddr::V6(_) => "NDP",
    }
}

/// One that is not there is off.
fn sysctl(case: &Case<'_>, vip: IpAddr, device: &str, name: &str) -> i64 {
    let value = case.facts.sysctls.get(&key(vip, device, name));
    value.copied().unwrap_or_default()
}

fn key(vip: IpAddr, device: &str, name: &str) -> String {
    let family = if vip.is_ipv4() { "ipv4" } else { "ipv6" };
    format!("net.{family}.conf.{}.{name}", device.replace('.', "/"))
}
