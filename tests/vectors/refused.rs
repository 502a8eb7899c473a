//! Vectors of packets that go nowhere: not for a VIP, not balanced, too long, malformed.

use crate::forwarding::ipip;
use crate::table::Table;
use crate::wire::{TCP, UDP, tcp, to, udp};

pub(crate) fn add(table: &mut Table) {
    elsewhere(table);
    not_balanced(table);
    oversized(table);
    malformed(table);
}

fn elsewhere(t: &mut Table) {
    t.drop(
        "another port of a VIP's address",
        to("203.0.113.10").ack(40_000, 82),
        "no_vip",
    );
    t.drop(
        "another protocol on a VIP's port",
        to("203.0.113.10").udp(40_000, 80, b""),
        "no_vip",
    );
    t.drop(
        "another address",
        to("203.0.113.99").ack(40_000, 80),
        "no_vip",
    );
    t.drop(
        "another port in IPv6",
        to("2001:db8::10").ack(40_000, 82),
        "no_vip",
    );
    t.drop(
        "another address in IPv6",
        to("2001:db8::99").ack(40_000, 80),
        "no_vip",
    );
    t.drop(
        "UDP where any TCP port is a VIP",
        to("203.0.113.11").udp(1, 42, b""),
        "no_vip",
    );
    t.drop(
        "SCTP elsewhere",
        to("203.0.113.99").carrying(132, &[0; 20]),
        "no_vip",
    );
}

fn not_balanced(t: &mut Table) {
    let inside4 = to("203.0.113.10").syn(40_000, 80);
    let inside6 = to("2001:db8::10").syn(40_000, 80);
    for (what, vip, protocol, payload) in [
        ("IPIP to a VIP", "203.0.113.10", 4, inside4.clone()),
        ("6in4 to a VIP", "203.0.113.10", 41, inside6.clone()),
        ("4in6 to a VIP", "2001:db8::10", 4, inside4),
        ("6in6 to a VIP", "2001:db8::10", 41, inside6),
        ("GRE", "203.0.113.10", 47, vec![0; 24]),
        ("ESP", "2001:db8::10", 50, vec![0; 24]),
        ("SCTP", "203.0.113.10", 132, vec![0; 24]),
        ("no next header", "2001:db8::10", 59, vec![]),
    ] {
        t.drop(
            what,
            to(vip).carrying(protocol, &payload),
            "unsupported_protocol",
        );
    }
}

/// An outer length field holds 65,535.
fn oversized(t: &mut Table) {
    let datagram = |length: usize| udp(40_000, 53, &vec![1; length - 28]);
    let longest = to("203.0.113.10").carrying(UDP, &datagram(65_515));
    t.forward(
        "the longest packet for a tunnel over IPv4",
        longest,
        ipip("10.0.1.12"),
    );
    let longer = to("203.0.113.10").carrying(UDP, &datagram(65_516));
    t.drop("one byte more", longer, "too_big");
    let segment = [tcp(40_000, 80, 16), vec![1; 65_535 - 20 - 27]].concat();
    let longest = to("203.0.113.12").carrying(TCP, &segment);
    t.forward(
        "the longest packet of IPv4, over IPv6",
        longest,
        ipip("2001:db8:1::11"),
    );
    let datagram = udp(40_000, 46, &vec![1; 65_528 - 28]);
    t.drop(
        "one byte too long for GUE over IPv6",
        to("203.0.113.13").carrying(UDP, &datagram),
        "too_big",
    );
}

fn malformed(t: &mut Table) {
    let syn = to("203.0.113.10").syn(40_000, 80);
    let with = |at: usize, value: u8| {
        let mut packet = syn.clone();
        packet[at] = value;
        packet
    };
    let length = u8::try_from(syn.len()).unwrap();
    t.drop("one byte", vec![0x45], "malformed");
    t.drop("version 5", with(0, 0x55), "malformed");
    t.drop("an IPv4 header of 16 bytes", with(0, 0x44), "malformed");
    t.drop(
        "a header that swallows the segment",
        with(0, 0x4f),
        "malformed",
    );
    t.drop(
        "a total length beyond the packet",
        with(3, length + 1),
        "malformed",
    );
    t.drop("a total length within the header", with(3, 19), "malformed");
    t.drop("a total length of 0", with(3, 0), "malformed");
    t.drop("a TCP header of 16 bytes", with(32, 0x40), "malformed");
    t.drop(
        "a TCP header beyond the segment",
        with(32, 0xf0),
        "malformed",
    );
    let mut dns = to("203.0.113.10").udp(40_000, 53, b"query");
    dns[25] = 7;
    t.drop("a UDP length within its header", dns.clone(), "malformed");
    dns[25] = 14;
    t.drop("a UDP length beyond the packet", dns, "malformed");
    let mut six = to("2001:db8::10").syn(40_000, 80);
    six[5] += 1;
    t.drop("a payload length beyond the packet", six, "malformed");
    let beyond = [&[UDP, 9, 1, 4, 0, 0, 0, 0][..], &udp(40_000, 53, b"")].concat();
    t.drop(
        "an extension header beyond the packet",
        to("2001:db8::10").carrying(0, &beyond),
        "malformed",
    );
    let nested = [
        &[44, 0, 0, 1, 0, 0, 0, 1, UDP, 0, 0, 0, 0, 0, 0, 2][..],
        &udp(40_000, 53, b""),
    ]
    .concat();
    t.drop(
        "a fragment of a fragment",
        to("2001:db8::10").carrying(44, &nested),
        "malformed",
    );
}
