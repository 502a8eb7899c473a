//! SIGHUP: what a changed file does to flows, routes and the device, and what an invalid one does not.

use std::fs;

use crate::enter::{in_lab, tunlb};
use crate::lab::Lab;
use crate::leftovers::{assert_same, dump};
use crate::process::Signal;
use crate::reloading::{Reloading, vip};
use crate::site::{BACKENDS, DIRECTOR, Site, VIP, succeeded};
use crate::streams::{Streams, assert_no_resets, echo_streams};
use crate::totals::of_decap;
use crate::traffic::{echo_datagrams, names_of_flows};

const B1: &str = BACKENDS[0].1;
const B2: &str = BACKENDS[1].1;
const B3: &str = BACKENDS[2].1;
const ALL: [(&str, &str); 3] = [(B1, ""), (B2, ""), (B3, "")];

const WEB: [&str; 5] = ["web", VIP, "\"any\"", "tcp", ""];
const DNS: [&str; 5] = ["dns", VIP, "53", "udp", ""];
const OTHER: [&str; 5] = ["other", "10.0.0.101", "80", "tcp", ""];

#[test]
fn a_disabled_backends_flows_move_at_once() {
    in_lab(|lab| assert_flows_move(lab, &[(B1, ""), (B2, "state = \"disabled\""), (B3, "")]));
}

#[test]
fn a_removed_backends_flows_move() {
    in_lab(|lab| assert_flows_move(lab, &[(B1, ""), (B3, "")]));
}

/// The very next datagram of each flow of b2 is answered by another backend; no other flow moves, and
/// none moves back when b2 returns.
fn assert_flows_move(lab: &Lab, without_b2: &[(&str, &str)]) {
    let site = Site::new(lab);
    let _echoes = echo_datagrams(&site);
    let mut director = Reloading::start(lab, &site, &vip(DNS, &ALL));
    let before = names_of_flows(&site, 5);
    director.accept(&vip(DNS, without_b2));
    let without = names_of_flows(&site, 5);
    director.accept(&vip(DNS, &ALL));
    let after = names_of_flows(&site, 5);

    let mut moved = 0;
    for (port, name) in &before {
        if name == "b2" {
            assert_ne!(without[port], "b2", "port {port}");
            moved += 1;
        } else {
            assert_eq!(without[port], *name, "port {port}");
        }
    }
    assert!(moved > 10, "b2 had {moved} flows: {before:?}");
    assert_eq!(after, without, "flows moved when b2 came back");
    let totals = director.director.stop();
    assert_eq!(totals.dropped(), 0, "{totals:?}");
}

#[test]
fn routes_follow_the_vips() {
    in_lab(|lab| {
        let site = Site::new(lab);
        site.router.run("ip route add 10.0.0.101/32 via 10.0.1.2");
        let alone = vip(WEB, &ALL);
        let mut director = Reloading::start(lab, &site, &alone);
        let route = || site.director.run("ip route show 10.0.0.101");
        let before = dump(&site.director);
        director.accept(&(alone.clone() + &vip(OTHER, &ALL)));
        assert!(route().contains("dev tunlb0"), "{}", route());
        site.client.run("ping -c 1 -W 5 10.0.0.101");
        // The last VIP of an address takes the route along, the first of two does not.
        let two = vip(DNS, &ALL) + &vip(OTHER, &ALL);
        director.accept(&two);
        site.client.run(&format!("ping -c 1 -W 5 {VIP}"));
        director.accept(&alone);
        assert_same(&before, &dump(&site.director), "a VIP that came and went");
        assert!(["b1", "b2", "b3"].contains(&site.get().as_str()));
        director.director.stop();
        let routes = site.director.run("ip route show table all");
        assert!(!routes.contains("10.0.0.10"), "{routes}");
    });
}

#[test]
fn a_changed_encapsulation_keeps_flows() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let _services = site.backends.each_ref().map(echo_streams);
        let gue = site.backends.each_ref().map(|backend| {
            let mut command = backend.node.command(tunlb());
            command.args(["decap", "--gue", "6080", "--tun", "decap1", "--setup"]);
            command.args(["--vip", VIP, "--director", &format!("{DIRECTOR}/32")]);
            let name = format!("gue-{}", backend.node.name());
            backend.node.start(&name, command, "decapsulating")
        });
        let ipip = vip(WEB, &ALL);
        let mut director = Reloading::start(lab, &site, &ipip);
        let streams = Streams::open(&site.client, 60, 10_000);
        director.accept(&format!("[director.encap]\nkind = \"gue\"\n{ipip}"));
        streams.wait_for_round();
        // More than the client's new path MTU, so some of it has to be told.
        streams.wait_for_round();
        director.accept(&ipip);
        streams.wait_for_round();
        streams.finish();
        assert_no_resets(site.nodes());
        for decap in gue {
            let totals = of_decap(&succeeded(decap.stop(Signal::Term)).stdout);
            assert!(totals["injected"] > 10, "{totals:?}");
        }
        let totals = director.director.stop();
        assert_eq!(totals.dropped(), 0, "{totals:?}");
    });
}

#[test]
fn a_reload_says_what_it_changed() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let mut director = Reloading::start(lab, &site, &vip(WEB, &[(B1, ""), (B2, "weight = 2")]));
        let answer = director.accept(&vip(WEB, &[(B1, ""), (B2, "weight = 3")]));
        let weight = "reloaded: vip web: backend 10.0.1.12: weight 2 -> 3; tunlb0: forwarding web";
        assert!(answer.contains(weight), "{answer}");
        assert!(answer.contains(" to 2 backends, 1 worker, MTU"), "{answer}");
        let answer = director.accept(&vip(WEB, &[(B1, ""), (B2, "weight = 3")]));
        assert!(answer.contains("reloaded: nothing changed; "), "{answer}");
        let added = vip(WEB, &[(B1, "")]) + &vip(OTHER, &[(B3, "")]);
        let answer = director.accept(&added);
        let both = "reloaded: vip web: backend 10.0.1.12: removed; vip other: added; ";
        assert!(answer.contains(both), "{answer}");
        director.director.stop();
    });
}

#[test]
fn an_invalid_reload_changes_nothing() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let _echoes = echo_datagrams(&site);
        site.director.sh("ip addr add 10.0.0.102/32 dev lo
             ip route add 10.0.2.99/32 via 10.0.1.1 mtu 80");
        let good = vip(DNS, &ALL);
        let mut director = Reloading::start(lab, &site, &good);
        let flows = names_of_flows(&site, 5);
        let before = dump(&site.director);
        for (what, config, words) in invalid(&good) {
            let answer = director.refuse(&config);
            for word in words {
                assert!(answer.contains(word), "{what}: no \"{word}\" in: {answer}");
            }
            assert_same(&before, &dump(&site.director), what);
        }
        let path = director.path.display().to_string();
        fs::remove_file(&director.path).expect("the director's file");
        for error in ["No such file", "Is a directory"] {
            let answer = director.refuse_as_is();
            for word in [error, path.as_str()] {
                assert!(answer.contains(word), "no \"{word}\" in: {answer}");
            }
            fs::create_dir_all(&director.path).expect("a folder");
        }
        assert_same(&before, &dump(&site.director), "no file, or a folder");
        assert_eq!(names_of_flows(&site, 5), flows, "flows moved");
        let totals = director.director.stop();
        assert_eq!(totals.dropped(), 0, "{totals:?}");
    });
}

/// What it is, the file, and words that the refusal must have: the place, what is wrong, the mend.
fn invalid(good: &str) -> Vec<(&'static str, String, Vec<&'static str>)> {
    let backend = |address: &str| format!("{good}[[vip.backend]]\naddress = \"{address}\"\n");
    vec![
        (
            "not TOML",
            format!("[director\n{good}"),
            vec!["tunlb.toml:1:", "not TOML"],
        ),
        (
            "an empty file",
            String::new(),
            vec!["tunlb.toml", "at least one [[vip]]"],
        ),
        (
            "an unknown key, and a wrong value",
            format!("[director]\nworkrs = 2\nring_size = 65536\n{good}"),
            vec![
                "tunlb.toml:2: director.workrs",
                "workers",
                "tunlb.toml:3: director.ring_size = 65536",
                "a prime",
            ],
        ),
        (
            "a backend that is there already",
            backend(B2),
            vec!["tunlb.toml:17: vip[0].backend[3].address", B2],
        ),
        (
            "a backend whose path is too narrow",
            backend("10.0.2.99"),
            vec![VIP, "60 bytes", "raise the MTU"],
        ),
        (
            "another device",
            format!("[director]\ntun = \"tunlb1\"\n{good}"),
            vec!["director.tun", "tunlb0", "tunlb1", "restart"],
        ),
        (
            "another number of workers",
            format!("[director]\nworkers = 2\n{good}"),
            vec!["director.workers", "restart"],
        ),
        (
            "a VIP that is a local address",
            good.to_owned() + &vip(["local", "10.0.0.102", "80", "tcp", ""], &ALL),
            vec!["10.0.0.102", "ip addr del 10.0.0.102/32 dev lo"],
        ),
    ]
}
