//! Packets of a flow that the kernel gives to another worker than the rest of the flow: they go where the
//! flow is, also while its backend drains.

use std::fmt::Write as _;

use crate::enter::in_lab;
use crate::lab::{Lab, wait_until};
use crate::process::Signal;
use crate::reloading::{Reloading, vip};
use crate::site::{BACKENDS, Site, VIP, succeeded};
use crate::streams::{PORT, Streams, echo_streams};
use crate::traffic::{echo_datagrams, names_of_flows};

const RAW: &str = include_str!("tools/raw.py");
const STRAY: &str = include_str!("tools/stray.py");

const WEB: [&str; 5] = ["web", VIP, "\"any\"", "tcp", ""];
const DNS: [&str; 5] = ["dns", VIP, "53", "udp", ""];

/// The director's file; the backends named `draining` drain.
fn config(workers: usize, service: [&str; 5], draining: &[&str]) -> String {
    let backends = BACKENDS.map(|(name, address)| {
        let drains = draining.contains(&name);
        (address, if drains { "state = \"draining\"" } else { "" })
    });
    format!("[director]\nworkers = {workers}\n") + &vip(service, &backends)
}

/// Routers on many ways, each with its own address and so its own worker, tell of one stream.
#[test]
fn icmp_errors_reach_a_draining_backend() {
    in_lab(|lab| assert_errors_follow(lab, 2));
}

#[test]
fn icmp_errors_reach_a_draining_backend_by_four_workers() {
    in_lab(|lab| assert_errors_follow(lab, 4));
}

const ROUTERS: u8 = 40;

fn assert_errors_follow(lab: &Lab, workers: usize) {
    let site = Site::new(lab);
    let _services = site.backends.each_ref().map(echo_streams);
    let mut director = Reloading::start(lab, &site, &config(workers, WEB, &[]));
    let streams = Streams::open(&site.client, 12, 10_000);
    let (&port, name) = streams.backends.iter().next().expect("a stream");
    let name = name.clone();
    let of = BACKENDS.iter().position(|(backend, _)| *backend == name);
    director.accept(&config(workers, WEB, &[&name]));
    let heard = || {
        let backends = site.backends.iter();
        let count = backends.map(|backend| backend.node.counter("Icmp", "InDestUnreachs"));
        count.collect::<Vec<_>>()
    };
    let before = heard();
    let lines: String = (0..ROUTERS).fold(String::new(), |mut lines, router| {
        for byte in frag_needed([10, 0, 9, 11 + router], port) {
            write!(lines, "{byte:02x}").expect("a string takes everything");
        }
        lines + "\n"
    });
    let path = lab.file("errors", lines).display().to_string();
    let sending = site
        .router
        .spawn("errors", site.router.python(RAW, &[&path]));
    succeeded(sending.wait());
    wait_until("all errors at backends", || {
        let arrived = heard().iter().sum::<u64>() - before.iter().sum::<u64>();
        arrived >= u64::from(ROUTERS)
    });
    for (backend, (now, before)) in heard().iter().zip(&before).enumerate() {
        let expected = if Some(backend) == of {
            u64::from(ROUTERS)
        } else {
            0
        };
        assert_eq!(
            now - before,
            expected,
            "b{}, of a stream on {name}",
            backend + 1
        );
    }
    streams.finish();
    let totals = director.director.stop();
    assert_eq!(totals.dropped(), 0, "{totals:?}");
}

/// Fragmentation Needed (MTU 1300), about a segment from the VIP to the client's port. The kernel fills in
/// the length and checksum of the outer header (raw(7)).
fn frag_needed(router: [u8; 4], client_port: u16) -> Vec<u8> {
    let header = |protocol, length: u16, way: [[u8; 4]; 2]| {
        let [high, low] = length.to_be_bytes();
        let head = [0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0];
        let mut header = [&head[..], &way[0], &way[1]].concat();
        let checksum = internet_checksum(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    };
    let (vip, client) = ([10, 0, 0, 100], [10, 0, 9, 2]);
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(1300_u16.to_be_bytes());
    message.extend(header(6, 1500, [vip, client]));
    message.extend(PORT.to_be_bytes());
    message.extend(client_port.to_be_bytes());
    message.extend([0, 0, 0, 1]);
    let checksum = internet_checksum(&message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    [header(1, 0, [router, vip]), message].concat()
}

/// RFC 1071, of an even number of bytes.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2);
    let sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("two bytes")
}

/// Flows that begin with small datagrams and go on with large ones, while two backends drain.
#[test]
fn fragments_follow_their_flow_to_a_draining_backend() {
    in_lab(|lab| assert_fragments_follow(lab, 2));
}

#[test]
fn fragments_follow_their_flow_to_a_draining_backend_by_four_workers() {
    in_lab(|lab| assert_fragments_follow(lab, 4));
}

fn assert_fragments_follow(lab: &Lab, workers: usize) {
    let site = Site::new(lab);
    // So that no fragment is cut again.
    site.client
        .run("ip route replace default via 10.0.9.1 mtu 1480");
    let _echoes = echo_datagrams(&site);
    let mut director = Reloading::start(lab, &site, &config(workers, DNS, &[]));
    let before = names_of_flows(&site, 5);
    let on = |name: &str| before.values().filter(|backend| *backend == name).count();
    assert!(on("b1") > 5 && on("b2") > 5, "{before:?}");
    director.accept(&config(workers, DNS, &["b1", "b2"]));
    assert_eq!(names_of_flows(&site, 1600), before, "in fragments");
    assert_eq!(names_of_flows(&site, 5), before, "whole again");
    let read = || site.director.device_counter("tunlb0", "tx_packets");
    let (mut all, mut last) = (read(), 0);
    wait_until("the last packets", || {
        (last, all) = (all, read());
        last == all
    });
    let totals = director.director.stop();
    let known = totals.sent().packets + totals.answered + totals.dropped();
    assert_eq!((known, totals.dropped()), (all, 0), "{totals:?}");
}

/// A flood of packets that all are asked about, while the ring changes and while the director stops.
#[test]
fn a_flood_of_strays_is_accounted_for() {
    in_lab(|lab| {
        let site = Site::new(lab);
        // It stays when the director has ended, and its counters with it.
        site.director
            .run("ip tuntap add dev tunlb0 mode tun multi_queue");
        let mut director = Reloading::start(lab, &site, &config(4, WEB, &[]));
        director.accept(&config(4, WEB, &["b1"]));
        let command = site.director.python(STRAY, &["tunlb0"]);
        let flood = site.director.start("stray", command, "sending");
        for draining in [&["b1", "b2"][..], &["b2", "b3"], &["b3"], &[]] {
            let read = || site.director.device_counter("tunlb0", "tx_packets");
            let before = read();
            wait_until("packets of a flood", || read() > before + 5000);
            director.accept(&config(4, WEB, draining));
        }
        let totals = director.director.stop();
        flood.stop(Signal::Kill);
        let read = site.director.device_counter("tunlb0", "tx_packets");
        let known = totals.sent().packets + totals.answered + totals.dropped();
        assert_eq!(known, read, "packets not accounted for: {totals:?}");
        assert!(totals.sent().packets > 10_000, "{totals:?}");
    });
}
