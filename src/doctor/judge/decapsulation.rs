//! Rows 1 to 4: does anything on this machine take the tunnel's packets, RFC 2003 or GUE?
//!
//! The kernel gives a packet to the most exact device that is up (local and remote, then either of
//! them), then to an `external` one, then to the fallback device (`ip_tunnel_lookup`): a fallback
//! device that is down is no fault beside another one that is up.

use std::net::IpAddr;

use super::case::{Case, unseen};
use super::commands::{lasting, set, show};
use super::outcome::Outcome;
use super::userspace;
use crate::doctor::facts::{Decapsulator, Encap, Link, ModuleState, Observed};
use crate::doctor::finding::Code;
use crate::doctor::lang::say;
use crate::doctor::lines::{Snippet, command};

/// Who takes the tunnel's packets, or why nobody does.
enum Taker<'a> {
    /// A tunnel device of the kernel that is up and fits.
    Device(&'a Link),
    /// A `tunlb decap` for this VIP.
    Process(&'a Decapsulator),
    /// A `tunlb decap` for this VIP that is stopped, or whose device was deleted.
    DeafProcess(&'a Decapsulator),
    /// A `tunlb decap` for this VIP, whose device is down.
    DownProcess(&'a Link),
    /// A `tunlb decap` runs, but not for these packets.
    OtherProcess(&'a Decapsulator),
    /// The kernel has no tunnel driver; it may have a file of one.
    NoModule(ModuleState),
    /// The driver is there, this network namespace has none of its devices.
    NoDevice,
    /// Devices exist and none takes the packets: the first of them.
    Unfit(&'a Link),
    /// A TUN device that some program may serve.
    UnknownProgram(&'a Link),
    /// No socket on the GUE port.
    Unbound(u16),
    /// It cannot be told.
    Unknown(String),
}

/// The kernel's driver for a pair of families.
struct Driver {
    module: &'static str,
    fallback: &'static str,
    kinds: &'static [&'static str],
}

/// No decapsulating module.
pub(super) fn module(case: &Case<'_>) -> Outcome {
    let driver = driver(case);
    let name = driver.module;
    match taker(case) {
        Taker::Unknown(why) => Outcome::unknown(why),
        Taker::NoModule(state) => {
            let outcome =
                no_module(case, name, state).evidence(format!("module {name}"), word(state));
            case.with_counters(outcome, &["IpInUnknownProtos", "IcmpOutDestUnreachs"])
        }
        Taker::Process(decap) => Outcome::pass().evidence("tunlb decap", decap.pid),
        Taker::Device(_)
        | Taker::DownProcess(_)
        | Taker::DeafProcess(_)
        | Taker::OtherProcess(_)
        | Taker::NoDevice
        | Taker::Unfit(_)
        | Taker::UnknownProgram(_)
        | Taker::Unbound(_) => Outcome::pass(),
    }
}

fn no_module(case: &Case<'_>, name: &str, state: ModuleState) -> Outcome {
    let vip = case.target.vip;
    let outcome = Outcome::fail(say!(
        case.lang,
        "nothing decapsulates: the kernel module {name} is not loaded and no tunlb decap runs for {vip}; \
         the director gets ICMP protocol unreachable",
        "没有任何程序解封装：内核模块 {name} 未加载，也没有为 {vip} 运行的 tunlb decap；director 会收到 ICMP 协议不可达"
    ));
    match state {
        ModuleState::Available | ModuleState::Loaded => outcome
            .fix(command!["modprobe", name])
            .fix(command![
                "ip",
                "link",
                "set",
                "dev",
                driver(case).fallback,
                "up"
            ])
            .persist(format!("# /etc/modules-load.d/tunlb.conf\n{name}")),
        ModuleState::Absent => outcome
            .fix(userspace::command(case))
            .persist(userspace::unit(case)),
    }
    .verify("tunlb doctor --only B1,B2")
}

const fn word(state: ModuleState) -> &'static str {
    match state {
        ModuleState::Loaded => "loaded",
        ModuleState::Available => "available",
        ModuleState::Absent => "absent",
    }
}

/// The tunnel device is down or does not fit.
pub(super) fn device(case: &Case<'_>) -> Outcome {
    if let Some(outcome) = ipv6_is_off(case) {
        return outcome;
    }
    match taker(case) {
        Taker::Device(link) => {
            Outcome::pass().evidence(format!("{} rx_packets", link.name), link.rx_packets)
        }
        Taker::Process(decap) => Outcome::pass().evidence("tunlb decap", &decap.device),
        Taker::DownProcess(link) => down_process(case, link),
        Taker::DeafProcess(decap) => deaf_process(case, decap),
        Taker::OtherProcess(decap) => other_process(case, decap),
        Taker::Unfit(link) => unfit(case, link),
        Taker::NoDevice => Outcome::blocked(Code::backend(3)),
        Taker::NoModule(_) => Outcome::blocked(Code::backend(1)),
        Taker::Unbound(_) => Outcome::blocked(Code::backend(4)),
        Taker::UnknownProgram(link) => {
            let name = &link.name;
            Outcome::unknown(say!(
                case.lang,
                "{name} is a TUN device that no tunlb decap serves; whether another program does cannot be seen",
                "{name} 是 TUN 设备，但没有 tunlb decap 在为它服务；是否由别的程序服务，无法得知"
            ))
        }
        Taker::Unknown(why) => Outcome::unknown(why),
    }
}

/// A device with IPv6 off takes no inner IPv6 packet.
fn ipv6_is_off(case: &Case<'_>) -> Option<Outcome> {
    let name = case
        .target
        .tunnel
        .as_deref()
        .filter(|_| case.target.vip.is_ipv6())?;
    if let Some(link) = case.link(name).filter(|link| link.mtu < IPV6_MIN_MTU) {
        return Some(no_room_for_ipv6(case, link));
    }
    let setting = format!("net.ipv6.conf.{}.disable_ipv6", name.replace('.', "/"));
    (case.sysctl(&setting)? != 0).then(|| {
        Outcome::fail(say!(
            case.lang,
            "IPv6 is off on {name}: decapsulated IPv6 packets are dropped",
            "{name} 上禁用了 IPv6：解封装出来的 IPv6 包被丢弃"
        ))
        .evidence(&setting, 1)
        .fix(set(&setting, 0, case.lang))
        .persist(lasting(&setting, 0))
        .verify(show(&setting, case.lang))
    })
}

/// The least MTU of a device with IPv6 (RFC 8200 §5); Linux takes IPv6 off one with less.
const IPV6_MIN_MTU: u32 = 1280;

fn no_room_for_ipv6(case: &Case<'_>, link: &Link) -> Outcome {
    let Link { name, mtu, .. } = link;
    // What the device had: that of a TUN is tunlb's own, a tunnel's is its path's less the outer header.
    let wanted = if link.kind.as_deref() == Some("tun") {
        "65535"
    } else {
        "1480"
    };
    Outcome::fail(say!(
        case.lang,
        "the MTU of {name} is {mtu}: with less than 1280 it has no IPv6, and decapsulated IPv6 packets are dropped",
        "{name} 的 MTU 为 {mtu}：小于 1280 的设备没有 IPv6，解封装出来的 IPv6 包被丢弃"
    ))
    .evidence(format!("{name} mtu"), mtu)
    .fix(command!["ip", "link", "set", "dev", name, "mtu", wanted])
    .verify(command!["ip", "link", "show", "dev", name])
}

fn deaf_process(case: &Case<'_>, decap: &Decapsulator) -> Outcome {
    let (pid, device) = (decap.pid, &decap.device);
    if decap.device_gone {
        return Outcome::fail(say!(
            case.lang,
            "the device of tunlb decap (process {pid}) was deleted: it receives the tunnel's packets and cannot hand them on",
            "tunlb decap（进程 {pid}）的设备已被删除：它收到隧道包，但无法交给内核"
        ))
        .fix(command!["kill", pid])
        .fix(userspace::extended(case, decap))
        .verify("tunlb doctor --only B2");
    }
    Outcome::fail(say!(
        case.lang,
        "tunlb decap (process {pid}) is stopped (SIGSTOP or a debugger): nothing decapsulates for {device}",
        "tunlb decap（进程 {pid}）已被停住（SIGSTOP 或调试器）：没有程序为 {device} 解封装"
    ))
    .fix(command!["kill", "-CONT", pid])
    .verify("tunlb doctor --only B2")
}

fn down_process(case: &Case<'_>, link: &Link) -> Outcome {
    let name = &link.name;
    Outcome::fail(say!(
        case.lang,
        "{name} is down: tunlb decap receives the tunnel's packets and cannot hand them on",
        "{name} 未启用（down）：tunlb decap 收到隧道包，但无法交给内核"
    ))
    .evidence(name, "down")
    .fix(command!["ip", "link", "set", "dev", name, "up"])
    .verify(command!["ip", "link", "show", "dev", name])
}

fn other_process(case: &Case<'_>, decap: &Decapsulator) -> Outcome {
    let vip = case.target.vip;
    let pid = decap.pid;
    let outcome = Outcome::fail(say!(
        case.lang,
        "tunlb decap (process {pid}) runs, but not for these packets: {vip}, this director and this kind of \
         tunnel are not all in its arguments",
        "tunlb decap（进程 {pid}）在运行，但不处理这些包：它的参数没有同时包含 {vip}、该 director 和该隧道类型"
    ))
    .evidence(
        "tunlb decap --vip",
        list(&decap.vips),
    )
    .evidence(
        "tunlb decap --director",
        list(&decap.directors),
    );
    let outcome = if decap.encap == case.target.encap {
        let instead = userspace::extended(case, decap);
        outcome.fix(command!["kill", pid]).fix(instead)
    } else {
        outcome.fix(userspace::command(case))
    };
    outcome.verify("tunlb doctor --only B2")
}

/// Addresses that are worth reading.
const MOST_SHOWN: usize = 16;

fn list(items: &[impl ToString]) -> String {
    let shown = items.iter().take(MOST_SHOWN).map(ToString::to_string);
    let rest = (items.len() > MOST_SHOWN).then(|| "…".to_owned());
    shown.chain(rest).collect::<Vec<_>>().join(" ")
}

fn unfit(case: &Case<'_>, link: &Link) -> Outcome {
    let name = &link.name;
    let outcome = if link.up {
        mismatched(case, link)
    } else {
        Outcome::fail(say!(
            case.lang,
            "{name} is down and no other tunnel device takes the packets: the director gets ICMP port unreachable",
            "{name} 未启用（down），也没有别的隧道设备接收这些包：director 会收到 ICMP 端口不可达"
        ))
        .evidence(name, "down")
        .fix(command!["ip", "link", "set", "dev", name, "up"])
        .persist(Snippet::naming(
            name,
            format!("/etc/network/interfaces.d/{name}"),
            &format!(
                "allow-hotplug {name}\niface {name} inet manual\n    up ip link set {name} up"
            ),
        ))
    };
    case.with_counters(
        outcome.evidence(format!("{name} rx_packets"), link.rx_packets),
        &["IcmpOutDestUnreachs"],
    )
    .verify(command!["ip", "-details", "link", "show", "dev", name])
}

fn mismatched(case: &Case<'_>, link: &Link) -> Outcome {
    let name = &link.name;
    let any = |address: Option<IpAddr>| address.map_or("any".to_owned(), |known| known.to_string());
    let (local, remote) = link
        .tunnel
        .as_ref()
        .map_or((None, None), |tunnel| (tunnel.local, tunnel.remote));
    let director = any(case.target.director);
    let kind = driver(case).module;
    Outcome::fail(say!(
        case.lang,
        "{name} does not take these packets: its local, remote or mode does not match outer packets from {director}",
        "{name} 不接收这些包：它的 local、remote 或 mode 与来自 {director} 的外层包不匹配"
    ))
    .evidence(format!("{name} local"), any(local))
    .evidence(format!("{name} remote"), any(remote))
    .fix(match kind {
        "ipip" => command!["ip", "link", "add", "ipip0", "type", "ipip", "external"],
        _ => command!["ip", "tunnel", "change", "name", name, "remote", "any", "local", "any"],
    })
    .fix(match kind {
        "ipip" => command!["ip", "link", "set", "dev", "ipip0", "up"],
        _ => command!["ip", "link", "set", "dev", name, "up"],
    })
}

/// No tunnel device in this network namespace.
pub(super) fn namespace(case: &Case<'_>) -> Outcome {
    let Taker::NoDevice = taker(case) else {
        return Outcome::pass();
    };
    let driver = driver(case);
    let (name, module) = (driver.fallback, driver.module);
    let kind = driver.kinds.first().copied().unwrap_or_default();
    let setting = "net.core.fb_tunnels_only_for_init_net";
    let outcome = Outcome::fail(say!(
        case.lang,
        "module {module} is loaded, but this network namespace has no {name}: fallback devices are made \
         in the first namespace only",
        "模块 {module} 已加载，但本网络命名空间里没有 {name}：内核只在初始命名空间里创建后备隧道设备"
    ))
    .fix(command!["ip", "link", "add", "ipip0", "type", kind, "external"])
    .fix(command!["ip", "link", "set", "dev", "ipip0", "up"])
    .verify(command!["ip", "link", "show", "type", kind]);
    match case.sysctl(setting) {
        Some(value) => outcome.evidence(setting, value),
        None => outcome,
    }
}

/// The GUE port is not bound.
pub(super) fn port(case: &Case<'_>) -> Outcome {
    match (case.target.encap, taker(case)) {
        (Encap::Ipip, _) => Outcome::skip(say!(case.lang, "the tunnel is not GUE", "隧道不是 GUE")),
        (Encap::Gue(_), Taker::Unbound(port)) => {
            let outcome = Outcome::fail(say!(
                case.lang,
                "no socket takes GUE on UDP port {port}: the director gets ICMP port unreachable",
                "UDP 端口 {port} 上没有接收 GUE 的套接字：director 会收到 ICMP 端口不可达"
            ))
            .verify(command!["ss", "-uln", "sport", "=", format!(":{port}")]);
            let outcome = match case.facts.modules.get("fou") {
                Some(ModuleState::Absent) => outcome
                    .fix(userspace::command(case))
                    .persist(userspace::unit(case)),
                Some(ModuleState::Loaded | ModuleState::Available) | None => outcome
                    .fix(command!["modprobe", "fou"])
                    .fix(command!["ip", "fou", "add", "port", port, "gue"])
                    .persist("# /etc/modules-load.d/tunlb.conf\nfou"),
            };
            case.with_counters(outcome, &["UdpNoPorts"])
        }
        (Encap::Gue(_), Taker::Unknown(why)) => Outcome::unknown(why),
        (Encap::Gue(_), _) => Outcome::pass(),
    }
}

fn taker<'a>(case: &Case<'a>) -> Taker<'a> {
    let processes = case
        .facts
        .decapsulators
        .seen()
        .map_or(&[][..], Vec::as_slice);
    if let Some(process) = processes.iter().find(|process| takes(process, case)) {
        return match case.link(&process.device) {
            _ if process.stopped || process.device_gone => Taker::DeafProcess(process),
            Some(link) if !link.up => Taker::DownProcess(link),
            Some(_) | None => Taker::Process(process),
        };
    }
    let blind = || unseen(&case.facts.decapsulators).map(str::to_owned);
    let found = match case.target.encap {
        Encap::Gue(port) => by_port(case, port),
        Encap::Ipip => by_device(case),
    };
    match found {
        Taker::Device(_) => found,
        Taker::UnknownProgram(link) => match processes.iter().find(|one| one.device == link.name) {
            Some(process) => Taker::OtherProcess(process),
            None => found,
        },
        other @ (Taker::Process(_)
        | Taker::DownProcess(_)
        | Taker::DeafProcess(_)
        | Taker::OtherProcess(_)
        | Taker::NoModule(_)
        | Taker::NoDevice
        | Taker::Unfit(_)
        | Taker::Unbound(_)
        | Taker::Unknown(_)) => match (processes.first(), blind()) {
            (Some(process), _) => Taker::OtherProcess(process),
            (None, Some(why)) => Taker::Unknown(why),
            (None, None) => other,
        },
    }
}

fn takes(process: &Decapsulator, case: &Case<'_>) -> bool {
    let from_director = case.target.director.is_none_or(|director| {
        process.directors.is_empty() || process.directors.iter().any(|net| net.contains(&director))
    });
    process.vips.contains(&case.target.vip) && from_director && process.encap == case.target.encap
}

fn by_port<'a>(case: &Case<'a>, port: u16) -> Taker<'a> {
    let sockets = match &case.facts.sockets {
        Observed::Seen(sockets) => sockets,
        Observed::Unseen(why) => return Taker::Unknown(why.clone()),
    };
    let bound = sockets
        .iter()
        .any(|socket| socket.protocol == "udp" && socket.port == port);
    if bound {
        by_device(case) // what fou unwraps is given to the tunnel devices
    } else {
        Taker::Unbound(port)
    }
}

fn by_device<'a>(case: &Case<'a>) -> Taker<'a> {
    let links = match &case.facts.links {
        Observed::Seen(links) => links,
        Observed::Unseen(why) => return Taker::Unknown(why.clone()),
    };
    let driver = driver(case);
    let of_driver: Vec<_> = links
        .iter()
        .filter(|link| {
            let kind = link.kind.as_deref().unwrap_or_default();
            driver.kinds.contains(&kind)
        })
        .collect();
    if let Some(link) = of_driver.iter().find(|link| link.up && fits(link, case)) {
        return Taker::Device(link);
    }
    if let Some(tun) = case
        .tunnel()
        .filter(|link| link.kind.as_deref() == Some("tun") && link.up)
    {
        return Taker::UnknownProgram(tun);
    }
    let named = of_driver
        .iter()
        .find(|link| Some(link.name.as_str()) == case.target.tunnel.as_deref());
    match (
        named.or(of_driver.first()),
        case.facts.modules.get(driver.module),
    ) {
        (Some(link), _) => Taker::Unfit(link),
        (None, Some(ModuleState::Loaded)) => Taker::NoDevice,
        (None, Some(state)) => Taker::NoModule(*state),
        (None, None) => Taker::Unknown(say!(
            case.lang,
            "the state of the kernel's tunnel modules is not known",
            "无法得知内核隧道模块的状态"
        )),
    }
}

/// Whether a device takes outer packets from the director to this machine.
fn fits(link: &Link, case: &Case<'_>) -> bool {
    let Some(tunnel) = &link.tunnel else {
        return true;
    };
    let inner = if case.target.vip.is_ipv4() { 4 } else { 41 };
    let to_us = tunnel.local.is_none_or(|local| case.is_own(local));
    let from_director = match (tunnel.remote, case.target.director) {
        (Some(remote), Some(director)) => remote == director,
        (Some(_), None) | (None, _) => true,
    };
    let protocol = tunnel.protocol.is_none_or(|protocol| protocol == inner);
    tunnel.external || (to_us && from_director && protocol)
}

fn driver(case: &Case<'_>) -> Driver {
    match (case.outer_is_ipv4(), case.target.vip) {
        (true, IpAddr::V4(_)) => Driver {
            module: "ipip",
            fallback: "tunl0",
            kinds: &["ipip", "sit"],
        },
        (true, IpAddr::V6(_)) => Driver {
            module: "sit",
            fallback: "sit0",
            kinds: &["sit"],
        },
        (false, _) => Driver {
            module: "ip6_tunnel",
            fallback: "ip6tnl0",
            kinds: &["ip6tnl"],
        },
    }
}
