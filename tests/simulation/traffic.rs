//! What clients send: flows as scripts of segments with pauses, and their packets' bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tunlb::director::Protocol;
use tunlb::packet::FlowKey;

use crate::random::Random;
use crate::site::Target;

/// No flow lasts longer, whatever its script.
pub(crate) const LONGEST_FLOW: Duration = Duration::from_secs(8000);

/// What a packet of a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Segment {
    Syn,
    Ack,
    Fin,
    Rst,
    Datagram,
}

/// Segments, each with the pause before it.
pub(crate) type Script = Vec<(Duration, Segment)>;

/// The flow with this number; no two are alike. Four follow from the same client.
pub(crate) fn key(number: u64, target: &Target) -> FlowKey {
    let client = u32::try_from(number / 4).unwrap();
    let source = match target.address {
        IpAddr::V4(_) => Ipv4Addr::from_bits(0x0a80_0000 + client).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits((0x2001_0db8 << 96) + u128::from(client)).into(),
    };
    FlowKey {
        source,
        destination: target.address,
        source_port: 40_000 + u16::try_from(number % 4).unwrap(),
        destination_port: target.port,
        protocol: target.protocol,
    }
}

/// A flow's life.
pub(crate) fn script(random: &mut Random, protocol: Protocol) -> Script {
    match protocol {
        Protocol::Tcp => tcp(random),
        Protocol::Udp => udp(random),
    }
}

fn tcp(random: &mut Random) -> Script {
    let mut script = vec![(Duration::ZERO, Segment::Syn)];
    if random.percent(5) {
        script.push((Duration::from_secs(1), Segment::Syn));
        script.push((Duration::from_secs(3), Segment::Syn));
    }
    if random.percent(10) {
        return script; // a scan, or an answer that was lost
    }
    let round_trip = if random.percent(8) {
        random.millis(10_000, 31_000) // half-open for so long that a flood may push it out
    } else {
        random.millis(10, 300)
    };
    script.push((round_trip, Segment::Ack));
    let (most, low, high) = match random.between(1, 100) {
        1..=70 => (8, 10, 5000),
        71..=93 => (10, 5000, 120_000),
        _ => (5, 200_000, 880_000), // keep-alives
    };
    for _ in 0..random.between(1, most) {
        let pause = if random.percent(1) {
            random.millis(880_000, 1_500_000) // around and beyond the timeout
        } else {
            random.millis(low, high)
        };
        script.push((pause, Segment::Ack));
    }
    close(random, &mut script);
    script
}

fn close(random: &mut Random, script: &mut Script) {
    match random.between(1, 100) {
        1..=50 => {
            script.push((random.millis(0, 2000), Segment::Fin));
            script.push((random.millis(10, 61_000), Segment::Ack));
        }
        51..=60 => {
            script.push((random.millis(0, 2000), Segment::Fin));
            script.push((random.millis(10, 50_000), Segment::Syn)); // the same ports again
            script.push((random.millis(10, 300), Segment::Ack));
        }
        61..=75 => {
            script.push((random.millis(0, 2000), Segment::Rst));
            script.push((random.millis(10, 11_000), Segment::Ack));
        }
        _ => {} // gone without a word
    }
}

fn udp(random: &mut Random) -> Script {
    let mut script = vec![(Duration::ZERO, Segment::Datagram)];
    if random.percent(60) {
        for _ in 0..random.between(1, 8) {
            let high = if random.percent(3) { 120_000 } else { 50_000 };
            script.push((random.millis(100, high), Segment::Datagram));
        }
    }
    script
}

/// The packet of a flow, with `data` bytes. Checksums are not looked at.
pub(crate) fn packet(key: &FlowKey, segment: Segment, data: u8) -> Vec<u8> {
    let mut transport = [key.source_port, key.destination_port]
        .map(u16::to_be_bytes)
        .concat();
    let flags = match segment {
        Segment::Syn => Some(0x02),
        Segment::Ack => Some(0x10),
        Segment::Fin => Some(0x11),
        Segment::Rst => Some(0x04),
        Segment::Datagram => None,
    };
    match flags {
        Some(flags) => {
            transport.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        }
        None => transport.extend([0, 8 + data, 0, 0]),
    }
    transport.extend(std::iter::repeat_n(0x5a, data.into()));
    let mut packet = header(key, u8::try_from(transport.len()).unwrap());
    packet.extend(transport);
    packet
}

/// Port unreachable, from the client, about a packet of the VIP in answer to the flow.
pub(crate) fn unreachable(key: &FlowKey) -> Vec<u8> {
    let answer = packet(&key.turned_around(), Segment::Datagram, 0);
    let (number, kind) = match key.source {
        IpAddr::V4(_) => (1, [3, 3]),
        IpAddr::V6(_) => (58, [1, 4]),
    };
    let message = [&kind[..], &[0; 6], &answer].concat();
    let length = u8::try_from(message.len()).unwrap();
    [ip(key, number, length), message].concat()
}

fn header(key: &FlowKey, length: u8) -> Vec<u8> {
    let number = match key.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    ip(key, number, length)
}

fn ip(key: &FlowKey, number: u8, length: u8) -> Vec<u8> {
    match (key.source, key.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let start = [0x45, 0, 0, 20 + length, 0, 1, 0x40, 0, 64, number, 0, 0];
            [&start[..], &source.octets(), &destination.octets()].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let start = [0x60, 0, 0, 0, 0, length, number, 64];
            [&start[..], &source.octets(), &destination.octets()].concat()
        }
        (source, destination) => panic!("from {source} to {destination}"),
    }
}
