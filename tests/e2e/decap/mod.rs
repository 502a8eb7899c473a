//! `tunlb decap` on the host it lives on: settings that others change, devices that others take away,
//! addresses by the thousand, programs that take the same packets, and packets of every kind that Linux
//! takes.

mod addresses;
mod bulk;
mod device;
#[cfg(feature = "xdp")]
mod driver;
mod flags;
mod packets;
mod rivals;
mod settings;

use std::process::Command;

use crate::enter::tunlb;
use crate::lab::{Lab, Node};
use crate::process::{Ended, Process};
use crate::site::VIP;

/// The address that the director's packets come from.
const DIRECTOR: &str = "10.0.1.2";

/// A backend whose peer on the other end of a cable sends tunnel packets as a director does.
fn pair(lab: &Lab) -> (Node, Node) {
    let [backend, peer] = ["backend", "peer"].map(|name| lab.node(name));
    lab.cable((&backend, "eth0"), (&peer, "eth0"));
    backend.sh("ip addr add 10.0.1.11/24 dev eth0; ip route add 10.0.9.0/24 via 10.0.1.2");
    peer.run("ip addr add 10.0.1.2/24 dev eth0");
    (backend, peer)
}

/// `tunlb decap` for the VIP from the director, with more arguments.
fn decap(node: &Node, arguments: &[&str]) -> Command {
    let mut command = node.command(tunlb());
    command.args(["decap", "--vip", VIP, "--director", DIRECTOR]);
    command.args(arguments);
    command
}

fn start(node: &Node, arguments: &[&str]) -> Process {
    node.start("decap", decap(node, arguments), "decapsulating")
}

/// Its warnings and errors so far.
fn warnings(decap: &Process) -> Vec<String> {
    let stderr = decap.stderr();
    let warnings = stderr
        .lines()
        .filter(|line| line.contains("WARN") || line.contains("ERROR"));
    warnings.map(str::to_owned).collect()
}

/// It must end with exit code 2 and all these words.
fn assert_failed(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    let last = ended.stderr.lines().last().unwrap_or_default();
    for word in words {
        assert!(last.contains(word), "no \"{word}\" in: {}", ended.stderr);
    }
}
