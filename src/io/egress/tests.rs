//! All ways out over a veth pair, in a namespace of their own: what arrives at the other end, what is said of
//! what does not, and how many system calls it takes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::{NonZeroU8, NonZeroU16};
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;
use crate::io::netlink::Netlink;
use crate::io::packet_socket::{Instruction, PacketSocket, Way};
use crate::io::sys::sending_calls;
use crate::io::testing::in_namespace;
use crate::packet::{BURST, Encap, EncapKind, Entropy, Meta, Piece, SourceRule, TunnelId, Version};

const FAR_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 11));
const FAR_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x11));
const OWN_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 2));
const OWN_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2));

/// Tunnels by number.
struct All(Vec<Encap>);

/// Of [`All`]'s tunnels.
const IPIP_V4: TunnelId = TunnelId(0);
const IPIP_V6: TunnelId = TunnelId(1);
const GUE_V4: TunnelId = TunnelId(2);
const GUE_V6: TunnelId = TunnelId(3);

impl All {
    fn new() -> Self {
        let gue = EncapKind::Gue {
            port: NonZeroU16::new(6080).unwrap(),
        };
        let to = |kind, source, far| {
            Encap::new(kind, SourceRule::Fixed(source), far, NonZeroU8::MAX).unwrap()
        };
        Self(vec![
            to(EncapKind::Ipip, OWN_V4, FAR_V4),
            to(EncapKind::Ipip, OWN_V6, FAR_V6),
            to(gue, OWN_V4, FAR_V4),
            to(gue, OWN_V6, FAR_V6),
        ])
    }
}

impl Tunnels for All {
    fn tunnel(&self, TunnelId(number): TunnelId) -> Option<&Encap> {
        self.0.get(number as usize)
    }

    fn bound(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap()
    }
}

fn run(line: &str) {
    let mut words = line.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status();
    assert!(status.unwrap().success(), "{line}");
}

/// A device with a neighbour, and what comes out at its other end.
struct Pair {
    /// Index of the device.
    link: u32,
    mac: [u8; 6],
    /// Index of the other end.
    peer: u32,
    capture: PacketSocket,
}

const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 0x11];

impl Pair {
    /// With an MTU.
    fn new(mtu: u32) -> Self {
        for line in [
            "ip link add v0 address 02:00:00:00:01:02 type veth peer name v1 address 02:00:00:00:01:11",
            "ip link set v1 up",
            "ip link set v0 up",
            "ip addr add 10.0.1.2/24 dev v0",
            "ip addr add 2001:db8:1::2/64 dev v0 nodad",
            "ip neigh add 10.0.1.11 lladdr 02:00:00:00:01:11 dev v0 nud permanent",
            "ip neigh add 2001:db8:1::11 lladdr 02:00:00:00:01:11 dev v0 nud permanent",
            // What a device does itself is not to be seen here as super-packets.
            "ethtool -K v0 tx-udp-segmentation off tx off",
        ] {
            run(line);
        }
        run(&format!("ip link set v0 mtu {mtu}"));
        run(&format!("ip link set v1 mtu {mtu}"));
        let mut netlink = Netlink::open().unwrap();
        let mut index = |name: &str| netlink.link(name).unwrap().unwrap().index;
        // `ret #65535`
        let all = Instruction {
            code: 0x06,
            jump_true: 0,
            jump_false: 0,
            operand: 65_535,
        };
        Self {
            link: index("v0"),
            mac: [2, 0, 0, 0, 1, 2],
            peer: index("v1"),
            capture: PacketSocket::open(&[all]).unwrap(),
        }
    }

    /// To both far ends, by that kind of socket.
    fn hops(&self, by: Direct, mtu: u32) -> Hops {
        let hop = |far| Hop {
            link: self.link,
            header: LinkHeader::new(PEER_MAC, self.mac, far),
            mtu,
            by,
        };
        Hops {
            direct: [FAR_V4, FAR_V6].map(|far| (far, hop(far))).into(),
            segmenting: [].into(),
        }
    }

    /// The next `count` packets of tunnels that come out, and none beyond.
    fn receive(&mut self, count: usize) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut patience = Duration::from_secs(2);
        while let Some(packet) = self.capture.receive(patience).unwrap() {
            let is_from_tunnel = match packet.bytes[0] >> 4 {
                4 => [4, 17].contains(&packet.bytes[9]),
                _ => [4, 17].contains(&packet.bytes[6]),
            };
            if packet.device == self.peer && packet.way == Way::In && is_from_tunnel {
                packets.push(packet.bytes.to_vec());
            }
            if packets.len() == count {
                patience = Duration::from_millis(20);
            }
        }
        packets
    }
}

/// A packet for a tunnel: its length, and the flow that it is of.
#[derive(Clone, Copy)]
struct Sample(TunnelId, u16, u64);

/// All packets are told apart by a number in them.
fn burst(samples: &[Sample]) -> (Burst, Vec<Outgoing>) {
    let mut burst = Burst::new(9000);
    let mut packets = Vec::new();
    for (frame, &Sample(tunnel, length, flow_hash)) in samples.iter().enumerate() {
        let room = burst.spare().unwrap();
        let bytes = &mut room[..usize::from(length)];
        bytes.fill(0);
        bytes[0] = 0x45;
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        bytes[4..6].copy_from_slice(&u16::try_from(frame).unwrap().to_be_bytes());
        burst.push(usize::from(length));
        packets.push(Outgoing {
            frame,
            piece: Piece::Whole,
            tunnel,
            meta: Meta {
                version: Version::V4,
                length,
                traffic_class: 0x28,
                dont_fragment: true,
                segmentation: None,
            },
            entropy: Entropy {
                flow_hash,
                identification: 0,
            },
        });
    }
    (burst, packets)
}

/// Sends a burst; returns what became of each packet, and the system calls that it took.
fn send(egress: &mut impl Egress, samples: &[Sample]) -> (Vec<Sent>, usize) {
    let (mut burst, mut packets) = burst(samples);
    let mut results = vec![Ok(()); packets.len()];
    let before = sending_calls();
    egress.send(&mut burst, &mut packets, &All::new(), &mut results);
    (results, sending_calls() - before)
}

fn raw() -> RawEgress {
    RawEgress::open().unwrap()
}

fn packet(hops: &Hops) -> PacketEgress {
    let mut egress = PacketEgress::open().unwrap();
    egress.adopt(&All::new(), hops);
    egress
}

fn xsk(queue: u32, hops: &Hops) -> XskEgress {
    let mut egress = XskEgress::new(queue, PacketEgress::open().unwrap());
    egress.adopt(&All::new(), hops);
    egress
}

fn gue(hops: &Hops, segmenting: Segmenting) -> GueEgress {
    let mut hops = hops.clone();
    hops.segmenting = [FAR_V4, FAR_V6].map(|far| (far, segmenting)).into();
    let mut egress = GueEgress::new(XskEgress::new(0, PacketEgress::open().unwrap()));
    egress.adopt(&All::new(), &hops);
    egress
}

const ALL_LENGTHS: Segmenting = Segmenting {
    longest: 65_535,
    fewest: 2,
};

/// Without the outer IPv4 identification and checksum, which the kernel fills in for a raw socket.
fn comparable(mut packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    for packet in &mut packets {
        if packet[0] >> 4 == 4 {
            packet[4..6].fill(0);
            packet[10..12].fill(0);
        }
    }
    packets
}

/// Tests of the inside of the namespace, by name.
macro_rules! inside {
    ($($outside:ident => $inside:ident),*) => {
        $(#[test]
        fn $outside() {
            in_namespace(concat!("io::egress::tests::", stringify!($inside)));
        })*
    };
}

inside! {
    the_same_bytes_by_every_way => same_bytes,
    a_system_call_sends_many => calls,
    what_does_not_work_goes_another_way => other_ways,
    what_the_kernel_refuses_is_counted => refusals,
    datagrams_of_one_size_leave_together => together
}

#[test]
#[ignore = "in a namespace"]
fn same_bytes() {
    let mut pair = Pair::new(1500);
    let mut samples = Vec::new();
    for tunnel in [IPIP_V4, IPIP_V6, GUE_V4, GUE_V6] {
        for length in [20, 64, 65, 1000, 1452] {
            samples.push(Sample(tunnel, length, 0x1234_5677));
        }
    }
    let hops = pair.hops(Direct::Xsk, 1500);
    let mut wire = |name: &str, results: Vec<Sent>| {
        assert!(results.iter().all(Result::is_ok), "{name}");
        let mut received = comparable(pair.receive(samples.len()));
        assert_eq!(received.len(), samples.len(), "{name}");
        received.sort(); // raw sockets of two families
        received
    };
    let sent = [
        wire("raw", send(&mut raw(), &samples).0),
        wire("packet", send(&mut packet(&hops), &samples).0),
        wire("xsk", send(&mut xsk(0, &hops), &samples).0),
    ];
    assert!(sent[0] == sent[1], "raw, packet");
    assert!(sent[0] == sent[2], "raw, xsk");
}

#[test]
#[ignore = "in a namespace"]
fn calls() {
    let mut pair = Pair::new(1500);
    let samples = vec![Sample(IPIP_V4, 64, 7); BURST];
    let hops = pair.hops(Direct::Xsk, 1500);
    let (results, calls) = send(&mut raw(), &samples);
    assert_eq!((results, calls), (vec![Ok(()); BURST], 1), "raw");
    let (results, calls) = send(&mut packet(&hops), &samples);
    assert_eq!((results, calls), (vec![Ok(()); BURST], 1), "packet");
    assert_eq!(pair.receive(2 * BURST).len(), 2 * BURST);
    // More frames than a socket has, in many bursts.
    let mut xsk = xsk(0, &hops);
    for _ in 0..20 {
        let (results, calls) = send(&mut xsk, &samples);
        assert_eq!(results, vec![Ok(()); BURST], "xsk");
        assert!((1..=3).contains(&calls), "xsk: {calls}"); // 32 packets a call before Linux 6.17
        let received = pair.receive(BURST);
        let numbers: Vec<_> = received.iter().map(|packet| packet[20 + 5]).collect();
        let expected: Vec<_> = (0..u8::try_from(BURST).unwrap()).collect();
        assert_eq!(numbers, expected);
    }
    let (_, calls) = send(&mut xsk, &[]);
    assert_eq!(calls, 0, "nothing to send");
}

#[test]
#[ignore = "in a namespace"]
fn other_ways() {
    let mut pair = Pair::new(9000);
    let hops = pair.hops(Direct::Xsk, 9000);
    let small = Sample(IPIP_V4, 64, 7);
    // Longer than a frame: it, and what follows it.
    let mixed = [
        small,
        small,
        Sample(IPIP_V4, 8000, 7),
        small,
        Sample(IPIP_V6, 64, 7),
    ];
    let mut first = xsk(0, &hops);
    assert_eq!(send(&mut first, &mixed), (vec![Ok(()); 5], 2));
    let received = pair.receive(5);
    let numbers: Vec<_> = received[..4].iter().map(|packet| packet[20 + 5]).collect();
    assert_eq!((received.len(), numbers), (5, vec![0, 1, 2, 3]));
    // A queue that another socket has, and one that the device does not have.
    for queue in [0, 5] {
        let mut second = xsk(queue, &hops);
        assert!(second.is_by_packet_socket(), "queue {queue}");
        assert_eq!(send(&mut second, &[small; 3]), (vec![Ok(()); 3], 1));
        assert_eq!(pair.receive(3).len(), 3, "queue {queue}");
    }
    assert!(!first.is_by_packet_socket());
    // A far end without a hop.
    let mut none = xsk(0, &Hops::default());
    assert_eq!(send(&mut none, &[small; 3]), (vec![Ok(()); 3], 1));
    assert_eq!(pair.receive(3).len(), 3);
    // Once the first is gone, the queue is free soon.
    drop(first);
    let deadline = Instant::now() + Duration::from_secs(5);
    while xsk(0, &hops).is_by_packet_socket() {
        assert!(Instant::now() < deadline, "the queue is not freed");
    }
}

#[test]
#[ignore = "in a namespace"]
fn refusals() {
    let mut pair = Pair::new(1500);
    let hops = pair.hops(Direct::Xsk, 1500);
    let samples = [
        Sample(IPIP_V4, 64, 7),
        Sample(IPIP_V4, 1481, 7),
        Sample(IPIP_V6, 64, 7),
    ];
    let too_big = |results: &[Sent]| assert_eq!(results, [Ok(()), Err(SendError::TooBig), Ok(())]);
    let (mut packet, mut xsk) = (packet(&hops), xsk(0, &hops));
    too_big(&send(&mut raw(), &samples).0);
    too_big(&send(&mut packet, &samples).0);
    too_big(&send(&mut xsk, &samples).0);
    assert_eq!(pair.receive(6).len(), 6);
    // The cable is out: the driver takes nothing.
    run("ip link set v1 down");
    let small = [Sample(IPIP_V4, 64, 7); 5];
    let full = Err(SendError::Full(Errno(libc::ENOBUFS)));
    assert_eq!(send(&mut packet, &small).0, [full; 5], "packet");
    assert_eq!(send(&mut xsk, &small).0, [full; 5], "xsk");
    run("ip link set v1 up");
    assert_eq!(send(&mut xsk, &small).0, [Ok(()); 5]);
    assert_eq!(pair.receive(5).len(), 5);
    // The device is down; then it is gone.
    run("ip link set v0 down");
    let down = Err(SendError::Unreachable(Errno(libc::ENETDOWN)));
    assert_eq!(send(&mut xsk, &small).0, [down; 5]);
    run("ip link set v0 up");
    run("ip neigh replace 10.0.1.11 lladdr 02:00:00:00:01:11 dev v0 nud permanent");
    assert_eq!(
        send(&mut xsk, &small).0,
        [Ok(()); 5],
        "by packet socket meanwhile"
    );
    assert_eq!(pair.receive(5).len(), 5);
    xsk.adopt(&All::new(), &hops);
    assert!(!xsk.is_by_packet_socket());
    run("ip link del v0");
    let gone = Err(SendError::Unreachable(Errno(libc::ENXIO)));
    assert_eq!(send(&mut xsk, &small).0, [gone; 5]);
}

#[test]
#[ignore = "in a namespace"]
fn together() {
    let mut pair = Pair::new(1500);
    let hops = pair.hops(Direct::Xsk, 1500);
    let mut gue = gue(&hops, ALL_LENGTHS);
    // Ten of one flow, the last shorter; two of another, on another port; one that is alone.
    let mut samples = vec![Sample(GUE_V4, 100, 4); 9];
    samples.push(Sample(GUE_V4, 60, 8));
    samples.extend([Sample(GUE_V4, 200, 5); 2]);
    samples.push(Sample(GUE_V6, 64, 6));
    assert_eq!(send(&mut gue, &samples), (vec![Ok(()); 13], 3));
    let received = pair.receive(13);
    let expected = {
        let narrowed = samples.iter().map(|Sample(tunnel, length, hash)| {
            Sample(*tunnel, *length, hash % u64::from(SOURCE_PORTS))
        });
        let narrowed: Vec<_> = narrowed.collect();
        assert!(
            send(&mut xsk(9, &hops), &narrowed)
                .0
                .iter()
                .all(Result::is_ok)
        );
        pair.receive(13)
    };
    let without_checksum = |packets: Vec<Vec<u8>>| {
        let mut packets = comparable(packets);
        for packet in packets.iter_mut().filter(|packet| packet[0] >> 4 == 4) {
            packet[26..28].fill(0);
        }
        packets.sort();
        packets
    };
    for packet in received.iter().filter(|packet| packet[0] >> 4 == 4) {
        assert!(is_right_udp_checksum(packet), "{packet:02x?}");
    }
    assert!(without_checksum(received) == without_checksum(expected));
    // What the kernel cannot send together is refused packet by packet.
    run("ip route add unreachable 10.0.1.11");
    let mut hopless = self::gue(&Hops::default(), ALL_LENGTHS);
    let refused = Err(SendError::Unreachable(Errno(libc::EHOSTUNREACH)));
    assert_eq!(send(&mut hopless, &samples[..9]), (vec![refused; 9], 1 + 9));
}

/// Over IPv4.
fn is_right_udp_checksum(packet: &[u8]) -> bool {
    let length = u32::try_from(packet.len() - 20).unwrap();
    let words = packet[12..]
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or_default()));
    let mut sum = words.sum::<u32>() + 17 + length;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum == 0xffff
}
