//! What keeps a director from starting: told with its mend, before anything is opened or changed.

use std::process::Command;

use crate::enter::{in_lab, tunlb};
use crate::lab::{Lab, Node};
use crate::process::{Ended, Signal};
use crate::site::succeeded;

const RUN: [&str; 5] = [
    "run",
    "--vip",
    "10.0.0.100:80/tcp",
    "--backend",
    "10.0.1.11",
];

#[test]
fn a_vip_that_is_a_local_address() {
    in_lab(|lab| {
        let host = host(lab);
        host.run("ip addr add 10.0.0.100/32 dev lo");
        let words = ["10.0.0.100", "D35", "ip addr del 10.0.0.100/32 dev lo"];
        assert_refused(&host, run(&host, &RUN), 2, &words);
    });
}

#[test]
fn missing_capabilities() {
    in_lab(|lab| {
        let host = host(lab);
        for (without, named) in [
            ("-net_admin", "CAP_NET_ADMIN"),
            ("-net_raw", "CAP_NET_RAW"),
            ("-net_admin,-net_raw", "CAP_NET_ADMIN and CAP_NET_RAW"),
        ] {
            let mut command = host.command("setpriv");
            command
                .args(["--bounding-set", without, "--inh-caps", without])
                .arg(tunlb())
                .args(RUN);
            assert_refused(&host, command, 2, &[named, "setcap", "unshare -Urnm"]);
        }
    });
}

#[test]
fn a_missing_tun_driver() {
    in_lab(|lab| {
        let host = host(lab);
        lab.here().run("mount -t tmpfs tmpfs /dev/net");
        let decap = ["decap", "--vip", "10.0.0.100", "--setup"];
        for arguments in [&RUN[..], &decap] {
            let words = ["tunlb: /dev/net/tun does not exist", "modprobe tun"];
            assert_refused(&host, run(&host, arguments), 2, &words);
        }
    });
}

#[test]
fn an_invalid_configuration() {
    in_lab(|lab| {
        let host = host(lab);
        let config = "[director]\nring_size = 65536\nworkrs = 2\n\
                      [[vip]]\nname = \"web\"\naddress = \"10.0.0.100\"\nport = 80\n\
                      protocol = \"sctp\"\n\
                      [[vip.backend]]\naddress = \"10.0.0.100\"\n";
        let path = lab.file("bad.toml", config).display().to_string();
        // Line and what is wrong there, for every problem at once.
        let problems = [
            "bad.toml:2:",
            "65536",
            "bad.toml:3:",
            "workrs",
            "bad.toml:8:",
            "sctp",
        ];
        assert_refused(&host, run(&host, &["run", "-c", &path]), 1, &problems);
    });
}

#[test]
fn a_capture_that_cannot_be() {
    in_lab(|lab| {
        let host = host(lab);
        for (flags, words) in [
            (
                &["--capture", "/nowhere/capture"][..],
                &[
                    "cannot create capture file /nowhere/capture",
                    "No such file",
                ][..],
            ),
            (
                &[
                    "--capture",
                    "/dev/null",
                    "--capture-filter",
                    "drop=any,vip=web",
                ],
                &["vip=web", "no such VIP", "10.0.0.100:80/tcp"],
            ),
            (&["--capture-filter", "drop=any"], &["--capture <FILE>"]),
            (&["--capture-size", "1000000"], &["--capture <FILE>"]),
            (
                &["--capture", "/dev/null", "--capture-size", "1"],
                &["at least 4096 bytes"],
            ),
            (
                &["--capture", "/dev/null", "--capture-size", "ten"],
                &["not a size such as 64MiB"],
            ),
            (
                &["--capture", "/dev/full"],
                &["cannot write the capture", "No space left"],
            ),
        ] {
            let arguments = [&RUN[..], flags].concat();
            assert_refused(&host, run(&host, &arguments), 2, words);
        }
    });
}

#[test]
fn forwarding_that_is_off_is_warned_about() {
    in_lab(|lab| {
        let host = host(lab);
        host.set_sysctl("ipv4/ip_forward", 0);
        let director = host.start("run", run(&host, &RUN), "forwarding");
        let stderr = director.stderr();
        let warning = stderr
            .lines()
            .find(|line| line.contains("WARN") && line.contains("ip_forward"));
        let warning = warning.unwrap_or_else(|| panic!("no warning: {stderr}"));
        for mend in ["sysctl -w net.ipv4.ip_forward=1", "--setup"] {
            assert!(warning.contains(mend), "no \"{mend}\" in: {warning}");
        }
        assert_eq!(
            host.sysctl("ipv4/ip_forward"),
            "0",
            "changed without --setup"
        );
        succeeded(director.stop(Signal::Term));
    });
}

/// A director's host whose backend is on the other end of a cable.
fn host(lab: &Lab) -> Node {
    let [host, peer] = ["host", "peer"].map(|name| lab.node(name));
    lab.cable((&host, "eth0"), (&peer, "eth0"));
    host.run("ip addr add 10.0.1.2/24 dev eth0");
    peer.run("ip addr add 10.0.1.11/24 dev eth0");
    host.set_sysctl("ipv4/ip_forward", 1);
    host
}

fn run(host: &Node, arguments: &[&str]) -> Command {
    let mut command = host.command(tunlb());
    command.args(arguments);
    command
}

/// Runs tunlb, which must refuse: with the exit code, with every word on stderr, and without making a
/// device, not even for a moment.
fn assert_refused(host: &Node, command: Command, code: i32, words: &[&str]) {
    let index = next_device_index(host);
    let Ended {
        status,
        stdout,
        stderr,
    } = host.spawn("tunlb", command).wait();
    assert_eq!(status.code(), Some(code), "{stdout}{stderr}");
    for word in words {
        assert!(stderr.contains(word), "no \"{word}\" in: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert_eq!(stdout, "", "nothing was forwarded, so there are no totals");
    assert_eq!(
        next_device_index(host),
        index + 1,
        "a device was made in between"
    );
}

/// The kernel never gives an index twice; asking uses one up.
fn next_device_index(host: &Node) -> u64 {
    host.run("ip link add probe type bridge");
    let index = host.link("probe")["ifindex"].as_u64().expect("an index");
    host.run("ip link del probe");
    index
}
