//! Outer headers of every kind that a kernel takes: options, fragments, extension headers, GUE with
//! private data.

use super::{decap, pair};
use crate::enter::{in_lab, tunlb};
use crate::lab::{Node, wait_until};
use crate::process::{Process, Signal};
use crate::site::{VIP, succeeded};
use crate::totals::of_decap;

/// Sends the inner packet "10.0.9.2:4000 to 10.0.0.100:53, hello" in an outer one of the kind named.
pub(super) const SEND: &str = r"
import socket, struct, sys

def checksum(data):
    total = sum(struct.unpack(f'>{len(data) // 2}H', data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return 0xffff - total

def ipv4(source, destination, protocol, payload, options=b'', fragment=0, number=1):
    length = 20 + len(options)
    head = struct.pack('>BBHHHBBH4s4s', 0x40 | length // 4, 0, length + len(payload), number, fragment,
                       64, protocol, 0, socket.inet_aton(source), socket.inet_aton(destination)) + options
    return head[:10] + struct.pack('>H', checksum(head)) + head[12:] + payload

def ipv6(protocol, payload):
    ends = [socket.inet_pton(socket.AF_INET6, f'2001:db8:1::{host}') for host in ('2', '11')]
    return struct.pack('>IHBB', 6 << 28, len(payload), protocol, 64) + ends[0] + ends[1] + payload

inner = ipv4('10.0.9.2', '10.0.0.100', 17, struct.pack('>HHHH', 4000, 53, 13, 0) + b'hello')
outer = lambda payload, **more: ipv4('10.0.1.2', '10.0.1.11', 4, payload, **more)
udp = lambda payload: ipv4('10.0.1.2', '10.0.1.11', 17,
                           struct.pack('>HHHH', 5000, 6080, 8 + len(payload), 0) + payload)
limit = bytes([4, 0, 4, 1, 4, 1, 1, 0])
KINDS = {
    'plain': [outer(inner)],
    'options': [outer(inner, options=b'\x01\x01\x01\x00')],
    'record route': [outer(inner, options=bytes([7, 39, 4]) + bytes(36) + b'\x00')],
    'fragments': [outer(inner[:16], fragment=0x2000), outer(inner[16:], fragment=2)],
    'fragments, last first': [outer(inner[16:], fragment=2, number=2),
                              outer(inner[:16], fragment=0x2000, number=2)],
    'plain 6': [ipv6(4, inner)],
    'encapsulation limit': [ipv6(60, limit + inner)],
    'fragments 6': [ipv6(44, struct.pack('>BBHI', 4, 0, 1, 7) + inner[:16]),
                    ipv6(44, struct.pack('>BBHI', 4, 0, 16, 7) + inner[16:])],
    'variant 1': [udp(inner)],
    'no flags': [udp(bytes([0, 4, 0, 0]) + inner)],
    'private data': [udp(bytes([1, 4, 0, 0, 9, 9, 9, 9]) + inner)],
    'as much as can be': [udp(bytes([31, 4, 0, 0]) + bytes(124) + inner)],
    'private flags': [udp(bytes([1, 4, 0, 1, 0, 0, 0, 0]) + inner)],
    'control message': [udp(bytes([0x20, 4, 0, 0]) + inner)],
    'remote checksum': [udp(bytes([2, 4, 0, 1, 128, 0, 0, 0, 0, 20, 0, 26]) + inner)],
    'an unknown flag': [udp(bytes([0, 4, 0, 2]) + inner)],
    'variant 2': [udp(bytes([0x80, 4, 0, 0]) + inner)],
}
for packet in KINDS[sys.argv[1]]:
    of_4 = packet[0] >> 4 == 4
    with socket.socket(socket.AF_INET if of_4 else socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        sock.sendto(packet, ('10.0.1.11' if of_4 else '2001:db8:1::11', 0))
";

/// Each kind must come out of the device whole, or be refused and counted by that name.
fn assert_taken(decap: &Process, nodes: (&Node, &Node), kinds: &[(&str, &str)]) {
    let (backend, peer) = nodes;
    let totals = || {
        decap.signal(Signal::Usr1);
        let text = decap.stdout();
        text.lines().last().map(of_decap).unwrap_or_default()
    };
    for (number, (kind, counter)) in (1..).zip(kinds) {
        let before = totals().get(*counter).copied().unwrap_or_default();
        peer.run_python(SEND, &[kind]);
        wait_until(&format!("{kind}: {counter}"), || {
            totals().get(*counter) == Some(&(before + 1))
        });
        assert_eq!(totals()["received"], number, "{kind}");
    }
    let delivered = kinds.iter().filter(|(_, counter)| *counter == "injected");
    // "hello" in 33 bytes, one packet for each.
    let bytes = 33 * u64::try_from(delivered.count()).expect("few kinds");
    assert_eq!(backend.device_counter("decap0", "rx_bytes"), bytes);
}

#[test]
fn outer_headers_of_every_kind() {
    in_lab(|lab| {
        let (backend, peer) = pair(lab);
        for (node, host) in [(&backend, "11"), (&peer, "2")] {
            node.set_sysctl("ipv6/conf/eth0/disable_ipv6", 0);
            node.run(&format!("ip addr add 2001:db8:1::{host}/64 dev eth0 nodad"));
        }
        let directors = ["--setup", "--director", "2001:db8:1::2"];
        let process = backend.start("decap", decap(&backend, &directors), "decapsulating");
        let kinds = [
            "plain",
            "options",
            "record route",
            "fragments",
            "fragments, last first",
            "plain 6",
            "encapsulation limit",
            "fragments 6",
        ];
        let kinds = kinds.map(|kind| (kind, "injected"));
        assert_taken(&process, (&backend, &peer), &kinds);
        succeeded(process.stop(Signal::Term));
    });
}

#[test]
fn gue_as_linux_takes_it() {
    in_lab(|lab| {
        let (backend, peer) = pair(lab);
        let gue = ["--setup", "--gue", "6080"];
        let process = backend.start("decap", decap(&backend, &gue), "decapsulating");
        let kinds = [
            ("variant 1", "injected"),
            ("no flags", "injected"),
            ("private data", "injected"),
            ("as much as can be", "injected"),
            ("private flags", "injected"),
            ("control message", "unsupported_protocol"),
            ("remote checksum", "unsupported_protocol"),
            ("an unknown flag", "unsupported_protocol"),
            ("variant 2", "unsupported_protocol"),
        ];
        assert_taken(&process, (&backend, &peer), &kinds);
        succeeded(process.stop(Signal::Term));
    });
}

#[test]
fn whom_it_takes_tunnels_from_is_said() {
    in_lab(|lab| {
        let (backend, _peer) = pair(lab);
        for (directors, warned) in [
            (&[][..], true),
            (&["--director", "0.0.0.0/0"], true),
            (&["--director", "10.0.1.2"], false),
        ] {
            let mut command = backend.command(tunlb());
            command.args(["decap", "--vip", VIP]).args(directors);
            let process = backend.start("decap", command, "decapsulating");
            let said = process.stderr();
            let line = said.lines().find(|line| line.contains("from any source"));
            assert_eq!(line.is_some(), warned, "{directors:?}: {said}");
            assert!(
                line.is_none_or(|line| line.contains("--director ADDRESS")),
                "{said}"
            );
            succeeded(process.stop(Signal::Term));
        }
    });
}
