//! What the director makes of an IPv4 packet that is too long is, byte for byte, what the kernel would have made.

use tunlb::packet::Fragmentation;
use tunlb::packet::checksum::checksum;

use crate::enter::in_lab;
use crate::site::succeeded;

/// Prints UDP packets that come in by `eth0`, each a line of hexadecimal digits.
const RECEIVE: &str = r#"
import socket, sys
count = int(sys.argv[1])
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
s.bind(("eth0", 0x0800))
s.settimeout(10)
print("listening", flush=True)
while count:
    data, address = s.recvfrom(65535)
    if address[2] != socket.PACKET_OUTGOING and data[9] == 17:
        print(data.hex(), flush=True)
        count -= 1
"#;

/// Sends packets in that form as they are.
const SEND: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for line in sys.argv[1:]:
    s.sendto(bytes.fromhex(line), ("10.0.8.2", 0))
"#;

/// Of the router's device towards the receiver.
const MTU: u16 = 604;

/// A UDP packet as it arrives at a router, and as it leaves one that does not cut it: the TTL is one less.
fn packet(options: &[u8], word: u16, data: usize) -> [Vec<u8>; 2] {
    [64, 63].map(|ttl| {
        let header = 20 + options.len();
        let mut packet = vec![
            0x40 | u8::try_from(header / 4).expect("a short header"),
            0x28,
        ];
        packet.extend(
            u16::try_from(header + data)
                .expect("a short packet")
                .to_be_bytes(),
        );
        packet.extend([0xbe, 0xef]);
        packet.extend(word.to_be_bytes());
        packet.extend([ttl, 17, 0, 0, 10, 0, 9, 2, 10, 0, 8, 2]);
        packet.extend(options);
        let sum = checksum(&packet).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
        packet.extend((0..data).map(|at| (at % 253).to_le_bytes()[0]));
        packet
    })
}

fn fragments(mut packet: Vec<u8>) -> Vec<Vec<u8>> {
    let (first, mut rest) = Fragmentation::begin(&mut packet, MTU).expect("too long a packet");
    let mut data = packet.split_off(first);
    let mut all = vec![packet];
    let mut room = [0; 2000];
    while let Some((length, taken)) = rest.next(&data, &mut room) {
        all.push(room[..length].to_vec());
        data.drain(..taken);
    }
    all
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_kernel_cuts_alike() {
    in_lab(|lab| {
        let [sender, router, receiver] =
            ["sender", "router", "receiver"].map(|name| lab.node(name));
        lab.cable((&sender, "eth0"), (&router, "eth0"));
        lab.cable((&router, "eth1"), (&receiver, "eth0"));
        sender.sh("ip addr add 10.0.9.2/24 dev eth0; ip route add default via 10.0.9.1");
        router.sh("ip addr add 10.0.9.1/24 dev eth0; ip addr add 10.0.8.1/24 dev eth1");
        receiver.sh("ip addr add 10.0.8.2/24 dev eth0; ip route add default via 10.0.8.1");
        router.set_sysctl("ipv4/ip_forward", 1);
        router.run(&format!("ip link set eth1 mtu {MTU}"));
        // Stream id, which is copied; record route, which is not, and has no room for the router.
        let copied = [0x88, 4, 0, 7];
        let not_copied = [7, 3, 4, 1];
        let all = [&not_copied[..], &copied, &[1, 1, 1, 0]].concat();
        let packets = [
            packet(&[], 0, 1400),
            packet(&[], 0x2000, 1400),
            packet(&[], 100, 1400),
            packet(&[], 0x2000 | 100, 1400),
            packet(&copied, 0, 1400),
            packet(&not_copied, 0, 1400),
            packet(&all, 0x2000 | 7, 1177),
            packet(&[], 0, 585),
        ];
        let expected: Vec<_> = packets
            .iter()
            .flat_map(|[_, forwarded]| fragments(forwarded.clone()))
            .map(|fragment| hex(&fragment))
            .collect();
        let count = expected.len().to_string();
        let listener = receiver.start("receive", receiver.python(RECEIVE, &[&count]), "listening");
        let sent = packets.each_ref().map(|[arriving, _]| hex(arriving));
        sender.run_python(SEND, &sent.each_ref().map(String::as_str));
        let received = succeeded(listener.wait()).stdout;
        let received: Vec<_> = received
            .lines()
            .filter(|line| *line != "listening")
            .collect();
        assert_eq!(received, expected);
    });
}
