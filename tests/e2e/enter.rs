//! Entering private namespaces: the test binary runs one test again inside of them.
//!
//! The inner run is process 1 of its own process namespace. It ends when its standard input closes,
//! so it cannot outlive the outer run, and the kernel ends everything else along with it.

use std::any::type_name;
use std::collections::BTreeSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::Lab;

/// Marks the inner run.
const INSIDE: &str = "TUNLB_E2E_INSIDE";

/// Where the inner run finds the binary under test, if not where cargo built it.
const BINARY: &str = "TUNLB_E2E_BINARY";

/// Programs that the tests run, each with its Debian package.
const PROGRAMS: [(&str, &str); 16] = [
    ("curl", "curl"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    ("iptables-legacy", "iptables"),
    ("iptables-nft", "iptables"),
    ("mount", "mount"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("ping", "iputils-ping"),
    ("python3", "python3"),
    ("setpriv", "util-linux"),
    ("ss", "iproute2"),
    ("sysctl", "procps"),
    ("tc", "iproute2"),
    ("tcpdump", "tcpdump"),
    ("unshare", "util-linux"),
];

/// Where Debian has some of them, and the `PATH` of an ordinary user does not look.
const ADMINISTRATORS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Begins what of the inner run's output the outer one repeats (also without `--nocapture`).
const FIGURE: &str = "figure: ";

/// For a whole inner run; each takes a few seconds on two cores.
const DEADLINE: Duration = Duration::from_secs(120);

/// Runs the body of a test in a lab of its own: as root in the machine's user namespace where the
/// caller is root, else in a user namespace of its own.
pub(crate) fn in_lab<F: FnOnce(&Lab)>(body: F) {
    enter(Way::shortest(), body);
}

/// Like [`in_lab`], but never with the machine's root: where the caller is root, it becomes the user
/// nobody first, to whom /dev/net/tun is open in a mount namespace of its own only.
pub(crate) fn in_lab_as_nobody<F: FnOnce(&Lab)>(body: F) {
    let machine_root = is_root() && is_machine();
    let way = if machine_root {
        Way::Nobody
    } else {
        Way::shortest()
    };
    enter(way, body);
}

/// The binary under test.
pub(crate) fn tunlb() -> PathBuf {
    env::var_os(BINARY).map_or_else(|| env!("CARGO_BIN_EXE_tunlb").into(), PathBuf::from)
}

fn enter<F: FnOnce(&Lab)>(way: Way, body: F) {
    if env::var_os(INSIDE).is_some() {
        end_with_outer_run();
        body(&Lab::enter());
        return;
    }
    require_programs();
    require_tun_device();
    require_namespaces(way);
    let test = test_of::<F>();
    let mut command = way.command();
    command
        .args(["env", "--default-signal=INT,QUIT"]) // a shell has what it runs in the background ignore them
        .arg(way.program())
        .args([test, "--exact", "--nocapture", "--test-threads=1"]);
    let (status, output) = run_with_deadline(command);
    assert!(
        status.is_some_and(|status| status.success()) && ran_one_test(&output),
        "{test}, in its namespaces: {}\n{output}",
        status.map_or_else(
            || format!("no end after {DEADLINE:?}"),
            |status| status.to_string()
        ),
    );
    // The first may stand behind the test's name, which the harness prints without a line end.
    let figures = output.lines().filter_map(|line| line.split_once(FIGURE));
    let text: String = figures
        .map(|(_, figure)| format!("{FIGURE}{figure}\n"))
        .collect();
    io::stderr().write_all(text.as_bytes()).ok();
}

/// How the namespaces are made.
#[derive(Clone, Copy)]
enum Way {
    Root,
    User,
    Nobody,
}

impl Way {
    fn shortest() -> Self {
        if is_root() { Self::Root } else { Self::User }
    }

    /// Runs the arguments that are added to it inside new namespaces.
    fn command(self) -> Command {
        let mut command = Command::new("unshare");
        command.env("PATH", path()); // for all that runs inside
        // A user may not lock the file by which root's legacy iptables keep apart.
        command.env("XTABLES_LOCKFILE", "/dev/shm/xtables.lock");
        if matches!(self, Self::Nobody) {
            command
                .args(["--mount", "sh", "-euc", BECOME_NOBODY, "sh"])
                .args([this_program(), env!("CARGO_BIN_EXE_tunlb").into()])
                .env(BINARY, "/mnt/tunlb");
        }
        if matches!(self, Self::Nobody | Self::User) {
            // A step of its own: files of /proc/net are its root's only where the user namespace was
            // mapped when the network namespace was made.
            command.args(["--user", "--map-root-user", "unshare"]);
        }
        command.args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]);
        command
    }

    /// This test binary, as seen from inside.
    fn program(self) -> PathBuf {
        match self {
            Self::Root | Self::User => this_program(),
            Self::Nobody => "/mnt/e2e".into(),
        }
    }
}

/// Arguments: the test binary, tunlb, then those of `unshare`. The two appear where nobody can reach
/// them, whoever owns the folders above the originals.
const BECOME_NOBODY: &str = r#"
mount -t tmpfs -o mode=0755 tmpfs /mnt
touch /mnt/e2e /mnt/tunlb
mount --bind "$1" /mnt/e2e
mount --bind "$2" /mnt/tunlb
mount -t tmpfs -o mode=0755 tmpfs /dev/net
mknod -m 0666 /dev/net/tun c 10 200
shift 2
cd /
exec setpriv --reuid 65534 --regid 65534 --clear-groups unshare "$@"
"#;

fn this_program() -> PathBuf {
    env::current_exe().expect("the path of the test binary")
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("the state of this process");
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

/// Whether this is the machine's own user namespace, the only one that maps every id to itself.
pub(crate) fn is_machine() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").expect("the map of user ids");
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// The inner run holds the read end of a pipe whose other end only the outer run has.
fn end_with_outer_run() {
    thread::spawn(|| {
        io::copy(&mut io::stdin(), &mut io::sink()).ok();
        std::process::exit(1);
    });
}

/// The name by which the test harness knows the test whose body `F` is: the path of the function
/// around the closure, without the crate.
fn test_of<F>() -> &'static str {
    let path = type_name::<F>();
    let path = path.strip_suffix("::{{closure}}").unwrap_or(path);
    path.split_once("::").map_or(path, |(_, test)| test)
}

fn ran_one_test(output: &str) -> bool {
    output.contains("test result: ok. 1 passed; 0 failed; 0 ignored;")
}

// ------------------------------------------------------------------------------ what it needs

/// All that is missing at once, with the one command that installs it.
fn require_programs() {
    let missing = missing(&PROGRAMS, &path());
    if let Some((programs, packages)) = missing {
        panic!("these tests need {programs}; on Debian or Ubuntu: sudo apt install {packages}");
    }
}

/// The names of the programs that are in no folder of `path`, and the packages that have them.
fn missing(programs: &[(&str, &str)], path: &OsStr) -> Option<(String, String)> {
    let is_there = |name: &str| env::split_paths(path).any(|folder| folder.join(name).is_file());
    let missing: Vec<_> = programs
        .iter()
        .filter(|(name, _)| !is_there(name))
        .collect();
    let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
    let packages: BTreeSet<_> = missing.iter().map(|(_, package)| *package).collect();
    let packages: Vec<_> = packages.into_iter().collect();
    (!missing.is_empty()).then(|| (names.join(", "), packages.join(" ")))
}

/// `PATH`, and where administrators' programs are.
fn path() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(ADMINISTRATORS.map(PathBuf::from));
    env::join_paths(folders).expect("folders that came out of a PATH")
}

fn require_tun_device() {
    let mut options = OpenOptions::new();
    let Err(error) = options.read(true).write(true).open("/dev/net/tun") else {
        return;
    };
    let fix = if error.kind() == io::ErrorKind::NotFound {
        "sudo modprobe tun"
    } else {
        "sudo chmod 0666 /dev/net/tun (the mode that udev gives it)"
    };
    panic!("/dev/net/tun: {error}; these tests need it; run: {fix}");
}

fn require_namespaces(way: Way) {
    let output = way.command().arg("true").stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| {
        panic!("unshare: {error}; on Debian or Ubuntu: sudo apt install util-linux")
    });
    assert!(
        output.status.success(),
        "these tests need network namespaces, and making them failed: {}\n{}",
        String::from_utf8_lossy(&output.stderr).trim(),
        mend(way),
    );
}

/// What forbids namespaces, and what allows them.
fn mend(way: Way) -> String {
    let forbidden = [
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("user.max_user_namespaces", "0", "10000"),
    ];
    for (key, forbids, allows) in forbidden {
        let value = fs::read_to_string(format!("/proc/sys/{}", key.replace('.', "/")));
        if value.is_ok_and(|value| value.trim() == forbids) {
            return format!(
                "{key} is {forbids}; run the tests as root, or as root: sysctl -w {key}={allows}"
            );
        }
    }
    match way {
        Way::Root => "in a container: start it with --privileged".to_owned(),
        Way::User => "run the tests as root; in a container: start it with --privileged".to_owned(),
        Way::Nobody => "in a container: start it with --privileged, or run as a user".to_owned(),
    }
}

// ------------------------------------------------------------------------------ the inner run

/// Returns how it ended (`None`: not within [`DEADLINE`]) and all that it printed.
fn run_with_deadline(mut command: Command) -> (Option<ExitStatus>, String) {
    let mut output = tempfile::tempfile().expect("a temporary file");
    let share = |file: &File| file.try_clone().expect("a second handle of a file");
    let mut child = command
        .env(INSIDE, "1")
        .stdin(Stdio::piped())
        .stdout(share(&output))
        .stderr(share(&output))
        .spawn()
        .expect("unshare");
    let status = wait(&mut child);
    let mut bytes = Vec::new();
    output.rewind().expect("a temporary file");
    output.read_to_end(&mut bytes).expect("a temporary file");
    (status, String::from_utf8_lossy(&bytes).into_owned())
}

fn wait(child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("the state of a child process") {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.kill().expect("a child process to end");
    child.wait().expect("the state of a child process");
    None
}

#[test]
fn a_test_is_private() {
    in_lab(|lab| {
        let links = lab.here().run("ip -o link show");
        assert!(
            links.starts_with("1: lo:") && links.lines().count() == 1,
            "{links}"
        );
        assert_eq!(std::process::id(), 1);
    });
}

/// With the `PATH` that stock Debian gives a user, inside and outside of the namespaces.
#[test]
fn programs_of_administrators_are_found() {
    let user = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games";
    if env::var_os(INSIDE).is_none() && env::var("PATH").as_deref() != Ok(user) {
        let test = "enter::programs_of_administrators_are_found";
        let mut command = Command::new(this_program());
        command
            .args([test, "--exact", "--nocapture"])
            .env("PATH", user);
        let output = command.output().expect("this test, as a user has it");
        let text = String::from_utf8_lossy(&output.stdout);
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(ran_one_test(&text), "{text}{complaints}");
        return;
    }
    in_lab(|lab| {
        for program in ["sysctl --version", "nft --version", "ethtool --version"] {
            lab.here().run(program);
        }
        lab.here()
            .sh("iptables-nft --version; iptables-legacy --version; tc -V");
    });
}

#[test]
fn missing_programs_are_named_with_their_packages() {
    let programs = [
        ("sh", "dash"),
        ("no-such-program", "one"),
        ("nor-this", "two"),
        ("or-that", "one"),
    ];
    let path = OsStr::new("/nonexistent:/usr/bin:/bin");
    let (names, packages) = missing(&programs, path).expect("three");
    assert_eq!(names, "no-such-program, nor-this, or-that");
    assert_eq!(packages, "one two");
    assert_eq!(missing(&programs[..1], path), None);
}

/// What the README has a user install is all that the tests ask for, and so is what CI installs.
#[test]
fn every_package_is_documented() {
    let readme = include_str!("../../README.md");
    let command = readme
        .split_once("sudo apt install ")
        .expect("a command for apt");
    let (command, _) = command.1.split_once("```").expect("the end of its block");
    let documented: Vec<_> = command.split_whitespace().collect();
    // A packaged crate has no .ci.
    let ci = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/run")).ok();
    for (program, package) in PROGRAMS {
        assert!(documented.contains(&package), "README.md: {package}");
        let installed = |ci: String| ci.contains(&format!("{package}:"));
        assert!(
            ci.clone().is_none_or(installed),
            ".ci/run: {package} for {program}"
        );
    }
}

#[test]
fn a_run_without_a_test_is_told_apart() {
    assert!(ran_one_test(
        "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured;"
    ));
    assert!(!ran_one_test(
        "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured;"
    ));
    assert!(!ran_one_test(
        "test result: ok. 11 passed; 0 failed; 0 ignored; 0 measured;"
    ));
}
