//! Rows 15 to 18: do answers from the VIP leave for the client, past the director?
//!
//! Judged before source validation: with rp_filter on, a missing way back looks just like it.

use std::net::IpAddr;

use super::case::{Case, is_local, route_text, usable};
use super::outcome::Outcome;
use crate::doctor::facts::{FirewallFacts, Observed, PolicyRule, Route, RouteAnswer};
use crate::doctor::finding::Code;
use crate::doctor::lang::say;
use crate::doctor::lines::{FixLine, Snippet, command};

/// No route to the client.
pub(super) fn no_route(case: &Case<'_>) -> Outcome {
    if case.way_back().is_some() {
        let route = route_text(case.answer_route());
        return Outcome::pass().evidence(question(case).to_string(), route);
    }
    match case.answer_route() {
        RouteAnswer::Unseen(why) => Outcome::unknown(why.clone()),
        _ if other_table(case).is_some() => Outcome::blocked(Code::backend(17)),
        answer @ (RouteAnswer::Route(_) | RouteAnswer::Refused(_)) => {
            let client = case.target.client;
            let device = case.target.physical.as_deref().unwrap_or("E");
            let outcome = Outcome::fail(say!(
                case.lang,
                "there is no route to {client}: no answer leaves",
                "没有到 {client} 的路由：应答发不出去"
            ))
            .evidence(question(case).to_string(), route_text(answer))
            .fix(gateway_wanted(case, device))
            .fix(match answer {
                RouteAnswer::Refused(libc::ENETUNREACH) => {
                    command![
                        "ip", "route", "add", "default", "via", "GATEWAY", "dev", device
                    ]
                }
                // An unreachable, prohibit or blackhole route is in the way.
                RouteAnswer::Route(_) | RouteAnswer::Refused(_) | RouteAnswer::Unseen(_) => {
                    command![
                        "ip", "route", "replace", client, "via", "GATEWAY", "dev", device
                    ]
                }
            })
            .persist(network_file(device, "[Network]\nGateway=GATEWAY"))
            .verify(question(case));
            case.with_counters(outcome, &["IpOutNoRoutes", "TcpExtIPReversePathFilter"])
        }
    }
}

/// A policy rule does not match the VIP.
pub(super) fn policy_rule(case: &Case<'_>) -> Outcome {
    if let RouteAnswer::Unseen(why) = case.answer_route() {
        return Outcome::unknown(why.clone());
    }
    let Some(other) = other_table(case) else {
        return Outcome::pass();
    };
    let vip = case.target.vip;
    let client = case.target.client;
    let (rule, table) = match other {
        Other::Rule(rule) => (
            rule.text.clone(),
            rule.table
                .map_or("TABLE".to_owned(), |table| table.to_string()),
        ),
        Other::WithoutSource => ("-".to_owned(), "main".to_owned()),
    };
    Outcome::fail(say!(
        case.lang,
        "answers from {vip} have no route to {client}, others have one: the policy rules do not send {vip} there",
        "以 {vip} 为源的应答没有到 {client} 的路由，而其他源地址有：策略路由规则没有匹配 {vip}"
    ))
    .evidence(question(case).to_string(), route_text(case.answer_route()))
    .evidence(
        format!("ip route get {client}"),
        route_text(&case.target.way_back_of_any),
    )
    .evidence("ip rule", rule)
    .fix(command!["ip", "rule", "add", "from", vip, "lookup", table])
    .persist(network_file(
        case.target.physical.as_deref().unwrap_or("E"),
        &format!("[RoutingPolicyRule]\nFrom={vip}\nTable={table}"),
    ))
    .verify(question(case))
}

/// Where a route is that answers from the VIP do not find.
enum Other<'a> {
    /// In the table of a rule for another of this machine's addresses.
    Rule(&'a PolicyRule),
    /// For packets of no particular source.
    WithoutSource,
}

/// The main tables, which every machine looks up: 253 default, 254 main, 255 local.
const COMMON_TABLES: std::ops::RangeInclusive<u32> = 253..=255;

fn other_table<'a>(case: &Case<'a>) -> Option<Other<'a>> {
    if usable(case.answer_route()).is_some() {
        return None;
    }
    let rules = case.facts.rules.seen().map_or(&[][..], Vec::as_slice);
    let for_another = rules.iter().find(|rule| {
        let of_family = rule.ipv6 == case.target.vip.is_ipv6() && !rule.inverted;
        let another = of_family
            && rule
                .from
                .is_some_and(|from| !from.contains(&case.target.vip) && case.is_own_within(from));
        another
            && rule
                .table
                .is_some_and(|table| !COMMON_TABLES.contains(&table))
    });
    for_another.map(Other::Rule).or_else(|| {
        usable(&case.target.way_back_of_any)
            .is_some()
            .then_some(Other::WithoutSource)
    })
}

/// Answers leave by the tunnel, loopback or the director.
pub(super) fn wrong_way(case: &Case<'_>) -> Outcome {
    let Some(route) = case.way_back() else {
        return match case.answer_route() {
            RouteAnswer::Unseen(why) => Outcome::unknown(why.clone()),
            RouteAnswer::Route(_) | RouteAnswer::Refused(_) => Outcome::blocked(Code::backend(15)),
        };
    };
    let client = case.target.client;
    if case.is_own(client) {
        return Outcome::skip(say!(
            case.lang,
            "{client} is an address of this machine (B14)",
            "{client} 是本机地址（见 B14）"
        ));
    }
    let Some(what) = astray(case, route) else {
        return Outcome::pass()
            .evidence(question(case).to_string(), route_text(case.answer_route()));
    };
    if let Some(rule) = rule_by_mark(case) {
        return Outcome::unknown(say!(
            case.lang,
            "{what}, unless the packet filter marks them and a policy rule sends marked packets elsewhere",
            "{what}；除非包过滤规则给它们打上标记，并由策略路由规则把带标记的包送往别处"
        ))
        .evidence("ip rule", &rule.text)
        .evidence(question(case).to_string(), route_text(case.answer_route()));
    }
    let device = case.target.physical.as_deref().unwrap_or("E");
    let by_director = case.target.director.is_some() && route.gateway == case.target.director;
    let outcome = if by_director {
        // It passes them on, unless it filters by source.
        Outcome::warn(what)
    } else {
        Outcome::fail(what)
    };
    outcome
        .evidence(question(case).to_string(), route_text(case.answer_route()))
        .fix(gateway_wanted(case, device))
        .fix(command![
            "ip", "route", "replace", client, "via", "GATEWAY", "dev", device
        ])
        .persist(network_file(device, "[Network]\nGateway=GATEWAY"))
        .verify(question(case))
}

/// A rule that may send answers elsewhere once the packet filter has marked them: their route is looked up
/// again then (`nf_reroute`), in a way that the kernel cannot be asked for beforehand.
fn rule_by_mark<'a>(case: &Case<'a>) -> Option<&'a PolicyRule> {
    let rules = case.facts.rules.seen()?;
    let by_mark = rules
        .iter()
        .find(|rule| rule.ipv6 == case.target.vip.is_ipv6() && rule.mark.is_some());
    by_mark.filter(|_| answers_are_marked(&case.facts.firewall))
}

pub(super) fn answers_are_marked(firewall: &FirewallFacts) -> bool {
    let by_nft = firewall.nft.seen().is_some_and(|text| {
        [
            "\"type\": \"route\"",
            "{\"mangle\": {\"key\": {\"meta\": {\"key\": \"mark\"}}",
        ]
        .iter()
        .all(|words| text.contains(words))
    });
    let saves = firewall.iptables.values().filter_map(Observed::seen);
    let mut rules = saves.flat_map(|text| text.lines());
    by_nft || rules.any(|rule| rule.contains("-A OUTPUT ") && rule.contains("MARK --"))
}

fn astray(case: &Case<'_>, route: &Route) -> Option<String> {
    let client = case.target.client;
    let device = route.device.as_deref();
    if device.is_some() && device == case.target.tunnel.as_deref() {
        let device = device.unwrap_or_default();
        return Some(say!(
            case.lang,
            "answers to {client} leave by {device}, the tunnel itself",
            "发往 {client} 的应答从隧道设备 {device} 出去"
        ));
    }
    if is_local(case.answer_route()) || device == Some("lo") {
        return Some(say!(
            case.lang,
            "answers to {client} stay on this machine: its address is routed to lo",
            "发往 {client} 的应答留在本机：该地址被路由到 lo"
        ));
    }
    let director = case.target.director?;
    (route.gateway == Some(director) && client != director).then(|| {
        say!(
            case.lang,
            "answers to {client} go through the director {director}: it carries them too, and drops them where it \
             filters by source (rp_filter), since it routes the VIP into its TUN",
            "发往 {client} 的应答经过 director {director}：它要多转发一次；如果它按源地址过滤（rp_filter），应答会被丢弃，因为它把 VIP 路由进自己的 TUN"
        )
    })
}

fn gateway_wanted(case: &Case<'_>, device: &str) -> FixLine {
    FixLine::Advice(say!(
        case.lang,
        "GATEWAY: the router of {device}'s segment, which is not the director",
        "GATEWAY：{device} 所在网段的路由器，不是 director"
    ))
}

fn network_file(device: &str, lines: &str) -> Snippet {
    let path = format!("/etc/systemd/network/{device}.network");
    Snippet::naming(device, path, lines)
}

/// The next hop does not answer.
pub(super) fn next_hop(case: &Case<'_>) -> Outcome {
    let Some(route) = case.way_back().filter(|route| route.kind == "unicast") else {
        return match case.answer_route() {
            RouteAnswer::Unseen(why) => Outcome::unknown(why.clone()),
            RouteAnswer::Route(_) | RouteAnswer::Refused(_) => {
                Outcome::skip(say!(case.lang, "there is no next hop", "没有下一跳"))
            }
        };
    };
    let neighbours = match &case.facts.neighbours {
        Observed::Seen(neighbours) => neighbours,
        Observed::Unseen(why) => return Outcome::unknown(why.clone()),
    };
    let hop = route.gateway.unwrap_or(case.target.client);
    let link = route.device.as_deref().and_then(|name| case.link(name));
    let entry = neighbours
        .iter()
        .find(|entry| entry.address == hop && link.is_none_or(|link| link.index == entry.link));
    let state = entry.map_or("none", |entry| entry.state.as_str());
    let device = route.device.as_deref().unwrap_or("E");
    let mute = link.filter(|link| !link.arp && link.hardware == ETHERNET && state != "PERMANENT");
    let outcome = match state {
        _ if mute.is_some_and(|link| link.kind.as_deref() != Some("dummy")) => {
            Outcome::fail(say!(
                case.lang,
                "{device} does no ARP (NOARP): answers for {hop} leave with its own address and reach no machine",
                "{device} 关闭了 ARP（NOARP）：发往 {hop} 的应答以它自己的链路地址发出，到不了任何主机"
            ))
            .fix(command!["ip", "link", "set", "dev", device, "arp", "on"])
            .verify(command!["ip", "link", "show", "dev", device])
        }
        "FAILED" | "INCOMPLETE" => {
            let outcome = Outcome::fail(say!(
                case.lang,
                "the next hop {hop} does not answer on {device} ({state}): answers wait and are dropped",
                "下一跳 {hop} 在 {device} 上没有回应（{state}）：应答排队后被丢弃"
            ))
            .fix(command!["ip", "neigh", "flush", "to", hop, "dev", device])
            .verify(command!["ping", "-c", 1, "-I", device, hop]);
            with_filters(case, outcome, hop)
        }
        _ => match entry.and_then(|entry| entry.lladdr.as_ref()) {
            Some(lladdr) if is_elsewhere(case, lladdr) => elsewhere(case, hop, device, (state, lladdr)),
            Some(_) | None => Outcome::pass(),
        },
    };
    outcome.evidence(format!("ip neigh show {hop}"), state)
}

/// ARPHRD_ETHER.
const ETHERNET: u16 = 1;

/// Whether others than the entry's own address have answered for the next hop.
fn is_elsewhere(case: &Case<'_>, lladdr: &String) -> bool {
    let claims = &case.target.hop_claims;
    !claims.is_empty() && !claims.contains(lladdr)
}

/// The neighbour table has another link-layer address for the next hop than the segment.
fn elsewhere(case: &Case<'_>, hop: IpAddr, device: &str, (state, lladdr): (&str, &str)) -> Outcome {
    let claims = case.target.hop_claims.join(", ");
    let text = say!(
        case.lang,
        "answers for {hop} on {device} go to {lladdr} ({state}), and {claims} answers for that address",
        "{device} 上发往 {hop} 的应答送往 {lladdr}（{state}），而应答该地址的是 {claims}"
    );
    // What is only old, the kernel finds out about by itself once it sends.
    let outcome = if state == "PERMANENT" {
        Outcome::fail(text)
    } else {
        Outcome::warn(text)
    };
    outcome
        .evidence("lladdr", lladdr)
        .evidence(say!(case.lang, "answered by", "应答者"), claims)
        .fix(command!["ip", "neigh", "del", hop, "dev", device])
        .verify(command!["ip", "neigh", "show", "to", hop, "dev", device])
}

/// Filters of ARP, or of the messages of neighbour discovery, may be why.
fn with_filters(case: &Case<'_>, outcome: Outcome, hop: IpAddr) -> Outcome {
    let sees = if hop.is_ipv4() { "arp" } else { "icmpv6" };
    let nft = case.facts.firewall.nft.seen();
    let filters = nft.is_some_and(|text| text.contains(&format!("\"{sees}\"")));
    if filters {
        return outcome.evidence(
            say!(case.lang, "rules for {sees}", "针对 {sees} 的规则"),
            "nft list ruleset",
        );
    }
    outcome
}

fn question(case: &Case<'_>) -> FixLine {
    let (vip, client, protocol) = (case.target.vip, case.target.client, &case.target.protocol);
    match case.target.port {
        Some(port) => {
            command![
                "ip", "route", "get", client, "from", vip, "ipproto", protocol, "sport", port
            ]
        }
        None => command!["ip", "route", "get", client, "from", vip],
    }
}
