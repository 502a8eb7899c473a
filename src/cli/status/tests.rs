//! Tables of literal states.

use serde_json::{Value, from_value, json};

use super::*;
use crate::cli::columns::Screen;

const WIDE: Screen = Screen {
    unicode: true,
    width: None,
};

fn rates(new_flows: f64, packets: f64, bytes: f64) -> Value {
    let rate = json!({"packets": packets, "bytes": bytes, "new_flows": new_flows});
    let none = json!({"packets": 0.0, "bytes": 0.0, "new_flows": 0.0});
    json!({"second": none, "ten_seconds": rate, "minute": none})
}

fn backend(address: &str, flows: u64, rates: Value) -> Value {
    json!({
        "vip": "web", "address": address,
        "weight": {"configured": 100, "override": null, "effective": 100},
        "state": {"configured": "active", "override": null, "effective": "active"},
        "health": {"status": "healthy", "override": null},
        "takes": "new", "why": null, "share_percent": 50.0, "flows": flows,
        "traffic": {"packets": 12_345_678, "bytes": 9_876_543_210_u64, "untracked": 0, "new_flows": 4711},
        "rates": rates,
        "path": {"device": "eth0", "mtu": 1500, "outer_source": "10.0.0.2"},
        "override": null
    })
}

fn document() -> Value {
    let mut draining = backend("10.0.1.12", 212, rates(0.0, 1100.0, 625_000.0));
    draining["state"] =
        json!({"configured": "active", "override": "draining", "effective": "draining"});
    draining["takes"] = json!("known");
    draining["why"] = json!("draining");
    draining["override"] = json!({
        "vip": "web", "address": "10.0.1.12", "state": "draining",
        "made": "2026-11-27T15:16:00.000Z", "expires": "2026-11-27T15:29:00.000Z", "expires_in_seconds": 540,
        "by": {"uid": 1000, "user": "ann", "pid": 4}, "reason": "kernel"
    });
    let mut down = backend("10.0.1.13", 0, rates(0.0, 0.0, 0.0));
    down["health"] = json!({"status": "unhealthy", "override": null});
    down["takes"] = json!("nothing");
    down["why"] = json!("unhealthy: no_answer");
    json!({
        "schema": 1, "at": "2026-11-27T15:20:00.123Z", "generation": 418,
        "director": {
            "version": "0.3.0 (commit 7bd02f69bcc3, features: none)", "host": "lb1", "pid": 4242, "started": "2026-11-24T11:20:00Z",
            "uptime_seconds": 273_600, "tun": "tunlb0",
            "workers": [
                {"id": 0, "flows": 9211, "bursts": 5, "burst_mean": 3.1, "heartbeat_age_seconds": 0.2},
                {"id": 1, "flows": 9211, "bursts": 5, "burst_mean": null, "heartbeat_age_seconds": 0.2}
            ],
            "config": {"file": "/etc/tunlb/tunlb.toml", "loaded": "2026-11-24T11:20:00Z", "overrides": 1, "last_reload": null},
            "snapshot": {"epoch": 418, "adopted": true},
            "ready": {"ok": true, "reasons": []},
            "flows": {"now": 18204, "bound": 1_000_000},
            "drops": {"no_vip": 12, "too_big": 3}, "send_errors": {}, "replies": 0, "tun_drops": 0, "device_drops": {}
        },
        "vips": [{
            "name": "web", "address": "203.0.113.10", "port": 443, "protocol": "tcp",
            "encap": {"kind": "ipip", "port": null},
            "ring": {"slots": 65537, "fingerprint": "9f3a1c07", "changes": 4},
            "healthy": 2, "takes_new": 1, "fail_open": false,
            "announce": {"state": "up", "since": "2026-11-24T11:20:02Z", "why": null},
            "drops": {"too_big": 3},
            "traffic": {"packets": 24_691_356, "bytes": 99_999, "untracked": 0, "new_flows": 9422},
            "rates": rates(812.0, 91_200.0, 5.15e7),
            "backends": [backend("10.0.1.11", 6101, rates(271.0, 30_400.0, 1.7e7)), draining, down]
        }]
    })
}

fn status(change: impl FnOnce(&mut Value)) -> Status {
    let mut document = document();
    change(&mut document);
    from_value(document).unwrap()
}

fn shown(status: &Status, view: View, screen: Screen) -> String {
    anstream::adapter::strip_str(&text(status, view, screen)).to_string()
}

#[test]
fn the_overview() {
    let text = shown(&status(|_| {}), View::Overview, WIDE);
    let expected = "\
tunlb 0.3.0 on lb1, tunlb0, 2 workers, up 3d 4h · file /etc/tunlb/tunlb.toml + 1 override · ready
Prot VIP                   Healthy  Takes  New/s  Pkt/s  Bit/s  Flows  Announce
TCP  web 203.0.113.10:443      2/3      1    812  91.2k   412M   6313  up
  -> 10.0.1.11             healthy    new    271  30.4k   136M   6101  w 100
  -> 10.0.1.12             healthy  known      0   1.1k     5M    212  w 100, draining, by uid 1000 (ann) 4m ago, for another 9m: kernel
  -> 10.0.1.13                DOWN      -      0      0      0      0  w 100, unhealthy: no_answer
Dropped: no_vip 12  too_big 3 (web)  by the TUN's queue 0
";
    assert_eq!(text, expected, "\n{text}");
}

#[test]
fn the_cause_stands_beside_a_backend_that_fails() {
    let status = status(|document| {
        document["vips"][0]["backends"][2]["health"] = json!({
            "status": "unhealthy", "since": "2026-11-27T15:17:50.123Z", "changes": 3, "result": "no_answer", "streak": 65,
            "last": {"at": "2026-11-27T15:19:59.000Z", "seconds": 1.0},
            "cause": {"text": "no answer through the tunnel; 10.0.1.13:443 answers directly", "codes": ["B5", "B10"]},
            "damped_until": null, "override": null
        });
    });
    let text = shown(&status, View::Overview, WIDE);
    for words in [
        "unhealthy: no_answer, for 2m",
        ", no answer through the tunnel; 10.0.1.13:443 answers directly: B5 B10\n",
    ] {
        assert!(text.contains(words), "no {words:?} in:\n{text}");
    }
}

#[test]
fn an_mtu_black_hole_stands_beside_a_healthy_backend() {
    let status = status(|document| {
        document["vips"][0]["backends"][0]["health"]["mtu"] = json!({
            "wanted": 1480, "fits": 1380, "cause": {"text": "an MTU black hole", "codes": ["B24"]},
        });
    });
    let text = shown(&status, View::Overview, WIDE);
    assert!(text.contains("w 100, an MTU black hole: B24\n"), "{text}");
    let problems = super::problems::found(None, &status);
    let text: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert!(
        text.contains(&"vip web: backend 10.0.1.11: an MTU black hole".to_owned()),
        "{text:?}"
    );
}

#[test]
fn a_narrow_screen_without_unicode() {
    let screen = Screen {
        unicode: false,
        width: Some(60),
    };
    let text = shown(&status(|_| {}), View::Overview, screen);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[0],
        "tunlb 0.3.0 on lb1, tunlb0, 2 workers, up 3d 4h | file /e..."
    );
    assert!(lines.iter().all(|line| line.len() <= 60), "{text}");
    assert!(text.is_ascii(), "{text}");
}

#[test]
fn colours_are_for_what_needs_an_eye() {
    let text = super::text(&status(|_| {}), View::Overview, WIDE);
    assert!(
        text.contains("\u{1b}[1m\u{1b}[31mDOWN\u{1b}[0m"),
        "{text:?}"
    );
    assert!(text.contains("\u{1b}[32mready\u{1b}[0m"), "{text:?}");
}

#[test]
fn what_differs_from_the_file() {
    let status = status(|document| {
        document["director"]["config"]["file"] = Value::Null;
        document["director"]["config"]["overrides"] = json!(0);
        let vip = &mut document["vips"][0];
        vip["name"] = json!("203.0.113.10:443/tcp");
        vip["backends"][0]["weight"] = json!({"configured": 100, "override": 50, "effective": 50});
        vip["backends"][0]["health"]["override"] = json!("up");
        vip["backends"][1]["weight"] =
            json!({"configured": null, "override": null, "effective": 100});
        vip["backends"][2]["path"]["device"] = Value::Null;
    });
    let text = shown(&status, View::Overview, WIDE);
    assert!(text.contains("· no file · ready\n"), "{text}");
    assert!(text.contains("\nTCP  203.0.113.10:443  "), "{text}");
    assert!(
        text.contains("6101  w 50 (file: 100), taken for up\n"),
        "{text}"
    );
    assert!(
        text.contains("w 100, not in the file, draining, by"),
        "{text}"
    );
    assert!(text.contains("unhealthy: no_answer, no route\n"), "{text}");
}

#[test]
fn text_of_others_is_not_obeyed() {
    let status = status(|document| {
        document["director"]["host"] = json!("lb\u{1b}[2J");
        document["director"]["ready"] = json!({"ok": false, "reasons": ["\u{202e}x"]});
        document["vips"][0]["name"] = json!("a\nb");
        document["vips"][0]["backends"][2]["why"] = json!("\r");
    });
    let text = shown(&status, View::Overview, WIDE);
    assert!(
        text.contains("on lb\\u{1b}[2J, ") && text.contains("· NOT READY\n"),
        "{text}"
    );
    assert!(text.contains("Not ready: \\u{202e}x\n"), "{text}");
    assert!(
        text.contains("TCP  a\\nb 203") && text.contains("w 100, \\r\n"),
        "{text}"
    );
}

#[test]
fn stats_and_rates_in_the_columns_of_ipvsadm() {
    let text = shown(&status(|_| {}), View::Stats, WIDE);
    let expected = "\
Prot VIP                   Conns  InPkts  OutPkts  InBytes  OutBytes
TCP  web 203.0.113.10:443   9422   24.7M        -    99999         -
  -> 10.0.1.11              4711   12.3M        -     9.9G         -
  -> 10.0.1.12              4711   12.3M        -     9.9G         -
  -> 10.0.1.13              4711   12.3M        -     9.9G         -
";
    assert_eq!(text, expected, "\n{text}");
    let text = shown(&status(|_| {}), View::Rate, WIDE);
    let expected = "\
Prot VIP                   CPS  InPPS  OutPPS  InBPS  OutBPS
TCP  web 203.0.113.10:443  812  91.2k       -  51.5M       -
  -> 10.0.1.11             271  30.4k       -    17M       -
  -> 10.0.1.12               0   1.1k       -   625k       -
  -> 10.0.1.13               0      0       -      0       -
";
    assert_eq!(text, expected, "\n{text}");
}

fn told(before: Option<&Status>, now: &Status) -> Vec<String> {
    let found = problems::found(before, now);
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn no_problem() {
    let healthy = status(|document| {
        let backends = document["vips"][0]["backends"].as_array_mut().unwrap();
        backends.pop();
        document["director"]["tun_drops"] = json!(7);
    });
    assert_eq!(told(None, &healthy), [""; 0]);
    assert_eq!(
        told(Some(&healthy), &healthy),
        [""; 0],
        "drops that do not grow"
    );
    let disabled = status(|document| {
        document["vips"][0]["backends"][2]["state"]["effective"] = json!("disabled");
    });
    assert_eq!(told(None, &disabled), [""; 0], "what an operator wants");
    let down = status(|document| {
        document["vips"][0]["backends"][2]["health"]["override"] = json!("down");
    });
    assert_eq!(told(None, &down), [""; 0], "what an operator wants");
}

#[test]
fn problems() {
    let before = status(|document| document["director"]["tun_drops"] = json!(7));
    let now = status(|document| {
        let director = &mut document["director"];
        director["tun_drops"] = json!(10);
        director["send_errors"] = json!({"ENOBUFS": 4});
        director["device_drops"] = json!({"eth0": 9});
        director["ready"] = json!({"ok": false, "reasons": ["worker 1 hangs"]});
        director["config"]["last_reload"] =
            json!({"at": "2026-11-27T15:00:00Z", "ok": false, "problems": ["a", "b"]});
        document["vips"][0]["fail_open"] = json!(true);
    });
    let expected = [
        "not ready: worker 1 hangs",
        "the reload at 2026-11-27T15:00:00Z was refused: a; b",
        "the queue of tunlb0 overflows: 3 packets were dropped within a second, 10 since the start",
        "the kernel refused 4 packets within a second: ENOBUFS",
        "eth0 dropped 9 packets on their way out within a second: \
         tc -s qdisc show dev eth0; ip -s link show dev eth0",
        "vip web: too little is healthy: flows go to all backends (all_down, min_healthy)",
        "vip web: backend 10.0.1.13: takes nothing: unhealthy: no_answer",
    ];
    assert_eq!(told(Some(&before), &now), expected);
    let alone = told(None, &now);
    assert_eq!(alone.len(), expected.len() - 3, "{alone:?}");

    let none = status(|document| document["vips"][0]["takes_new"] = json!(0));
    assert!(told(None, &none).contains(&"vip web: no backend takes new flows".to_owned()));

    let found = problems::found(Some(&before), &now);
    let document = serde_json::to_value(&found).unwrap();
    assert_eq!(document[6]["kind"], "backend_takes_nothing");
    assert_eq!(document[6]["backend"], "10.0.1.13");
    assert_eq!(document[0]["vip"], Value::Null);
}

#[test]
fn seconds_of_watch() {
    assert_eq!(parse_seconds("0.5"), Ok(Duration::from_millis(500)));
    assert_eq!(parse_seconds("2"), Ok(Duration::from_secs(2)));
    for text in ["0", "-1", "nan", "inf", "1e9", "1s", ""] {
        assert!(parse_seconds(text).is_err(), "{text}");
    }
}
