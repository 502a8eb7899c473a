//! Rows 35 to 42: does the director's own machine let packets into the TUN and out to the backends?

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::case::{conf, errno_text, is_local, route_text, usable};
use super::commands::{Matching, accept, set};
use super::diversion::by_chance;
use super::forwarding::forwarding;
use super::outcome::Outcome;
use super::path::{self, Place};
use super::{Check, Selection, findings, neighbour, onward, run, selected};
use crate::doctor::departure::Departure;
use crate::doctor::facts::{
    BackendOnDirector, DirectorFacts, Facts, Link, Observed, Role, RouteAnswer, VipOnDirector,
};
use crate::doctor::finding::{Diagnosis, SCHEMA, Status};
use crate::doctor::firewall::{FilterVerdict, Firewall};
use crate::doctor::lang::{Lang, say};
use crate::doctor::lines::{Snippet, command};
use crate::packet::Version;

/// What a check of a director looks at.
pub(super) struct Case<'a> {
    pub(super) facts: &'a Facts,
    pub(super) director: &'a DirectorFacts,
    pub(super) firewall: &'a Result<Firewall, String>,
    pub(super) lang: Lang,
}

pub(super) fn judge(
    facts: &Facts,
    firewall: &Result<Firewall, String>,
    selection: &Selection,
    lang: Lang,
) -> Diagnosis {
    let nothing = DirectorFacts::default();
    let director = facts.director.as_ref().unwrap_or(&nothing);
    let case = Case {
        facts,
        director,
        firewall,
        lang,
    };
    let all = run(&checks(), Role::Director, &case, lang);
    let (placed, verdict) = selected(all, selection, lang);
    Diagnosis {
        schema: SCHEMA,
        role: Role::Director,
        vip: None,
        client: None,
        path: path::of_director(&director.tun, &placed, verdict.code),
        verdict,
        checks: findings(placed),
    }
}

fn checks<'a>() -> [Check<Case<'a>>; 9] {
    let check = |row, place, needs, examine| Check {
        row,
        place,
        needs,
        examine,
    };
    [
        // Without the TUN there is no route into it.
        check(35, Place::Tunnel, &[], tun),
        check(35, Place::Route, &[], vip_route),
        check(42, Place::Segment, &[], neighbour::taken),
        // What another machine answers for is not to be claimed; without the route no entry helps.
        check(41, Place::Segment, &[35, 42], neighbour::mute),
        check(36, Place::SourceValidation, &[35], own_answers),
        check(38, Place::Backends, &[], sending),
        check(37, Place::Aside, &[], only_packets),
        check(39, Place::Aside, &[], written_by_tunlb),
        check(40, Place::Aside, &[], other_end),
    ]
}

/// The VIP's packets are routed elsewhere than into the TUN.
fn vip_route(case: &Case<'_>) -> Outcome {
    if case.director.vips.is_empty() {
        return Outcome::unknown(say!(case.lang, "no VIP is known", "不知道任何 VIP"));
    }
    let mut unseen = None;
    for (vip, seen) in &case.director.vips {
        match &seen.route {
            RouteAnswer::Unseen(why) => unseen = Some(why.clone()),
            route if is_local(route) => return local_vip(case, *vip, seen),
            RouteAnswer::Route(_) | RouteAnswer::Refused(_) => {
                if !leads_to(&seen.route, &case.director.tun) {
                    return other_route(case, *vip, &seen.route);
                }
            }
        }
    }
    match unseen {
        Some(why) => Outcome::unknown(why),
        None => {
            let outcome = forwarding(case.facts, case.director, case.lang);
            if outcome.status == Status::Pass {
                onward::filters(case)
            } else {
                outcome
            }
        }
    }
}

fn leads_to(route: &RouteAnswer, device: &str) -> bool {
    usable(route).is_some_and(|route| route.device.as_deref() == Some(device))
}

fn local_vip(case: &Case<'_>, vip: IpAddr, seen: &VipOnDirector) -> Outcome {
    let tun = &case.director.tun;
    let device = case.device_of(vip).unwrap_or("DEVICE");
    let net = case
        .net_of(vip)
        .map_or(format!("{vip}"), |net| net.to_string());
    let outcome = Outcome::fail(say!(
        case.lang,
        "{vip} is an address of the director: its packets never reach {tun}, the kernel answers them itself",
        "{vip} 是 director 的本机地址：它的包到不了 {tun}，由内核自己应答（复位）"
    ))
    .evidence(format!("ip route get {vip}"), route_text(&seen.route))
    .fix(command!["ip", "addr", "del", net, "dev", device]);
    routed_into_tun(case, outcome, vip)
}

fn other_route(case: &Case<'_>, vip: IpAddr, route: &RouteAnswer) -> Outcome {
    let tun = &case.director.tun;
    let outcome = Outcome::fail(say!(
        case.lang,
        "packets for {vip} are not routed into {tun}: the director sees none of them",
        "发往 {vip} 的包没有路由进 {tun}:director 一个也看不到"
    ))
    .evidence(format!("ip route get {vip}"), route_text(route));
    routed_into_tun(case, outcome, vip)
}

/// A device that is down takes no route, and takes those that it had with it.
fn routed_into_tun(case: &Case<'_>, outcome: Outcome, vip: IpAddr) -> Outcome {
    let tun = &case.director.tun;
    let mut links = case.facts.links.seen().into_iter().flatten();
    let is_down = links.any(|link| link.name == *tun && !link.up);
    let outcome = if is_down {
        outcome.fix(command!["ip", "link", "set", "dev", tun, "up"])
    } else {
        outcome
    };
    outcome
        .fix(command!["ip", "route", "replace", vip, "dev", tun])
        .verify(command!["ip", "route", "get", vip])
}

/// A killed director's device is gone with its routes; what is left answers "unreachable".
fn left_unreachable<'a>(case: &Case<'a>) -> Option<(&'a IpAddr, &'a RouteAnswer)> {
    let mut vips = case.director.vips.iter();
    let refused = RouteAnswer::Refused(libc::EHOSTUNREACH);
    vips.find_map(|(vip, seen)| (seen.route == refused).then_some((vip, &seen.route)))
}

fn no_device(case: &Case<'_>) -> Outcome {
    let name = &case.director.tun;
    let Some((vip, route)) = left_unreachable(case) else {
        return Outcome::fail(say!(
            case.lang,
            "there is no device {name}: no director runs",
            "没有设备 {name}:director 没有运行"
        ))
        .fix("tunlb run -c FILE");
    };
    Outcome::fail(say!(
        case.lang,
        "there is no device {name}: no director runs; an unreachable route for {vip} is there, as a killed director \
         leaves it",
        "没有设备 {name}:director 没有运行；{vip} 有一条 unreachable 路由，是被杀死的 director 留下的"
    ))
    .evidence(format!("ip route get {vip}"), route_text(route))
    .fix("tunlb run -c FILE")
    .fix(say!(
        case.lang,
        "# or, to have this host as it was before: tunlb undo",
        "# 或者让本机恢复原状：tunlb undo"
    ))
}

/// The TUN device exists, is up and is read.
fn tun(case: &Case<'_>) -> Outcome {
    let name = &case.director.tun;
    let links = match &case.facts.links {
        Observed::Seen(links) => links,
        Observed::Unseen(why) => return Outcome::unknown(why.clone()),
    };
    let Some(link) = links.iter().find(|link| link.name == *name) else {
        return no_device(case);
    };
    if !link.up {
        return Outcome::fail(say!(case.lang, "{name} is down", "{name} 未启用（down）"))
            .evidence(name, "down")
            .fix(command!["ip", "link", "set", "dev", name, "up"]);
    }
    match &case.director.tun_in_use {
        Observed::Seen(true) => {
            Outcome::pass().evidence(format!("{name} tx_packets"), link.tx_packets)
        }
        Observed::Seen(false) => Outcome::fail(say!(
            case.lang,
            "no process holds {name} open: what is routed into it is lost",
            "没有进程打开 {name}：路由进去的包都会丢失"
        ))
        .fix("tunlb run -c FILE"),
        Observed::Unseen(why) => Outcome::unknown(why.clone()),
    }
}

/// Answers to the director's own requests to a VIP.
fn own_answers(case: &Case<'_>) -> Outcome {
    let mut unseen = None;
    for (vip, seen) in &case.director.vips {
        match &seen.own_answers {
            RouteAnswer::Refused(errno @ (libc::EINVAL | libc::EXDEV)) if vip.is_ipv4() => {
                return answers_refused(case, *vip, seen, *errno);
            }
            RouteAnswer::Unseen(why) => unseen = Some(why.clone()),
            RouteAnswer::Route(_) | RouteAnswer::Refused(_) => {}
        }
    }
    unseen.map_or_else(Outcome::pass, Outcome::unknown)
}

/// The devices that backends' answers to the director come in by.
fn devices_to_backends<'a>(case: &Case<'a>) -> BTreeSet<&'a str> {
    let routes = case
        .director
        .backends
        .values()
        .map(|backend| &backend.route);
    routes
        .filter_map(|answer| match answer {
            RouteAnswer::Route(route) => route.device.as_deref(),
            RouteAnswer::Refused(_) | RouteAnswer::Unseen(_) => None,
        })
        .collect()
}

fn answers_refused(case: &Case<'_>, vip: IpAddr, seen: &VipOnDirector, errno: i32) -> Outcome {
    let own = usable(&seen.route).and_then(|route| route.source);
    let own = own.map_or("D".to_owned(), |own| own.to_string());
    let device = devices_to_backends(case).into_iter().next().unwrap_or("E");
    let question = command!["ip", "route", "get", own, "from", vip, "iif", device];
    let outcome = Outcome::fail(say!(
        case.lang,
        "answers from {vip} to the director itself are dropped by source validation: its own requests and probes \
         through the tunnel get none",
        "以 {vip} 为源、发给 director 自己的应答被源地址校验丢弃：它经隧道发出的请求和探测收不到应答"
    ))
    .evidence(question.to_string(), errno_text(errno));
    // The larger one of `all` and the device's own holds, so a device's 2 is loose whatever `all` is.
    let all = conf("all", "rp_filter");
    let strict = |name: &String| case.facts.sysctls.get(name) == Some(&1);
    let mut outcome = outcome;
    let mut lines = Vec::new();
    if strict(&all) {
        outcome = outcome.evidence(all.clone(), 1);
    }
    for device in devices_to_backends(case) {
        let own = conf(device, "rp_filter");
        let value = case.facts.sysctls.get(&own).copied().unwrap_or_default();
        if value == 1 || (value == 0 && strict(&all)) {
            outcome = outcome
                .evidence(own.clone(), value)
                .fix(set(&own, 2, case.lang));
            lines.push(format!("{own} = 2"));
        }
    }
    if lines.is_empty() {
        return outcome;
    }
    outcome.persist(Snippet::settings(lines))
}

/// Packets leave for every backend.
fn sending(case: &Case<'_>) -> Outcome {
    if case.director.backends.is_empty() {
        return Outcome::unknown(say!(case.lang, "no backend is known", "不知道任何后端"));
    }
    let mut worst = Outcome::pass();
    for (address, backend) in &case.director.backends {
        let outcome = sending_to(case, *address, backend);
        if outcome.status > worst.status {
            worst = outcome;
        }
    }
    worst
}

fn sending_to(case: &Case<'_>, address: IpAddr, backend: &BackendOnDirector) -> Outcome {
    let question = format!("ip route get {address}");
    let Some(route) = usable(&backend.route) else {
        return match &backend.route {
            RouteAnswer::Unseen(why) => Outcome::unknown(why.clone()),
            refused @ (RouteAnswer::Route(_) | RouteAnswer::Refused(_)) => Outcome::fail(say!(
                case.lang,
                "there is no route to the backend {address}",
                "没有到后端 {address} 的路由"
            ))
            .evidence(&question, route_text(refused))
            .verify(command!["ip", "route", "get", address]),
        };
    };
    if let Some(outcome) = filtered(case, address, backend, route.device.clone(), route.source) {
        return outcome;
    }
    let hop = route.gateway.unwrap_or(address);
    if let Some(outcome) = dead_neighbour(case, address, hop, route.device.as_deref()) {
        return outcome;
    }
    if let Observed::Seen(Some(errno)) = backend.send {
        let name = errno_text(errno);
        return Outcome::fail(say!(
            case.lang,
            "the kernel refuses packets to the backend {address}: {name}",
            "内核拒绝向后端 {address} 发包：{name}"
        ))
        .evidence(question, route_text(&backend.route));
    }
    if let Some(outcome) = small_tun(case) {
        return outcome;
    }
    match &backend.send {
        Observed::Unseen(why) => Outcome::unknown(why.clone()),
        Observed::Seen(_) => Outcome::pass(),
    }
}

fn filtered(
    case: &Case<'_>,
    address: IpAddr,
    backend: &BackendOnDirector,
    device: Option<String>,
    source: Option<IpAddr>,
) -> Option<Outcome> {
    if backend.past_filters {
        return None;
    }
    let firewall = case.firewall.as_ref().ok()?;
    let departure = Departure {
        device,
        source,
        destination: address,
        encap: backend.encap,
        inner: if case.director.vips.keys().any(IpAddr::is_ipv4) {
            Version::V4
        } else {
            Version::V6
        },
    };
    let (protocol, packet) = (departure.protocol(), departure.packet());
    let (rule, outcome) = match firewall.judge(&packet) {
        FilterVerdict::Drop(rule) => {
            let outcome = Outcome::fail(say!(
                case.lang,
                "the firewall drops the tunnel's packets (protocol {protocol}) to the backend {address}: EPERM",
                "防火墙丢弃发往后端 {address} 的隧道包（协议号 {protocol}）:EPERM"
            ));
            (rule, outcome)
        }
        FilterVerdict::Unknown(rule) => {
            let outcome = Outcome::unknown(say!(
                case.lang,
                "a firewall rule decides that the doctor cannot evaluate",
                "起决定作用的防火墙规则中有 doctor 无法判断的匹配条件"
            ));
            (rule, outcome)
        }
        FilterVerdict::Chance(rule, chance) => (rule, Outcome::warn(by_chance(chance, case.lang))),
        FilterVerdict::NotSeen(why) => return Some(Outcome::unknown(why)),
        FilterVerdict::Accept | FilterVerdict::Rewritten(_) | FilterVerdict::Diverted(..) => {
            return None;
        }
    };
    let outcome = outcome.quoted(&rule);
    let matching = Matching::of(
        &format!("meta l4proto {protocol}"),
        &format!("-p {protocol} -d {address}"),
    );
    Some(outcome.fix(accept(&rule, &matching, case.lang)))
}

fn dead_neighbour(
    case: &Case<'_>,
    address: IpAddr,
    hop: IpAddr,
    device: Option<&str>,
) -> Option<Outcome> {
    let neighbours = case.facts.neighbours.seen()?;
    let entry = neighbours.iter().find(|entry| entry.address == hop)?;
    let state = entry.state.as_str();
    matches!(state, "FAILED" | "INCOMPLETE").then(|| {
        let device = device.unwrap_or("E");
        Outcome::fail(say!(
            case.lang,
            "{hop}, the next hop to the backend {address}, does not answer ({state}); the kernel reports no error",
            "到后端 {address} 的下一跳 {hop} 没有回应（{state}）；内核不会报错"
        ))
        .evidence(format!("ip neigh show {hop}"), state)
        .verify(command!["ping", "-c", 1, "-I", device, hop])
    })
}

/// The TUN is too small for what comes in, so that the kernel answers instead of the director.
fn small_tun(case: &Case<'_>) -> Option<Outcome> {
    let tun = case.link(&case.director.tun)?;
    let links = case.facts.links.seen()?.iter();
    let outside = links.filter(|link| link.up && link.name != "lo" && link.name != tun.name);
    let largest = outside.max_by_key(|link| link.mtu)?;
    let wanted = largest.mtu.min(u32::from(u16::MAX));
    (tun.mtu < wanted).then(|| {
        let (name, mtu, device) = (&tun.name, tun.mtu, &largest.name);
        Outcome::warn(say!(
            case.lang,
            "{name} takes packets of {mtu} bytes, {device} of {wanted}: the kernel answers larger ones itself, from an \
             address of this host, which clients' networks may filter",
            "{name} 的 MTU 为 {mtu}，而 {device} 为 {wanted}：更大的包由内核用本机地址答复，而客户端的网络可能过滤该地址"
        ))
        .evidence(format!("{name} mtu"), mtu)
        .evidence(format!("{device} mtu"), wanted)
        .fix(command!["ip", "link", "set", "dev", name, "mtu", wanted])
    })
}

fn only_packets(case: &Case<'_>) -> Outcome {
    Outcome::skip(say!(
        case.lang,
        "only packets show it",
        "只有抓到的包才能说明"
    ))
}

/// What IP_HDRINCL rewrites, tunlb sets itself.
fn written_by_tunlb(_: &Case<'_>) -> Outcome {
    Outcome::pass()
}

fn other_end(case: &Case<'_>) -> Outcome {
    Outcome::skip(say!(
        case.lang,
        "only the backend's side shows it (--peer)",
        "只有后端一侧的结果才能说明（--peer）"
    ))
}

impl<'a> Case<'a> {
    pub(super) fn link(&self, name: &str) -> Option<&'a Link> {
        self.facts
            .links
            .seen()?
            .iter()
            .find(|link| link.name == name)
    }

    fn net_of(&self, address: IpAddr) -> Option<ipnet::IpNet> {
        let addresses = self.facts.addresses.seen()?;
        addresses
            .iter()
            .map(|own| own.net)
            .find(|net| net.addr() == address)
    }

    fn device_of(&self, address: IpAddr) -> Option<&'a str> {
        let own = self
            .facts
            .addresses
            .seen()?
            .iter()
            .find(|own| own.net.addr() == address)?;
        let links = self.facts.links.seen()?;
        let link = links.iter().find(|link| link.index == own.link)?;
        Some(link.name.as_str())
    }
}
