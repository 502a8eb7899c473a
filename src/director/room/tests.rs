//! What becomes of packets that do not fit the tunnel to their backend.

use std::num::{NonZeroU8, NonZeroU32, NonZeroUsize};
use std::sync::Arc;

use super::super::*;
use crate::packet::{Burst, Encap, EncapKind, SourceRule, checksum::checksum};

const NOW: Timestamp = Timestamp::START;
const VIP: [u8; 4] = [203, 0, 113, 10];

/// A director with one UDP and one TCP VIP, whose paths take 1500 bytes.
fn director(mss: Mss) -> Director {
    let vip = |protocol| VipSpec {
        name: format!("{protocol}"),
        address: VIP.into(),
        port: PortMatch::Any,
        protocol,
        hash: HashFields::FiveTuple,
        echo: Echo::Reply,
        mss,
        all_down: AllDown::Forward,
        min_healthy: 0,
        probing: None,
        new_flows_per_second: None,
        encap: EncapKind::Ipip,
        backends: vec![BackendSpec {
            address: [10, 0, 1, 11].into(),
            weight: 1,
            state: BackendState::Active,
        }],
    };
    let vips = [vip(Protocol::Udp), vip(Protocol::Tcp)];
    let plan = Plan {
        vips: &vips,
        hash_key: HashKey::DEFAULT,
        ring_size: RingSize::new(251).unwrap(),
        flows: FlowLimits {
            bound: NonZeroUsize::new(1000).unwrap(),
            timeouts: FlowTimeouts::default(),
        },
    };
    let tunnel = |vip: &VipSpec, backend| {
        let source = SourceRule::Fixed([10, 0, 0, 2].into());
        Encap::new(vip.encap, source, backend, NonZeroU8::new(64).unwrap())
    };
    let snapshot = Arc::new(Snapshot::build(&plan, tunnel).unwrap());
    for (index, _) in snapshot.backends() {
        snapshot.path_mtus().configure(index, NonZeroU32::new(1500));
    }
    let seat = Seat {
        worker: 0,
        workers: 1,
        seed: [1, 2, 3, 4],
    };
    Director::new(snapshot, &seat)
}

fn ipv4(protocol: u8, word: u16, payload: &[u8], length: usize) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(u16::try_from(length).unwrap().to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(word.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 192, 0, 2, 1]);
    packet.extend(VIP);
    let sum = checksum(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend(payload);
    packet.extend((packet.len()..length).map(|at| (at % 251).to_le_bytes()[0]));
    packet
}

fn udp(port: u16, word: u16, length: usize) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    let [length_high, length_low] = u16::try_from(length - 20).unwrap().to_be_bytes();
    let header = [high, low, 0, 53, length_high, length_low, 0, 0];
    ipv4(17, word, &header, length)
}

fn tcp(port: u16, flags: u8, length: usize) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    let header = [
        high, low, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, flags, 255, 255, 0, 0, 0, 0, 2, 4, 5, 0xb4,
    ];
    ipv4(6, 0x4000, &header, length)
}

/// So many long packets find room in one burst.
const LONG: u16 = 24;

fn burst_of(packets: &[Vec<u8>]) -> Burst {
    let mut burst = Burst::new(9000);
    for packet in packets {
        burst.vacant(0).unwrap()[..packet.len()].copy_from_slice(packet);
        burst.push(packet.len());
    }
    burst
}

/// The packets that are forwarded, each as an egress takes it, over as many bursts as it takes.
fn forwarded(director: &mut Director, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut burst = burst_of(packets);
    let mut left = Vec::new();
    loop {
        director.burst(&mut burst, NOW);
        for (frame, verdict) in director.verdicts().iter().enumerate() {
            let Verdict::Forward(forward) = verdict else {
                panic!("{verdict:?}");
            };
            let bytes = burst.packet(frame);
            assert_eq!(bytes.len(), usize::from(forward.meta.length));
            left.push(bytes.to_vec());
        }
        if !director.has_released() {
            return left;
        }
        burst.clear();
    }
}

/// The data of fragments that are in order, each of at most 1480 bytes and with a right checksum.
fn joined(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut data = Vec::new();
    for (number, bytes) in fragments.iter().enumerate() {
        assert!(bytes.len() <= 1480);
        assert_eq!(checksum(&bytes[..20]), 0);
        let packet = Packet::parse(bytes).unwrap();
        let fragment = packet.fragment().unwrap();
        assert_eq!(usize::from(fragment.offset), data.len());
        assert_eq!(fragment.more, number + 1 < fragments.len());
        data.extend_from_slice(packet.payload());
    }
    data
}

#[test]
fn a_packet_without_df_leaves_in_fragments() {
    let mut director = director(Mss::Keep);
    let fits = udp(1, 0, 1480);
    assert_eq!(
        forwarded(&mut director, std::slice::from_ref(&fits)),
        [fits]
    );
    let packet = udp(1, 0, 9000);
    let fragments = forwarded(&mut director, std::slice::from_ref(&packet));
    assert_eq!(fragments.len(), 7);
    assert_eq!(joined(&fragments), packet[20..]);
}

#[test]
fn a_burst_of_long_packets_leaves_over_several_bursts() {
    let mut director = director(Mss::Keep);
    let packets: Vec<_> = (1..=LONG).map(|port| udp(port, 0, 9000)).collect();
    let mut left = forwarded(&mut director, &packets);
    assert_eq!(left.len(), 7 * packets.len());
    let later = left.split_off(packets.len());
    for (number, packet) in packets.iter().enumerate() {
        let rest = &later[6 * number..6 * number + 6];
        let fragments = [&left[number..=number], rest].concat();
        assert_eq!(joined(&fragments), packet[20..], "packet {number}");
    }
}

/// A long fragment is cut again, also one that waited for its datagram's first one.
#[test]
fn fragments_are_cut_again() {
    let mut director = director(Mss::Keep);
    let datagram = udp(1, 0, 3000);
    let piece = |from: usize, to: usize, more: u16| {
        let word = more << 13 | u16::try_from(from / 8).unwrap();
        ipv4(17, word, &datagram[20 + from..20 + to], 20 + to - from)
    };
    let (first, last) = (piece(0, 1496, 1), piece(1496, 2980, 0));
    let mut burst = burst_of(&[last, first]);
    director.burst(&mut burst, NOW);
    assert_eq!(director.verdicts()[0], Verdict::Hold);
    let mut left: Vec<_> = (1..burst.len())
        .map(|frame| burst.packet(frame).to_vec())
        .collect();
    left.sort_by_key(|bytes| Packet::parse(bytes).unwrap().fragment().unwrap().offset);
    assert_eq!(left.len(), 4);
    assert_eq!(joined(&left), datagram[20..]);
}

#[test]
fn a_packet_with_df_is_answered_from_the_vip() {
    let mut director = director(Mss::Keep);
    let packet = tcp(1, 0x10, 1481);
    let mut burst = burst_of(&[packet.clone(), tcp(1, 0x10, 1480)]);
    director.burst(&mut burst, NOW);
    let Verdict::Reply(range) = director.verdicts()[0] else {
        panic!("{:?}", director.verdicts());
    };
    assert!(matches!(director.verdicts()[1], Verdict::Forward(_)));
    let answer = director.replies(range).next().unwrap();
    assert_eq!(answer[12..20], [VIP, [192, 0, 2, 1]].concat());
    assert_eq!(answer[20..22], [3, 4]);
    assert_eq!(answer[26..28], 1480u16.to_be_bytes());
    assert_eq!(answer[28..], packet[..548]);
}

#[test]
fn one_flow_does_not_take_the_errors_of_others() {
    let mut director = director(Mss::Keep);
    let flood = vec![tcp(1, 0x10, 1481); BURST - 1];
    let mut burst = burst_of(&[flood, vec![tcp(2, 0x10, 1481)]].concat());
    director.burst(&mut burst, NOW);
    let told = |verdict: &&Verdict| matches!(verdict, Verdict::Reply(_));
    let (last, flood) = director.verdicts().split_last().unwrap();
    assert!(told(&last));
    assert_eq!(flood.iter().filter(told).count(), 4);
    assert_eq!(director.counters().dropped(DropReason::TooBig), 59);
}

#[test]
fn a_syn_is_clamped_where_its_vip_asks_for_it() {
    for (mss, flags, expected) in [
        (Mss::Keep, 2, 1460),
        (Mss::Clamp, 2, 1440),
        (Mss::Clamp, 0x10, 1460),
    ] {
        let left = forwarded(&mut director(mss), &[tcp(1, flags, 44)]);
        assert_eq!(left[0][42..44], u16::to_be_bytes(expected), "{mss} {flags}");
    }
}
