//! ICMP: pings, errors that belong to a backend, and paths that are smaller than the first link.

use crate::enter::in_lab;
use crate::families::{COMBINATIONS, DualStack, configuration};
use crate::lab::wait_until;
use crate::process::Signal;
use crate::site::{Site, URL, VIP, succeeded};
use crate::totals::Totals;
use crate::traffic::{noise, upload};

#[test]
fn the_director_answers_pings() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = site.run_http();
        let text = site
            .client
            .run(&format!("ping -c 3 -i 0.2 -W 5 -s 1000 {VIP}"));
        assert!(text.contains("3 received"), "{text}");
        let totals = director.stop();
        assert_eq!(
            (totals.answered, totals.sent().packets),
            (3, 0),
            "{totals:?}"
        );
    });
}

/// A monitor that pings with more than a packet holds: up to the longest request that there is, on a way
/// back that is smaller than the one there.
#[test]
fn pings_in_fragments_are_answered() {
    in_lab(|lab| {
        let site = DualStack::new(lab);
        site.director
            .sh("ip route replace 10.0.9.0/24 dev eth1 mtu 1100");
        let director = site.run(lab);
        for vip in ["10.0.0.101", "2001:db8::103"] {
            for size in [2000, 3000, 65_487] {
                assert_pinged(&site, vip, size);
            }
        }
        let read = site.director.device_counter("tunlb0", "tx_packets");
        let totals = Totals::parse(&succeeded(director.stop(Signal::Term)).stdout);
        assert_known_drops(&totals);
        assert_eq!(totals.sent().packets, 0, "{totals:?}");
        assert_eq!(totals.answered + totals.dropped(), read, "{totals:?}");
    });
}

/// The first requests may be lost to path MTU discovery; ping itself says of every wrong byte.
fn assert_pinged(site: &DualStack, vip: &str, size: usize) {
    wait_until("a reply to a ping", || {
        let ping = format!("ping -c 1 -W 1 -s {size} {vip} || true");
        site.client.sh(&ping).contains(" 1 received")
    });
    let ping = format!("ping -c 3 -i 0.2 -W 5 -s {size} {vip}");
    let text = site.client.run(&ping);
    assert!(text.contains("3 received"), "{size} bytes: {text}");
    assert!(!text.contains("wrong data byte"), "{text}");
}

/// All fragments of a request reach one backend, which answers.
#[test]
fn pings_in_fragments_are_forwarded() {
    in_lab(|lab| {
        let site = DualStack::new(lab);
        let forward = configuration().replace("port = 80", "port = 80\necho = \"forward\"");
        let director = site.run_with(lab, &forward);
        for (_, vip, ..) in COMBINATIONS {
            for size in [56, 3000, 20_000] {
                assert_pinged(&site, vip, size);
            }
        }
        let totals = Totals::parse(&succeeded(director.stop(Signal::Term)).stdout);
        // Of IPv6 and IPv4 with DF: the size that fits the tunnel, not the request.
        assert!(
            totals.answered <= 3 * COMBINATIONS.len() as u64,
            "{totals:?}"
        );
        assert_known_drops(&totals);
    });
}

/// The kernel's own multicast reports; and the fragments of requests whose first ones were longer than the
/// tunnel carries.
fn assert_known_drops(totals: &Totals) {
    let count = |reason| totals.dropped.get(reason).copied().unwrap_or_default();
    let known = count("no_vip") + count("fragment_timeout") + count("too_big");
    assert_eq!(totals.dropped(), known, "{totals:?}");
}

/// The router answers a backend's full-sized packets with Fragmentation Needed, addressed to the
/// VIP. It has to reach the backend that sent them, or the download hangs.
#[test]
fn downloads_reach_a_client_behind_a_small_link() {
    in_lab(|lab| {
        let site = Site::new(lab);
        site.router.run("ip link set client mtu 1300");
        let director = site.run_http();
        let pattern: Vec<u8> = (0..=250).cycle().take(1_000_000).collect();
        let expected = lab.file("expected", pattern);
        for _ in 0..12 {
            site.client.sh(&format!(
                "curl --silent --show-error --fail --max-time 20 {URL}bytes/1000000 \
                 | cmp - {}",
                expected.display()
            ));
        }
        for backend in &site.backends {
            let route = backend.node.run("ip route get 10.0.9.2 from 10.0.0.100");
            assert!(
                route.contains("mtu 1300"),
                "{}: {route}",
                backend.node.name()
            );
        }
        assert_eq!(director.stop().dropped(), 0);
    });
}

/// The tunnel's own packets meet a smaller link behind the director: the router tells the director,
/// the director tells the client in terms of the packet inside.
#[test]
fn a_small_link_behind_the_director_is_learnt() {
    in_lab(|lab| {
        let site = Site::new(lab);
        site.router.run("ip link set b3 mtu 1400");
        let director = site.run(&["--vip", "10.0.0.100:80/tcp", "--backend", "10.0.2.13"]);
        assert_eq!(site.director.mtu("tunlb0"), 1500);
        let (expected, path) = noise(lab, 1_000_000);
        assert_eq!(upload(&site, &path), expected);
        let route = site.client.run(&format!("ip route get {VIP}"));
        assert!(route.contains("mtu 1380"), "{route}");
        let log = director.0.stderr();
        assert!(log.contains("10.0.2.13: path MTU 1400"), "{log}");
        let totals = director.stop();
        assert!(totals.answered > 0, "{totals:?}");
    });
}

/// A route whose MTU shrinks while the director runs: the director's own kernel complains.
#[test]
fn a_route_that_shrinks_is_learnt() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = site.run(&["--vip", "10.0.0.100:80/tcp", "--backend", "10.0.2.13"]);
        site.director
            .run("ip route add 10.0.2.13/32 via 10.0.1.1 mtu 1350");
        let (expected, path) = noise(lab, 300_000);
        assert_eq!(upload(&site, &path), expected);
        let route = site.client.run(&format!("ip route get {VIP}"));
        assert!(route.contains("mtu 1330"), "{route}");
        assert!(director.stop().answered > 0);
    });
}

/// A device whose MTU shrinks while the director runs: sends fail with EMSGSIZE.
#[test]
fn a_device_that_shrinks_is_noticed() {
    in_lab(|lab| {
        let site = DualStack::new(lab);
        let director = site.run(lab);
        site.director.run("ip link set eth0 mtu 1350");
        let (expected, path) = noise(lab, 300_000);
        for vip in ["10.0.0.101", "2001:db8::103"] {
            assert_eq!(site.upload(vip, &path), expected);
            // Less 20 bytes of the outer IPv4 header.
            assert_eq!(site.learnt_mtu(vip).as_deref(), Some("1330"), "{vip}");
        }
        let totals = Totals::parse(&succeeded(director.stop(Signal::Term)).stdout);
        assert!(totals.dropped["too_big"] > 0, "{totals:?}");
    });
}
