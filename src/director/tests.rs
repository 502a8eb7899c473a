use super::*;
use crate::packet::{Burst, Encap, EncapKind, FamilyMismatch, SourceRule, Tunnels as _};
use proptest::prelude::*;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::num::{NonZeroU8, NonZeroU32, NonZeroUsize};
use std::time::Duration;

pub(super) const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

pub(super) fn backend(last: u8, state: BackendState) -> BackendSpec {
    BackendSpec {
        address: Ipv4Addr::new(10, 0, 1, last).into(),
        weight: 1,
        state,
    }
}

pub(super) fn vip(
    name: &str,
    port: u16,
    protocol: Protocol,
    backends: Vec<BackendSpec>,
) -> VipSpec {
    VipSpec {
        name: name.into(),
        address: VIP.into(),
        port: std::num::NonZeroU16::new(port).map_or(PortMatch::Any, PortMatch::Exact),
        protocol,
        hash: HashFields::FiveTuple,
        echo: Echo::Reply,
        mss: Mss::Keep,
        all_down: AllDown::Forward,
        min_healthy: 0,
        probing: None,
        new_flows_per_second: None,
        encap: EncapKind::Ipip,
        backends,
    }
}

pub(super) fn plan(vips: &[VipSpec]) -> Plan<'_> {
    Plan {
        vips,
        hash_key: HashKey::DEFAULT,
        ring_size: RingSize::new(251).unwrap(),
        flows: FlowLimits {
            bound: NonZeroUsize::new(1000).unwrap(),
            timeouts: FlowTimeouts::default(),
        },
    }
}

fn snapshot(vips: &[VipSpec]) -> Arc<Snapshot> {
    Arc::new(Snapshot::build(&plan(vips), tunnel).unwrap())
}

pub(super) fn tunnel(vip: &VipSpec, backend: IpAddr) -> Result<Encap, FamilyMismatch> {
    let source = SourceRule::Fixed(Ipv4Addr::new(10, 0, 0, 2).into());
    Encap::new(vip.encap, source, backend, NonZeroU8::new(64).unwrap())
}

pub(super) fn director(vips: &[VipSpec]) -> Director {
    let seat = Seat {
        worker: 0,
        workers: 1,
        seed: [1, 2, 3, 4],
    };
    Director::new(snapshot(vips), &seat)
}

fn web(states: &[BackendState]) -> Vec<VipSpec> {
    let backends = (1..).zip(states).map(|(last, &state)| backend(last, state));
    vec![vip("web", 80, Protocol::Tcp, backends.collect())]
}

/// TCP from 192.0.2.1 to the VIP; checksums are not looked at.
pub(super) fn tcp(source_port: u16, port: u16, flags: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1];
    packet.extend(VIP.octets());
    packet.extend(source_port.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    packet
}

pub(super) const SYN: u8 = 2;
const ACK: u8 = 0x10;
const FIN: u8 = 1;
pub(super) const NOW: Timestamp = Timestamp::START;

/// A burst of one packet.
pub(super) fn decide(director: &mut Director, packet: &[u8], now: Timestamp) -> Verdict {
    burst(director, packet, now);
    director.verdicts()[0]
}

fn burst(director: &mut Director, packet: &[u8], now: Timestamp) -> Burst {
    let mut burst = Burst::new(packet.len());
    burst.vacant(0).unwrap()[..packet.len()].copy_from_slice(packet);
    burst.push(packet.len());
    director.burst(&mut burst, now);
    burst
}

/// The answer to a packet that must be answered.
fn answer(director: &mut Director, packet: &[u8]) -> Vec<u8> {
    let verdict = decide(director, packet, NOW);
    let Verdict::Reply(range) = verdict else {
        panic!("{verdict:?}");
    };
    director.replies(range).next().unwrap().to_vec()
}

fn chosen(director: &mut Director, packet: &[u8], now: Timestamp) -> Option<IpAddr> {
    match decide(director, packet, now) {
        Verdict::Forward(forward) => {
            let backend = director.snapshot.backend(forward.backend);
            backend.map(|backend| backend.address)
        }
        Verdict::Reply(_) | Verdict::Hold | Verdict::Drop(_) => None,
    }
}

#[test]
fn verdicts() {
    let mut director = director(&web(&[BackendState::Active]));
    let icmp = |destination: [u8; 4]| {
        let mut packet = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, 1, 0, 0, 192, 0, 2, 1];
        packet.extend(destination);
        packet.extend([13, 0, 0, 0, 0, 1, 0, 1]);
        packet
    };
    let mut elsewhere = tcp(1, 80, SYN);
    elsewhere[19] = 99;
    for (what, packet, reason) in [
        ("no bytes", vec![], DropReason::Malformed),
        (
            "cut TCP header",
            tcp(1, 80, SYN)[..39].to_vec(),
            DropReason::Malformed,
        ),
        ("another port", tcp(1, 81, SYN), DropReason::NoVip),
        ("another address", elsewhere, DropReason::NoVip),
        (
            "ICMP timestamp request to the VIP",
            icmp(VIP.octets()),
            DropReason::UnsupportedProtocol,
        ),
        ("ICMP elsewhere", icmp([203, 0, 113, 99]), DropReason::NoVip),
    ] {
        let before = director.counters.dropped(reason);
        assert_eq!(
            decide(&mut director, &packet, NOW),
            Verdict::Drop(reason),
            "{what}"
        );
        assert_eq!(director.counters.dropped(reason), before + 1, "{what}");
    }
    assert!(matches!(
        decide(&mut director, &tcp(1, 80, SYN), NOW),
        Verdict::Forward(_)
    ));
    assert_eq!(
        director.flows().len(),
        1,
        "only a forwarded packet makes a flow"
    );
}

#[test]
fn exact_port_before_any_port() {
    let only = |last| vec![backend(last, BackendState::Active)];
    let mut director = director(&[
        vip("rest", 0, Protocol::Tcp, only(1)),
        vip("web", 80, Protocol::Tcp, only(2)),
    ]);
    assert_eq!(
        chosen(&mut director, &tcp(1, 80, SYN), NOW),
        Some("10.0.1.2".parse().unwrap())
    );
    assert_eq!(
        chosen(&mut director, &tcp(1, 81, SYN), NOW),
        Some("10.0.1.1".parse().unwrap())
    );
}

#[test]
fn flows_spread_and_stay() {
    let mut director = director(&web(&[BackendState::Active; 3]));
    let first: Vec<_> = (1..200)
        .map(|port| chosen(&mut director, &tcp(port, 80, SYN), NOW))
        .collect();
    let again: Vec<_> = (1..200)
        .map(|port| chosen(&mut director, &tcp(port, 80, ACK), NOW))
        .collect();
    assert_eq!(first, again);
    assert_eq!(first.into_iter().collect::<HashSet<_>>().len(), 3);
}

#[test]
fn draining_and_disabled_get_no_new_flows() {
    use BackendState::{Active, Disabled, Draining};
    let mut director = director(&web(&[Draining, Active, Disabled]));
    for port in 1..200 {
        let backend = chosen(&mut director, &tcp(port, 80, SYN), NOW);
        assert_eq!(backend, Some("10.0.1.2".parse().unwrap()));
    }
}

/// A roster's snapshot of VIPs, and one that follows it.
pub(super) fn successors(first: &[VipSpec], second: &[VipSpec]) -> [Arc<Snapshot>; 2] {
    let mut roster = Roster::default();
    [first, second].map(|vips| {
        let healthy = |_: &VipSpec, _| Health::Healthy;
        let tunnel = |vip: &VipSpec, backend| {
            let source = SourceRule::Fixed(Ipv4Addr::new(10, 0, 0, 2).into());
            Encap::new(vip.encap, source, backend, NonZeroU8::new(64).unwrap())
        };
        Arc::new(roster.build(&plan(vips), healthy, tunnel).unwrap())
    })
}

pub(super) fn director_of(snapshot: &Arc<Snapshot>) -> Director {
    let seat = Seat {
        worker: 0,
        workers: 1,
        seed: [1, 2, 3, 4],
    };
    Director::new(Arc::clone(snapshot), &seat)
}

/// The flows with each of three backends after all of them sent one segment to the first, which then
/// drains, and another one.
fn spread_after(first: u8, then: u8, states: &[BackendState]) -> [u64; 3] {
    let only_first = [
        BackendState::Active,
        BackendState::Disabled,
        BackendState::Disabled,
    ];
    let [before, after] = successors(&web(&only_first), &web(states));
    let mut director = director_of(&before);
    for port in 1..=100 {
        decide(&mut director, &tcp(port, 80, SYN), NOW);
        decide(&mut director, &tcp(port, 80, first), NOW);
    }
    director.adopt(after);
    let later = Timestamp::after(Duration::from_secs(20));
    for port in 1..=100 {
        decide(&mut director, &tcp(port, 80, then), later);
    }
    [0, 1, 2].map(|index| director.counters.traffic(BackendIndex::new(index)).flows)
}

/// A client's port used again while its old backend drains (RFC 6056 §2.2), or a SYN that is sent again
/// while no answer came: either way what opens a connection does not begin on a backend that drains.
#[test]
fn a_syn_is_balanced_anew_where_its_backend_drains() {
    use BackendState::{Active, Disabled, Draining};
    let drains = [Draining, Active, Disabled];
    for first in [SYN, ACK, ACK | FIN] {
        assert_eq!(spread_after(first, SYN, &drains), [0, 100, 0], "{first:#x}");
    }
    assert_eq!(spread_after(ACK, ACK, &drains), [100, 0, 0]);
    assert_eq!(
        spread_after(ACK, SYN | ACK, &drains),
        [100, 0, 0],
        "no SYN of a client"
    );
    assert_eq!(
        spread_after(ACK, SYN, &[Active; 3]),
        [100, 0, 0],
        "it does not drain"
    );
}

/// Where no backend takes new flows, the SYN is dropped; the flow stays, as old as it was.
#[test]
fn a_syn_keeps_no_drain_from_ending() {
    use BackendState::{Active, Disabled, Draining};
    let [before, after] = successors(&web(&[Active]), &web(&[Draining]));
    let mut director = director_of(&before);
    let at = |seconds| Timestamp::after(Duration::from_secs(seconds));
    decide(&mut director, &tcp(1, 80, SYN), at(0));
    director.adopt(after);
    for second in 1..30 {
        let verdict = decide(&mut director, &tcp(1, 80, SYN), at(second));
        assert_eq!(verdict, Verdict::Drop(DropReason::NoBackend));
    }
    assert_eq!(director.flows().len(), 1);
    director.expire(at(30), 10);
    assert!(director.flows().is_empty(), "kept alive by SYNs");
    assert_eq!(
        spread_after(ACK, SYN, &[Draining, Disabled, Disabled]),
        [100, 0, 0]
    );
}

/// Flows of a VIP with a limit that entered the table, before and after a change of something else.
#[test]
fn a_limit_that_is_used_up_stays_so_over_an_adoption() {
    let limited = |per_second, ports: &[u16]| {
        let mut vips: Vec<_> = ports
            .iter()
            .map(|&port| {
                vip(
                    &port.to_string(),
                    port,
                    Protocol::Tcp,
                    vec![backend(1, BackendState::Active)],
                )
            })
            .collect();
        for vip in &mut vips {
            vip.new_flows_per_second = NonZeroU32::new(per_second);
        }
        vips
    };
    for (what, per_second, ports, entered) in [
        ("nothing changed", 50, &[80][..], 50),
        ("another VIP came before it", 50, &[443, 80], 50),
        ("a larger limit earns by the second", 100, &[80], 50),
        ("no limit any more", 0, &[80], 150),
    ] {
        let [before, after] = successors(&limited(50, &[80]), &limited(per_second, ports));
        let mut director = director_of(&before);
        for port in 1..=100 {
            decide(&mut director, &tcp(port, 80, SYN), NOW);
        }
        assert_eq!(director.flows().len(), 50, "{what}");
        director.adopt(after);
        for port in 1001..=1100 {
            decide(&mut director, &tcp(port, 80, SYN), NOW);
        }
        assert_eq!(director.flows().len(), entered, "{what}");
    }
}

/// An exact port that comes later takes its flows over, and gives them back when it goes: the entry's
/// generation tells.
#[test]
fn a_known_flow_belongs_to_the_vip_that_its_packets_are_for() {
    let only = |last| vec![backend(last, BackendState::Active)];
    let rest = vip("rest", 0, Protocol::Tcp, only(1));
    let both = [rest.clone(), vip("web", 80, Protocol::Tcp, only(2))];
    let [before, after] = successors(&[rest], &both);
    let mut director = director_of(&before);
    let backend = |last| Some(IpAddr::from([10, 0, 1, last]));
    let to = |director: &mut Director, port| chosen(director, &tcp(1, port, ACK), NOW);
    for _ in 0..2 {
        assert_eq!(
            [80, 81].map(|port| to(&mut director, port)),
            [backend(1); 2]
        );
    }
    director.adopt(after);
    for _ in 0..2 {
        let found = [80, 81].map(|port| to(&mut director, port));
        assert_eq!(found, [backend(2), backend(1)]);
    }
    director.adopt(before);
    assert_eq!(
        [80, 81].map(|port| to(&mut director, port)),
        [backend(1); 2]
    );
    assert_eq!(director.flows().len(), 2);
}

/// Packets of one new flow, a flow that is pushed out by others of its burst and one that is reopened: what
/// was looked up ahead of a burst is a hint only.
#[test]
fn what_a_burst_changes_holds_within_it() {
    let states = [BackendState::Active; 3];
    let mut packets = Vec::new();
    for port in 1..=1200 {
        packets.push(tcp(port, 80, SYN));
        packets.push(tcp(
            port.saturating_sub(3).max(1),
            80,
            [SYN, ACK, FIN | ACK, 4][usize::from(port % 4)],
        ));
        packets.push(tcp(port.saturating_sub(300).max(1), 80, ACK));
    }
    let (mut alone, mut together) = (director(&web(&states)), director(&web(&states)));
    for packets in packets.chunks(64) {
        let mut burst = Burst::new(40);
        for packet in packets {
            burst.vacant(0).unwrap()[..40].copy_from_slice(packet);
            burst.push(40);
        }
        together.burst(&mut burst, NOW);
        let expected: Vec<_> = packets
            .iter()
            .map(|packet| decide(&mut alone, packet, NOW))
            .collect();
        assert_eq!(together.verdicts(), expected);
        assert_eq!(together.flows().len(), alone.flows().len());
    }
    assert!(together.flows().len() < 1200, "some were pushed out");
}

#[test]
fn nobody_to_forward_to() {
    let mut director = director(&web(&[BackendState::Disabled, BackendState::Draining]));
    let verdict = decide(&mut director, &tcp(1, 80, SYN), NOW);
    assert_eq!(verdict, Verdict::Drop(DropReason::NoBackend));
    assert!(director.flows().is_empty());
}

#[test]
fn expired_flows_leave_without_being_asked_for() {
    let mut director = director(&web(&[BackendState::Active]));
    for port in 1..100 {
        decide(&mut director, &tcp(port, 80, SYN), NOW);
    }
    let later = Timestamp::after(Duration::from_secs(31));
    for _ in 0..60 {
        decide(&mut director, &tcp(1000, 80, SYN), later);
    }
    assert_eq!(director.flows().len(), 1);
}

#[test]
fn what_leaves_names_the_tunnel_of_the_chosen_backend() {
    let mut director = director(&web(&[BackendState::Active]));
    let Verdict::Forward(forward) = decide(&mut director, &tcp(1, 80, SYN), NOW) else {
        panic!("the VIP has a backend");
    };
    let tunnel = director.snapshot.tunnel(forward.outgoing(7).tunnel);
    let destination = tunnel.map(Encap::destination);
    assert_eq!(destination, Some(Ipv4Addr::new(10, 0, 1, 1).into()));
    assert_eq!(forward.outgoing(7).frame, 7);
}

#[test]
fn one_burst_decides_as_its_packets_would_alone() {
    let packets: Vec<_> = (1..=64)
        .map(|port| tcp(port % 20, 80 + port % 2, SYN))
        .collect();
    let states = [BackendState::Active; 3];
    let (mut alone, mut together) = (director(&web(&states)), director(&web(&states)));
    let mut burst = Burst::new(40);
    for packet in &packets {
        burst.vacant(0).unwrap()[..40].copy_from_slice(packet);
        burst.push(40);
    }
    together.burst(&mut burst, NOW);
    let expected: Vec<_> = packets
        .iter()
        .map(|packet| decide(&mut alone, packet, NOW))
        .collect();
    assert_eq!(together.verdicts(), expected);
    assert_eq!(together.flows().len(), alone.flows().len());
}

fn udp6(extension: &[u8], length: usize) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(length - 40).unwrap().to_be_bytes());
    packet.extend([if extension.is_empty() { 17 } else { 44 }, 64]);
    packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]);
    packet.extend(extension);
    packet.extend([0, 9, 0, 53, 8, 0, 0, 0]);
    packet.resize(length, 0);
    packet
}

/// Found by review: fragments and forwarded echo requests were sent into a path too small for them.
#[test]
fn whatever_is_too_big_for_its_path_is_answered() {
    let mut spec = vip(
        "dns",
        53,
        Protocol::Udp,
        vec![backend(1, BackendState::Active)],
    );
    spec.address = "2001:db8::10".parse().unwrap();
    let mut web = vip("web", 80, Protocol::Tcp, spec.backends.clone());
    web.echo = Echo::Forward;
    let mut director = director(&[spec, web]);
    for backend in 0..2 {
        let mtus = director.snapshot.path_mtus();
        mtus.lower(BackendIndex::new(backend), 1400, NOW);
    }
    let (first, later) = ([17, 0, 0, 1, 0, 0, 0, 9], [17, 0, 5, 0, 0, 0, 0, 9]);
    let told = answer(&mut director, &udp6(&first, 1381));
    assert_eq!(told[40..42], [2, 0]);
    assert_eq!(told[44..48], 1380u32.to_be_bytes());
    let verdict = decide(&mut director, &udp6(&later, 100), NOW);
    assert_eq!(verdict, Verdict::Drop(DropReason::TooBig), "its datagram");
    let verdict = decide(&mut director, &udp6(&first, 1380), NOW);
    assert!(matches!(verdict, Verdict::Forward(_)));
    answer(&mut director, &udp6(&later, 1381));
    let mut ping = vec![0x45, 0, 5, 101, 0, 1, 0x40, 0, 64, 1, 0, 0, 192, 0, 2, 1];
    ping.extend(VIP.octets());
    ping.extend([8, 0, 0, 0, 0, 1, 0, 1]);
    ping.resize(1381, 0);
    answer(&mut director, &ping);
    ping[6] = 0;
    assert!(matches!(
        decide(&mut director, &ping, NOW),
        Verdict::Forward(_)
    ));
}

/// An error (host unreachable) about what the VIP sent from its port 80 to 192.0.2.1.
pub(super) fn unreachable(client_port: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 56, 0, 1, 0, 0, 64, 1, 0, 0, 198, 51, 100, 1];
    packet.extend(VIP.octets());
    packet.extend([3, 1, 0, 0, 0, 0, 0, 0]);
    packet.extend([0x45, 0, 0, 60, 0, 1, 0, 0, 64, 6, 0, 0]);
    packet.extend(VIP.octets());
    packet.extend([192, 0, 2, 1, 0, 80]);
    packet.extend(client_port.to_be_bytes());
    packet.extend([0, 0, 0, 1]);
    packet
}

#[test]
fn errors_find_flows_and_keep_none_alive() {
    let at = |seconds| Timestamp::after(Duration::from_secs(seconds));
    let mut director = director(&web(&[BackendState::Active; 3]));
    let backend = chosen(&mut director, &tcp(7, 80, SYN), at(0));
    assert!(backend.is_some());
    assert_eq!(chosen(&mut director, &unreachable(7), at(29)), backend);
    assert_eq!(director.flows().len(), 1);
    director.expire(at(30), 10);
    assert!(director.flows().is_empty(), "refreshed by an error");
}

#[test]
fn a_flood_of_icmp_leaves_nothing_behind() {
    let mut director = director(&web(&[BackendState::Active; 3]));
    let mut echo = unreachable(1);
    echo[20] = 8;
    for port in 0..20_000 {
        assert!(chosen(&mut director, &unreachable(port), NOW).is_some());
        answer(&mut director, &echo);
    }
    assert!(director.flows().is_empty() && !director.is_holding());
    assert!(director.replies.one().capacity() < 4096);
}

#[test]
fn own_errors_are_rate_limited() {
    let mut director = director(&web(&[BackendState::Active]));
    let mtus = director.snapshot.path_mtus();
    mtus.lower(BackendIndex::new(0), 600, NOW);
    let flood = (1..=2000).map(|port| {
        let mut packet = tcp(port, 80, ACK);
        packet.resize(1000, 0);
        packet[2..4].copy_from_slice(&1000u16.to_be_bytes());
        decide(&mut director, &packet, NOW)
    });
    let limited = Verdict::Drop(DropReason::RateLimited);
    let verdicts: Vec<_> = flood.collect();
    assert!(verdicts.contains(&limited));
    let told = |verdict: &&Verdict| matches!(verdict, Verdict::Reply(_));
    assert_eq!(verdicts.iter().filter(told).count(), 1000);
}

/// Found by fuzzing: a fragment that waited came back with the padding that followed it.
#[test]
fn padding_does_not_wait() {
    let mut director = director(&web(&[BackendState::Active]));
    let mut later = tcp(1, 80, ACK);
    later[6..8].copy_from_slice(&[0, 5]);
    let padded = [&later[..], &[0; 6]].concat();
    assert_eq!(decide(&mut director, &padded, NOW), Verdict::Hold);
    let mut first = tcp(1, 80, ACK);
    first[6] = 0x20;
    let burst = burst(&mut director, &first, NOW);
    assert_eq!(director.verdicts().len(), 2);
    assert_eq!(burst.packet(1), later);
}

#[test]
fn identifications_are_kept_for_packets_that_may_be_fragmented() {
    let mut director = director(&web(&[BackendState::Active]));
    let mut identification = |dont_fragment: u8| {
        let mut packet = tcp(1, 80, ACK);
        packet[6] = dont_fragment;
        let Verdict::Forward(forward) = decide(&mut director, &packet, NOW) else {
            panic!("the VIP has a backend");
        };
        forward.entropy.identification
    };
    assert_eq!(identification(0), 1);
    for _ in 0..5 {
        assert_eq!(identification(0x40), 0);
    }
    assert_eq!(identification(0), 2);
}

proptest! {
    #[test]
    fn any_bytes_are_accounted_for(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let mut director = director(&web(&[BackendState::Active]));
        if let Verdict::Drop(reason) = decide(&mut director, &bytes, NOW) {
            prop_assert_eq!(director.counters.dropped(reason), 1);
        }
    }
}
