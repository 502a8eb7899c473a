//! Vectors of echo requests that come in fragments: put together, answered, and cut again.

use crate::forwarding::ipip;
use crate::table::Table;
use crate::wire::{Ip, checksum, client_hash, fragment_header, icmp, to};

pub(crate) fn add(table: &mut Table) {
    ipv4(table);
    out_of_order(table);
    ipv6(table);
    broken(table);
    not_answered(table);
}

/// An echo request of `length` bytes of ICMP, checksum included, for a VIP of either family.
fn request(vip: &str, length: usize) -> Vec<u8> {
    let kind = if vip.contains(':') { 128 } else { 8 };
    let body: Vec<_> = (0..length - 8).map(|at| at.to_le_bytes()[0]).collect();
    message(&to(vip), &icmp(kind, 0, [0, 7, 0, 1], &body))
}

/// ICMP with its checksum.
fn message(ip: &Ip, message: &[u8]) -> Vec<u8> {
    let protocol = if ip.source.is_ipv4() { 1 } else { 58 };
    let header = if ip.source.is_ipv4() { 20 } else { 40 };
    ip.carrying(protocol, message)[header..].to_vec()
}

/// One fragment of a datagram, as it is on the wire.
fn piece(ip: &Ip, identification: u8, offset: u16, more: bool, data: &[u8]) -> Vec<u8> {
    if ip.source.is_ipv4() {
        let mut packet = ip
            .clone()
            .piece(identification.into(), offset, more)
            .carrying(253, data); // not 1, of which `carrying` would set the checksum
        packet[9] = 1;
        packet[10..12].fill(0);
        let sum = checksum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    } else {
        let header = fragment_header(58, identification, offset, more);
        ip.carrying(44, &[&header[..], data].concat())
    }
}

/// The fragments of a request at these offsets.
fn pieces(vip: &str, identification: u8, whole: &[u8], offsets: &[usize]) -> Vec<Vec<u8>> {
    let ends = offsets.iter().skip(1).copied().chain([whole.len()]);
    let piece = |(&start, end): (&usize, usize)| {
        let (offset, more) = (u16::try_from(start).unwrap(), end < whole.len());
        piece(&to(vip), identification, offset, more, &whole[start..end])
    };
    offsets.iter().zip(ends).map(piece).collect()
}

/// What the director answers: the reply in fragments with `step` bytes of data each.
fn replies(vip: &str, identification: u8, whole: &[u8], step: usize) -> Vec<Vec<u8>> {
    let asked = to(vip);
    let answer = Ip {
        source: asked.destination,
        destination: asked.source,
        identification: 0,
        ttl: 64,
        class: 0,
        fragment: 0x4000,
        options: Vec::new(),
    };
    let mut reply = whole.to_vec();
    reply[0] = if vip.contains(':') { 129 } else { 0 };
    reply[2..4].fill(0);
    if reply.len() <= step {
        let protocol = if vip.contains(':') { 58 } else { 1 };
        return vec![answer.carrying(protocol, &reply)];
    }
    let reply = message(&answer, &reply);
    let [.., a, b, c, d] = client_hash(&asked).to_be_bytes();
    let chunks = reply.chunks(step).enumerate().map(|(number, data)| {
        let start = number * step;
        let (offset, more) = (
            u16::try_from(start).unwrap(),
            start + data.len() < reply.len(),
        );
        let mut packet = piece(&answer, 0, offset, more, data);
        if vip.contains(':') {
            packet[44..48].copy_from_slice(&[a, b, c, d ^ identification]);
        } else {
            packet[4..6].copy_from_slice(&[c, d ^ identification]);
            packet[10..12].fill(0);
            let sum = checksum(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        packet
    });
    chunks.collect()
}

const V4: &str = "203.0.113.10";
const V6: &str = "2001:db8::10";

fn ipv4(t: &mut Table) {
    let whole = request(V4, 3008);
    let [first, second, last] = &pieces(V4, 80, &whole, &[0, 1480, 2960])[..] else {
        panic!("three fragments");
    };
    t.hold("first fragment of an echo request", first.clone());
    t.hold("second fragment of an echo request", second.clone());
    t.reply_with(
        "last one: answered in fragments as long",
        last.clone(),
        replies(V4, 80, &whole, 1480),
    );
    t.hold(
        "a second request with the same identification",
        first.clone(),
    );
    t.hold("which is another datagram", second.clone());
    t.hold("a repeated fragment changes nothing", second.clone());
    t.reply_with(
        "and is answered, too",
        last.clone(),
        replies(V4, 80, &whole, 1480),
    );
    let small = request(V4, 100);
    let [first, last] = &pieces(V4, 81, &small, &[0, 48])[..] else {
        panic!("two fragments");
    };
    t.hold("a small request in fragments", first.clone());
    t.reply_with(
        "is answered by one packet",
        last.clone(),
        replies(V4, 81, &small, 556),
    );
    let longest = request(V4, 65_515);
    let offsets: Vec<_> = (0..longest.len()).step_by(1480).collect();
    let mut all = pieces(V4, 82, &longest, &offsets);
    let last = all.pop().unwrap();
    for piece in all {
        t.hold("a fragment of the longest request", piece);
    }
    t.reply_with("its last one", last, replies(V4, 82, &longest, 1480));
}

fn out_of_order(t: &mut Table) {
    let whole = request(V4, 3008);
    let [first, second, last] = &pieces(V4, 83, &whole, &[0, 1480, 2960])[..] else {
        panic!("three fragments");
    };
    t.hold("last fragment of an echo request first", last.clone());
    t.hold("its first one", first.clone());
    t.pause(999);
    t.reply_with(
        "the second one, 999 ms later",
        second.clone(),
        replies(V4, 83, &whole, 1480),
    );
    t.hold("the second fragment of a request", second.clone());
    t.hold("its last one", last.clone());
    t.reply_with(
        "first one last",
        first.clone(),
        replies(V4, 83, &whole, 1480),
    );
    t.hold("first fragment", first.clone());
    t.pause(1000);
    t.hold(
        "a second later the next is of a new datagram",
        second.clone(),
    );
    t.pause(1000);
}

fn ipv6(t: &mut Table) {
    let whole = request(V6, 3008);
    let [first, second, last] = &pieces(V6, 84, &whole, &[0, 1448, 2896])[..] else {
        panic!("three fragments");
    };
    t.hold("last fragment of an echo request of ICMPv6", last.clone());
    t.hold("second", second.clone());
    t.reply_with(
        "first: answered in packets that fit every link",
        first.clone(),
        replies(V6, 84, &whole, 1232),
    );
    // Destination options of 8 bytes behind the fragment header: 1440 bytes of ICMP in the first one.
    let mut headers = fragment_header(60, 85, 0, true);
    headers.extend([58, 0, 1, 4, 0, 0, 0, 0]);
    let first = to(V6).carrying(44, &[&headers[..], &whole[..1440]].concat());
    let last = piece(&to(V6), 85, 1448, false, &whole[1440..]);
    t.hold("first fragment with destination options", first);
    t.reply_with(
        "the rest, counted from the options on",
        last,
        replies(V6, 85, &whole, 1232),
    );
}

fn broken(t: &mut Table) {
    let whole = request(V4, 3008);
    let at = |identification, start: u16, end: usize, more| {
        let data = &whole[usize::from(start)..end];
        piece(&to(V4), identification, start, more, data)
    };
    t.hold("a first fragment", at(86, 0, 1480, true));
    t.drop(
        "one that overlaps it",
        at(86, 1472, 2952, true),
        "malformed",
    );
    t.drop(
        "and all others of it",
        at(86, 2960, 3008, false),
        "malformed",
    );
    t.hold("a last fragment", at(87, 1480, 1600, false));
    t.hold("another end", at(87, 2960, 3008, false));
    t.drop("their first one", at(87, 0, 1480, true), "malformed");
    t.hold("first fragment of one too long", at(88, 0, 1480, true));
    let beyond = piece(&to(V4), 88, 65_512, false, &[0; 8]);
    t.drop("an end beyond 65535 bytes", beyond, "malformed");
    let odd = at(89, 0, 1479, true);
    t.drop(
        "not of a multiple of 8 bytes, and not the last",
        odd,
        "malformed",
    );
    let half = piece(&to(V4), 90, 0, true, &[8; 4]);
    t.drop(
        "a first fragment with half an ICMP header",
        half,
        "malformed",
    );
    let long = request(V4, 130 * 176);
    let mut pieces = pieces(
        V4,
        91,
        &long,
        &std::array::from_fn::<_, 130, _>(|number| number * 176),
    );
    let [one_too_many, rest] = [pieces.remove(128), pieces.remove(128)];
    for piece in pieces {
        t.hold("one of 128 of a request", piece);
    }
    t.drop("one too many", one_too_many, "fragment_table_full");
    t.drop("and the rest of it", rest, "fragment_table_full");
}

fn not_answered(t: &mut Table) {
    let whole = request("203.0.113.11", 3008);
    for (what, piece) in ["echo = drop, in fragments", "the rest"].iter().zip(pieces(
        "203.0.113.11",
        92,
        &whole,
        &[0, 1480],
    )) {
        t.drop(what, piece, "unsupported_protocol");
    }
    let whole = request("203.0.113.12", 3008);
    let [first, last] = &pieces("203.0.113.12", 93, &whole, &[0, 1480])[..] else {
        panic!("two fragments");
    };
    let backend = || ipip("2001:db8:1::11");
    t.hold("echo = forward, last fragment first", last.clone());
    t.release(
        "echo = forward, first fragment",
        first.clone(),
        backend(),
        &[last],
    );
    t.forward("a repeated one", last.clone(), backend());
}
