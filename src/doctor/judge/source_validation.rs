//! Rows 10, 11, 12 and 14: does the kernel believe the client's address on the tunnel device?
//!
//! `ip route get V from C iif T` is the kernel's own answer; the settings only explain a refusal
//! (`__fib_validate_source`). IPv6 has no reverse-path filter of its own.

use std::net::IpAddr;

use super::boot::{BootSetting, boot_value};
use super::case::{Case, Effective, conf, route_text, unseen};
use super::commands::{lasting, set};
use super::outcome::Outcome;
use crate::doctor::facts::{Link, RouteAnswer};
use crate::doctor::finding::Code;
use crate::doctor::lang::say;
use crate::doctor::lines::{FixLine, Snippet, command};

/// An address that loose validation is content with and that collides with none.
const LOOPBACK: &str = "127.0.0.42/32";

/// What keeps the client's packets from passing.
enum Cause {
    /// Nothing.
    Nothing,
    /// C is an address of this machine.
    OwnAddress,
    /// rp_filter is 1.
    Strict(Effective),
    /// rp_filter is 2 and the device has no IPv4 address.
    LooseWithoutAddress(Effective),
    /// It cannot be told.
    Unknown(String),
    /// There is nothing to ask.
    NotIpv4,
}

/// Strict rp_filter.
pub(super) fn strict(case: &Case<'_>) -> Outcome {
    let outer = outer_refused(case);
    match cause(case) {
        Cause::Nothing | Cause::NotIpv4 if outer.is_some() => outer.unwrap_or_else(Outcome::pass),
        Cause::Strict(filter) => strict_fails(case, &filter),
        Cause::Unknown(why) => {
            Outcome::unknown(why).evidence(oracle(case).to_string(), route_text(case.input()))
        }
        Cause::LooseWithoutAddress(_) => Outcome::blocked(Code::backend(11)),
        Cause::OwnAddress => Outcome::blocked(Code::backend(14)),
        Cause::NotIpv4 => no_filter(case),
        Cause::Nothing => shown(case, Outcome::pass()),
    }
}

/// The director's packets come in by a device whose filter does not know their source there; on another device than
/// that of the way to the director only if packets were dropped so.
fn outer_refused(case: &Case<'_>) -> Option<Outcome> {
    let director = case.target.director?;
    let counter = "TcpExtIPReversePathFilter";
    let refused =
        |answer: &RouteAnswer| matches!(answer, RouteAnswer::Refused(libc::EINVAL | libc::EXDEV));
    let mut inputs = case
        .target
        .outer_inputs
        .iter()
        .filter(|(_, answer)| refused(answer));
    let is_physical = |device: &String| Some(device) == case.target.physical.as_ref();
    let (device, _) = inputs
        .clone()
        .find(|(device, _)| is_physical(device))
        .or_else(|| inputs.next())?;
    let filter = case
        .effective(device, "rp_filter")
        .filter(|filter| filter.value() != 0)?;
    let value = filter.value();
    let outcome = if is_physical(device) {
        Outcome::fail(say!(
            case.lang,
            "rp_filter ({value}) drops the tunnel's packets on {device}: the way to the director {director} is not {device}",
            "rp_filter（{value}）在 {device} 上丢弃隧道包：回 director {director} 的路由不经过 {device}"
        ))
    } else {
        let dropped = case.counter(counter).filter(|dropped| *dropped > 0)?;
        Outcome::warn(say!(
            case.lang,
            "rp_filter ({value}) drops packets of the director {director} that come in by {device}; it has dropped {dropped} \
             packets of some source so far",
            "rp_filter（{value}）会丢弃从 {device} 进入的、来自 director {director} 的包；迄今已丢弃 {dropped} 个包（来源不限）"
        ))
    };
    let outcome = filter.shown_in(outcome);
    let wide = (filter.all == value).then(|| set(&filter.all_name, 0, case.lang));
    let outcome = wide.into_iter().fold(outcome, Outcome::fix);
    let outcome = outcome
        .fix(set(&filter.own_name, 0, case.lang))
        .persist(lasting(&filter.own_name, 0))
        .verify(command!["ip", "route", "get", director]);
    Some(case.with_counters(outcome, &[counter]))
}

fn strict_fails(case: &Case<'_>, filter: &Effective) -> Outcome {
    let tunnel = tunnel_name(case);
    let text = say!(
        case.lang,
        "SYN decapsulated on {tunnel}, then dropped: rp_filter is strict (1) and the way back to the client is \
         not {tunnel}",
        "SYN 在 {tunnel} 上解封装后被丢弃：rp_filter 为严格模式（1），而回客户端的路由不经过 {tunnel}"
    );
    let text = if filter.all == 1 {
        let own = &filter.own_name;
        say!(
            case.lang,
            "{text}; {own}=0 alone does not mend it, because all.rp_filter is 1",
            "{text}；仅设 {own}=0 无效，因为 all.rp_filter 为 1"
        )
    } else {
        text
    };
    let outcome = filter.shown_in(Outcome::fail(text));
    let outcome = if filter.all == 1 {
        outcome.fix(set(&filter.all_name, 0, case.lang))
    } else {
        outcome
    };
    let mut lines = Vec::new();
    if filter.all == 1 {
        lines.push(format!("-{}", filter.all_name));
        lines.push(format!("{} = 0", filter.all_name));
    }
    lines.push(format!("{} = 0", filter.own_name));
    let outcome = outcome
        .fix(set(&filter.own_name, 0, case.lang))
        .persist(Snippet::settings(lines));
    dropped_by_filter(case, outcome)
}

/// Loose rp_filter on a device without an address.
pub(super) fn loose_without_address(case: &Case<'_>) -> Outcome {
    match cause(case) {
        Cause::LooseWithoutAddress(filter) => {
            let tunnel = tunnel_name(case);
            let outcome = filter.shown_in(Outcome::fail(say!(
                case.lang,
                "SYN decapsulated on {tunnel}, then dropped: rp_filter is loose (2) and {tunnel} has no address",
                "SYN 在 {tunnel} 上解封装后被丢弃：rp_filter 为宽松模式（2），而 {tunnel} 没有 IPv4 地址"
            )));
            let outcome = outcome
                .evidence(
                    command!["ip", "-4", "addr", "show", tunnel].to_string(),
                    "none",
                )
                .fix(command!["ip", "addr", "add", LOOPBACK, "dev", tunnel])
                .persist(Snippet::naming(
                    tunnel,
                    format!("/etc/systemd/network/{tunnel}.network"),
                    &format!("[Match]\nName={tunnel}\n[Network]\nAddress={LOOPBACK}"),
                ))
                .persist(Snippet::naming(
                    tunnel,
                    format!("/etc/network/interfaces.d/{tunnel}"),
                    &format!(
                        "allow-hotplug {tunnel}\niface {tunnel} inet static\n    address {LOOPBACK}"
                    ),
                ));
            dropped_by_filter(case, outcome)
        }
        Cause::Strict(_) => Outcome::blocked(Code::backend(10)),
        Cause::OwnAddress => Outcome::blocked(Code::backend(14)),
        Cause::Unknown(why) => Outcome::unknown(why),
        Cause::NotIpv4 => no_filter(case),
        Cause::Nothing => shown(case, Outcome::pass()),
    }
}

fn dropped_by_filter(case: &Case<'_>, outcome: Outcome) -> Outcome {
    let outcome = outcome
        .evidence(oracle(case).to_string(), route_text(case.input()))
        .verify(oracle(case));
    case.with_counters(outcome, &["TcpExtIPReversePathFilter"])
}

/// The client's address is one of this machine.
pub(super) fn own_client(case: &Case<'_>) -> Outcome {
    let client = case.target.client;
    match cause(case) {
        Cause::OwnAddress => {
            let name = conf(tunnel_name(case), "accept_local");
            Outcome::fail(say!(
                case.lang,
                "{client}, the client, is an address of this machine: its packets are dropped without any counter",
                "客户端 {client} 是本机自己的地址：它的包被丢弃，且不计入任何计数器"
            ))
            .evidence(oracle(case).to_string(), route_text(case.input()))
            .fix(set(&name, 1, case.lang))
            .persist(lasting(&name, 1))
            .verify(oracle(case))
        }
        Cause::Unknown(why) if case.facts.addresses.seen().is_none() => Outcome::unknown(why),
        Cause::NotIpv4 => no_filter(case),
        Cause::Nothing | Cause::Strict(_) | Cause::LooseWithoutAddress(_) | Cause::Unknown(_) => {
            Outcome::pass()
        }
    }
}

/// Running settings are right, those of the next boot are not.
pub(super) fn reverts(case: &Case<'_>) -> Outcome {
    let Some(tunnel) = case.tunnel().filter(|_| case.target.vip.is_ipv4()) else {
        return no_filter(case);
    };
    let settings = match &case.facts.sysctl_files {
        crate::doctor::facts::Observed::Seen(settings) => settings,
        crate::doctor::facts::Observed::Unseen(why) => return Outcome::unknown(why.clone()),
    };
    let mut processes = case.facts.decapsulators.seen().into_iter().flatten();
    let process = processes.find(|process| process.device == tunnel.name);
    // It gives its device an address and sets again what others change, as long as it runs.
    if let Some(keeper) = process.filter(|process| process.setup) {
        let pid = keeper.pid;
        return Outcome::pass().evidence("rp_filter is kept by", format!("tunlb decap {pid}"));
    }
    let all = boot_value(settings, "all", "rp_filter");
    let own = boot_value(settings, &tunnel.name, "rp_filter");
    let later = [&all, &own].into_iter().flatten();
    let worst = later.max_by_key(|setting| setting.value).map(Later::of);
    // The device of a decapsulator is a new one each time that starts: not only at the next boot.
    let of_new = process.filter(|_| own.is_none()).and_then(|_| {
        let name = conf("default", "rp_filter");
        let value = case.sysctl(&name)?;
        let place = format!("{name}={value}");
        Some(Later { place, name, value })
    });
    let Some(worst) = worst
        .into_iter()
        .chain(of_new)
        .max_by_key(|later| later.value)
    else {
        return Outcome::pass();
    };
    let loose_is_fine = has_address(case, tunnel) != Some(false);
    match worst.value {
        0 => Outcome::pass(),
        2 if loose_is_fine => Outcome::pass(),
        _ => will_revert(case, tunnel, &worst, all.map(|all| all.value)),
    }
}

/// A value that the device will have.
struct Later {
    /// Where it is written.
    place: String,
    name: String,
    value: i64,
}

impl Later {
    fn of(setting: &BootSetting) -> Self {
        Self {
            place: format!("{}:{}", setting.file, setting.line),
            name: setting.name.clone(),
            value: setting.value,
        }
    }
}

fn will_revert(case: &Case<'_>, tunnel: &Link, worst: &Later, all: Option<i64>) -> Outcome {
    let name = &tunnel.name;
    let Later { place, value, .. } = worst;
    let own_name = conf(name, "rp_filter");
    let all_name = conf("all", "rp_filter");
    let loose_is_fine = has_address(case, tunnel) != Some(false);
    let wanted = match all {
        _ if loose_is_fine => vec![format!("{own_name} = 2")], // the larger one counts
        Some(1..) => vec![format!("{all_name} = 0"), format!("{own_name} = 0")],
        Some(_) | None => vec![format!("{own_name} = 0")],
    };
    Outcome::warn(say!(
        case.lang,
        "the running rp_filter lets the packets pass, but {place} sets it to {value} at the next boot or \
         when {name} is made anew",
        "当前的 rp_filter 放行这些包，但 {place} 会在下次启动或重建 {name} 时把它设为 {value}"
    ))
    .evidence(place, format!("{} = {value}", worst.name))
    .persist(Snippet::settings(wanted))
    .verify(command!["systemd-analyze", "cat-config", "sysctl.d"])
}

fn cause(case: &Case<'_>) -> Cause {
    let target = case.target;
    if target.vip.is_ipv6() {
        return Cause::NotIpv4;
    }
    let Some(tunnel) = case.tunnel() else {
        let why = unseen(&case.facts.links).map(str::to_owned);
        return Cause::Unknown(why.unwrap_or_else(|| no_tunnel(case)));
    };
    match case.input() {
        RouteAnswer::Route(_) | RouteAnswer::Refused(libc::EHOSTUNREACH) => Cause::Nothing,
        RouteAnswer::Refused(libc::EINVAL | libc::EXDEV) => {
            explained(case, tunnel).unwrap_or_else(|| unexplained(case))
        }
        RouteAnswer::Refused(_) => unexplained(case),
        // Without the oracle the settings are all there is.
        RouteAnswer::Unseen(why) => {
            by_settings(case, tunnel).unwrap_or_else(|| Cause::Unknown(why.clone()))
        }
    }
}

/// The reason of a refusal.
fn explained(case: &Case<'_>, tunnel: &Link) -> Option<Cause> {
    if case.is_own(case.target.client)
        && case.sysctl(&conf(&tunnel.name, "accept_local")) != Some(1)
    {
        return Some(Cause::OwnAddress);
    }
    let filter = case.effective(&tunnel.name, "rp_filter")?;
    match filter.value() {
        1 => Some(Cause::Strict(filter)),
        2 if has_address(case, tunnel) == Some(false) => Some(Cause::LooseWithoutAddress(filter)),
        _ => None,
    }
}

/// What the settings alone say: nothing where they do not decide.
fn by_settings(case: &Case<'_>, tunnel: &Link) -> Option<Cause> {
    let filter = case.effective(&tunnel.name, "rp_filter")?;
    match filter.value() {
        0 => Some(Cause::Nothing),
        1 => {
            let device = case.way_back()?.device.as_deref()?;
            let cause = if device == tunnel.name {
                Cause::Nothing
            } else {
                Cause::Strict(filter)
            };
            Some(cause)
        }
        _ => {
            let has_address = has_address(case, tunnel)?;
            case.way_back()?;
            Some(if has_address {
                Cause::Nothing
            } else {
                Cause::LooseWithoutAddress(filter)
            })
        }
    }
}

fn unexplained(case: &Case<'_>) -> Cause {
    let tunnel = tunnel_name(case);
    let answer = route_text(case.input());
    Cause::Unknown(say!(
        case.lang,
        "the kernel refuses the client's packets on {tunnel} ({answer}), and no setting that could be read explains it",
        "内核拒绝 {tunnel} 上来自客户端的包（{answer}），而能读到的设置都无法解释原因"
    ))
}

/// Whether the device has an IPv4 address, any: loose validation asks for no more.
fn has_address(case: &Case<'_>, tunnel: &Link) -> Option<bool> {
    let addresses = case.addresses_on(tunnel)?;
    Some(addresses.iter().any(|net| net.addr().is_ipv4()))
}

fn shown(case: &Case<'_>, outcome: Outcome) -> Outcome {
    let outcome = outcome.evidence(oracle(case).to_string(), route_text(case.input()));
    match case.effective(tunnel_name(case), "rp_filter") {
        Some(filter) => filter.shown_in(outcome),
        None => outcome,
    }
}

fn no_filter(case: &Case<'_>) -> Outcome {
    Outcome::skip(match case.target.vip {
        IpAddr::V6(_) => say!(case.lang, "IPv6 has no rp_filter", "IPv6 没有 rp_filter"),
        IpAddr::V4(_) => no_tunnel(case),
    })
}

fn no_tunnel(case: &Case<'_>) -> String {
    say!(
        case.lang,
        "the device out of which inner packets come is not known",
        "不知道内层包从哪个设备出来"
    )
}

fn tunnel_name<'a>(case: &Case<'a>) -> &'a str {
    case.target.tunnel.as_deref().unwrap_or("T")
}

fn oracle(case: &Case<'_>) -> FixLine {
    let (vip, client) = (case.target.vip, case.target.client);
    command![
        "ip",
        "route",
        "get",
        vip,
        "from",
        client,
        "iif",
        tunnel_name(case)
    ]
}
