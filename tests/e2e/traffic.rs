//! The main job: requests, large transfers and datagrams through the VIP, answers past the director.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::enter::in_lab;
use crate::lab::Lab;
use crate::process::Process;
use crate::site::{BACKENDS, CLIENT, DIRECTOR, Site, URL, VIP, WEB};
use crate::totals::Traffic;

pub(crate) const UDP_ECHO: &str = include_str!("tools/udp_echo.py");
pub(crate) const UDP_ASK: &str = include_str!("tools/udp_ask.py");

const MEGABYTE: usize = 1_000_000;

#[test]
fn two_hundred_parallel_connections() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = site.run_http();
        let answers = site.get_in_parallel(200, 20_000);
        for (name, _) in BACKENDS {
            let count = answers.values().filter(|backend| *backend == name).count();
            assert!(
                count > 20,
                "{name} answered {count} of 200 requests: {answers:?}"
            );
        }
        // The client talks to nobody else: all that it sent went through the director, once.
        let sent = Traffic {
            packets: site.sent_by_client(),
            bytes: site.client.counter("IpExt", "OutOctets"),
        };
        site.wait_until_read(sent.packets);
        let received = site.client.counter("Ip", "InReceives");
        assert!(
            received > 800,
            "{received} packets came back for 200 connections"
        );
        let at_director = site.director.counter("Ip", "InReceives");
        let totals = director.stop();
        assert_eq!((totals.sent(), totals.dropped()), (sent, 0), "{totals:?}");
        assert_eq!(
            at_director, sent.packets,
            "something but the client's packets reached it"
        );
        for totals in site.stop_backends() {
            assert_eq!(
                totals["received"], totals["injected"],
                "refused: {totals:?}"
            );
        }
    });
}

#[test]
fn two_hundred_parallel_requests_of_curl() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = site.run_http();
        let folder = lab.file("answers", "").with_file_name("");
        let output = site.client.sh(&format!(
            "cd {}
             curl --silent --show-error --fail --max-time 20 --header 'Connection: close' \
               --parallel --parallel-immediate --parallel-max 200 \
               --output 'answer-#1' --write-out '%{{http_code}} %{{num_connects}}\\n' '{URL}?[1-200]'
             cat answer-*",
            folder.display()
        ));
        let fresh = output.lines().filter(|line| *line == "200 1").count();
        assert_eq!(
            fresh, 200,
            "requests that were answered on a connection of their own:\n{output}"
        );
        for (name, _) in BACKENDS {
            assert!(
                output.lines().any(|line| line == name),
                "{name} never answered:\n{output}"
            );
        }
        let totals = director.stop();
        assert_eq!((totals.busy(WEB), totals.dropped()), (3, 0), "{totals:?}");
    });
}

#[test]
fn download_of_100_megabytes() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = site.run_http();
        let pattern: Vec<u8> = (0..=250).cycle().take(100 * MEGABYTE).collect();
        let expected = sha256(&pattern);
        let found = site.client.sh(&format!(
            "curl --silent --show-error --fail --max-time 90 {URL}bytes/100000000 | sha256sum"
        ));
        assert_eq!(found, expected);
        let through =
            ["rx_bytes", "tx_bytes"].map(|name| site.director.device_counter("eth0", name));
        let past = site.client.device_counter("eth0", "rx_bytes");
        assert!(past > 100_000_000, "the client received only {past} bytes");
        assert!(
            through.iter().all(|bytes| *bytes < 10_000_000),
            "acknowledgements alone go through the director, not {through:?} bytes"
        );
        let totals = director.stop();
        assert_eq!(totals.dropped(), 0, "{totals:?}");
    });
}

#[test]
fn upload_of_100_megabytes() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = site.run_http();
        let (expected, path) = noise(lab, 100 * MEGABYTE);
        assert_eq!(upload(&site, &path), expected);
        let sent = director.stop().sent();
        assert!(sent.bytes > 100_000_000, "{sent:?}");
    });
}

#[test]
fn datagrams_are_echoed_from_the_vip() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let _echoes = echo_datagrams(&site);
        let mut config = String::new();
        for (name, port, protocol) in [("web", 80, "tcp"), ("dns", 53, "udp")] {
            config += &format!("[[vip]]\nname = \"{name}\"\naddress = \"{VIP}\"\n");
            config += &format!("port = {port}\nprotocol = \"{protocol}\"\n");
            for (_, address) in BACKENDS {
                config += &format!("[[vip.backend]]\naddress = \"{address}\"\n");
            }
        }
        let path = lab.file("tunlb.toml", config);
        let director = site.run(&["-c", &path.display().to_string()]);
        let replies = site
            .client
            .run_python(UDP_ASK, &[VIP, "53", "100", "30000"]);
        for (reply, port) in replies.lines().zip(30_000..) {
            let words: Vec<_> = reply.split(' ').collect();
            let [local, source, "53", name, payload] = words[..] else {
                panic!("not a reply from port 53: {reply}");
            };
            assert_eq!([local, payload], [&port.to_string(); 2], "{reply}");
            assert_eq!(source, VIP, "{reply}");
            assert!(
                BACKENDS.iter().any(|(backend, _)| *backend == name),
                "{reply}"
            );
        }
        assert_eq!(replies.lines().count(), 100, "{replies}");
        assert!(["b1", "b2", "b3"].contains(&site.get().as_str()));
        site.wait_until_read(site.sent_by_client());
        let totals = director.stop();
        let dns = totals.backends.iter().filter(|((vip, _), _)| vip == "dns");
        // 20 bytes of IPv4, 8 of UDP, 5 digits.
        let datagrams = dns.fold(Traffic::default(), |sum, (_, traffic)| Traffic {
            packets: sum.packets + traffic.packets,
            bytes: sum.bytes + traffic.bytes,
        });
        assert_eq!(
            datagrams,
            Traffic {
                packets: 100,
                bytes: 3_300
            },
            "{totals:?}"
        );
        assert_eq!((totals.busy("dns"), totals.dropped()), (3, 0), "{totals:?}");
    });
}

#[test]
fn the_site_is_as_drawn() {
    in_lab(|lab| {
        let site = Site::new(lab);
        for (_, address) in BACKENDS {
            site.director.run(&format!("ping -c 1 -W 5 {address}"));
        }
        site.client.run(&format!("ping -c 1 -W 5 {DIRECTOR}"));
        site.director.run(&format!("ping -c 1 -W 5 {CLIENT}"));
        assert!(
            site.client
                .run("ethtool -k eth0")
                .contains("tx-checksumming: on")
        );
    });
}

/// A UDP echo service on the VIP's port 53 of every backend.
pub(crate) fn echo_datagrams(site: &Site) -> [Process; 3] {
    site.backends.each_ref().map(|backend| {
        let node = &backend.node;
        let command = node.python(UDP_ECHO, &[node.name(), VIP, "53"]);
        node.start(&format!("echo-{}", node.name()), command, "listening")
    })
}

/// The backend that answers the next datagram, of `length` bytes, of each of the same hundred flows, by
/// local port.
pub(crate) fn names_of_flows(site: &Site, length: usize) -> BTreeMap<u16, String> {
    let asked = [VIP, "53", "100", "20000", &length.to_string()];
    let replies = site.client.run_python(UDP_ASK, &asked);
    let reply = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        (words[0].parse().expect("a port"), words[3].to_owned())
    };
    let names: BTreeMap<_, _> = replies.lines().map(reply).collect();
    assert_eq!(names.len(), 100, "{replies}");
    names
}

/// A file of bytes without a pattern, and the SHA-256 of it as `sha256sum` prints it.
pub(crate) fn noise(lab: &Lab, length: usize) -> (String, std::path::PathBuf) {
    // Marsaglia's xorshift64 with one of his triples.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    (sha256(&bytes), lab.file("noise", bytes))
}

/// Uploads a file; returns the digest that the backend calculated, as `sha256sum` prints it.
pub(crate) fn upload(site: &Site, path: &Path) -> String {
    let answer = site.client.run(&format!(
        "curl --silent --show-error --fail --max-time 90 --upload-file {} {URL}",
        path.display()
    ));
    format!("{}  -\n", answer.trim())
}

/// What coreutils say: neither tunlb's code nor the server's.
fn sha256(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha256sum (coreutils)");
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(bytes)
        .expect("sha256sum to read");
    let output = child.wait_with_output().expect("sha256sum to end");
    String::from_utf8(output.stdout).expect("hex digits")
}
