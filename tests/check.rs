//! `tunlb check` as an operator runs it: the built binary, its streams and its exit code.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::{self, Permissions};
use std::io::{Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// The example of the design, with every key that it names.
const EXAMPLE: &str = r#"[director]
tun = "tunlb0"            # device name; created if absent, reused if it persists
workers = 1               # TUN queues, one thread each; "auto" = cores
datapath = "tun"          # "tun", or "xdp" (feature xdp) with interface = "eth0"
egress = "auto"           # "raw" socket, "packet" (AF_PACKET), or the faster one that works
api = "/run/tunlb/api.sock"
metrics = "127.0.0.1:9810"
hash_key = "00112233445566778899aabbccddeeff"   # the same on all directors of a VIP
ring_size = 65537
flows = 1_000_000         # flow table bound, for all workers together

[director.encap]
kind = "ipip"             # or "gue" (with port = 6080)
source = "auto"           # or an address, or an entropy prefix such as "172.16.0.0/16"
ttl = 64

[[vip]]
name = "web"
address = "203.0.113.10"
port = 80                 # or "any"
protocol = "tcp"          # or "udp"
hash = "5-tuple"          # "source-address" (client affinity), "destination-port"
echo = "reply"            # ICMP echo to this VIP: "reply", "forward", "drop"
all_down = "forward"      # or "drop"

[vip.health]
kind = "tcp"              # "http", "tls", "dns", "udp", "ping", "external", "none"; always through the tunnel
interval = "2s"
timeout = "1s"
rise = 2
fall = 3

[[vip.backend]]
address = "10.0.1.11"     # IPv4 or IPv6, whatever the VIP's family
weight = 100
state = "active"          # "draining", "disabled"
"#;

const QUICK: [&str; 7] = [
    "--vip",
    "10.0.0.100:80/tcp",
    "--backend",
    "10.0.1.11",
    "--backend",
    "10.0.1.12,weight=2",
    "--workers=2",
];

fn tunlb() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tunlb"));
    command.arg("check");
    command
}

/// A configuration file of its own; deleted with the value.
struct File {
    path: PathBuf,
    _dir: TempDir,
}

fn file(content: impl AsRef<[u8]>) -> File {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tunlb.toml");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    File { path, _dir: dir }
}

fn check(content: impl AsRef<[u8]>, arguments: &[&str]) -> Output {
    let file = file(content);
    let mut command = tunlb();
    command.arg("-c").arg(&file.path).args(arguments);
    command.output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The problems of an invalid file: line (0 for none), key ("" for none), message.
fn problems(content: impl AsRef<[u8]>) -> Vec<(u64, String, String)> {
    let output = check(content, &["--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let document = json(&output);
    assert_eq!(document["valid"], false);
    assert_eq!(document["config"], Value::Null);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let problem = |p: &Value| {
        let line = p["line"].as_u64().unwrap_or_default();
        (line, text(&p["key"]), text(&p["message"]))
    };
    let problems = document["problems"].as_array().unwrap();
    problems.iter().map(problem).collect()
}

/// A valid file with lines added to `[director]` (line 2), the VIP (line 5) and its backend (line 8).
fn with(director: &str, vip: &str, backend: &str) -> String {
    format!(
        "[director]\n{director}\n[[vip]]\naddress = \"10.0.0.100\"\n{vip}\n[[vip.backend]]\naddress = \"10.0.1.11\"\n{backend}\n"
    )
}

#[test]
fn one_mistake_each() {
    let cases: [(String, u64, &str, &str); 34] = [
        (
            with("tnu = 1", "", ""),
            2,
            "director.tnu",
            "did you mean tun?",
        ),
        (
            with("ring-size = 1", "", ""),
            2,
            "director.ring-size",
            "did you mean ring_size?",
        ),
        (
            with("", "colour = 1", ""),
            5,
            "vip[0].colour",
            "unknown key",
        ),
        (
            with("workers = \"two\"", "", ""),
            2,
            "director.workers",
            "wrong type (string)",
        ),
        (
            with("workers = 257", "", ""),
            2,
            "director.workers",
            "out of range",
        ),
        (
            with("flows = 1.5", "", ""),
            2,
            "director.flows",
            "wrong type (float)",
        ),
        (
            with("flows = 10", "", ""),
            2,
            "director.flows",
            "out of range",
        ),
        (
            with("timeouts.closing = \"60\"", "", ""),
            2,
            "director.timeouts.closing",
            "not a number with us, ms, s, m, h or d",
        ),
        (
            with("", "new_flows_per_second = -1", ""),
            5,
            "vip[0].new_flows_per_second",
            "out of range",
        ),
        (
            with("ring_size = 65536", "", ""),
            2,
            "director.ring_size",
            "the nearest is 65537",
        ),
        (
            with("ring_size = 7", "", ""),
            2,
            "director.ring_size",
            "out of range",
        ),
        (
            with("tun = \"a-name-too-long-for-linux\"", "", ""),
            2,
            "director.tun",
            "longer than 15",
        ),
        (
            with("hash_key = \"00\"", "", ""),
            2,
            "director.hash_key",
            "not 32 hexadecimal",
        ),
        (
            with("encap.ttl = 256", "", ""),
            2,
            "director.encap.ttl",
            "out of range",
        ),
        (
            with("encap.source = \"fd00::1\"", "", ""),
            7,
            "vip[0].backend[0].address",
            "not of the family",
        ),
        (
            with("encap.source = \"172.16.0.1/16\"", "", ""),
            2,
            "director.encap.source",
            "host bits",
        ),
        (
            with("encap.source = [\"10.0.1.1\", \"10.0.1.2\"]", "", ""),
            2,
            "director.encap.source",
            "two sources of IPv4",
        ),
        (
            with("encap.port = 6080", "", ""),
            2,
            "director.encap.port",
            "port applies only to kind \"gue\"",
        ),
        (
            with(
                "",
                "echo = \"drop\"",
                "[[vip]]\naddress = \"10.0.0.100\"\nport = 1\necho = \"reply\"\nbackend = [{ address = \"10.0.1.1\" }]",
            ),
            11,
            "vip[1].echo",
            "\"drop\" on line 5",
        ),
        (
            with("encap = 1", "", ""),
            2,
            "director.encap",
            "wrong type (integer)",
        ),
        (
            with("", "port = 65536", ""),
            5,
            "vip[0].port",
            "out of range",
        ),
        (
            with("", "protocol = \"icmp\"", ""),
            5,
            "vip[0].protocol",
            "unknown choice",
        ),
        (with("", "name = \"\"", ""), 5, "vip[0].name", "empty"),
        (with("", "", "weight = 0"), 3, "vip[0].backend", "weight 0"),
        (
            with("", "", "weight = 65536"),
            8,
            "vip[0].backend[0].weight",
            "out of range",
        ),
        (
            with("", "", "state = \"off\""),
            8,
            "vip[0].backend[0].state",
            "unknown choice",
        ),
        (
            with("", "", "address = \"10.0.1.12\""),
            8,
            "",
            "not TOML: duplicate key",
        ),
        (
            with("", "", "[[vip.backend]]\naddress = \"10.0.0.100\""),
            9,
            "vip[0].backend[1].address",
            "its tunnel would loop",
        ),
        (
            with("", "", "[[vip.backend]]\naddress = \"10.0.1.11\""),
            9,
            "vip[0].backend[1].address",
            "already a backend of this VIP on line 7",
        ),
        (
            with("", "", "[[vip.backend]]\nweight = 1"),
            8,
            "vip[0].backend[1].address",
            "missing",
        ),
        (
            with(
                "",
                "",
                "[[vip]]\nname = \"b\"\naddress = \"10.0.0.100\"\nbackend = [{ address = \"10.0.1.1\" }]",
            ),
            10,
            "vip[1].address",
            "already the VIP on line 4",
        ),
        (String::new(), 0, "vip", "there is no VIP"),
        (
            "[[vip]]\naddress = \"10.0.0.100\"\n".to_owned(),
            1,
            "vip[0].backend",
            "no backend",
        ),
        (
            "[vip]\naddress = \"10.0.0.100\"\n".to_owned(),
            1,
            "vip",
            "wrong type (table)",
        ),
    ];
    for (content, line, key, message) in cases {
        let found = problems(&content);
        assert_eq!(found.len(), 1, "{content}\n{found:?}");
        assert_eq!(
            (found[0].0, found[0].1.as_str()),
            (line, key),
            "{content}\n{found:?}"
        );
        assert!(found[0].2.contains(message), "{content}\n{found:?}");
    }
}

#[test]
fn every_mistake_at_once() {
    let content = "\
[director]
tnu = \"x\"
workers = 0
ring_size = 1000
hash_key = \"xyz\"
flows = \"many\"
datapath = \"xpd\"
[director.encap]
ttl = 0
[[vip]]
name = \"web\"
address = \"10.0.0.100/32\"
port = any
[[vip.backend]]
address = \"10.0.1.11:80\"
weight = -1
[[vip]]
name = \"web\"
address = \"10.0.0.101\"
[[vip.backend]]
address = \"10.0.0.101\"
[[vip.backend]]
address = \"2001:db8::1/64\"
";
    let found = problems(content);
    let lines: Vec<_> = found.iter().map(|(line, ..)| *line).collect();
    assert_eq!(
        lines,
        [2, 3, 4, 5, 6, 7, 9, 12, 13, 15, 16, 18, 21, 23],
        "{found:?}"
    );

    let output = check(content, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), "");
    let text = stderr(&output);
    assert_eq!(
        text.lines().count(),
        found.len() + 1,
        "one line each: {text}"
    );
    assert!(
        text.contains(
            "tunlb.toml:4: director.ring_size = 1000: not a prime; the nearest is 997; accepted: 997\n"
        ),
        "{text}"
    );
}

#[test]
fn the_example_of_the_design_is_valid() {
    let output = check(EXAMPLE, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn what_is_printed_is_a_file_that_means_the_same() {
    let output = tunlb().args(QUICK).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "", "it has a key");
    let text = stdout(&output);
    assert!(
        text.contains("# route     10.0.0.100/32 dev tunlb0\n"),
        "{text}"
    );
    assert!(
        text.contains("10.0.1.12 66.7 %, overhead 20 bytes\n"),
        "{text}"
    );
    let again = check(&text, &["--show-key"]);
    assert_eq!(stdout(&again), text);
    assert_eq!(stderr(&again), "");
}

/// The value of the file's `hash_key`, if it has one.
fn hash_key(text: &str) -> Option<&str> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("hash_key = \""))?;
    value.split('"').next()
}

#[test]
fn a_file_from_flags_has_a_key_of_its_own() {
    let texts = [(), ()].map(|()| stdout(&tunlb().args(QUICK).output().unwrap()));
    let keys = texts.each_ref().map(|text| hash_key(text).unwrap());
    assert_ne!(keys[0], keys[1]);
    for key in keys {
        assert_eq!(key.len(), 32, "{key}");
        assert!(key.bytes().all(|byte| byte.is_ascii_hexdigit()), "{key}");
    }
}

#[test]
fn a_key_is_never_lost_silently() {
    let line = "hash_key = \"c0a1f75e9b3344d2817f06e9ab5d20c8\"";
    let content = with(line, "", "");
    let hidden = stdout(&check(&content, &[]));
    assert_eq!(hash_key(&hidden), None);
    let comment = hidden.lines().find(|line| line.contains("hash_key"));
    for words in ["# ", "left out", "--show-key"] {
        assert!(comment.unwrap().contains(words), "{hidden}");
    }
    let shown = stdout(&check(&content, &["--show-key"]));
    assert!(shown.contains(&format!("{line} #")), "{shown}");
    let document = json(&check(&content, &["--show-key", "--json"]));
    let key = &document["config"]["director"]["hash_key"];
    assert_eq!(key, "c0a1f75e9b3344d2817f06e9ab5d20c8");

    let none = check(with("", "", ""), &["--show-key"]);
    assert_eq!(hash_key(&stdout(&none)), None);
    assert!(stdout(&none).contains("# hash_key is not set"));
}

#[test]
fn a_key_that_anyone_can_guess_is_warned_about() {
    for key in ["0".repeat(32), "00112233445566778899aabbccddeeff".into()] {
        let output = check(with(&format!("hash_key = \"{key}\""), "", ""), &[]);
        assert_eq!(output.status.code(), Some(0));
        let text = stderr(&output);
        assert!(text.contains("openssl rand -hex 16"), "{key}: {text}");
    }
}

#[test]
fn only_run_says_that_nothing_was_started() {
    let invalid = ["--vip", "10.0.0.100:80", "--backend", "10.0.1.11"];
    let text = stderr(&tunlb().args(invalid).output().unwrap());
    assert!(
        text.ends_with("tunlb: 1 problem in the configuration\n"),
        "{text}"
    );
    let mut run = Command::new(env!("CARGO_BIN_EXE_tunlb"));
    let text = stderr(&run.arg("run").args(invalid).output().unwrap());
    let end = "tunlb: 1 problem in the configuration; nothing was started\n";
    assert!(text.ends_with(end), "{text}");
}

#[test]
fn limits_of_flows_in_the_output() {
    let content = with(
        "hash_key = \"c0a1f75e9b3344d2817f06e9ab5d20c8\"\nneighbour = \"eth0\"\ntimeouts = { established = \"2h\", udp = \"90s\" }",
        "all_down = \"drop\"\nnew_flows_per_second = 1000",
        "[[vip]]\naddress = \"10.0.0.101\"\nbackend = [{ address = \"10.0.1.11\" }]",
    );
    let text = stdout(&check(&content, &[]));
    let timeouts = "[director.timeouts]\nhalf_open = \"30s\"\nestablished = \"2h\"\n\
                    closing = \"1m\"\nreset = \"10s\"\nudp = \"90s\"\n";
    assert!(text.contains(timeouts), "{text}");
    assert!(text.contains("\nneighbour = \"eth0\"\n"), "{text}");
    let limited = "all_down = \"drop\"\nmin_healthy = \"0%\"\nnew_flows_per_second = 1000\n";
    assert!(text.contains(limited), "{text}");
    assert_eq!(text.matches("new_flows_per_second").count(), 1, "{text}");

    let config = &json(&check(&content, &["--json"]))["config"];
    assert_eq!(config["director"]["flows"], 1_000_000);
    assert_eq!(config["director"]["timeouts"]["half_open"], "30s");
    assert_eq!(config["director"]["timeouts"]["udp"], "90s");
    assert_eq!(config["vip"][0]["all_down"], "drop");
    assert_eq!(config["vip"][0]["new_flows_per_second"], 1000);
    assert_eq!(config["vip"][1]["new_flows_per_second"], Value::Null);
}

/// Both families, both kinds of tunnel, and what stands in for a key.
const MIXED: &str = r#"
[director]
hash_key = "c0a1f75e9b3344d2817f06e9ab5d20c8"
encap = { kind = "gue", source = ["2001:db8:e::/64", "10.0.0.2"] }

[[vip]]
address = "2001:db8::100"
port = "any"
hash = "source-address"
echo = "forward"
backend = [{ address = "10.0.1.11" }, { address = "2001:db8:1::11" }]

[[vip]]
address = "10.0.0.100"
encap.kind = "ipip"
backend = [{ address = "10.0.1.11" }, { address = "2001:db8:1::11" }]
"#;

#[test]
fn families_and_tunnels_as_text() {
    let output = check(MIXED, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let warning = "warning: director.encap.source 2001:db8:e::/64 is an entropy prefix";
    assert!(stderr(&output).starts_with(warning), "{}", stderr(&output));
    let text = stdout(&output);
    for line in [
        "source = [\"10.0.0.2\", \"2001:db8:e::/64\"]\n",
        "echo = \"forward\"\n",
        "port = \"any\"\n",
        "# route     2001:db8::100/128 dev tunlb0\n",
        "# share     [2001:db8::100]:any/tcp → 10.0.1.11 50.0 %, overhead 28 bytes\n",
        "# share     10.0.0.100:80/tcp → 2001:db8:1::11 50.0 %, overhead 40 bytes\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    assert_eq!(text.matches("[vip.encap]").count(), 1, "{text}");
    let key = "hash_key = \"c0a1f75e9b3344d2817f06e9ab5d20c8\"";
    let again = check(
        text.replace("[director]", &format!("[director]\n{key}")),
        &[],
    );
    assert_eq!(stdout(&again), text);
}

#[test]
fn families_and_tunnels_as_json() {
    let document = json(&check(MIXED, &["--json"]));
    let config = &document["config"];
    assert_eq!(config["director"]["encap"]["port"], 6080);
    assert_eq!(config["director"]["encap"]["source"][0], "10.0.0.2");
    assert_eq!(config["vip"][0]["encap"]["kind"], "gue");
    assert_eq!(config["vip"][0]["encap"]["port"], 6080);
    assert_eq!(config["vip"][1]["encap"]["kind"], "ipip");
    assert_eq!(config["vip"][1]["encap"]["port"], Value::Null);
    assert_eq!(config["vip"][1]["echo"], "reply");
    let plan = &document["plan"];
    let overhead = |vip: usize, backend: usize| {
        let overhead = &plan["vip"][vip]["backend"][backend]["overhead_bytes"];
        overhead.as_u64().unwrap()
    };
    assert_eq!([overhead(0, 0), overhead(0, 1)], [28, 48]);
    assert_eq!([overhead(1, 0), overhead(1, 1)], [20, 40]);
    assert_eq!(plan["overhead_bytes"], 48);
}

#[test]
fn ipv6_and_gue_from_flags() {
    let arguments = [
        "--vip=[2001:db8::100]:any/udp",
        "--backend=[2001:db8:1::11]",
        "--encap=gue:7000",
        "--json",
    ];
    let output = tunlb().args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let vip = &json(&output)["config"]["vip"][0];
    assert_eq!(vip["name"], "[2001:db8::100]:any/udp");
    assert_eq!(vip["encap"]["port"], 7000);
    assert_eq!(vip["backend"][0]["address"], "2001:db8:1::11");
}

#[test]
fn the_json_of_a_valid_configuration() {
    let output = tunlb().args(QUICK).arg("--json").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let document = json(&output);
    assert_eq!(document["schema"], 1);
    assert_eq!(document["valid"], true);
    assert_eq!(document["problems"], Value::Array(Vec::new()));
    assert_eq!(document["warnings"].as_array().unwrap().len(), 1);
    assert_eq!(document["config"]["director"]["workers"], 2);
    assert_eq!(document["config"]["director"]["neighbour"], "auto");
    assert_eq!(document["config"]["director"]["hash_key"], "default");
    assert_eq!(document["config"]["director"]["encap"]["source"], "auto");
    assert_eq!(document["config"]["vip"][0]["backend"][1]["weight"], 2);
    assert_eq!(document["plan"]["routes"][0], "10.0.0.100/32 dev tunlb0");
    assert_eq!(document["plan"]["overhead_bytes"], 20);
    assert_eq!(
        document["plan"]["vip"][0]["backend"][0]["share_percent"],
        33.33
    );
}

#[test]
fn idle_backends_have_no_share() {
    let content = with(
        "",
        "",
        "[[vip.backend]]\naddress = \"10.0.1.12\"\nstate = \"draining\"\nweight = 9",
    );
    let document = json(&check(content, &["--json"]));
    let shares = &document["plan"]["vip"][0]["backend"];
    assert_eq!(shares[0]["share_percent"], 100.0);
    assert_eq!(shares[1]["share_percent"], 0.0);
}

#[test]
fn the_hash_key_is_in_no_output() {
    let key = "c0a1f75e9b3344d2817f06e9ab5d20c8";
    let content = with(&format!("hash_key = \"{key}\""), "", "");
    for arguments in [&[][..], &["--json"]] {
        let output = check(&content, arguments);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(stderr(&output), "", "a set key is no warning");
        assert!(!stdout(&output).contains(&key[..8]));
        assert!(stdout(&output).contains("set"));
    }
}

#[test]
fn a_hash_key_that_others_may_read_is_warned_about() {
    let key = "hash_key = \"c0a1f75e9b3344d2817f06e9ab5d20c8\"";
    let file = file(with(key, "", ""));
    let run = |arguments: &[&str]| {
        let mut command = tunlb();
        command.arg("-c").arg(&file.path).args(arguments);
        command.output().unwrap()
    };
    fs::set_permissions(&file.path, Permissions::from_mode(0o644)).unwrap();
    let text = stderr(&run(&[]));
    let path = file.path.display();
    assert!(
        text.starts_with(&format!("warning: {path} holds hash_key and has mode 0644")),
        "{text}"
    );
    assert!(text.ends_with(&format!("; chmod 600 {path}\n")), "{text}");
    let warnings = json(&run(&["--json"]))["warnings"].clone();
    assert_eq!(warnings.as_array().unwrap().len(), 1, "{warnings}");
    // A FIFO or standard input has no mode that matters.
    let mut stdin = tunlb();
    stdin
        .args(["-c", "-"])
        .stdin(fs::File::open(&file.path).unwrap());
    assert_eq!(stderr(&stdin.output().unwrap()), "");
}

#[test]
fn problems_of_flags_name_the_flag() {
    let arguments = ["--vip", "10.0.0.100:80", "--backend", "10.0.0.300"];
    let output = tunlb().args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.contains("--vip 10.0.0.100:80: the protocol is missing"),
        "{text}"
    );
    assert!(
        text.contains("--backend 10.0.0.300: not an IPv4 or IPv6 address"),
        "{text}"
    );
    let document = json(&tunlb().args(arguments).arg("--json").output().unwrap());
    assert_eq!(document["problems"][0]["file"], Value::Null);
    assert_eq!(document["problems"][0]["key"], "--backend");
}

#[test]
fn what_cannot_be_judged_is_exit_code_2() {
    let missing = ["-c", "/nonexistent/tunlb.toml"];
    for arguments in [
        &missing[..],
        &["-c", "/"],
        &[],
        &["--vip", "10.0.0.100:80/tcp"],
        &["--backend", "10.0.1.11"],
        &[
            "-c",
            "f",
            "--vip",
            "10.0.0.100:80/tcp",
            "--backend",
            "10.0.1.11",
        ],
        &["-c", "f", "--tun", "x"],
        &["-c", "f", "--encap", "gue"],
    ] {
        let output = tunlb().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(stdout(&output), "", "{arguments:?}");
        assert_ne!(stderr(&output), "", "{arguments:?}");
    }
    let text = stderr(&tunlb().args(missing).output().unwrap());
    assert!(
        text.starts_with("tunlb: cannot read /nonexistent/tunlb.toml: No such file"),
        "{text}"
    );
}

#[test]
fn a_file_that_is_not_text_is_invalid() {
    let found = problems(b"[director]\ntun = \"\xff\"\n");
    assert_eq!(found, [(2, String::new(), "not UTF-8".to_owned())]);
    assert!(!problems([0_u8; 64]).is_empty());
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let backends: String = (1..250)
        .map(|n| format!("[[vip.backend]]\naddress = \"10.0.2.{n}\"\n"))
        .collect();
    let file = file(with("", "", &backends));
    let mut child = tunlb()
        .arg("-c")
        .arg(&file.path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut text = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{text}");
    assert!(!text.contains("panicked"), "{text}");
}

/// As many problems as a hostile file has lines: the first hundred, and how many more.
#[test]
fn problems_without_end() {
    for (content, first) in [
        (
            "tun = 1\n".repeat(50_000),
            "f.toml:1: tun: unknown key; accepted: director, metrics, vip\nf.toml:2: not TOML: duplicate key",
        ),
        (
            "?\n".repeat(200_000),
            "f.toml:1: not TOML: key with no value",
        ),
        (
            (0..50_000).map(|n| format!("k{n} = 1\n")).collect(),
            "f.toml: vip: there is no VIP; accepted: at least one [[vip]]\nf.toml:1: k0: unknown key",
        ),
        (
            "[[vip]]\naddress = \"10.0.0.1\"\n".repeat(50_000),
            "f.toml:1: vip[0].backend: the VIP has no backend",
        ),
    ] {
        let file = file(&content);
        let path = file.path.with_file_name("f.toml");
        fs::rename(&file.path, &path).unwrap();
        let run = |arguments: &[&str]| {
            let mut command = tunlb();
            command
                .current_dir(path.parent().unwrap())
                .args(["-c", "f.toml"]);
            command.args(arguments).output().unwrap()
        };
        let output = run(&[]);
        assert_eq!(output.status.code(), Some(1));
        let text = stderr(&output);
        assert!(text.starts_with(first), "{first}: {}", &text[..200]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 102, "a hundred, how many more, and the sum");
        let document = json(&run(&["--json"]));
        assert_eq!(document["problems"].as_array().unwrap().len(), 100);
        let total = document["problems_total"].as_u64().unwrap();
        assert!(total > 49_000, "{total}");
        assert_eq!(lines[100], format!("and {} more", total - 100));
        assert_eq!(
            lines[101],
            format!("tunlb: {total} problems in the configuration")
        );
    }
}

#[test]
fn files_without_end_are_refused() {
    let output = tunlb().args(["-c", "/dev/zero"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(text.contains("longer than 256 MiB, the limit"), "{text}");

    // What never ends is not read to its end.
    let mut child = tunlb()
        .args(["-c", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let block = [b'#'; 1 << 20];
    while stdin.write_all(&block).is_ok() {}
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(
        text.starts_with("tunlb: cannot read -: it is longer than"),
        "{text}"
    );
}

#[test]
fn a_configuration_on_standard_input() {
    for (content, code, words) in [
        (
            with("", "", ""),
            0,
            "warning: director.hash_key is the default",
        ),
        (
            with("workers = 0", "", ""),
            1,
            "stdin:2: director.workers = 0: out of range",
        ),
    ] {
        let file = file(&content);
        let output = tunlb()
            .args(["-c", "-"])
            .stdin(fs::File::open(&file.path).unwrap())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert!(stderr(&output).starts_with(words), "{}", stderr(&output));
    }
}

/// Escape sequences, C1 controls, text that runs backwards, and what is not seen.
const HOSTILE: &str = "a\u{1b}[2J\u{9b}31m\u{202e}\u{200b}\u{7f}\rb";

#[test]
fn a_terminal_obeys_nothing_of_a_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(HOSTILE);
    let contents = [
        format!("[director]\ntun = '{HOSTILE}'\n").replace(['\u{1b}', '\u{7f}', '\r'], ""),
        "[[vip]]\nname = \"a\\u001b[2J\\u202eb\"\naddress = \"\\u001b\\u0085\"\n".to_owned(),
        format!("\"{HOSTILE}\" = 1\n[director.\"\\u001b\\u202e\"]\n"),
        format!("[director]\nencap.source = [\"\\u001b\\u202e{HOSTILE}\"]\n"),
        format!("[{HOSTILE}\n{HOSTILE} = {HOSTILE}\n"),
    ];
    for content in contents {
        fs::write(&path, &content).unwrap();
        for json in [None, Some("--json")] {
            let output = tunlb().arg("-c").arg(&path).args(json).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{content:?}");
            assert_plain(&stdout(&output));
            assert_plain(&stderr(&output));
        }
    }
    for arguments in [
        vec!["-c".to_owned(), format!("/nowhere/{HOSTILE}")],
        vec![
            "--vip".to_owned(),
            HOSTILE.to_owned(),
            "--backend=x".to_owned(),
        ],
        vec![HOSTILE.to_owned()],
        vec![format!("--{HOSTILE}")],
    ] {
        let output = tunlb().args(&arguments).output().unwrap();
        assert_ne!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!stderr(&output).is_empty());
        assert_plain(&stderr(&output));
    }
}

fn assert_plain(text: &str) {
    let printable = |letter: char| "\n\"'\\".contains(letter) || letter.escape_debug().eq([letter]);
    assert!(text.chars().all(printable), "{text:?}");
}

#[test]
fn text_without_quotes_and_addresses_in_brackets() {
    for (content, message) in [
        (
            "[[vip]]\naddress = 203.0.113.10\n",
            "a value that is text needs quotes; accepted: address = \"…\"",
        ),
        (
            "[[vip]]\naddress = 2001:db8::1\n",
            "a value that is text needs quotes; accepted: address = \"…\"",
        ),
        (
            "[[vip]]\naddress = \"[2001:db8::1]\"\n",
            "an address in brackets; without them it is one",
        ),
        ("[[vip]]\nprot = \"tcp\"\n", "did you mean protocol?"),
    ] {
        let text = stderr(&check(content, &[]));
        assert!(text.contains(message), "{content}{text}");
    }
}
