use std::num::NonZeroUsize;
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;
use crate::io::testing::in_namespace;
use crate::io::tun::{Offloads, TunDevice};
use crate::io::undo::Undo;
use crate::packet::vnet::{Gso, PartialChecksum};
use crate::packet::{Entropy, Outgoing, Packet, Piece, TunnelId, Version};

/// A TCP super-packet from 192.0.2.7, or the IPv6 one, with options, PSH and CWR, and its header.
fn tcp(version: Version, size: u16, data: usize) -> (VnetHeader, Vec<u8>) {
    let mut payload = vec![
        0x9c, 0x40, 0, 80, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1, 0x80, 0x98, 2, 0,
    ];
    payload.extend([0, 0, 0, 0, 1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9]);
    framed(version, (6, 16, Gso::Tcp(version), size), payload, data)
}

fn udp(version: Version, size: u16, data: usize) -> (VnetHeader, Vec<u8>) {
    let [high, low] = u16::try_from(8 + data).unwrap().to_be_bytes();
    let payload = vec![0x9c, 0x40, 0, 53, high, low, 0, 0];
    framed(version, (17, 6, Gso::Udp, size), payload, data)
}

/// Puts the network header before it, data behind, and the sum of the pseudo-header into it.
fn framed(
    version: Version,
    (protocol, offset, gso, size): (u8, u16, Gso, u16),
    mut payload: Vec<u8>,
    data: usize,
) -> (VnetHeader, Vec<u8>) {
    payload.extend((0..data).map(|number| u8::try_from(number * 31 % 251).unwrap()));
    let length = u16::try_from(payload.len()).unwrap();
    let mut packet = match version {
        Version::V4 => {
            let [high, low] = (20 + length).to_be_bytes();
            let mut header = vec![0x45, 0x02, high, low, 0xff, 0xfe, 0, 0, 64, protocol, 0, 0];
            header.extend([192, 0, 2, 7, 10, 0, 0, 100]);
            let sum = crate::packet::checksum::checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            header
        }
        Version::V6 => {
            let [high, low] = length.to_be_bytes();
            let mut header = vec![0x60, 0x20, 0, 0, high, low, protocol, 64];
            header.extend(
                "2001:db8:2::7"
                    .parse::<std::net::Ipv6Addr>()
                    .unwrap()
                    .octets(),
            );
            header.extend(
                "2001:db8::100"
                    .parse::<std::net::Ipv6Addr>()
                    .unwrap()
                    .octets(),
            );
            header
        }
    };
    let start = packet.len();
    let addresses = if version == Version::V4 { 12 } else { 8 };
    let pseudo = !crate::packet::checksum::Sum::default()
        .add_bytes(&packet[addresses..])
        .add_word(protocol.into())
        .add_word(length)
        .finish();
    let field = usize::from(offset);
    payload[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
    packet.extend(payload);
    let header = VnetHeader {
        checksum: Some(PartialChecksum {
            start: u16::try_from(start).unwrap(),
            offset,
        }),
        gso: Some((gso, size)),
        header_length: u16::try_from(packet.len() - data).unwrap(),
    };
    (header, packet)
}

fn open(name: &str, offloads: Offloads) -> TunDevice {
    let mut undo = Undo::new().unwrap();
    TunDevice::open(name, NonZeroUsize::MIN, offloads, 1500, &mut undo).unwrap()
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    assert!(status.unwrap().success(), "ip {arguments}");
}

/// All packets for the VIP that a device hands over within two seconds, at least `wanted`, as they would
/// leave.
fn leave(queue: &mut Queue, wanted: usize) -> Vec<Vec<u8>> {
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut left = Vec::new();
    while left.len() < wanted && Instant::now() < deadline {
        let mut burst = Burst::new(queue.longest(1500));
        queue.fill(&mut burst).unwrap();
        for frame in 0..burst.len() {
            let packet = Packet::parse(burst.packet(frame)).unwrap();
            if packet.protocol() != 6 && packet.protocol() != 17 {
                continue; // the kernel's own, of a device that is new
            }
            let meta = packet.meta();
            let whole = Outgoing {
                frame,
                piece: Piece::Whole,
                tunnel: TunnelId(0),
                meta,
                entropy: Entropy {
                    flow_hash: 0,
                    identification: 0,
                },
            };
            let mut pieces = Vec::new();
            burst.pieces(whole, |piece| pieces.push(piece));
            left.extend(
                pieces
                    .iter()
                    .map(|piece| burst.with_header(piece, 0).concat()),
            );
        }
    }
    left
}

#[test]
fn segments_are_the_kernel_s() {
    in_namespace("io::ingress::tests::segments_are_the_kernel_s_inside");
}

/// The same super-packet is routed to a device that makes the kernel segment it, and to one that leaves that
/// to us.
#[test]
#[ignore = "run by segments_are_the_kernel_s in a namespace of its own"]
fn segments_are_the_kernel_s_inside() {
    let source = open("source", Offloads::IfNew);
    let mut plain = open("plain", Offloads::Never);
    let mut offloads = open("offloads", Offloads::IfNew);
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{key}"), "1").unwrap();
    }
    for device in ["all", "source"] {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{device}/rp_filter"), "0").unwrap();
    }
    ip("route add 192.0.2.7 dev source");
    ip("-6 route add 2001:db8:2::7 dev source");
    for (header, packet, segments) in [
        (tcp(Version::V4, 1448, 14_481), 11),
        (tcp(Version::V6, 1428, 60_000), 43),
        (tcp(Version::V4, 100, 101), 2),
        (udp(Version::V4, 1200, 5_000), 5),
        (udp(Version::V6, 7, 100), 15),
    ]
    .map(|((header, packet), segments)| (header, packet, segments))
    {
        let mut outcomes = Vec::new();
        for (name, device) in [("plain", &mut plain), ("offloads", &mut offloads)] {
            ip(&format!("route replace 10.0.0.100 dev {name}"));
            ip(&format!("-6 route replace 2001:db8::100 dev {name}"));
            source.queues[0].send_framed(&header, &packet).unwrap();
            outcomes.push(leave(&mut device.queues[0], segments));
        }
        assert_eq!(outcomes[0].len(), segments, "{header:?}");
        assert!(outcomes[0] == outcomes[1], "{header:?}");
    }
}

#[test]
fn what_is_not_as_the_kernel_says_is_empty() {
    let (header, packet) = tcp(Version::V4, 100, 1000);
    let lies = [
        VnetHeader {
            gso: Some((Gso::Tcp(Version::V4), 1)),
            ..header
        },
        VnetHeader {
            gso: None,
            checksum: Some(PartialChecksum {
                start: 1051,
                offset: 0,
            }),
            ..header
        },
    ];
    for lie in lies {
        let mut burst = Burst::new(LONGEST_PACKET);
        let framed = [&lie.encode()[..], &packet].concat();
        let room = burst.vacant(VnetHeader::LENGTH).unwrap();
        room[..framed.len()].copy_from_slice(&framed);
        take(Framing::Offloads, framed.len(), &mut burst);
        assert_eq!((burst.len(), burst.packet(0)), (1, &[][..]), "{lie:?}");
    }
    for length in 0..VnetHeader::LENGTH {
        let mut burst = Burst::new(LONGEST_PACKET);
        take(Framing::Offloads, length, &mut burst);
        assert_eq!((burst.len(), burst.packet(0)), (1, &[][..]), "{length}");
    }
}
