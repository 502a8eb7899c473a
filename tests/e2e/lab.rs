//! A lab: hosts (network namespaces), cables (veth pairs), files and logs.
//!
//! It lives in the mount namespace of one test, under a tmpfs of its own, and knows nothing of tunlb.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use crate::process::Process;

/// Every Linux has this folder, and nothing that a lab runs needs what the machine keeps in it.
const FOLDER: &str = "/dev/shm";

/// Where programs keep what ends with the machine, such as tunlb's undo journals: the lab's own.
pub(crate) const RUNTIME: &str = "/run";

/// The deadline of every wait. Nothing takes a tenth of it on an idle machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// A test's hosts and files. When the test fails, dropping it prints the logs.
pub(crate) struct Lab {
    folder: PathBuf,
}

impl Lab {
    /// Sets up the lab of the process's own namespaces.
    pub(crate) fn enter() -> Self {
        let lab = Self {
            folder: FOLDER.into(),
        };
        for folder in [FOLDER, RUNTIME] {
            lab.here()
                .run(&format!("mount -t tmpfs -o mode=0755 tmpfs {folder}"));
        }
        lab
    }

    /// The namespace of the test itself: a host without cables.
    pub(crate) fn here(&self) -> Node {
        Node {
            name: "here".into(),
            namespace: "/proc/self/ns/net".into(),
            folder: self.folder.clone(),
        }
    }

    /// A new host, `lo` up, that only does what it is told: reverse-path filtering is off whatever the
    /// machine's default, and IPv6, whose neighbour discovery would blur the counters.
    pub(crate) fn node(&self, name: &str) -> Node {
        let node = self.bare_node(name);
        node.set_sysctl("ipv6/conf/all/disable_ipv6", 1);
        node.set_sysctl("ipv6/conf/default/disable_ipv6", 1);
        node.set_sysctl("ipv4/conf/all/rp_filter", 0);
        node.set_sysctl("ipv4/conf/default/rp_filter", 0);
        node
    }

    /// A new host, `lo` up, with the settings that the kernel gives it.
    pub(crate) fn bare_node(&self, name: &str) -> Node {
        let namespace = self.file(&format!("{name}.netns"), "");
        self.here()
            .run(&format!("unshare --net={} true", namespace.display()));
        let node = Node {
            name: name.to_owned(),
            namespace,
            folder: self.folder.clone(),
        };
        node.run("ip link set lo up");
        node
    }

    /// Joins two hosts by a cable; both ends are up.
    pub(crate) fn cable(&self, (one, device): (&Node, &str), (other, peer): (&Node, &str)) {
        let [one_end, other_end] = [one, other].map(|node| node.namespace.display());
        self.here().run(&format!(
            "ip link add {device} netns {one_end} type veth peer name {peer} netns {other_end}"
        ));
        one.run(&format!("ip link set {device} up"));
        other.run(&format!("ip link set {peer} up"));
    }

    /// Where a program may make a file in the lab.
    pub(crate) fn no_file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file into the lab.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, content).expect("a file of the lab");
        path
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            io::stderr().write_all(logs(&self.folder).as_bytes()).ok();
        }
    }
}

/// The ends of all logs that hold something.
fn logs(folder: &Path) -> String {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|kind| kind == "out" || kind == "err")
        })
        .collect();
    paths.sort();
    let mut text = String::new();
    for path in paths {
        let content = fs::read(&path).unwrap_or_default();
        let content = String::from_utf8_lossy(&content);
        let lines: Vec<_> = content.lines().collect();
        if !lines.is_empty() {
            let end = lines[lines.len().saturating_sub(30)..].join("\n");
            text += &format!("--- {}\n{end}\n", path.display());
        }
    }
    text
}

/// A host of a lab.
#[derive(Clone)]
pub(crate) struct Node {
    name: String,
    namespace: PathBuf,
    folder: PathBuf,
}

impl Node {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What other programs enter the host by.
    pub(crate) fn namespace(&self) -> &Path {
        &self.namespace
    }

    /// A command that will run on this host.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.namespace.display()))
            .arg("--")
            .arg(program.as_ref());
        command
    }

    /// What `work` returns on this host, such as a socket, which stays there.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(&self.namespace).expect("a network namespace");
        let enter_and_work = || {
            // SAFETY: the descriptor is open; only the calling thread moves.
            let status = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(status, 0, "setns: {}", io::Error::last_os_error());
            work()
        };
        thread::scope(|scope| scope.spawn(enter_and_work).join()).expect("work on a host")
    }

    /// Runs a command whose words hold no spaces, which must succeed; returns its standard output.
    pub(crate) fn run(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().unwrap_or_default());
        command.args(words);
        self.succeed(command)
    }

    /// Runs a shell script, which must succeed; returns its standard output.
    pub(crate) fn sh(&self, script: &str) -> String {
        let mut command = self.command("sh");
        command.args(["-euc", script]);
        self.succeed(command)
    }

    fn succeed(&self, mut command: Command) -> String {
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().expect("nsenter (util-linux)");
        let [stdout, stderr] =
            [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(
            status.success(),
            "{}: {command:?}: {status}\n{stdout}{stderr}",
            self.name
        );
        stdout
    }

    /// Starts a program and waits until it has printed `word`.
    pub(crate) fn start(&self, name: &str, command: Command, word: &str) -> Process {
        Process::ready(&self.folder, name, command, word)
    }

    /// Starts a program.
    pub(crate) fn spawn(&self, name: &str, command: Command) -> Process {
        Process::start(&self.folder, name, command)
    }

    /// A Python program, by its text, to run on this host.
    pub(crate) fn python(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.command("python3");
        command.args(["-c", program]).args(arguments);
        command
    }

    /// Runs a Python program, which must succeed; returns its standard output.
    pub(crate) fn run_python(&self, program: &str, arguments: &[&str]) -> String {
        self.succeed(self.python(program, arguments))
    }

    /// The value of a setting, such as `ipv4/ip_forward`.
    pub(crate) fn sysctl(&self, key: &str) -> String {
        self.run(&format!("cat /proc/sys/net/{key}"))
            .trim()
            .to_owned()
    }

    pub(crate) fn set_sysctl(&self, key: &str, value: i32) {
        self.sh(&format!("echo {value} >/proc/sys/net/{key}"));
    }

    /// A counter of /proc/net/snmp or /proc/net/netstat, such as `Ip` `InReceives`.
    pub(crate) fn counter(&self, group: &str, name: &str) -> u64 {
        let text = self.run("cat /proc/net/snmp /proc/net/netstat");
        let mut lines = text
            .lines()
            .filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "));
        let column = lines
            .next()
            .and_then(|names| names.split(' ').position(|found| found == name));
        let values: Vec<_> = lines.next().unwrap_or_default().split(' ').collect();
        column
            .and_then(|column| values.get(column)?.parse().ok())
            .unwrap_or_else(|| panic!("no counter {group} {name} in\n{text}"))
    }

    /// A counter of a device, such as `rx_bytes` or `tx_packets`.
    pub(crate) fn device_counter(&self, device: &str, name: &str) -> u64 {
        let (direction, name) = name.split_once('_').expect("rx_… or tx_…");
        self.link(device)["stats64"][direction][name]
            .as_u64()
            .expect("a counter of ip -s")
    }

    pub(crate) fn mtu(&self, device: &str) -> u64 {
        self.link(device)["mtu"].as_u64().expect("an MTU")
    }

    /// What `ip -d -s link` knows of a device.
    pub(crate) fn link(&self, device: &str) -> serde_json::Value {
        let text = self.run(&format!("ip -d -s -j link show dev {device}"));
        let links: serde_json::Value = serde_json::from_str(&text).expect("JSON from ip");
        links[0].clone()
    }

    pub(crate) fn has_device(&self, device: &str) -> bool {
        self.run("ip -o link show")
            .contains(&format!(": {device}:"))
    }
}

/// Polls a condition; panics when it does not hold within the deadline.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {DEADLINE:?} for: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
