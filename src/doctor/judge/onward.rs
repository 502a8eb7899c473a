//! Row 35, its last part: do the director's own packet filters let clients' packets through to the TUN?
//!
//! A director sees one direction of each connection. Conntrack takes the SYN for new, and whatever follows it without
//! an answer in between for invalid (`tcp_in_window`, linux/net/netfilter/nf_conntrack_proto_tcp.c), so a rule that
//! drops what is invalid lets clients connect and get nothing.

use std::net::IpAddr;

use super::commands::{Matching, accept, nft_device, show_chain};
use super::director::Case;
use super::diversion::by_chance;
use super::filters::CLIENT_PORT;
use super::flow::kind_of;
use super::outcome::Outcome;
use crate::doctor::facts::{VipOnDirector, client_of};
use crate::doctor::firewall::{
    ConntrackState, FilterPath, FilterVerdict, FilteredPacket, Firewall, RuleText, Tracking,
};
use crate::doctor::lang::say;
use crate::doctor::lines::command;

/// Flags of TCP (RFC 9293 §3.1).
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const DATA: u8 = 0x18;

/// Clients' packets pass the filters on their way into the TUN.
pub(super) fn filters(case: &Case<'_>) -> Outcome {
    let firewall = match case.firewall {
        Ok(firewall) => firewall,
        Err(why) => return Outcome::unknown(why.clone()),
    };
    let mut worst = Outcome::pass();
    for (vip, seen) in &case.director.vips {
        for &(protocol, port) in &seen.services {
            let outcome = service(case, firewall, (*vip, seen), (protocol, port));
            if outcome.status > worst.status {
                worst = outcome;
            }
        }
    }
    worst
}

fn service(
    case: &Case<'_>,
    firewall: &Firewall,
    (vip, seen): (IpAddr, &VipOnDirector),
    (protocol, port): (u8, Option<u16>),
) -> Outcome {
    let first = packet(case, (vip, seen), (protocol, port), ConntrackState::New);
    let later = match firewall.tracking(&first) {
        Some(Tracking::Untracked) => ConntrackState::Untracked,
        Some(Tracking::InZone { .. }) | None => ConntrackState::Invalid,
    };
    let tcp = |flags, state| FilteredPacket {
        tcp_flags: Some(flags),
        ..packet(case, (vip, seen), (protocol, port), state)
    };
    let packets = if protocol == 6 {
        vec![
            tcp(SYN, ConntrackState::New),
            tcp(ACK, later),
            tcp(DATA, later),
        ]
    } else {
        vec![first]
    };
    let mut unknown = None;
    for (number, packet) in packets.iter().enumerate() {
        match firewall.judge(packet) {
            FilterVerdict::Drop(rule) => return dropped(case, vip, seen, &rule, number > 0),
            FilterVerdict::Unknown(rule) => {
                let outcome = Outcome::unknown(say!(
                    case.lang,
                    "a firewall rule for forwarded packets decides that the doctor cannot evaluate",
                    "针对转发包的某条防火墙规则中有 doctor 无法判断的匹配条件"
                ));
                unknown.get_or_insert(outcome.quoted(&rule));
            }
            FilterVerdict::Chance(rule, chance) => {
                let outcome = Outcome::warn(by_chance(chance, case.lang));
                unknown.get_or_insert(outcome.quoted(&rule));
            }
            FilterVerdict::NotSeen(why) => {
                unknown.get_or_insert(Outcome::unknown(why));
            }
            FilterVerdict::Accept | FilterVerdict::Rewritten(_) | FilterVerdict::Diverted(..) => {}
        }
    }
    unknown.unwrap_or_else(Outcome::pass)
}

fn packet(
    case: &Case<'_>,
    (vip, seen): (IpAddr, &VipOnDirector),
    (protocol, port): (u8, Option<u16>),
    state: ConntrackState,
) -> FilteredPacket {
    let client = client_of(case.director.client, vip);
    let tun = &case.director.tun;
    let device = seen.clients_by.as_deref();
    FilteredPacket {
        iif: seen.clients_by.clone(),
        oif: Some(tun.clone()),
        ports: port.map(|port| (CLIENT_PORT, port)),
        state,
        source_is_local: Some(false),
        destination_is_local: Some(false),
        reverse_path_found: device.map(|_| true),
        source_is_routable: Some(true),
        in_by: device.and_then(|name| case.link(name)).map(kind_of),
        out_by: case.link(tun).map(kind_of),
        ..FilteredPacket::new(FilterPath::Through, client, vip, protocol)
    }
}

fn dropped(
    case: &Case<'_>,
    vip: IpAddr,
    seen: &VipOnDirector,
    rule: &RuleText,
    is_later: bool,
) -> Outcome {
    let tun = &case.director.tun;
    let place = rule.place();
    if is_later {
        let outcome = Outcome::fail(say!(
            case.lang,
            "the firewall drops all but the first packet for {vip} on its way forward into {tun} ({place}): a director sees \
             one direction only, so conntrack takes the rest for invalid",
            "防火墙丢弃发往 {vip}、转发进 {tun} 的首包以外的所有包（{place}）:director 只看到一个方向，conntrack 把其余的包都当作 invalid"
        ));
        return untracked(outcome, vip, rule)
            .quoted(rule)
            .verify(show_chain(rule, case.lang));
    }
    let outcome = Outcome::fail(say!(
        case.lang,
        "the firewall drops packets of clients for {vip} on their way forward into {tun} ({place})",
        "防火墙丢弃客户端发往 {vip}、转发进 {tun} 的包（{place}）"
    ));
    let device = seen.clients_by.as_deref().unwrap_or("E");
    let named = nft_device(device).zip(nft_device(tun));
    let (from, to) = named.unwrap_or_else(|| (device.to_owned(), tun.clone()));
    let matching = Matching {
        nft: ["iifname", &from, "oifname", &to].map(str::to_owned).into(),
        iptables: ["-i", device, "-o", tun].map(str::to_owned).into(),
    };
    outcome
        .quoted(rule)
        .fix(accept(rule, &matching, case.lang))
        .verify(show_chain(rule, case.lang))
}

/// Conntrack has nothing to do for a VIP on a director.
fn untracked(outcome: Outcome, vip: IpAddr, rule: &RuleText) -> Outcome {
    let family = if vip.is_ipv4() { "ip" } else { "ip6" };
    if let Some(program) = rule
        .program
        .strip_suffix("-save")
        .or(Some(rule.program.as_str()))
        && program.contains("tables")
    {
        return outcome.fix(command![
            program,
            "-t",
            "raw",
            "-I",
            "PREROUTING",
            "-d",
            vip,
            "-j",
            "CT",
            "--notrack"
        ]);
    }
    outcome
        .fix(command!["nft", "add", "table", "inet", "tunlb"])
        .fix(command![
            "nft",
            "add",
            "chain",
            "inet",
            "tunlb",
            "prerouting",
            "{ type filter hook prerouting priority raw; }"
        ])
        .fix(command![
            "nft",
            "add",
            "rule",
            "inet",
            "tunlb",
            "prerouting",
            family,
            "daddr",
            vip,
            "notrack"
        ])
}
