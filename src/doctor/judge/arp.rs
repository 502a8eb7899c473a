//! Rows 8 and 9: does the backend draw the VIP to itself, past the director, by ARP?
//!
//! Machines ask by ARP for the VIP only where it is in a subnet of the segment; elsewhere an answer
//! is a risk that becomes a fault with the next address that somebody adds.

use super::case::{Case, Effective, unseen};
use super::commands::show;
use super::outcome::Outcome;
use super::vip::is_on;
use crate::doctor::facts::Link;
use crate::doctor::lang::say;
use crate::doctor::lines::command;

/// The backend answers ARP requests for the VIP.
pub(super) fn answers(case: &Case<'_>) -> Outcome {
    let physical = match segment(case) {
        Ok(physical) => physical,
        Err(outcome) => return *outcome,
    };
    let addresses = case.addresses_on(physical).unwrap_or_default();
    if addresses.iter().any(|net| net.addr() == case.target.vip) {
        return vip_on_segment(case, physical);
    }
    match case.effective(&physical.name, "arp_ignore") {
        None => not_read(case, "arp_ignore"),
        Some(ignore) if ignore.value() == NO_ANSWERS => silent(case, physical, &ignore),
        Some(ignore) if ignore.value() >= 1 => ignore.shown_in(Outcome::pass()),
        Some(ignore) => answering(case, physical, &ignore),
    }
}

/// The value of arp_ignore by which no local address is answered for (linux/Documentation/networking/ip-sysctl.rst).
const NO_ANSWERS: i64 = 8;

fn silent(case: &Case<'_>, physical: &Link, ignore: &Effective) -> Outcome {
    let name = &physical.name;
    let outcome = Outcome::fail(say!(
        case.lang,
        "the backend answers no ARP request on {name} at all (arp_ignore 8): neighbours lose it, the director among them",
        "后端在 {name} 上不应答任何 ARP 请求（arp_ignore 为 8）：邻居（包括 director）会找不到它"
    ));
    ignore
        .shown_in(outcome)
        .fix("sysctl -w net.ipv4.conf.all.arp_ignore=1")
        .verify(show(&ignore.own_name, case.lang))
}

fn vip_on_segment(case: &Case<'_>, physical: &Link) -> Outcome {
    let vip = case.target.vip;
    let name = &physical.name;
    let outcome = if case.vip_is_on_link() == Some(true) {
        Outcome::fail(say!(
            case.lang,
            "{vip} is an address of {name} and in that segment's subnet: the backend answers ARP for it, whatever \
             arp_ignore says, and clients and the router reach it past the director",
            "{vip} 直接配在 {name} 上，且就在该网段的子网内：无论 arp_ignore 如何，后端都会应答它的 ARP，客户端和路由器会绕过 director"
        ))
    } else {
        Outcome::warn(say!(
            case.lang,
            "{vip} is an address of {name}: the backend answers ARP for it whatever arp_ignore says",
            "{vip} 直接配在 {name} 上：无论 arp_ignore 如何，后端都会应答它的 ARP"
        ))
    };
    let host = ipnet::IpNet::from(vip);
    let outcome = if is_on(case, "lo") {
        outcome
    } else {
        outcome.fix(command!["ip", "addr", "add", host, "dev", "lo"])
    };
    outcome
        .evidence(name, vip)
        .fix(command!["ip", "addr", "del", host, "dev", name])
        .verify(command!["arping", "-D", "-I", name, vip])
}

fn answering(case: &Case<'_>, physical: &Link, ignore: &Effective) -> Outcome {
    let vip = case.target.vip;
    let name = &physical.name;
    let text = say!(
        case.lang,
        "the backend answers ARP requests for {vip} on {name} (arp_ignore 0)",
        "后端会在 {name} 上应答对 {vip} 的 ARP 请求（arp_ignore 为 0）"
    );
    let outcome = by_risk(case, text).fix("sysctl -w net.ipv4.conf.all.arp_ignore=1");
    ignore
        .shown_in(outcome)
        .persist("# /etc/sysctl.d/99-tunlb.conf\nnet.ipv4.conf.all.arp_ignore = 1")
        .verify(command!["arping", "-I", name, vip])
}

/// The backend names the VIP in its own ARP requests.
pub(super) fn announces(case: &Case<'_>) -> Outcome {
    let physical = match segment(case) {
        Ok(physical) => physical,
        Err(outcome) => return *outcome,
    };
    let name = &physical.name;
    let announce = match case.effective(name, "arp_announce") {
        None => return not_read(case, "arp_announce"),
        Some(announce) if announce.value() >= 2 => return announce.shown_in(Outcome::pass()),
        Some(announce) => announce,
    };
    let vip = case.target.vip;
    let value = announce.value();
    let text = say!(
        case.lang,
        "the backend names {vip} as the sender of its ARP requests on {name} (arp_announce {value})",
        "后端在 {name} 上发出的 ARP 请求会以 {vip} 作为发送者（arp_announce 为 {value}）"
    );
    let outcome = by_risk(case, text).fix("sysctl -w net.ipv4.conf.all.arp_announce=2");
    announce
        .shown_in(outcome)
        .persist("# /etc/sysctl.d/99-tunlb.conf\nnet.ipv4.conf.all.arp_announce = 2")
        .verify(show(&announce.own_name, case.lang))
}

/// A fault where machines of the segment ask for the VIP, a risk where they do not.
fn by_risk(case: &Case<'_>, text: String) -> Outcome {
    match case.vip_is_on_link() {
        Some(true) => Outcome::fail(say!(
            case.lang,
            "{text}, and the VIP is in that segment's subnet: clients and the router reach it past the director",
            "{text}，而 VIP 就在该网段的子网内：客户端和路由器会绕过 director 直接到达后端"
        )),
        Some(false) => Outcome::warn(say!(
            case.lang,
            "{text}; harmless as long as nobody on that segment asks for it",
            "{text}；只要该网段内没有主机请求它，就没有影响"
        )),
        None => Outcome::warn(text),
    }
}

/// The device that is asked, or why there is nothing to judge.
fn segment<'a>(case: &Case<'a>) -> Result<&'a Link, Box<Outcome>> {
    if case.target.vip.is_ipv6() {
        return Err(Box::new(Outcome::skip(say!(
            case.lang,
            "IPv6 has no ARP",
            "IPv6 没有 ARP"
        ))));
    }
    let Some(physical) = case.physical() else {
        let why = unseen(&case.facts.links).map(str::to_owned);
        return Err(Box::new(Outcome::unknown(why.unwrap_or_else(|| {
            say!(
                case.lang,
                "the device by which outer packets come in is not known",
                "不知道外层包从哪个网卡进入"
            )
        }))));
    };
    if physical.arp {
        return Ok(physical);
    }
    let name = &physical.name;
    Err(Box::new(Outcome::skip(say!(
        case.lang,
        "{name} speaks no ARP",
        "{name} 不使用 ARP"
    ))))
}

fn not_read(case: &Case<'_>, key: &str) -> Outcome {
    Outcome::unknown(say!(case.lang, "{key} could not be read", "无法读取 {key}"))
}
