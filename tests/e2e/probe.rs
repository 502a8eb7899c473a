//! `tunlb probe`, and what a director says of a backend: each fault alone has its own cause, and both tell the true one.

use std::path::Path;

use crate::enter::{in_lab, tunlb};
use crate::health::{ALL, FAST, ODD_SERVICE, probed, said, status, web};
use crate::lab::{Lab, Node, wait_until};
use crate::process::Signal;
use crate::reloading::{Reloading, vip};
use crate::site::{BACKENDS, CLIENT, Site, VIP};

const ODD_NAMES: &str = include_str!("tools/odd_names.py");

/// What `tunlb probe` says on a host; the exit code, and the answer.
fn probe_on(host: &Node, config: &Path, arguments: &str) -> (i32, String) {
    let (tunlb, config) = (tunlb().display().to_string(), config.display());
    let line = format!("LANG=C.UTF-8 {tunlb} probe -c {config} {arguments} 2>&1 || echo EXIT $?");
    let answer = host.sh(&line);
    let code = answer
        .rsplit_once("EXIT ")
        .map_or(0, |(_, code)| code.trim().parse().expect("a code"));
    (code, answer)
}

/// The same on the director.
fn probe(site: &Site, director: &Reloading, arguments: &str) -> (i32, String) {
    probe_on(&site.director, &director.path, arguments)
}

#[track_caller]
fn assert_words(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in:\n{text}");
    }
}

/// A site by hand with a director that finds all backends healthy.
fn healthy(lab: &Lab, health: &str) -> (Site, Reloading) {
    let site = Site::by_hand(lab);
    let director = Reloading::start(lab, &site, &web(&format!("{FAST}\n{health}")));
    probed(&site, 20);
    assert!(!director.log().contains("unhealthy"), "{}", director.log());
    (site, director)
}

/// The cause that status shows of a backend, once there is one: text and rows.
fn cause(site: &Site, backend: usize) -> String {
    let mut text = String::new();
    wait_until("a cause", || {
        let health = status(&site.director)["vips"][0]["backends"][backend]["health"].clone();
        text = health["cause"].to_string();
        !health["cause"].is_null()
    });
    text
}

/// A fault of one backend alone: status, log and `tunlb probe` name the same cause, and leave the others alone.
fn tells(lab: &Lab, health: &str, backend: usize, fault: impl FnOnce(&Site), words: &[&str]) {
    let (site, director) = healthy(lab, health);
    fault(&site);
    let address = BACKENDS[backend].1;
    said(&director, &format!("backend {address}: unhealthy: "));
    let told = cause(&site, backend);
    let (code, looked) = probe(&site, &director, &format!("--backend {address}"));
    assert_eq!(code, 1, "{looked}");
    for text in [&told, &looked] {
        assert_words(text, words);
    }
    for word in words {
        said(&director, word); // a moment after the status has it
    }
    let log = director.log();
    for (other, address) in BACKENDS
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != backend)
    {
        let line = format!("backend {}: ", address.1);
        assert!(!log.contains(&line), "{other}: {log}");
    }
    director.director.stop();
}

/// A fault of the first backend that its ICMP errors alone tell. The kernel limits them: the director heard one
/// with an earlier probe, `tunlb probe` may hear none.
fn tells_by_icmp(lab: &Lab, fault: impl FnOnce(&Site), words: &[&str]) {
    let (site, director) = healthy(lab, "");
    fault(&site);
    assert_words(&cause(&site, 0), words);
    said(&director, words[0]);
    director.director.stop();
}

/// Gives the director a second device, by which b3's answers come: b3 is behind the router.
fn second_device(lab: &Lab, site: &Site) {
    lab.cable((&site.director, "eth1"), (&site.router, "director2"));
    site.director.run("ip addr add 10.0.3.2/24 dev eth1");
    site.router.sh("ip addr add 10.0.3.1/24 dev director2
         ip route add 10.0.1.2/32 via 10.0.3.2 dev director2");
}

#[test]
fn a_look_from_beside_a_director_says_where_a_packet_dies() {
    in_lab(|lab| {
        let site = Site::by_hand(lab);
        let director = Reloading::start(lab, &site, &web(FAST));
        probed(&site, 10);
        let (code, answer) = probe(&site, &director, "");
        assert_eq!(code, 0, "{answer}");
        assert!(
            answer.contains("3 of 3 answer") && answer.contains("\u{2713} tunnel"),
            "{answer}"
        );
        assert!(!answer.contains('\u{2717}'), "{answer}");

        site.backends[0]
            .node
            .run(&format!("ip addr del {VIP}/32 dev lo"));
        let (code, answer) = probe(&site, &director, "--backend 10.0.1.11");
        assert_eq!(code, 1, "{answer}");
        for words in [
            "\u{2713} ping",
            "\u{2717} tunnel",
            "\u{2717} tcp",
            "B5",
            "tunlb doctor --role backend",
            "0 of 1 answer",
        ] {
            assert!(answer.contains(words), "no {words:?} in:\n{answer}");
        }
        let (code, answer) = probe(&site, &director, "--json");
        assert_eq!(code, 1, "{answer}");
        let (json, _) = answer.split_once("\nEXIT").expect("one document");
        let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
        let good: Vec<_> = json["backends"]
            .as_array()
            .expect("backends")
            .iter()
            .map(|found| &found["ok"])
            .collect();
        assert_eq!(good, [false, true, true], "{json}");

        let log = director.log();
        assert!(
            !log.contains("backend 10.0.1.12") && !log.contains("fault of this host"),
            "{log}"
        );
        assert!(!site.director.has_device("tlprobe0"));
        let routes = site.director.run(&format!("ip route show {VIP}"));
        assert!(!routes.contains("tlprobe0"), "{routes}");
        director.director.stop();
    });
}

#[test]
fn every_stage_is_told_in_json() {
    in_lab(|lab| {
        let (site, director) = healthy(lab, "");
        site.backends[0]
            .node
            .run(&format!("ip addr del {VIP}/32 dev lo"));
        let (code, answer) = probe(&site, &director, "--json");
        assert_eq!(code, 1, "{answer}");
        let (json, _) = answer.split_once("\nEXIT").expect("one document");
        let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
        assert_eq!((&json["schema"], &json["ok"]), (&1.into(), &false.into()));
        for found in json["backends"].as_array().expect("backends") {
            let stages = found["stages"].as_array().expect("stages");
            let names: Vec<_> = stages.iter().map(|stage| stage["stage"].as_str()).collect();
            let expected = [
                "route",
                "ping",
                "direct",
                "tunnel",
                "full size",
                "tcp",
                "way back",
            ];
            assert_eq!(names, expected.map(Some));
            for stage in stages {
                let keys: Vec<_> = stage.as_object().expect("an object").keys().collect();
                assert_eq!(keys.len(), 5, "{stage}");
                let is_blamed = !stage["codes"].as_array().expect("codes").is_empty();
                assert_eq!(is_blamed, stage["hint"].is_string(), "{stage}");
                assert!(!is_blamed || stage["ok"] == false, "{stage}");
            }
            let blamed = stages.iter().filter(|stage| stage["hint"].is_string());
            let is_bad = found["backend"] == BACKENDS[0].1;
            assert_eq!(blamed.count(), usize::from(is_bad), "{found}");
        }
        director.director.stop();
    });
}

#[test]
fn it_watches_until_it_is_stopped() {
    in_lab(|lab| {
        let (site, director) = healthy(lab, "");
        let mut command = site.director.command(tunlb());
        command.args(["probe", "-c"]).arg(&director.path);
        command.args(["--backend", BACKENDS[0].1, "--watch", "1"]);
        let watching = site.director.start("probe", command, "1 of 1 answer");
        site.backends[0].httpd.signal(Signal::Kill);
        wait_until("another look", || {
            watching.stdout().contains("0 of 1 answer")
        });
        let ended = watching.stop(Signal::Int);
        assert!(ended.status.success(), "{}", ended.status);
        assert_words(&ended.stdout, &["nothing listens on its port (B30)"]);
        assert!(!site.director.has_device("tlprobe0"));
        director.director.stop();
    });
}

#[test]
fn a_client_probes_where_no_director_is() {
    in_lab(|lab| {
        let (site, director) = healthy(lab, "");
        // The backends take the tunnel of the director alone.
        let config = format!("[director.encap]\nsource = \"10.0.1.2\"\n{}", web(""));
        let config = lab.file("client.toml", config);
        let (code, answer) = probe_on(&site.client, &config, &format!("--as-client {CLIENT}"));
        assert_eq!(code, 0, "{answer}");
        assert_words(
            &answer,
            &[
                "3 of 3 answer",
                "ping of the VIP from 10.0.9.2: ok",
                "SYN-ACK from 10.0.0.100 by eth0, TTL 63",
                "\u{2713} as client     10.0.0.100:80 from 10.0.9.2, by the way of any client: ok",
            ],
        );
        let (code, answer) = probe_on(&site.client, &config, "--as-client 192.0.2.1");
        assert_eq!(code, 2, "{answer}");
        assert_words(&answer, &["--as-client 192.0.2.1: no address of this host"]);
        let (code, answer) = probe(&site, &director, "--backend 192.0.2.1");
        assert_eq!(code, 2, "{answer}");
        assert_words(&answer, &["--backend 192.0.2.1: no VIP has that backend"]);
        director.director.stop();
        let (code, answer) = probe_on(&site.client, &config, &format!("--as-client {CLIENT}"));
        assert_eq!(code, 0, "the backends answer: {answer}");
        assert_words(
            &answer,
            &["\u{2717} as client     10.0.0.100:80 from 10.0.9.2, by the way of any client: "],
        );
    });
}

#[test]
fn an_answer_by_a_second_device_is_dropped_by_its_strict_rp_filter() {
    in_lab(|lab| {
        let site = Site::by_hand(lab);
        second_device(lab, &site);
        let director = Reloading::start(lab, &site, &web(FAST));
        probed(&site, 20);
        let (code, answer) = probe(&site, &director, "--backend 10.0.2.13");
        assert_eq!(code, 0, "{answer}");
        assert_words(
            &answer,
            &["way back      SYN-ACK from 10.0.0.100 by eth1, TTL 63"],
        );

        site.director.set_sysctl("ipv4/conf/eth1/rp_filter", 1);
        let words = "the answer came by eth1 and was dropped by rp_filter there";
        let told = cause(&site, 2);
        assert_words(&told, &[words, "[\"D36\"]"]);
        said(
            &director,
            &format!("backend 10.0.2.13: {words} (D36); run `tunlb doctor` on this host"),
        );
        let (code, answer) = probe(&site, &director, "--backend 10.0.2.13");
        assert_eq!(code, 1, "{answer}");
        assert_words(
            &answer,
            &[
                words,
                "\u{2717} way back      SYN-ACK from 10.0.0.100 by eth1, TTL 63: dropped by rp_filter there",
                "next: on this host: tunlb doctor --role director --vip 10.0.0.100:80/tcp",
            ],
        );
        let log = director.log();
        assert!(!log.contains("backend 10.0.1.1"), "{log}");
        director.director.stop();
    });
}

#[test]
fn the_directors_own_strict_rp_filter_by_all() {
    in_lab(|lab| {
        let (site, director) = healthy(lab, "");
        site.director.set_sysctl("ipv4/conf/all/rp_filter", 1);
        said(&director, "rather a fault of this host or its network");
        let words = "the answer came by eth0 and was dropped by rp_filter there";
        assert_words(&cause(&site, 0), &[words, "D36"]);
        let (code, answer) = probe(&site, &director, "");
        assert_eq!(code, 1, "{answer}");
        assert_eq!(answer.matches(words).count(), 3, "{answer}");
        director.director.stop();
    });
}

#[test]
fn a_firewall_of_the_director_drops_answers() {
    in_lab(|lab| {
        let (site, director) = healthy(lab, "");
        site.director.sh(&format!(
            "nft add table inet own
             nft add chain inet own input '{{ type filter hook input priority 0; }}'
             nft add rule inet own input ip saddr {VIP} drop"
        ));
        let words = "the answer came by eth0 and was dropped by a firewall there";
        assert_words(&cause(&site, 0), &[words, "D36"]);
        let (code, answer) = probe(&site, &director, "--backend 10.0.1.11");
        assert_eq!(code, 1, "{answer}");
        assert_words(&answer, &[words, "(D36)"]);
        director.director.stop();
    });
}

#[test]
fn a_masquerade_of_the_director_takes_its_probes_their_source() {
    in_lab(|lab| {
        let site = Site::by_hand(lab);
        // The kernel masquerades by the first address of any device where the one that is left by has none.
        site.director.sh("ip addr del 10.0.1.2/24 dev eth0; ip addr add 192.0.2.1/32 dev eth0; ip addr add 10.0.1.2/24 dev eth0
             ip route replace default via 10.0.1.1");
        let director = Reloading::start(lab, &site, &web(FAST));
        probed(&site, 20);
        site.director.sh("nft add table ip nat
             nft add chain ip nat postrouting '{ type nat hook postrouting priority srcnat; }'
             nft add rule ip nat postrouting masquerade");
        let told = cause(&site, 0);
        assert_words(
            &told,
            &[
                "a rule of this host rewrites the source",
                "MASQUERADE",
                "D36",
            ],
        );
        said(
            &director,
            "nothing is known of it: a rule of this host rewrites the source",
        );
        let log = director.log();
        assert!(
            !log.contains("unhealthy"),
            "a fault of this host counts against no backend: {log}"
        );
        let (code, answer) = probe(&site, &director, "--backend 10.0.1.11");
        assert_eq!(code, 1, "{answer}");
        assert_words(
            &answer,
            &[
                "a rule of this host rewrites the source",
                "\u{2717} way back",
                "D36",
            ],
        );
        director.director.stop();
    });
}

#[test]
fn a_rule_of_the_director_drops_its_probes() {
    in_lab(|lab| {
        let (site, director) = healthy(lab, "");
        site.director.sh(&format!(
            "nft add table inet own
             nft add chain inet own output '{{ type filter hook output priority 0; }}'
             nft add rule inet own output ip daddr {VIP} drop"
        ));
        let words =
            "this host sends nothing to 10.0.0.100: a firewall rule of its own drops what it sends";
        assert_words(&cause(&site, 0), &[words, "D36"]);
        let (code, answer) = probe(&site, &director, "--backend 10.0.1.11");
        assert_eq!(code, 1, "{answer}");
        assert_words(&answer, &[words, "the probe left by no device"]);
        director.director.stop();
    });
}

#[test]
fn a_backend_forwards_what_it_should_take() {
    in_lab(|lab| {
        let fault = |site: &Site| {
            let node = &site.backends[0].node;
            node.set_sysctl("ipv4/ip_forward", 1);
            node.run(&format!("ip addr del {VIP}/32 dev lo"));
        };
        tells(
            lab,
            "",
            0,
            fault,
            &["sends the packet on instead of taking it", "B6"],
        );
    });
}

#[test]
fn a_backend_forwards_and_has_no_route() {
    in_lab(|lab| {
        let fault = |site: &Site| {
            let node = &site.backends[0].node;
            node.set_sysctl("ipv4/ip_forward", 1);
            node.sh(&format!(
                "ip route del default || true
                 ip addr del {VIP}/32 dev lo"
            ));
        };
        let words = ["10.0.1.11 has no route for the packet", "B6"];
        tells_by_icmp(lab, fault, &words);
    });
}

#[test]
fn a_firewall_of_a_backend_rejects_what_leaves_the_tunnel() {
    in_lab(|lab| {
        let fault = |site: &Site| {
            site.backends[0].node.run(&format!(
                "iptables -A INPUT -d {VIP} -j REJECT --reject-with icmp-host-prohibited"
            ));
        };
        let words = [
            "a firewall there rejects the packet: ICMP error 3/10 from 10.0.0.100",
            "B19",
        ];
        tells_by_icmp(lab, fault, &words);
    });
}

#[test]
fn a_backend_answers_from_its_own_address() {
    in_lab(|lab| {
        let fault = |site: &Site| {
            site.backends[0].node.sh(&format!(
                "nft add table ip own
                 nft add chain ip own post '{{ type filter hook postrouting priority 0; }}'
                 nft add rule ip own post ip saddr {VIP} ip saddr set 10.0.1.11"
            ));
        };
        tells(
            lab,
            "",
            0,
            fault,
            &["answers from 10.0.1.11 instead of the VIP", "B22"],
        );
    });
}

#[test]
fn the_network_filters_protocol_4() {
    in_lab(|lab| {
        let fault = |site: &Site| {
            site.router.sh("nft add table ip own
                 nft add chain ip own forward '{ type filter hook forward priority 0; }'
                 nft add rule ip own forward ip daddr 10.0.2.13 ip protocol 4 drop");
        };
        let words = [
            "no answer through the tunnel; 10.0.2.13",
            "answers directly",
            "B19",
        ];
        tells(lab, "", 2, fault, &words);
    });
}

#[test]
fn nothing_listens() {
    in_lab(|lab| {
        let fault = |site: &Site| site.backends[1].httpd.signal(Signal::Kill);
        tells(lab, "", 1, fault, &["nothing listens on its port", "B30"]);
    });
}

#[test]
fn a_backend_is_gone() {
    in_lab(|lab| {
        let fault = |site: &Site| {
            site.router.run("ip link set b3 down");
        };
        tells(lab, "", 2, fault, &["10.0.2.13"]);
    });
}

#[test]
fn nothing_decapsulates_there() {
    in_lab(|lab| {
        let fault = |site: &Site| site.backends[0].decap.signal(Signal::Kill);
        tells(lab, "", 0, fault, &["does not decapsulate", "B1"]);
    });
}

/// Drops tunnel packets over 1400 bytes on the way to b3, in silence.
fn narrow(site: &Site) {
    site.router.sh("nft add table ip narrow
         nft add chain ip narrow forward '{ type filter hook forward priority 0; }'
         nft add rule ip narrow forward ip daddr 10.0.2.13 ip protocol 4 meta length gt 1400 drop");
}

#[test]
fn an_mtu_black_hole_is_found_and_measured() {
    in_lab(|lab| {
        let (site, director) = healthy(lab, "");
        narrow(&site);
        let (code, answer) = probe(&site, &director, "--backend 10.0.2.13");
        assert_eq!(code, 1, "{answer}");
        assert_words(
            &answer,
            &[
                "\u{2717} full size     ping of 1480 bytes: no_answer; 1380 bytes get through",
                "those of 1380 do, and nobody says so: an MTU black hole (B24)",
                "\u{2713} tcp",
                "next: on 10.0.2.13: tunlb doctor",
            ],
        );
        site.router.run("nft delete table ip narrow");
        site.router.run("ip link set b3 mtu 1400");
        let (code, answer) = probe(&site, &director, "--backend 10.0.2.13");
        assert_eq!(code, 1, "{answer}");
        assert_words(
            &answer,
            &[
                "1380 bytes get through; 10.0.1.1 says by ICMP: MTU 1400",
                "10.0.1.1 says by ICMP that its next link takes 1400",
            ],
        );
        let log = director.log();
        assert!(!log.contains("unhealthy"), "{log}");
        director.director.stop();
    });
}

#[test]
fn black_holes_are_looked_for_now_and_then() {
    in_lab(|lab| {
        let (site, director) = healthy(lab, "mtu_check = \"1s\"");
        let mtu = |backend: usize| {
            status(&site.director)["vips"][0]["backends"][backend]["health"]["mtu"].clone()
        };
        wait_until("a measurement", || {
            mtu(2)["fits"] == 1480 && mtu(0)["fits"] == 1480
        });
        narrow(&site);
        said(
            &director,
            "vip web: backend 10.0.2.13: packets of 1480 bytes do not get through the tunnel, those of 1380 do, and nobody says \
             so: an MTU black hole (B24); run `tunlb doctor` on the backend",
        );
        let found = mtu(2);
        assert_eq!(
            (&found["fits"], &found["cause"]["codes"][0]),
            (&1380.into(), &"B24".into())
        );
        assert_eq!(mtu(0)["cause"], serde_json::Value::Null);
        let tunlb = tunlb().display().to_string();
        let problems = site
            .director
            .sh(&format!("{tunlb} status --problems || true"));
        assert_words(
            &problems,
            &["vip web: backend 10.0.2.13: packets of 1480 bytes do not get through"],
        );
        let socket = site.director.sh("ls /run/tunlb/*.sock | head -1");
        let get = |path: &str| {
            let socket = socket.trim();
            let url = format!("http://director/{path}");
            site.director.run(&format!(
                "curl --silent --fail --unix-socket {socket} {url}"
            ))
        };
        let metrics = get("metrics");
        assert_words(
            &metrics,
            &[
                "tunlb_backend_tunnel_mtu_bytes{vip=\"web\",backend=\"10.0.2.13\"} 1380\n",
                "tunlb_backend_mtu_black_hole{vip=\"web\",backend=\"10.0.2.13\"} 1\n",
                "tunlb_backend_mtu_black_hole{vip=\"web\",backend=\"10.0.1.11\"} 0\n",
                "tunlb_backend_healthy{vip=\"web\",backend=\"10.0.2.13\"} 1\n",
            ],
        );
        assert_words(&get("v1/events"), &["\"B24\""]);
        site.router.run("nft delete table ip narrow");
        said(
            &director,
            "backend 10.0.2.13: packets of 1480 bytes get through the tunnel again",
        );
        assert!(!director.log().contains("unhealthy"), "{}", director.log());
        director.director.stop();
    });
}

/// Ports come round in seconds, and all backends of the VIP have one peer address: an answer meant for an earlier
/// probe must heal nobody.
#[test]
fn ports_that_come_round_mix_nobody_up() {
    in_lab(|lab| {
        let site = Site::by_hand(lab);
        site.director
            .sh("echo 40000 40255 >/proc/sys/net/ipv4/ip_local_port_range");
        let health = "interval = \"50ms\"\ntimeout = \"500ms\"\nrise = 1\nfall = 3";
        let director = Reloading::start(lab, &site, &web(health));
        probed(&site, 20);
        site.backends[0].httpd.signal(Signal::Kill);
        said(&director, "backend 10.0.1.11: unhealthy: refused");
        let log = director.log().len();
        probed(&site, 2 * 2 * 256);
        let log = director.log()[log..].to_owned();
        assert!(!log.contains("healthy: "), "{log}");
        director.director.stop();
    });
}

/// Answers of every hostile shape: a result in time, and no memory of them.
#[test]
fn hostile_answers_cost_little() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let manners = [
            ("endless", "8001"),
            ("trickle", "8002"),
            ("redirect", "8003"),
            ("records", "8004"),
        ];
        let _services = manners.map(|(manner, port)| {
            let node = &site.backends[0].node;
            let service = node.python(ODD_SERVICE, &[manner, VIP, port]);
            node.start(manner, service, "listening")
        });
        let node = &site.backends[0].node;
        let _names = node.start("names", node.python(ODD_NAMES, &[VIP, "8005"]), "listening");
        let b1 = &ALL[..1];
        let fast = "interval = \"100ms\"\ntimeout = \"500ms\"";
        let one = |name: &str, port: u16, health: &str| {
            let section = format!("[vip.health]\n{health}\n{fast}\n");
            vip([name, VIP, &port.to_string(), "tcp", &section], b1)
        };
        let config = one("endless", 8001, "kind = \"http\"\nbody = \"never\"")
            + &one("trickle", 8002, "kind = \"http\"")
            + &one("redirect", 8003, "kind = \"http\"\nstatus = 200")
            + &one("records", 8004, "kind = \"tls\"")
            + &one("circles", 8005, "kind = \"dns\"\nquery = \"example.net\"");
        let director = Reloading::start(lab, &site, &config);
        for (name, result) in [
            ("endless", "bad_body"),
            ("trickle", "no_answer"),
            ("redirect", "bad_status"),
            ("records", "bad_answer"),
            ("circles", "bad_answer"),
        ] {
            said(
                &director,
                &format!("vip {name}: backend 10.0.1.11: unhealthy: {result}"),
            );
        }
        let memory = || {
            let text = site
                .director
                .sh("cat /proc/[0-9]*/status | grep -A40 '^Name:.*tunlb' | grep VmHWM");
            let most = text
                .lines()
                .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
            most.max().expect("a size in KiB")
        };
        probed(&site, 100);
        let before = memory();
        probed(&site, 1000);
        let after = memory();
        assert!(after < before + 4096, "{before} KiB, then {after} KiB");
        director.director.stop();
    });
}
