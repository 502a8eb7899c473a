//! Vectors of ICMP: echo, and errors about packets that a backend sent.

use crate::forwarding::ipip;
use crate::table::Table;
use crate::wire::{Ip, TCP, UDP, checksum, icmp, tcp, to, udp};

pub(crate) fn add(table: &mut Table) {
    echo(table);
    echo_forwarded(table);
    errors_v4(table);
    errors_v6(table);
    errors_about_nothing(table);
    others(table);
}

/// What the director answers: its own header, the message turned into a reply.
fn reply(ip: &Ip, message: &[u8]) -> Vec<u8> {
    let answer = Ip {
        source: ip.destination,
        destination: ip.source,
        identification: 0,
        ttl: 64,
        class: 0,
        fragment: 0x4000,
        options: Vec::new(),
    };
    let mut message = message.to_vec();
    let (kind, protocol) = if ip.source.is_ipv4() {
        (0, 1)
    } else {
        (129, 58)
    };
    message[0] = kind;
    answer.carrying(protocol, &message)
}

/// A four-byte body after which an echo request has `sum` for a checksum.
fn body_for(sum: u16) -> [u8; 4] {
    let without = checksum(&icmp(8, 0, [0, 7, 0, 1], &[]));
    let mut body = [0; 4];
    // The word that takes the checksum from `without` to `sum`: both are inverted sums.
    let word = u32::from(without) + u32::from(!sum);
    let word = u16::try_from((word & 0xffff) + (word >> 16)).unwrap();
    body[2..].copy_from_slice(&word.to_be_bytes());
    body
}

fn echo(t: &mut Table) {
    let v4 = to("203.0.113.10");
    for sum in [0x0000, 0x0001, 0xf7fe, 0xf7ff, 0xf800, 0xf801, 0xfffe] {
        let message = icmp(8, 0, [0, 7, 0, 1], &body_for(sum));
        let request = v4.carrying(1, &message);
        assert_eq!(request[22..24], sum.to_be_bytes());
        t.reply(
            &format!("echo request, checksum {sum:#06x}"),
            request,
            reply(&v4, &message),
        );
    }
    let long = icmp(8, 0, [0, 7, 0, 2], &[0xa5; 1401]);
    t.reply(
        "a long echo request",
        v4.carrying(1, &long),
        reply(&v4, &long),
    );
    let options = to("203.0.113.10")
        .options(&[7, 7, 4, 0, 0, 0, 0, 0])
        .class(0xff);
    t.reply(
        "with options, which are not answered",
        options.carrying(1, &long),
        reply(&options, &long),
    );
    let v6 = to("2001:db8::10");
    let message = icmp(128, 0, [0, 7, 0, 1], b"abc");
    t.reply(
        "echo request of ICMPv6",
        v6.carrying(58, &message),
        reply(&v6, &message),
    );
    let elsewhere = to("203.0.113.99");
    t.drop(
        "echo request to an address that is no VIP",
        elsewhere.carrying(1, &long),
        "no_vip",
    );
    let elsewhere = to("2001:db8::99");
    t.drop(
        "the same in IPv6",
        elsewhere.carrying(58, &message),
        "no_vip",
    );
    let dropped = to("203.0.113.11");
    t.drop(
        "echo = drop",
        dropped.carrying(1, &long),
        "unsupported_protocol",
    );
    let first = dropped
        .piece(77, 0, true)
        .carrying(1, &icmp(8, 0, [0; 4], &[1; 16]));
    t.drop(
        "echo = drop, a first fragment",
        first,
        "unsupported_protocol",
    );
}

fn echo_forwarded(t: &mut Table) {
    let message = icmp(8, 0, [0, 7, 0, 1], b"abc");
    t.forward(
        "echo = forward",
        to("203.0.113.12").carrying(1, &message),
        ipip("2001:db8:1::11"),
    );
    let message = icmp(128, 0, [0, 7, 0, 1], b"abc");
    t.forward(
        "echo = forward, IPv6",
        to("2001:db8::11").carrying(58, &message),
        ipip("10.0.1.15"),
    );
}

/// What a backend sent from a VIP, cut to what a router quotes.
fn quoted(vip: &str, protocol: u8, payload: &[u8], length: usize) -> Vec<u8> {
    let client = if vip.contains(':') {
        "2001:db8:c::1"
    } else {
        "192.0.2.1"
    };
    let mut packet = to(client).from(vip).carrying(protocol, payload);
    packet.truncate(length);
    packet
}

const ERRORS_V4: [(&str, u8, u8, [u8; 4]); 6] = [
    ("fragmentation needed", 3, 4, [0, 0, 5, 0x14]),
    ("host unreachable", 3, 1, [0; 4]),
    ("port unreachable", 3, 3, [0; 4]),
    ("time exceeded", 11, 0, [0; 4]),
    ("reassembly time exceeded", 11, 1, [0; 4]),
    ("parameter problem", 12, 0, [20, 0, 0, 0]),
];

fn errors_v4(t: &mut Table) {
    let web = quoted("203.0.113.10", TCP, &tcp(80, 40_000, 16), 28);
    for (what, kind, code, rest) in ERRORS_V4 {
        let error = to("203.0.113.10")
            .from("198.51.100.1")
            .carrying(1, &icmp(kind, code, rest, &web));
        t.forward(
            &format!("{what}, 8 bytes of TCP quoted"),
            error,
            ipip("10.0.1.11"),
        );
    }
    let needed = |vip: &str, quotation: &[u8]| {
        to(vip)
            .from("198.51.100.1")
            .carrying(1, &icmp(3, 4, [0, 0, 5, 0x14], quotation))
    };
    let dns = quoted("203.0.113.10", UDP, &udp(53, 40_000, &[0; 500]), 528);
    t.forward(
        "500 bytes of UDP quoted",
        needed("203.0.113.10", &dns),
        ipip("10.0.1.12"),
    );
    t.forward(
        "four bytes are enough",
        needed("203.0.113.10", &web[..24]),
        ipip("10.0.1.11"),
    );
    let unknown = quoted("203.0.113.12", TCP, &tcp(80, 1, 16), 28);
    t.forward(
        "about a flow never seen: the ring",
        needed("203.0.113.12", &unknown),
        ipip("2001:db8:1::11"),
    );
    let options = to("192.0.2.1")
        .from("203.0.113.10")
        .options(&[1; 8])
        .carrying(TCP, &tcp(80, 40_000, 16));
    t.forward(
        "quoted options",
        needed("203.0.113.10", &options[..36]),
        ipip("10.0.1.11"),
    );
    let three = ["10.0.1.21", "10.0.1.22", "10.0.1.23"].map(ipip);
    let flow = quoted("203.0.113.16", TCP, &tcp(80, 40_000, 16), 28);
    t.forward_as_group(
        "to the backend of its flow",
        needed("203.0.113.16", &flow),
        "flow",
        &three,
    );
    let client = quoted("203.0.113.15", TCP, &tcp(80, 4711, 16), 28);
    t.forward_as_group(
        "to the backend of its client",
        needed("203.0.113.15", &client),
        "client",
        &three,
    );
}

fn errors_v6(t: &mut Table) {
    let web = quoted("2001:db8::10", TCP, &tcp(80, 40_000, 16), 48);
    for (what, kind, code, rest) in [
        ("unreachable", 1, 0, [0; 4]),
        ("packet too big", 2, 0, [0, 0, 5, 0]),
        ("time exceeded", 3, 0, [0; 4]),
        ("parameter problem", 4, 1, [0, 0, 0, 40]),
    ] {
        let error = to("2001:db8::10")
            .from("2001:db8:f::1")
            .carrying(58, &icmp(kind, code, rest, &web));
        t.forward(
            &format!("{what} of ICMPv6, 8 bytes quoted"),
            error,
            ipip("2001:db8:1::12"),
        );
    }
    let chain = [&[UDP, 0, 1, 4, 0, 0, 0, 0][..], &udp(53, 40_000, b"")].concat();
    let dns = quoted("2001:db8::11", 60, &chain, 56);
    let error = to("2001:db8::11")
        .from("2001:db8:f::1")
        .carrying(58, &icmp(2, 0, [0, 0, 5, 0], &dns));
    t.forward(
        "a quoted extension header, over IPv4",
        error,
        ipip("10.0.1.15"),
    );
}

fn errors_about_nothing(t: &mut Table) {
    let needed = |quotation: &[u8]| {
        to("203.0.113.10")
            .from("198.51.100.1")
            .carrying(1, &icmp(3, 4, [0, 0, 5, 0x14], quotation))
    };
    let web = quoted("203.0.113.10", TCP, &tcp(80, 40_000, 16), 28);
    let other_vip = quoted("203.0.113.12", TCP, &tcp(80, 40_000, 16), 28);
    let other_port = quoted("203.0.113.10", TCP, &tcp(81, 40_000, 16), 28);
    let mut later = web.clone();
    later[6..8].copy_from_slice(&[0, 1]);
    for (what, quotation) in [
        ("about a packet of another VIP", other_vip),
        ("about a port that is no VIP's", other_port),
        ("about ICMP", quoted("203.0.113.10", 1, &[0; 16], 28)),
        ("about a later fragment", later),
        (
            "with three bytes after the quoted header",
            web[..23].to_vec(),
        ),
        ("with a quoted header alone", web[..20].to_vec()),
    ] {
        t.drop(
            &format!("an error {what}"),
            needed(&quotation),
            "icmp_no_flow",
        );
    }
    let elsewhere = to("203.0.113.99").carrying(1, &icmp(3, 4, [0, 0, 5, 0x14], &web));
    t.drop("an error to an address that is no VIP", elsewhere, "no_vip");
}

fn others(t: &mut Table) {
    for (what, kind) in [
        ("echo reply", 0),
        ("redirect", 5),
        ("timestamp request", 13),
    ] {
        let message = to("203.0.113.10").carrying(1, &icmp(kind, 0, [0; 4], &[0; 28]));
        t.drop(what, message, "unsupported_protocol");
    }
    for (what, kind) in [
        ("echo reply", 129),
        ("router solicitation", 133),
        ("neighbour solicitation", 135),
    ] {
        let message = to("2001:db8::10").carrying(58, &icmp(kind, 0, [0; 4], &[0; 16]));
        t.drop(
            &format!("{what} of ICMPv6"),
            message,
            "unsupported_protocol",
        );
    }
    t.drop(
        "ICMPv6 in IPv4",
        to("203.0.113.10").carrying(58, &icmp(128, 0, [0; 4], &[])),
        "unsupported_protocol",
    );
    t.drop(
        "half an ICMP header",
        to("203.0.113.10").carrying(1, &[8, 0, 0, 0]),
        "malformed",
    );
}
