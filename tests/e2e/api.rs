//! The API of a running director: what it reports is true, what is requested happens, and bad requests disturb
//! neither other clients nor traffic.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::client::Client;
use crate::enter::{in_lab, is_machine, tunlb};
use crate::lab::{Lab, Node, wait_until};
use crate::process::{Process, Signal};
use crate::reloading::{Reloading, vip};
use crate::site::{BACKENDS, Site, VIP, WEB};
use crate::streams::{Streams, assert_no_resets, echo_streams};

const B1: &str = BACKENDS[0].1;
const B2: &str = BACKENDS[1].1;
const ALL: [(&str, &str); 3] = [(B1, ""), (B2, ""), (BACKENDS[2].1, "")];
const HTTP: [&str; 5] = ["web", VIP, "80", "tcp", ""];

/// Holds connections that ask for nothing, sends garbage and a body of 10 MB.
const ABUSE: &str = include_str!("tools/abuse_api.py");

/// Changes weights and states of backends, one after the other.
const CHANGES: &str = include_str!("tools/change_backends.py");

fn packets(status: &Value) -> u64 {
    status["vips"][0]["traffic"]["packets"]
        .as_u64()
        .expect("a number")
}

#[test]
fn changes_break_no_transfer() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let _services = site.backends.each_ref().map(echo_streams);
        let file = vip(["web", VIP, "\"any\"", "tcp", ""], &ALL);
        let socket = lab.no_file("api.sock").display().to_string();
        let file = format!("[director]\napi = \"{socket}\"\nring_size = 2039\n{file}");
        let director = Reloading::start(lab, &site, &file);
        let streams = Streams::open(&site.client, 200, 10_000);
        let addresses = ALL.map(|(address, _)| address);
        let arguments = [&[socket.as_str(), "web", "2000"][..], &addresses].concat();
        let refused = site.director.run_python(CHANGES, &arguments);
        assert_eq!(refused.trim(), "0");
        streams.wait_for_round();
        streams.finish();
        assert_no_resets(site.nodes());
        let totals = director.director.stop();
        assert_eq!(totals.dropped(), 0, "{totals:?}");
    });
}

#[test]
fn status_agrees_with_what_was_sent() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = site.run_http();
        let client = Client::of(&site.director, &director.0);
        wait_until("rates", || {
            site.get();
            let rates = &client.get("/v1/status")["vips"][0]["rates"];
            rates["second"]["packets"].as_f64() > Some(0.5)
        });
        let answers = site.get_in_parallel(60, 20_000);
        let sent = site.sent_by_client();
        site.wait_until_read(sent);
        let mut status = Value::Null;
        wait_until("all packets in the status", || {
            status = client.get("/v1/status");
            packets(&status) >= sent
        });
        assert_eq!(packets(&status), sent);
        assert_eq!(status["director"]["drops"], serde_json::json!({}));
        assert_eq!(status["director"]["ready"]["ok"], true);
        assert_eq!(status["director"]["tun_drops"], 0);
        let backends = status["vips"][0]["backends"].as_array().expect("a list");
        let shares: f64 = backends
            .iter()
            .filter_map(|b| b["share_percent"].as_f64())
            .sum();
        assert!((shares - 100.0).abs() < 0.01, "{backends:?}");
        for (backend, (name, address)) in backends.iter().zip(BACKENDS) {
            assert_eq!(backend["address"], address);
            assert_eq!(backend["path"]["device"], "eth0");
            assert_eq!(backend["path"]["mtu"], 1500);
            let answered = answers.values().filter(|by| *by == name).count() as u64;
            assert!(
                backend["flows"].as_u64() >= Some(answered),
                "{name} {answered}: {backend}"
            );
        }
        let totals = director.stop();
        assert_eq!(
            (totals.sent().packets, totals.dropped()),
            (sent, 0),
            "{totals:?}"
        );
    });
}

/// Sends 500 datagrams to a VIP.
const FLOOD: &str = "import socket
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(500):
    client.sendto(b'x', ('10.0.0.100', 9))";

/// What the kernel drops while the director cannot read is told, as the device counts it.
#[test]
fn drops_of_the_tun_are_told() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let config = format!("[director]\nqueue_length = 64\n{}", vip(HTTP, &ALL));
        let path = lab.file("short.toml", config);
        let director = site.run(&["-c", &path.display().to_string()]);
        let client = Client::of(&site.director, &director.0);
        assert_eq!(client.get("/v1/status")["director"]["tun_drops"], 0);
        director.0.signal_named("STOP");
        site.client.run_python(FLOOD, &[]);
        let dropped = || site.director.device_counter("tunlb0", "tx_dropped");
        wait_until("drops", || dropped() >= 400);
        director.0.signal_named("CONT");
        wait_until("the drops in the status", || {
            client.get("/v1/status")["director"]["tun_drops"] == dropped()
        });
        director.stop();
    });
}

/// What a queueing discipline drops behind the socket that took it is told, by device.
#[test]
fn drops_on_the_way_out_are_told() {
    in_lab(|lab| {
        let site = Site::new(lab);
        site.director
            .run("tc qdisc add dev eth0 root tbf rate 8kbit burst 2kb limit 3kb");
        let path = lab.file("shaped.toml", vip(["discard", VIP, "9", "udp", ""], &ALL));
        let director = site.run(&["-c", &path.display().to_string()]);
        let client = Client::of(&site.director, &director.0);
        let told = || client.get("/v1/status")["director"]["device_drops"].clone();
        assert_eq!(told(), serde_json::json!({}));
        site.client.run_python(FLOOD, &[]);
        let dropped = || {
            let shown = site.director.run("tc -s -j qdisc show dev eth0 root");
            let shown: Value = serde_json::from_str(&shown).expect("JSON of tc");
            shown[0]["drops"].as_u64()
        };
        wait_until("drops", || dropped() >= Some(400));
        wait_until("the drops in the status", || {
            told()["eth0"].as_u64() == dropped()
        });
        director.stop();
    });
}

/// How many of these connections each backend answered.
fn answered(site: &Site, first_port: u16) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for by in site.get_in_parallel(60, first_port).into_values() {
        *counts.entry(by).or_default() += 1;
    }
    counts
}

#[test]
fn changes_move_new_flows() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = site.run_http();
        let client = Client::of(&site.director, &director.0);
        assert_eq!(answered(&site, 20_000).len(), 3);
        let changed = client.patch(WEB, B1, r#"{"state": "disabled"}"#);
        assert_eq!(
            (&changed["takes"], &changed["why"]),
            (&"nothing".into(), &"disabled".into())
        );
        assert_eq!(changed["override"]["by"]["uid"], 0);
        let changed = client.patch(WEB, B2, r#"{"state": "draining"}"#);
        assert_eq!(changed["takes"], "known");
        assert_eq!(
            answered(&site, 21_000),
            BTreeMap::from([("b3".to_owned(), 60)])
        );
        client.patch(WEB, B2, r#"{"state": null, "weight": 5}"#);
        let counts = answered(&site, 22_000);
        assert!(
            !counts.contains_key("b1") && counts["b2"] > counts["b3"],
            "{counts:?}"
        );
        let down = client.patch(WEB, B2, r#"{"health": "down", "for_seconds": 1}"#);
        assert_eq!(down["takes"], "nothing");
        wait_until("the end of the override", || {
            let overrides = client.get("/v1/overrides");
            overrides["overrides"].as_array().map(Vec::len) == Some(1)
        });
        let events = client.ask(&[], "/v1/events").body;
        assert!(events.contains("\"override_ended\""), "{events}");
        let all = client.ask(&["--request", "DELETE"], "/v1/overrides");
        assert_eq!(all.status, 204, "{all:?}");
        assert_eq!(answered(&site, 23_000).len(), 3);
        director.stop();
    });
}

#[test]
fn two_clients_do_not_overwrite_each_other() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = site.run_http();
        let client = Client::of(&site.director, &director.0);
        let generation = client.get("/v1/status")["generation"].to_string();
        let condition = format!("If-Match: \"{generation}\"");
        let patch = [
            "--request",
            "PATCH",
            "--data",
            r#"{"weight": 3}"#,
            "--header",
            &condition,
        ];
        let target = format!("/v1/backends?vip={WEB}&address={B1}");
        assert_eq!(client.ask(&patch, &target).status, 200);
        let second = client.ask(&patch, &target);
        assert_eq!(second.status, 412, "{second:?}");
        assert_eq!(second.json()["field"], "If-Match");
        director.stop();
    });
}

#[test]
fn a_reload_tells_what_it_would_do() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = Reloading::start(lab, &site, &vip(HTTP, &ALL));
        let client = Client::of(&site.director, &director.director.0);
        fs::write(&director.path, vip(HTTP, &ALL[1..])).expect("the file");
        let post = ["--request", "POST"];
        let line = format!("vip web: backend {B1}: removed");
        let dry = client.ask(&post, "/v1/reload?dry_run=true");
        assert_eq!(
            (dry.status, &dry.json()["changes"][0]),
            (200, &Value::from(&*line))
        );
        let backends = |client: &Client| client.get("/v1/status")["vips"][0]["backends"].clone();
        assert_eq!(backends(&client).as_array().map(Vec::len), Some(3));
        let real = client.ask(&post, "/v1/reload");
        assert_eq!(
            (real.status, &real.json()["changes"][0]),
            (200, &Value::from(&*line))
        );
        assert_eq!(backends(&client).as_array().map(Vec::len), Some(2));
        fs::write(&director.path, "[[vip]]\nname = 5\n").expect("the file");
        let refused = client.ask(&post, "/v1/reload");
        assert_eq!(refused.status, 422, "{refused:?}");
        let problems = refused.json()["problems"].to_string();
        assert!(
            problems.contains("tunlb.toml:2: vip[0].name = 5"),
            "{problems}"
        );
        let last = client.get("/v1/status")["director"]["config"]["last_reload"].clone();
        assert_eq!(last["ok"], false);
        director.director.stop();
    });
}

#[test]
fn events_come_as_they_happen() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = site.run_http();
        let client = Client::of(&site.director, &director.0);
        let follow = client.curl(&[], "/v1/events?follow=true");
        let mut events = site.director.start("events", follow, "\"started\"");
        client.patch(WEB, B1, r#"{"weight": 0, "reason": "disk of b1"}"#);
        events.wait_for("\"override_set\"");
        site.director.run(&format!("ip route del {VIP}"));
        events.wait_for("\"restored\"");
        director.stop();
        events.wait();
    });
}

/// Who may open the socket.
#[test]
fn others_stay_outside() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let group = if is_machine() { 4242 } else { 0 };
        let config = vip(HTTP, &ALL);
        for (api_group, folder) in [(None, "700"), (Some(group), "711")] {
            let line = api_group.map(|group| format!("[director]\napi_group = {group}\n"));
            let path = lab.file("api.toml", line.unwrap_or_default() + &config);
            let director = site.run(&["-c", &path.display().to_string()]);
            let client = Client::of(&site.director, &director.0);
            let socket = client.socket.display();
            let modes = site
                .director
                .sh(&format!("stat -c '%a %g' {socket} $(dirname {socket})"));
            let owner = api_group.unwrap_or(0);
            assert_eq!(modes, format!("660 {owner}\n{folder} 0\n"));
            if is_machine() {
                let may = [
                    other(&site.director, &client, 65534),
                    other(&site.director, &client, 4242),
                ];
                assert_eq!(may, [false, api_group.is_some()]);
            }
            director.stop();
            assert!(!client.socket.exists(), "the socket outlived the director");
        }
    });
}

/// Whether another user of that group gets an answer.
fn other(node: &Node, client: &Client, group: u32) -> bool {
    let curl = client.curl(&[], "/healthz");
    let mut command = node.command("setpriv");
    command.args([
        "--reuid=65534",
        &format!("--regid={group}"),
        "--clear-groups",
        "--",
    ]);
    // What nsenter would do is done already.
    let words = curl.get_args().skip_while(|word| *word != "--").skip(1);
    command.args(words);
    command.output().expect("setpriv").status.success()
}

#[test]
fn directors_of_one_host_have_each_their_own() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let first = site.run_http();
        let client = Client::of(&site.director, &first.0);
        let name = client
            .socket
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        assert!(
            name.starts_with("api-") && name.ends_with(".sock"),
            "{name}"
        );

        let other_namespace = run_beside(&site.router, &[], "tunlb0");
        let other = Client::of(&site.router, &other_namespace);
        assert_ne!(other.socket, client.socket);
        assert_eq!(
            other.get("/v1/status")["director"]["pid"],
            other_namespace.id()
        );

        // In the namespace of the first one: no API, no end.
        let second = run_beside(&site.director, &[], "tunlb1");
        let log = second.stderr();
        assert!(
            log.contains("no API: ") && log.contains("is another process's"),
            "{log}"
        );
        assert_eq!(client.get("/v1/status")["director"]["pid"], first.0.id());
        second.stop(Signal::Term);

        let path = client.socket.display().to_string();
        let refused = refused(lab, &site.director, &path);
        assert!(
            refused.contains("director.api") && refused.contains("is another process's"),
            "{refused}"
        );

        first.0.stop(Signal::Kill);
        assert!(
            client.socket.exists(),
            "a killed director leaves its socket"
        );
        let third = site.run_http();
        let again = Client::of(&site.director, &third.0);
        assert_eq!(again.socket, client.socket);
        assert_eq!(again.get("/v1/status")["director"]["pid"], third.0.id());
        third.stop();
    });
}

/// A director for another VIP.
fn run_beside(node: &Node, arguments: &[&str], tun: &str) -> Process {
    let mut command = node.command(tunlb());
    command.args([
        "run",
        "--vip",
        "10.0.0.102:80/tcp",
        "--backend",
        B1,
        "--tun",
        tun,
    ]);
    command.args(arguments);
    node.start(&format!("{}-{tun}", node.name()), command, "forwarding")
}

/// What a director says that is to have an API at a path where there is one.
fn refused(lab: &Lab, node: &Node, path: &str) -> String {
    let other = vip(["other", "10.0.0.103", "80", "tcp", ""], &ALL);
    let config = format!("[director]\ntun = \"tunlb2\"\napi = \"{path}\"\n{other}");
    let file = lab.file("refused.toml", config);
    let mut command = node.command(tunlb());
    command.arg("run").arg("-c").arg(file);
    let ended = node.spawn("refused", command).wait();
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    assert!(!node.has_device("tunlb2"), "it left its device");
    ended.stderr
}

#[test]
fn metrics_are_served_to_others_and_nothing_else() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let config = format!(
            "[director]\nmetrics = \"0.0.0.0:9810\"\n{}",
            vip(HTTP, &ALL)
        );
        let path = lab.file("metrics.toml", config);
        let director = site.run(&["-c", &path.display().to_string()]);
        let get = |target: &str| {
            let format = "--silent --write-out \\n%{http_code} --max-time 60";
            let text = site
                .client
                .run(&format!("curl {format} http://10.0.1.2:9810{target}"));
            let (body, status) = text.rsplit_once('\n').expect("a status");
            (status.to_owned(), body.to_owned())
        };
        assert!(
            get("/metrics")
                .1
                .contains("# TYPE tunlb_snapshot_epoch gauge")
        );
        for (target, status) in [
            ("/healthz", "200"),
            ("/readyz", "200"),
            ("/v1/status", "404"),
        ] {
            assert_eq!(get(target).0, status, "{target}");
        }
        director.stop();
    });
}

/// In bytes, what of its memory a process has in RAM.
fn resident(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.expect("a size") << 10
}

#[test]
fn abuse_costs_little_and_no_packet() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = site.run_http();
        let client = Client::of(&site.director, &director.0);
        client.get("/v1/status");
        let before = resident(&director.0);
        let socket = client.socket.display().to_string();
        let command = site.director.python(ABUSE, &[&socket, WEB, B1]);
        let abuse = site.director.start("abuse", command, "abusing");
        for round in 0..4 {
            client.get("/v1/status");
            assert_eq!(site.get_in_parallel(60, 20_000 + 1000 * round).len(), 60);
        }
        let more = resident(&director.0).saturating_sub(before);
        assert!(more < 32 << 20, "{more} bytes more");
        println!(
            "figure: 1000 idle clients, a body of 10 MB and garbage: {} KiB more",
            more >> 10
        );
        let ended = abuse.wait();
        assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
        let sent = site.sent_by_client();
        site.wait_until_read(sent);
        let totals = director.stop();
        assert_eq!(
            (totals.sent().packets, totals.dropped()),
            (sent, 0),
            "{totals:?}"
        );
    });
}

/// The plain name may be configured: its folder is made, and what a killed director left there is replaced.
#[test]
fn a_path_that_is_configured() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let runtime = lab.no_file("user");
        fs::create_dir(&runtime).expect("a folder");
        let socket = runtime.join("tunlb/api.sock");
        let socket_text = socket.display();
        let config = format!("[director]\napi = \"{socket_text}\"\n{}", vip(HTTP, &ALL));
        let file = lab.file("own.toml", config);
        let start = || {
            let mut command = site.director.command(tunlb());
            command
                .arg("run")
                .arg("-c")
                .arg(&file)
                .env("XDG_RUNTIME_DIR", &runtime);
            let director = site.director.start("own", command, "forwarding");
            let client = Client::of(&site.director, &director);
            assert_eq!(client.socket, socket);
            client.get("/v1/status");
            director
        };
        start().stop(Signal::Kill);
        start().stop(Signal::Term);
        assert!(!socket.exists());
        site.director
            .run(&format!("ln -s api-1.sock {socket_text}"));
        start().stop(Signal::Term);
        assert!(!socket.exists());
    });
}

/// Where others may write, a socket may be another's.
#[test]
fn without_a_folder_it_runs_without_an_api() {
    in_lab(|lab| {
        let site = Site::new(lab);
        site.director.run("chmod 0777 /run/tunlb");
        let mut command: Command = site.director.command(tunlb());
        command.args(["run", "--vip", WEB, "--backend", B1]);
        command.env_remove("XDG_RUNTIME_DIR");
        let director = site.director.start("run", command, "forwarding");
        let log = director.stderr();
        assert!(
            log.contains("no API: /run/tunlb: others may write to it"),
            "{log}"
        );
        assert_eq!(site.get(), "b1");
        director.stop(Signal::Term);
    });
}
