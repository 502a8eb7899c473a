//! `tunlb doctor --fix --apply` mends a backend with several faults one after the other, and its undo
//! script leaves the backend as broken as it was.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::doctor::WAY;
use crate::enter::{in_lab, tunlb};
use crate::lab::Node;
use crate::leftovers::{self, assert_same};
use crate::site::{Site, URL, WEB};

/// Faults of the backend, each of which keeps the client from its answer: the VIP is missing, the policy
/// rules do not know it, rp_filter is strict for all devices, two firewalls drop what has it as source.
const BREAK: &str = "
    ip addr del 10.0.0.100/32 dev lo
    ip rule add from 10.0.1.11 lookup 100
    ip route add default via 10.0.1.1 table 100
    ip route del default
    echo 1 >/proc/sys/net/ipv4/conf/all/rp_filter
    echo 1 >/proc/sys/net/ipv4/conf/decap0/rp_filter
    nft add table inet guard
    nft 'add chain inet guard out { type filter hook output priority 0; }'
    nft add rule inet guard out ip saddr 10.0.0.0/24 counter drop
    iptables -A OUTPUT -s 10.0.0.100 -j DROP
";

#[test]
fn a_backend_is_mended_and_the_undo_script_takes_it_back() {
    in_lab(|lab| {
        let site = Site::by_hand(lab);
        let _director = site.run(&["--vip", WEB, "--backend", "10.0.1.11"]);
        assert_eq!(site.get(), "b1");
        let backend = &site.backends[0].node;
        backend.sh(BREAK);
        let broken = dump(backend);
        assert!(!is_answered(&site));

        let undo = lab.file("mend.undo", "");
        fs::remove_file(&undo).expect("a file of the lab");
        let mended = mend(backend, &undo, &["--fix", "--apply", "--yes", "--json"]);
        let report: Value = serde_json::from_slice(&mended.stdout).expect("one JSON document");
        assert_eq!(mended.status.code(), Some(0), "{report:#}");
        assert_eq!(report["before"]["code"], "B5");
        assert_ne!(report["verdict"]["status"], "fail");
        assert_eq!(
            codes(&report["applied"]),
            ["B5", "B17", "B10", "B10", "B10", "B19", "B19"]
        );
        for change in report["applied"].as_array().expect("a list") {
            assert_eq!(change["result"], "done", "{change}");
            assert!(change["undo"][0].is_string(), "{change}");
        }
        for change in report["changed"].as_array().expect("a list") {
            assert_ne!(change["after"], "fail", "{change}");
        }
        assert_eq!(site.get(), "b1", "the client has its answer");
        assert_eq!(
            backend.sysctl("ipv4/conf/eth0/rp_filter"),
            "1",
            "another device is as strict as before"
        );

        let mode = fs::metadata(&undo)
            .expect("an undo script")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
        backend.run(&undo.display().to_string());
        assert_same(&broken, &dump(backend), "the undo script");
        assert!(!is_answered(&site));
    });
}

const CONFIG: &str = "
[[vip]]
address = \"10.0.0.100\"
port = 80
protocol = \"tcp\"
[[vip.backend]]
address = \"10.0.1.11\"
";

/// Faults of a director: its TUN is down, which takes the VIP's route with it, the VIP is its own,
/// forwarding is off but for one device that no client comes in by, two firewalls drop the tunnel.
const BREAK_DIRECTOR: &str = "
    ip link set tunlb0 down
    ip addr add 10.0.0.100/32 dev lo
    echo 0 >/proc/sys/net/ipv4/ip_forward
    echo 1 >/proc/sys/net/ipv4/conf/lo/forwarding
    echo 0 >/proc/sys/net/ipv4/conf/all/accept_redirects
    nft add table inet guard
    nft 'add chain inet guard out { type filter hook output priority 0; }'
    nft add rule inet guard out meta l4proto 4 counter drop
    iptables-legacy -A OUTPUT -p 4 -j DROP
";

#[test]
fn a_director_is_mended_and_the_undo_script_takes_it_back() {
    in_lab(|lab| {
        let site = Site::by_hand(lab);
        let config = lab.file("tunlb.toml", CONFIG).display().to_string();
        let _running = site.run(&["-c", &config]);
        assert_eq!(site.get(), "b1");
        let director = &site.director;
        director.sh(BREAK_DIRECTOR);
        let dump = || dump(director) + &director.run("iptables-legacy -S");
        let broken = dump();
        assert!(!is_answered(&site));

        let undo = Path::new("/dev/shm/undo.sh");
        let mut command = director.command(tunlb());
        command.args([
            "doctor",
            "-c",
            &config,
            "--fix",
            "--apply",
            "-y",
            "--lang=zh",
        ]);
        command.arg("--undo-file").arg(undo);
        let mended = command.output().expect("the doctor");
        let text = String::from_utf8_lossy(&mended.stdout).into_owned();
        assert_eq!(mended.status.code(), Some(0), "{text}");
        assert!(text.contains("D38: FAIL → PASS"), "{text}");
        assert!(text.contains("没有失败的检查"), "{text}");
        assert_eq!(site.get(), "b1", "the client has its answer");

        director.run(&undo.display().to_string());
        assert_same(&broken, &dump(), "the undo script");
    });
}

#[test]
fn nothing_is_changed_without_consent() {
    in_lab(|lab| {
        let site = Site::by_hand(lab);
        let backend = &site.backends[0].node;
        backend.run("ip addr del 10.0.0.100/32 dev lo");
        let broken = dump(backend);
        let undo = Path::new("/dev/shm/none.sh");

        let refused = mend(backend, undo, &["--fix", "--apply"]);
        assert_eq!(refused.status.code(), Some(2));
        let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(complaint.contains("--yes"), "{complaint}");
        assert!(refused.stdout.is_empty());

        // A terminal of its own, on which somebody says no, then yes.
        for (answer, status) in [("n", 1), ("y", 0)] {
            assert_same(&broken, &dump(backend), "the undo script");
            let (code, text) = on_terminal(backend, undo, answer);
            assert!(
                text.contains("B5: ip addr add 10.0.0.100/32 dev lo"),
                "{text}"
            );
            assert!(
                text.contains("undo: ip addr del 10.0.0.100/32 dev lo"),
                "{text}"
            );
            assert_eq!(code, status, "{text}");
            assert_eq!(undo.exists(), answer == "y");
        }
        backend.run(&undo.display().to_string());
        assert_same(&broken, &dump(backend), "the undo script");
    });
}

#[test]
fn what_lasts_is_written_beside_what_is_there() {
    in_lab(|lab| {
        lab.here().run("mount -t tmpfs tmpfs /etc/sysctl.d");
        let own = Path::new("/etc/sysctl.d/99-tunlb.conf");
        let former = "# kept\nnet.ipv4.conf.decap0.rp_filter=1\n";
        fs::write(own, former).expect("a file of the lab");
        let site = Site::by_hand(lab);
        let backend = &site.backends[0].node;
        backend.set_sysctl("ipv4/conf/decap0/rp_filter", 1);
        let broken = dump(backend);

        let undo = Path::new("/dev/shm/undo.sh");
        let arguments = ["--fix", "--apply", "--persist", "--yes", "--json"];
        let mended = mend(backend, undo, &arguments);
        let report: Value = serde_json::from_slice(&mended.stdout).expect("one JSON document");
        assert_eq!(mended.status.code(), Some(0), "{report:#}");
        assert_eq!(codes(&report["persisted"]), ["B10"]);
        assert_eq!(
            fs::read_to_string(own).expect("the doctor's file"),
            "# kept\nnet.ipv4.conf.decap0.rp_filter = 0\n"
        );
        assert_eq!(backend.sysctl("ipv4/conf/decap0/rp_filter"), "0");

        backend.run(&undo.display().to_string());
        assert_eq!(fs::read_to_string(own).expect("the doctor's file"), former);
        assert_same(&broken, &dump(backend), "the undo script");
    });
}

/// Runs the doctor on a backend, without a terminal.
fn mend(backend: &Node, undo: &Path, arguments: &[&str]) -> Output {
    let mut command = examination(backend, undo);
    command.args(arguments).stdin(std::process::Stdio::null());
    command.output().expect("the doctor")
}

fn examination(backend: &Node, undo: &Path) -> Command {
    let mut command = backend.command(tunlb());
    command.arg("doctor").args(WAY);
    command.arg("--lang=en").arg("--undo-file").arg(undo);
    command
}

/// Runs the doctor on a terminal on which the same answer is typed each time; its exit status and all
/// that it printed.
fn on_terminal(backend: &Node, undo: &Path, answer: &str) -> (i32, String) {
    const PROGRAM: &str = include_str!("tools/on_terminal.py");
    let examination = examination(backend, undo);
    let words = examination
        .get_args()
        .skip_while(|word| *word != "--")
        .skip(1);
    let mut command = backend.python(PROGRAM, &[answer]);
    command.args(words).args(["--fix", "--apply"]);
    let output = command.output().expect("python3");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().expect("an exit status"), text)
}

fn is_answered(site: &Site) -> bool {
    let mut command = site.client.command("curl");
    command.args(["--silent", "--max-time", "1", URL]);
    command.output().expect("curl").status.success()
}

fn codes(changes: &Value) -> Vec<&str> {
    let changes = changes.as_array().expect("a list");
    changes
        .iter()
        .filter_map(|change| change["code"].as_str())
        .collect()
}

/// All that a mend changes: packet filters, too.
fn dump(node: &Node) -> String {
    leftovers::dump(node) + &node.run("nft --stateless list ruleset")
}
