//! Probes through the tunnels: what they find of backends that die in various ways, and what they leave alone.

use std::time::{Duration, Instant};

use crate::enter::in_lab;
use crate::families::{COMBINATIONS, DualStack, configuration};
use crate::flood::{Flood, SYNS, attacker};
use crate::lab::{Lab, Node, wait_until};
use crate::process::{Process, Signal};
use crate::reloading::{Reloading, vip};
use crate::site::{BACKENDS, HTTPD, Site, VIP};
use crate::traffic::{echo_datagrams, names_of_flows};

pub(crate) const ODD_SERVICE: &str = include_str!("tools/odd_service.py");

const B1: &str = BACKENDS[0].1;
const B2: &str = BACKENDS[1].1;
const B3: &str = BACKENDS[2].1;
pub(crate) const ALL: [(&str, &str); 3] = [(B1, ""), (B2, ""), (B3, "")];

/// Fast enough for a test, slow enough for a busy machine.
pub(crate) const FAST: &str = "interval = \"200ms\"\ntimeout = \"400ms\"\nrise = 2\nfall = 3";

/// A VIP "web" on port 80 with a `[vip.health]` section.
pub(crate) fn web(health: &str) -> String {
    web_of(&ALL, health)
}

fn web_of(backends: &[(&str, &str)], health: &str) -> String {
    let section = format!("[vip.health]\n{health}\n");
    vip(["web", VIP, "80", "tcp", &section], backends)
}

/// Waits until the director has said so.
pub(crate) fn said(director: &Reloading, words: &str) {
    wait_until(words, || director.log().contains(words));
}

/// Waits until so many packets of probes have left.
pub(crate) fn probed(site: &Site, packets: u64) {
    let before = site.director.device_counter("tunlb0p", "tx_packets");
    wait_until("probes", || {
        site.director.device_counter("tunlb0p", "tx_packets") >= before + packets
    });
}

fn start_httpd(site: &Site, backend: usize) -> Process {
    let node = &site.backends[backend].node;
    node.start(
        "httpd-again",
        node.python(HTTPD, &[node.name(), VIP]),
        "listening",
    )
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
        said(
            &director,
            "vip web: backend 10.0.1.11: unhealthy: refused (3 in a row)",
        );
        assert_eq!(answering(&site, 21_000), ["b2", "b3"]);

        let _httpd = start_httpd(&site, 0);
        said(
            &director,
            "vip web: backend 10.0.1.11: healthy: ok (2 in a row)",
        );
        assert_eq!(answering(&site, 22_000), ["b1", "b2", "b3"]);
        let sent = site.sent_by_client();
        site.wait_until_read(sent);
        let mut totals = director.director.stop();
        // The kernel's answer to a SYN-ACK that comes when the stop has called its probe off.
        totals.dropped.remove("probe_reset");
        assert_eq!(totals.sent().packets, sent, "only clients' packets count");
        assert_eq!(totals.dropped(), 0, "{totals:?}");
    });
}

/// A TCP service that behaves oddly, on port 81 of a backend.
pub(crate) fn odd_service(site: &Site, backend: usize, manner: &str) -> Process {
    let node = &site.backends[backend].node;
    let command = node.python(ODD_SERVICE, &[manner, VIP, "81"]);
    node.start(&format!("odd-{}", node.name()), command, "listening")
}

/// Breaks b1 of a site whose settings are the test's own; returns the result and the cause that are told of it.
fn told_of(lab: &Lab, health: &str, break_b1: impl FnOnce(&Site)) -> [String; 2] {
    let site = Site::by_hand(lab);
    let director = Reloading::start(lab, &site, &web(&format!("{FAST}\n{health}")));
    probed(&site, 20);
    assert!(!director.log().contains("unhealthy"), "{}", director.log());
    break_b1(&site);
    let line = |start: &str| {
        let start = format!("vip web: backend {B1}: {start}");
        let log = director.log();
        let lines = log.lines().filter_map(|line| line.split_once(&start));
        lines.map(|(_, rest)| rest.to_owned()).collect::<Vec<_>>()
    };
    said(&director, &format!("backend {B1}: unhealthy: "));
    wait_until("a cause", || line("").len() > 1);
    let result = line("unhealthy: ").remove(0);
    let cause = line("")
        .into_iter()
        .find(|text| !text.starts_with("unhealthy: "));
    let log = director.log();
    assert!(
        !log.contains(&format!("backend {B2}")) && !log.contains(&format!("backend {B3}")),
        "{log}"
    );
    director.director.stop();
    [result, cause.expect("a cause")]
}

#[track_caller]
fn assert_told([result, cause]: [String; 2], expected: &str, words: &[&str]) {
    assert!(result.starts_with(expected), "{result}");
    for word in words {
        assert!(cause.contains(word), "no {word:?} in: {cause}");
    }
}

#[test]
fn the_vip_is_missing_on_the_backend() {
    in_lab(|lab| {
        let told = told_of(lab, "", |site| {
            site.backends[0]
                .node
                .run(&format!("ip addr del {VIP}/32 dev lo"));
        });
        assert_told(
            told,
            "no_answer",
            &["10.0.1.11 answers directly", "B5", "tunlb doctor"],
        );
    });
}

#[test]
fn the_backend_has_a_strict_rp_filter() {
    in_lab(|lab| {
        let told = told_of(lab, "", |site| {
            let node = &site.backends[0].node;
            node.set_sysctl("ipv4/conf/decap0/rp_filter", 1);
        });
        assert_told(told, "no_answer", &["10.0.1.11 answers directly", "B10"]);
    });
}

#[test]
fn nothing_decapsulates() {
    in_lab(|lab| {
        let told = told_of(lab, "", |site| site.backends[0].decap.signal(Signal::Kill));
        assert_told(told, "no_decapsulator", &["does not decapsulate", "B1"]);
    });
}

#[test]
fn an_http_service_answers_with_an_error() {
    in_lab(|lab| {
        let health = "kind = \"http\"\nport = 81\npath = \"/\"";
        let site = Site::new(lab);
        let _odd = odd_service(&site, 0, "error");
        let _garbage = odd_service(&site, 1, "garbage");
        let b3 = &site.backends[2].node;
        let _httpd = b3.start(
            "httpd-81",
            b3.python(HTTPD, &["b3", VIP, "81"]),
            "listening",
        );
        let director = Reloading::start(lab, &site, &web(&format!("{FAST}\n{health}")));
        said(
            &director,
            "backend 10.0.1.11: unhealthy: bad_status (1 in a row)",
        );
        said(
            &director,
            "backend 10.0.1.12: unhealthy: bad_answer (1 in a row)",
        );
        said(
            &director,
            "answers through the tunnel, but not as it should",
        );
        probed(&site, 20);
        assert!(
            !director.log().contains("backend 10.0.2.13"),
            "{}",
            director.log()
        );
        director.director.stop();
    });
}

#[test]
fn a_server_that_is_stopped_takes_connections_and_does_not_answer() {
    in_lab(|lab| {
        let told = told_of(lab, "kind = \"http\"", |site| {
            site.backends[0].httpd.signal_named("STOP");
        });
        assert_told(
            told,
            "no_answer",
            &["the VIP takes the connection", "it hangs", "B32"],
        );
    });
}

#[test]
fn an_accept_queue_is_full() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let _full = odd_service(&site, 0, "full");
        let node = &site.backends[0].node;
        let fill = "import socket, time\n\
                    held = [socket.socket() for _ in range(4)]\n\
                    for s in held: s.setblocking(False)\n\
                    for s in held: s.connect_ex(('10.0.0.100', 81))\n\
                    print('filled', flush=True)\n\
                    time.sleep(600)";
        let _held = node.start("fill", node.python(fill, &[]), "filled");
        let others = [1, 2].map(|backend| odd_service(&site, backend, "accept"));
        let director = Reloading::start(lab, &site, &web(&format!("{FAST}\nport = 81")));
        said(
            &director,
            "backend 10.0.1.11: unhealthy: no_answer (1 in a row)",
        );
        said(&director, "its accept queue is full");
        director.director.stop();
        for other in others {
            assert!(!other.stdout().contains("accepted"), "a probe was accepted");
        }
    });
}

#[test]
fn a_tcp_probe_reaches_no_accept_and_leaves_nothing_behind() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let services = [0, 1, 2].map(|backend| odd_service(&site, backend, "accept"));
        let director = Reloading::start(lab, &site, &web(&format!("{FAST}\nport = 81")));
        probed(&site, 60);
        assert!(!director.log().contains("unhealthy"), "{}", director.log());
        director.director.stop();
        for (backend, service) in site.backends.iter().zip(services) {
            assert!(
                !service.stdout().contains("accepted"),
                "{}",
                backend.node.name()
            );
            wait_until("no half-open connection", || {
                let half = backend
                    .node
                    .run("ss --no-header --numeric --tcp state syn-recv");
                half.is_empty()
            });
            let rest = backend
                .node
                .run("ss --no-header --numeric --tcp state connected sport = :81");
            assert_eq!(rest, "", "{}", backend.node.name());
        }
        let own = site
            .director
            .run("ss --no-header --numeric --tcp state connected dport = :81");
        assert_eq!(own, "", "the director keeps nothing either");
    });
}

#[test]
fn probes_that_a_stop_or_a_reload_calls_off_leave_nothing_behind() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let b1 = &site.backends[0].node;
        site.director
            .run("iptables -A INPUT -p tcp --tcp-flags SYN,ACK SYN,ACK -j DROP");
        let half_open = || b1.run("ss --no-header --numeric --tcp state syn-recv");
        let patient = "interval = \"20s\"\ntimeout = \"19s\"\ninterval_edge = \"200ms\"";
        let mut director = Reloading::start(lab, &site, &web(patient));
        wait_until("a half-open connection", || !half_open().is_empty());
        director.accept(&web("kind = \"external\""));
        wait_until("no half-open connection after a reload", || {
            half_open().is_empty()
        });
        director.accept(&web(patient));
        wait_until("another half-open connection", || !half_open().is_empty());
        director.director.stop();
        wait_until("no half-open connection after the stop", || {
            half_open().is_empty()
        });
    });
}

#[test]
fn a_backend_fails_in_one_vip_alone() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let section = format!("[vip.health]\n{FAST}\n");
        let other = vip(["other", VIP, "81", "tcp", &section], &ALL);
        let _services = [1, 2].map(|backend| odd_service(&site, backend, "accept"));
        let director = Reloading::start(lab, &site, &(web(FAST) + &other));
        said(
            &director,
            "vip other: backend 10.0.1.11: unhealthy: refused (1 in a row)",
        );
        probed(&site, 30);
        assert!(
            !director.log().contains("vip web: backend"),
            "{}",
            director.log()
        );
        assert_eq!(answering(&site, 20_000), ["b1", "b2", "b3"]);
        director.director.stop();
    });
}

#[test]
fn a_dead_backend_leaves_in_time() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let health = "interval = \"500ms\"\ntimeout = \"500ms\"\nfall = 3\nrise = 2";
        let director = Reloading::start(lab, &site, &web(health));
        probed(&site, 20);
        // fall x interval + timeout, and the 100 ms of a report.
        let bound = Duration::from_millis(3 * 500 + 500 + 100);
        let b1 = &site.backends[0].node;
        let health = || status(&site.director)["vips"][0]["backends"][0]["health"].clone();
        // A busy machine holds a look up for a while, but not each of them.
        let mut tries = (0..10).map(|_| {
            let begin = Instant::now();
            b1.run("ip link set eth0 down");
            wait_until("unhealthy", || health()["status"] == "unhealthy");
            let left = begin.elapsed();
            b1.run("ip link set eth0 up");
            wait_until("healthy", || health()["status"] == "healthy");
            left
        });
        let allowed = bound + Duration::from_millis(900);
        assert!(tries.any(|left| left < allowed), "never within {allowed:?}");
        director.director.stop();
    });
}

/// The same flows of b2 before and after its health page dies.
fn flows_after_death(lab: &Lab, on_unhealthy: &str) -> (usize, usize) {
    let site = Site::new(lab);
    let _echoes = echo_datagrams(&site);
    let section = format!(
        "[vip.health]\nkind = \"tcp\"\nport = 80\n{FAST}\non_unhealthy = \"{on_unhealthy}\"\n"
    );
    let director = Reloading::start(lab, &site, &vip(["dns", VIP, "53", "udp", &section], &ALL));
    let before = names_of_flows(&site, 5);
    site.backends[1].httpd.signal(Signal::Kill);
    said(&director, "vip dns: backend 10.0.1.12: unhealthy: refused");
    let after = names_of_flows(&site, 5);
    let of_b2 = before.iter().filter(|(_, name)| *name == "b2");
    let stayed = of_b2
        .clone()
        .filter(|(port, _)| after[port] == "b2")
        .count();
    let others = before.iter().filter(|(_, name)| *name != "b2");
    others.for_each(|(port, name)| assert_eq!(after[port], *name, "port {port}"));
    director.director.stop();
    (of_b2.count(), stayed)
}

#[test]
fn known_flows_stay_where_the_operator_wants_it() {
    in_lab(|lab| {
        let (all, stayed) = flows_after_death(lab, "keep");
        assert!(all > 10 && stayed == all, "{stayed} of {all}");
    });
}

#[test]
fn known_flows_move_where_it_is_proved_that_they_get_no_answer() {
    in_lab(|lab| {
        let (all, stayed) = flows_after_death(lab, "auto");
        assert!(all > 10 && stayed == 0, "{stayed} of {all}");
    });
}

#[test]
fn every_kind_finds_its_service() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let _echoes = echo_datagrams(&site);
        let kinds = [
            ("ping", "kind = \"ping\"\nsize = 1400"),
            (
                "udp",
                "kind = \"udp\"\nport = 53\npayload = \"6869\"\nexpect = \"62XX206869\"",
            ),
            ("dns", "kind = \"dns\"\nport = 53\nquery = \"example.net\""),
            ("http", "kind = \"http\"\nport = 80\nbody = \"b\""),
            (
                "tls",
                "kind = \"tls\"\nport = 81\nhost = \"www.example.net\"",
            ),
        ];
        let _hello = [0, 2].map(|backend| odd_service(&site, backend, "hello"));
        let _alert = odd_service(&site, 1, "alert");
        let config: String = kinds
            .iter()
            .zip(5001..)
            .map(|((name, health), port)| {
                let section = format!("[vip.health]\n{health}\n{FAST}\n");
                vip([name, VIP, &port.to_string(), "tcp", &section], &ALL)
            })
            .collect();
        let director = Reloading::start(lab, &site, &config);
        said(
            &director,
            "vip tls: backend 10.0.1.12: unhealthy: tls_failed",
        );
        // The echo service answers "b1 ", then the query: no DNS.
        said(
            &director,
            "vip dns: backend 10.0.1.11: unhealthy: bad_answer",
        );
        probed(&site, 100);
        let log = director.log();
        for name in [
            "ping",
            "udp",
            "http",
            "tls: backend 10.0.1.11",
            "tls: backend 10.0.2.13",
        ] {
            assert!(!log.contains(&format!("vip {name}")), "{name}: {log}");
        }
        director.director.stop();
    });
}

#[test]
fn probes_hold_up_no_drain() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let mut director = Reloading::start(lab, &site, &web(FAST));
        probed(&site, 10);
        director.accept(&web_of(
            &[(B1, "state = \"draining\""), (B2, ""), (B3, "")],
            FAST,
        ));
        said(&director, "backend 10.0.1.11 is drained");
        director.director.stop();
    });
}

#[test]
fn everything_at_once_is_this_hosts_fault() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = Reloading::start(
            lab,
            &site,
            &web(&format!("{FAST}\non_unhealthy = \"move\"")),
        );
        probed(&site, 20);
        site.director.set_sysctl("ipv4/conf/eth0/rp_filter", 1);
        said(&director, "rather a fault of this host or its network");
        assert_eq!(answering(&site, 20_000), ["b1", "b2", "b3"]);
        site.director.set_sysctl("ipv4/conf/eth0/rp_filter", 0);
        said(&director, "health_checks: no problem any more");
        director.director.stop();
    });
}

#[test]
fn nothing_of_the_probes_is_left_behind() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let routes = || site.director.run(&format!("ip route show {VIP}"));
        let mut director = Reloading::start(lab, &site, &web(FAST));
        probed(&site, 10);
        let both = routes();
        assert!(
            both.contains("dev tunlb0 ") && both.contains("dev tunlb0p "),
            "{both}"
        );
        director.accept(&web("kind = \"none\""));
        assert!(!routes().contains("tunlb0p"), "{}", routes());
        director.accept(&web(FAST));
        probed(&site, 10);
        director.director.0.stop(Signal::Kill);
        wait_until("the devices to go", || {
            !site.director.has_device("tunlb0p") && !site.director.has_device("tunlb0")
        });
        site.director
            .run(&format!("{} undo", crate::enter::tunlb().display()));
        assert_eq!(routes(), "");
    });
}

#[test]
fn a_syn_flood_marks_no_healthy_backend_down() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let attacker = attacker(lab, &site);
        let section = "[vip.health]\nport = 80\ninterval = \"200ms\"\ntimeout = \"1s\"\n";
        let director = Reloading::start(
            lab,
            &site,
            &vip(["web", VIP, "\"any\"", "tcp", section], &ALL),
        );
        probed(&site, 10);
        let flood = Flood::start(&attacker);
        site.wait_until_read(SYNS);
        probed(&site, 30);
        assert!(flood.stop() >= SYNS);
        let log = director.log();
        assert!(
            !log.contains("unhealthy") && !log.contains("fault of this host"),
            "{log}"
        );
        director.director.stop();
    });
}

/// `tunlb status --json` of a director.
pub(crate) fn status(director: &Node) -> serde_json::Value {
    let tunlb = crate::enter::tunlb().display().to_string();
    serde_json::from_str(&director.run(&format!("{tunlb} status --json"))).expect("JSON")
}

/// Every inner family in every outer one, in IPIP and in GUE.
#[test]
fn probes_of_every_family_and_kind_of_tunnel() {
    in_lab(|lab| {
        let site = DualStack::new(lab);
        let section = format!("[vip.health]\n{FAST}\n[[vip.backend]]");
        let config = configuration().replace("[[vip.backend]]", &section);
        let director = site.run_with(lab, &config);
        let unhealthy = || -> Vec<String> {
            let status = status(&site.director);
            let vips = status["vips"].as_array().expect("VIPs").iter();
            let found = vips.map(|vip| (vip["name"].clone(), vip["backends"][0]["health"].clone()));
            let bad = found.filter(|(_, health)| health["status"] != "healthy");
            bad.map(|(name, health)| format!("{name}: {health}"))
                .collect()
        };
        let mut left = Vec::new();
        wait_until("every probe to be answered", || {
            left = unhealthy();
            assert!(
                !left.iter().any(|text| text.contains("no_source")),
                "{left:?}"
            );
            left.is_empty()
        });
        assert_eq!(
            status(&site.director)["vips"].as_array().map(Vec::len),
            Some(COMBINATIONS.len())
        );
        assert!(
            !director.stderr().contains("unhealthy"),
            "{}",
            director.stderr()
        );
        director.stop(Signal::Term);
    });
}

#[test]
fn status_tells_what_was_measured_and_why() {
    in_lab(|lab| {
        let site = Site::by_hand(lab);
        let external = vip(
            [
                "ext",
                VIP,
                "81",
                "tcp",
                "[vip.health]\nkind = \"external\"\nrise = 1\nfall = 1\n",
            ],
            &ALL,
        );
        let director = Reloading::start(lab, &site, &(web(FAST) + &external));
        probed(&site, 20);
        let health = |vip: usize, backend: usize| {
            status(&site.director)["vips"][vip]["backends"][backend]["health"].clone()
        };
        wait_until("a result", || health(0, 0)["status"] == "healthy");
        assert_eq!(health(0, 0)["result"], "ok");
        assert_eq!(health(1, 0)["status"], "trial");
        site.backends[0]
            .node
            .run(&format!("ip addr del {VIP}/32 dev lo"));
        wait_until("the cause", || !health(0, 0)["cause"].is_null());
        let found = health(0, 0);
        assert_eq!(
            (&found["status"], &found["result"]),
            (&"unhealthy".into(), &"no_answer".into()),
            "{found}"
        );
        assert!(
            found["cause"]["codes"]
                .as_array()
                .is_some_and(|codes| codes.contains(&"B5".into())),
            "{found}"
        );

        let tell = |word: &str| {
            let url = "http://director/v1/health?vip=ext&address=10.0.1.12";
            let body = format!("{{\"health\":\"{word}\",\"for_seconds\":60}}");
            let socket = site.director.sh("ls /run/tunlb/*.sock | head -1");
            site.director.sh(&format!(
                "curl --silent --show-error --fail --unix-socket {} -X PUT -d '{body}' '{url}'",
                socket.trim()
            ))
        };
        tell("down");
        said(
            &director,
            "vip ext: backend 10.0.1.12: unhealthy: no_answer",
        );
        tell("up");
        said(&director, "vip ext: backend 10.0.1.12: healthy: ok");
        director.director.stop();
    });
}
