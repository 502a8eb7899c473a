//! Rows 13 and 19 to 22: do the packet filters let the three packets pass that matter: the outer one
//! in, the inner one on the tunnel device in, the answer out?

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::case::Case;
use super::commands::{Matching, accept, by_hand, lasting, nft_device, set, show, show_chain};
use super::diversion::{by_chance, handshake};
use super::flow::{self, answer_packet, inner_packet};
use super::layers;
use super::outcome::Outcome;
use crate::doctor::facts::Encap;
use crate::doctor::finding::Code;
use crate::doctor::firewall::{
    ConntrackState, FilterPath, FilterVerdict, FilteredPacket, Firewall, RuleText,
};
use crate::doctor::lang::say;
use crate::doctor::lines::Snippet;

/// A port of a client, as good as any other (RFC 6056 §3.2).
pub(super) const CLIENT_PORT: u16 = 49152;
/// What the protocols file calls `ipip`; IP in IP is 4, `ipencap`.
const IPIP_94: u8 = 94;

/// The outer packet is dropped.
pub(super) fn outer(case: &Case<'_>) -> Outcome {
    let packet = outer_packet(case);
    let protocol = packet.protocol;
    let outcome = with_firewall(case, |firewall| {
        match stopped(case, firewall.judge(&packet)) {
            Ok(_) if trapped(firewall, &packet) => Outcome::blocked(Code::backend(20)),
            Ok(rule) if case.target.director.is_none() => unsure_of_director(case, &rule),
            Ok(rule) => {
                let what = say!(
                    case.lang,
                    "the tunnel's packets (protocol {protocol}) on their way in",
                    "进入本机的隧道包（协议号 {protocol}）"
                );
                dropped(case, &rule, &what, &packet)
            }
            Err(outcome) => *outcome,
        }
    });
    let outcome = layers::arrival(case, outcome, packet.iif.as_deref(), &packet);
    case.with_counters(outcome, &["IpInReceives", "IpInDelivers"])
}

/// The rule that drops, or what the verdict comes to without one.
fn stopped(case: &Case<'_>, verdict: FilterVerdict) -> Result<RuleText, Box<Outcome>> {
    Err(Box::new(match verdict {
        FilterVerdict::Drop(rule) => return Ok(rule),
        FilterVerdict::Unknown(rule) => unjudged(case, &rule),
        FilterVerdict::Chance(rule, chance) => {
            Outcome::warn(by_chance(chance, case.lang)).quoted(&rule)
        }
        FilterVerdict::NotSeen(why) => Outcome::unknown(why),
        FilterVerdict::Accept | FilterVerdict::Rewritten(_) | FilterVerdict::Diverted(..) => {
            Outcome::pass()
        }
    }))
}

/// Of a verdict that is not this row's own: rules that were not seen might be.
fn unless_unseen(verdict: FilterVerdict) -> Outcome {
    match verdict {
        FilterVerdict::NotSeen(why) => Outcome::unknown(why),
        FilterVerdict::Drop(_)
        | FilterVerdict::Unknown(_)
        | FilterVerdict::Chance(..)
        | FilterVerdict::Accept
        | FilterVerdict::Rewritten(_)
        | FilterVerdict::Diverted(..) => Outcome::pass(),
    }
}

fn unsure_of_director(case: &Case<'_>, rule: &RuleText) -> Outcome {
    Outcome::unknown(say!(
            case.lang,
            "a rule would drop the tunnel's packets from some addresses; name the director: --director ADDR",
            "有规则会丢弃来自某些地址的隧道包；请用 --director ADDR 指明 director"
        )).quoted(rule)
}

/// A rule accepts protocol 94, which is called `ipip`, where 4 was meant.
pub(super) fn name_trap(case: &Case<'_>) -> Outcome {
    if case.target.encap != Encap::Ipip {
        return Outcome::skip(say!(case.lang, "the tunnel is GUE", "隧道是 GUE"));
    }
    let packet = outer_packet(case);
    with_firewall(case, |firewall| {
        let verdict = firewall.judge(&packet);
        let FilterVerdict::Drop(rule) = verdict else {
            return unless_unseen(verdict);
        };
        if !trapped(firewall, &packet) {
            return Outcome::pass();
        }
        let protocol = packet.protocol;
        let outcome = Outcome::fail(say!(
            case.lang,
            "the firewall accepts protocol 94, which /etc/protocols calls ipip, and drops {protocol}, \
             which the tunnel is",
            "防火墙放行的是协议号 94（/etc/protocols 中名为 ipip），而隧道使用的协议号 {protocol} 被丢弃"
        ));
        let mistaken = firewall.rules_naming_protocol(IPIP_94).into_iter();
        let outcome = mistaken.fold(outcome.quoted(&rule), |outcome, rule| outcome.quoted(&rule));
        accepting(case, outcome, &rule, &packet)
    })
}

fn trapped(firewall: &Firewall, packet: &FilteredPacket) -> bool {
    let misnamed = FilteredPacket {
        protocol: IPIP_94,
        ..packet.clone()
    };
    let by_name = !firewall.rules_naming_protocol(IPIP_94).is_empty();
    by_name && packet.protocol != 17 && firewall.judge(&misnamed) == FilterVerdict::Accept
}

/// The firewall checks the way back to the source itself.
pub(super) fn reverse_path(case: &Case<'_>) -> Outcome {
    let packet = inner_packet(case, ConntrackState::New);
    with_firewall(case, |firewall| {
        let verdict = firewall.judge(&packet);
        match (decides(&verdict), &verdict) {
            (Some(rule), FilterVerdict::Drop(_)) if checks_reverse_path(rule) => {
                reverse_path_drops(case, rule)
            }
            (Some(rule), _) if checks_reverse_path(rule) => unjudged(case, rule),
            (Some(_) | None, _) => unless_unseen(verdict),
        }
    })
}

/// The rule that keeps a packet from being accepted, or may.
const fn decides(verdict: &FilterVerdict) -> Option<&RuleText> {
    match verdict {
        FilterVerdict::Drop(rule) | FilterVerdict::Unknown(rule) => Some(rule),
        FilterVerdict::Accept
        | FilterVerdict::Chance(..)
        | FilterVerdict::Rewritten(_)
        | FilterVerdict::Diverted(..)
        | FilterVerdict::NotSeen(_) => None,
    }
}

fn reverse_path_drops(case: &Case<'_>, rule: &RuleText) -> Outcome {
    let tunnel = case.target.tunnel.as_deref().unwrap_or("T");
    let outcome = Outcome::fail(say!(
        case.lang,
        "SYN decapsulated on {tunnel}, then dropped: the firewall does a reverse-path check of its own, whatever \
         rp_filter says",
        "SYN 在 {tunnel} 上解封装后被丢弃：防火墙自己做了反向路径检查，与 rp_filter 无关"
    ));
    let fix = match nft_device(tunnel) {
        Some(name) => accept(
            rule,
            &Matching {
                nft: vec!["iifname".to_owned(), name],
                iptables: vec!["-i".to_owned(), tunnel.to_owned()],
            },
            case.lang,
        ),
        None => by_hand(rule, case.lang),
    };
    outcome.quoted(rule).fix(fix)
}

fn checks_reverse_path(rule: &RuleText) -> bool {
    let asks_for_way = rule.rule.contains("fib saddr") && rule.rule.contains("oif");
    asks_for_way
        || ["rpfilter", "\"fib\""]
            .iter()
            .any(|word| rule.rule.contains(word))
}

/// The inner packet is dropped on the tunnel device.
pub(super) fn inner(case: &Case<'_>) -> Outcome {
    let first = inner_packet(case, ConntrackState::New);
    let tunnel = case.target.tunnel.as_deref().unwrap_or("T");
    let service = case.service();
    let what = say!(
        case.lang,
        "decapsulated packets for {service} on {tunnel}",
        "{tunnel} 上解封装出来的、发往 {service} 的包"
    );
    with_firewall(case, |firewall| {
        if decides(&firewall.judge(&first)).is_some_and(checks_reverse_path) {
            return Outcome::blocked(Code::backend(13));
        }
        let outcome = handshake(case, firewall);
        let outcome = outcome
            .unwrap_or_else(|| all_pass(case, firewall, flow::requests(case, firewall), &what));
        layers::arrival(case, outcome, first.iif.as_deref(), &first)
    })
}

/// Whether all packets of a flow pass; the worst that becomes of one.
fn all_pass(
    case: &Case<'_>,
    firewall: &Firewall,
    packets: Vec<(FilteredPacket, flow::Part)>,
    what: &str,
) -> Outcome {
    let mut all = Outcome::pass();
    for (packet, part) in packets {
        let outcome = match stopped(case, firewall.judge(&packet)) {
            Ok(rule) => {
                let what = format!("{}{what}", part.said(case.lang));
                return dropped(case, &rule, &what, &packet);
            }
            Err(outcome) => *outcome,
        };
        if outcome.status > all.status {
            all = outcome;
        }
    }
    all
}

/// The answer is dropped.
pub(super) fn answer(case: &Case<'_>) -> Outcome {
    let vip = case.target.vip;
    let what = say!(
        case.lang,
        "answers from {vip} on their way out",
        "以 {vip} 为源、正要发出的应答"
    );
    let outcome = with_firewall(case, |firewall| {
        all_pass(case, firewall, flow::answers(case, firewall), &what)
    });
    let answer = answer_packet(case, ConntrackState::Established);
    let outcome = layers::departure(case, outcome, answer.oif.as_deref(), &answer);
    case.with_counters(outcome, &["IpOutRequests", "IpOutTransmits"])
}

/// Established flows are dropped once conntrack has lost them.
pub(super) fn invalid(case: &Case<'_>) -> Outcome {
    let name = "net.netfilter.nf_conntrack_tcp_loose";
    let loose = case.sysctl(name);
    if loose != Some(0) || case.target.protocol != "tcp" {
        let outcome = Outcome::pass();
        return loose.map_or(outcome.clone(), |value| outcome.evidence(name, value));
    }
    let packets = [
        inner_packet(case, ConntrackState::Invalid),
        answer_packet(case, ConntrackState::Invalid),
    ];
    with_firewall(case, |firewall| {
        let invalid = |rule: &RuleText| rule.rule.to_lowercase().contains("invalid");
        let drops = packets.iter().find_map(|packet| {
            let rule = stopped(case, firewall.judge(packet)).ok()?;
            invalid(&rule).then_some(rule)
        });
        let Some(rule) = drops else {
            return Outcome::pass().evidence(name, 0);
        };
        let outcome = Outcome::warn(say!(
            case.lang,
            "a rule drops invalid packets and conntrack takes up no flow in its middle: after a flush or a restart \
             established connections hang",
            "有规则丢弃 INVALID 包，而 conntrack 不接纳中途的流：conntrack 表被清空或重启后，已建立的连接会挂住"
        ))
        .evidence(name, 0);
        outcome
            .quoted(&rule)
            .fix(set(name, 1, case.lang))
            .persist(lasting(name, 1))
            .verify(show(name, case.lang))
    })
}

/// Answers would leave from the backend's own address.
pub(super) fn masquerade(case: &Case<'_>) -> Outcome {
    let packet = answer_packet(case, ConntrackState::New);
    let vip = case.target.vip;
    with_firewall(case, |firewall| {
        if let Some(rule) = rewritten(case, firewall) {
            let outcome = Outcome::fail(say!(
                case.lang,
                "a rule rewrites the source of answers from {vip}: clients do not know them for answers",
                "有规则会改写以 {vip} 为源的应答：客户端不认得这些应答"
            ));
            let fix = accept(&rule, &Matching::source(vip), case.lang);
            return outcome.quoted(&rule).fix(fix);
        }
        let verdict = firewall.judge(&packet);
        let FilterVerdict::Rewritten(rule) = verdict else {
            return unless_unseen(verdict);
        };
        let outcome = Outcome::warn(say!(
            case.lang,
            "a rule rewrites the source of packets from {vip}: after conntrack is flushed, answers leave from \
             another address",
            "有规则会改写以 {vip} 为源的包：conntrack 表清空后，应答会从别的地址发出"
        ));
        let fix = accept(&rule, &Matching::source(vip), case.lang);
        outcome.quoted(&rule).fix(fix)
    })
}

/// The rule that rewrites answers of connections that it lets pass otherwise.
fn rewritten(case: &Case<'_>, firewall: &Firewall) -> Option<RuleText> {
    flow::answers(case, firewall)
        .iter()
        .find_map(|(packet, _)| match firewall.judge(packet) {
            FilterVerdict::Rewritten(rule) => Some(rule),
            FilterVerdict::Drop(_)
            | FilterVerdict::Unknown(_)
            | FilterVerdict::Chance(..)
            | FilterVerdict::NotSeen(_)
            | FilterVerdict::Accept
            | FilterVerdict::Diverted(..) => None,
        })
}

fn with_firewall(case: &Case<'_>, judge: impl Fn(&Firewall) -> Outcome) -> Outcome {
    match case.firewall {
        Ok(firewall) => judge(firewall),
        Err(why) => Outcome::unknown(why.clone()),
    }
}

fn dropped(case: &Case<'_>, rule: &RuleText, what: &str, packet: &FilteredPacket) -> Outcome {
    let (program, place) = (&rule.program, rule.place());
    let outcome = Outcome::fail(say!(
        case.lang,
        "the firewall drops {what} ({program}, {place})",
        "防火墙丢弃{what}（{program}，{place}）"
    ));
    accepting(case, outcome.quoted(rule), rule, packet)
}

/// An accept rule before the one that drops.
fn accepting(
    case: &Case<'_>,
    outcome: Outcome,
    rule: &RuleText,
    packet: &FilteredPacket,
) -> Outcome {
    let advice = say!(
        case.lang,
        "in the file from which your firewall is loaded: the same rule, before the one that drops",
        "在加载防火墙规则的文件里：把同一条规则加在丢弃规则之前"
    );
    outcome
        .fix(accept(rule, &Matching::packet(packet), case.lang))
        .verify(show_chain(rule, case.lang))
        .persist(Snippet::Advice(advice))
}

impl Matching {
    fn source(address: IpAddr) -> Self {
        Self::of(
            &format!("{} saddr {address}", nft_family(address)),
            &format!("-s {address}"),
        )
    }

    /// No more than the packet and its like: those of the service, of the VIP, of the tunnel.
    fn packet(packet: &FilteredPacket) -> Self {
        let (source, destination) = (packet.source, packet.destination);
        let family = nft_family(source);
        match (packet.protocol, packet.ports) {
            (protocol @ (6 | 17), Some((_, port))) if packet.path == FilterPath::ToThisHost => {
                let name = transport(protocol);
                Self::of(
                    &format!("{family} daddr {destination} {name} dport {port}"),
                    &format!("-d {destination} -p {name} --dport {port}"),
                )
            }
            (6 | 17, _) => Self::source(source),
            (protocol, _) => Self::of(
                &format!("{family} saddr {source} meta l4proto {protocol}"),
                &format!("-s {source} -p {protocol}"),
            ),
        }
    }
}

fn unjudged(case: &Case<'_>, rule: &RuleText) -> Outcome {
    Outcome::unknown(say!(
        case.lang,
        "a firewall rule decides that the doctor cannot evaluate",
        "起决定作用的防火墙规则中有 doctor 无法判断的匹配条件"
    ))
    .quoted(rule)
}

const fn nft_family(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "ip",
        IpAddr::V6(_) => "ip6",
    }
}

const fn transport(protocol: u8) -> &'static str {
    if protocol == 17 { "udp" } else { "tcp" }
}

fn outer_packet(case: &Case<'_>) -> FilteredPacket {
    let target = case.target;
    let ipv4 = case.outer_is_ipv4();
    let nobody = if ipv4 {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    let inner = if target.vip.is_ipv4() { 4 } else { 41 };
    let (protocol, ports) = match target.encap {
        Encap::Ipip => (inner, None),
        Encap::Gue(port) => (17, Some((CLIENT_PORT, port))),
    };
    let source = target.director.unwrap_or(nobody);
    let destination = case.backend_address().unwrap_or(nobody);
    // Only a director of that segment is known to be answered by the device it comes in by.
    let on_link = case.director_is_on_link().filter(|on_link| *on_link);
    FilteredPacket {
        iif: target.physical.clone(),
        ports,
        reverse_path_found: on_link,
        source_is_routable: on_link,
        source_is_local: Some(false),
        destination_is_local: Some(true),
        in_by: case.physical().map(flow::kind_of),
        link_source: flow::link_address_of_director(case),
        bridge_port: case
            .physical()
            .and_then(|link| flow::bridge_port(case, link)),
        ..FilteredPacket::new(FilterPath::ToThisHost, source, destination, protocol)
    }
}
