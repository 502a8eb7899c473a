//! Rows 24 and 26: do large packets pass, and do checksums arrive right?

use super::case::Case;
use super::outcome::Outcome;
use crate::doctor::facts::Encap;
use crate::doctor::lang::say;
use crate::doctor::lines::command;

/// Bytes of an IPv4 and an IPv6 header without options.
const IPV4_HEADER: u32 = 20;
const IPV6_HEADER: u32 = 40;
const TCP_HEADER: u32 = 20;
const UDP_HEADER: u32 = 8;
/// More wrong checksums than one in so many segments are no accident.
const RARE: u64 = 1000;

/// The largest segment that clients may send does not fit the tunnel.
///
/// The director answers Fragmentation Needed, but a connection that has sent by then waits for its
/// retransmission, 200 ms or more; and where ICMP is filtered it hangs.
pub(super) fn segment_size(case: &Case<'_>) -> Outcome {
    let (Some(route), Some(physical)) = (case.way_back(), case.physical()) else {
        return Outcome::unknown(say!(
            case.lang,
            "the way back is not known",
            "不知道回程路由"
        ));
    };
    if case.target.protocol != "tcp" {
        return Outcome::skip(say!(case.lang, "the service is not TCP", "服务不是 TCP"));
    }
    let device = route.device.as_deref().and_then(|name| case.link(name));
    let mtu = route
        .mtu
        .or(device.map(|link| link.mtu))
        .unwrap_or(physical.mtu);
    let ip_header = if case.target.vip.is_ipv4() {
        IPV4_HEADER
    } else {
        IPV6_HEADER
    };
    let headers = ip_header + TCP_HEADER;
    let announced = route.advmss.unwrap_or_else(|| mtu.saturating_sub(headers));
    let fits = physical.mtu.saturating_sub(overhead(case) + headers);
    let outcome = if announced <= fits {
        Outcome::pass()
    } else {
        Outcome::skip(say!(
            case.lang,
            "the backend announces MSS {announced}, the tunnel carries {fits}: uploads wait for the director's \
             Fragmentation Needed, often 200 ms a connection, and hang where ICMP is filtered; routes with \
             `advmss {fits}` avoid that, and `tunlb decap --setup` adds them",
            "后端通告的 MSS 为 {announced}，而隧道只能承载 {fits}：上传要等 director 的 Fragmentation Needed，\
             每个连接常多耗 200 毫秒，ICMP 被过滤时则挂住；给路由加上 advmss {fits} 即可避免，\
             tunlb decap --setup 会这样做"
        ))
    };
    let outcome = outcome
        .evidence("MSS announced", announced)
        .evidence("MSS that fits", fits);
    case.with_counters(outcome, &["IpFragFails"])
}

/// Bytes that the tunnel adds.
fn overhead(case: &Case<'_>) -> u32 {
    let header = if case.outer_is_ipv4() {
        IPV4_HEADER
    } else {
        IPV6_HEADER
    };
    match case.target.encap {
        Encap::Ipip => header,
        Encap::Gue(_) => header + UDP_HEADER,
    }
}

/// Segments arrive with wrong checksums.
pub(super) fn checksums(case: &Case<'_>) -> Outcome {
    let (wrong, all) = if case.target.protocol == "udp" {
        ("UdpInCsumErrors", "UdpInDatagrams")
    } else {
        ("TcpInCsumErrors", "TcpInSegs")
    };
    let (Some(errors), Some(received)) = (case.counter(wrong), case.counter(all)) else {
        return Outcome::unknown(say!(
            case.lang,
            "{wrong} could not be read",
            "无法读取 {wrong}"
        ));
    };
    if errors == 0 || errors.saturating_mul(RARE) < received {
        return Outcome::pass()
            .evidence(wrong, errors)
            .evidence(all, received);
    }
    let tunnel = case.target.tunnel.as_deref().unwrap_or("T");
    Outcome::warn(say!(
        case.lang,
        "{errors} packets of {received} since the start had a wrong checksum and were dropped: an offload of a NIC \
         or of {tunnel} may be at fault",
        "启动以来 {received} 个包中有 {errors} 个校验和错误而被丢弃：可能是网卡或 {tunnel} 的 offload 有问题"
    ))
    .evidence(wrong, errors)
    .evidence(all, received)
    .fix(command!["ethtool", "-K", tunnel, "tx", "off"])
    .verify(command!["nstat", "-az", wrong])
}
