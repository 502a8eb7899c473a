//! Where rules send the VIP's packets instead of to a socket of its own address and port, and rules that treat packets
//! of a kind differently.

use std::net::IpAddr;

use super::case::Case;
use super::commands::{lasting, set};
use super::flow;
use super::outcome::Outcome;
use crate::doctor::firewall::{Chance, ConntrackState, Diversion, FilterVerdict, Firewall};
use crate::doctor::lang::{Lang, say};

/// The address that redirect sends packets to: the first one of the device that they come in by.
fn own_of_tunnel(case: &Case<'_>) -> Option<IpAddr> {
    let addresses = case.addresses_on(case.tunnel()?)?;
    let mut addresses = addresses.iter().map(ipnet::IpNet::addr);
    addresses.find(|address| address.is_ipv4() == case.target.vip.is_ipv4())
}

/// Where packets for the VIP are delivered: its own address and port, or those of this host that a rule sends
/// them to. None where a rule sends them elsewhere.
pub(super) fn delivered_to(case: &Case<'_>) -> Option<(IpAddr, Option<u16>)> {
    let target = case.target;
    match case.diversion() {
        None | Some((_, Diversion::Handshake)) => Some((target.vip, target.port)),
        Some((_, Diversion::Elsewhere)) => None,
        Some((_, Diversion::Address(to) | Diversion::Socket(to))) => {
            let own = to.own.then(|| own_of_tunnel(case)).flatten();
            let address = to.address.or(own).unwrap_or(target.vip);
            let here = address == target.vip || case.is_own(address) || address.is_loopback();
            here.then_some((address, to.port.or(target.port)))
        }
    }
}

/// The address and port that a rule sends packets for the VIP to.
pub(super) fn sent_to(case: &Case<'_>) -> Option<(IpAddr, Option<u16>)> {
    match case.diversion()? {
        (_, Diversion::Address(to)) => Some((to.address?, to.port.or(case.target.port))),
        (_, Diversion::Socket(_) | Diversion::Handshake | Diversion::Elsewhere) => None,
    }
}

/// Where the kernel makes handshakes in the service's place, the ACK that ends one has to come to the same rule; one
/// that conntrack takes for the first packet of a connection mostly does not.
pub(super) fn handshake(case: &Case<'_>, firewall: &Firewall) -> Option<Outcome> {
    let Some((rule, Diversion::Handshake)) = case.diversion() else {
        return None;
    };
    let name = "net.netfilter.nf_conntrack_tcp_loose";
    let loose = case.sysctl(name) != Some(0);
    let state = if loose {
        ConntrackState::New
    } else {
        ConntrackState::Invalid
    };
    let ends = firewall.judge(&flow::acknowledgement(case, state));
    if matches!(ends, FilterVerdict::Diverted(_, Diversion::Handshake)) {
        return None;
    }
    let outcome = Outcome::fail(say!(
        case.lang,
        "SYNPROXY answers the SYN, but the ACK that follows does not come back to its rule: conntrack takes it for the \
         first packet of a connection ({name} is not 0)",
        "SYNPROXY 应答了 SYN，但随后的 ACK 没有回到它的规则：conntrack 把它当作新连接的首包（{name} 不为 0）"
    ));
    let outcome = outcome.quoted(rule).evidence(name, i64::from(loose));
    Some(
        outcome
            .fix(set(name, 0, case.lang))
            .persist(lasting(name, 0)),
    )
}

/// Why only some packets of a kind pass.
pub(super) fn by_chance(chance: Chance, lang: Lang) -> String {
    match chance {
        Chance::Rate => say!(
            lang,
            "a firewall rule lets only so many packets pass and drops those beyond",
            "有防火墙规则限制了放行的数量，超出的包会被丢弃"
        ),
        Chance::Draw => say!(
            lang,
            "a firewall rule drops a share of the packets, drawn at random or by a hash",
            "有防火墙规则按随机数或哈希丢弃一部分包"
        ),
        Chance::Time => say!(
            lang,
            "a firewall rule lets these packets pass now and drops them at other times",
            "有防火墙规则目前放行这些包，而在其他时间会丢弃它们"
        ),
        Chance::Content => say!(
            lang,
            "a firewall rule drops packets with a certain content",
            "有防火墙规则会丢弃带有特定内容的包"
        ),
        Chance::Sender => say!(
            lang,
            "a firewall rule drops packets by what the client's operating system looks like",
            "有防火墙规则会按客户端操作系统的特征丢弃包"
        ),
    }
}
