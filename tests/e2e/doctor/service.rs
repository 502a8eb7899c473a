//! Who takes the tunnel's packets, and who serves the VIP: rows 1 to 4 and 26 to 32.

use super::bench::{Bench, Diagnosis, GO_ON, PAUSE, WAY, answers, mend};
use crate::enter::{in_lab, tunlb};
use crate::lab::{Node, wait_until};
use crate::process::{Process, Signal};
use crate::site::{CLIENT, DIRECTOR, HTTPD, VIP};

const WAY_BY_UDP: [&str; 8] = [
    "--role",
    "backend",
    "--vip",
    "10.0.0.100:5353/udp",
    "--client",
    CLIENT,
    "--director",
    DIRECTOR,
];
const UDP_ECHO: &str = include_str!("../tools/udp_echo.py");
/// Listens on PORT with a queue of one connection, and never accepts.
const IDLE: &str = "
import socket, sys
server = socket.create_server(('10.0.0.100', int(sys.argv[1])), backlog=1)
clients = [socket.socket() for _ in range(4)]
for client in clients:
    client.setblocking(False)
    client.connect_ex(server.getsockname())
print('full', flush=True)
__import__('time').sleep(1000)
";
/// A listener of all addresses and of one device, by which no packet of the VIP comes in.
const BOUND_TO_ETH0: &str = "
import socket
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0')
server.bind(('', 80))
server.listen()
print('listening', flush=True)
__import__('time').sleep(1000)
";
/// Sends SYNs to the VIP whose TCP checksum is wrong.
const WRONG_CHECKSUMS: &str = "
import socket, struct
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as sock:
    for port in range(20000, 20030):
        syn = struct.pack('>HHIIBBHHH', port, 80, 1, 0, 0x50, 2, 512, 0x1234, 0)
        sock.sendto(syn, ('10.0.0.100', 0))
";

#[test]
fn nobody_decapsulates() {
    in_lab(|lab| {
        let bench = Bench::new(lab);
        end(&bench, &bench.site.backends[0].decap);
        assert!(!bench.answers_at_once());
        let diagnosis = bench.examine();
        diagnosis.must_be("fail B1");
        assert_eq!(diagnosis.status_of("B2"), "skip");
        assert_eq!(diagnosis.check("B2")["blocked_by"], "B1");

        let decap = decap(bench.backend(), diagnosis.fix_of_verdict());
        assert_healthy(&bench);
        // Killed, it leaves the VIP and its settings behind, but no device.
        drop(decap);
        let diagnosis = bench.examine();
        diagnosis.must_be("fail B1");
        assert_eq!(diagnosis.status_of("B5"), "pass");

        let gue = [&WAY[..], &["--encap", "gue"]].concat();
        let diagnosis = bench.examine_with(&gue);
        diagnosis.must_be("fail B4");
    });
}

#[test]
fn the_decapsulator_takes_other_packets() {
    in_lab(|lab| {
        let bench = Bench::new(lab);
        end(&bench, &bench.site.backends[0].decap);
        for others in [
            ["--vip", VIP, "--director", "10.0.1.99"],
            ["--vip", VIP, "--gue", "6080"],
            ["--vip", "10.0.0.101", "--director", DIRECTOR],
        ] {
            let mut command = bench.backend().command(tunlb());
            command.args(["decap", "--setup"]).args(others);
            let decap = bench.backend().start("decap", command, "decapsulating");
            bench.backend().sh("ip addr replace 10.0.0.100/32 dev lo");
            assert!(!bench.answers_at_once(), "{others:?}");
            let ipip = [&WAY[..], &["--encap", "ipip"]].concat();
            let diagnosis = bench.examine_with(&ipip);
            assert_eq!(
                diagnosis.verdict(),
                "fail B2",
                "{others:?}: {}",
                diagnosis.complaints()
            );
            decap.stop(Signal::Term);
        }
    });
}

#[test]
fn the_tunnel_device_is_down() {
    in_lab(|lab| {
        let bench = Bench::new(lab);
        bench.backend().sh(PAUSE);
        bench.backend().run("ip link set decap0 down");
        assert!(!bench.answers_at_once());
        let diagnosis = bench.examine();
        diagnosis.must_be("fail B2");
        let mended = mend(bench.backend(), || bench.examine(), diagnosis).expect("a mend");
        mended.must_be("pass");
        bench.backend().sh(GO_ON);
        assert_healthy(&bench);
    });
}

#[test]
fn nothing_listens() {
    in_lab(|lab| {
        let bench = Bench::new(lab);
        end(&bench, &bench.site.backends[0].httpd);
        let refused = bench.examine();
        refused.must_be("fail B30");
        assert!(!bench.answers_at_once());
        // The other backends of the lab serve the same address in namespaces of their own.
        let evidence = refused.check("B30")["evidence"].to_string();
        assert!(
            evidence.contains("in another network namespace"),
            "{evidence}"
        );

        let elsewhere = httpd(bench.backend(), "10.0.1.11");
        let diagnosis = bench.examine();
        diagnosis.must_be("fail B30");
        let evidence = diagnosis.check("B30")["evidence"].to_string();
        assert!(evidence.contains("10.0.1.11:80"), "{evidence}");
        drop(elsewhere);

        let by_device = bench.backend().python(BOUND_TO_ETH0, &[]);
        let by_device = bench.backend().start("eth0", by_device, "listening");
        let diagnosis = bench.examine();
        diagnosis.must_be("fail B30");
        drop(by_device);

        for everywhere in ["0.0.0.0", "::"] {
            let server = httpd(bench.backend(), everywhere);
            assert_healthy(&bench);
            drop(server);
        }
        // An earlier fault goes first.
        bench.backend().set_sysctl("ipv4/conf/all/rp_filter", 1);
        assert_eq!(bench.examine().verdict(), "fail B10");
    });
}

#[test]
fn a_udp_service() {
    in_lab(|lab| {
        let bench = Bench::new(lab);
        let examine = || bench.examine_with(&WAY_BY_UDP);
        let serve = |address| {
            let command = bench.backend().python(UDP_ECHO, &["b1", address, "5353"]);
            bench.backend().start("echo", command, "listening")
        };
        examine().must_be("fail B30");
        let everywhere = serve("0.0.0.0");
        examine().must_be("warn B31");
        drop(everywhere);
        let bound = serve(VIP);
        examine().must_be("pass");
        drop(bound);
    });
}

#[test]
fn a_service_that_does_not_accept() {
    in_lab(|lab| {
        let bench = Bench::new(lab);
        end(&bench, &bench.site.backends[0].httpd);
        let idle = bench.backend().python(IDLE, &["80"]);
        let idle = bench.backend().start("idle", idle, "full");
        wait_until("a full queue", || {
            bench.backend().run("ss -Htln sport = :80").contains(" 2 ")
        });
        assert!(!bench.answers_at_once());
        let diagnosis = bench.examine();
        diagnosis.must_be("fail B32");
        drop(idle);
    });
}

#[test]
fn wrong_checksums() {
    in_lab(|lab| {
        let bench = Bench::new(lab);
        bench.site.client.run_python(WRONG_CHECKSUMS, &[]);
        wait_until("the packets", || {
            bench.backend().counter("Tcp", "InCsumErrors") > 0
        });
        let diagnosis = bench.examine();
        diagnosis.must_be("warn B26");
    });
}

/// Without --setup nothing makes up for what the files of the next boot say.
#[test]
fn the_next_boot() {
    in_lab(|lab| {
        let bench = Bench::new(lab);
        let backend = bench.backend();
        end(&bench, &bench.site.backends[0].decap);
        let mut command = backend.command(tunlb());
        command.args(["decap", "--vip", VIP]);
        let _decap = backend.start("decap", command, "decapsulating");
        assert_healthy(&bench);
        for setting in [
            "net.ipv4.conf.all.rp_filter = 1",
            "net.ipv4.conf.all.rp_filter = 2",
            "net.ipv4.conf.default.rp_filter = 1",
            "net.ipv4.conf.*.rp_filter = 2",
            "net/ipv4/conf/decap0/rp_filter = 1",
        ] {
            lab.here()
                .sh(&format!("echo '{setting}' >/run/sysctl.d/50-fault.conf"));
            let diagnosis = bench.examine();
            assert_eq!(
                diagnosis.verdict(),
                "warn B12",
                "{setting}: {}",
                diagnosis.complaints()
            );
            let lines = diagnosis.check("B12")["persist"][0]
                .as_str()
                .expect("lines of a file");
            lab.here()
                .sh(&format!("echo '{lines}' >/run/sysctl.d/99-tunlb.conf"));
            assert_healthy(&bench);
            lab.here()
                .run("rm /run/sysctl.d/50-fault.conf /run/sysctl.d/99-tunlb.conf");
        }
    });
}

/// A segment size that does not fit the tunnel costs uploads a wait; `decap --setup` sets one that does.
#[test]
fn segments_of_full_size() {
    in_lab(|lab| {
        let bench = Bench::kept(lab);
        let fits = bench.examine();
        assert_eq!(fits.status_of("B24"), "pass", "{}", fits.check("B24"));
        // An operator's rule that comes before the decapsulator's.
        let first = "from 10.0.0.100 lookup main priority 100";
        bench.backend().run(&format!("ip rule add {first}"));
        let diagnosis = bench.examine();
        let check = diagnosis.check("B24");
        assert_eq!(check["status"], "skip", "{check}");
        let summary = check["summary"].as_str().unwrap();
        assert!(summary.contains("advmss 1440"), "{summary}");
        bench
            .backend()
            .run("ip route replace default via 10.0.1.1 advmss 1440");
        assert_eq!(bench.examine().status_of("B24"), "pass");
    });
}

/// Ends a program of the site.
pub(super) fn end(bench: &Bench, program: &Process) {
    program.signal(Signal::Term);
    let id = program.id();
    wait_until("the end of a program", || {
        let state = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        !state.contains(") ") || state.contains(") Z")
    });
    assert!(!bench.answers_at_once());
}

/// Runs what the doctor proposes: one command, which stays.
fn decap(host: &Node, commands: Vec<String>) -> Process {
    let [line] = &commands[..] else {
        panic!("{commands:?}");
    };
    let mut words = line.split(' ');
    assert_eq!(words.next(), Some("tunlb"));
    let mut command = host.command(tunlb());
    command.args(words);
    host.start("mended", command, "decapsulating")
}

fn httpd(host: &Node, address: &str) -> Process {
    let command = host.python(HTTPD, &[host.name(), address]);
    host.start("httpd", command, "listening")
}

fn assert_healthy(bench: &Bench) {
    let diagnosis: Diagnosis = bench.examine();
    diagnosis.must_be("pass");
    assert!(answers(&bench.site.client, crate::site::URL, "5"));
}
