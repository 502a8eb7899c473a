//! The packets of one flow as the filters of a backend see them, and how conntrack sees each: the request's first
//! packet, those that follow it, and the answers.

use super::case::{Case, usable};
use super::diversion::{delivered_to, sent_to};
use super::filters::CLIENT_PORT;
use super::service::{serving, serving_at};
use crate::doctor::facts::Link;
use crate::doctor::firewall::{
    ConntrackState, DeviceKind, Diversion, FilterPath, FilteredPacket, Firewall, Listener,
    Tracking, link_number,
};
use crate::doctor::lang::{Lang, say};

/// Flags of TCP (RFC 9293 §3.1).
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const SYN_ACK: u8 = SYN | ACK;
const DATA: u8 = 0x08 | ACK;
const FIN: u8 = 0x01 | ACK;

/// Bytes of an ACK with timestamps, and of a small request.
const ACK_BYTES: u16 = 52;
const DATA_BYTES: u16 = 130;

/// Which packet of a flow it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// A SYN or SYN-ACK, or a datagram: where it does not pass, nothing does.
    First,
    /// What follows a handshake.
    Later,
    /// The end.
    Fin,
}

impl Part {
    /// Before the words for the packets themselves.
    pub(super) fn said(self, lang: Lang) -> String {
        match self {
            Self::First => String::new(),
            Self::Later => say!(lang, "all but the first of ", "除首包外的"),
            Self::Fin => say!(lang, "the last (FIN) of ", "最后的（FIN）"),
        }
    }
}

/// The packets that a client sends. Where a rule sends them to another address or port, each is two: as it comes in,
/// and as it goes on.
pub(super) fn requests(case: &Case<'_>, firewall: &Firewall) -> Vec<(FilteredPacket, Part)> {
    let first = inner_packet(case, ConntrackState::New);
    let state = match case.tracking() {
        Some(Tracking::Untracked) => ConntrackState::Untracked,
        Some(Tracking::InZone { .. }) | None => ConntrackState::Established,
    };
    let ct_mark = connection_mark(case);
    let later = |flags, length| FilteredPacket {
        tcp_flags: Some(flags),
        length,
        ct_mark,
        ..inner_packet(case, state)
    };
    let mut packets = vec![(first, Part::First)];
    if case.target.protocol == "tcp" {
        packets.extend([
            (later(ACK, ACK_BYTES), Part::Later),
            (later(DATA, DATA_BYTES), Part::Later),
            (later(FIN, ACK_BYTES), Part::Fin),
        ]);
    }
    let sent_on = packets
        .iter()
        .filter_map(|(packet, part)| Some((sent_on(case, firewall, packet)?, *part)));
    let sent_on: Vec<_> = sent_on.collect();
    for (packet, _) in packets.iter_mut().filter(|_| !sent_on.is_empty()) {
        packet.path = FilterPath::Arriving;
    }
    packets.extend(sent_on);
    packets
}

/// A packet once a rule has sent it to another address or port: of this host, or beyond it.
fn sent_on(
    case: &Case<'_>,
    firewall: &Firewall,
    packet: &FilteredPacket,
) -> Option<FilteredPacket> {
    let (_, Diversion::Address(_)) = case.diversion()? else {
        return None;
    };
    let here = delivered_to(case);
    let (address, port) = here.or_else(|| sent_to(case))?;
    let arriving = FilteredPacket {
        path: FilterPath::Arriving,
        ..packet.clone()
    };
    let onward = case.target.onward.as_ref();
    let route = onward.and_then(|onward| usable(&onward.route));
    let oif = route.and_then(|route| route.device.clone());
    Some(FilteredPacket {
        mark: firewall.mark(&arriving),
        destination: address,
        ports: port.map(|port| (CLIENT_PORT, port)),
        destination_is_local: Some(here.is_some()),
        destination_is_on_device: None,
        path: match here {
            Some(_) => FilterPath::Delivered,
            None => FilterPath::Onward,
        },
        out_by: oif.as_ref().and_then(|name| case.link(name)).map(kind_of),
        oif: oif.filter(|_| here.is_none()),
        ..packet.clone()
    })
}

/// The ACK that ends a handshake.
pub(super) fn acknowledgement(case: &Case<'_>, state: ConntrackState) -> FilteredPacket {
    FilteredPacket {
        tcp_flags: Some(ACK),
        length: ACK_BYTES,
        ..inner_packet(case, state)
    }
}

/// The mark of the client's packets when they are routed; none: not known.
pub(super) fn arriving_mark(case: &Case<'_>) -> Option<u32> {
    let firewall = case.firewall.as_ref().ok()?;
    firewall.mark(&FilteredPacket {
        path: FilterPath::Arriving,
        ..inner_packet(case, ConntrackState::New)
    })
}

/// The packets that the service answers with.
pub(super) fn answers(case: &Case<'_>, firewall: &Firewall) -> Vec<(FilteredPacket, Part)> {
    let known = is_known(case, firewall);
    let of = |unknown: ConntrackState, flags, length| {
        let state = if known {
            ConntrackState::Established
        } else {
            unknown
        };
        FilteredPacket {
            tcp_flags: flags,
            length,
            ct_mark: connection_mark(case).filter(|_| known),
            ..answer_packet(case, state)
        }
    };
    if case.target.protocol != "tcp" {
        let answer = of(ConntrackState::New, None, DATA_BYTES);
        return vec![(answer, Part::First)];
    }
    // Without its request, conntrack takes a SYN-ACK or a FIN for invalid, and data for new (`tcp_new`,
    // linux/net/netfilter/nf_conntrack_proto_tcp.c).
    vec![
        (of(ConntrackState::Invalid, Some(SYN_ACK), 60), Part::First),
        (of(ConntrackState::New, Some(DATA), DATA_BYTES), Part::Later),
        (of(ConntrackState::Invalid, Some(FIN), ACK_BYTES), Part::Fin),
    ]
}

/// Whether conntrack finds the request's connection when it sees the answer. Where that cannot be told, it does.
fn is_known(case: &Case<'_>, firewall: &Firewall) -> bool {
    let request = case.tracking();
    let answer = firewall.tracking(&answer_packet(case, ConntrackState::Established));
    match (request, answer) {
        (
            Some(Tracking::InZone { zone: request, .. }),
            Some(Tracking::InZone { zone: answer, .. }),
        ) => request == answer,
        (Some(Tracking::Untracked), _) => false,
        (None | Some(Tracking::InZone { .. }), _) => true,
    }
}

/// The mark that the request's first packet leaves on its connection.
fn connection_mark(case: &Case<'_>) -> Option<u32> {
    match case.tracking()? {
        Tracking::InZone { mark, .. } => mark,
        Tracking::Untracked => None,
    }
}

pub(super) fn inner_packet(case: &Case<'_>, state: ConntrackState) -> FilteredPacket {
    let target = case.target;
    let to_client = usable(&target.way_back_of_any);
    let by_tunnel = to_client.map(|route| route.device.is_some() && route.device == target.tunnel);
    FilteredPacket {
        iif: target.tunnel.clone(),
        ports: target.port.map(|port| (CLIENT_PORT, port)),
        state,
        tcp_flags: (target.protocol == "tcp").then_some(SYN),
        reverse_path_found: by_tunnel,
        source_is_routable: Some(to_client.is_some()),
        source_is_local: Some(case.is_own(target.client)),
        destination_is_local: Some(true),
        destination_is_on_device: case.tunnel().and_then(|tunnel| is_on(case, tunnel)),
        in_by: case.tunnel().map(kind_of),
        ttl: (LEAST_TTL, u8::MAX - 1),
        listener: listener(case),
        bridge_port: case.tunnel().and_then(|link| bridge_port(case, link)),
        ..FilteredPacket::new(
            FilterPath::ToThisHost,
            target.client,
            target.vip,
            protocol(case),
        )
    }
}

pub(super) fn answer_packet(case: &Case<'_>, state: ConntrackState) -> FilteredPacket {
    let device = case.way_back().and_then(|route| route.device.clone());
    answer_by(case, state, device)
}

/// The mark by which an answer is routed: that of its socket, or what the filters make of it, where they have it
/// routed again.
pub(super) fn mark_of_answer(case: &Case<'_>, is_rerouted: bool) -> Option<u32> {
    let sockets = case.facts.sockets.seen().map_or(&[][..], Vec::as_slice);
    let own = serving(case, sockets)
        .next()
        .map_or(0, |socket| socket.mark);
    let Ok(firewall) = case.firewall else {
        return Some(own);
    };
    // A connection takes over the mark of its SYN (`inet_request_mark`, linux/include/net/inet_sock.h).
    let taken_over = own == 0
        && case.target.protocol == "tcp"
        && case.sysctl("net.ipv4.tcp_fwmark_accept") == Some(1);
    let own = if taken_over {
        firewall.mark(&inner_packet(case, ConntrackState::New))?
    } else {
        own
    };
    if !is_rerouted {
        return Some(own);
    }
    let first = usable(&case.target.way_back).and_then(|route| route.device.clone());
    firewall.mark(&FilteredPacket {
        mark: Some(own),
        ct_mark: connection_mark(case),
        ..answer_by(case, ConntrackState::Established, first)
    })
}

fn answer_by(case: &Case<'_>, state: ConntrackState, device: Option<String>) -> FilteredPacket {
    let target = case.target;
    let device = device.or_else(|| target.physical.clone());
    let (source, port) = delivered_to(case).unwrap_or((target.vip, target.port));
    let out_by = device.as_ref().and_then(|name| case.link(name));
    FilteredPacket {
        oif: device.clone(),
        ports: port.map(|port| (port, CLIENT_PORT)),
        state,
        tcp_flags: (target.protocol == "tcp").then_some(SYN_ACK),
        source_is_routable: Some(true),
        source_is_local: Some(true),
        destination_is_local: Some(case.is_own(target.client)),
        answers: true,
        out_by: out_by.map(kind_of),
        owner: Some(owner(case)),
        ttl: (OWN_TTL, u8::MAX),
        ..FilteredPacket::new(
            FilterPath::FromThisHost,
            source,
            target.client,
            protocol(case),
        )
    }
}

fn protocol(case: &Case<'_>) -> u8 {
    if case.target.protocol == "udp" { 17 } else { 6 }
}

/// What is left of the TTL of a client at least; the director has taken one of it.
const LEAST_TTL: u8 = 16;

/// `net.ipv4.ip_default_ttl` as hosts have it, at least.
const OWN_TTL: u8 = 60;

/// What rules can ask of a device beside its name.
pub(super) const fn kind_of(link: &Link) -> DeviceKind {
    DeviceKind {
        hardware: link.hardware,
        group: link.group,
    }
}

/// The listening socket that packets for the VIP are for.
fn listener(case: &Case<'_>) -> Option<Listener> {
    let sockets = case.facts.sockets.seen()?;
    let target = case.target;
    let mut hearing = serving_at(case, sockets, (target.vip, target.port));
    hearing.next().map(|socket| Listener {
        wildcard: socket.address.is_unspecified(),
        transparent: socket.transparent,
    })
}

/// Of a bridge whose frames iptables sees: the port by which packets come in, where it has one alone.
pub(super) fn bridge_port(case: &Case<'_>, link: &Link) -> Option<Option<String>> {
    let sees = case.sysctl("net.bridge.bridge-nf-call-iptables") == Some(1);
    if !sees || link.kind.as_deref() != Some("bridge") {
        return None;
    }
    let links = case.facts.links.seen()?;
    let mut ports = links.iter().filter(|port| port.bridge == Some(link.index));
    let only = ports.next().filter(|_| ports.next().is_none());
    Some(only.map(|port| port.name.clone()))
}

/// Whether the VIP is an address of that device.
fn is_on(case: &Case<'_>, link: &Link) -> Option<bool> {
    let addresses = case.addresses_on(link)?;
    Some(addresses.iter().any(|net| net.addr() == case.target.vip))
}

/// User and group of the service, as far as they are known.
fn owner(case: &Case<'_>) -> (Option<u32>, Option<u32>) {
    let sockets = case.facts.sockets.seen().map_or(&[][..], Vec::as_slice);
    serving(case, sockets)
        .next()
        .map_or((None, None), |socket| (socket.user, socket.group))
}

/// Where outer packets come from on the segment: the director itself, where it is on it and known.
pub(super) fn link_address_of_director(case: &Case<'_>) -> Option<u64> {
    let (director, physical) = (case.target.director?, case.physical()?);
    case.director_is_on_link().filter(|on_link| *on_link)?;
    let neighbours = case.facts.neighbours.seen()?;
    let entry = neighbours
        .iter()
        .find(|entry| entry.link == physical.index && entry.address == director)?;
    link_number(entry.lladdr.as_deref()?)
}
