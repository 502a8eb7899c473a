//! Probes through the tunnels: what they find of backends that die in various ways, and what they leave alone.

use std::time::{Duration, Instant};

use crate::enter::in_lab;
use crate::lab::{Lab, wait_until};
use crate::process::{Process, Signal};
use crate::reloading::{Reloading, vip};
use crate::site::{BACKENDS, HTTPD, Site, VIP};

const B1: &str = BACKENDS[0].1;
const B2: &str = BACKENDS[1].1;
const B3: &str = BACKENDS[2].1;
const ALL: [(&str, &str); 3] = [(B1, ""), (B2, ""), (B3, "")];

/// Fast enough for a test, slow enough for a busy machine.
const FAST: &str = "interval = \"200ms\"\ntimeout = \"400ms\"\nrise = 2\nfall = 3";

/// A VIP "web" on port 80 with a `[vip.health]` section.
fn web(health: &str) -> String {
    web_of(&ALL, health)
}

fn web_of(backends: &[(&str, &str)], health: &str) -> String {
    let section = format!("[vip.health]\n{health}\n");
    vip(["web", VIP, "80", "tcp", &section], backends)
}

/// Waits until the director has said so.
fn said(director: &Reloading, words: &str) {
    wait_until(words, || director.log().contains(words));
}

/// Waits until so many packets of probes have left.
fn probed(site: &Site, packets: u64) {
    let before = site.director.device_counter("tunlb0p", "tx_packets");
    wait_until("probes", || {
        site.director.device_counter("tunlb0p", "tx_packets") >= before + packets
    });
}

fn start_httpd(site: &Site, backend: usize) -> Process {
    let node = &site.backends[backend].node;
    node.start("httpd-again", node.python(HTTPD, &[node.name(), VIP]), "listening")
}

/// The backends that answer 60 connections.
fn answering(site: &Site, first_port: u16) -> Vec<String> {
    let mut names: Vec<_> = site.get_in_parallel(60, first_port).into_values().collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[test]
fn a_dead_service_takes_no_flows_until_it_answers_again() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = Reloading::start(lab, &site, &web(FAST));
        probed(&site, 30);
        assert!(!director.log().contains("unhealthy"), "{}", director.log());
        let read = site.director.device_counter("tunlb0", "tx_packets");
        assert_eq!(read, 0, "no packet of a probe came to a worker");
        assert_eq!(answering(&site, 20_000), ["b1", "b2", "b3"]);

        site.backends[0].httpd.signal(Signal::Kill);
        said(&director, "vip web: backend 10.0.1.11: unhealthy: refused (3 in a row)");
        assert_eq!(answering(&site, 21_000), ["b2", "b3"]);

        let _httpd = start_httpd(&site, 0);
        said(&director, "vip web: backend 10.0.1.11: healthy: ok (2 in a row)");
        assert_eq!(answering(&site, 22_000), ["b1", "b2", "b3"]);
        let sent = site.sent_by_client();
        site.wait_until_read(sent);
        let totals = director.director.stop();
        assert_eq!(totals.sent().packets, sent, "only clients' packets count");
        assert_eq!(totals.dropped(), 0, "{totals:?}");
    });
}
