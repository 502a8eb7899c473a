//! Judges what was seen of a flow, by the tables "last place where the packet was seen" and "what a stock
//! kernel shows" of the doctor's design. Pure.
//!
//! A place and a counter often leave several rows; what the facts say of each chooses among them. The
//! counters are those of the whole network namespace: one that moves for other traffic is passed over
//! where the facts contradict it and another one explains the loss.

use std::collections::BTreeMap;

use super::observation::{Kind, Observation};
use super::texts::{self, Last};
use super::trail::Trail;
use crate::doctor::catalogue::{self, Severity};
use crate::doctor::facts::{Encap, Observed, Role};
use crate::doctor::finding::{Code, Diagnosis, Finding, Stage, StageState, Status, Verdict};
use crate::doctor::lang::Lang;

/// Packets that are quoted as evidence.
const MOST_QUOTED: usize = 12;

/// What the packets of a flow come to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Conclusion {
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

/// Puts what was seen into a diagnosis: the finding that it proves, and the verdict. Leaves a diagnosis of
/// another VIP, or of a director, as it is.
#[must_use]
pub fn apply(diagnosis: Diagnosis, observation: &Observation, lang: Lang) -> Diagnosis {
    if diagnosis.role != Role::Backend
        || diagnosis.vip.as_deref() != Some(&texts::service(observation))
    {
        return diagnosis;
    }
    let trail = Trail::of(observation);
    let (last, conclusion) = conclude(&trail, observation, &diagnosis.checks);
    let evidence = evidence(observation, lang);
    match conclusion {
        Conclusion::Rows(rows) => {
            let code = likeliest(rows, &diagnosis.checks);
            proven_fault(diagnosis, observation, &trail, last, code, evidence, lang)
        }
        Conclusion::Answered => answered(diagnosis, observation, &trail, evidence, lang),
        Conclusion::Open => open(
            diagnosis,
            &texts::last_seen(last, observation, &trail, lang),
        ),
    }
}

/// Of several rows that which the facts say most against, the first among equals.
fn likeliest(rows: &[u8], checks: &[Finding]) -> Code {
    let mut likeliest = (Status::Pass, None);
    for row in rows {
        let code = Code::backend(*row);
        let found = checks.iter().find(|check| check.code == code);
        let status = found.map_or(Status::Unknown, |check| check.status);
        if likeliest.1.is_none() || status > likeliest.0 {
            likeliest = (status, Some(code));
        }
    }
    // Each place has at least one row.
    likeliest.1.unwrap_or(Code::backend(23))
}

/// Whether the facts let any of the rows be.
fn is_possible(rows: &[u8], checks: &[Finding]) -> bool {
    rows.iter().any(|row| {
        let code = Code::backend(*row);
        let found = checks.iter().find(|check| check.code == code);
        found.is_none_or(|check| check.status != Status::Pass)
    })
}

fn conclude(
    trail: &Trail<'_>,
    observation: &Observation,
    checks: &[Finding],
) -> (Last, Conclusion) {
    use Conclusion::{Answered, Open, Rows};
    if trail.beside.is_some() && trail.outer.is_none() && trail.inner.is_none() {
        return (Last::Beside, Rows(&[8])); // answers may even reach the client
    }
    if trail.goes_on.is_some() || (trail.reply.is_some() && is_udp(observation)) {
        return (Last::Answered, Answered);
    }
    if trail.first.is_none() {
        let conclusion = if observation.interrupted {
            Open // who did not wait saw nothing
        } else {
            Rows(&[23])
        };
        return (Last::Nothing, conclusion);
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

fn evidence(observation: &Observation, lang: Lang) -> BTreeMap<String, String> {
    let mut evidence = BTreeMap::new();
    for (number, sighting) in observation.seen.iter().take(MOST_QUOTED).enumerate() {
        evidence.insert(texts::packet(number + 1, lang), sighting.timed());
    }
    for (counter, by) in &observation.deltas {
        if texts::TELLING.contains(&counter.as_str()) || counter.ends_with(".rx_errs") {
            evidence.insert(counter.clone(), format!("+{by}"));
        }
    }
    if observation.lost > 0 {
        evidence.insert(texts::lost(lang), observation.lost.to_string());
    }
    let reasons = match &observation.drop_reasons {
        Observed::Seen(reasons) if reasons.is_empty() => return evidence,
        Observed::Seen(reasons) => {
            let reasons = reasons.iter();
            let reasons: Vec<_> = reasons
                .map(|(reason, count)| format!("{reason} {count}"))
                .collect();
            reasons.join(", ")
        }
        Observed::Unseen(why) => why.clone(),
    };
    evidence.insert(texts::drop_reasons(lang), reasons);
    evidence
}

/// A packet showed the fault.
fn proven_fault(
    mut diagnosis: Diagnosis,
    observation: &Observation,
    trail: &Trail<'_>,
    last: Last,
    code: Code,
    evidence: BTreeMap<String, String>,
    lang: Lang,
) -> Diagnosis {
    let at_rest = diagnosis.verdict.code;
    let finding = finding_of(&mut diagnosis.checks, code, lang);
    if finding.status != Status::Fail || finding.summary.is_empty() {
        let seen = texts::last_seen(last, observation, trail, lang);
        finding.summary = match texts::cause(code.row) {
            Some(cause) => texts::joined(&seen, cause.in_lang(lang), lang),
            None => seen,
        };
    }
    finding.status = Status::Fail;
    // What is not seen proves nothing where packets were lost.
    finding.proven = observation.lost == 0;
    finding.blocked_by = None;
    finding.evidence.extend(evidence);
    diagnosis.verdict = Verdict {
        status: Status::Fail,
        code: Some(code),
        summary: finding.summary.clone(),
    };
    if at_rest != Some(code) {
        diagnosis.path = picture(observation, trail);
    }
    diagnosis
}

/// The flow works. A fault that would have stopped it is no fact any more, but may be one of others.
fn answered(
    mut diagnosis: Diagnosis,
    observation: &Observation,
    trail: &Trail<'_>,
    evidence: BTreeMap<String, String>,
    lang: Lang,
) -> Diagnosis {
    let seen = texts::last_seen(Last::Answered, observation, trail, lang);
    let finding = finding_of(&mut diagnosis.checks, Code::backend(23), lang);
    finding.status = Status::Pass;
    finding.proven = true;
    finding.summary = String::new();
    finding.evidence.extend(evidence);
    diagnosis.path = picture(observation, trail);
    let verdict = &mut diagnosis.verdict;
    let severity = verdict.code.and_then(catalogue::entry);
    let is_fatal = severity.is_some_and(|entry| entry.severity == Severity::Fatal);
    match verdict.status {
        Status::Fail if is_fatal => {
            verdict.status = Status::Warn;
            verdict.summary = texts::yet(&seen, &verdict.summary, lang);
        }
        Status::Fail | Status::Warn => {
            verdict.summary = texts::yet(&seen, &verdict.summary, lang);
        }
        Status::Pass | Status::Skip | Status::Unknown => {
            verdict.status = Status::Pass;
            verdict.code = None;
            verdict.summary = seen;
        }
    }
    diagnosis
}

/// The packets do not decide: what the facts said stays, unless they said that all is well.
fn open(mut diagnosis: Diagnosis, seen: &str) -> Diagnosis {
    let verdict = &mut diagnosis.verdict;
    if matches!(
        verdict.status,
        Status::Pass | Status::Skip | Status::Unknown
    ) {
        verdict.status = Status::Unknown;
        verdict.summary = seen.to_owned();
    }
    diagnosis
}

/// The finding of a code; a new one where the selection left it out.
fn finding_of(checks: &mut Vec<Finding>, code: Code, lang: Lang) -> &mut Finding {
    let at = checks.iter().position(|check| check.code == code);
    let at = at.unwrap_or_else(|| {
        let entry = catalogue::entry(code);
        checks.push(Finding {
            code,
            title: entry.map_or(String::new(), |entry| entry.title.in_lang(lang).to_owned()),
            status: Status::Skip,
            proven: false,
            summary: String::new(),
            evidence: BTreeMap::new(),
            fix: Vec::new(),
            persist: Vec::new(),
            verify: None,
            blocked_by: None,
        });
        checks.len() - 1
    });
    &mut checks[at]
}

/// The way as the packets show it: E, T, the service, E again.
fn picture(observation: &Observation, trail: &Trail<'_>) -> Vec<Stage> {
    let any_reply = trail.reply.or(trail.reset).or(trail.error);
    let wrong_reply = trail.reply_of_other.or(trail.reply_into_tunnel);
    let name = |seen: Option<&super::Sighting>, expected: &Option<String>, unknown: &str| {
        let seen = seen.map(|sighting| sighting.device.clone());
        seen.or_else(|| expected.clone())
            .unwrap_or_else(|| unknown.to_owned())
    };
    let places = [
        (
            name(trail.outer, &observation.physical, "E"),
            trail.outer.is_some(),
        ),
        (
            name(trail.inner, &observation.tunnel, "tunnel"),
            trail.inner.is_some(),
        ),
        ("socket".to_owned(), any_reply.or(wrong_reply).is_some()),
        (
            name(any_reply, &observation.physical, "E"),
            any_reply.is_some(),
        ),
    ];
    // A packet that was seen later was at the places before, too.
    let reached = places.iter().rposition(|(_, seen)| *seen);
    let reached = reached.map_or(0, |last| last + 1);
    let stages = places.into_iter().enumerate();
    stages
        .map(|(at, (stage, _))| Stage {
            stage,
            state: match at.cmp(&reached) {
                std::cmp::Ordering::Less => StageState::Ok,
                std::cmp::Ordering::Equal => StageState::Fail,
                std::cmp::Ordering::Greater => StageState::Skipped,
            },
        })
        .collect()
}
