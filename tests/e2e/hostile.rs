//! Hostile packets at a director and at a decapsulator, while clients are served: none passes that
//! should not, each is counted by its reason, nothing falls over.

use std::collections::BTreeMap;

use crate::enter::in_lab;
use crate::lab::{Lab, Node};
use crate::process::Process;
use crate::site::{Site, succeeded};

const RAW: &str = include_str!("tools/raw.py");
const INJECT: &str = include_str!("tools/inject.py");

/// How often each hostile packet is sent.
const TIMES: usize = 20;

const TCP: u8 = 6;
const UDP: u8 = 17;
const IPIP: u8 = 4;

/// Source and destination of an IPv4 header.
type Way = [[u8; 4]; 2];

const CLIENT_TO_VIP: Way = [[10, 0, 9, 2], [10, 0, 0, 100]];
const DIRECTOR_TO_B1: Way = [[10, 0, 1, 2], [10, 0, 1, 11]];
const ROUTER_TO_B1: Way = [[10, 0, 1, 1], [10, 0, 1, 11]];

#[test]
fn a_director_counts_what_hostile_clients_send() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = site.run_http(&[]);
        let segment = tcp(80);
        let mut optioned = ipv4(CLIENT_TO_VIP, TCP, &[&[1, 1, 1, 0], &segment[..]].concat());
        optioned[0] = 0x46;
        let fragment = |word: u16| {
            let mut packet = ipv4(CLIENT_TO_VIP, TCP, &segment);
            packet[6..8].copy_from_slice(&word.to_be_bytes());
            packet
        };
        let to_vip = |protocol, payload: &[u8]| ipv4(CLIENT_TO_VIP, protocol, payload);
        let mut overlong = segment.clone();
        overlong[12] = 0xf0;
        let sending = send(
            lab,
            &site.client,
            &[
                ("malformed", to_vip(TCP, &segment[..10])),
                ("malformed", to_vip(TCP, &overlong)),
                ("malformed", to_vip(TCP, &[])),
                ("malformed", to_vip(UDP, &[0x0f, 0xa0, 0, 80, 0, 8, 0])),
                (
                    "malformed",
                    to_vip(UDP, &[0x0f, 0xa0, 0, 80, 0xff, 0xff, 0, 0]),
                ),
                ("unsupported_protocol", fragment(0x2000)),
                ("unsupported_protocol", fragment(0x0064)),
                (
                    "unsupported_protocol",
                    to_vip(1, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]),
                ),
                ("unsupported_protocol", to_vip(132, &segment)),
                ("unsupported_protocol", to_vip(253, &[])),
                ("no_vip", to_vip(TCP, &tcp(81))),
                ("no_vip", to_vip(UDP, &[0x0f, 0xa0, 0, 80, 0, 8, 0, 0])),
                ("forwarded", optioned),
            ],
        );
        site.get_in_parallel(100, 20_000);
        let mut expected = sending.all_sent();
        let forwarded = expected.remove("forwarded").expect("packets with options");
        let totals = director.stop();
        assert_eq!(totals.dropped, expected);
        // The kernel does not count what a raw socket sends.
        let requests = site.client.counter("Ip", "OutRequests");
        assert_eq!(totals.sent().packets, requests + forwarded, "{totals:?}");
    });
}

#[test]
fn a_director_survives_any_bytes() {
    in_lab(|lab| {
        let site = Site::new(lab);
        // It stays when the director has ended, and its counters with it.
        site.director.run("ip tuntap add dev tunlb0 mode tun");
        let director = site.run_http(&[]);
        let command = site.director.python(INJECT, &["1", "8000", "tunlb0"]);
        let injecting = site.director.spawn("inject", command);
        site.get_in_parallel(100, 20_000);
        succeeded(injecting.wait());
        site.get();
        let errors = director.0.stderr();
        let totals = director.stop();
        assert!(!errors.contains("panicked"), "{errors}");
        for reason in ["malformed", "unsupported_protocol", "no_vip"] {
            assert!(
                totals.dropped.get(reason).is_some_and(|count| *count > 50),
                "{totals:?}"
            );
        }
        let read = site.director.device_counter("tunlb0", "tx_packets");
        assert_eq!(
            totals.sent().packets + totals.dropped(),
            read,
            "unaccounted for: {totals:?}"
        );
    });
}

#[test]
fn a_decapsulator_lets_nothing_in_but_clients_packets_from_the_director() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = site.run_http(&[]);
        let inner = |way| ipv4(way, TCP, &tcp(80));
        let good = inner(CLIENT_TO_VIP);
        let tunnel = |inner: &[u8]| ipv4(DIRECTOR_TO_B1, IPIP, inner);
        let mut congested = tunnel(&good);
        congested[1] = 3; // CE around a packet that is not ECN-capable (RFC 6040 §4.2)
        let mut version_6 = good.clone();
        version_6[0] = 0x65;
        let mut short_header = good.clone();
        short_header[0] = 0x44;
        let from_director = send(
            lab,
            &site.director,
            &[
                ("not_vip", tunnel(&inner([[10, 0, 9, 2], [10, 0, 1, 11]]))),
                ("not_vip", tunnel(&inner([[10, 0, 9, 2], [127, 0, 0, 1]]))),
                ("not_vip", tunnel(&inner([[10, 0, 9, 2], [224, 0, 0, 1]]))),
                (
                    "local_source",
                    tunnel(&inner([[10, 0, 1, 11], [10, 0, 0, 100]])),
                ),
                (
                    "local_source",
                    tunnel(&inner([[10, 0, 0, 100], [10, 0, 0, 100]])),
                ),
                (
                    "local_source",
                    tunnel(&inner([[127, 0, 0, 1], [10, 0, 0, 100]])),
                ),
                ("malformed", tunnel(&[])),
                ("malformed", tunnel(&good[..10])),
                ("malformed", tunnel(&good[..30])),
                ("malformed", tunnel(&short_header)),
                ("unsupported_protocol", tunnel(&version_6)),
                ("ecn", congested),
            ],
        );
        let from_router = send(
            lab,
            &site.router,
            &[("not_director", ipv4(ROUTER_TO_B1, IPIP, &good))],
        );
        site.get_in_parallel(100, 20_000);
        let mut expected = from_director.all_sent();
        expected.extend(from_router.all_sent());
        let forwarded = director.stop().backends[&("10.0.0.100:80/tcp".into(), "10.0.1.11".into())];

        let decap0 = site.backends[0].node.device_counter("decap0", "rx_packets");
        let [mut totals, _, _] = site.stop_backends();
        totals.retain(|_, count| *count > 0);
        let received = totals.remove("received");
        assert_eq!(
            totals.remove("injected"),
            Some(forwarded.packets),
            "{totals:?}"
        );
        assert_eq!(
            decap0, forwarded.packets,
            "more came out of decap0 than the director sent"
        );
        assert_eq!(totals, expected);
        assert_eq!(
            received,
            Some(forwarded.packets + expected.values().sum::<u64>())
        );
    });
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

/// Sends each packet [`TIMES`] times from a host, in turn, past the director's or backend's good
/// traffic.
fn send(lab: &Lab, from: &Node, packets: &[(&str, Vec<u8>)]) -> Sending {
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

/// An ACK from port 4000 of no connection; its checksum is wrong, so whoever gets it drops it.
fn tcp(port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![
        0x0f, 0xa0, high, low, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 2, 0, 0, 0, 0, 0,
    ]
}
