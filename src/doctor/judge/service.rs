//! Rows 30 to 32: does a program of this network namespace serve the VIP's port?

use std::net::IpAddr;

use super::case::Case;
use super::diversion::delivered_to;
use super::outcome::Outcome;
use super::{asleep, sent_on as onward};
use crate::doctor::facts::{Observed, Socket};
use crate::doctor::lang::say;
use crate::doctor::lines::command;

/// Nothing listens.
pub(super) fn listener(case: &Case<'_>) -> Outcome {
    let target = case.target;
    let Some(port) = target.port else {
        return any_port(case);
    };
    let sockets = match &case.facts.sockets {
        Observed::Seen(sockets) => sockets,
        Observed::Unseen(why) => return Outcome::unknown(why.clone()),
    };
    let service = case.service();
    let Some(at) = delivered_to(case) else {
        return onward::judge(case).unwrap_or_else(|| sent_elsewhere(case));
    };
    let serving: Vec<_> = serving_at(case, sockets, at).collect();
    if let Some(socket) = serving.first() {
        let outcome = asleep::judge(case, &serving);
        return outcome
            .unwrap_or_else(Outcome::pass)
            .evidence(address_text(socket), program(socket));
    }
    let service = if at == (target.vip, target.port) {
        service
    } else {
        format!(
            "{}/{}",
            socket_text(at.0, at.1.unwrap_or(port)),
            target.protocol
        )
    };
    let port = at.1.unwrap_or(port);
    let protocol = &target.protocol;
    let outcome = Outcome::fail(say!(
        case.lang,
        "nothing listens on {service} in this network namespace: clients are refused",
        "本网络命名空间里没有程序监听 {service}：客户端会被拒绝"
    ));
    let outcome = elsewhere(case, on_other_addresses(outcome, sockets, protocol, port));
    let flag = if protocol == "udp" { "u" } else { "t" };
    let counter = if protocol == "udp" {
        "UdpNoPorts"
    } else {
        "TcpOutRsts"
    };
    let vip = target.vip;
    case.with_counters(outcome, &[counter])
        .fix(say!(
            case.lang,
            "# let the service bind {vip} or the wildcard address, port {port}",
            "# 让服务绑定 {vip} 或通配地址，端口 {port}"
        ))
        .verify(command![
            "ss",
            format!("-{flag}lnp"),
            "sport",
            "=",
            format!(":{port}")
        ])
}

/// What the filter sends to another machine, socket or device is not followed.
fn sent_elsewhere(case: &Case<'_>) -> Outcome {
    let service = case.service();
    let outcome = Outcome::unknown(say!(
        case.lang,
        "the packet filter sends packets for {service} elsewhere; where to, and who listens there, was not followed",
        "包过滤规则把发往 {service} 的包送往别处；未继续追踪其去向，也不知道那里是否有程序监听"
    ));
    match case.diversion() {
        Some((rule, _)) => outcome.quoted(rule),
        None => outcome,
    }
}

fn any_port(case: &Case<'_>) -> Outcome {
    Outcome::skip(say!(
        case.lang,
        "no port was named: --vip ADDR:PORT/PROTO",
        "没有指定端口：--vip ADDR:PORT/PROTO"
    ))
}

/// Programs that are worth reading about.
const MOST_SHOWN: usize = 8;

/// Programs that listen on the port, on addresses or devices where the VIP's packets do not reach them.
fn on_other_addresses(outcome: Outcome, sockets: &[Socket], protocol: &str, port: u16) -> Outcome {
    let others = sockets
        .iter()
        .filter(|socket| socket.protocol == protocol && socket.port == port);
    others.take(MOST_SHOWN).fold(outcome, |outcome, socket| {
        outcome.evidence(address_text(socket), program(socket))
    })
}

fn elsewhere(case: &Case<'_>, outcome: Outcome) -> Outcome {
    let others = case
        .target
        .listeners_elsewhere
        .seen()
        .map_or(&[][..], Vec::as_slice);
    others
        .iter()
        .take(MOST_SHOWN)
        .fold(outcome, |outcome, (pid, program)| {
            outcome
                .evidence(
                    say!(
                        case.lang,
                        "in another network namespace",
                        "在别的网络命名空间里"
                    ),
                    format!("{program} ({pid})"),
                )
                .fix(command![
                    "nsenter",
                    format!("--net=/proc/{pid}/ns/net"),
                    "tunlb",
                    "doctor"
                ])
        })
}

/// A UDP service on the wildcard address.
pub(super) fn udp_source(case: &Case<'_>) -> Outcome {
    let vip = case.target.vip;
    if case.target.protocol != "udp" {
        return Outcome::skip(say!(case.lang, "the service is not UDP", "服务不是 UDP"));
    }
    let sockets = match &case.facts.sockets {
        Observed::Seen(sockets) => sockets,
        Observed::Unseen(why) => return Outcome::unknown(why.clone()),
    };
    let mut serving = serving(case, sockets).peekable();
    let Some(first) = serving.peek().copied() else {
        return any_port(case);
    };
    if serving.any(|socket| socket.address == vip) {
        return Outcome::pass().evidence(address_text(first), program(first));
    }
    let (address, name) = (address_text(first), program(first));
    let own = case
        .backend_address()
        .map_or("R".to_owned(), |own| own.to_string());
    Outcome::warn(say!(
        case.lang,
        "{name} is bound to the wildcard address {address}: its answers leave from {own} and not from {vip}, unless \
         it uses IP_PKTINFO",
        "{name} 绑定在通配地址 {address}：除非它使用 IP_PKTINFO，否则应答的源地址是 {own} 而不是 {vip}"
    ))
    .evidence(address, name)
    .fix(say!(
        case.lang,
        "# bind the service to {vip}, or let it use IP_PKTINFO",
        "# 让服务绑定 {vip}，或使用 IP_PKTINFO"
    ))
    .verify("ss -ulnp")
}

/// The program behind the service takes what comes.
pub(super) fn accept_queue(case: &Case<'_>) -> Outcome {
    let sockets = match &case.facts.sockets {
        Observed::Seen(sockets) => sockets,
        Observed::Unseen(why) => return Outcome::unknown(why.clone()),
    };
    let serving: Vec<_> = serving(case, sockets).collect();
    if let Some(outcome) = asleep::program_sleeps(case, &serving) {
        return case.with_counters(outcome, &COUNTERS);
    }
    // Without sock_diag(7) the kernel tells no limit, and only the counter is left.
    let untold = serving.iter().all(|socket| socket.queue_limit == 0);
    if case.target.protocol == "tcp" && untold && case.counter("TcpExtListenOverflows") != Some(0) {
        let outcome = Outcome::unknown(say!(
            case.lang,
            "the kernel does not tell the queue's limit",
            "内核没有给出队列上限"
        ));
        return case.with_counters(outcome, &COUNTERS);
    }
    case.with_counters(Outcome::pass(), &COUNTERS)
}

const COUNTERS: [&str; 2] = ["TcpExtListenOverflows", "TcpExtListenDrops"];

/// Sockets that get packets for the VIP's port out of the tunnel.
pub(super) fn serving<'a>(
    case: &Case<'a>,
    sockets: &'a [Socket],
) -> impl Iterator<Item = &'a Socket> {
    let at = delivered_to(case).unwrap_or((case.target.vip, case.target.port));
    serving_at(case, sockets, at)
}

/// The sockets that hear packets for an address and port of this host: those that are bound to the address, else
/// those of all addresses (`__inet_lookup_listener`, linux/net/ipv4/inet_hashtables.c).
pub(super) fn serving_at<'a>(
    case: &Case<'a>,
    sockets: &'a [Socket],
    (at, port): (IpAddr, Option<u16>),
) -> impl Iterator<Item = &'a Socket> {
    let target = case.target;
    let hears = move |socket: &Socket| {
        let address = socket.address == at
            || (socket.address.is_unspecified()
                && (socket.address.is_ipv4() == at.is_ipv4()
                    || (socket.address.is_ipv6() && !socket.v6_only)));
        let device = socket.device.is_none() || socket.device == target.tunnel;
        socket.protocol == target.protocol && Some(socket.port) == port && address && device
    };
    let is_exact = sockets
        .iter()
        .any(|socket| socket.address == at && hears(socket));
    let hearing = sockets.iter().filter(move |socket| hears(socket));
    hearing.filter(move |socket| !is_exact || socket.address == at)
}

fn socket_text(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

pub(super) fn address_text(socket: &Socket) -> String {
    let address = std::net::SocketAddr::new(socket.address, socket.port);
    match &socket.device {
        Some(device) => format!("{address}%{device}"),
        None => address.to_string(),
    }
}

pub(super) fn program(socket: &Socket) -> &str {
    socket.program.as_deref().unwrap_or("?")
}
