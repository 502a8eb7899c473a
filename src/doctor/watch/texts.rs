//! What the doctor says of packets that it saw, in both languages.

use std::net::SocketAddr;

use super::observation::{Kind, Observation, Sighting};
use super::trail::Trail;
use crate::doctor::lang::{Lang, Text, say};

/// The last place where a packet of the flow was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    /// Nowhere.
    Nothing,
    /// On E, without a tunnel around it.
    Beside,
    /// On E.
    Arrived,
    /// On T.
    Decapsulated,
    /// Leaving again.
    PassedOn,
    /// TCP or UDP counted it.
    Delivered,
    /// A RST leaves.
    Reset,
    /// An ICMP error leaves.
    Refused,
    /// The reply goes into T.
    RepliedIntoTunnel,
    /// The reply leaves from another address.
    RepliedFromOther,
    /// The reply leaves from V.
    Replied,
    /// The client has the reply.
    Answered,
}

/// Counters that are quoted where they moved.
pub(super) const TELLING: &[&str] = &[
    "Ip6InAddrErrors",
    "Ip6InDelivers",
    "Ip6InHdrErrors",
    "Ip6InNoRoutes",
    "Ip6InTruncatedPkts",
    "Ip6InUnknownProtos",
    "Ip6OutForwDatagrams",
    "Ip6OutNoRoutes",
    "Ip6OutRequests",
    "Ip6OutTransmits",
    "IpExtInCsumErrors",
    "IpExtInNoRoutes",
    "IpExtInTruncatedPkts",
    "IpForwDatagrams",
    "IpInAddrErrors",
    "IpInDelivers",
    "IpInHdrErrors",
    "IpInReceives",
    "IpInUnknownProtos",
    "IpOutNoRoutes",
    "IpOutRequests",
    "IpOutTransmits",
    "IcmpOutDestUnreachs",
    "TcpExtIPReversePathFilter",
    "TcpExtListenDrops",
    "TcpExtListenOverflows",
    "TcpInCsumErrors",
    "TcpInSegs",
    "TcpOutRsts",
    "Udp6InCsumErrors",
    "Udp6NoPorts",
    "UdpInCsumErrors",
    "UdpInDatagrams",
    "UdpNoPorts",
];

/// `VIP:PORT/PROTO` with `any` for no port, as diagnoses write it.
pub(super) fn service(observation: &Observation) -> String {
    let (vip, protocol) = (observation.vip, &observation.protocol);
    match observation.port {
        Some(port) => format!("{}/{protocol}", SocketAddr::new(vip, port)),
        None if vip.is_ipv6() => format!("[{vip}]:any/{protocol}"),
        None => format!("{vip}:any/{protocol}"),
    }
}

/// What a user has to do for a watch of so many seconds.
#[must_use]
pub fn invitation(seconds: u64, lang: Lang) -> String {
    say!(
        lang,
        "watching for up to {seconds} s; let a client connect now",
        "开始监听，最多 {seconds} 秒；现在请让客户端发起连接"
    )
}

/// Where the packets ended, as the first half of a sentence.
pub(super) fn last_seen(
    last: Last,
    observation: &Observation,
    trail: &Trail<'_>,
    lang: Lang,
) -> String {
    let what = trail.first.map_or("", |first| name(first));
    let entry = device(trail.outer.or(trail.beside));
    let tunnel = observation.tunnel.clone();
    let tunnel = tunnel.unwrap_or_else(|| device(trail.inner));
    match last {
        Last::Nothing => nothing(observation, lang),
        Last::Beside => say!(
            lang,
            "{what} arrived on {entry} without a tunnel around it: not from the director",
            "{what} 未经隧道直接到达 {entry}：不是 director 发来的"
        ),
        Last::Arrived => say!(
            lang,
            "{what} arrived on {entry} and never came out of {tunnel}",
            "{what} 到达 {entry}，但没有从 {tunnel} 出来"
        ),
        Last::Decapsulated => say!(
            lang,
            "{what} decapsulated on {tunnel}, then dropped",
            "{what} 在 {tunnel} 上解封装后被丢弃"
        ),
        Last::PassedOn => {
            let out = device(trail.passed_on);
            say!(
                lang,
                "{what} decapsulated on {tunnel} and sent on by {out}",
                "{what} 在 {tunnel} 上解封装后又从 {out} 转发出去"
            )
        }
        Last::Delivered => say!(
            lang,
            "{what} delivered, and no answer left by any device",
            "{what} 已送达，但没有任何设备发出应答"
        ),
        Last::RepliedIntoTunnel => say!(
            lang,
            "the answer to {what} leaves by {tunnel}",
            "对 {what} 的应答从 {tunnel} 发出"
        ),
        Last::Reset => reset(what, trail, lang),
        Last::Refused => refused(what, trail, lang),
        Last::RepliedFromOther => from_other(what, trail, lang),
        Last::Replied => unheard(what, trail, lang),
        Last::Answered => answered(what, &entry, &tunnel, trail, lang),
    }
}

/// Reverse-path filtering of the outer packet.
pub(super) fn filtered_on_entry(observation: &Observation, outer: &Sighting, lang: Lang) -> String {
    let (what, entry) = (name(outer), &outer.device);
    let director = outer.outer.map(|tunnel| tunnel.source.to_string());
    let director = director.unwrap_or_else(|| "director".to_owned());
    let tunnel = observation.tunnel.as_deref().unwrap_or("T");
    say!(
        lang,
        "{what} arrived on {entry} and never came out of {tunnel}: {entry}'s rp_filter drops the tunnel's packet, because \
         the way back to {director} is not {entry}",
        "{what} 到达 {entry}，但没有从 {tunnel} 出来：到 {director} 的路由不经过 {entry}，隧道包被 {entry} 的 rp_filter 丢弃"
    )
}

fn nothing(observation: &Observation, lang: Lang) -> String {
    let service = service(observation);
    let seconds = observation.milliseconds.div_ceil(1000);
    say!(
        lang,
        "nothing for {service} arrived in {seconds} s of watching, neither in a tunnel nor without",
        "监听 {seconds} 秒内没有任何发往 {service} 的包到达，无论是否在隧道中"
    )
}

fn reset(what: &str, trail: &Trail<'_>, lang: Lang) -> String {
    let out = device(trail.reset);
    say!(
        lang,
        "{what} was answered by a RST, which left by {out}",
        "{what} 得到的应答是 RST，从 {out} 发出"
    )
}

fn refused(what: &str, trail: &Trail<'_>, lang: Lang) -> String {
    let error = trail.error.map_or(String::new(), ToString::to_string);
    say!(
        lang,
        "{what} was refused: {error}",
        "{what} 被拒绝：{error}"
    )
}

fn from_other(what: &str, trail: &Trail<'_>, lang: Lang) -> String {
    let reply = trail.reply_of_other;
    let source = reply.map_or(String::new(), |reply| reply.packet.source.to_string());
    let out = device(reply);
    say!(
        lang,
        "the answer to {what} leaves by {out} from {source}, which the client did not ask",
        "对 {what} 的应答以 {source} 为源从 {out} 发出，而客户端请求的不是它"
    )
}

fn unheard(what: &str, trail: &Trail<'_>, lang: Lang) -> String {
    let out = device(trail.reply);
    say!(
        lang,
        "the answer to {what} left by {out} as it should, and the client does not go on",
        "对 {what} 的应答已正确地从 {out} 发出，但客户端没有继续"
    )
}

fn answered(what: &str, entry: &str, tunnel: &str, trail: &Trail<'_>, lang: Lang) -> String {
    let out = device(trail.reply);
    if trail.goes_on.is_some() {
        say!(
            lang,
            "the client has its answer: {what} by {entry} and {tunnel}, the answer by {out}, and the client went on",
            "客户端已收到应答：{what} 经 {entry} 和 {tunnel} 进入，应答从 {out} 发出，客户端继续通信"
        )
    } else {
        say!(
            lang,
            "{what} came by {entry} and {tunnel}, and the answer left by {out}",
            "{what} 经 {entry} 和 {tunnel} 进入，应答从 {out} 发出"
        )
    }
}

fn device(sighting: Option<&Sighting>) -> String {
    sighting.map_or_else(|| "?".to_owned(), |sighting| sighting.device.clone())
}

const fn name(sighting: &Sighting) -> &'static str {
    use super::observation::Segment;
    match &sighting.packet.kind {
        Kind::Tcp {
            segment: Segment::Syn,
            ..
        } => "SYN",
        Kind::Tcp { .. } => "TCP",
        Kind::Udp { .. } => "UDP",
        Kind::Error { .. } => "ICMP",
    }
}

/// What a row means for the packet, as the second half of a sentence.
pub(super) fn cause(row: u8) -> Option<Text> {
    let of_row = CAUSES.iter().find(|(of, _)| *of == row);
    of_row.map(|(_, text)| *text)
}

const CAUSES: &[(u8, Text)] = &[
    (
        1,
        Text {
            en: "the kernel knows no IP in IP and nothing else decapsulates",
            zh: "内核不支持 IP-in-IP，也没有其他程序解封装",
        },
    ),
    (
        2,
        Text {
            en: "the tunnel device is down or does not take it",
            zh: "隧道设备未启用，或不接收它",
        },
    ),
    (
        3,
        Text {
            en: "this network namespace has no tunnel device",
            zh: "本网络命名空间没有隧道设备",
        },
    ),
    (
        4,
        Text {
            en: "the UDP port of the tunnel is not bound",
            zh: "隧道的 UDP 端口没有绑定",
        },
    ),
    (
        5,
        Text {
            en: "the VIP is not local",
            zh: "VIP 不是本机地址",
        },
    ),
    (
        6,
        Text {
            en: "the VIP is not local, and this machine forwards",
            zh: "VIP 不是本机地址，而本机开启了转发",
        },
    ),
    (
        8,
        Text {
            en: "somebody learned this machine's MAC address for the VIP, or routes the VIP here",
            zh: "有设备学到了本机对应 VIP 的 MAC 地址，或将 VIP 直接路由到本机",
        },
    ),
    (
        10,
        Text {
            en: "rp_filter is strict",
            zh: "rp_filter 为严格模式",
        },
    ),
    (
        11,
        Text {
            en: "rp_filter is loose and the tunnel device has no address",
            zh: "rp_filter 为宽松模式，而隧道设备没有地址",
        },
    ),
    (
        13,
        Text {
            en: "a rule of the packet filter checks the reverse path",
            zh: "防火墙规则在做反向路径检查",
        },
    ),
    (
        14,
        Text {
            en: "the client's address is one of this machine",
            zh: "客户端地址是本机自己的地址",
        },
    ),
    (
        15,
        Text {
            en: "no route to the client",
            zh: "没有到客户端的路由",
        },
    ),
    (
        16,
        Text {
            en: "it must leave by the device on which the network is",
            zh: "应答应从连接网络的设备发出",
        },
    ),
    (
        17,
        Text {
            en: "no policy rule leads packets from the VIP to the client",
            zh: "没有策略路由规则把源为 VIP 的包送往客户端",
        },
    ),
    (
        18,
        Text {
            en: "the next hop does not answer ARP",
            zh: "下一跳没有回应 ARP",
        },
    ),
    (
        19,
        Text {
            en: "a packet filter, most likely: no other counter moved",
            zh: "很可能是防火墙：没有其他计数器变化",
        },
    ),
    (
        20,
        Text {
            en: "a rule means protocol 94 where it says ipip",
            zh: "规则中的 ipip 指的是协议 94",
        },
    ),
    (
        21,
        Text {
            en: "conntrack takes it for invalid",
            zh: "conntrack 认为它无效",
        },
    ),
    (
        22,
        Text {
            en: "masquerading rewrites the source of replies",
            zh: "masquerade 改写了应答的源地址",
        },
    ),
    (
        23,
        Text {
            en: "look at the director, the network between and the cloud's filters; were clients sending?",
            zh: "请检查 director、中间网络和云平台的过滤规则；当时客户端在发送吗？",
        },
    ),
    (
        26,
        Text {
            en: "a checksum or a length in it is wrong",
            zh: "包内的校验和或长度有误",
        },
    ),
    (
        30,
        Text {
            en: "nothing listens",
            zh: "没有程序在监听",
        },
    ),
    (
        31,
        Text {
            en: "the program answers from the address of the route",
            zh: "程序以路由选出的地址应答",
        },
    ),
    (
        32,
        Text {
            en: "the accept queue is full",
            zh: "accept 队列已满",
        },
    ),
];

pub(super) fn joined(seen: &str, cause: &str, lang: Lang) -> String {
    say!(lang, "{seen}: {cause}", "{seen}：{cause}")
}

/// A flow that works beside a finding that remains.
pub(super) fn yet(seen: &str, finding: &str, lang: Lang) -> String {
    say!(lang, "{seen}; yet: {finding}", "{seen}；但是：{finding}")
}

pub(super) fn packet(number: usize, lang: Lang) -> String {
    say!(lang, "packet {number:02}", "包 {number:02}")
}

pub(super) fn lost(lang: Lang) -> String {
    say!(lang, "packets not captured", "未抓到的包")
}

pub(super) fn drop_reasons(lang: Lang) -> String {
    say!(lang, "drop reasons (whole host)", "丢包原因（整台主机）")
}
