//! `--setup` undoes exactly what it did, whichever signal ends it; a device of the user's stays his.

use crate::enter::{in_lab, tunlb};
use crate::lab::{Lab, Node, wait_until};
use crate::process::Signal;
use crate::site::{VIP, succeeded};

const RUN: [&str; 6] = [
    "run",
    "--setup",
    "--vip",
    "10.0.0.100:80/tcp",
    "--backend",
    "10.0.1.11",
];

#[test]
fn the_directors_setup_is_undone() {
    in_lab(|lab| {
        let host = host(lab);
        // One device forwards already, though not the one that clients come in by: `ip_forward` sets and
        // clears them all.
        host.set_sysctl("ipv4/conf/lo/forwarding", 1);
        let before = dump(&host);
        for signal in [Signal::Term, Signal::Int, Signal::Quit] {
            let mut command = host.command(tunlb());
            command.args(RUN);
            let director = host.start("run", command, "forwarding");
            assert_eq!(host.sysctl("ipv4/ip_forward"), "1");
            assert_eq!(
                host.sysctl("ipv4/conf/eth0/rp_filter"),
                "2",
                "strict was not loosened"
            );
            let route = host.run(&format!("ip route get {VIP} from 10.0.1.11 iif eth0"));
            assert!(route.contains("dev tunlb0"), "{route}");
            succeeded(director.stop(signal));
            assert_same(
                &before,
                &dump(&host),
                &format!("run --setup, then {signal:?}"),
            );
        }
    });
}

#[test]
fn the_backends_setup_is_undone() {
    in_lab(|lab| {
        let host = host(lab);
        let before = dump(&host);
        for signal in [Signal::Term, Signal::Int, Signal::Quit] {
            let mut command = host.command(tunlb());
            command.args(["decap", "--vip", VIP, "--setup"]);
            let decap = host.start("decap", command, "decapsulating");
            assert!(
                host.run("ip addr show dev lo")
                    .contains("inet 10.0.0.100/32")
            );
            assert_eq!(host.sysctl("ipv4/conf/eth0/arp_ignore"), "1");
            assert_eq!(host.sysctl("ipv4/conf/eth0/arp_announce"), "2");
            assert_eq!(
                host.sysctl("ipv4/conf/decap0/rp_filter"),
                "2",
                "all is 1, so 0 is no use"
            );
            succeeded(decap.stop(signal));
            assert_same(
                &before,
                &dump(&host),
                &format!("decap --setup, then {signal:?}"),
            );
        }
    });
}

#[test]
fn without_setup_nothing_but_device_and_route_changes() {
    in_lab(|lab| {
        let host = host(lab);
        let before = dump(&host);
        let mut command = host.command(tunlb());
        command.args(RUN.iter().filter(|argument| **argument != "--setup"));
        let director = host.start("run", command, "forwarding");
        let changed = difference(&before, &dump(&host));
        assert!(
            changed
                .iter()
                .any(|line| line.contains("10.0.0.100 dev tunlb0")),
            "{changed:?}"
        );
        for line in changed.iter().filter(|line| line[2..].starts_with("ipv")) {
            assert!(
                line.contains("/tunlb0/"),
                "a setting was changed unasked: {line}"
            );
        }
        succeeded(director.stop(Signal::Term));
        assert_same(&before, &dump(&host), "run, then SIGTERM");
    });
}

#[test]
fn a_device_that_was_there_stays() {
    in_lab(|lab| {
        let host = host(lab);
        for (multi_queue, workers) in [("", "1"), ("multi_queue", "1"), ("multi_queue", "2")] {
            host.run(&format!("ip tuntap add dev tunlb0 mode tun {multi_queue}"));
            host.run("ip link set tunlb0 mtu 1404");
            // What the kernel does for good the first time: a queueing discipline when it comes up, a
            // made-up IPv6 address when it has a carrier.
            host.set_sysctl("ipv6/conf/tunlb0/disable_ipv6", 1);
            host.run("ip link set tunlb0 up");
            host.run("ip link set tunlb0 down");
            let index = host.link("tunlb0")["ifindex"].clone();
            let before = dump(&host);
            let mut command = host.command(tunlb());
            command.args(RUN).args(["--workers", workers]);
            let director = host.start("run", command, "forwarding");
            assert_eq!(
                host.link("tunlb0")["ifindex"],
                index,
                "another device took its place"
            );
            assert_eq!(host.mtu("tunlb0"), 1500, "MTU while the director runs");
            succeeded(director.stop(Signal::Term));
            assert_same(
                &before,
                &dump(&host),
                &format!("{multi_queue} device, {workers} worker(s)"),
            );
            host.run(&format!("ip tuntap del dev tunlb0 mode tun {multi_queue}"));
        }
    });
}

/// With a file, SIGHUP means to read it again.
#[test]
fn a_director_with_a_file_outlives_a_hang_up() {
    in_lab(|lab| {
        let host = host(lab);
        let before = dump(&host);
        let config =
            "[[vip]]\naddress = \"10.0.0.100\"\n[[vip.backend]]\naddress = \"10.0.1.11\"\n";
        let path = lab.file("tunlb.toml", config);
        let mut command = host.command(tunlb());
        command.args(["run", "--setup", "-c"]).arg(path);
        let mut director = host.start("run", command, "forwarding");
        let running = dump(&host);
        director.signal(Signal::Hup);
        director.wait_for("reloaded");
        assert_same(&running, &dump(&host), "SIGHUP with the same file");
        assert!(director.runs());
        succeeded(director.stop(Signal::Term));
        assert_same(&before, &dump(&host), "SIGHUP, then SIGTERM");
    });
}

/// A host as a distribution leaves it: IPv6 on, strict reverse-path filter, no forwarding.
pub(crate) fn host(lab: &Lab) -> Node {
    let [host, peer] = ["host", "peer"].map(|name| lab.bare_node(name));
    for (key, value) in [("all", 1), ("default", 1)] {
        host.set_sysctl(&format!("ipv4/conf/{key}/rp_filter"), value);
    }
    lab.cable((&host, "eth0"), (&peer, "eth0"));
    host.run("ip addr add 10.0.1.2/24 dev eth0");
    peer.run("ip addr add 10.0.1.11/24 dev eth0");
    host.set_sysctl("ipv4/ip_forward", 0);
    wait_until("IPv6 addresses to leave the tentative state", || {
        let addresses = host.run("ip -6 addr show dev eth0");
        addresses.contains("inet6") && !addresses.contains("tentative")
    });
    host
}

/// All that tunlb could change: links, addresses, routes, rules, settings.
pub(crate) fn dump(host: &Node) -> String {
    wait_until("addresses of lo to leave the tentative state", || {
        !host.run("ip addr show dev lo").contains("tentative")
    });
    host.sh("ip -d link; ip addr; ip neigh show proxy
         for family in -4 -6; do ip $family route show table all; ip $family rule; done
         cd /proc/sys/net; grep -rs '' ipv4 ipv6 | sort")
}

pub(crate) fn assert_same(before: &str, after: &str, what: &str) {
    let difference = difference(before, after);
    assert!(
        difference.is_empty(),
        "{what}: left behind or taken away:\n{}",
        difference.join("\n")
    );
}

/// The lines that only one of two texts has, marked as `diff` does.
pub(crate) fn difference(before: &str, after: &str) -> Vec<String> {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (before, after) = (lines(before), lines(after));
    let gone = before
        .iter()
        .filter(|line| !after.contains(line))
        .map(|line| format!("- {line}"));
    let new = after
        .iter()
        .filter(|line| !before.contains(line))
        .map(|line| format!("+ {line}"));
    gone.chain(new).collect()
}
