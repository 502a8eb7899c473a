//! Bulk uploads, where segments and datagrams are joined to super-packets: what the services read is what was
//! sent, byte by byte, and nothing goes uncounted.

use super::{pair, start};
use crate::enter::{in_lab, tunlb};
use crate::lab::{Lab, Node};
use crate::process::Signal;
use crate::site::{CLIENT, VIP, succeeded};
use crate::totals::of_decap;

const SINK: &str = include_str!("../tools/bulk_sink.py");
const SOURCE: &str = include_str!("../tools/bulk_source.py");

/// Of streams and of datagrams.
const PORTS: [&str; 2] = ["7100", "7200"];

/// The peer is a director, and has the client's address, too.
fn set_up_peer(peer: &Node) {
    peer.run(&format!("ip addr add {CLIENT}/32 dev lo"));
    for device in ["all", "eth0"] {
        peer.set_sysctl(&format!("ipv4/conf/{device}/rp_filter"), 0);
    }
}

/// Through a director with that encapsulation, to a decapsulator with these arguments.
fn upload(lab: &Lab, encapsulation: &str, arguments: &[&str]) {
    let (backend, peer) = pair(lab);
    set_up_peer(&peer);
    let decap = start(&backend, &[&["--setup"], arguments].concat());
    let [streams, datagrams] = PORTS;
    let sink = backend.python(SINK, &[VIP, streams, datagrams]);
    let sink = backend.start("sink", sink, "listening");
    let mut director = peer.command(tunlb());
    let vips = [
        format!("{VIP}:{streams}/tcp"),
        format!("{VIP}:{datagrams}/udp"),
    ];
    director.args(["run", "--encap", encapsulation, "--backend", "10.0.1.11"]);
    director.args(["--vip", &vips[0], "--vip", &vips[1]]);
    let director = peer.start("run", director, "forwarding");
    peer.run_python(SOURCE, &[CLIENT, VIP, streams, datagrams]);
    succeeded(director.stop(Signal::Term));
    drop(sink);
    let written = backend.device_counter("decap0", "rx_packets");
    let totals = of_decap(&succeeded(decap.stop(Signal::Term)).stdout);
    assert_eq!(totals["received"], totals["injected"], "{totals:?}");
    // 16 MiB in segments of at most 1460 bytes.
    assert!(totals["injected"] > (16 << 20) / 1460, "{totals:?}");
    assert!(
        written < totals["injected"],
        "{written} written of {totals:?}: none was joined"
    );
    for counter in ["InCsumErrors", "InErrs"] {
        assert_eq!(backend.counter("Tcp", counter), 0, "{counter}");
    }
    assert_eq!(backend.counter("Udp", "InCsumErrors"), 0);
}

#[test]
fn uploads_in_ipip_are_whole() {
    in_lab(|lab| upload(lab, "ipip", &[]));
}

#[test]
fn uploads_in_ipip_with_two_workers_are_whole() {
    in_lab(|lab| upload(lab, "ipip", &["--workers", "2"]));
}

#[test]
fn uploads_in_gue_are_whole() {
    in_lab(|lab| upload(lab, "gue:6080", &["--gue", "6080"]));
}

#[test]
fn uploads_in_gue_with_two_workers_are_whole() {
    in_lab(|lab| upload(lab, "gue:6080", &["--gue", "6080", "--workers", "2"]));
}
