//! What a killed run or decap left comes back as it was before the first start: by the next start, or by
//! `tunlb undo`; and nothing that is another's is touched.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::enter::{in_lab, tunlb};
use crate::lab::{Lab, Node, RUNTIME};
use crate::leftovers::{assert_same, difference, dump, host};
use crate::process::{Process, Signal};
use crate::site::{VIP, succeeded};

const VIP6: &str = "2001:db8::100";

const RUN: [&str; 8] = [
    "run",
    "--setup",
    "--vip",
    "10.0.0.100:80/tcp",
    "--vip",
    "[2001:db8::100]:80/tcp",
    "--backend",
    "10.0.1.11",
];

const DECAP: [&str; 6] = ["decap", "--vip", VIP, "--vip", VIP6, "--setup"];

fn start(host: &Node, arguments: &[&str]) -> Process {
    let mut command = host.command(tunlb());
    command.args(arguments);
    let word = match arguments[0] {
        "run" => "tunlb0: forwarding",
        _ => "decapsulating",
    };
    host.start(arguments[0], command, word)
}

/// Runs `tunlb undo`; returns its exit code, standard output and standard error.
fn undo(host: &Node, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = host.command(tunlb());
    let Output {
        status,
        stdout,
        stderr,
    } = command.arg("undo").args(arguments).output().expect("tunlb");
    let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (status.code(), stdout, stderr)
}

fn journals() -> Vec<PathBuf> {
    journals_in(Path::new(&format!("{RUNTIME}/tunlb")))
}

/// The folder has the API's socket, too.
fn journals_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter(|path| path.extension().is_some_and(|kind| kind == "journal"))
        .collect()
}

/// A host on which every kind of change would be left behind: its TUN devices persist.
fn lasting_host(lab: &Lab) -> Node {
    let host = host(lab);
    host.set_sysctl("ipv6/conf/default/accept_ra", 1);
    host.set_sysctl("ipv4/conf/lo/forwarding", 1);
    host.set_sysctl("ipv6/conf/lo/disable_ipv6", 1);
    for device in ["tunlb0", "decap0"] {
        host.run(&format!("ip tuntap add dev {device} mode tun"));
        host.run(&format!("ip link set {device} mtu 1404"));
        // What the kernel does for good the first time, see `leftovers`.
        host.set_sysctl(&format!("ipv6/conf/{device}/disable_ipv6"), 1);
        host.run(&format!("ip link set {device} up"));
        host.run(&format!("ip link set {device} down"));
    }
    host
}

fn killed(host: &Node, arguments: &[&str], before: &str) {
    let process = start(host, arguments);
    let running = dump(host);
    process.stop(Signal::Kill);
    assert!(difference(before, &running).len() > 5, "it changed nothing");
    let left = difference(before, &dump(host));
    assert!(
        left.len() > 5,
        "nothing was left that could be undone: {left:?}"
    );
    assert_eq!(journals().len(), 1);
}

#[test]
fn the_next_start_undoes_what_a_killed_one_left() {
    in_lab(|lab| {
        let host = lasting_host(lab);
        let before = dump(&host);
        for arguments in [&RUN[..], &DECAP] {
            killed(&host, arguments, &before);
            let again = start(&host, arguments);
            assert!(again.stderr().contains("ended without undoing its"));
            assert!(
                !again.stderr().contains("cannot undo"),
                "{}",
                again.stderr()
            );
            succeeded(again.stop(Signal::Term));
            assert_same(&before, &dump(&host), arguments[0]);
            assert!(journals().is_empty());
        }
    });
}

#[test]
fn tunlb_undo_undoes_what_a_killed_process_left() {
    in_lab(|lab| {
        let host = lasting_host(lab);
        let before = dump(&host);
        for arguments in [&RUN[..], &DECAP] {
            killed(&host, arguments, &before);
            let left = dump(&host);
            let (code, stdout, _) = undo(&host, &["--dry-run"]);
            assert_eq!(code, Some(0));
            assert!(stdout.contains("which these commands undo\n"), "{stdout}");
            assert_same(&left, &dump(&host), "a dry run");
            let (code, stdout, stderr) = undo(&host, &[]);
            assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
            assert!(
                stdout.starts_with(&format!("left by tunlb {}", arguments[0])),
                "{stdout}"
            );
            assert_same(&before, &dump(&host), arguments[0]);
            let (code, stdout, _) = undo(&host, &[]);
            assert!(stdout.starts_with("nothing to undo"), "{stdout}");
            assert_eq!((code, journals().len()), (Some(0), 0));
        }
    });
}

/// The commands of a dry run do what the command does.
#[test]
fn the_commands_of_a_dry_run_undo_it_too() {
    in_lab(|lab| {
        let host = lasting_host(lab);
        let before = dump(&host);
        killed(&host, &RUN, &before);
        let (_, stdout, _) = undo(&host, &["--dry-run"]);
        let commands = stdout.lines().filter_map(|line| line.strip_prefix("  "));
        for command in commands {
            host.sh(command);
        }
        // `ip_forward` clears the forwarding of each device: what was on before is a dependent change.
        host.set_sysctl("ipv4/conf/lo/forwarding", 1);
        let left = difference(&before, &dump(&host));
        let left: Vec<_> = left
            .iter()
            .filter(|line| !line.contains("accept_redirects"))
            .collect();
        assert!(left.is_empty(), "{stdout}\n{left:?}");
        assert_eq!(undo(&host, &[]).0, Some(0));
        assert_same(&before, &dump(&host), "undone twice");
    });
}

#[test]
fn what_was_changed_after_the_kill_is_left_alone() {
    in_lab(|lab| {
        let host = lasting_host(lab);
        let before = dump(&host);
        killed(&host, &DECAP, &before);
        host.set_sysctl("ipv4/conf/eth0/arp_ignore", 8);
        host.run(&format!("ip addr del {VIP}/32 dev lo"));
        let (code, stdout, _) = undo(&host, &[]);
        assert_eq!(code, Some(0));
        assert!(
            stdout.contains("kept net.ipv4.conf.eth0.arp_ignore: 0 -> 1: it was set to 8"),
            "{stdout}"
        );
        let left = difference(&before, &dump(&host));
        assert_eq!(
            left,
            [
                "- ipv4/conf/eth0/arp_ignore:0",
                "+ ipv4/conf/eth0/arp_ignore:8"
            ]
        );
    });
}

#[test]
fn a_living_process_is_left_alone() {
    in_lab(|lab| {
        let host = lasting_host(lab);
        // Off, it takes every IPv6 route of the host that leads nowhere with it.
        host.set_sysctl("ipv6/conf/lo/disable_ipv6", 0);
        let before = dump(&host);
        let mut director = start(&host, &RUN);
        let with_director = dump(&host);
        let decap = start(&host, &DECAP);
        let with_both = dump(&host);
        let (code, stdout, _) = undo(&host, &[]);
        assert_eq!(code, Some(0));
        for (name, pid) in [("run", director.id()), ("decap", decap.id())] {
            assert!(
                stdout.contains(&format!("process {pid} (tunlb {name}) is running")),
                "{stdout}"
            );
        }
        assert_same(&with_both, &dump(&host), "undo beside living processes");
        decap.stop(Signal::Kill);
        let (code, stdout, stderr) = undo(&host, &[]);
        assert_eq!(code, Some(0), "{stdout}{stderr}");
        assert_same(&with_director, &dump(&host), "undo of the killed one");
        assert!(director.runs());
        succeeded(director.stop(Signal::Term));
        assert_same(&before, &dump(&host), "the end of the other");
    });
}

#[test]
fn namespaces_on_one_file_system_keep_apart() {
    in_lab(|lab| {
        let host = lasting_host(lab);
        let other = lab.bare_node("other");
        for (key, value) in [("ipv4/ip_forward", 1), ("ipv6/conf/all/forwarding", 1)] {
            other.set_sysctl(key, value);
        }
        let (before, of_other) = (dump(&host), dump(&other));
        killed(&host, &RUN, &before);
        let left = dump(&host);
        let (code, stdout, _) = undo(&other, &[]);
        assert_eq!(code, Some(0));
        assert!(
            stdout.contains("1 journal of other network namespaces"),
            "{stdout}"
        );
        succeeded(start(&other, &RUN).stop(Signal::Term));
        assert_same(&of_other, &dump(&other), "another namespace");
        assert_same(&left, &dump(&host), "undone from another namespace");
        // Of a namespace that is gone, or of an earlier start of the machine.
        let journal = journals().remove(0);
        let text = fs::read_to_string(&journal).expect("a journal");
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot id");
        let earlier = text.replace(boot.trim(), "00000000-0000-0000-0000-000000000000");
        private(&journal.with_file_name("earlier.journal"), &earlier);
        let (code, stdout, stderr) = undo(&other, &[]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
        assert_eq!(
            journals(),
            [journal],
            "that of the earlier start is taken away"
        );
        assert_eq!(undo(&host, &[]).0, Some(0));
        assert_same(&before, &dump(&host), "undone where it belongs");
    });
}

/// A namespace of the same inode number as that of a journal, but not the same one: the number was used again.
#[test]
fn a_namespace_that_took_the_number_of_a_gone_one_is_not_touched() {
    in_lab(|lab| {
        let host = lasting_host(lab);
        let before = dump(&host);
        killed(&host, &RUN, &before);
        let journal = journals().remove(0);
        let text = fs::read_to_string(&journal).expect("a journal");
        let start = text.find("\"cookie\":").expect("a cookie") + "\"cookie\":".len();
        let end = start + text[start..].find('}').expect("its end");
        private(
            &journal,
            format!("{}9999999999{}", &text[..start], &text[end..]),
        );
        let left = dump(&host);
        let (code, stdout, stderr) = undo(&host, &[]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
        assert!(stdout.starts_with("nothing to undo"), "{stdout}");
        assert_same(&left, &dump(&host), "a journal of a gone namespace");
        assert!(journals().is_empty());
    });
}

fn private(path: &PathBuf, text: impl AsRef<[u8]>) {
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("permissions");
}

#[test]
fn hostile_journals_make_nothing_happen() {
    in_lab(|lab| {
        let host = lasting_host(lab);
        let before = dump(&host);
        killed(&host, &RUN, &before);
        let journal = journals().remove(0);
        let text = fs::read_to_string(&journal).expect("a journal");
        let header = text.lines().next().expect("a header").to_owned();
        let beside = |name: &str| journal.with_file_name(format!("{name}.journal"));
        let whole = fs::read(&journal).expect("a journal");
        private(&beside("a-empty"), "");
        private(&beside("b-garbage"), b"\xff\xfe\0garbage\n{}\n");
        private(&beside("c-long"), vec![b'x'; 100_000]);
        private(
            &beside("d-deep"),
            format!("{header}\n{}\n", "[".repeat(10_000)),
        );
        let steps = [
            r#"{"make":{"id":0,"step":{"sysctl":{"change":{"key":"kernel.core_pattern","before":0,"after":0}}}}}"#,
            r#"{"make":{"id":1,"step":{"sysctl":{"change":{"key":"net.ipv4.conf.../../x.rp_filter","before":0,"after":0}}}}}"#,
            r#"{"make":{"id":2,"step":{"run":"id"}}}"#,
            r#"{"make":{"id":3,"step":{"address":{"device":{"index":1,"name":"lo; id"},"net":"127.0.0.1/8"}}}}"#,
            r#"{"make":{"id":18446744073709551615,"step":{"unreachable":{"net":"10.0.0.100/33"}}}}"#,
        ];
        private(
            &beside("e-steps"),
            format!("{header}\n{}\n", steps.join("\n")),
        );
        private(&beside("f-open"), &whole);
        fs::set_permissions(beside("f-open"), fs::Permissions::from_mode(0o666))
            .expect("permissions");
        symlink(&journal, beside("g-link")).expect("a link");
        fs::create_dir(beside("h-folder")).expect("a folder");
        host.run(&format!("mkfifo -m 600 {}", beside("i-fifo").display()));
        // The journal itself ends in the middle of a line.
        private(
            &journal,
            [&whole[..], b"{\"make\":{\"id\":900,\"step\":{\"unrea"].concat(),
        );
        let (code, stdout, stderr) = undo(&host, &[]);
        assert_eq!(code, Some(2), "{stdout}{stderr}");
        assert_same(&before, &dump(&host), "hostile journals");
        for (name, why) in [
            ("b-garbage", "not a journal that this version"),
            ("c-long", "not a journal that this version"),
            ("d-deep", "line 2 is not understood"),
            ("e-steps", "line 6 is not understood"),
            ("f-open", "others may write to it"),
            ("g-link", "symbolic links"),
            ("h-folder", ""),
            ("i-fifo", "not a regular file"),
        ] {
            let name = format!("{name}.journal");
            let mut lines = stderr.lines().filter(|line| line.contains(&name));
            assert!(lines.any(|line| line.contains(why)), "{name}: {stderr}");
        }
        assert!(!beside("a-empty").exists() && !journal.exists());
        succeeded(start(&host, &RUN).stop(Signal::Term));
        assert_same(&before, &dump(&host), "a start beside hostile journals");
    });
}

#[test]
fn without_a_place_for_a_journal_it_is_said_once() {
    in_lab(|lab| {
        let host = lasting_host(lab);
        let before = dump(&host);
        fs::write(format!("{RUNTIME}/tunlb"), "no folder").expect("a file");
        let mut command = host.command(tunlb());
        command.args(RUN).env_remove("XDG_RUNTIME_DIR");
        let director = host.start("run", command, "tunlb0: forwarding");
        let ended = succeeded(director.stop(Signal::Term));
        assert_eq!(
            ended.stderr.matches("no undo journal: ").count(),
            1,
            "{}",
            ended.stderr
        );
        assert_same(&before, &dump(&host), "without a journal");
        let own = lab.file("user", "").with_file_name("user-runtime");
        fs::create_dir(&own).expect("a folder");
        let mut command = host.command(tunlb());
        command.args(RUN).env("XDG_RUNTIME_DIR", &own);
        let director = host.start("run", command, "tunlb0: forwarding");
        let folder = own.join("tunlb");
        let mode =
            |path: &PathBuf| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        let journal = journals_in(&folder).pop().expect("a journal");
        assert_eq!(mode(&journal), 0o600);
        succeeded(director.stop(Signal::Term));
        assert!(!journal.exists());
    });
}
