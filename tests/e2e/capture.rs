//! `tunlb run --capture`: what became of each packet, read back by programs that are not tunlb's.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::enter::{in_lab, tunlb};
use crate::lab::{Lab, Node, wait_until};
use crate::process::{Ended, Process, Signal};
use crate::site::{Director, Site, URL, VIP, WEB, succeeded};
use crate::totals::Totals;

const PCAPNG: &str = include_str!("tools/pcapng.py");
const INJECT: &str = include_str!("tools/inject.py");

/// The only backend of these tests.
const B1: &str = "10.0.1.11";

/// Sends one datagram to a port that no VIP has.
const DATAGRAM: &str = "import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'?', ('10.0.0.100', 5353))";

#[test]
fn a_capture_says_what_became_of_each_packet() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let path = new_file(lab);
        let mut director = run(&site, &path, &[]);
        assert_eq!(site.get(), "b1");
        site.client.run_python(DATAGRAM, &[]);
        site.client.run(&format!("ping -c 1 -W 5 {VIP}"));
        site.client.run(&format!("ping -c 1 -W 5 -s 2000 {VIP}"));
        site.director.run(&format!("ip route add unreachable {B1}"));
        director.0.wait_for("1 backend (10.0.1.11) by raw socket");
        site.client
            .sh(&format!("curl --silent --max-time 1 {URL} || true"));
        site.wait_until_read(site.sent_by_client());
        wait_until_readable(&site.director, &path);
        let totals = stop(director).0;

        let packets = read(&site.director, &path);
        let count = |direction: &str, comment: &str| {
            let same = |packet: &&Captured| {
                packet.direction == direction && packet.comment.starts_with(comment)
            };
            packets.iter().filter(same).count() as u64
        };
        let forward = format!("forward vip={WEB} backend={B1}");
        let refused = format!("drop reason=send_failed vip={WEB} backend={B1}: No route to host");
        let (sent, failed) = (totals.sent().packets, totals.dropped["send_failed"]);
        assert_eq!(count("in", &forward), sent, "{packets:?}");
        assert_eq!(count("in", &refused), failed, "{packets:?}");
        assert_eq!(count("in", "drop reason=no_vip"), 1);
        // The second request in two fragments.
        assert_eq!((count("in", "hold"), count("in", "reply")), (1, 2));
        assert_eq!(count("out", "answer to packet "), 1 + 2);
        assert_eq!(count("out", "outer of packet "), sent + failed);
        packets
            .iter()
            .filter(|packet| packet.comment.starts_with("outer"))
            .for_each(|outer| assert_outer(&packets, outer));
    });
}

#[test]
fn a_filter_selects() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let path = new_file(lab);
        let filter = format!("vip={WEB},drop=no_vip,drop=malformed");
        let director = run(&site, &path, &["--capture-filter", &filter]);
        site.get();
        site.client.run_python(DATAGRAM, &[]);
        site.wait_until_read(site.sent_by_client());
        stop(director);
        let packets = read(&site.director, &path);
        assert_eq!(packets.len(), 1, "{packets:?}");
        assert_eq!(packets[0].comment, "drop reason=no_vip");
        assert!(packets[0].hex.starts_with("4500001d"), "{packets:?}");
    });
}

#[test]
fn a_flood_fills_a_capture_and_no_more() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let path = new_file(lab);
        let director = run(&site, &path, &["--capture-size", "20000"]);
        assert_goes_on(&site, director, "the capture file is full");
        let size = std::fs::metadata(&path).expect("a capture").len();
        assert!((19_000..=20_000).contains(&size), "{size} bytes");
        assert!(read(&site.director, &path).len() > 50);
        wait_until_readable(&site.director, &path);
    });
}

#[test]
fn a_full_disk_ends_a_capture_and_nothing_else() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let path = lab.file("disk", "").with_file_name("small");
        let folder = path.display();
        lab.here().sh(&format!(
            "mkdir {folder}; mount -t tmpfs -o size=128k tmpfs {folder}"
        ));
        let path = path.join("capture.pcapng");
        let director = run(&site, &path, &[]);
        assert_goes_on(&site, director, "No space left on device");
        assert!(read(&site.director, &path).len() > 50);
    });
}

/// A file that is there, or a link, is refused before a device is made, and nothing of it is lost.
#[test]
fn no_file_is_overwritten_and_none_is_left_by_a_failed_start() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let path = lab.file("precious.pcapng", "kept");
        let link = path.with_file_name("link.pcapng");
        symlink(path.with_file_name("target"), &link).expect("a symbolic link");
        for path in [&path, &link] {
            let Ended { status, stderr, .. } = start(&site, path).wait();
            assert_eq!(status.code(), Some(2), "{stderr}");
            let message = format!("capture file {} is there already", path.display());
            assert!(stderr.contains(&message), "{stderr}");
            assert!(!site.director.has_device("tunlb0"));
        }
        assert_eq!(std::fs::read(&path).expect("the file"), b"kept");
        assert!(!path.with_file_name("target").exists());

        site.director.run("ip link add tunlb0 type bridge");
        let new = path.with_file_name("new.pcapng");
        let Ended { status, stderr, .. } = start(&site, &new).wait();
        assert_eq!(status.code(), Some(2), "{stderr}");
        assert!(!new.exists(), "the next start would be refused");
        site.director.run("ip link del tunlb0");
        let director = run(&site, &new, &[]);
        let mode = std::fs::metadata(&new)
            .expect("a capture")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        stop(director);
    });
}

#[test]
fn a_fifo_without_a_reader_holds_up_nothing() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let path = fifo(lab);
        let director = run(&site, &path, &[]);
        assert_eq!(site.get(), "b1");
        let stderr = assert_ends_soon(director);
        assert!(
            stderr.contains("the capture begins when it has a reader"),
            "{stderr}"
        );
        assert!(stderr.contains("it had no reader"), "{stderr}");
    });
}

#[test]
fn a_fifo_gets_what_came_before_its_reader() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let path = fifo(lab);
        let director = run(&site, &path, &[]);
        assert_eq!(site.get(), "b1");
        let copy = path.with_file_name("copy.pcapng");
        let mut cat = site.director.command("sh");
        let script = format!("exec cat {} >{}", path.display(), copy.display());
        cat.args(["-c", &script]);
        let reader = site.director.spawn("reader", cat);
        wait_until("packets at the reader", || {
            std::fs::metadata(&copy).is_ok_and(|metadata| metadata.len() > 1000)
        });
        site.wait_until_read(site.sent_by_client());
        let totals = stop(director).0;
        succeeded(reader.wait());
        let packets = read(&site.director, &copy);
        assert_eq!(
            packets.len() as u64,
            2 * totals.sent().packets,
            "{packets:?}"
        );
    });
}

/// The pipe is full, and whoever has its other end does nothing.
#[test]
fn a_reader_that_does_not_read_holds_up_nothing() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let path = fifo(lab);
        let mut sleeper = site.director.command("sh");
        let script = format!("exec <{}; echo opened; exec sleep 100", path.display());
        sleeper.args(["-c", &script]);
        let sleeper = site.director.spawn("sleeper", sleeper);
        let director = run(&site, &path, &[]);
        wait_until("the reader", || sleeper.stdout().contains("opened"));
        let inject = site.director.python(INJECT, &["1", "8000", "tunlb0"]);
        succeeded(site.director.spawn("inject", inject).wait());
        assert_eq!(site.get(), "b1");
        let stderr = assert_ends_soon(director);
        assert!(
            stderr.contains("the end of the capture is lost"),
            "{stderr}"
        );
    });
}

#[test]
fn standard_output_has_the_capture_and_nothing_else() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = run(&site, Path::new("-"), &[]);
        assert_eq!(site.get(), "b1");
        site.client.run(&format!("ping -c 1 -W 5 {VIP}"));
        site.wait_until_read(site.sent_by_client());
        let Ended { stderr, .. } = succeeded(director.0.stop(Signal::Term));
        let packets = read(
            &site.director,
            &lab.file("mark", "").with_file_name("run.out"),
        );
        let reply = format!("reply vip={WEB}");
        assert!(
            packets.iter().any(|packet| packet.comment == reply),
            "{packets:?}"
        );
        assert!(
            stderr.contains("\nvip 10.0.0.100:80/tcp\n  backend 10.0.1.11"),
            "{stderr}"
        );
    });
}

#[test]
fn a_reader_that_ends_ends_the_capture_and_not_the_director() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let mut command = site.director.command("sh");
        let script = format!(
            "{} run --vip {WEB} --backend {B1} --capture - | head -c 500 >/dev/null",
            tunlb().display()
        );
        command.args(["-c", &script]);
        let director = site.director.start("run", command, "forwarding");
        for _ in 0..5 {
            assert_eq!(site.get(), "b1");
        }
        wait_until("the end of the capture", || {
            director
                .stderr()
                .contains("standard output: its reader has closed it")
        });
        assert_eq!(site.get(), "b1");
        let pid = site
            .director
            .run(&format!("pgrep --parent {} tunlb", director.id()));
        site.director.run(&format!("kill -TERM {pid}"));
        let Ended { stderr, .. } = succeeded(director.wait());
        assert!(stderr.contains("dropped nothing"), "{stderr}");
    });
}

/// The name of a file that is not there.
fn new_file(lab: &Lab) -> PathBuf {
    lab.file("folder", "").with_file_name("capture.pcapng")
}

fn fifo(lab: &Lab) -> PathBuf {
    let path = lab.file("folder", "").with_file_name("fifo");
    lab.here().run(&format!("mkfifo {}", path.display()));
    path
}

/// A director for HTTP to b1 that captures into `path`, if it starts.
fn start(site: &Site, path: &Path) -> Process {
    let mut command = site.director.command(tunlb());
    command.args(["run", "--vip", WEB, "--backend", B1, "--capture"]);
    command.arg(path);
    site.director.spawn("refused", command)
}

/// Ends a director; returns what it said.
fn assert_ends_soon(director: Director) -> String {
    let asked = Instant::now();
    let stderr = stop(director).1;
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}: {stderr}");
    stderr
}

/// A director for HTTP to b1 that captures into `path`.
fn run(site: &Site, path: &Path, more: &[&str]) -> Director {
    let path = path.display().to_string();
    let arguments = ["--vip", WEB, "--backend", B1, "--capture", &path];
    site.run(&[&arguments, more].concat())
}

/// Floods the director until its capture ends; it must say so once and lose nothing but that.
fn assert_goes_on(site: &Site, director: Director, why: &str) {
    assert_eq!(site.get(), "b1");
    let inject = site.director.python(INJECT, &["1", "8000", "tunlb0"]);
    succeeded(site.director.spawn("inject", inject).wait());
    wait_until("the end of the capture", || {
        director.0.stderr().contains("packets captured")
    });
    assert_eq!(site.get(), "b1");
    let (totals, stderr) = stop(director);
    assert!(totals.dropped["malformed"] > 50, "{totals:?}");
    assert_eq!(stderr.matches(why).count(), 1, "{stderr}");
}

fn stop(director: Director) -> (Totals, String) {
    let Ended { stdout, stderr, .. } = succeeded(director.0.stop(Signal::Term));
    (Totals::parse(&stdout), stderr)
}

/// An outer packet is the packet that its comment names behind an IPv4 header to the backend.
fn assert_outer(packets: &[Captured], outer: &Captured) {
    let words = outer.comment.strip_prefix("outer of packet ");
    let (number, verdict) = words
        .and_then(|words| words.split_once(": "))
        .unwrap_or_else(|| panic!("{outer:?}"));
    let number: usize = number.parse().expect("a number");
    let inner = &packets[number - 1]; // analysers count from 1
    assert_eq!(
        (inner.direction.as_str(), inner.comment.as_str()),
        ("in", verdict)
    );
    assert_eq!(outer.hex[40..], inner.hex);
    assert_eq!(outer.hex[32..40], *"0a00010b", "not to {B1}");
}

/// A packet of a capture, read independently of tunlb.
#[derive(Debug)]
struct Captured {
    direction: String,
    hex: String,
    comment: String,
}

fn read(node: &Node, path: &Path) -> Vec<Captured> {
    let text = node.run_python(PCAPNG, &[&path.display().to_string()]);
    let packet = |line: &str| {
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        let mut word = || words.next().expect("three words");
        Captured {
            direction: word(),
            hex: word(),
            comment: word(),
        }
    };
    text.lines().map(packet).collect()
}

/// tcpdump reads the capture as often as it is asked, also while it grows.
fn wait_until_readable(node: &Node, path: &Path) {
    wait_until("packets that tcpdump reads", || {
        // Where it is root, tcpdump becomes another user, which a user namespace may not have: so it is not.
        let text = node.sh(&format!("unshare --user tcpdump -n -r {}", path.display()));
        text.contains(VIP)
    });
}
