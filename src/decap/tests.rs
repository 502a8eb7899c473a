//! The whole decapsulator against the kernel, in a namespace of its own: tunnel packets are sent over lo,
//! a UDP service on the VIP answers, and the answers are read from a TUN device that leads to the clients.

use super::*;
use crate::io::{
    sys::{ReceiveBatch, Wanted},
    sysctl::Sysctl,
    testing::in_namespace,
    tun::{Offloads, Queue, TunDevice},
};
use crate::packet::{Packet, checksum::Sum};
use signal_hook::consts::SIGTERM;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    net::{SocketAddr, UdpSocket},
    num::NonZeroUsize,
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

const VIP4: &str = "10.0.0.100";
const VIP6: &str = "2001:db8::100";
const CLIENT4: &str = "192.0.2.7";
const CLIENT6: &str = "2001:db8:9::7";
const SERVICE_PORT: u16 = 53;
const GUE_PORT: NonZeroU16 = NonZeroU16::new(6080).unwrap();

/// ECT(0) inside, congestion experienced outside: the service must see the latter.
const CAPABLE: u8 = 2;
const CONGESTED: u32 = 3;

#[test]
fn ipip_reaches_the_service() {
    in_namespace("decap::tests::ipip_reaches_the_service_inside");
}

#[test]
#[ignore = "run by ipip_reaches_the_service in a namespace of its own"]
fn ipip_reaches_the_service_inside() {
    // As a director sends: from a socket that receives nothing, so that it is no rival.
    let raw = |domain| {
        let protocol = Some(Protocol::from(libc::IPPROTO_RAW));
        Socket::new(domain, Type::RAW, protocol).unwrap()
    };
    let tunnels = [
        ("4in4", raw(Domain::IPV4), "127.0.0.1:0", CLIENT4, Some(4)),
        ("6in4", raw(Domain::IPV4), "127.0.0.1:0", CLIENT6, Some(41)),
        ("4in6", raw(Domain::IPV6), "[::1]:0", CLIENT4, Some(4)),
        ("6in6", raw(Domain::IPV6), "[::1]:0", CLIENT6, Some(41)),
    ];
    reaches_the_service(Encapsulation::Ipip, &tunnels);
}

#[test]
fn gue_reaches_the_service() {
    in_namespace("decap::tests::gue_reaches_the_service_inside");
}

#[test]
#[ignore = "run by gue_reaches_the_service in a namespace of its own"]
fn gue_reaches_the_service_inside() {
    let udp = |domain| Socket::new(domain, Type::DGRAM, None).unwrap();
    let tunnels = [
        (
            "IPv4 in GUE",
            udp(Domain::IPV4),
            "127.0.0.1:6080",
            CLIENT4,
            None,
        ),
        (
            "IPv6 in GUE",
            udp(Domain::IPV4),
            "127.0.0.1:6080",
            CLIENT6,
            None,
        ),
        (
            "IPv4 in GUE6",
            udp(Domain::IPV6),
            "[::1]:6080",
            CLIENT4,
            None,
        ),
        (
            "IPv6 in GUE6",
            udp(Domain::IPV6),
            "[::1]:6080",
            CLIENT6,
            None,
        ),
    ];
    reaches_the_service(Encapsulation::Gue(GUE_PORT), &tunnels);
}

/// Name, socket of the director, where it sends to, the client whose packets it sends, and the protocol
/// of the outer header that it writes.
type Tunnel = (&'static str, Socket, &'static str, &'static str, Option<u8>);

fn reaches_the_service(encapsulation: Encapsulation, tunnels: &[Tunnel]) {
    let mut netlink = Netlink::open().unwrap();
    let lo = netlink.link("lo").unwrap().unwrap().index;
    netlink.set_up(lo).unwrap();
    let off = |device: &str| Sysctl::ipv6_conf(device, "disable_ipv6").unwrap();
    off("all").write(1).unwrap(); // on lo and on every device to come: --setup has to mend it
    let clients = clients_behind_a_tun(&mut netlink);
    let addresses = netlink.addresses().unwrap();

    let decapsulator = thread::spawn(move || run(&set_up(encapsulation), |_| ()));
    let deadline = Instant::now() + Duration::from_secs(20);
    let services = [VIP4, VIP6].map(|vip| start_service(vip, deadline));
    for (name, socket, to, client, outer) in tunnels {
        let to: SocketAddr = to.parse().unwrap();
        if to.is_ipv4() {
            socket.set_tos_v4(CONGESTED).unwrap();
        } else {
            socket.set_tclass_v6(CONGESTED).unwrap();
        }
        let vip = if client.contains(':') { VIP6 } else { VIP4 };
        for checksum in [Checksum::Complete, Checksum::Partial] {
            let mut request = request_from(client, checksum);
            if let Some(protocol) = outer {
                request = [outer_header(to, *protocol, request.len()), request].concat();
            }
            // Sent again and again, since the decapsulator may not listen yet.
            let answered = || {
                socket.send_to(&request, &to.into()).unwrap();
                thread::sleep(Duration::from_millis(20));
                answers(&clients, vip, client)
            };
            until(deadline, name, answered);
        }
    }
    signal_hook::low_level::raise(SIGTERM).unwrap();
    let totals = decapsulator.join().unwrap().unwrap();
    assert!(totals.injected >= tunnels.len() as u64, "{totals}");
    assert_eq!(totals.received, totals.injected, "{totals}");
    drop(services);
    assert_eq!(off("lo").read().unwrap(), 1, "as before");
    assert_eq!(netlink.addresses().unwrap(), addresses, "as before");
}

fn set_up(encapsulation: Encapsulation) -> Settings {
    let vips = [VIP4, VIP6].map(|vip| vip.parse().unwrap());
    let directors = ["127.0.0.1/32", "::1/128"].map(|net| net.parse().unwrap());
    Settings::new(
        vips.into(),
        directors.into(),
        encapsulation,
        "decap0".into(),
        Host::SetUp,
    )
    .unwrap()
}

/// Everything to the clients' networks comes out of the queue.
fn clients_behind_a_tun(netlink: &mut Netlink) -> Queue {
    let mut undo = Undo::new().unwrap();
    let mut tun = TunDevice::open(
        "clients",
        NonZeroUsize::MIN,
        Offloads::Never,
        1500,
        &mut undo,
    )
    .unwrap();
    let off = Sysctl::ipv6_conf("clients", "disable_ipv6").unwrap();
    off.write(0).unwrap();
    for net in ["192.0.2.0/24", "2001:db8:9::/64"] {
        netlink.add_route(net.parse().unwrap(), tun.index).unwrap();
    }
    tun.queues.pop().unwrap()
}

/// A service bound to the VIP that answers every datagram with the traffic class in which it came.
fn start_service(vip: &'static str, deadline: Instant) -> thread::JoinHandle<()> {
    let mut socket = None;
    until(deadline, vip, || {
        socket = UdpSocket::bind((vip, SERVICE_PORT)).ok();
        socket.is_some()
    });
    let socket = socket.unwrap();
    let options = socket2::SockRef::from(&socket);
    if vip.contains(':') {
        options.set_recv_tclass_v6(true).unwrap();
    } else {
        options.set_recv_tos_v4(true).unwrap();
    }
    let client = if vip.contains(':') { CLIENT6 } else { CLIENT4 };
    // It ends with the test's process.
    thread::spawn(move || {
        let mut batch = ReceiveBatch::new(8, 64);
        loop {
            thread::sleep(Duration::from_millis(5));
            if batch.receive(socket.as_fd(), Wanted::Everything).is_ok() {
                for request in batch.packets_mut() {
                    assert_eq!(request.bytes, b"hello");
                    let answer = [request.traffic_class];
                    socket.send_to(&answer, (client, 4000)).unwrap();
                }
            }
        }
    })
}

/// Whether the service's answer has come, from the VIP; and that it saw the congestion.
fn answers(clients: &Queue, vip: &str, client: &str) -> bool {
    let mut buffer = [0; 128];
    let Ok(length) = clients.recv(&mut buffer) else {
        return false;
    };
    let packet = Packet::parse(&buffer[..length]).unwrap();
    assert_eq!(packet.source().to_string(), vip);
    assert_eq!(packet.destination().to_string(), client);
    assert_eq!(u32::from(buffer[length - 1]), CONGESTED);
    while clients.recv(&mut buffer).is_ok() {} // answers to what was sent before
    true
}

fn until(deadline: Instant, what: &str, mut condition: impl FnMut() -> bool) {
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: waited in vain");
        thread::sleep(Duration::from_millis(20));
    }
}

/// What the datagram's checksum field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checksum {
    Complete,
    /// The pseudo-header's sum, as after GRO.
    Partial,
}

/// The outer header from and to an address of lo, congestion marked; the kernel adds what it likes.
fn outer_header(to: SocketAddr, protocol: u8, payload: usize) -> Vec<u8> {
    let payload = u8::try_from(payload).unwrap();
    match to.ip() {
        IpAddr::V4(to) => {
            let head = [0x45, 3, 0, 20 + payload, 0, 1, 0, 0, 64, protocol, 0, 0];
            [&head[..], &to.octets(), &to.octets()].concat()
        }
        IpAddr::V6(to) => {
            let head = [0x60, 3 << 4, 0, 0, 0, payload, protocol, 64];
            [&head[..], &to.octets(), &to.octets()].concat()
        }
    }
}

/// A UDP datagram with "hello" from the client to the VIP of its family, ECN-capable.
fn request_from(client: &str, checksum: Checksum) -> Vec<u8> {
    let client: IpAddr = client.parse().unwrap();
    let [high, low] = 4000_u16.to_be_bytes();
    let mut udp = vec![high, low, 0, 53, 0, 13, 0, 0];
    udp.extend(b"hello");
    let header = match (client, VIP4.parse().unwrap(), VIP6.parse().unwrap()) {
        (IpAddr::V4(client), IpAddr::V4(vip), _) => {
            let mut header = vec![0x45, CAPABLE, 0, 33, 0, 1, 0, 0, 63, 17, 0, 0];
            header.extend([client.octets(), vip.octets()].concat());
            let sum = Sum::default().add_bytes(&header).finish();
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header
        }
        (IpAddr::V6(client), _, IpAddr::V6(vip)) => {
            let mut header = vec![0x60, CAPABLE << 4, 0, 0, 0, 13, 17, 63];
            header.extend([client.octets(), vip.octets()].concat());
            header
        }
        other => panic!("{other:?}"),
    };
    let addresses = if client.is_ipv4() { 12 } else { 8 };
    let pseudo = Sum::default()
        .add_bytes(&header[addresses..])
        .add_word(17)
        .add_word(13);
    let sum = match checksum {
        Checksum::Complete => pseudo.add_bytes(&udp).finish(),
        Checksum::Partial => !pseudo.finish(),
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    [header, udp].concat()
}
