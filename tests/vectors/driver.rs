//! The vectors through the program that runs in drivers (BPF_PROG_TEST_RUN): what it takes leaves byte for byte as
//! by [`Director`](tunlb::director::Director), and everything else goes to the kernel, and so to that.
//!
//! Each test runs this program again as root of a network namespace, whose routes lead to the backends.

use std::collections::HashMap;
use std::process::Command;
use std::time::Duration;

use aya::programs::{TestRun as _, TestRunOptions};
use tunlb::daemon::pipeline::MemoryPipeline;
use tunlb::daemon::xdp::Driver;
use tunlb::director::Timestamp;
use tunlb::io::netlink::Netlink;
use tunlb::io::xdp::layout::{OUTCOMES, Port};

use crate::core::{decide, director};
use crate::table::Table;
use crate::wire::{TCP, UDP, checksum, to};
use crate::{Seen, tables};

/// Verdicts of XDP (linux/bpf.h).
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

pub(crate) const LINK_HEADER: usize = 14;

/// Longer frames than a page with room around it are given to programs for frames in parts only.
const LONGEST: usize = 3400;

/// Runs the ignored test `name` in a network namespace.
pub(crate) fn in_namespace(name: &str) {
    let id = Command::new("id").arg("-u").output().unwrap();
    assert_eq!(
        id.stdout, b"0\n",
        "{name} loads BPF programs, which only root of the first user namespace may: run the tests as root"
    );
    let output = Command::new("unshare")
        .args(["--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--nocapture", "--exact", name])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub(crate) fn sh(script: &str) {
    let output = Command::new("sh").args(["-euc", script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {text}");
}

/// A device with all backends of the tables as neighbours.
pub(crate) const WAY_OUT: &str = "
    ip link set lo up
    sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    ip link add v0 address 02:00:00:00:00:01 mtu 65535 type veth peer name v1 mtu 65535
    ip link set v0 up; ip link set v1 up
    ip address add 10.0.0.2/15 dev v0
    ip -6 address add 2001:db8:e::2/64 dev v0 nodad
    ip -6 route add 2001:db8:1::/64 dev v0
    for last in $(seq 11 30); do
        ip neighbour add 10.0.1.$last lladdr 02:00:00:00:01:$last dev v0
        ip neighbour add 2001:db8:1::$last lladdr 02:00:00:00:06:$last dev v0
    done";

/// The program and a director that decide by one snapshot, each with flows of its own.
struct Twins {
    core: MemoryPipeline,
    driver: Driver,
}

impl Twins {
    fn new(table: &Table) -> Self {
        let core = director(table);
        let snapshot = core.director().snapshot();
        let mut driver = Driver::load(snapshot, 1, Timestamp::START).unwrap();
        let way_out = Netlink::open().unwrap().link("v0").unwrap().unwrap();
        let lo = Port {
            index: 1, // what BPF_PROG_TEST_RUN says that packets come by
            address: [0; 6],
            redirects: false,
        };
        driver.fill.set_ports(vec![lo], &[way_out.index]).unwrap();
        Self { core, driver }
    }

    fn run(&self, frame: &[u8]) -> (u32, Vec<u8>) {
        run(&self.driver, frame)
    }

    /// Why the last packet went where it did.
    fn outcomes(&self) -> HashMap<&'static str, u64> {
        let counts = self.driver.counts.outcomes();
        OUTCOMES.into_iter().zip(counts).collect()
    }

    /// What the program says of a packet must be what the core says, or nothing.
    fn compare(&mut self, what: &str, packet: &[u8], now: Duration) -> (u32, Seen) {
        let (verdict, left) = self.run(&frame(packet));
        let seen = decide(&mut self.core, packet, now);
        match verdict {
            XDP_PASS => assert_eq!(left, frame(packet), "{what}: passed as it came"),
            XDP_REDIRECT => {
                assert_eq!(seen.verdict, "forward", "{what}: {packet:02x?}");
                let [expected] = &seen.output[..] else {
                    panic!("{what}: {seen:?}");
                };
                let outer = &left[LINK_HEADER..];
                let outer = &outer[..outer.len().min(expected.len())];
                assert_eq!(outer, alike(expected, outer), "{what}: {packet:02x?}");
                let ethertype = u16::from_be_bytes([left[12], left[13]]);
                let version = if outer[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
                assert_eq!(ethertype, version, "{what}");
                assert_eq!(left[..4], [2, 0, 0, 0], "{what}: a neighbour");
                assert_eq!(left[6..12], [2, 0, 0, 0, 0, 1], "{what}: the way out");
            }
            XDP_DROP => assert_eq!(seen.reason.as_deref(), Some("no_backend"), "{what}"),
            other => panic!(
                "{what}: verdict {other}: {packet:02x?} {:?}",
                self.outcomes()
            ),
        }
        (verdict, seen)
    }
}

/// The verdict of the program, and the frame that it left.
pub(crate) fn run(driver: &Driver, frame: &[u8]) -> (u32, Vec<u8>) {
    let mut out = vec![0; frame.len() + 256];
    let program = driver.program.program().unwrap();
    let result = program
        .test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        })
        .unwrap();
    out.truncate(result.data_size_out as usize);
    (result.return_value, out)
}

/// To the device that it came by, from another one.
pub(crate) fn frame(packet: &[u8]) -> Vec<u8> {
    let ethertype: u16 = match packet.first().map(|first| first >> 4) {
        Some(6) => 0x86dd,
        _ => 0x0800,
    };
    let mut frame = vec![0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 9, 9];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    frame
}

/// `expected` with the identification that `seen` has, where it has one: each path counts its own.
fn alike(expected: &[u8], seen: &[u8]) -> Vec<u8> {
    let mut expected = expected.to_vec();
    let may_be_fragmented = expected[0] >> 4 == 4 && expected[6] & 0x40 == 0;
    if may_be_fragmented && seen.len() >= 20 {
        assert_ne!(seen[4..6], [0, 0]);
        expected[4..6].copy_from_slice(&seen[4..6]);
        expected[10..12].copy_from_slice(&[0, 0]);
        let sum = checksum(&expected[..20]);
        expected[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    expected
}

/// Whether the program should take a packet: TCP or UDP directly in IP, whole.
fn is_plain(packet: &[u8]) -> bool {
    if packet.len() < 28 {
        return false;
    }
    match packet[0] >> 4 {
        4 => {
            let fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff;
            packet[0] == 0x45 && fragment == 0 && packet[8] > 1 && [6, 17].contains(&packet[9])
        }
        _ => [6, 17].contains(&packet[6]) && packet[7] > 1,
    }
}

#[test]
fn vectors_through_the_driver() {
    in_namespace("driver::vectors");
}

#[test]
#[ignore = "in a network namespace"]
fn vectors() {
    sh(WAY_OUT);
    let mut taken = 0;
    for table in tables() {
        let (mut twins, mut now) = (Twins::new(&table), Duration::ZERO);
        for vector in &table.vectors {
            now += vector.pause;
            if vector.input.len() > LONGEST {
                continue;
            }
            let (verdict, _) = twins.compare(&vector.description, &vector.input, now);
            let wanted = vector.verdict == "forward" && is_plain(&vector.input);
            let (description, outcomes) = (&vector.description, twins.outcomes());
            assert_eq!(
                verdict == XDP_REDIRECT,
                wanted,
                "{description}: {outcomes:?}"
            );
            taken += u32::from(wanted);
        }
    }
    assert!(taken > 20, "{taken} vectors are taken");
}

#[test]
fn lies_through_the_driver() {
    in_namespace("driver::lies");
}

/// Headers that are cut, padded or lie: the program takes nothing that the core does not forward so.
#[test]
#[ignore = "in a network namespace"]
fn lies() {
    sh(WAY_OUT);
    let now = Duration::ZERO;
    for table in tables() {
        let mut twins = Twins::new(&table);
        for vector in table.vectors.iter().filter(|one| one.input.len() < 300) {
            let what = &vector.description;
            for end in 0..vector.input.len() {
                let (verdict, _) = twins.compare(what, &vector.input[..end], now);
                assert_eq!(verdict, XDP_PASS, "{what} cut to {end} bytes");
            }
            let padded = [&vector.input[..], &[0xff; 46]].concat();
            if vector.pause.is_zero() && is_plain(&vector.input) {
                twins.compare(what, &padded, now);
            }
            let mut packet = vector.input.clone();
            for at in 0..packet.len().min(64) {
                let truth = packet[at];
                for lie in [0, 1, truth.wrapping_add(1), 0x7f, 0xff] {
                    packet[at] = lie;
                    twins.compare(what, &packet, now);
                }
                packet[at] = truth;
            }
        }
    }
}

#[test]
fn frames_that_are_not_for_us() {
    in_namespace("driver::strangers");
}

#[test]
#[ignore = "in a network namespace"]
fn strangers() {
    sh(WAY_OUT);
    let [table, _] = tables();
    let mut twins = Twins::new(&table);
    let mut strange = frame(&table.vectors[0].input);
    let plain = strange.clone();
    assert_eq!(twins.run(&plain).0, XDP_REDIRECT);
    strange[5] = 7;
    assert_eq!(twins.run(&strange).0, XDP_PASS, "another host's");
    let tagged = |tags: &[[u8; 4]]| [&plain[..12], &tags.concat(), &plain[12..]].concat();
    let (c, s) = ([0x81, 0, 0, 9], [0x88, 0xa8, 0, 7]);
    for tags in [&[c][..], &[s, c]] {
        let (verdict, left) = twins.run(&tagged(tags));
        assert_eq!(verdict, XDP_REDIRECT, "{tags:?}");
        assert_eq!(left[12..14], [8, 0], "without its tags");
        assert_eq!(left.len(), plain.len() + 20);
    }
    assert_eq!(twins.run(&tagged(&[s, c, c])).0, XDP_PASS, "three tags");
    twins.driver.fill.pause();
    assert_eq!(twins.run(&plain).0, XDP_PASS, "nothing to decide by");
}

#[test]
fn random_flows_through_the_driver() {
    in_namespace("driver::random_flows");
}

/// As many as `TUNLB_DIFFERENTIAL` says.
#[test]
#[ignore = "in a network namespace"]
fn random_flows() {
    sh(WAY_OUT);
    let wanted = std::env::var("TUNLB_DIFFERENTIAL");
    let wanted: u32 = wanted.map_or(20_000, |number| number.parse().unwrap());
    let [table, _] = tables();
    let mut twins = Twins::new(&table);
    let mut backends = HashMap::<_, u32>::new();
    let vips = [
        ("203.0.113.14", 0, TCP),
        ("203.0.113.15", 80, TCP),
        ("203.0.113.16", 80, TCP),
    ];
    for number in 0..wanted {
        let (vip, port, protocol) = vips[number as usize % vips.len()];
        let mixed = number.wrapping_mul(0x9e37_79b9).to_be_bytes();
        let mut ip = to(vip);
        ip.source = [192, mixed[0], mixed[1], mixed[2]].into();
        let any = u16::from_be_bytes([mixed[1], mixed[0]]).max(1);
        let port = if port == 0 { any } else { port };
        let mut tcp = [
            mixed[2], mixed[3], 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 1, 0, 0, 0, 0, 0,
        ];
        tcp[2..4].copy_from_slice(&port.to_be_bytes());
        let packet = ip.carrying(protocol, &tcp);
        let (verdict, seen) = twins.compare("a random flow", &packet, Duration::ZERO);
        assert_eq!(verdict, XDP_REDIRECT);
        *backends.entry(seen.backend.unwrap()).or_default() += 1;
    }
    assert!(backends.len() >= 3 && UDP != TCP, "{backends:?}");
    let traffic: u64 = (0..32)
        .map(|backend| twins.driver.counts.traffic(backend)[0])
        .sum();
    assert_eq!(
        traffic,
        u64::from(wanted),
        "every packet is counted for its backend"
    );
}
