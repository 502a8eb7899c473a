//! Vectors of packets that go to a backend: families, encapsulations, what the outer header copies,
//! headers parsed past, the choice of the backend.

use crate::table::Table;
use crate::wire::{Ip, TCP, Tunnel, UDP, flow_hash, fragment_header, tcp, to, udp};

const FIN: u8 = 1;
const RST: u8 = 4;

pub(crate) fn ipip(backend: &str) -> Tunnel {
    let source = if backend.contains(':') {
        "2001:db8:e::2"
    } else {
        "10.0.0.2"
    };
    Tunnel {
        source: source.parse().unwrap(),
        backend: backend.parse().unwrap(),
        gue: None,
    }
}

/// The low bits of the flow's hash choose one of the dynamic ports.
pub(crate) fn gue(backend: &str, ip: &Ip, source_port: u16, port: u16, gue_port: u16) -> Tunnel {
    let hash = flow_hash(ip, source_port, port, UDP).to_be_bytes();
    let from = u16::from_be_bytes([hash[6], hash[7]]) | 0xc000;
    Tunnel {
        gue: Some((from, gue_port)),
        ..ipip(backend)
    }
}

pub(crate) fn add(table: &mut Table) {
    families(table);
    encapsulation_gue(table);
    copied(table);
    ports(table);
    parsed_past(table);
    choices(table);
    flows(table);
}

fn families(t: &mut Table) {
    t.forward(
        "TCP to an IPv4 VIP, IPv4 backend",
        to("203.0.113.10").syn(40_000, 80),
        ipip("10.0.1.11"),
    );
    t.forward(
        "the acknowledgement after it",
        to("203.0.113.10").ack(40_000, 80),
        ipip("10.0.1.11"),
    );
    t.forward(
        "UDP to an IPv4 VIP, IPv4 backend",
        to("203.0.113.10").udp(40_000, 53, b"query"),
        ipip("10.0.1.12"),
    );
    t.forward(
        "UDP without data",
        to("203.0.113.10").udp(40_001, 53, b""),
        ipip("10.0.1.12"),
    );
    t.forward(
        "TCP to an IPv4 VIP, IPv6 backend (4in6)",
        to("203.0.113.12").syn(40_000, 80),
        ipip("2001:db8:1::11"),
    );
    t.forward(
        "TCP to an IPv6 VIP, IPv6 backend (6in6)",
        to("2001:db8::10").syn(40_000, 80),
        ipip("2001:db8:1::12"),
    );
    t.forward(
        "UDP to an IPv6 VIP, IPv6 backend (6in6)",
        to("2001:db8::10").udp(40_000, 53, b"query"),
        ipip("2001:db8:1::12"),
    );
    t.forward(
        "TCP to an IPv6 VIP, IPv4 backend (6in4)",
        to("2001:db8::11").syn(40_000, 80),
        ipip("10.0.1.15"),
    );
    t.forward(
        "UDP to an IPv6 VIP, IPv4 backend (6in4)",
        to("2001:db8::11").udp(40_000, 53, b"query"),
        ipip("10.0.1.15"),
    );
}

fn encapsulation_gue(t: &mut Table) {
    for (what, vip, port, backend, gue_port) in [
        (
            "4 in GUE over 4, UDP checksum 0",
            "203.0.113.13",
            44,
            "10.0.1.16",
            6080,
        ),
        (
            "4 in GUE over 6, another port, UDP checksum set",
            "203.0.113.13",
            46,
            "2001:db8:1::16",
            7000,
        ),
        ("6 in GUE over 4", "2001:db8::13", 64, "10.0.1.16", 6080),
        (
            "6 in GUE over 6",
            "2001:db8::13",
            66,
            "2001:db8:1::16",
            6080,
        ),
    ] {
        for (source_port, data) in [(40_000, &b"even"[..]), (50_001, b"an odd length")] {
            let ip = to(vip).class(0xb9);
            let tunnel = gue(backend, &ip, source_port, port, gue_port);
            t.forward(what, ip.udp(source_port, port, data), tunnel);
        }
    }
}

fn copied(t: &mut Table) {
    for class in [0x8c, 0x01, 0x02, 0x03, 0xff] {
        let what = format!("TOS {class:#04x} copied, DSCP and ECN");
        t.forward(
            &what,
            to("203.0.113.10").class(class).ack(40_000, 80),
            ipip("10.0.1.11"),
        );
        let what = format!("TOS {class:#04x} to a traffic class");
        t.forward(
            &what,
            to("203.0.113.12").class(class).ack(40_000, 80),
            ipip("2001:db8:1::11"),
        );
        let what = format!("traffic class {class:#04x} copied");
        t.forward(
            &what,
            to("2001:db8::10").class(class).ack(40_000, 80),
            ipip("2001:db8:1::12"),
        );
        let what = format!("traffic class {class:#04x} to TOS");
        t.forward(
            &what,
            to("2001:db8::11").class(class).ack(40_000, 80),
            ipip("10.0.1.15"),
        );
    }
    let clear = to("203.0.113.10").may_be_fragmented();
    t.forward(
        "DF clear: an identification",
        clear.ack(40_000, 80),
        ipip("10.0.1.11"),
    );
    t.forward(
        "the next one is another",
        clear.ack(40_000, 80),
        ipip("10.0.1.11"),
    );
    t.forward(
        "DF clear over IPv6",
        to("203.0.113.12").may_be_fragmented().ack(40_000, 80),
        ipip("2001:db8:1::11"),
    );
    t.forward(
        "DF set between them: 0",
        to("203.0.113.10").ack(40_000, 80),
        ipip("10.0.1.11"),
    );
    t.forward("DF clear again", clear.ack(40_000, 80), ipip("10.0.1.11"));
    let mut last_hop = to("203.0.113.10");
    last_hop.ttl = 1;
    t.forward(
        "inner TTL 1 stays",
        last_hop.ack(40_000, 80),
        ipip("10.0.1.11"),
    );
}

fn ports(t: &mut Table) {
    t.forward(
        "any port: 42",
        to("203.0.113.11").syn(40_000, 42),
        ipip("10.0.1.13"),
    );
    t.forward(
        "any port: 65535",
        to("203.0.113.11").syn(40_000, 65_535),
        ipip("10.0.1.13"),
    );
    t.forward(
        "any port: 0",
        to("203.0.113.11").syn(40_000, 0),
        ipip("10.0.1.13"),
    );
    t.forward(
        "the exact port before any port",
        to("203.0.113.11").syn(40_000, 8080),
        ipip("10.0.1.14"),
    );
}

fn parsed_past(t: &mut Table) {
    let web = ipip("10.0.1.11");
    t.forward(
        "IPv4 options kept inside",
        to("203.0.113.10")
            .options(&[7, 7, 4, 0, 0, 0, 0, 0])
            .ack(40_000, 80),
        web,
    );
    t.forward(
        "40 bytes of IPv4 options",
        to("203.0.113.10").options(&[1; 40]).ack(40_000, 80),
        web,
    );

    let hop_by_hop = |next| [next, 0, 1, 4, 0, 0, 0, 0];
    let routing = |next| [next, 0, 4, 0, 0, 0, 0, 0];
    let authentication = |next| [next, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1];
    let datagram = udp(40_000, 53, b"query");
    for (what, first, chain) in [
        ("hop-by-hop options", 0, hop_by_hop(UDP).to_vec()),
        ("a routing header", 43, routing(UDP).to_vec()),
        ("destination options", 60, hop_by_hop(UDP).to_vec()),
        ("an authentication header", 51, authentication(UDP).to_vec()),
        ("a mobility header", 135, hop_by_hop(UDP).to_vec()),
        ("an atomic fragment", 44, fragment_header(UDP, 9, 0, false)),
        (
            "hop-by-hop, routing, authentication, destination options",
            0,
            [
                &hop_by_hop(43)[..],
                &routing(51),
                &authentication(60),
                &hop_by_hop(UDP),
            ]
            .concat(),
        ),
        (
            "eight extension headers",
            60,
            [hop_by_hop(60).repeat(7), hop_by_hop(UDP).to_vec()].concat(),
        ),
    ] {
        let packet = to("2001:db8::10").carrying(first, &[&chain[..], &datagram].concat());
        t.forward(&format!("behind {what}"), packet, ipip("2001:db8:1::12"));
    }
    let nine = [hop_by_hop(60).repeat(8), hop_by_hop(UDP).to_vec(), datagram].concat();
    t.drop(
        "behind nine extension headers",
        to("2001:db8::10").carrying(60, &nine),
        "malformed",
    );
}

fn choices(t: &mut Table) {
    let three = ["10.0.1.21", "10.0.1.22", "10.0.1.23"].map(ipip);
    let port = to("203.0.113.14");
    t.forward_as_group(
        "by destination port",
        port.ack(31_337, 42),
        "port 42",
        &three,
    );
    t.forward_as_group(
        "another client and port, the same backend",
        port.clone().from("198.51.100.100").ack(1337, 42),
        "port 42",
        &three,
    );
    t.forward_as_group(
        "and another",
        port.from("198.51.100.7").syn(1, 42),
        "port 42",
        &three,
    );
    let client = to("203.0.113.15");
    for source_port in [1, 2, 3, 40_000] {
        t.forward_as_group(
            "a client keeps its backend",
            client.syn(source_port, 80),
            "client",
            &three,
        );
    }
}

fn flows(t: &mut Table) {
    let three = ["10.0.1.21", "10.0.1.22", "10.0.1.23"].map(ipip);
    let flow = to("203.0.113.16");
    t.forward_as_group("a new flow", flow.syn(40_000, 80), "flow", &three);
    t.forward_as_group("its table entry", flow.ack(40_000, 80), "flow", &three);
    t.forward_as_group("its FIN", flow.tcp(40_000, 80, FIN | 16), "flow", &three);
    t.forward_as_group(
        "its last acknowledgement",
        flow.ack(40_000, 80),
        "flow",
        &three,
    );
    t.pause(61_000);
    t.forward_as_group(
        "after its entry: the ring, which has not changed",
        flow.ack(40_000, 80),
        "flow",
        &three,
    );
    t.forward_as_group("an RST", flow.tcp(40_000, 80, RST), "flow", &three);
    t.forward_as_group(
        "a SYN on the same ports",
        flow.syn(40_000, 80),
        "flow",
        &three,
    );
    t.forward_as_group(
        "an acknowledgement of a flow never seen",
        flow.ack(40_001, 80),
        "unseen flow",
        &three,
    );
    t.forward_as_group("and again", flow.ack(40_001, 80), "unseen flow", &three);
}

/// Outer sources from an entropy prefix.
pub(crate) fn entropy() -> Table {
    let mut t = Table::new("entropy", include_str!("entropy.toml"));
    for source_port in [40_000, 40_001, 50_000] {
        for (vip, backend) in [
            ("203.0.113.10", "10.0.1.11"),
            ("203.0.113.12", "2001:db8:1::11"),
        ] {
            let ip = to(vip);
            let hash = flow_hash(&ip, source_port, 80, TCP);
            let tunnel = Tunnel {
                source: spread(hash, backend),
                ..ipip(backend)
            };
            t.forward(
                "a source of the flow's own",
                ip.carrying(TCP, &tcp(source_port, 80, 2)),
                tunnel,
            );
            t.forward(
                "its later packets share it",
                ip.ack(source_port, 80),
                tunnel,
            );
        }
        let ip = to("2001:db8::13");
        let backend = "2001:db8:1::16";
        let tunnel = Tunnel {
            source: spread(flow_hash(&ip, source_port, 66, UDP), backend),
            ..gue(backend, &ip, source_port, 66, 6080)
        };
        t.forward(
            "with GUE, covered by its checksum",
            ip.udp(source_port, 66, b"x"),
            tunnel,
        );
    }
    t
}

/// 172.16.0.0/16 or 100::/64 with the low bits of the hash.
fn spread(hash: u64, backend: &str) -> std::net::IpAddr {
    let hash = hash.to_be_bytes();
    if backend.contains(':') {
        let mut address = [0; 16];
        address[0] = 1;
        address[8..].copy_from_slice(&hash);
        address.into()
    } else {
        [172, 16, hash[6], hash[7]].into()
    }
}
