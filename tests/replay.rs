//! `tunlb replay` and `tunlb explain` as an operator runs them: captures of literal bytes, the built
//! binary, its streams, its output file and its exit code.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

const CONFIG: &str = r#"
[director]
hash_key = "00112233445566778899aabbccddeeff"
[director.encap]
source = "10.0.0.2"
[[vip]]
name = "web"
address = "203.0.113.10"
port = 80
protocol = "tcp"
[[vip.backend]]
address = "10.0.0.3"
[[vip]]
name = "dns"
address = "203.0.113.10"
port = 53
protocol = "udp"
[[vip.backend]]
address = "10.0.0.4"
"#;

const CLIENT: [u8; 4] = [192, 0, 2, 1];
const VIP: [u8; 4] = [203, 0, 113, 10];

/// A directory with the configuration and a capture.
struct Site {
    dir: TempDir,
}

impl Site {
    fn new(capture: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tunlb.toml"), CONFIG).unwrap();
        fs::write(dir.path().join("in.pcap"), capture).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tunlb"));
        command
            .args(arguments)
            .args(["-c", "tunlb.toml"])
            .current_dir(&self.dir);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The lines of `replay --json` of a good capture, without what they say of the packet itself.
    fn lines(&self) -> Vec<Value> {
        let output = self.run(&["replay", "in.pcap", "--json"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let text = stdout(&output);
        let line = |line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            let fields = line.as_object_mut().unwrap();
            for field in ["schema", "time", "source", "destination", "protocol"] {
                assert!(fields.remove(field).is_some(), "no {field} in {line}");
            }
            line
        };
        text.lines().map(line).collect()
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A little-endian file of microseconds; each packet with its time in milliseconds.
fn pcap(link: u8, packets: &[(u32, &[u8])]) -> Vec<u8> {
    let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0];
    file.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, link, 0, 0, 0]);
    for (millis, bytes) in packets {
        let length = u32::try_from(bytes.len()).unwrap();
        for word in [millis / 1000, millis % 1000 * 1000, length, length] {
            file.extend(word.to_le_bytes());
        }
        file.extend(*bytes);
    }
    file
}

/// IPv4 with DF where it is no fragment. `fragment` is the offset in units of 8 bytes, and MF.
fn ipv4(
    destination: [u8; 4],
    protocol: u8,
    fragment: Option<(u16, bool)>,
    payload: &[u8],
) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap();
    let place = fragment.map_or(0x4000, |(offset, more)| offset | u16::from(more) << 13);
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 7]);
    packet.extend(place.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(CLIENT);
    packet.extend(destination);
    packet.extend(payload);
    packet
}

/// Ports 40000 and 80, SYN.
#[rustfmt::skip]
const SYN: [u8; 20] = [
    0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0,
];

fn syn() -> Vec<u8> {
    ipv4(VIP, 6, None, &SYN)
}

/// A datagram of 24 bytes to port 53 in two fragments.
fn fragments() -> [Vec<u8>; 2] {
    let head = [0x9c, 0x40, 0, 53, 0, 24, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let tail = [9, 10, 11, 12, 13, 14, 15, 16];
    [
        ipv4(VIP, 17, Some((0, true)), &head),
        ipv4(VIP, 17, Some((2, false)), &tail),
    ]
}

/// Fragmentation needed, about a segment from that source to the client.
fn icmp_error(quoted_source: [u8; 4]) -> Vec<u8> {
    let mut message = vec![3, 4, 0, 0, 0, 0, 5, 20];
    message.extend([0x45, 0, 5, 220, 0, 7, 0x40, 0, 64, 6, 0, 0]);
    message.extend(quoted_source);
    message.extend(CLIENT);
    message.extend([0, 80, 0x9c, 0x40, 0, 0, 0, 1]);
    ipv4(VIP, 1, None, &message)
}

fn ethernet(tags: &[u8], ethertype: [u8; 2], payload: &[u8]) -> Vec<u8> {
    [&[0xee; 12], tags, &ethertype, payload].concat()
}

fn forward(packet: u64, vip: &str, backend: &str, emitted: u64) -> Value {
    json!({"packet": packet, "verdict": "forward", "reason": null, "vip": vip,
           "backend": backend, "emitted": emitted})
}

fn dropped(packet: u64, reason: &str) -> Value {
    json!({"packet": packet, "verdict": "drop", "reason": reason, "vip": null,
           "backend": null, "emitted": 0})
}

fn held(packet: u64) -> Value {
    json!({"packet": packet, "verdict": "hold", "reason": null, "vip": null,
           "backend": null, "emitted": 0})
}

#[test]
fn the_line_of_the_contract() {
    let site = Site::new(&pcap(101, &[(0, &syn())]));
    let output = site.run(&["replay", "in.pcap", "--json"]);
    let line = concat!(
        r#"{"packet":1,"verdict":"forward","reason":null,"vip":"web","backend":"10.0.0.3","emitted":1,"#,
        r#""schema":1,"time":"0.000000000","source":"192.0.2.1:40000","#,
        r#""destination":"203.0.113.10:80","protocol":"tcp"}"#
    );
    assert_eq!(stdout(&output), format!("{line}\n"));
}

#[test]
fn verdicts() {
    let echo = ipv4(VIP, 1, None, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    let site = Site::new(&pcap(
        101,
        &[
            (0, &syn()),
            (1, &echo),
            (2, &icmp_error(VIP)),
            (3, &icmp_error([203, 0, 113, 11])),
            (4, &ipv4([203, 0, 113, 11], 6, None, &SYN)),
            (5, &ipv4(VIP, 47, None, &SYN)),
            (6, &syn()[..39]),
        ],
    ));
    let reply = json!({"packet": 2, "verdict": "reply", "reason": null, "vip": "web",
                       "backend": null, "emitted": 1});
    assert_eq!(
        site.lines(),
        [
            forward(1, "web", "10.0.0.3", 1),
            reply,
            forward(3, "web", "10.0.0.3", 1),
            dropped(4, "icmp_no_flow"),
            dropped(5, "no_vip"),
            dropped(6, "unsupported_protocol"),
            dropped(7, "malformed"),
        ]
    );
}

#[test]
fn fragments_in_any_order() {
    let [head, tail] = fragments();
    let in_order = Site::new(&pcap(101, &[(0, &head), (1, &tail)]));
    assert_eq!(
        in_order.lines(),
        [
            forward(1, "dns", "10.0.0.4", 1),
            forward(2, "dns", "10.0.0.4", 1)
        ]
    );
    let reversed = Site::new(&pcap(101, &[(0, &tail), (1, &syn()), (2, &head)]));
    assert_eq!(
        reversed.lines(),
        [
            held(1),
            forward(2, "web", "10.0.0.3", 1),
            forward(3, "dns", "10.0.0.4", 2)
        ]
    );
}

/// The capture's clock counts, and it never runs backwards.
#[test]
fn fragments_wait_by_the_clock_of_the_capture() {
    let [head, tail] = fragments();
    let backwards = pcap(101, &[(5000, &tail), (0, &syn()), (5900, &head)]);
    assert_eq!(
        Site::new(&backwards).lines()[2],
        forward(3, "dns", "10.0.0.4", 2)
    );
    let late = pcap(
        101,
        &[(0, &tail), (1500, &syn()), (1600, &head), (1700, &tail)],
    );
    let site = Site::new(&late);
    assert_eq!(site.lines()[2], forward(3, "dns", "10.0.0.4", 1));
    let summary = stdout(&site.run(&["replay", "in.pcap"]));
    assert!(
        summary.contains("dropped fragment_timeout 1\n"),
        "{summary}"
    );

    let site = Site::new(&pcap(101, &[(0, &tail)]));
    let summary = stdout(&site.run(&["replay", "in.pcap"]));
    assert!(
        summary.contains("held 1 fragment that still waited"),
        "{summary}"
    );
}

#[test]
fn frames() {
    let arp = ethernet(&[], [8, 6], &[0; 28]);
    // Short frames are padded to 60 bytes; nothing of it is the packet's.
    let padded = ethernet(&[], [8, 0], &[&syn()[..], &[0xff; 6]].concat());
    let tagged = ethernet(&[0x81, 0, 0, 7], [8, 0], &syn());
    let twice = ethernet(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8], [8, 0], &syn());
    let site = Site::new(&pcap(
        1,
        &[(0, &padded), (1, &tagged), (2, &twice), (3, &arp)],
    ));
    let to_web = |packet| forward(packet, "web", "10.0.0.3", 1);
    assert_eq!(
        site.lines(),
        [to_web(1), to_web(2), to_web(3), dropped(4, "malformed")]
    );
    let summary = stdout(&site.run(&["replay", "in.pcap", "--verbose"]));
    assert_eq!(
        summary,
        "1: forward vip web backend 10.0.0.3, 192.0.2.1:40000 > 203.0.113.10:80/tcp, at 0.000000\n\
         2: forward vip web backend 10.0.0.3, 192.0.2.1:40000 > 203.0.113.10:80/tcp, at 0.001000\n\
         3: forward vip web backend 10.0.0.3, 192.0.2.1:40000 > 203.0.113.10:80/tcp, at 0.002000\n\
         4: drop malformed, at 0.003000\n\
         replayed 4 packets\n\
         vip web\n  backend 10.0.0.3                   3 packets             120 bytes\n\
         vip dns\n  backend 10.0.0.4                   0 packets               0 bytes\n\
         dropped malformed 1\n\
         malformed: 1 frame without IP, such as ARP\n"
    );
}

/// pcapng of both byte orders: a section each, with one enhanced packet from a raw interface.
#[test]
fn pcapng_of_both_byte_orders() {
    fn section(bytes_of: fn(u32) -> [u8; 4], half: fn(u16) -> [u8; 2], packet: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut words = |words: &[u32]| file.extend(words.iter().flat_map(|&word| bytes_of(word)));
        words(&[0x0a0d_0d0a, 28, 0x1a2b_3c4d]);
        file.extend([half(1), half(0)].as_flattened());
        let mut words = |words: &[u32]| file.extend(words.iter().flat_map(|&word| bytes_of(word)));
        words(&[u32::MAX, u32::MAX, 28]);
        words(&[1, 20]);
        file.extend([half(101), half(0)].as_flattened());
        let mut words = |words: &[u32]| file.extend(words.iter().flat_map(|&word| bytes_of(word)));
        words(&[0, 20]);
        let length = u32::try_from(packet.len()).unwrap();
        words(&[6, 32 + length, 0, 0, 1_000_000, length, length]);
        file.extend(packet);
        file.extend(bytes_of(32 + length));
        file
    }
    let big = section(u32::to_be_bytes, u16::to_be_bytes, &syn());
    let little = section(u32::to_le_bytes, u16::to_le_bytes, &syn());
    let site = Site::new(&[big, little].concat());
    let to_web = |packet| forward(packet, "web", "10.0.0.3", 1);
    assert_eq!(site.lines(), [to_web(1), to_web(2)]);
}

#[test]
fn output_is_what_the_director_emits() {
    let [head, tail] = fragments();
    let mut input = pcap(101, &[(1000, &tail), (2, &syn()), (1001, &head)]);
    // The magic number of nanoseconds: 2 ms as `pcap` writes them become 2000 ns.
    input[..4].copy_from_slice(&[0x4d, 0x3c, 0xb2, 0xa1]);
    let site = Site::new(&input);
    let output = site.run(&["replay", "in.pcap", "--output", "out.pcap", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));

    let mut expected = vec![0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0];
    expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 101, 0, 0, 0]);
    let mut emitted = |seconds: u32, nanos: u32, outer: [u8; 20], inner: &[u8]| {
        let length = u32::try_from(20 + inner.len()).unwrap();
        for word in [seconds, nanos, length, length] {
            expected.extend(word.to_le_bytes());
        }
        expected.extend(outer);
        expected.extend(inner);
    };
    #[rustfmt::skip]
    let syn_outer = [
        0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 4, 0x26, 0xba, 10, 0, 0, 2, 10, 0, 0, 3,
    ];
    // Without DF the outer identification counts, from 1: the kernel would replace a 0.
    #[rustfmt::skip]
    let head_outer = [
        0x45, 0, 0, 56, 0, 1, 0, 0, 64, 4, 0x66, 0xbc, 10, 0, 0, 2, 10, 0, 0, 4,
    ];
    #[rustfmt::skip]
    let tail_outer = [
        0x45, 0, 0, 48, 0, 2, 0, 0, 64, 4, 0x66, 0xc3, 10, 0, 0, 2, 10, 0, 0, 4,
    ];
    emitted(0, 2000, syn_outer, &syn());
    emitted(1, 1000, head_outer, &head);
    emitted(1, 1000, tail_outer, &tail);
    assert_eq!(fs::read(site.path("out.pcap")).unwrap(), expected);
}

#[test]
fn the_input_is_never_overwritten() {
    let capture = pcap(101, &[(0, &syn())]);
    let site = Site::new(&capture);
    let output = site.run(&["replay", "in.pcap", "--output", "./in.pcap"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("is the input"));
    assert_eq!(fs::read(site.path("in.pcap")).unwrap(), capture);
}

#[test]
fn no_other_file_is_overwritten_either() {
    let site = Site::new(&pcap(101, &[(0, &syn())]));
    let replay = || site.run(&["replay", "in.pcap", "--output", "out.pcap"]);
    assert_eq!(replay().status.code(), Some(0));
    let written = fs::metadata(site.path("out.pcap")).unwrap();
    assert_eq!(written.permissions().mode() & 0o777, 0o600);
    fs::write(site.path("out.pcap"), "kept").unwrap();
    symlink("target", site.path("link")).unwrap();
    for name in ["out.pcap", "link"] {
        let output = site.run(&["replay", "in.pcap", "--output", name]);
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(stdout(&output), "");
        let message = format!("--output {name} is there already, and is not overwritten");
        assert!(stderr(&output).contains(&message), "{}", stderr(&output));
    }
    assert_eq!(fs::read(site.path("out.pcap")).unwrap(), b"kept");
    assert!(!site.path("target").exists());
}

#[test]
fn standard_input_and_output() {
    let capture = pcap(101, &[(0, &syn())]);
    let site = Site::new(&capture);
    assert_eq!(
        site.run(&["replay", "in.pcap", "--output", "out.pcap"])
            .status
            .code(),
        Some(0)
    );
    let expected = fs::read(site.path("out.pcap")).unwrap();
    for stdout_name in ["-", "/dev/stdout"] {
        let mut command = site.command(&["replay", "-", "--verbose", "--output", stdout_name]);
        let stdin = fs::File::open(site.path("in.pcap")).unwrap();
        let output = command.stdin(stdin).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(output.stdout, expected);
        let text = stderr(&output);
        assert!(text.starts_with("1: forward vip web"), "{text}");
        assert!(text.contains("\nreplayed 1 packet\nvip web\n"), "{text}");
    }
    let output = site.command(&["replay", "-"]);
    let arguments = ["replay", "-", "-c", "-"];
    let mut both = Command::new(output.get_program());
    let output = both.args(arguments).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("cannot both be standard input"));
}

#[test]
fn packets_by_a_fifo_until_its_reader_ends() {
    let packet = syn();
    let packets: Vec<(u32, &[u8])> = (0..5000).map(|at| (at, &packet[..])).collect();
    let site = Site::new(&pcap(101, &packets));
    let made = Command::new("mkfifo").arg(site.path("fifo")).status();
    assert!(made.unwrap().success());
    let mut reader = Command::new("head");
    reader.args(["-c", "100"]).arg(site.path("fifo"));
    let reader = reader.stdout(Stdio::piped()).spawn().unwrap();
    let output = site.run(&["replay", "in.pcap", "--output", "fifo"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(reader.wait_with_output().unwrap().stdout.len(), 100);
}

#[test]
fn what_is_no_capture_says_what_it_is() {
    let fddi = pcap(10, &[(0, &syn())]);
    for (content, message) in [
        (&b"not a capture"[..], "it is text"),
        (b"", "the file is empty"),
        (
            &[0x1f, 0x8b, 8, 8, 0],
            "it is compressed by gzip; unpack it first: gunzip",
        ),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd; unpack it first: unzstd"),
        (
            &pcap(101, &[])[..10],
            "the file ends at byte 10, within the file header at byte 0",
        ),
        (&fddi, "byte 20: link type 10 is not supported"),
    ] {
        let site = Site::new(content);
        let output = site.run(&["replay", "in.pcap", "--output", "out.pcap"]);
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(stdout(&output), "", "no summary of nothing");
        let text = stderr(&output);
        assert!(
            text.starts_with("tunlb: in.pcap: ") && text.contains(message),
            "{text}"
        );
        assert!(!site.path("out.pcap").exists());
    }
    let output = Site::new(b"").run(&["replay", "."]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stdout(&output), "");
    assert!(stderr(&output).contains("cannot read .: it is a directory"));
}

#[test]
fn damaged_captures() {
    // What came before the damage is answered, and written.
    let mut capture = pcap(101, &[(0, &syn()), (1, &syn())]);
    capture.truncate(capture.len() - 1);
    let site = Site::new(&capture);
    let output = site.run(&["replay", "in.pcap", "--json", "--output", "out.pcap"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stdout(&output).lines().count(), 1);
    let message = "in.pcap: the file ends at byte 135, within the packet record at byte 80";
    assert!(stderr(&output).contains(message), "{}", stderr(&output));
    assert_eq!(fs::read(site.path("out.pcap")).unwrap().len(), 24 + 16 + 60);

    let output = site.run(&["replay", "missing.pcap"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("cannot open missing.pcap"));
}

#[test]
fn cut_packets_are_said() {
    let mut capture = pcap(101, &[(0, &syn()[..30])]);
    capture[24 + 12] = 40;
    let output = Site::new(&capture).run(&["replay", "in.pcap", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stderr(&output).contains("1 of 1 packet cut short"));
}

#[test]
fn a_reader_may_stop_reading() {
    let packet = syn();
    let packets: Vec<(u32, &[u8])> = (0..5000).map(|at| (at, &packet[..])).collect();
    let site = Site::new(&pcap(101, &packets));
    let mut command = site.command(&["replay", "in.pcap", "--json", "--output", "out.pcap"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut complaints = String::new();
    let mut stderr = child.stderr.take().unwrap();
    stderr.read_to_string(&mut complaints).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{complaints}");
    assert_eq!(complaints, "");
    // The file is written to its end nevertheless.
    let length = fs::metadata(site.path("out.pcap")).unwrap().len();
    assert_eq!(length, 24 + 5000 * (16 + 60));
}

#[test]
fn explain() {
    let site = Site::new(b"");
    let explain = |arguments: &[&str]| site.run(&[&["explain"], arguments].concat());
    let output = explain(&["192.0.2.1:40000", "203.0.113.10:80/tcp", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["schema"], 1);
    assert_eq!(document["verdict"], "forward");
    assert_eq!(document["vip"]["name"], "web");
    assert_eq!(document["vip"]["port_rule"], "exact");
    assert_eq!(document["vip"]["hash"], "5-tuple");
    assert!(document["slot"].as_u64().unwrap() < 65_537);
    assert_eq!(document["backend"], "10.0.0.3");
    assert_eq!(
        document["outer"],
        json!({"kind": "ipip", "source": "10.0.0.2", "destination": "10.0.0.3", "ttl": 64,
               "protocol": 4, "source_port": null, "destination_port": null,
               "overhead_bytes": 20})
    );

    let output = explain(&["192.0.2.1:40000", "203.0.113.10:80/tcp"]);
    let text = stdout(&output);
    assert!(text.starts_with("flow     192.0.2.1:40000 > 203.0.113.10:80/tcp\n"));
    assert!(text.contains("vip      web 203.0.113.10:80/tcp, matched by exact port\n"));
    assert!(text.contains("outer    ipip 10.0.0.2 > 10.0.0.3, TTL 64, protocol 4, 20 bytes\n"));
    assert!(!text.contains("datapath"), "all come by the TUN: {text}");

    let output = explain(&["192.0.2.1:40000", "203.0.113.10:81/tcp"]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.contains("verdict  drop no_vip\n"), "{text}");
    assert!(
        text.contains("known    dns 203.0.113.10:53/udp\n"),
        "{text}"
    );
}

#[test]
fn explain_names_the_data_path() {
    let site = Site::new(b"");
    let path = |director: &str, vip: &str| {
        let config = CONFIG.replacen("[director]", &format!("[director]\n{director}"), 1);
        let config = config.replacen("port = 80", &format!("port = 80\n{vip}"), 1);
        fs::write(site.path("tunlb.toml"), config).unwrap();
        let output = site.run(&[
            "explain",
            "192.0.2.1:40000",
            "203.0.113.10:80/tcp",
            "--json",
        ]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let text = stdout(&site.run(&["explain", "192.0.2.1:40000", "203.0.113.10:80/tcp"]));
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        (document["datapath"].clone(), text)
    };
    let (tun, _) = path("", "");
    assert_eq!(
        tun,
        json!({"kind": "tun", "interfaces": [], "syns_by_tun": false})
    );
    let keys = "datapath = \"auto\"\ninterface = [\"eth0\", \"eth1\"]";
    let (driver, text) = path(keys, "mss = \"clamp\"");
    assert_eq!(
        driver,
        json!({"kind": "auto", "interfaces": ["eth0", "eth1"], "syns_by_tun": true})
    );
    let words = "datapath XDP, where this host lets it, decides what comes by eth0, eth1; by the TUN come SYNs (mss = \"clamp\"), fragments, ";
    assert!(text.contains(words), "{text}");
}

#[test]
fn a_terminal_obeys_nothing_of_an_argument() {
    let site = Site::new(b"");
    let hostile = "192.0.2.1\u{1b}[2J\u{202e}\u{9b}\rerror: none";
    for arguments in [
        ["explain", hostile, "203.0.113.10:80/tcp"],
        ["explain", "192.0.2.1:1", hostile],
        ["replay", hostile, "--json"],
        ["replay", "in.pcap", &format!("--output=/nowhere/{hostile}")],
    ] {
        let output = site.run(&arguments);
        assert_eq!(output.status.code(), Some(2));
        let text = stderr(&output);
        let printable =
            |letter: char| "\n\"'\\".contains(letter) || letter.escape_debug().eq([letter]);
        assert!(text.chars().all(printable), "{text:?}");
    }
}

#[test]
fn explain_what_cannot_be_a_flow() {
    let site = Site::new(b"");
    for (client, service, message) in [
        ("192.0.2.1", "203.0.113.10:80/tcp", "not ADDR:PORT such as"),
        ("192.0.2.1:1", "203.0.113.10:80", "not ADDR:PORT/PROTO such"),
        (
            "[2001:db8::1]:1",
            "203.0.113.10:80/tcp",
            "different address families",
        ),
    ] {
        let output = site.run(&["explain", client, service]);
        assert_eq!(output.status.code(), Some(2), "{client} {service}");
        assert!(stderr(&output).contains(message), "{}", stderr(&output));
    }
}
