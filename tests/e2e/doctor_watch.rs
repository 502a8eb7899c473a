//! `tunlb doctor --watch`: faults are made on a backend, one at a time, while a real client connects; the
//! verdict must be the row of the fault, proven by the packets that were seen.

use serde_json::Value;

use crate::enter::{in_lab, tunlb};
use crate::families::{COMBINATIONS, DualStack, host};
use crate::lab::{Lab, Node, wait_until};
use crate::process::{Process, Signal};
use crate::site::{CLIENT, Site, URL, VIP, WEB, succeeded};

const UDP_ASK: &str = include_str!("tools/udp_ask.py");
const UDP_ECHO: &str = include_str!("tools/udp_echo.py");

/// What the doctor says when it sees packets from then on.
const INVITATION: &str = "let a client connect now";

/// One fault of the first backend.
struct Fault {
    what: &'static str,
    make: &'static str,
    mend: &'static str,
    /// The verdict's code; none: the flow works.
    code: Option<&'static str>,
}

const FAULTS: &[Fault] = &[
    Fault {
        what: "healthy",
        make: ":",
        mend: ":",
        code: None,
    },
    Fault {
        what: "strict rp_filter on T",
        make: "echo 1 >/proc/sys/net/ipv4/conf/decap0/rp_filter",
        mend: "echo 0 >/proc/sys/net/ipv4/conf/decap0/rp_filter",
        code: Some("B10"),
    },
    Fault {
        what: "loose rp_filter and no address on T",
        make: "echo 2 >/proc/sys/net/ipv4/conf/decap0/rp_filter; ip -4 addr flush dev decap0",
        mend: "echo 0 >/proc/sys/net/ipv4/conf/decap0/rp_filter",
        code: Some("B11"),
    },
    Fault {
        what: "the VIP is missing",
        make: "ip addr del 10.0.0.100/32 dev lo",
        mend: "ip addr add 10.0.0.100/32 dev lo",
        code: Some("B5"),
    },
    Fault {
        what: "the VIP is missing and the backend forwards",
        make: "ip addr del 10.0.0.100/32 dev lo; echo 1 >/proc/sys/net/ipv4/ip_forward",
        mend: "ip addr add 10.0.0.100/32 dev lo; echo 0 >/proc/sys/net/ipv4/ip_forward",
        code: Some("B6"),
    },
    Fault {
        what: "no route to the client",
        make: "ip route del default",
        mend: "ip route add default via 10.0.1.1",
        code: Some("B15"),
    },
    Fault {
        what: "the route to the client leads into T",
        make: "ip route add 10.0.9.0/24 dev decap0",
        mend: "ip route del 10.0.9.0/24 dev decap0",
        code: Some("B16"),
    },
    Fault {
        what: "the gateway does not answer",
        make: "ip route replace default via 10.0.1.250",
        mend: "ip route replace default via 10.0.1.1",
        code: Some("B18"),
    },
    Fault {
        what: "protocol 4 is dropped",
        make: "nft add table ip f; nft 'add chain ip f in { type filter hook input priority 0; }'
               nft add rule ip f in ip protocol 4 drop",
        mend: "nft delete table ip f",
        code: Some("B19"),
    },
    Fault {
        what: "what the VIP sends is dropped",
        make: "nft add table ip f; nft 'add chain ip f out { type filter hook output priority 0; }'
               nft add rule ip f out ip saddr 10.0.0.100 drop",
        mend: "nft delete table ip f",
        code: Some("B19"),
    },
    Fault {
        what: "a rule checks the reverse path",
        make: "nft add table ip f; nft 'add chain ip f pre { type filter hook prerouting priority -300; }'
               nft add rule ip f pre iifname decap0 fib saddr . iif oif missing drop",
        mend: "nft delete table ip f",
        code: Some("B13"),
    },
    Fault {
        what: "the client's address is the backend's own",
        make: "ip addr add 10.0.9.2/32 dev lo",
        mend: "ip addr del 10.0.9.2/32 dev lo",
        code: Some("B14"),
    },
    Fault {
        what: "the way back to the director is not the device it comes in by, which filters strictly",
        make: "ip link add other type veth peer name other1; ip link set other up; ip link set other1 up
               ip addr add 10.9.0.1/24 dev other; ip route add 10.0.1.2/32 dev other
               echo 1 >/proc/sys/net/ipv4/conf/eth0/rp_filter",
        mend: "echo 0 >/proc/sys/net/ipv4/conf/eth0/rp_filter; ip link del other",
        code: Some("B10"),
    },
    Fault {
        what: "T is gone",
        // A decapsulator that runs brings its device up again.
        make: "for pid in $(pgrep -x tunlb); do
                   [ $(readlink /proc/$pid/ns/net) != $(readlink /proc/self/ns/net) ] || kill -STOP $pid
               done
               ip link set decap0 down",
        mend: "ip link set decap0 up
               for pid in $(pgrep -x tunlb); do
                   [ $(readlink /proc/$pid/ns/net) != $(readlink /proc/self/ns/net) ] || kill -CONT $pid
               done",
        code: Some("B2"),
    },
];

#[test]
fn one_fault_at_a_time() {
    in_lab(|lab| {
        let site = Site::by_hand(lab);
        let director = site.run(&["--vip", WEB, "--backend", "10.0.1.11"]);
        let backend = &site.backends[0].node;
        let mut wrong = String::new();
        for fault in FAULTS {
            backend.sh(fault.make);
            let verdict = watched(&site.client, backend, &["--vip", WEB], URL);
            backend.sh(fault.mend);
            if !is_proven(&verdict, fault.code) {
                wrong += &format!("{}: {verdict:#}\n", fault.what);
            }
        }
        assert!(wrong.is_empty(), "{wrong}");
        director.stop();
    });
}

#[test]
fn nothing_listens() {
    in_lab(|lab| {
        let site = Site::by_hand(lab);
        let service = "10.0.0.100:81/tcp";
        let director = site.run(&["--vip", service, "--backend", "10.0.1.11"]);
        let backend = &site.backends[0].node;
        let url = "http://10.0.0.100:81/";
        let verdict = watched(&site.client, backend, &["--vip", service], url);
        assert_proven(&verdict, Some("B30"), "nothing listens");
        director.stop();
    });
}

#[test]
fn nothing_arrives() {
    in_lab(|lab| {
        let site = Site::by_hand(lab);
        let backend = &site.backends[0].node;
        let arguments = ["--vip", WEB, "--client", CLIENT, "--seconds", "2"];
        let verdict = watched(&site.client, backend, &arguments, URL);
        assert_eq!(verdict["verdict"]["status"], "unknown", "{verdict:#}");
        assert_eq!(verdict["verdict"]["code"], "B23", "{verdict:#}");
        assert!(!is_proven(&verdict, Some("B23")), "{verdict:#}");
        assert_eq!(verdict["path"][0]["state"], "fail");
    });
}

/// The director sends, the router drops protocol 4: only both ends together can tell.
#[test]
fn the_network_between_drops_the_tunnel() {
    in_lab(|lab| {
        let site = Site::by_hand(lab);
        let director = site.run(&["--vip", WEB, "--backend", "10.0.2.13"]);
        site.router.sh("nft add table ip f
             nft 'add chain ip f on { type filter hook forward priority 0; }'
             nft add rule ip f on ip protocol 4 drop");
        let tunlb = tunlb();
        let said = site
            .director
            .run(&format!("{} doctor --json", tunlb.display()));
        let peer = lab.file("director.json", said).display().to_string();
        let backend = &site.backends[2].node;
        let arguments = [
            "--vip",
            WEB,
            "--client",
            CLIENT,
            "--seconds",
            "2",
            "--peer",
            &peer,
        ];
        let verdict = watched(&site.client, backend, &arguments, URL);
        assert_eq!(verdict["verdict"]["code"], "B23", "{verdict:#}");
        let summary = verdict["verdict"]["summary"].to_string();
        assert!(
            summary.contains("tunlb0 tx_packets") && summary.contains("0 arrived"),
            "{summary}"
        );
        director.stop();
    });
}

#[test]
fn the_client_gets_no_answer() {
    in_lab(|lab| {
        let site = Site::by_hand(lab);
        let director = site.run(&["--vip", WEB, "--backend", "10.0.1.11"]);
        site.router.sh("nft add table ip f
             nft 'add chain ip f on { type filter hook forward priority 0; }'
             nft add rule ip f on ip saddr 10.0.0.100 drop");
        let backend = &site.backends[0].node;
        let verdict = watched(&site.client, backend, &["--vip", WEB], URL);
        assert_proven(&verdict, Some("B23"), "the cloud drops what the VIP sends");
        director.stop();
    });
}

#[test]
fn the_vip_is_routed_past_the_director() {
    in_lab(|lab| {
        let site = Site::by_hand(lab);
        site.router
            .sh("ip route replace 10.0.0.100/32 via 10.0.1.11");
        let backend = &site.backends[0].node;
        let verdict = watched(&site.client, backend, &["--vip", WEB], URL);
        assert_proven(&verdict, Some("B8"), "past the director");
    });
}

#[test]
fn both_captures_in_one_file() {
    in_lab(|lab| {
        let site = Site::by_hand(lab);
        let director = site.run(&["--vip", WEB, "--backend", "10.0.1.11"]);
        let backend = &site.backends[0].node;
        let file = lab.no_file("watch.pcapng");
        let path = file.display().to_string();
        watched(&site.client, backend, &["--vip", WEB, "--pcap", &path], URL);
        // Where it is root, tcpdump becomes another user, which a user namespace may not have: so it is not.
        let text = lab
            .here()
            .run(&format!("unshare --user tcpdump -n -r {path}"));
        let outer = "IP 10.0.1.2 > 10.0.1.11: IP 10.0.9.2";
        assert!(text.contains(outer), "{text}");
        assert!(text.contains(&format!("IP {VIP}.80 > {CLIENT}.")), "{text}");
        let comments = lab.here().sh(&format!("grep -ao 'decap0 in: SYN' {path}"));
        assert_eq!(comments.lines().count(), 1);
        director.stop();
    });
}

#[test]
fn nothing_decapsulates() {
    in_lab(|lab| {
        let site = Site::by_hand(lab);
        let director = site.run(&["--vip", WEB, "--backend", "10.0.1.11"]);
        let backend = site.backends[0].node.clone();
        let [first, ..] = site.backends;
        succeeded(first.decap.stop(Signal::Term));
        let verdict = watched(&site.client, &backend, &["--vip", WEB], URL);
        assert_proven(&verdict, Some("B1"), "tunlb decap has ended");
        director.stop();
    });
}

#[test]
fn no_port_for_gue() {
    in_lab(|lab| {
        let site = Site::by_hand(lab);
        let arguments = ["--vip", WEB, "--backend", "10.0.1.11", "--encap", "gue"];
        let director = site.run(&arguments);
        let backend = &site.backends[0].node;
        let arguments = ["--vip", WEB, "--encap", "gue"];
        let verdict = watched(&site.client, backend, &arguments, URL);
        assert_proven(&verdict, Some("B4"), "tunlb decap does not take GUE");
        director.stop();
    });
}

#[test]
fn datagrams() {
    in_lab(|lab| {
        let site = Site::by_hand(lab);
        let service = "10.0.0.100:53/udp";
        let director = site.run(&["--vip", service, "--backend", "10.0.1.11"]);
        let backend = &site.backends[0].node;
        for (address, code) in [
            (Some(VIP), None),
            (Some("0.0.0.0"), Some("B31")),
            (None, Some("B30")),
        ] {
            let _echo = address.map(|address| {
                let command = backend.python(UDP_ECHO, &["b1", address, "53"]);
                backend.start("echo", command, "listening")
            });
            let ask = || {
                let command = site.client.python(UDP_ASK, &[VIP, "53", "1", "5000"]);
                site.client.spawn("ask", command)
            };
            let verdict = watched_by(backend, &["--vip", service], ask);
            assert_proven(&verdict, code, &format!("a service on {address:?}"));
        }
        director.stop();
    });
}

/// Listens and never accepts.
const DEAF: &str = "
import signal, socket, sys
sock = socket.create_server((sys.argv[1], 81), backlog=0)
print('listening', flush=True)
signal.pause()
";

/// Fills the queue.
const IMPATIENT: &str = "
import signal, socket, sys
first = socket.create_connection((sys.argv[1], 81))
print('connected', flush=True)
signal.pause()
";

#[test]
fn nothing_is_accepted() {
    in_lab(|lab| {
        let site = Site::by_hand(lab);
        let service = "10.0.0.100:81/tcp";
        let director = site.run(&["--vip", service, "--backend", "10.0.1.11"]);
        let backend = &site.backends[0].node;
        let _deaf = backend.start("deaf", backend.python(DEAF, &[VIP]), "listening");
        let client = &site.client;
        let _impatient = client.start("impatient", client.python(IMPATIENT, &[VIP]), "connected");
        let url = "http://10.0.0.100:81/";
        let verdict = watched(client, backend, &["--vip", service], url);
        assert_proven(&verdict, Some("B32"), "a queue of one place");
        director.stop();
    });
}

#[test]
fn a_signal_ends_it() {
    in_lab(|lab| {
        let site = Site::by_hand(lab);
        let backend = &site.backends[0].node;
        let mut command = backend.command(tunlb());
        command.args(["doctor", "--watch", "--json", "--vip", WEB]);
        let watch = backend.start("doctor", command, INVITATION);
        let ended = watch.stop(Signal::Int);
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        let verdict: Value = serde_json::from_str(&ended.stdout).expect("JSON");
        assert_eq!(verdict["verdict"]["status"], "unknown");
    });
}

#[test]
fn drop_reasons_leave_no_trace() {
    in_lab(|lab| {
        let site = Site::by_hand(lab);
        let director = site.run(&["--vip", WEB, "--backend", "10.0.1.11"]);
        let backend = &site.backends[0].node;
        backend.set_sysctl("ipv4/conf/decap0/rp_filter", 1);
        // Refused to those who are root in a user namespace only.
        let tracefs = lab.here().sh(
            "[ -d /sys/kernel/tracing/instances ] || mount -t tracefs nodev /sys/kernel/tracing 2>&1 || echo refused",
        );
        let verdict = watched(&site.client, backend, &["--vip", WEB], URL);
        let checks = verdict["checks"].as_array().expect("checks");
        let filter = checks.iter().find(|check| check["code"] == "B10");
        let reasons = filter.expect("B10")["evidence"]["drop reasons (whole host)"].clone();
        let reasons = reasons.as_str().expect("drop reasons, or why not");
        if tracefs.contains("refused") {
            assert!(reasons.contains("no tracefs"), "{reasons}");
        } else {
            assert!(reasons.contains("IP_RPFILTER "), "{reasons}");
            // The machine has one tracefs, and tests beside this one watch, too.
            wait_until("no instance of tunlb in the tracefs", || {
                let left = lab.here().sh("ls /sys/kernel/tracing/instances");
                !left.contains("tunlb")
            });
        }
        director.stop();
    });
}

#[test]
fn every_family_and_tunnel() {
    in_lab(|lab| {
        let site = DualStack::by_hand(lab);
        let director = site.run(lab);
        let mut wrong = String::new();
        let mut judge = |what: &str, vip: &str, encap: &str, code: Option<&str>| {
            let service = format!("{}:80/tcp", host(vip));
            let url = format!("http://{}/", host(vip));
            let arguments = ["--vip", &service, "--encap", encap];
            let verdict = watched(&site.client, &site.backend, &arguments, &url);
            if !is_proven(&verdict, code) {
                wrong += &format!("{what}: {verdict:#}\n");
            }
        };
        for (name, vip, _, encap, _) in COMBINATIONS {
            judge(name, vip, encap, None);
        }
        let vip = "2001:db8::103";
        let of_fault = [
            (
                "the VIP is missing",
                format!("ip addr del {vip}/128 dev lo"),
                format!("ip addr add {vip}/128 dev lo nodad"),
                "B5",
            ),
            (
                "no route to the client",
                "ip route del 2001:db8:9::/64".to_owned(),
                "ip route add 2001:db8:9::/64 via 2001:db8:8::2".to_owned(),
                "B15",
            ),
        ];
        for (what, make, mend, code) in of_fault {
            site.backend.sh(&make);
            judge(what, vip, "ipip", Some(code));
            site.backend.sh(&mend);
        }
        assert!(wrong.is_empty(), "{wrong}");
        drop(director);
    });
}

#[test]
fn a_bundle_keeps_the_flow() {
    in_lab(|lab| {
        let site = Site::by_hand(lab);
        let director = site.run(&["--vip", WEB, "--backend", "10.0.1.11"]);
        let backend = &site.backends[0].node;
        backend.set_sysctl("ipv4/conf/decap0/rp_filter", 1);
        let path = lab.no_file("watch.tar.zst").display().to_string();
        let arguments = ["--vip", WEB, "--bundle", &path];
        let live = watched(&site.client, backend, &arguments, URL);
        let mut command = lab.here().command(tunlb());
        command.args(["doctor", "--json", "--from-bundle", &path]);
        let later = lab.here().spawn("later", command).wait();
        let later: Value = serde_json::from_str(&later.stdout).expect("JSON");
        assert_proven(&later, Some("B10"), "from a bundle");
        assert_eq!(later, live);
        director.stop();
    });
}

/// What a watch says of one connection that is begun meanwhile.
fn watched(client: &Node, backend: &Node, arguments: &[&str], url: &str) -> Value {
    watched_by(backend, arguments, || connect(client, url))
}

/// What a watch says of the packets of a program that is started meanwhile.
fn watched_by(backend: &Node, arguments: &[&str], start: impl FnOnce() -> Process) -> Value {
    let mut command = backend.command(tunlb());
    command.args(["doctor", "--role", "backend", "--watch", "--json"]);
    command.args(arguments);
    let watch = backend.start("doctor", command, INVITATION);
    let client = start();
    let ended = watch.wait();
    drop(client);
    serde_json::from_str(&ended.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", ended.stdout, ended.stderr))
}

/// A client that gets its answer, or begins again until it is killed.
fn connect(client: &Node, url: &str) -> Process {
    let mut command = client.command("curl");
    command.args(["--silent", "--globoff", "--max-time", "20", url]);
    client.spawn("curl", command)
}

fn assert_proven(document: &Value, code: Option<&str>, what: &str) {
    assert!(is_proven(document, code), "{what}: {document:#}");
}

fn is_proven(document: &Value, code: Option<&str>) -> bool {
    let verdict = &document["verdict"];
    let status = if code.is_some() { "fail" } else { "pass" };
    // A flow that works proves that nothing beyond the backend keeps the client from its answer.
    let expected = code.unwrap_or("B23");
    let checks = document["checks"].as_array().expect("checks");
    let mut proven = checks.iter().filter(|check| check["proven"] == true);
    verdict["code"].as_str() == code
        && verdict["status"] == status
        && proven.any(|check| check["code"] == expected)
}

/// A lab without packets: what is refused before anything is watched.
#[test]
fn what_cannot_be_watched() {
    in_lab(|lab: &Lab| {
        let here = lab.here();
        here.run("ip link set lo up");
        let refused = |script: &str| {
            let script = script.replace("tunlb", &tunlb().display().to_string());
            here.sh(&format!("{script} 2>&1 && exit 1 || echo $?"))
        };
        let text = refused(
            "setpriv --bounding-set -net_raw --inh-caps -net_raw tunlb doctor --role backend --watch --vip 10.0.0.100:80/tcp",
        );
        assert!(text.contains("missing CAP_NET_RAW"), "{text}");
        assert!(text.ends_with("\n2\n"), "{text}");
    });
}
