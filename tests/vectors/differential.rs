//! Random valid packets: the inner packet leaves byte-identical, behind exactly the outer header
//! that the documentation promises. `TUNLB_DIFFERENTIAL` says how many.

use std::time::Duration;

use crate::core::{decide, director};
use crate::forwarding::{gue, ipip};
use crate::tables;
use crate::wire::{Ip, TCP, UDP, to};

const DEFAULT: u64 = 20_000;

/// VIP, port, protocol, backend and GUE port, of all families and encapsulations.
const SERVICES: [(&str, u16, u8, &str, u16); 10] = [
    ("203.0.113.10", 80, TCP, "10.0.1.11", 0),
    ("203.0.113.10", 53, UDP, "10.0.1.12", 0),
    ("203.0.113.12", 80, TCP, "2001:db8:1::11", 0),
    ("2001:db8::10", 80, TCP, "2001:db8:1::12", 0),
    ("2001:db8::10", 53, UDP, "2001:db8:1::12", 0),
    ("2001:db8::11", 80, TCP, "10.0.1.15", 0),
    ("203.0.113.13", 44, UDP, "10.0.1.16", 6080),
    ("203.0.113.13", 46, UDP, "2001:db8:1::16", 7000),
    ("2001:db8::13", 64, UDP, "10.0.1.16", 6080),
    ("2001:db8::13", 66, UDP, "2001:db8:1::16", 6080),
];

/// SplitMix64 (Steele, Lea, Flood 2014): the same packets in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let words = (0..=length / 8).flat_map(|_| self.next().to_be_bytes());
        words.take(length).collect()
    }

    fn port(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }
}

#[test]
fn the_inner_packet_leaves_byte_identical() {
    let wanted = std::env::var("TUNLB_DIFFERENTIAL");
    let wanted = wanted.map_or(DEFAULT, |number| number.parse().unwrap());
    let [table, _] = tables();
    let mut director = director(&table);
    let mut random = Random(1);
    for number in 0..wanted {
        let (vip, port, protocol, backend, gue_port) = SERVICES[random.below(SERVICES.len())];
        let (ip, source_port) = (ip(&mut random, vip), random.port());
        let inner = packet(&mut random, &ip, source_port, port, protocol);
        let tunnel = if gue_port == 0 {
            ipip(backend)
        } else {
            gue(backend, &ip, source_port, port, gue_port)
        };
        let seen = decide(&mut director, &inner, Duration::from_micros(number));
        let what = format!("packet {number}: {inner:02x?}");
        assert_eq!(seen.verdict, "forward", "{what}");
        let [outer] = &seen.output[..] else {
            panic!("{what}");
        };
        assert!(outer.ends_with(&inner), "{what}");
        let identification = u16::from_be_bytes([outer[4], outer[5]]);
        assert_eq!(*outer, tunnel.around(&inner, identification), "{what}");
    }
}

fn ip(random: &mut Random, vip: &str) -> Ip {
    let mut ip = to(vip);
    ip.source = if ip.destination.is_ipv4() {
        [random.byte(), random.byte(), random.byte(), random.byte()].into()
    } else {
        <[u8; 16]>::try_from(random.bytes(16)).unwrap().into()
    };
    ip.class = random.byte();
    ip.identification = random.port();
    ip.fragment = if random.below(2) == 0 { 0 } else { 0x4000 };
    ip.ttl = random.byte();
    if random.below(4) == 0 {
        let words = random.below(11);
        ip.options = random.bytes(words * 4);
    }
    ip
}

fn packet(random: &mut Random, ip: &Ip, source_port: u16, port: u16, protocol: u8) -> Vec<u8> {
    let length = match random.below(4) {
        0 => random.below(16),
        1 => 1400 + random.below(8600),
        _ => random.below(1400),
    };
    let mut transport = [source_port.to_be_bytes(), port.to_be_bytes()].concat();
    if protocol == TCP {
        let options = random.below(11);
        transport.extend(random.bytes(8));
        transport.push((u8::try_from(5 + options).unwrap() << 4) | (random.byte() & 0xf));
        transport.extend(random.bytes(7 + options * 4));
    } else {
        transport.extend(u16::try_from(8 + length).unwrap().to_be_bytes());
        transport.extend(random.bytes(2));
    }
    transport.extend(random.bytes(length));
    if ip.destination.is_ipv4() || random.below(3) > 0 {
        return ip.carrying(protocol, &transport);
    }
    let (first, mut chain) = extensions(random, protocol);
    chain.extend(transport);
    ip.carrying(first, &chain)
}

/// One to eight extension headers, from the back, and the number of the first.
fn extensions(random: &mut Random, protocol: u8) -> (u8, Vec<u8>) {
    let (mut next, mut chain) = (protocol, Vec::new());
    for _ in 0..=random.below(8) {
        let kind = [0, 43, 60, 135, 51, 44][random.below(6)];
        let units = random.below(4);
        let mut header = match kind {
            44 => vec![next, random.byte(), 0, 0], // an atomic fragment
            _ => vec![next, u8::try_from(units).unwrap()],
        };
        let length = match kind {
            44 => 8,
            51 => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        header.extend(random.bytes(length - header.len()));
        chain = [header, chain].concat();
        next = kind;
    }
    (next, chain)
}
