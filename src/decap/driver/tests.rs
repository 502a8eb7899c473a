//! The program by BPF_PROG_TEST_RUN, on headers that are cut, padded or lie: what it takes out is what the sockets
//! would admit, byte for byte, and everything else is left as it came.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::process::Command;

use super::*;
use crate::decap::admission::Refusal;
use crate::io::testing::in_namespace_of_root;
use crate::packet::checksum::checksum;
use crate::packet::decap::{Outer, open_gue, open_ipv4, open_ipv6};

const XDP_PASS: u32 = 2;

const PORT: u16 = 6080;

/// Of the device, and of another one.
const LINK: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tunnel {
    Ipip,
    /// With a header of GUE's own (variant 0), or without (variant 1).
    Gue(bool),
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A packet with a header of `from`'s family.
fn ip(from: &str, to: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    match (address(from), address(to)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 2, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0];
            header[2..4].copy_from_slice(&(length + 20).to_be_bytes());
            header.extend([from.octets(), to.octets()].concat());
            let sum = checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            [&header, payload].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0x20, 0, 0, 0, 0, protocol, 64];
            header[4..6].copy_from_slice(&length.to_be_bytes());
            header.extend([from.octets(), to.octets()].concat());
            [&header, payload].concat()
        }
        _ => unreachable!("one family"),
    }
}

fn packets(tunnel: Tunnel) -> Vec<(String, Vec<u8>)> {
    let udp = [0x0f, 0xa0, 0, 53, 0, 12, 0, 0, b't', b'e', b's', b't'];
    let inners = [
        (4, ip("192.0.2.7", "10.0.0.100", 17, &udp)),
        (41, ip("2001:db8:9::7", "2001:db8::100", 17, &udp)),
    ];
    let mut packets = Vec::new();
    for (from, to) in [
        ("10.0.1.1", "10.0.1.11"),
        ("2001:db8:1::1", "2001:db8:1::11"),
    ] {
        for (number, inner) in &inners {
            let (protocol, payload) = match tunnel {
                Tunnel::Ipip => (*number, inner.clone()),
                Tunnel::Gue(has_header) => {
                    let own: &[u8] = if has_header { &[0, *number, 0, 0] } else { &[] };
                    let length = u16::try_from(8 + own.len() + inner.len()).unwrap();
                    let ports = [&[0xc0, 1][..], &PORT.to_be_bytes()].concat();
                    let udp = [&ports[..], &length.to_be_bytes(), &[0, 0]].concat();
                    (17, [&udp[..], own, inner].concat())
                }
            };
            let what = format!("{tunnel:?} of {number} from {from}");
            packets.push((what, ip(from, to, protocol, &payload)));
        }
    }
    packets
}

/// What the sockets would inject: the kernel has looked at the outer header's length and the UDP header.
fn by_socket(rules: &Admission, tunnel: Tunnel, mut packet: Vec<u8>) -> Result<Vec<u8>, Refusal> {
    let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
    let outer = Outer {
        source: match header {
            20 => IpAddr::from(*packet[12..].first_chunk::<4>().unwrap()),
            _ => IpAddr::from(*packet[8..].first_chunk::<16>().unwrap()),
        },
        traffic_class: match header {
            20 => packet[1],
            _ => packet[0] << 4 | packet[1] >> 4,
        },
    };
    let end = match header {
        20 => usize::from(u16::from_be_bytes([packet[2], packet[3]])),
        _ => usize::from(u16::from_be_bytes([packet[4], packet[5]])) + 40,
    };
    packet.truncate(end);
    let opened = match tunnel {
        Tunnel::Ipip if header == 20 => open_ipv4(&mut packet)?,
        Tunnel::Ipip => {
            let protocol = packet[6];
            open_ipv6(outer, protocol, &mut packet[40..])?
        }
        Tunnel::Gue(_) => {
            let udp = &packet[header..];
            assert_eq!(udp[2..4], PORT.to_be_bytes(), "taken out by its port alone");
            let length = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
            open_gue(outer, &mut packet[header + 8..header + length])?
        }
    };
    Ok(rules.admit(opened)?.to_vec())
}

/// A program and the rules of the sockets beside it, on the device `v0`.
struct Twins {
    program: DecapProgram,
    rules: Admission,
    tunnel: Tunnel,
}

impl Twins {
    fn new(tunnel: Tunnel) -> Self {
        let vips = ["10.0.0.100", "2001:db8::100"].map(address);
        let directors = ["10.0.1.0/24", "2001:db8:1::/64"].map(|net| net.parse().unwrap());
        let admitted = Admitted {
            vips: &vips,
            directors: &directors,
            gue: NonZeroU16::new(PORT).filter(|_| tunnel != Tunnel::Ipip),
        };
        let mut program = DecapProgram::start("v0", admitted, HOOKS).unwrap();
        let mut rules = Admission::new(&vips, &directors);
        for local in ["10.0.1.11", "2001:db8:1::11"] {
            rules.add_local_address(address(local));
        }
        let local: BTreeSet<_> = rules.local_addresses().collect();
        program.set_local(&local).unwrap();
        Self {
            program,
            rules,
            tunnel,
        }
    }

    /// Runs the program on a packet; whether it was taken out.
    fn takes(&self, what: &str, packet: &[u8]) -> bool {
        let ethertype: [u8; 2] = match packet.first().map(|first| first >> 4) {
            Some(6) => [0x86, 0xdd],
            _ => [8, 0],
        };
        let frame = [&LINK[..], &ethertype, packet].concat();
        let before = self.program.taken_out().unwrap();
        let (verdict, left) = self.program.run(&frame);
        let taken = self.program.taken_out().unwrap() - before;
        assert_eq!(verdict, XDP_PASS, "{what}: {packet:02x?}");
        if taken == 0 {
            assert_eq!(left, frame, "{what}: left as it came");
            return false;
        }
        assert_eq!(taken, 1, "{what}");
        let inner = by_socket(&self.rules, self.tunnel, packet.to_vec());
        let inner = inner.unwrap_or_else(|error| panic!("{what}: {error:?}: {packet:02x?}"));
        let ethertype: [u8; 2] = if inner[0] >> 4 == 4 {
            [8, 0]
        } else {
            [0x86, 0xdd]
        };
        let expected = [&LINK[..], &ethertype, &inner].concat();
        // Behind it is what was behind it.
        assert_eq!(left[..expected.len()], expected, "{what}: {packet:02x?}");
        true
    }
}

#[test]
fn hostile_headers() {
    in_namespace_of_root("decap::driver::tests::hostile_headers_inside");
}

#[test]
#[ignore = "in a network namespace"]
fn hostile_headers_inside() {
    let link =
        "ip link add v0 address 02:00:00:00:00:01 type veth peer name v1 && ip link set v0 up";
    assert!(
        Command::new("sh")
            .args(["-ec", link])
            .status()
            .unwrap()
            .success()
    );
    for tunnel in [Tunnel::Ipip, Tunnel::Gue(false), Tunnel::Gue(true)] {
        let twins = Twins::new(tunnel);
        let mut lies_taken = 0;
        for (what, packet) in packets(tunnel) {
            assert!(twins.takes(&what, &packet), "{what}: plain");
            let padded = [&packet[..], &[0xff; 46]].concat();
            assert!(twins.takes(&what, &padded), "{what}: padded");
            for end in 0..packet.len() {
                assert!(!twins.takes(&what, &packet[..end]), "{what}: cut to {end}");
            }
            // The same packet once more inside itself, at every length of the outer one.
            let nested = [&packet[..20], &packet[..]].concat();
            for end in 0..nested.len() {
                twins.takes(&what, &nested[..end]);
            }
            for at in 0..packet.len() {
                for lie in [0, 1, packet[at].wrapping_add(1), packet[at] ^ 3, 0x7f, 0xff] {
                    let mut lying = packet.clone();
                    lying[at] = lie;
                    // So that not the checksum alone is what is looked at.
                    if packet[0] >> 4 == 4 && at < 20 && !(10..12).contains(&at) {
                        lying[10..12].copy_from_slice(&[0, 0]);
                        let sum = checksum(&lying[..20]).to_be_bytes();
                        lying[10..12].copy_from_slice(&sum);
                    }
                    lies_taken +=
                        u32::from(twins.takes(&format!("{what}: {lie:#x} at {at}"), &lying));
                }
            }
        }
        assert!(
            lies_taken > 100,
            "{tunnel:?}: lies in payloads are no matter"
        );
    }
}
