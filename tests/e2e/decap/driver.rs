//! `tunlb decap --xdp`: plain tunnel packets are taken out in the driver, all others by the sockets, by the same
//! rules and with the same counts. Needs root of the first user namespace, as BPF does.

use super::packets::SEND;
use super::{decap, pair};
use crate::enter::{in_lab, tunlb};
use crate::lab::{Lab, Node, wait_until};
use crate::process::{Process, Signal};
use crate::site::{DIRECTOR, Site, URL, VIP, WEB, succeeded};
use crate::totals::of_decap;
use crate::traffic::{UDP_ECHO, noise, upload};

/// Who took a packet out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Driver,
    Sockets,
    /// It was refused; the name of its count.
    Nobody(&'static str),
}

/// Where the program of a device runs: 1 native, 2 generic.
fn mode(node: &Node) -> Option<u64> {
    node.link("eth0").get("xdp")?.get("mode")?.as_u64()
}

fn count(decap: &Process, name: &str) -> u64 {
    decap.signal(Signal::Usr1);
    let text = decap.stdout();
    let totals = text.lines().last().map(of_decap).unwrap_or_default();
    totals.get(name).copied().unwrap_or_default()
}

/// A backend with a service on the VIP, and its peer; both speak IPv6, too.
fn served(lab: &Lab) -> (Node, Node, Process) {
    let (backend, peer) = pair(lab);
    for (node, host) in [(&backend, "11"), (&peer, "2")] {
        node.set_sysctl("ipv6/conf/eth0/disable_ipv6", 0);
        node.run(&format!("ip addr add 2001:db8:1::{host}/64 dev eth0 nodad"));
    }
    backend.run(&format!("ip addr add {VIP}/32 dev lo"));
    let command = backend.python(UDP_ECHO, &["b", VIP, "53"]);
    let echo = backend.start("echo", command, "listening");
    (backend, peer, echo)
}

/// Each kind is taken out by whom it is said, and reaches the service, or is refused.
fn assert_taken(decap: &Process, (backend, peer): (&Node, &Node), kinds: &[(&str, By)]) {
    for (kind, by) in kinds {
        let counter = match by {
            By::Driver | By::Sockets => "injected",
            By::Nobody(name) => name,
        };
        // The service answers each; a tunnel of UDP is itself datagrams that come in.
        let delivered = || backend.counter("Udp", "OutDatagrams");
        let through_tun = || backend.device_counter("decap0", "rx_packets");
        let before = (count(decap, counter), delivered(), through_tun());
        peer.run_python(SEND, &[kind]);
        wait_until(&format!("{kind}: {counter}"), || {
            count(decap, counter) == before.0 + 1
        });
        let expected = u64::from(!matches!(by, By::Nobody(_)));
        wait_until(&format!("{kind} at the service"), || {
            delivered() == before.1 + expected
        });
        let by_sockets = u64::from(*by == By::Sockets);
        assert_eq!(through_tun(), before.2 + by_sockets, "{kind}: {by:?}");
    }
}

#[test]
fn ip_in_ip_of_every_kind() {
    in_lab(|lab| {
        let (backend, peer, _echo) = served(lab);
        let arguments = ["--setup", "--director", "2001:db8:1::2", "--xdp", "eth0"];
        let process = backend.start("decap", decap(&backend, &arguments), "decapsulating for");
        assert_eq!(mode(&backend), Some(1), "native");
        let kinds = [
            ("plain", By::Driver),
            ("options", By::Sockets),
            ("record route", By::Sockets),
            ("fragments", By::Sockets),
            ("fragments, last first", By::Sockets),
            ("plain 6", By::Driver),
            ("encapsulation limit", By::Sockets),
            ("fragments 6", By::Sockets),
        ];
        assert_taken(&process, (&backend, &peer), &kinds);
        // An address that the machine gets while it runs is none of a client.
        backend.run("ip addr add 10.0.9.2/32 dev lo");
        wait_until("the address to be known", || {
            peer.run_python(SEND, &["plain"]);
            count(&process, "local_source") > 0
        });
        assert_taken(
            &process,
            (&backend, &peer),
            &[("plain", By::Nobody("local_source"))],
        );
        backend.run("ip addr del 10.0.9.2/32 dev lo");
        let injected = count(&process, "injected");
        wait_until("the address to be forgotten", || {
            peer.run_python(SEND, &["plain"]);
            count(&process, "injected") > injected
        });
        succeeded(process.stop(Signal::Term));
        assert_eq!(mode(&backend), None, "detached");
    });
}

#[test]
fn gue_of_every_kind() {
    in_lab(|lab| {
        let (backend, peer, _echo) = served(lab);
        let arguments = ["--setup", "--gue", "6080", "--xdp", "eth0"];
        let process = backend.start("decap", decap(&backend, &arguments), "decapsulating for");
        let kinds = [
            ("variant 1", By::Driver),
            ("no flags", By::Driver),
            ("private data", By::Sockets),
            ("private flags", By::Sockets),
            ("control message", By::Nobody("unsupported_protocol")),
            ("an unknown flag", By::Nobody("unsupported_protocol")),
            ("variant 2", By::Nobody("unsupported_protocol")),
        ];
        assert_taken(&process, (&backend, &peer), &kinds);
        succeeded(process.stop(Signal::Term));
    });
}

#[test]
fn other_directors_are_refused() {
    in_lab(|lab| {
        let (backend, peer, _echo) = served(lab);
        let mut command = backend.command(tunlb());
        // ::/0 is every source of its own family only.
        command.args(["decap", "--setup", "--vip", VIP, "--xdp", "eth0"]);
        command.args(["--director", "10.0.1.77", "--director", "::/0"]);
        let process = backend.start("decap", command, "decapsulating for");
        let kinds = [
            ("plain", By::Nobody("not_director")),
            ("plain 6", By::Driver),
        ];
        assert_taken(&process, (&backend, &peer), &kinds);
        process.signal(Signal::Kill);
        process.wait();
        wait_until("the program to go", || mode(&backend).is_none());
    });
}

#[test]
fn clients_are_served() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let b1 = &site.backends[0];
        b1.decap.signal(Signal::Term);
        wait_until("the first decapsulator to end", || {
            !b1.node.has_device("decap0")
        });
        let mut command = b1.node.command(tunlb());
        command.args(["decap", "--setup", "--vip", VIP, "--director", DIRECTOR]);
        command.args(["--xdp", "eth0"]);
        let process = b1.node.start("driver", command, "decapsulating for");
        let director = site.run(&["--vip", WEB, "--backend", "10.0.1.11"]);
        let body = site
            .client
            .run(&format!("curl --silent --fail --max-time 20 {URL}"));
        assert_eq!(body.trim(), "b1");
        let (expected, path) = noise(lab, 5_000_000);
        assert_eq!(upload(&site, &path), expected);
        let totals = director.stop();
        let through_tun = b1.node.device_counter("decap0", "rx_packets");
        let ended = succeeded(process.stop(Signal::Term));
        let taken = of_decap(&ended.stdout);
        assert!(
            taken["injected"] >= totals.sent().packets,
            "{taken:?} {totals:?}"
        );
        assert!(
            through_tun < 5,
            "{through_tun} packets through the TUN: {taken:?}"
        );
    });
}
