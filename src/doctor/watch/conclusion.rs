//! Where a flow ends, as rows: the tables "last place where the packet was seen" and "what a stock kernel
//! shows" of the doctor's design. Pure.
//!
//! A place and a counter often leave several rows. The counters are those of the whole network namespace:
//! one that moves for other traffic is passed over where the facts contradict it and another one explains
//! the loss.

use super::observation::{Kind, Observation};
use super::texts::Last;
use super::trail::Trail;
use crate::doctor::facts::Encap;
use crate::doctor::finding::{Code, Finding, Status};

/// What the packets of a flow come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Conclusion {
    /// The flow was answered.
    Answered,
    /// One of these rows, the likeliest first.
    Rows(&'static [u8]),
    /// The packets do not tell.
    Open,
}

/// A counter that moves where packets end.
struct Ending {
    /// For an IPv4 VIP.
    v4: &'static [&'static str],
    /// For an IPv6 VIP.
    v6: &'static [&'static str],
    rows: &'static [u8],
}

/// In packet order.
const ENDINGS: &[Ending] = &[
    Ending {
        v4: &["IpInAddrErrors"],
        v6: &["Ip6InAddrErrors"],
        rows: &[5],
    },
    Ending {
        v4: &["IpForwDatagrams"],
        v6: &["Ip6OutForwDatagrams"],
        rows: &[6],
    },
    Ending {
        v4: &["IpExtInNoRoutes"],
        v6: &["Ip6InNoRoutes"],
        rows: &[6, 5],
    },
    Ending {
        v4: &["TcpExtIPReversePathFilter"],
        v6: &[],
        rows: &[15, 17, 10, 11],
    },
    Ending {
        v4: &[
            "TcpInCsumErrors",
            "UdpInCsumErrors",
            "IpInHdrErrors",
            "IpExtInTruncatedPkts",
        ],
        v6: &[
            "TcpInCsumErrors",
            "Udp6InCsumErrors",
            "Ip6InHdrErrors",
            "Ip6InTruncatedPkts",
        ],
        rows: &[26],
    },
    Ending {
        v4: &["IpOutNoRoutes"],
        v6: &["Ip6OutNoRoutes"],
        rows: &[15, 17],
    },
    Ending {
        v4: &["TcpExtListenOverflows"],
        v6: &["TcpExtListenOverflows"],
        rows: &[32],
    },
];

/// Whether the facts let any of the rows be.
fn is_possible(rows: &[u8], checks: &[Finding]) -> bool {
    rows.iter().any(|row| {
        let code = Code::backend(*row);
        let found = checks.iter().find(|check| check.code == code);
        found.is_none_or(|check| check.status != Status::Pass)
    })
}

/// The last place of a flow, and what follows from it.
pub(super) fn conclude(
    trail: &Trail<'_>,
    observation: &Observation,
    checks: &[Finding],
) -> (Last, Conclusion) {
    use Conclusion::{Answered, Open, Rows};
    if trail.beside.is_some() && trail.outer.is_none() && trail.inner.is_none() {
        return (Last::Beside, Rows(&[8])); // answers may even reach the client
    }
    if trail.goes_on.is_some() {
        return gone_on(trail, observation);
    }
    if trail.reply.is_some() && is_udp(observation) {
        return (Last::Answered, Answered);
    }
    if trail.first.is_none() {
        return (Last::Nothing, Open); // no packet proves nothing
    }
    if trail.passed_on.is_some() {
        return (Last::PassedOn, Rows(&[6]));
    }
    if let Some(replied) = replied(trail, observation) {
        return replied;
    }
    if trail.inner.is_some() {
        return decapsulated(trail, observation, checks);
    }
    (Last::Arrived, Rows(arrived(trail, observation)))
}

/// The client has the answer and went on. Its ACK was seen on the tunnel, before the packet filters: it got to the
/// service only if that says so, by a segment of its own or by the state of the connection.
fn gone_on(trail: &Trail<'_>, observation: &Observation) -> (Last, Conclusion) {
    let is_acknowledged = trail.acknowledged.is_some() || !trail.begins();
    if is_acknowledged || observation.established == Some(true) {
        return (Last::Answered, Conclusion::Answered);
    }
    if trail.again_after.is_some() || observation.established == Some(false) {
        return (Last::Replied, Conclusion::Rows(&[19, 21, 32]));
    }
    (Last::Replied, Conclusion::Open)
}

/// What answered, where anything did.
fn replied(trail: &Trail<'_>, observation: &Observation) -> Option<(Last, Conclusion)> {
    use Conclusion::{Answered, Open, Rows};
    if trail.reply_into_tunnel.is_some() {
        return Some((Last::RepliedIntoTunnel, Rows(&[16])));
    }
    if trail.reply_of_other.is_some() {
        let rows: &[u8] = if is_udp(observation) {
            &[31, 22]
        } else {
            &[22, 31]
        };
        return Some((Last::RepliedFromOther, Rows(rows)));
    }
    if trail.reply.is_some() {
        return Some(match trail.again {
            Some(_) => (Last::Replied, Rows(&[23])),
            None if !trail.begins() => (Last::Answered, Answered),
            None => (Last::Replied, Open),
        });
    }
    if trail.reset.is_some() {
        return Some((Last::Reset, reset(trail, observation)));
    }
    refused(trail, observation).map(|rows| (Last::Refused, Rows(rows)))
}

/// A RST that TCP sent, or a packet filter in its name. TCP sends one to a connection of which it knows
/// nothing, too.
fn reset(trail: &Trail<'_>, observation: &Observation) -> Conclusion {
    if !moved(observation, "TcpOutRsts") {
        Conclusion::Rows(&[19])
    } else if trail.begins() {
        Conclusion::Rows(&[30])
    } else {
        Conclusion::Open
    }
}

/// An ICMP error to the client: the port is closed, or a packet filter rejects.
fn refused(trail: &Trail<'_>, observation: &Observation) -> Option<&'static [u8]> {
    let Kind::Error {
        icmp_type, code, ..
    } = trail.error?.packet.kind
    else {
        return None;
    };
    let no_ports = of_family(observation, "UdpNoPorts", "Udp6NoPorts");
    match (observation.vip.is_ipv4(), icmp_type, code) {
        (true, 3, 3) | (false, 1, 4) if moved(observation, no_ports) => Some(&[30]),
        (true, 3, 3 | 9 | 10 | 13) | (false, 1, 1 | 4 | 5 | 6) => Some(&[19]),
        _ => None,
    }
}

/// Seen on E, never on T.
fn arrived(trail: &Trail<'_>, observation: &Observation) -> &'static [u8] {
    let outer = trail.outer.and_then(|sighting| sighting.outer);
    let gue = outer.is_some_and(|outer| matches!(outer.encap, Encap::Gue(_)));
    let outer_is_v4 = outer.is_none_or(|outer| outer.source.is_ipv4());
    let error = trail
        .tunnel_error
        .and_then(|sighting| match sighting.packet.kind {
            Kind::Error {
                icmp_type, code, ..
            } => Some((outer_is_v4, icmp_type, code)),
            Kind::Tcp { .. } | Kind::Udp { .. } => None,
        });
    let delivers = if outer_is_v4 {
        "IpInDelivers"
    } else {
        "Ip6InDelivers"
    };
    let unknown_protocol =
        moved(observation, "IpInUnknownProtos") || moved(observation, "Ip6InUnknownProtos");
    match error {
        _ if gue && (moved(observation, "UdpNoPorts") || moved(observation, "Udp6NoPorts")) => &[4],
        Some((true, 3, 3) | (false, 1, 4)) if gue => &[4],
        _ if unknown_protocol => &[1],
        Some((true, 3, 2) | (false, 4, 1)) => &[1, 19, 20],
        Some((true, 3, 3) | (false, 1, 4)) => &[2, 3],
        // The filter of the device that it came in by: the way back to the director is another one.
        _ if outer_is_v4 && moved(observation, "TcpExtIPReversePathFilter") => &[10],
        // Its own delivery is counted where something takes the outer packet: T, or `tunlb decap`.
        _ if !moved(observation, delivers) => &[19, 20],
        _ if observation.tunnel.is_none() => &[2, 3, 1, 19, 20],
        _ => &[2, 14, 19, 20],
    }
}

/// Seen on T, and no answer anywhere.
fn decapsulated(
    trail: &Trail<'_>,
    observation: &Observation,
    checks: &[Finding],
) -> (Last, Conclusion) {
    use Conclusion::{Open, Rows};
    let moving = || {
        ENDINGS.iter().filter(|ending| {
            let counters = if observation.vip.is_ipv4() {
                ending.v4
            } else {
                ending.v6
            };
            counters.iter().any(|counter| moved(observation, counter))
        })
    };
    let ending = moving()
        .find(|ending| is_possible(ending.rows, checks))
        .or_else(|| moving().next());
    if let Some(ending) = ending {
        return (Last::Decapsulated, Rows(ending.rows));
    }
    if !is_delivered(observation) {
        let rows: &[u8] = if trail.begins() {
            &[19, 13, 14]
        } else {
            &[21, 19, 13]
        };
        return (Last::Decapsulated, Rows(rows));
    }
    let sent = growth(
        observation,
        of_family(observation, "IpOutRequests", "Ip6OutRequests"),
    );
    let transmitted = growth(
        observation,
        of_family(observation, "IpOutTransmits", "Ip6OutTransmits"),
    );
    let conclusion = match sent {
        0 if moved(observation, "TcpExtListenDrops") => Rows(&[32]),
        0 => Open,
        _ if !observation.counts_transmits => Rows(&[19, 18]),
        _ if sent > transmitted => Rows(&[19]),
        _ if is_udp(observation) => Open,
        _ => Rows(&[18, 19]),
    };
    (Last::Delivered, conclusion)
}

fn is_delivered(observation: &Observation) -> bool {
    let counters: &[&str] = match (is_udp(observation), observation.vip.is_ipv4()) {
        (false, _) => &["TcpInSegs"],
        (true, true) => &["UdpInDatagrams", "UdpNoPorts"],
        (true, false) => &["Udp6InDatagrams", "Udp6NoPorts"],
    };
    counters.iter().any(|counter| moved(observation, counter))
}

fn is_udp(observation: &Observation) -> bool {
    observation.protocol == "udp"
}

const fn of_family(observation: &Observation, v4: &'static str, v6: &'static str) -> &'static str {
    if observation.vip.is_ipv4() { v4 } else { v6 }
}

fn growth(observation: &Observation, counter: &str) -> u64 {
    observation.deltas.get(counter).copied().unwrap_or_default()
}

fn moved(observation: &Observation, counter: &str) -> bool {
    growth(observation, counter) > 0
}
