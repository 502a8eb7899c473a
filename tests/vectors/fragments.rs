//! Vectors of fragments: all of a datagram go where the first one goes, whatever their order.

use crate::forwarding::ipip;
use crate::table::Table;
use crate::wire::{TCP, UDP, fragment_header, tcp, to, udp};

pub(crate) fn add(table: &mut Table) {
    in_order(table);
    out_of_order(table);
    ipv6(table);
    overlapping(table);
    dropped(table);
    limits(table);
}

/// A datagram of 4000 bytes for the DNS VIP, in pieces of an Ethernet link.
fn pieces(identification: u16) -> [Vec<u8>; 3] {
    let datagram = udp(40_000, 53, &[0x5a; 4000]);
    let ip = |offset, more| to("203.0.113.10").piece(identification, offset, more);
    [
        ip(0, true).carrying(UDP, &datagram[..1480]),
        ip(1480, true).carrying(UDP, &datagram[1480..2960]),
        ip(2960, false).carrying(UDP, &datagram[2960..]),
    ]
}

fn in_order(t: &mut Table) {
    let [first, second, last] = pieces(1);
    t.forward("first fragment", first, ipip("10.0.1.12"));
    t.forward("second fragment", second.clone(), ipip("10.0.1.12"));
    t.forward("last fragment", last, ipip("10.0.1.12"));
    t.forward("a repeated fragment", second, ipip("10.0.1.12"));
}

fn out_of_order(t: &mut Table) {
    let [first, second, last] = pieces(2);
    t.hold("last fragment first", last.clone());
    t.release(
        "first fragment, then what waited",
        first,
        ipip("10.0.1.12"),
        &[&last],
    );
    t.forward("second fragment last", second, ipip("10.0.1.12"));
    let [first, second, last] = pieces(3);
    t.hold("third of three, backwards", last.clone());
    t.pause(999);
    t.hold("second, 999 ms later", second.clone());
    t.release(
        "first: in the order in which they came",
        first,
        ipip("10.0.1.12"),
        &[&last, &second],
    );
    let [first, second, last] = pieces(4);
    t.hold("a later fragment", last);
    t.pause(1000);
    t.forward(
        "the first one when the later is given up",
        first,
        ipip("10.0.1.12"),
    );
    t.forward("and the rest", second.clone(), ipip("10.0.1.12"));
    t.pause(30_000);
    t.hold("30 s later it is of a new datagram", second);
    t.pause(1000);
}

fn ipv6(t: &mut Table) {
    let datagram = udp(40_000, 53, &[0x5a; 2000]);
    let piece = |identification, offset: u16, end: usize, more| {
        let mut payload = fragment_header(UDP, identification, offset, more);
        payload.extend(&datagram[usize::from(offset)..end]);
        to("2001:db8::11").carrying(44, &payload)
    };
    let (first, last) = (piece(1, 0, 1240, true), piece(1, 1240, 2008, false));
    t.forward("first fragment of IPv6", first, ipip("10.0.1.15"));
    t.forward("last fragment of IPv6", last, ipip("10.0.1.15"));
    let (first, last) = (piece(2, 0, 1240, true), piece(2, 1240, 2008, false));
    t.hold("last fragment of IPv6 first", last.clone());
    t.release("first fragment of IPv6", first, ipip("10.0.1.15"), &[&last]);
    let mut behind = vec![44, 0, 1, 4, 0, 0, 0, 0];
    behind.extend(fragment_header(60, 3, 0, true));
    behind.extend([UDP, 0, 1, 4, 0, 0, 0, 0]);
    behind.extend(&datagram[..1200]);
    let first = to("2001:db8::11").carrying(0, &behind);
    t.forward(
        "a first fragment between extension headers",
        first,
        ipip("10.0.1.15"),
    );
    t.forward(
        "what follows it",
        piece(3, 1240, 2008, false),
        ipip("10.0.1.15"),
    );
}

/// Reassembly is the backend's business: it sees what the client sent.
fn overlapping(t: &mut Table) {
    let ip = |offset, more| to("203.0.113.10").piece(5, offset, more);
    let datagram = udp(40_000, 53, &[0x5a; 100]);
    let web = tcp(40_000, 80, 2);
    t.forward(
        "a first fragment",
        ip(0, true).carrying(UDP, &datagram[..64]),
        ipip("10.0.1.12"),
    );
    t.forward(
        "one that overlaps it",
        ip(8, false).carrying(UDP, &datagram[8..]),
        ipip("10.0.1.12"),
    );
    let other = ip(0, true).carrying(TCP, &web[..24]);
    t.forward(
        "the identification in another protocol",
        other,
        ipip("10.0.1.11"),
    );
    t.forward(
        "which has its own fragments",
        ip(24, false).carrying(TCP, &web[24..]),
        ipip("10.0.1.11"),
    );
    let tiny = to("203.0.113.10")
        .piece(6, 0, true)
        .carrying(TCP, &web[..8]);
    t.drop("a first fragment with half a TCP header", tiny, "malformed");
}

fn dropped(t: &mut Table) {
    let elsewhere = |destination, port, offset| {
        let datagram = udp(40_000, port, &[0x5a; 100]);
        let from = usize::from(offset);
        to(destination)
            .piece(7, offset, offset == 0)
            .carrying(UDP, &datagram[from..])
    };
    t.drop(
        "a later fragment for an address that is no VIP",
        elsewhere("203.0.113.99", 53, 48),
        "no_vip",
    );
    t.hold(
        "a later fragment for a VIP's address",
        elsewhere("203.0.113.10", 9, 48),
    );
    t.drop(
        "its first one, for another port",
        elsewhere("203.0.113.10", 9, 0),
        "no_vip",
    );
    t.drop(
        "a later one of the same",
        elsewhere("203.0.113.10", 9, 48),
        "no_vip",
    );
}

fn limits(t: &mut Table) {
    let later = |offset| {
        to("203.0.113.10")
            .piece(8, offset, true)
            .carrying(UDP, &[0; 168])
    };
    for number in 1..=128 {
        t.hold("one of 128 that wait", later(number * 16));
    }
    t.drop("one too many", later(129 * 16), "fragment_table_full");
    t.forward(
        "a whole datagram all the same",
        to("203.0.113.10").udp(40_000, 53, b"q"),
        ipip("10.0.1.12"),
    );
    t.pause(1000);
    t.hold("room again, once they were given up", later(16));
    t.pause(1000);
}
