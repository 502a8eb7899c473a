//! Both tables, row by row: literal observations and the code that they come to.

use std::collections::BTreeMap;

use super::*;
use crate::doctor::facts::{Observed, Role};
use crate::doctor::finding::{Code, Diagnosis, Finding, SCHEMA, StageState, Status, Verdict};
use crate::doctor::lang::Lang;

const VIP: &str = "10.0.0.100";
const CLIENT: &str = "10.0.9.2";
const DIRECTOR: &str = "10.0.1.2";
const BACKEND: &str = "10.0.1.11";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A packet at a device; 10 ms pass from one to the next.
fn at(device: &str, way: Way, source: &str, destination: &str, kind: Kind) -> Sighting {
    Sighting {
        microseconds: 0,
        device: device.to_owned(),
        way,
        outer: None,
        packet: Summary {
            source: ip(source),
            destination: ip(destination),
            kind,
        },
    }
}

const fn to_service(segment: Segment) -> Kind {
    Kind::Tcp {
        ports: (4000, 80),
        segment,
    }
}

const fn to_client(segment: Segment) -> Kind {
    Kind::Tcp {
        ports: (80, 4000),
        segment,
    }
}

fn in_tunnel(mut sighting: Sighting, encap: Encap) -> Sighting {
    sighting.outer = Some(Outer {
        source: ip(DIRECTOR),
        destination: ip(BACKEND),
        encap,
    });
    sighting
}

fn outer_syn() -> Sighting {
    let syn = at("eth0", Way::In, CLIENT, VIP, to_service(Segment::Syn));
    in_tunnel(syn, Encap::Ipip)
}

fn inner_syn() -> Sighting {
    at("tunl0", Way::In, CLIENT, VIP, to_service(Segment::Syn))
}

fn arrived_and_decapsulated() -> Vec<Sighting> {
    vec![outer_syn(), inner_syn()]
}

fn syn_ack(device: &str) -> Sighting {
    at(device, Way::Out, VIP, CLIENT, to_client(Segment::SynAck))
}

fn error(icmp_type: u8, code: u8, to: &str, about: Quotation) -> Sighting {
    let kind = Kind::Error {
        icmp_type,
        code,
        about,
    };
    at("eth0", Way::Out, BACKEND, to, kind)
}

fn about_tunnel(protocol: u8, ports: Option<(u16, u16)>) -> Quotation {
    Quotation {
        source: ip(DIRECTOR),
        destination: ip(BACKEND),
        protocol,
        ports,
    }
}

fn about_request(protocol: u8) -> Quotation {
    Quotation {
        source: ip(CLIENT),
        destination: ip(VIP),
        protocol,
        ports: Some((4000, 80)),
    }
}

fn datagrams(sightings: Vec<Sighting>) -> Vec<Sighting> {
    let turned = |mut sighting: Sighting| {
        if let Kind::Tcp { ports, .. } = sighting.packet.kind {
            sighting.packet.kind = Kind::Udp { ports };
        }
        sighting
    };
    sightings.into_iter().map(turned).collect()
}

fn observation(seen: Vec<Sighting>, deltas: &[(&str, u64)]) -> Observation {
    let is_udp = matches!(
        seen.first().map(|first| &first.packet.kind),
        Some(Kind::Udp { .. })
    );
    Observation {
        vip: ip(VIP),
        port: Some(80),
        protocol: if is_udp { "udp" } else { "tcp" }.to_owned(),
        physical: Some("eth0".to_owned()),
        tunnel: Some("tunl0".to_owned()),
        milliseconds: 5000,
        interrupted: false,
        flow: (!seen.is_empty()).then_some((ip(CLIENT), 4000)),
        established: None,
        seen,
        lost: 0,
        deltas: deltas
            .iter()
            .map(|(name, by)| ((*name).to_owned(), *by))
            .collect(),
        counts_transmits: true,
        drop_reasons: Observed::Seen(BTreeMap::new()),
    }
}

/// What the facts said: all well, but for these rows.
fn at_rest(observation: &Observation, rows: &[(u8, Status)]) -> Diagnosis {
    let check = |row: u8| {
        let named = rows.iter().find(|(named, _)| *named == row);
        Finding {
            code: Code::backend(row),
            title: String::new(),
            status: named.map_or(Status::Pass, |(_, status)| *status),
            proven: false,
            summary: String::new(),
            evidence: BTreeMap::new(),
            fix: Vec::new(),
            persist: Vec::new(),
            verify: None,
            blocked_by: None,
        }
    };
    let worst = rows.iter().max_by_key(|(_, status)| *status);
    Diagnosis {
        schema: SCHEMA,
        role: Role::Backend,
        vip: Some(texts::service(observation)),
        client: Some(ip(CLIENT)),
        verdict: Verdict {
            status: worst.map_or(Status::Pass, |(_, status)| *status),
            code: worst.map(|(row, _)| Code::backend(*row)),
            summary: "at rest".to_owned(),
        },
        path: Vec::new(),
        checks: (1..=32).map(check).collect(),
    }
}

fn judged(observation: &Observation, rows: &[(u8, Status)]) -> Diagnosis {
    apply(at_rest(observation, rows), observation, Lang::En)
}

/// What is tried: what was seen, the counters that moved, the rows that fail at rest, the code.
type Case = (
    &'static str,
    Vec<Sighting>,
    &'static [(&'static str, u64)],
    &'static [u8],
    u8,
);

fn assert_codes(cases: Vec<Case>) {
    for (what, seen, deltas, failing, row) in cases {
        let observation = observation(seen, deltas);
        let failing: Vec<_> = failing.iter().map(|row| (*row, Status::Fail)).collect();
        let diagnosis = judged(&observation, &failing);
        let code = Some(Code::backend(row));
        assert_eq!(diagnosis.verdict.code, code, "{what}");
        assert_eq!(diagnosis.verdict.status, Status::Fail, "{what}");
        let mut checks = diagnosis.checks.iter();
        let finding = checks.find(|check| Some(check.code) == code).unwrap();
        assert_eq!(finding.status, Status::Fail, "{what}");
        if !failing.is_empty() {
            assert!(finding.proven, "{what}: the facts say the same");
        }
        assert_eq!(finding.summary, diagnosis.verdict.summary, "{what}");
        assert!(!finding.summary.is_empty(), "{what}");
    }
}

#[test]
fn last_seen_before_the_tunnel() {
    let outer = || vec![outer_syn()];
    let with = |error| vec![outer_syn(), error];
    let gue = || {
        let syn = at("eth0", Way::In, CLIENT, VIP, to_service(Segment::Syn));
        in_tunnel(syn, Encap::Gue(6080))
    };
    let beside = at("eth0", Way::In, CLIENT, VIP, to_service(Segment::Syn));
    assert_codes(vec![
        ("on E, without a tunnel", vec![beside.clone()], &[], &[], 8),
        ("and answered", vec![beside, syn_ack("eth0")], &[], &[], 8),
        (
            "protocol unreachable",
            with(error(3, 2, DIRECTOR, about_tunnel(4, None))),
            &[("IpInUnknownProtos", 1)],
            &[],
            1,
        ),
        (
            "ICMP is filtered, the counter tells",
            outer(),
            &[("IpInUnknownProtos", 1)],
            &[],
            1,
        ),
        (
            "port unreachable",
            with(error(3, 3, DIRECTOR, about_tunnel(4, None))),
            &[("IpInDelivers", 1)],
            &[],
            2,
        ),
        (
            "the tunnel is in another namespace",
            with(error(3, 3, DIRECTOR, about_tunnel(4, None))),
            &[("IpInDelivers", 1)],
            &[3],
            3,
        ),
        (
            "port unreachable, of GUE",
            vec![
                gue(),
                error(3, 3, DIRECTOR, about_tunnel(17, Some((49152, 6080)))),
            ],
            &[("UdpNoPorts", 1)],
            &[],
            4,
        ),
        ("silence", outer(), &[("IpInReceives", 1)], &[], 19),
        (
            "rp_filter of the device that the outer packet comes in by",
            outer(),
            &[("TcpExtIPReversePathFilter", 1)],
            &[],
            10,
        ),
        ("silence, the name trap", outer(), &[], &[20], 20),
        (
            "silence, but the outer packet was delivered",
            outer(),
            &[("IpInDelivers", 1)],
            &[],
            2,
        ),
    ]);
}

#[test]
fn last_seen_out_of_the_tunnel() {
    let seen = arrived_and_decapsulated;
    let mut passed_on = seen();
    passed_on.push(at("eth0", Way::Out, CLIENT, VIP, to_service(Segment::Syn)));
    assert_codes(vec![
        ("no address", seen(), &[("IpInAddrErrors", 1)], &[], 5),
        ("forwarded", seen(), &[("IpForwDatagrams", 1)], &[], 6),
        ("seen to leave again", passed_on, &[], &[], 6),
        (
            "forwarded nowhere",
            seen(),
            &[("IpExtInNoRoutes", 1)],
            &[],
            6,
        ),
        (
            "reverse path: no route",
            seen(),
            &[("TcpExtIPReversePathFilter", 1)],
            &[15],
            15,
        ),
        (
            "reverse path: strict",
            seen(),
            &[("TcpExtIPReversePathFilter", 1)],
            &[10],
            10,
        ),
        (
            "reverse path: loose, no address",
            seen(),
            &[("TcpExtIPReversePathFilter", 1)],
            &[11],
            11,
        ),
        ("no counter: a filter", seen(), &[], &[], 19),
        ("no counter: the client is oneself", seen(), &[], &[14], 14),
        (
            "no counter: a filter of the reverse path",
            seen(),
            &[],
            &[13],
            13,
        ),
        (
            "checksum",
            seen(),
            &[("TcpInSegs", 1), ("TcpInCsumErrors", 1)],
            &[],
            26,
        ),
        ("length", seen(), &[("IpExtInTruncatedPkts", 1)], &[], 26),
        (
            "no route back",
            seen(),
            &[
                ("TcpInSegs", 1),
                ("IpOutNoRoutes", 1),
                ("TcpExtListenDrops", 1),
            ],
            &[],
            15,
        ),
        (
            "no route back from V",
            seen(),
            &[("TcpInSegs", 1), ("IpOutNoRoutes", 1)],
            &[17],
            17,
        ),
        (
            "overflow",
            seen(),
            &[("TcpInSegs", 1), ("TcpExtListenOverflows", 1)],
            &[],
            32,
        ),
        (
            "an output filter",
            seen(),
            &[
                ("TcpInSegs", 1),
                ("IpOutRequests", 2),
                ("IpOutTransmits", 1),
            ],
            &[],
            19,
        ),
        (
            "no neighbour",
            seen(),
            &[
                ("TcpInSegs", 1),
                ("IpOutRequests", 1),
                ("IpOutTransmits", 1),
            ],
            &[],
            18,
        ),
        (
            "another's broadcast moved a counter",
            seen(),
            &[("IpInAddrErrors", 3), ("TcpExtIPReversePathFilter", 1)],
            &[10],
            10,
        ),
    ]);
}

#[test]
fn last_seen_as_a_reply() {
    let and = |sighting: Sighting| {
        let mut seen = arrived_and_decapsulated();
        seen.push(sighting);
        seen
    };
    let reset = || at("eth0", Way::Out, VIP, CLIENT, to_client(Segment::Rst));
    let of_other = || at("eth0", Way::Out, BACKEND, CLIENT, to_client(Segment::Other));
    let mut again = and(syn_ack("eth0"));
    again.extend(arrived_and_decapsulated());
    let mut repeated = and(syn_ack("eth0"));
    repeated.push(syn_ack("eth0"));
    assert_codes(vec![
        (
            "nothing listens",
            and(reset()),
            &[("TcpOutRsts", 1)],
            &[],
            30,
        ),
        ("a filter resets", and(reset()), &[], &[], 19),
        (
            "no UDP socket",
            datagrams(and(error(3, 3, CLIENT, about_request(17)))),
            &[("UdpNoPorts", 1)],
            &[],
            30,
        ),
        (
            "a filter rejects",
            and(error(3, 13, CLIENT, about_request(6))),
            &[],
            &[],
            19,
        ),
        ("the reply goes into T", and(syn_ack("tunl0")), &[], &[], 16),
        ("source R", and(of_other()), &[], &[], 22),
        ("source R, UDP", datagrams(and(of_other())), &[], &[], 31),
        ("the client begins again", again, &[], &[], 23),
        ("the backend answers again", repeated, &[], &[], 23),
    ]);
}

#[test]
fn a_flow_that_works() {
    let mut seen = arrived_and_decapsulated();
    seen.push(syn_ack("eth0"));
    seen.push(in_tunnel(
        at("eth0", Way::In, CLIENT, VIP, to_service(Segment::Other)),
        Encap::Ipip,
    ));
    let works = Observation {
        established: Some(true),
        ..observation(seen, &[("TcpInSegs", 2)])
    };
    let cases = [
        ("all well", None, Status::Pass, None),
        (
            "unknown at rest",
            Some((19, Status::Unknown)),
            Status::Pass,
            None,
        ),
        ("a risk", Some((9, Status::Warn)), Status::Warn, Some(9)),
        (
            "of some packets",
            Some((32, Status::Fail)),
            Status::Fail,
            Some(32),
        ),
        (
            "of all packets",
            Some((10, Status::Fail)),
            Status::Warn,
            Some(10),
        ),
    ];
    for (what, row, status, code) in cases {
        let rows: Vec<_> = row.into_iter().collect();
        let diagnosis = judged(&works, &rows);
        let verdict = diagnosis.verdict;
        assert_eq!(verdict.status, status, "{what}");
        assert_eq!(verdict.code, code.map(Code::backend), "{what}");
        let words = "the client has its answer: SYN by eth0 and tunl0, the answer by eth0";
        assert!(verdict.summary.starts_with(words), "{}", verdict.summary);
        let mut stages = diagnosis.path.iter();
        assert!(stages.all(|stage| stage.state == StageState::Ok), "{what}");
    }
    let answered = datagrams(vec![outer_syn(), inner_syn(), syn_ack("eth0")]);
    let diagnosis = judged(&observation(answered, &[]), &[]);
    assert_eq!(diagnosis.verdict.status, Status::Pass);
}

#[test]
fn packets_that_do_not_decide() {
    let mut replied = arrived_and_decapsulated();
    replied.push(syn_ack("eth0"));
    let silent = datagrams(arrived_and_decapsulated());
    let midst = vec![
        at("tunl0", Way::In, CLIENT, VIP, to_service(Segment::Other)),
        at("eth0", Way::Out, VIP, CLIENT, to_client(Segment::Rst)),
    ];
    let cases = [
        ("a reply, and nothing after it", replied, &[][..]),
        (
            "a datagram that the program keeps",
            silent,
            &[("UdpInDatagrams", 1)],
        ),
        (
            "a connection that TCP does not know",
            midst,
            &[("TcpOutRsts", 1)],
        ),
    ];
    for (what, seen, deltas) in cases {
        let observation = observation(seen, deltas);
        let verdict = judged(&observation, &[]).verdict;
        assert_eq!(
            (verdict.status, verdict.code),
            (Status::Unknown, None),
            "{what}"
        );
        let verdict = judged(&observation, &[(30, Status::Fail)]).verdict;
        assert_eq!(verdict.code, Some(Code::backend(30)), "{what}");
    }
}

#[test]
fn what_leaves_several_rows_is_not_proven() {
    let cases = [
        ("one row", &[("IpInAddrErrors", 1)][..], 5, true),
        ("a filter, or two others", &[], 19, false),
        (
            "no route, of V or at all",
            &[("IpOutNoRoutes", 1)],
            15,
            false,
        ),
        ("one row that fits", &[("TcpInCsumErrors", 1)], 26, true),
    ];
    for (what, deltas, row, proven) in cases {
        let observation = observation(arrived_and_decapsulated(), deltas);
        let diagnosis = judged(&observation, &[]);
        let code = Code::backend(row);
        assert_eq!(diagnosis.verdict.code, Some(code), "{what}");
        let mut checks = diagnosis.checks.iter();
        let finding = checks.find(|check| check.code == code).unwrap();
        assert_eq!(finding.proven, proven, "{what}");
    }
}

#[test]
fn when_enough_was_seen() {
    let milliseconds = |seen: &[Sighting]| flow::rest(seen).map(|rest| rest.as_millis());
    let mut seen = arrived_and_decapsulated();
    assert_eq!(milliseconds(&seen), None);
    seen.push(syn_ack("eth0"));
    assert_eq!(milliseconds(&seen), None, "the client has not spoken");
    seen.push(Sighting {
        microseconds: 1_000_000,
        ..outer_syn()
    });
    assert_eq!(milliseconds(&seen), Some(1000), "its SYN may have crossed");
    let data = at("tunl0", Way::In, CLIENT, VIP, to_service(Segment::Other));
    assert!(!flow::has_data(&seen, Way::In));
    seen.push(data);
    assert!(flow::has_data(&seen, Way::In));
    assert_eq!(
        milliseconds(&seen),
        Some(1300),
        "the SYN-ACK may be repeated"
    );
    let diagnosis = judged(&observation(seen.clone(), &[]), &[]);
    assert_eq!(
        diagnosis.verdict.status,
        Status::Unknown,
        "an ACK on the tunnel proves nothing"
    );
    seen.push(at("eth0", Way::Out, VIP, CLIENT, to_client(Segment::Other)));
    assert_eq!(milliseconds(&seen), Some(300));
    let diagnosis = judged(&observation(seen, &[]), &[]);
    assert_eq!(diagnosis.verdict.status, Status::Pass);
    let refused = [outer_syn(), error(3, 3, DIRECTOR, about_tunnel(4, None))];
    assert_eq!(milliseconds(&refused), Some(300));
    let datagrams = datagrams(arrived_and_decapsulated());
    assert_eq!(milliseconds(&datagrams), None);
}

#[test]
fn lost_packets_prove_nothing() {
    let mut observation = observation(Vec::new(), &[]);
    observation.lost = 3;
    let diagnosis = judged(&observation, &[]);
    let mut checks = diagnosis.checks.iter();
    let network = checks
        .find(|check| check.code == Code::backend(23))
        .unwrap();
    assert!(!network.proven);
    assert_eq!(network.evidence["packets not captured"], "3");
}

#[test]
fn who_does_not_wait_sees_nothing() {
    let mut observation = observation(Vec::new(), &[]);
    observation.interrupted = true;
    let verdict = judged(&observation, &[]).verdict;
    assert_eq!((verdict.status, verdict.code), (Status::Unknown, None));
    let words = "nothing for 10.0.0.100:80/tcp arrived in 5 s of watching";
    assert!(verdict.summary.starts_with(words), "{}", verdict.summary);
}

#[test]
fn another_vip_is_left_alone() {
    let observation = observation(Vec::new(), &[]);
    let other = Diagnosis {
        vip: Some("10.0.0.101:80/tcp".to_owned()),
        ..at_rest(&observation, &[])
    };
    assert_eq!(apply(other.clone(), &observation, Lang::En), other);
}

#[test]
fn evidence_is_what_was_seen() {
    let mut observation = observation(
        arrived_and_decapsulated(),
        &[("TcpExtIPReversePathFilter", 1), ("IpExtInOctets", 60)],
    );
    observation.seen[1].microseconds = 1_000_042;
    let reasons = [("IP_RPFILTER".to_owned(), 1), ("NO_SOCKET".to_owned(), 2)];
    observation.drop_reasons = Observed::Seen(BTreeMap::from(reasons));
    let diagnosis = apply(
        at_rest(&observation, &[(10, Status::Fail)]),
        &observation,
        Lang::Zh,
    );
    let summary = &diagnosis.verdict.summary;
    assert_eq!(
        summary,
        "SYN 在 tunl0 上解封装后被丢弃：rp_filter 为严格模式"
    );
    let mut checks = diagnosis.checks.into_iter();
    let filter = checks
        .find(|check| check.code == Code::backend(10))
        .unwrap();
    let expected = [
        ("TcpExtIPReversePathFilter", "+1"),
        ("丢包原因（整台主机）", "IP_RPFILTER 1, NO_SOCKET 2"),
        (
            "包 01",
            "+0.000000 s eth0 in: IPIP 10.0.1.2 > 10.0.1.11: SYN 10.0.9.2:4000 > 10.0.0.100:80",
        ),
        (
            "包 02",
            "+1.000042 s tunl0 in: SYN 10.0.9.2:4000 > 10.0.0.100:80",
        ),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(filter.evidence, BTreeMap::from(expected));
}

#[test]
fn observations_serialise() {
    let mut seen = arrived_and_decapsulated();
    seen.push(error(3, 3, CLIENT, about_request(17)));
    let observation = observation(seen, &[("UdpNoPorts", 1)]);
    let text = serde_json::to_string(&observation).unwrap();
    assert!(text.contains(r#""segment":"syn""#), "{text}");
    let back: Observation = serde_json::from_str(&text).unwrap();
    assert_eq!(back, observation);
}
