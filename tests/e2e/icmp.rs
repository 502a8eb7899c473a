//! ICMP: pings, errors that belong to a backend, and paths that are smaller than the first link.

use crate::enter::in_lab;
use crate::families::DualStack;
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
        assert_eq!(site.director.mtu("tunlb0"), 1480);
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
