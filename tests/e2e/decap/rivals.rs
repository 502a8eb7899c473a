//! Other programs that take the same tunnel packets, before and after the start.

use super::{assert_failed, decap, pair, start, warnings};
use crate::enter::{in_lab, tunlb};
use crate::lab::{Node, wait_until};
use crate::process::{Process, Signal};
use crate::site::succeeded;
use crate::totals::of_decap;

/// A socket of family, type and protocol, connected where a peer is named; it is there until it ends.
const SOCKET: &str = "
import socket, sys, time
family, kind, protocol, *peer = sys.argv[1:]
sock = socket.socket(getattr(socket, family), getattr(socket, kind), int(protocol))
if kind == 'SOCK_DGRAM':
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(('', 6080))
if peer:
    sock.connect((peer[0], 0))
print('open', flush=True)
time.sleep(1000)
";

fn socket(node: &Node, arguments: &[&str]) -> Process {
    node.start("socket", node.python(SOCKET, arguments), "open")
}

#[test]
fn what_would_deliver_twice_is_refused() {
    in_lab(|lab| {
        let (backend, _peer) = pair(lab);
        let twice = ["gets a copy of each packet", "delivered twice"];
        for (arguments, named) in [
            (
                &["AF_INET", "SOCK_RAW", "4"][..],
                "raw IPv4 socket for protocol 4",
            ),
            (
                &["AF_INET6", "SOCK_RAW", "4"],
                "raw IPv6 socket for protocol 4",
            ),
            (
                &["AF_INET", "SOCK_RAW", "4", "10.0.1.2"],
                "raw IPv4 socket for protocol 4",
            ),
        ] {
            let other = socket(&backend, arguments);
            let ended = backend.spawn("refused", decap(&backend, &[])).wait();
            let who = format!("process {} (python3)", other.id());
            assert_failed(&ended, &[&who, named, twice[0], twice[1]]);
            assert!(!backend.has_device("decap0"), "a device was left");
        }
        let first = start(&backend, &["--setup"]);
        let ended = backend
            .spawn("refused", decap(&backend, &["--tun", "decap1"]))
            .wait();
        let who = format!("process {} (tunlb decap)", first.id());
        assert_failed(&ended, &[&who, twice[0], twice[1]]);
        succeeded(first.stop(Signal::Term));
    });
}

#[test]
fn what_takes_other_packets_is_not() {
    in_lab(|lab| {
        let (backend, _peer) = pair(lab);
        let _director = socket(&backend, &["AF_INET", "SOCK_RAW", "255"]);
        let _ospf = socket(&backend, &["AF_INET", "SOCK_RAW", "89"]);
        let _sixes = socket(&backend, &["AF_INET", "SOCK_RAW", "41"]);
        let _elsewhere = socket(&backend, &["AF_INET", "SOCK_RAW", "4", "10.0.1.99"]);
        let first = start(&backend, &["--setup"]);
        // The same kind for other VIPs, for other directors, and by another encapsulation.
        for (number, others) in [
            (1, &["--vip", "10.0.0.101", "--director", "10.0.1.2"][..]),
            (2, &["--vip", "10.0.0.100", "--director", "10.0.1.3"]),
            (
                3,
                &[
                    "--vip",
                    "10.0.0.100",
                    "--director",
                    "10.0.1.2",
                    "--gue",
                    "6080",
                ],
            ),
        ] {
            let mut command = backend.command(tunlb());
            command.arg("decap").args(others);
            command.args(["--tun", &format!("decap{number}")]);
            let name = format!("decap{number}");
            let other = backend.start(&name, command, "decapsulating");
            succeeded(other.stop(Signal::Term));
        }
        succeeded(first.stop(Signal::Term));
    });
}

#[test]
fn a_port_of_gue_has_one_owner() {
    in_lab(|lab| {
        let (backend, _peer) = pair(lab);
        let gue = ["--gue", "6080"];
        let twin = socket(&backend, &["AF_INET", "SOCK_DGRAM", "0"]);
        let ended = backend.spawn("refused", decap(&backend, &gue)).wait();
        let who = format!("in use by process {} (python3)", twin.id());
        assert_failed(&ended, &["UDP port 6080", &who, "choose another port"]);
        drop(twin);
        let first = start(&backend, &gue);
        let ended = backend.spawn("refused", decap(&backend, &gue)).wait();
        let who = format!("process {} (tunlb decap)", first.id());
        assert_failed(&ended, &["UDP port 6080", &who]);
        succeeded(first.stop(Signal::Term));
    });
}

/// What comes later cannot be kept away: an error names it, and packets meanwhile are counted.
#[test]
fn one_that_comes_later_is_named() {
    in_lab(|lab| {
        let (backend, peer) = pair(lab);
        let first = start(&backend, &["--setup"]);
        let later = socket(&backend, &["AF_INET", "SOCK_RAW", "4"]);
        let who = format!("process {} (python3)", later.id());
        let is_told = || {
            let warnings = warnings(&first);
            warnings
                .iter()
                .any(|line| line.contains("ERROR") && line.contains(&who))
        };
        wait_until("an error", is_told);
        peer.run_python(super::packets::SEND, &["plain"]);
        wait_until("the packet", || {
            backend.device_counter("decap0", "rx_packets") > 0
        });
        drop(later);
        wait_until("the end of it", || {
            first.stderr().contains("no longer: process")
        });
        peer.run_python(super::packets::SEND, &["plain"]);
        wait_until("the packet", || {
            backend.device_counter("decap0", "rx_packets") > 1
        });
        let totals = of_decap(&succeeded(first.stop(Signal::Term)).stdout);
        assert_eq!(
            (totals["injected"], totals["doubled"]),
            (2, 1),
            "{totals:?}"
        );
    });
}
