//! Rows 5 to 7: is the VIP this machine's own, for packets that come out of the tunnel?
//!
//! The FIB is asked, not the list of addresses: AnyIP (`ip route add local V dev lo`) is as good.

use std::net::IpAddr;

use ipnet::IpNet;

use super::case::{Case, conf, is_local, route_text, usable};
use super::diversion::delivered_to;
use super::outcome::Outcome;
use crate::doctor::facts::{Observed, RouteAnswer};
use crate::doctor::finding::Code;
use crate::doctor::lang::say;
use crate::doctor::lines::command;

/// Whether packets for the VIP are delivered here, go on, or are lost.
enum Fate {
    Local,
    Lost,
    Forwarded,
    Unknown(String),
}

/// The VIP is missing, and packets for it are lost.
pub(super) fn missing(case: &Case<'_>) -> Outcome {
    let vip = case.target.vip;
    match fate(case) {
        Fate::Lost | Fate::Forwarded | Fate::Unknown(_) if is_rewritten(case) => rewritten(case),
        Fate::Local if is_no_source(case) => no_source(case),
        Fate::Local if is_marked_away(case) => marked_away(case),
        Fate::Local => on_the_right_device(case),
        Fate::Forwarded => Outcome::blocked(Code::backend(6)),
        Fate::Unknown(why) => Outcome::unknown(why),
        Fate::Lost => {
            let outcome = Outcome::fail(say!(
                case.lang,
                "{vip} is no address of this machine: packets leave the tunnel and are discarded without an ICMP",
                "{vip} 不是本机地址：包解封装后被静默丢弃，没有 ICMP"
            ));
            case.with_counters(add_vip(case, outcome), &["IpInAddrErrors"])
        }
    }
}

/// The kernel looks for the sources of answers in the table local (255) alone, whatever the rules
/// (`__ip_dev_find`, linux/net/ipv4/devinet.c); it may call it main (254) while both are one.
const LOCAL_OR_MAIN: std::ops::RangeInclusive<u32> = 254..=255;

/// Whether packets for the VIP are delivered by a route that does not make it a source.
fn is_no_source(case: &Case<'_>) -> bool {
    usable(&case.target.vip_route).is_some_and(|route| {
        case.target.vip.is_ipv4()
            && route.kind == "local"
            && route
                .table
                .is_some_and(|table| !LOCAL_OR_MAIN.contains(&table))
    })
}

/// Whether packets for the VIP are delivered, but not with the mark that rules give them.
fn is_marked_away(case: &Case<'_>) -> bool {
    let target = case.target;
    let marked = case.input();
    !std::ptr::eq(marked, &target.input) && is_local(&target.input) && !is_local(marked)
}

fn marked_away(case: &Case<'_>) -> Outcome {
    let vip = case.target.vip;
    let outcome = Outcome::fail(say!(
        case.lang,
        "packets for {vip} are not delivered here: the firewall marks them, and a policy rule sends what has that mark \
         elsewhere",
        "发往 {vip} 的包不会在本机送达：防火墙给它们打了标记，而策略路由规则把带该标记的包送往别处"
    ));
    let rules = case.facts.rules.seen().into_iter().flatten();
    let by_mark = rules.filter(|rule| rule.mark.is_some() && rule.ipv6 == vip.is_ipv6());
    let outcome = by_mark.fold(outcome, |outcome, rule| {
        outcome.evidence("ip rule", &rule.text)
    });
    outcome
        .evidence(
            format!("ip route get {vip} mark …"),
            route_text(case.input()),
        )
        .verify(command!["ip", "rule"])
}

fn no_source(case: &Case<'_>) -> Outcome {
    let vip = case.target.vip;
    let outcome = Outcome::fail(say!(
        case.lang,
        "packets for {vip} are delivered, but its route is not in the table local: no answer can have it as its source",
        "发往 {vip} 的包能送达，但它的路由不在 local 表中：应答无法以它为源地址"
    ));
    add_vip(case, outcome)
}

/// The VIP is missing, and packets for it go out again.
pub(super) fn forwarded(case: &Case<'_>) -> Outcome {
    let vip = case.target.vip;
    match fate(case) {
        Fate::Lost | Fate::Forwarded | Fate::Unknown(_) if is_rewritten(case) => Outcome::pass(),
        Fate::Forwarded => {
            let outcome = Outcome::fail(say!(
                case.lang,
                "{vip} is no address of this machine and forwarding is on: its packets go back out and loop \
                 through the director until their TTL ends",
                "{vip} 不是本机地址且转发已打开：包被再次转发出去，经 director 循环直到 TTL 耗尽"
            ));
            case.with_counters(add_vip(case, outcome), &["IpForwDatagrams", "IpInDelivers"])
        }
        Fate::Lost => Outcome::blocked(Code::backend(5)),
        Fate::Unknown(why) => Outcome::unknown(why),
        Fate::Local => Outcome::pass(),
    }
}

/// Whether a rule sends the VIP's packets to an address of this host, so that it needs none of the VIP: conntrack puts
/// the VIP back into the answers.
fn is_rewritten(case: &Case<'_>) -> bool {
    delivered_to(case).is_some_and(|(address, _)| address != case.target.vip)
}

fn rewritten(case: &Case<'_>) -> Outcome {
    match case.diversion() {
        Some((rule, _)) => Outcome::pass().quoted(rule),
        None => Outcome::pass(),
    }
}

fn add_vip(case: &Case<'_>, outcome: Outcome) -> Outcome {
    let host = IpNet::from(case.target.vip);
    outcome
        .evidence(
            format!("ip route get {}", case.target.vip),
            route_text(&case.target.vip_route),
        )
        .fix(command!["ip", "addr", "add", host, "dev", "lo"])
        .persist(format!(
            "# /etc/network/interfaces.d/vip\nauto lo:vip\niface lo:vip inet{} static\n    address {host}",
            if case.target.vip.is_ipv4() { "" } else { "6" }
        ))
        .persist(format!(
            "# /etc/systemd/network/lo.network\n[Match]\nName=lo\n[Network]\nAddress={host}"
        ))
        .verify(command!["ip", "route", "get", case.target.vip])
}

/// The VIP is better on lo than on the tunnel, whose end it shares.
fn on_the_right_device(case: &Case<'_>) -> Outcome {
    let vip = case.target.vip;
    let on_tunnel = case.tunnel().filter(|tunnel| {
        let addresses = case.addresses_on(tunnel).unwrap_or_default();
        addresses.iter().any(|net| net.addr() == vip)
    });
    let route = route_text(&case.target.vip_route);
    match on_tunnel {
        Some(tunnel) if !is_on(case, "lo") => {
            let name = &tunnel.name;
            Outcome::warn(say!(
                case.lang,
                "{vip} is an address of {name}: it works, and goes when {name} is taken down or made anew",
                "{vip} 配在 {name} 上：可以工作，但 {name} 被关闭或重建时地址随之消失"
            ))
            .evidence(name, vip)
            .fix(command!["ip", "addr", "add", IpNet::from(vip), "dev", "lo"])
            .fix(command!["ip", "addr", "del", IpNet::from(vip), "dev", name])
            .verify(command!["ip", "route", "get", vip])
        }
        Some(_) | None => Outcome::pass().evidence(format!("ip route get {vip}"), route),
    }
}

/// Whether the VIP is an address of a device.
pub(super) fn is_on(case: &Case<'_>, device: &str) -> bool {
    let addresses = case.link(device).and_then(|link| case.addresses_on(link));
    addresses.is_some_and(|all| all.iter().any(|net| net.addr() == case.target.vip))
}

fn fate(case: &Case<'_>) -> Fate {
    let target = case.target;
    match &target.input {
        RouteAnswer::Route(route) if route.kind == "local" => return Fate::Local,
        // IPv6 looks at its forwarding setting later than at the route.
        RouteAnswer::Route(route) if route.kind == "unicast" => {
            let goes_on = target.vip.is_ipv4() || forwards(case);
            return if goes_on { Fate::Forwarded } else { Fate::Lost };
        }
        RouteAnswer::Refused(libc::EHOSTUNREACH) => return Fate::Lost,
        RouteAnswer::Route(_) | RouteAnswer::Refused(_) | RouteAnswer::Unseen(_) => {}
    }
    if is_local(&target.vip_route) {
        return Fate::Local;
    }
    match &target.vip_route {
        RouteAnswer::Unseen(why) => Fate::Unknown(why.clone()),
        RouteAnswer::Route(_) if forwards(case) && usable(&target.vip_route).is_some() => {
            Fate::Forwarded
        }
        RouteAnswer::Route(_) | RouteAnswer::Refused(_) => Fate::Lost,
    }
}

fn forwards(case: &Case<'_>) -> bool {
    let of_device = || {
        let tunnel = case.target.tunnel.as_deref()?;
        case.sysctl(&conf(tunnel, "forwarding"))
    };
    let forwarding = match case.target.vip {
        IpAddr::V4(_) => of_device().or_else(|| case.sysctl("net.ipv4.ip_forward")),
        IpAddr::V6(_) => case.sysctl("net.ipv6.conf.all.forwarding"),
    };
    forwarding.is_some_and(|value| value != 0)
}

/// The VIP has a wider mask than its own.
pub(super) fn wide_mask(case: &Case<'_>) -> Outcome {
    let vip = case.target.vip;
    let (addresses, links) = match (&case.facts.addresses, &case.facts.links) {
        (Observed::Seen(addresses), Observed::Seen(links)) => (addresses, links),
        (Observed::Unseen(why), _) | (_, Observed::Unseen(why)) => {
            return Outcome::unknown(why.clone());
        }
    };
    let wide = addresses.iter().find_map(|address| {
        let link = links.iter().find(|link| link.index == address.link)?;
        let on_segment = Some(link.name.as_str()) == case.target.physical.as_deref();
        let wider =
            address.net.addr() == vip && address.net.prefix_len() < address.net.max_prefix_len();
        (wider && !on_segment).then_some((address.net, link))
    });
    let Some((net, link)) = wide else {
        return Outcome::pass();
    };
    // On lo, IPv6 makes only the address itself local.
    if link.name == "lo" && vip.is_ipv6() {
        return Outcome::pass();
    }
    judge_mask(case, net, &link.name)
}

fn judge_mask(case: &Case<'_>, net: IpNet, device: &str) -> Outcome {
    let client = case.target.client;
    let subnet = net.trunc();
    let swallowed = net.contains(&client);
    let outcome = if swallowed {
        Outcome::fail(say!(
            case.lang,
            "{net} on {device} takes all of {subnet}, the client {client} too: answers to it never leave",
            "{device} 上的 {net} 把整个 {subnet} 都占为己有，客户端 {client} 也在其中：应答永远发不出去"
        ))
    } else {
        Outcome::warn(say!(
            case.lang,
            "{net} on {device} takes all of {subnet}: clients from there get no answer",
            "{device} 上的 {net} 把整个 {subnet} 都占为己有：来自该网段的客户端得不到应答"
        ))
    };
    let host = IpNet::from(net.addr());
    let addresses = case.link(device).and_then(|link| case.addresses_on(link));
    let outcome = if addresses.is_some_and(|nets| nets.contains(&host)) {
        outcome
    } else {
        outcome.fix(command!["ip", "addr", "add", host, "dev", device])
    };
    outcome
        .evidence(command!["ip", "addr", "show", device].to_string(), net)
        .fix(command!["ip", "addr", "del", net, "dev", device])
        .verify(command!["ip", "route", "get", client])
}
