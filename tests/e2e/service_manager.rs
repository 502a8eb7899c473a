//! What a service manager hears of a director and of a decapsulator (sd_notify(3)), and the journal of their logs.

use std::ffi::c_void;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::ptr;
use std::time::{Duration, Instant};

use crate::enter::{in_lab, tunlb};
use crate::lab::{Lab, Node};
use crate::process::{Process, Signal};
use crate::reloading::vip;
use crate::site::{BACKENDS, Site, WEB, succeeded};

const WATCHDOG: Duration = Duration::from_secs(2);

/// The deadline of what has to be heard.
const DEADLINE: Duration = Duration::from_secs(30);

/// Hears what a program tells.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(lab: &Lab) -> Self {
        let path = lab.no_file("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket of the lab");
        Self { socket, path }
    }

    fn supervise(&self, command: &mut Command) {
        command
            .env("NOTIFY_SOCKET", &self.path)
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    }

    /// The next message within `time`, but for signs of life.
    fn hear(&self, what: &str) -> String {
        let end = Instant::now() + DEADLINE;
        while let Some(message) = self.next(end.saturating_duration_since(Instant::now())) {
            if message != ALIVE {
                return message;
            }
        }
        panic!("waited {DEADLINE:?} for: {what}");
    }

    /// Whether a sign of life comes within `time`.
    fn hears_life(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        while let Some(message) = self.next(end.saturating_duration_since(Instant::now())) {
            if message == ALIVE {
                return true;
            }
        }
        false
    }

    fn next(&self, time: Duration) -> Option<String> {
        let time = time.max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(time)).expect("a timeout");
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }
}

const ALIVE: &str = "WATCHDOG=1\n";

/// What one message says under a key.
fn said<'a>(message: &'a str, key: &str) -> Option<&'a str> {
    let mut lines = message.lines();
    lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

fn start(site: &Site, manager: &Manager, arguments: &[&str]) -> Process {
    let mut command = site.director.command(tunlb());
    command.arg("run").args(arguments);
    manager.supervise(&mut command);
    site.director.spawn("director", command)
}

#[test]
fn readiness_reloads_and_the_end_are_told() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let manager = Manager::new(lab);
        let config = |more| {
            vip(
                ["web", "10.0.0.100", "80", "tcp", more],
                &[(BACKENDS[0].1, "")],
            )
        };
        let path = lab.file("tunlb.toml", config(""));
        let director = start(&site, &manager, &["-c", &path.display().to_string()]);
        let ready = manager.hear("readiness");
        assert_eq!(said(&ready, "READY"), Some("1"), "{ready}");
        let status = said(&ready, "STATUS").expect("a status");
        assert!(
            status.starts_with("tunlb0: forwarding web to 1 backend"),
            "{status}"
        );
        assert!(
            site.director
                .run("ip route show 10.0.0.100")
                .contains("tunlb0"),
            "ready too early"
        );

        for (file, is_taken) in [
            (config("echo = \"drop\""), true),
            ("nonsense".into(), false),
        ] {
            fs::write(&path, file).expect("the director's file");
            director.signal(Signal::Hup);
            let reloading = manager.hear("a reload");
            assert_eq!(said(&reloading, "RELOADING"), Some("1"), "{reloading}");
            let at: u64 = said(&reloading, "MONOTONIC_USEC")
                .expect("a time")
                .parse()
                .expect("microseconds");
            assert!(at > 0);
            let ready = manager.hear("the end of a reload");
            assert_eq!(said(&ready, "READY"), Some("1"), "{ready}");
            let status = said(&ready, "STATUS").expect("a status");
            assert_eq!(
                !status.contains("the last reload was refused: "),
                is_taken,
                "{status}"
            );
        }

        succeeded(director.stop(Signal::Term));
        let stopping = manager.hear("the end");
        assert_eq!(said(&stopping, "STOPPING"), Some("1"), "{stopping}");
        assert_eq!(said(&stopping, "STATUS"), Some("stopping: SIGTERM"));
    });
}

#[test]
fn signs_of_life_end_with_one_worker_that_hangs_and_not_with_idle_ones() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let manager = Manager::new(lab);
        let config = format!(
            "[director]\nworkers = 2\n{}",
            vip(
                ["web", "10.0.0.100", "80", "tcp", ""],
                &[(BACKENDS[0].1, "")]
            )
        );
        let path = lab.file("tunlb.toml", config);
        let mut director = start(&site, &manager, &["-c", &path.display().to_string()]);
        director.wait_for("forwarding");
        for _ in 0..4 {
            assert!(
                manager.hears_life(WATCHDOG),
                "idle workers are taken for hanging ones"
            );
        }
        let worker = Stopped::one_worker_of(director.id());
        // Until the heartbeat is too old, what is told still holds.
        let told_since = Instant::now();
        while told_since.elapsed() < WATCHDOG && manager.hears_life(WATCHDOG / 2) {}
        assert!(
            !manager.hears_life(2 * WATCHDOG),
            "told alive with a worker that is stopped"
        );
        director.wait_for("hangs");
        drop(worker);
        assert!(
            manager.hears_life(DEADLINE),
            "no sign of life though all workers turn again"
        );
        director.wait_for("all workers turn again");
        succeeded(director.stop(Signal::Term));
    });
}

#[test]
fn a_decapsulator_tells_when_it_is_ready_and_when_it_stops() {
    in_lab(|lab| {
        let node = lab.node("backend");
        let manager = Manager::new(lab);
        let mut command = node.command(tunlb());
        command.args(["decap", "--vip", "10.0.0.100", "--director", "10.0.1.2/32"]);
        manager.supervise(&mut command);
        let decap = node.spawn("decap", command);
        let ready = manager.hear("readiness");
        assert_eq!(said(&ready, "READY"), Some("1"), "{ready}");
        assert!(
            said(&ready, "STATUS")
                .is_some_and(|status| status.contains("decapsulating for 10.0.0.100"))
        );
        succeeded(decap.stop(Signal::Term));
        assert_eq!(said(&manager.hear("the end"), "STOPPING"), Some("1"));
    });
}

/// The journal is a stream socket; `JOURNAL_STREAM` names it by device and inode.
#[test]
fn a_journal_gets_priorities_and_others_do_not() {
    in_lab(|lab| {
        let [node, other] = ["director", "other"].map(|name| lab.node(name));
        lab.cable((&node, "eth0"), (&other, "eth0"));
        node.run("ip addr add 10.0.1.2/24 dev eth0");
        let line = |of: &str| {
            let lines = of.lines().filter(|line| line.contains("forwarding "));
            lines.map(str::to_owned).next().expect("a line of the log")
        };
        let to_journal = line(&logged(&node, Named::Yes));
        assert!(
            to_journal.starts_with("<6>tunlb0: forwarding"),
            "{to_journal}"
        );
        let to_another = line(&logged(&node, Named::No));
        assert!(to_another.starts_with("[20"), "{to_another}");
    });
}

/// Whether JOURNAL_STREAM names what standard error is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    Yes,
    No,
}

/// What a director writes to a socket as its standard error.
fn logged(node: &Node, named: Named) -> String {
    let (ours, theirs) = UnixStream::pair().expect("a socket");
    let theirs = fs::File::from(OwnedFd::from(theirs));
    let metadata = theirs.metadata().expect("what a socket is");
    let inode = metadata.ino() + u64::from(named == Named::No);
    let mut command = node.command(tunlb());
    command
        .args(["run", "--vip", WEB, "--backend", BACKENDS[0].1])
        .env("JOURNAL_STREAM", format!("{}:{inode}", metadata.dev()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(theirs);
    let mut director = command.spawn().expect("a director");
    drop(command); // with its end of the socket
    let mut log = String::new();
    let mut lines = io::BufReader::new(ours);
    while !log.contains("forwarding ") {
        let read = io::BufRead::read_line(&mut lines, &mut log).expect("the director's log");
        assert!(read > 0, "the director ended: {log}");
    }
    let pid = director.id().to_string();
    let killed = Command::new("kill").args(["-TERM", &pid]).status();
    assert!(killed.is_ok_and(|status| status.success()));
    assert!(director.wait().is_ok_and(|status| status.success()));
    log
}

/// A thread that does not run until this is dropped; the others of its process do.
struct Stopped {
    thread: libc::pid_t,
}

impl Stopped {
    fn one_worker_of(process: u32) -> Self {
        let folder = format!("/proc/{process}/task");
        let threads = fs::read_dir(&folder).expect("threads");
        let is_worker = |name: &str| {
            fs::read_to_string(format!("{folder}/{name}/comm"))
                .is_ok_and(|comm| comm.trim() == "tunlb-worker")
        };
        let names = threads.filter_map(|thread| thread.ok()?.file_name().into_string().ok());
        let worker = names
            .into_iter()
            .find(|name| is_worker(name))
            .expect("a worker");
        let thread = worker.parse().expect("a thread's number");
        for request in [libc::PTRACE_SEIZE, libc::PTRACE_INTERRUPT] {
            trace(request, thread);
        }
        let mut status = 0;
        // SAFETY: `status` is a place for the status of a thread that this one traces.
        let waited = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
        assert_eq!(waited, thread, "waitpid: {}", io::Error::last_os_error());
        assert!(libc::WIFSTOPPED(status));
        Self { thread }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        trace(libc::PTRACE_DETACH, self.thread);
    }
}

fn trace(request: libc::c_uint, thread: libc::pid_t) {
    let none = ptr::null_mut::<c_void>();
    // SAFETY: none of the requests reads or writes memory of this process.
    let status = unsafe { libc::ptrace(request, thread, none, none) };
    assert_eq!(
        status,
        0,
        "ptrace {request}: {}",
        io::Error::last_os_error()
    );
}
