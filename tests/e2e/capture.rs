//! `tunlb run --capture`: what became of each packet, read back by programs that are not tunlb's.

use std::path::Path;

use crate::enter::in_lab;
use crate::lab::{Node, wait_until};
use crate::process::{Ended, Signal};
use crate::site::{Director, Site, URL, VIP, WEB, succeeded};
use crate::totals::Totals;

const PCAPNG: &str = include_str!("tools/pcapng.py");
const INJECT: &str = include_str!("tools/inject.py");

/// The only backend of these tests.
const B1: &str = "10.0.1.11";

/// Sends one datagram to a port that no VIP has.
const DATAGRAM: &str = "import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'?', ('10.0.0.100', 5353))";

#[test]
fn a_capture_says_what_became_of_each_packet() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let path = lab.file("capture.pcapng", "");
        let mut director = run(&site, &path, &[]);
        assert_eq!(site.get(), "b1");
        site.client.run_python(DATAGRAM, &[]);
        site.client.run(&format!("ping -c 1 -W 5 {VIP}"));
        site.client.run(&format!("ping -c 1 -W 5 -s 2000 {VIP}"));
        site.director.run(&format!("ip route add unreachable {B1}"));
        director.0.wait_for("0 of 1 backends by packet socket");
        site.client
            .sh(&format!("curl --silent --max-time 1 {URL} || true"));
        site.wait_until_read(site.sent_by_client());
        wait_until_readable(&site.director, &path);
        let totals = stop(director).0;

        let packets = read(&site.director, &path);
        let count = |direction: &str, comment: &str| {
            let same = |packet: &&Captured| {
                packet.direction == direction && packet.comment.starts_with(comment)
            };
            packets.iter().filter(same).count() as u64
        };
        let forward = format!("forward vip={WEB} backend={B1}");
        let refused = format!("drop reason=send_failed vip={WEB} backend={B1}: No route to host");
        let (sent, failed) = (totals.sent().packets, totals.dropped["send_failed"]);
        assert_eq!(count("in", &forward), sent, "{packets:?}");
        assert_eq!(count("in", &refused), failed, "{packets:?}");
        assert_eq!(count("in", "drop reason=no_vip"), 1);
        // The second request in two fragments, the first of them cut again for the MTU of 1480.
        assert_eq!((count("in", "hold"), count("in", "reply")), (2, 2));
        assert_eq!(count("out", "answer to packet "), 1 + 2);
        assert_eq!(count("out", "outer of packet "), sent + failed);
        packets
            .iter()
            .filter(|packet| packet.comment.starts_with("outer"))
            .for_each(|outer| assert_outer(&packets, outer));
    });
}

#[test]
fn a_filter_selects() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let path = lab.file("capture.pcapng", "");
        let filter = format!("vip={WEB},drop=no_vip,drop=malformed");
        let director = run(&site, &path, &["--capture-filter", &filter]);
        site.get();
        site.client.run_python(DATAGRAM, &[]);
        site.wait_until_read(site.sent_by_client());
        stop(director);
        let packets = read(&site.director, &path);
        assert_eq!(packets.len(), 1, "{packets:?}");
        assert_eq!(packets[0].comment, "drop reason=no_vip");
        assert!(packets[0].hex.starts_with("4500001d"), "{packets:?}");
    });
}

#[test]
fn a_flood_fills_a_capture_and_no_more() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let path = lab.file("capture.pcapng", "");
        let director = run(&site, &path, &["--capture-size", "20000"]);
        assert_goes_on(&site, director, "the capture file is full");
        let size = std::fs::metadata(&path).expect("a capture").len();
        assert!((19_000..=20_000).contains(&size), "{size} bytes");
        assert!(read(&site.director, &path).len() > 50);
        wait_until_readable(&site.director, &path);
    });
}

#[test]
fn a_full_disk_ends_a_capture_and_nothing_else() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let path = lab.file("disk", "").with_file_name("small");
        let folder = path.display();
        lab.here().sh(&format!(
            "mkdir {folder}; mount -t tmpfs -o size=128k tmpfs {folder}"
        ));
        let path = path.join("capture.pcapng");
        let director = run(&site, &path, &[]);
        assert_goes_on(&site, director, "No space left on device");
        assert!(read(&site.director, &path).len() > 50);
    });
}

/// A director for HTTP to b1 that captures into `path`.
fn run(site: &Site, path: &Path, more: &[&str]) -> Director {
    let path = path.display().to_string();
    let arguments = ["--vip", WEB, "--backend", B1, "--capture", &path];
    site.run(&[&arguments, more].concat())
}

/// Floods the director until its capture ends; it must say so once and lose nothing but that.
fn assert_goes_on(site: &Site, director: Director, why: &str) {
    assert_eq!(site.get(), "b1");
    let inject = site.director.python(INJECT, &["1", "8000", "tunlb0"]);
    succeeded(site.director.spawn("inject", inject).wait());
    wait_until("the end of the capture", || {
        director.0.stderr().contains("packets captured")
    });
    assert_eq!(site.get(), "b1");
    let (totals, stderr) = stop(director);
    assert!(totals.dropped["malformed"] > 50, "{totals:?}");
    assert_eq!(stderr.matches(why).count(), 1, "{stderr}");
}

fn stop(director: Director) -> (Totals, String) {
    let Ended { stdout, stderr, .. } = succeeded(director.0.stop(Signal::Term));
    (Totals::parse(&stdout), stderr)
}

/// An outer packet is the packet that its comment names behind an IPv4 header to the backend.
fn assert_outer(packets: &[Captured], outer: &Captured) {
    let words = outer.comment.strip_prefix("outer of packet ");
    let (number, verdict) = words
        .and_then(|words| words.split_once(": "))
        .unwrap_or_else(|| panic!("{outer:?}"));
    let number: usize = number.parse().expect("a number");
    let inner = &packets[number - 1]; // analysers count from 1
    assert_eq!(
        (inner.direction.as_str(), inner.comment.as_str()),
        ("in", verdict)
    );
    assert_eq!(outer.hex[40..], inner.hex);
    assert_eq!(outer.hex[32..40], *"0a00010b", "not to {B1}");
}

/// A packet of a capture, read independently of tunlb.
#[derive(Debug)]
struct Captured {
    direction: String,
    hex: String,
    comment: String,
}

fn read(node: &Node, path: &Path) -> Vec<Captured> {
    let text = node.run_python(PCAPNG, &[&path.display().to_string()]);
    let packet = |line: &str| {
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        let mut word = || words.next().expect("three words");
        Captured {
            direction: word(),
            hex: word(),
            comment: word(),
        }
    };
    text.lines().map(packet).collect()
}

/// tcpdump reads the capture as often as it is asked, also while it grows.
fn wait_until_readable(node: &Node, path: &Path) {
    wait_until("packets that tcpdump reads", || {
        let text = node.sh(&format!("tcpdump -n -r {}", path.display()));
        text.contains(VIP)
    });
}
