//! Forged ICMP errors about the paths to backends: each wrong in one field, none is believed, and the right
//! one is. They are real packets of a host that is not on the path.

use std::net::{IpAddr, Ipv4Addr};

use crate::enter::{in_lab, tunlb};
use crate::families::DualStack;
use crate::lab::{Lab, Node, wait_until};
use crate::process::{Process, Signal};
use crate::site::{Site, VIP, succeeded};
use crate::totals::Totals;
use crate::traffic::{noise, upload};

const RAW: &str = include_str!("tools/raw.py");
const ICMP6: &str = include_str!("tools/icmp6.py");

/// What the director logs about each error that it does not believe.
const REFUSED: &str = "an ICMP error about its path is not believed";

/// An error about a packet that a tunnel to a backend has sent, or looks like it.
#[derive(Clone)]
struct Forged {
    /// Where it is sent: the source of the quoted packet, in truth.
    to: IpAddr,
    mtu: u16,
    quoted: Vec<u8>,
}

impl Forged {
    fn naming(mtu: u16, quoted: Vec<u8>) -> Self {
        let to = match quoted[0] >> 4 {
            4 => IpAddr::from(*quoted[12..].first_chunk::<4>().expect("a header")),
            _ => IpAddr::from(*quoted[8..].first_chunk::<16>().expect("a header")),
        };
        Self { to, mtu, quoted }
    }

    /// With one byte of the quotation changed.
    fn with(&self, at: usize, byte: u8) -> Self {
        let mut other = self.clone();
        other.quoted[at] = byte;
        other
    }

    /// In hex: over IPv4 the packet, from the client's address, over IPv6 the message.
    fn line(&self) -> String {
        let [high, low] = self.mtu.to_be_bytes();
        let bytes = match self.to {
            IpAddr::V6(_) => [&[2, 0, 0, 0, 0, 0, high, low], &self.quoted[..]].concat(),
            IpAddr::V4(to) => {
                let mut message = [&[3, 4, 0, 0, 0, 0, high, low], &self.quoted[..]].concat();
                let sum = checksum(&message).to_be_bytes();
                message[2..4].copy_from_slice(&sum);
                let from = Ipv4Addr::new(10, 0, 9, 2);
                packet([from.into(), to.into()], 1, 20 + length(&message), &message)
            }
        };
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        hex + "\n"
    }
}

fn length(bytes: &[u8]) -> u16 {
    u16::try_from(bytes.len()).expect("a small packet")
}

/// An IP header with DF that says `total` bytes, and what of the payload is quoted.
fn packet(way: [IpAddr; 2], protocol: u8, total: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = match way {
        [IpAddr::V4(_), _] => {
            let [high, low] = total.to_be_bytes();
            vec![0x45, 0, high, low, 0, 0, 0x40, 0, 63, protocol, 0, 0]
        }
        [IpAddr::V6(_), _] => {
            let [high, low] = (total - 40).to_be_bytes();
            vec![0x60, 0, 0, 0, high, low, protocol, 63]
        }
    };
    for address in way {
        match address {
            IpAddr::V4(v4) => packet.extend(v4.octets()),
            IpAddr::V6(v6) => packet.extend(v6.octets()),
        }
    }
    packet.extend(payload);
    packet
}

/// A TCP segment to port 80 of a VIP, its first bytes.
fn segment(client: &str, vip: &str, total: u16) -> Vec<u8> {
    let way = [client, vip].map(|address| address.parse().expect("an address"));
    packet(way, 6, total, &[0x9c, 0x40, 0, 80, 0, 0, 0, 1])
}

fn tunnel(source: &str, backend: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let way = [source, backend].map(|address| address.parse().expect("an address"));
    packet(way, protocol, 1500, payload)
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

/// A director that says why it believes nothing.
fn run(node: &Node, arguments: &[&str]) -> Process {
    let mut command = node.command(tunlb());
    command
        .arg("run")
        .args(arguments)
        .env("RUST_LOG", "tunlb=debug");
    node.start("run", command, "tunlb0: forwarding")
}

/// Sends errors from a host and waits until the director has refused as many.
fn assert_refused(lab: &Lab, from: &Node, director: &Process, errors: &[(&str, Forged)]) {
    for (what, error) in errors {
        let before = director.stderr().matches(REFUSED).count();
        send(lab, from, error);
        wait_until(&format!("a refusal of an error with {what}"), || {
            director.stderr().matches(REFUSED).count() > before
        });
        let log = director.stderr();
        assert!(!log.contains(": path MTU "), "{what}: {log}");
    }
}

fn send(lab: &Lab, from: &Node, error: &Forged) {
    let path = lab.file("forged", error.line()).display().to_string();
    match error.to {
        IpAddr::V4(_) => from.run_python(RAW, &[&path]),
        IpAddr::V6(to) => from.run_python(ICMP6, &[&path, &to.to_string()]),
    };
}

fn assert_believed(lab: &Lab, from: &Node, director: &Process, error: &Forged, line: &str) {
    send(lab, from, error);
    wait_until(&format!("the line {line:?}"), || {
        director.stderr().contains(line)
    });
}

const B1: &str = "10.0.1.11";

#[test]
fn a_forged_error_with_any_one_field_wrong_is_refused() {
    in_lab(|lab| {
        let site = Site::new(lab);
        site.announce_too_much();
        let vips = ["--vip", "10.0.0.100:80/tcp", "--vip", "10.0.0.100:443/tcp"];
        let director = run(&site.director, &[&vips[..], &["--backend", B1]].concat());
        let right = tunnel("10.0.1.2", B1, 4, &segment("10.0.9.2", VIP, 1480));
        let right = Forged::naming(1300, right);
        let naming = |mtu| Forged::naming(mtu, right.quoted.clone());
        let elsewhere = Forged {
            to: right.to,
            ..right.with(15, 3)
        };
        let errors = [
            ("an MTU that the packet fits", naming(1500)),
            ("an MTU that no link has", naming(67)),
            ("another source", elsewhere),
            ("another protocol", right.with(9, 41)),
            ("a protocol of the host's own", right.with(9, 6)),
            ("no DF", right.with(6, 0)),
            ("a fragment", right.with(7, 1)),
            ("another length", right.with(3, 0)),
            ("a length beyond the device's", right.with(2, 0x20)),
            ("another version inside", right.with(20, 0x60)),
            ("another length inside", right.with(23, 0)),
            ("no DF inside", right.with(26, 0)),
            ("another destination inside", right.with(39, 101)),
            ("a port without a VIP inside", right.with(43, 81)),
        ];
        assert_refused(lab, &site.router, &director, &errors);
        let (expected, path) = noise(lab, 300_000);
        assert_eq!(upload(&site, &path), expected);
        let route = site.client.run(&format!("ip route get {VIP}"));
        assert!(route.contains("mtu 1480"), "{route}");

        let line = "backend 10.0.1.11: path MTU 1300, for ten minutes";
        assert_believed(lab, &site.router, &director, &right, line);
        assert_eq!(upload(&site, &path), expected);
        let route = site.client.run(&format!("ip route get {VIP}"));
        assert!(route.contains("mtu 1280"), "{route}");
        // Two VIPs, one path, one line.
        assert_eq!(director.stderr().matches(": path MTU ").count(), 1);
        let totals = Totals::parse(&succeeded(director.stop(Signal::Term)).stdout);
        assert_eq!(
            totals.refused_path_errors,
            errors.len() as u64,
            "{totals:?}"
        );
    });
}

/// A guess that hits does what it can: a flood is a few lines, and service goes on.
#[test]
fn a_flood_of_believable_errors_is_bounded() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = site.run(&["--vip", "10.0.0.100:80/tcp", "--backend", B1]);
        let quoted = tunnel("10.0.1.2", B1, 4, &segment("10.0.9.2", VIP, 1480));
        let lines: String = (68..1500)
            .rev()
            .map(|mtu| Forged::naming(mtu, quoted.clone()).line())
            .collect();
        let path = lab.file("forged", lines).display().to_string();
        site.router.run_python(RAW, &[&path]);
        let (expected, path) = noise(lab, 100_000);
        assert_eq!(upload(&site, &path), expected);
        let log = director.0.stderr();
        assert!((1..=4).contains(&log.matches("path MTU").count()), "{log}");
        director.stop();
    });
}

/// The socket that hears errors must not make the kernel believe them (an error that quotes ICMP would
/// find it), or the kernel would refuse what the director sends.
#[test]
fn the_kernel_learns_nothing_from_forged_errors_either() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = run(
            &site.director,
            &["--vip", "10.0.0.100:80/tcp", "--backend", B1],
        );
        for (number, protocol) in [1, 4, 41, 255].into_iter().enumerate() {
            let quoted = tunnel("10.0.1.2", B1, protocol, &[8, 0, 0, 0, 0, 1, 0, 1]);
            send(lab, &site.router, &Forged::naming(600, quoted));
            wait_until("the error to be heard", || {
                director.stderr().matches(REFUSED).count() > number
            });
            let route = site.director.run(&format!("ip route get {B1}"));
            assert!(!route.contains("mtu"), "protocol {protocol}: {route}");
        }
        // The decapsulator's sockets are for protocols 4 and 41.
        let b1 = &site.backends[0];
        for protocol in [4, 41] {
            let quoted = tunnel(B1, "10.0.9.2", protocol, &[0x45, 0, 5, 0xc8, 0, 0, 0x40, 0]);
            send(lab, &site.router, &Forged::naming(600, quoted));
        }
        let heard = || b1.node.counter("IcmpMsg", "InType3") >= 2;
        wait_until("the errors to arrive at b1", heard);
        let route = b1.node.run("ip route get 10.0.9.2");
        assert!(!route.contains("mtu"), "{route}");
    });
}

/// Linux believes any error that quotes an echo reply of its own, and refuses to send longer packets then.
#[test]
fn what_the_kernel_believed_is_passed_by() {
    in_lab(|lab| {
        let site = Site::new(lab);
        site.announce_too_much();
        // Other ways out pass the kernel's routes by.
        let configuration = format!(
            "[director]\negress = \"raw\"\n[[vip]]\naddress = \"{VIP}\"\nport = 80\n\
             [[vip.backend]]\naddress = \"{B1}\"\n"
        );
        let file = lab.file("raw.toml", configuration);
        let director = run(&site.director, &["-c", &file.display().to_string()]);
        let quoted = tunnel("10.0.1.2", B1, 1, &[0, 0, 0, 0, 0, 1, 0, 1]);
        send(lab, &site.router, &Forged::naming(100, quoted));
        wait_until("the kernel to believe it", || {
            let route = site.director.run(&format!("ip route get {B1}"));
            route.contains("mtu lock 552")
        });
        let (expected, path) = noise(lab, 300_000);
        assert_eq!(upload(&site, &path), expected);
        let route = site.client.run(&format!("ip route get {VIP}"));
        assert!(route.contains("mtu 1480"), "{route}");
        let log = director.stderr();
        assert!(
            log.contains("the kernel has learnt a path MTU of 552"),
            "{log}"
        );
        assert!(!log.contains("path MTU 552"), "{log}");
        // Nor is it what a restart takes for the path.
        succeeded(director.stop(Signal::Term));
        let director = site.run(&["--vip", "10.0.0.100:80/tcp", "--backend", B1]);
        assert_eq!(site.director.mtu("tunlb0"), 1500);
        director.stop();
    });
}

#[test]
fn forged_errors_of_other_tunnels() {
    in_lab(|lab| {
        let site = DualStack::new(lab);
        site.client.sh("ip route add 10.0.1.0/24 via 10.0.9.1
             ip route add 2001:db8:1::/64 via 2001:db8:9::1");
        let file = lab.file("tunlb.toml", crate::families::configuration());
        let file = file.display().to_string();
        let director = run(&site.director, &["--setup", "-c", &file]);
        let six = tunnel(
            "2001:db8:1::2",
            "2001:db8:1::11",
            41,
            &segment("2001:db8:9::2", "2001:db8::104", 1460),
        );
        let six = Forged::naming(1400, six);
        let four = tunnel(
            "2001:db8:1::2",
            "2001:db8:1::11",
            4,
            &segment("10.0.9.2", "10.0.0.102", 1460),
        );
        let four = Forged::naming(1350, four);
        let gue = |source_port: [u8; 2]| {
            let udp = [
                &source_port[..],
                &6080_u16.to_be_bytes(),
                &1480_u16.to_be_bytes(),
                &[0, 0],
            ]
            .concat();
            Forged::naming(1400, tunnel("10.0.1.2", "10.0.1.11", 17, &udp))
        };
        let small = Forged {
            mtu: 1279,
            ..six.clone()
        };
        assert_refused(
            lab,
            &site.client,
            &director,
            &[
                ("less than IPv6 has", small),
                (
                    "another source",
                    Forged {
                        to: six.to,
                        ..six.with(23, 9)
                    },
                ),
                ("another protocol", six.with(6, 4)),
                ("a length that fits", six.with(4, 4)),
                ("another VIP inside", six.with(79, 9)),
                ("a fragment header", six.with(6, 44)),
                ("IPv6 in place of IPv4 inside", four.with(40, 0x65)),
                ("a source port that no flow has", gue([0x13, 0x88])),
                ("another port", gue([0xc0, 1]).with(23, 1)),
            ],
        );
        let line = |mtu: &str| format!("path MTU {mtu}, for ten minutes");
        assert_believed(lab, &site.client, &director, &six, &line("1400"));
        assert_believed(lab, &site.client, &director, &four, &line("1350"));
        let flow_unseen = gue([0xc0, 1]);
        assert_believed(
            lab,
            &site.client,
            &director,
            &flow_unseen,
            "10.0.1.11: path MTU 1400",
        );
        let (expected, path) = noise(lab, 100_000);
        assert_eq!(site.upload("2001:db8::104", &path), expected);
        assert_eq!(site.learnt_mtu("2001:db8::104").as_deref(), Some("1310"));
        succeeded(director.stop(Signal::Term));
    });
}
