//! Hostile packets at a director and at a decapsulator, while clients are served: none passes that
//! should not, each is counted by its reason, nothing falls over.

use std::collections::{BTreeMap, BTreeSet};

use crate::enter::in_lab;
use crate::lab::{Lab, Node, wait_until};
use crate::process::Process;
use crate::reloading::vip;
use crate::site::{BACKENDS, Site, WEB, succeeded};

const RAW: &str = include_str!("tools/raw.py");
const INJECT: &str = include_str!("tools/inject.py");

/// How often each hostile packet is sent.
const TIMES: usize = 20;

const MALFORMED: &str = "malformed";
const UNSUPPORTED: &str = "unsupported_protocol";
/// No reasons to drop a packet.
const FORWARDED: &str = "forwarded";
const ANSWERED: &str = "answered";

const ICMP: u8 = 1;
const IPIP: u8 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
/// For experiments and testing (RFC 3692).
const EXPERIMENT: u8 = 253;

/// Source and destination of an IPv4 header.
type Way = [[u8; 4]; 2];

const CLIENT_TO_VIP: Way = [[10, 0, 9, 2], [10, 0, 0, 100]];
const DIRECTOR_TO_B1: Way = [[10, 0, 1, 2], [10, 0, 1, 11]];
const ROUTER_TO_B1: Way = [[10, 0, 1, 1], [10, 0, 1, 11]];

#[test]
fn a_director_counts_what_hostile_clients_send() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = site.run_http();
        resolve_neighbours(&site);
        let sending = send(lab, &site.client, &for_the_director());
        site.get_in_parallel(100, 20_000);
        let mut expected = sending.all_sent();
        // The kernel does not count what a raw socket sends.
        let sent = site.sent_by_client() + expected.values().sum::<u64>();
        site.wait_until_read(sent);
        let totals = director.stop();
        expected.remove(FORWARDED);
        let answered = expected.remove(ANSWERED).unwrap_or_default();
        assert_eq!(totals.answered, answered);
        assert_eq!(totals.dropped, expected);
        let known = totals.sent().packets + totals.answered + totals.dropped();
        assert_eq!(known, sent, "{totals:?}");
    });
}

#[test]
fn a_director_survives_any_bytes_by_every_egress() {
    in_lab(|lab| {
        let site = Site::new(lab);
        // It stays when the director has ended, and its counters with it.
        site.director.run("ip tuntap add dev tunlb0 mode tun");
        let mut read_before = 0;
        for (seed, egress) in (1..).zip(["auto", "raw", "packet", "xsk"]) {
            let read = survive(lab, &site, egress, seed);
            assert!(read - read_before > PER_EGRESS / 2, "{egress}: {read}");
            read_before = read;
        }
    });
}

/// Hostile packets by each egress, 450,000 in all.
const PER_EGRESS: u64 = 112_500;

/// Injects hostile packets beside clients' transfers; returns how many were read out of `tunlb0` since it was made.
fn survive(lab: &Lab, site: &Site, egress: &str, seed: u32) -> u64 {
    let before = site.director.device_counter("tunlb0", "tx_packets");
    let file = lab.file(
        &format!("{egress}.toml"),
        format!(
            "[director]\negress = \"{egress}\"\n{}",
            vip(
                ["web", "10.0.0.100", "80", "tcp", ""],
                &BACKENDS.map(|(_, address)| (address, ""))
            )
        ),
    );
    let director = site.run(&["-c", &file.display().to_string()]);
    let arguments = [&seed.to_string(), &PER_EGRESS.to_string(), "tunlb0"];
    let injecting = site.director.spawn(
        &format!("inject-{egress}"),
        site.director.python(INJECT, &arguments),
    );
    site.get_in_parallel(100, 20_000);
    succeeded(injecting.wait());
    site.get();
    let errors = director.0.stderr();
    let totals = director.stop();
    assert!(!errors.contains("panicked"), "{egress}: {errors}");
    for reason in ["malformed", "unsupported_protocol", "no_vip"] {
        let count = totals.dropped.get(reason).copied().unwrap_or_default();
        assert!(count > 50, "{egress}: {reason} {count}: {totals:?}");
    }
    let read = site.director.device_counter("tunlb0", "tx_packets");
    let known = totals.sent().packets + totals.answered + totals.dropped();
    assert_eq!(
        known,
        read - before,
        "{egress}: packets not accounted for: {totals:?}"
    );
    read
}

#[test]
fn a_decapsulator_lets_in_nothing_but_clients_packets_from_the_director() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = site.run_http();
        resolve_neighbours(&site);
        let from_director = send(lab, &site.director, &for_the_decapsulator());
        let from_router = send(lab, &site.router, &[stray_tunnel()]);
        site.get_in_parallel(100, 20_000);
        let mut expected = from_director.all_sent();
        expected.extend(from_router.all_sent());
        site.wait_until_read(site.sent_by_client());
        let forwarded = director.stop().backends[&(WEB.into(), "10.0.1.11".into())].packets;
        expected.insert(
            "received".into(),
            forwarded + expected.values().sum::<u64>(),
        );
        expected.insert("injected".into(), forwarded);

        let b1 = &site.backends[0];
        let mut totals = BTreeMap::new();
        wait_until("b1 to have read all tunnel packets", || {
            totals = b1.totals_so_far();
            totals.get("received") >= expected.get("received")
        });
        totals.retain(|_, count| *count > 0);
        assert_eq!(totals, expected);
        let out = b1.node.device_counter("decap0", "rx_packets");
        assert_eq!(
            out, forwarded,
            "more came out of decap0 than the director sent"
        );
    });
}

/// Else a burst could outgrow the queue of packets that wait for an answer to ARP.
fn resolve_neighbours(site: &Site) {
    let answers = site.get_in_parallel(30, 10_000);
    let names: BTreeSet<_> = answers.values().collect();
    assert_eq!(names.len(), 3, "{answers:?}");
}

/// What becomes of a packet, and the packet.
type Case = (&'static str, Vec<u8>);

/// From the client to the VIP.
fn for_the_director() -> Vec<Case> {
    let packet = |protocol, payload: &[u8]| ipv4(CLIENT_TO_VIP, protocol, payload);
    let segment = tcp(80);
    let mut overlong = segment.clone();
    overlong[12] = 0xf0; // a header of 60 bytes, of which 20 are there
    let no_operations = [&[1, 1, 1, 0], &segment[..]].concat();
    vec![
        (MALFORMED, packet(TCP, &segment[..10])),
        (MALFORMED, packet(TCP, &overlong)),
        (MALFORMED, packet(TCP, &[])),
        (MALFORMED, packet(UDP, &[0x0f, 0xa0, 0, 80, 0, 8, 0])),
        (MALFORMED, packet(UDP, &[0x0f, 0xa0, 0, 80, 0, 7, 0, 0])),
        (
            MALFORMED,
            packet(UDP, &[0x0f, 0xa0, 0, 80, 0xff, 0xff, 0, 0]),
        ),
        (FORWARDED, with(packet(TCP, &segment), 6, 0x20)), // first fragment
        (FORWARDED, with(packet(TCP, &segment), 7, 100)),  // last fragment of the same datagram
        (ANSWERED, packet(ICMP, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0])),
        (UNSUPPORTED, packet(ICMP, &[13, 0, 0xf2, 0xff, 0, 0, 0, 0])), // timestamp request
        ("icmp_no_flow", packet(ICMP, &quoting([10, 0, 0, 99]))),      // of a host that is no VIP
        (UNSUPPORTED, packet(SCTP, &segment)),
        (UNSUPPORTED, packet(EXPERIMENT, &[])),
        ("no_vip", packet(TCP, &tcp(81))),
        ("no_vip", packet(UDP, &[0x0f, 0xa0, 0, 80, 0, 8, 0, 0])),
        (FORWARDED, with(packet(TCP, &no_operations), 0, 0x46)), // IP options
    ]
}

/// From the director to b1.
fn for_the_decapsulator() -> Vec<Case> {
    let tunnel = |inner: &[u8]| ipv4(DIRECTOR_TO_B1, IPIP, inner);
    let between = |way| tunnel(&ipv4(way, TCP, &tcp(80)));
    let good = ipv4(CLIENT_TO_VIP, TCP, &tcp(80));
    vec![
        ("not_vip", between([[10, 0, 9, 2], [10, 0, 1, 11]])),
        ("not_vip", between([[10, 0, 9, 2], [127, 0, 0, 1]])),
        ("not_vip", between([[10, 0, 9, 2], [224, 0, 0, 1]])),
        ("local_source", between([[10, 0, 1, 11], [10, 0, 0, 100]])),
        ("local_source", between([[10, 0, 0, 100], [10, 0, 0, 100]])),
        ("local_source", between([[127, 0, 0, 1], [10, 0, 0, 100]])),
        (MALFORMED, tunnel(&[])),
        (MALFORMED, tunnel(&good[..10])),
        (MALFORMED, tunnel(&good[..30])),
        (MALFORMED, tunnel(&with(good.clone(), 0, 0x44))), // a header of 16 bytes
        (MALFORMED, tunnel(&with(good.clone(), 0, 0x65))), // version 6 in protocol 4
        ("ecn", with(tunnel(&good), 1, 3)), // CE outside, not ECN-capable inside (RFC 6040 §4.2)
    ]
}

/// What a client could send, in a tunnel from a host that is no director.
fn stray_tunnel() -> Case {
    let inner = ipv4(CLIENT_TO_VIP, TCP, &tcp(80));
    ("not_director", ipv4(ROUTER_TO_B1, IPIP, &inner))
}

/// Packets on their way out of a host.
struct Sending {
    process: Process,
    /// How many of each kind.
    kinds: BTreeMap<String, u64>,
}

impl Sending {
    /// Waits until all packets are sent; returns how many of each kind.
    fn all_sent(self) -> BTreeMap<String, u64> {
        succeeded(self.process.wait());
        self.kinds
    }
}

/// Sends each packet [`TIMES`] times from a host, in turn.
fn send(lab: &Lab, from: &Node, packets: &[Case]) -> Sending {
    let mut lines = String::new();
    let mut kinds = BTreeMap::new();
    for (kind, packet) in packets.iter().cycle().take(packets.len() * TIMES) {
        lines.extend(packet.iter().map(|byte| format!("{byte:02x}")));
        lines.push('\n');
        *kinds.entry((*kind).to_owned()).or_default() += 1;
    }
    let name = format!("hostile-{}", from.name());
    let path = lab.file(&name, lines).display().to_string();
    Sending {
        process: from.spawn(&name, from.python(RAW, &[&path])),
        kinds,
    }
}

/// An IPv4 packet without a header checksum, which the sending kernel fills in, if it is the outer one.
fn ipv4([source, destination]: Way, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len())
        .expect("a small packet")
        .to_be_bytes();
    let head = [
        0x45, 0, length[0], length[1], 0, 1, 0, 0, 64, protocol, 0, 0,
    ];
    [&head[..], &source, &destination, payload].concat()
}

/// A time exceeded about a TCP segment that `sender` sent to the client.
fn quoting(sender: [u8; 4]) -> Vec<u8> {
    let segment = ipv4([sender, [10, 0, 9, 2]], TCP, &tcp(4000)[..8]);
    [&[11, 0, 0, 0, 0, 0, 0, 0], &segment[..]].concat()
}

fn with(mut packet: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    packet[at] = byte;
    packet
}

/// An ACK from port 4000 of no connection; its checksum is wrong, so whoever gets it drops it.
fn tcp(port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![
        0x0f, 0xa0, high, low, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 2, 0, 0, 0, 0, 0,
    ]
}
