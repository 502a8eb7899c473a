use std::time::Duration;

use super::super::tests::{
    NOW, SYN, backend, decide, director, director_of, successors, tcp, unreachable, vip,
};
use super::super::{BackendState, Echo, Protocol, Timestamp, Verdict, VipSpec};
use super::*;

/// Nothing serves it.
fn down(name: &str, port: u16) -> VipSpec {
    let backends = vec![backend(1, BackendState::Disabled)];
    vip(name, port, Protocol::Tcp, backends)
}

fn up(name: &str, port: u16) -> VipSpec {
    let backends = vec![backend(1, BackendState::Active)];
    vip(name, port, Protocol::Tcp, backends)
}

/// What was counted for each VIP, by name and reason.
fn counted(director: &Director) -> Vec<(&str, DropReason, u64)> {
    let mut counted = Vec::new();
    for vip in director.snapshot().vips() {
        for reason in DropReason::ALL {
            let packets = director.counters().vip_dropped(vip.seat, reason);
            counted.push((vip.name.as_str(), reason, packets));
        }
    }
    counted.retain(|&(.., packets)| packets > 0);
    counted
}

/// A later fragment of a TCP datagram.
fn later() -> Vec<u8> {
    let mut packet = tcp(1, 80, SYN);
    packet[6..8].copy_from_slice(&[0, 5]);
    packet
}

fn of_protocol(protocol: u8) -> Vec<u8> {
    let mut packet = tcp(1, 80, SYN);
    packet[9] = protocol;
    packet
}

fn echo() -> Vec<u8> {
    let mut packet = of_protocol(1);
    packet[20] = 8;
    packet
}

/// About a packet that the VIP did not send.
fn error_of_another() -> Vec<u8> {
    let mut packet = unreachable(1);
    packet[40] = 192;
    packet
}

#[test]
fn a_drop_is_counted_for_its_vip() {
    let mut mute = up("web", 80);
    mute.echo = Echo::Drop;
    let (two, alone) = (
        vec![down("web", 80), down("tls", 443)],
        vec![down("web", 80)],
    );
    for (what, vips, packet, expected) in [
        (
            "a segment",
            &two,
            tcp(1, 443, SYN),
            vec![("tls", DropReason::NoBackend, 1)],
        ),
        (
            "an error about a flow",
            &two,
            unreachable(1),
            vec![("web", DropReason::NoBackend, 1)],
        ),
        (
            "no port, one VIP",
            &alone,
            of_protocol(47),
            vec![("web", DropReason::UnsupportedProtocol, 1)],
        ),
        ("no port, two VIPs", &two, of_protocol(47), vec![]),
        (
            "an echo request",
            &vec![mute],
            echo(),
            vec![("web", DropReason::UnsupportedProtocol, 1)],
        ),
        (
            "an error about nothing",
            &alone,
            error_of_another(),
            vec![("web", DropReason::IcmpNoFlow, 1)],
        ),
        ("for no VIP", &alone, tcp(1, 81, SYN), vec![]),
        ("malformed", &alone, tcp(1, 80, SYN)[..30].to_vec(), vec![]),
    ] {
        let mut director = director(vips);
        let Verdict::Drop(reason) = decide(&mut director, &packet, NOW) else {
            panic!("{what}");
        };
        assert_eq!(counted(&director), expected, "{what}");
        assert_eq!(director.counters().dropped(reason), 1, "{what}");
    }
}

#[test]
fn fragments_that_are_lost_are_counted_for_their_vip() {
    let mut expired = director(&[up("web", 80)]);
    assert_eq!(decide(&mut expired, &later(), NOW), Verdict::Hold);
    assert_eq!(expired.counters().fragments_held(), 1);
    expired.expire(Timestamp::after(Duration::from_secs(2)), 0);
    assert_eq!(counted(&expired), [("web", DropReason::FragmentTimeout, 1)]);
    assert_eq!(expired.counters().fragments_held(), 0);

    let mut refused = director(&[down("tls", 443), down("web", 80)]);
    assert_eq!(decide(&mut refused, &later(), NOW), Verdict::Hold);
    let mut first = tcp(1, 80, SYN);
    first[6] = 0x20;
    decide(&mut refused, &first, NOW);
    assert_eq!(counted(&refused), [("web", DropReason::NoBackend, 2)]);
}

#[test]
fn what_is_too_long_or_not_sent_is_counted_for_its_backend_s_vip() {
    let mut director = director(&[up("tls", 443), up("web", 80)]);
    let web = BackendIndex::new(1);
    director.count_unsent(web, DropReason::SendFailed);
    director.count_unanswered(&tcp(1, 443, SYN), DropReason::SendFailed);
    director.snapshot.path_mtus().lower(web, 600, NOW);
    for port in 1..=1500 {
        let mut packet = tcp(port, 80, 0x10);
        packet.resize(1000, 0);
        packet[2..4].copy_from_slice(&1000u16.to_be_bytes());
        decide(&mut director, &packet, NOW);
    }
    let expected = [
        ("tls", DropReason::SendFailed, 1),
        ("web", DropReason::RateLimited, 500),
        ("web", DropReason::SendFailed, 1),
    ];
    assert_eq!(counted(&director), expected);
    assert_eq!(director.counters().dropped(DropReason::SendFailed), 2);
}

/// A VIP that moves within the configuration keeps its seat.
#[test]
fn counts_follow_their_vip() {
    let (web, tls) = (down("web", 80), down("tls", 443));
    let [first, second] = successors(&[web.clone(), tls.clone()], &[tls, web]);
    let mut director = director_of(&first);
    decide(&mut director, &tcp(1, 80, SYN), NOW);
    director.adopt(second);
    decide(&mut director, &tcp(2, 80, SYN), NOW);
    assert_eq!(counted(&director), [("web", DropReason::NoBackend, 2)]);
}
