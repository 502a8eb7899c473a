//! The filter in the kernel: of all packets of the machine those of one service on its VIP, with a
//! tunnel's header around them or without, the replies, and ICMP errors.
//!
//! It is coarse where that is harmless: `sighting` reads what comes through again. A packet that is
//! shorter than what the program looks at is refused by the kernel.

use std::net::IpAddr;

use super::Watched;
use crate::doctor::facts::Encap;
use crate::io::packet_filter::{
    ADDRESSING, Assembler, DEVICE, ETHERTYPE, IPV4, IPV6, IpFields, LOOPBACK, Label, OUTGOING,
    TO_ANOTHER_HOST, Target, WHOLE,
};
use crate::io::packet_socket::Instruction;

/// Protocol numbers.
const ICMP: u32 = 1;
const UDP: u32 = 17;
const ICMPV6: u32 = 58;

const fn fields_of(address: IpAddr) -> &'static IpFields {
    if address.is_ipv4() { &IPV4 } else { &IPV6 }
}

const fn is_v4(fields: &IpFields) -> bool {
    fields.ethertype == IPV4.ethertype
}

/// The program for one service; packets of other clients than `client` are refused where it is given.
pub(super) fn program(watched: &Watched, client: Option<IpAddr>) -> Vec<Instruction> {
    let mut writer = Writer::new(watched, client);
    writer.entrance();
    writer.outer(&IPV4);
    writer.outer(&IPV6);
    writer.plain();
    writer.packet_of_the_service();
    writer.end();
    writer.code.finish()
}

struct Writer<'a> {
    watched: &'a Watched,
    client: Option<IpAddr>,
    inner: &'static IpFields,
    code: Assembler,
    outer_v4: Label,
    outer_v6: Label,
    /// A packet without a tunnel around it, or none that matters.
    plain: Label,
    /// X is where the packet of the service begins.
    service: Label,
    take: Label,
    refuse: Label,
}

impl<'a> Writer<'a> {
    fn new(watched: &'a Watched, client: Option<IpAddr>) -> Self {
        let mut code = Assembler::default();
        Self {
            watched,
            client,
            inner: fields_of(watched.vip),
            outer_v4: code.label(),
            outer_v6: code.label(),
            plain: code.label(),
            service: code.label(),
            take: code.label(),
            refuse: code.label(),
            code,
        }
    }

    /// Neither loopback, which shows a packet twice, nor what a switch sends to others.
    fn entrance(&mut self) {
        let (v4, v6, refuse) = (
            Target::To(self.outer_v4),
            Target::To(self.outer_v6),
            Target::To(self.refuse),
        );
        self.code.load_word(ADDRESSING);
        self.code.if_equal(TO_ANOTHER_HOST, refuse, Target::Next);
        self.code.load_word(DEVICE);
        self.code.if_equal(LOOPBACK, refuse, Target::Next);
        self.code.load_word(ETHERTYPE);
        self.code.if_equal(IPV4.ethertype, v4, Target::Next);
        self.code.if_equal(IPV6.ethertype, v6, refuse);
    }

    /// What the packet is, by its first header. X becomes the length of that header.
    fn outer(&mut self, header: &IpFields) {
        let (plain, service) = (Target::To(self.plain), Target::To(self.service));
        let icmp = self.code.label();
        let here = if is_v4(header) {
            self.outer_v4
        } else {
            self.outer_v6
        };
        self.code.here(here);
        self.code.set_x(0);
        if is_v4(header) {
            self.refuse_later_fragment();
        }
        self.skip_header(header);
        self.code.load_byte(header.protocol);
        self.code
            .if_equal(self.inner.tunnelled_as, service, Target::Next);
        let icmp_number = if is_v4(header) { ICMP } else { ICMPV6 };
        self.code
            .if_equal(icmp_number, Target::To(icmp), Target::Next);
        if let Encap::Gue(port) = self.watched.encap {
            self.code.if_equal(UDP, Target::Next, plain);
            self.gue(port.into());
        } else {
            self.code.go_to(self.plain);
        }
        self.code.here(icmp);
        self.code.load_byte_from_x(0);
        let errors: &[u32] = if is_v4(header) {
            &[3, 11, 12]
        } else {
            &[1, 2, 3, 4]
        };
        for kind in errors {
            let take = Target::To(self.take);
            self.code.if_equal(*kind, take, Target::Next);
        }
        self.code.go_to(self.refuse);
    }

    /// GUE: the header of variant 0 says its length in words beyond the first, variant 1 has none
    /// (draft-ietf-intarea-gue-09 §3).
    fn gue(&mut self, port: u32) {
        const UDP_HEADER: u32 = 8;
        let variant_1 = self.code.label();
        self.code.load_half_from_x(2);
        self.code
            .if_equal(port, Target::Next, Target::To(self.plain));
        self.code.load_byte_from_x(UDP_HEADER);
        self.code.if_any(0xc0, Target::To(variant_1), Target::Next);
        self.code.and(0x1f);
        self.code.shift_left(2);
        self.code.add(UDP_HEADER + 4);
        self.code.add_x();
        self.code.move_to_x();
        self.code.go_to(self.service);
        self.code.here(variant_1);
        self.move_x_by(UDP_HEADER);
        self.code.go_to(self.service);
    }

    fn plain(&mut self) {
        let refuse = Target::To(self.refuse);
        self.code.here(self.plain);
        self.code.load_word(ETHERTYPE);
        self.code
            .if_equal(self.inner.ethertype, Target::Next, refuse);
        self.code.set_x(0);
    }

    /// To V and its port, or from there; from any address of this machine where it leaves by that port,
    /// for a service that answers from the wrong one.
    fn packet_of_the_service(&mut self) {
        let refuse = Target::To(self.refuse);
        let header = self.inner;
        let (to_vip, from_vip, not_to_vip) =
            (self.code.label(), self.code.label(), self.code.label());
        self.code.here(self.service);
        if is_v4(header) {
            self.refuse_later_fragment();
        }
        let protocol = self.watched.protocol.number();
        self.code.load_byte_from_x(header.protocol);
        self.code.if_equal(protocol.into(), Target::Next, refuse);
        self.code
            .if_address(header.destination, self.watched.vip, not_to_vip);
        self.code.go_to(to_vip);
        self.code.here(not_to_vip);
        self.reply(from_vip);
        self.code.here(from_vip);
        self.client_and_port(header.destination, 0);
        self.code.here(to_vip);
        self.client_and_port(header.source, 2);
    }

    /// Source V, or any other of this machine where the port tells the service.
    fn reply(&mut self, from_vip: Label) {
        let refuse = Target::To(self.refuse);
        let other_source = self.code.label();
        self.code
            .if_address(self.inner.source, self.watched.vip, other_source);
        self.code.go_to(from_vip);
        self.code.here(other_source);
        match self.watched.port {
            Some(_) => {
                self.code.load_word(ADDRESSING);
                self.code.if_equal(OUTGOING, Target::Next, refuse);
            }
            None => self.code.go_to(self.refuse),
        }
    }

    /// Ends: takes it where the client is the wanted one, its address being at `client`, and the
    /// service's port, which is at `port` of the transport header.
    fn client_and_port(&mut self, client: u32, port: u32) {
        if let Some(wanted) = self.client.filter(|one| one.is_ipv4() == is_v4(self.inner)) {
            self.code.if_address(client, wanted, self.refuse);
        }
        if let Some(number) = self.watched.port {
            self.skip_header(self.inner);
            self.code.load_half_from_x(port);
            self.code
                .if_equal(number.into(), Target::Next, Target::To(self.refuse));
        }
        self.code.take(WHOLE);
    }

    /// Of the IPv4 header at X.
    fn refuse_later_fragment(&mut self) {
        self.code.load_half_from_x(6);
        self.code
            .if_any(0x1fff, Target::To(self.refuse), Target::Next);
    }

    /// X goes past the header that is there.
    fn skip_header(&mut self, header: &IpFields) {
        if is_v4(header) {
            self.code.load_byte_from_x(0);
            self.code.and(0x0f);
            self.code.shift_left(2);
            self.code.add_x();
            self.code.move_to_x();
        } else {
            self.move_x_by(header.length);
        }
    }

    fn move_x_by(&mut self, bytes: u32) {
        self.code.move_from_x();
        self.code.add(bytes);
        self.code.move_to_x();
    }

    fn end(&mut self) {
        self.code.here(self.take);
        self.code.take(WHOLE);
        self.code.here(self.refuse);
        self.code.take(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::packet_socket::PacketSocket;
    use crate::io::testing::in_namespace;
    use crate::packet::Protocol;

    /// What a program may ask of a packet beside its bytes.
    #[derive(Clone, Copy)]
    struct Around {
        addressing: u32,
        device: u32,
    }

    const IN: Around = Around {
        addressing: 0,
        device: 2,
    };
    const OUT: Around = Around {
        addressing: OUTGOING,
        device: 2,
    };

    /// Runs a program as the kernel does (Documentation/networking/filter.rst): a load past the packet's
    /// end refuses it.
    fn takes(program: &[Instruction], bytes: &[u8], around: Around) -> bool {
        run(program, bytes, around).unwrap_or(0) > 0
    }

    fn run(program: &[Instruction], bytes: &[u8], around: Around) -> Option<u32> {
        let (mut a, mut x, mut at) = (0_u32, 0_u32, 0_usize);
        loop {
            let Instruction {
                code,
                jump_true,
                jump_false,
                operand: k,
            } = *program.get(at)?;
            let load = |from: u32, width: usize| {
                let from = usize::try_from(from).unwrap();
                let field = bytes.get(from..from + width)?;
                Some(
                    field
                        .iter()
                        .fold(0, |all, byte| all << 8 | u32::from(*byte)),
                )
            };
            let branch = |holds: bool| usize::from(if holds { jump_true } else { jump_false });
            at += 1;
            match code {
                0x20 if k == ETHERTYPE => {
                    a = if bytes[0] >> 4 == 4 {
                        IPV4.ethertype
                    } else {
                        IPV6.ethertype
                    }
                }
                0x20 if k == ADDRESSING => a = around.addressing,
                0x20 if k == DEVICE => a = around.device,
                0x30 => a = load(k, 1)?,
                0x40 => a = load(x + k, 4)?,
                0x48 => a = load(x + k, 2)?,
                0x50 => a = load(x + k, 1)?,
                0x01 => x = k,
                0x07 => x = a,
                0x87 => a = x,
                0x54 => a &= k,
                0x64 => a <<= k,
                0x04 => a += k,
                0x0c => a += x,
                0x05 => at += usize::try_from(k).unwrap(),
                0x15 => at += branch(a == k),
                0x45 => at += branch(a & k != 0),
                0x06 => return Some(k),
                _ => panic!("instruction {code:#x}"),
            }
        }
    }

    const VIP: &str = "10.0.0.100";
    const CLIENT: &str = "10.0.9.2";
    const VIP6: &str = "2001:db8::100";
    const CLIENT6: &str = "2001:db8:9::2";

    fn watched(vip: &str, port: Option<u16>, encap: Encap) -> Watched {
        Watched {
            vip: vip.parse().unwrap(),
            port,
            protocol: Protocol::Tcp,
            client: None,
            encap,
            physical: None,
            tunnel: None,
        }
    }

    fn ip(protocol: u8, source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
        let (source, destination): (IpAddr, IpAddr) =
            (source.parse().unwrap(), destination.parse().unwrap());
        let mut packet = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = vec![0x46, 0, 0, 0, 0, 7, 0x40, 0, 64, protocol, 0, 0];
                header.extend(source.octets());
                header.extend(destination.octets());
                header.extend([1, 1, 1, 0]); // options: the header is not of the usual length
                header
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
                header.extend(source.octets());
                header.extend(destination.octets());
                header
            }
            _ => panic!("two families"),
        };
        packet.extend(payload);
        packet
    }

    fn tcp(source: &str, from: u16, destination: &str, to: u16) -> Vec<u8> {
        let mut segment = [from.to_be_bytes(), to.to_be_bytes()].concat();
        segment.extend([0; 16]);
        ip(6, source, destination, &segment)
    }

    fn udp(to: u16, payload: &[u8]) -> Vec<u8> {
        let mut datagram = vec![0xc0, 0, 0, 0, 0, 0, 0, 0];
        datagram[2..4].copy_from_slice(&to.to_be_bytes());
        datagram.extend(payload);
        datagram
    }

    fn ipip(inner: &[u8]) -> Vec<u8> {
        ip(4, "10.0.1.2", "10.0.1.11", inner)
    }

    fn changed(mut packet: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
        packet[at] = byte;
        packet
    }

    #[test]
    fn packets_of_a_service() {
        let program = program(&watched(VIP, Some(80), Encap::Ipip), None);
        let request = tcp(CLIENT, 4000, VIP, 80);
        let reply = tcp(VIP, 80, CLIENT, 4000);
        let icmp = |kind: u8| ip(1, "10.0.1.11", "10.0.1.2", &[kind, 2, 0, 0, 0, 0, 0, 0]);
        let cases = [
            ("a request in its tunnel", ipip(&request), IN, true),
            ("a request", request.clone(), IN, true),
            ("another port", tcp(CLIENT, 80, VIP, 81), IN, false),
            (
                "another VIP",
                ipip(&tcp(CLIENT, 4000, "10.0.0.101", 80)),
                IN,
                false,
            ),
            (
                "another protocol",
                ipip(&changed(request.clone(), 9, 17)),
                IN,
                false,
            ),
            ("a reply", reply.clone(), OUT, true),
            ("a reply into the tunnel", reply, IN, true),
            (
                "a reply from another address",
                tcp("10.0.1.11", 80, CLIENT, 4000),
                OUT,
                true,
            ),
            (
                "somebody else's reply",
                tcp("10.0.1.12", 80, CLIENT, 4000),
                IN,
                false,
            ),
            (
                "another service's",
                tcp("10.0.1.11", 22, CLIENT, 4000),
                OUT,
                false,
            ),
            ("unreachable", icmp(3), OUT, true),
            ("time exceeded", icmp(11), IN, true),
            ("an echo", icmp(8), IN, false),
            ("a later fragment", changed(ipip(&request), 7, 9), IN, false),
            (
                "a later fragment inside",
                ipip(&changed(request.clone(), 7, 9)),
                IN,
                false,
            ),
            (
                "IPv6 inside",
                ip(41, "10.0.1.2", "10.0.1.11", &tcp(CLIENT6, 1, VIP6, 80)),
                IN,
                false,
            ),
            (
                "GUE where it is not watched",
                ip(17, "10.0.1.2", "10.0.1.11", &udp(6080, &request)),
                IN,
                false,
            ),
            ("cut off", ipip(&request)[..30].to_vec(), IN, false),
        ];
        for (what, bytes, around, expected) in cases {
            assert_eq!(takes(&program, &bytes, around), expected, "{what}");
        }
        let elsewhere = [
            ("loopback", Around { device: 1, ..IN }),
            (
                "to another host",
                Around {
                    addressing: 3,
                    ..IN
                },
            ),
        ];
        for (what, around) in elsewhere {
            assert!(!takes(&program, &request, around), "{what}");
        }
    }

    #[test]
    fn packets_of_one_client() {
        let client = Some(CLIENT.parse().unwrap());
        let program = program(&watched(VIP, Some(80), Encap::Ipip), client);
        let cases = [
            ("its request", ipip(&tcp(CLIENT, 4000, VIP, 80)), IN, true),
            (
                "another's",
                ipip(&tcp("10.0.9.3", 4000, VIP, 80)),
                IN,
                false,
            ),
            ("its reply", tcp(VIP, 80, CLIENT, 4000), OUT, true),
            (
                "another's reply",
                tcp(VIP, 80, "10.0.9.3", 4000),
                OUT,
                false,
            ),
        ];
        for (what, bytes, around, expected) in cases {
            assert_eq!(takes(&program, &bytes, around), expected, "{what}");
        }
    }

    #[test]
    fn gue_of_both_variants() {
        let program = program(&watched(VIP, Some(80), Encap::Gue(6080)), None);
        let request = tcp(CLIENT, 4000, VIP, 80);
        let outer = |port, payload: &[u8]| ip(17, "10.0.1.2", "10.0.1.11", &udp(port, payload));
        let headed = |header: &[u8]| [header, &request].concat();
        let cases = [
            ("variant 1", outer(6080, &request), true),
            ("variant 0", outer(6080, &headed(&[0, 4, 0, 0])), true),
            (
                "with a field",
                outer(6080, &headed(&[1, 4, 0, 0, 9, 9, 9, 9])),
                true,
            ),
            ("another port", outer(6081, &request), false),
            ("IPIP", ipip(&request), true),
        ];
        for (what, bytes, expected) in cases {
            assert_eq!(takes(&program, &bytes, IN), expected, "{what}");
        }
    }

    #[test]
    fn packets_of_ipv6() {
        let client = Some(CLIENT6.parse().unwrap());
        let program = program(&watched(VIP6, Some(80), Encap::Gue(6080)), client);
        let request = tcp(CLIENT6, 4000, VIP6, 80);
        let outer =
            |protocol, payload: &[u8]| ip(protocol, "2001:db8:1::2", "2001:db8:1::11", payload);
        let cases = [
            ("in IPv6", outer(41, &request), IN, true),
            (
                "in IPv4",
                ip(41, "10.0.1.2", "10.0.1.11", &request),
                IN,
                true,
            ),
            ("in GUE", outer(17, &udp(6080, &request)), IN, true),
            ("a request", request.clone(), IN, true),
            ("a reply", tcp(VIP6, 80, CLIENT6, 4000), OUT, true),
            (
                "from elsewhere",
                tcp("2001:db8:1::11", 80, CLIENT6, 4000),
                OUT,
                true,
            ),
            (
                "another client",
                outer(41, &tcp("2001:db8:9::3", 4000, VIP6, 80)),
                IN,
                false,
            ),
            (
                "unreachable",
                outer(58, &[1, 4, 0, 0, 0, 0, 0, 0]),
                OUT,
                true,
            ),
            (
                "a neighbour's question",
                outer(58, &[135, 0, 0, 0, 0, 0, 0, 0]),
                OUT,
                false,
            ),
            (
                "IPv4 inside",
                outer(4, &tcp(CLIENT, 4000, VIP, 80)),
                IN,
                false,
            ),
        ];
        for (what, bytes, around, expected) in cases {
            assert_eq!(takes(&program, &bytes, around), expected, "{what}");
        }
    }

    #[test]
    fn any_port() {
        let program = program(&watched(VIP, None, Encap::Ipip), None);
        assert!(takes(&program, &ipip(&tcp(CLIENT, 4000, VIP, 8443)), IN));
        assert!(takes(&program, &tcp(VIP, 8443, CLIENT, 4000), OUT));
        assert!(!takes(&program, &tcp("10.0.1.11", 22, CLIENT, 4000), OUT));
    }

    #[test]
    fn the_kernel_takes_the_programs() {
        in_namespace("doctor::watch::filter::tests::programs_in_the_kernel");
    }

    #[test]
    #[ignore = "in a namespace"]
    fn programs_in_the_kernel() {
        for vip in [VIP, VIP6] {
            for encap in [Encap::Ipip, Encap::Gue(6080)] {
                for client in [None, Some(CLIENT), Some(CLIENT6)] {
                    let client = client.map(|client| client.parse().unwrap());
                    let program = program(&watched(vip, Some(80), encap), client);
                    assert!(program.len() <= 255, "jumps of one byte reach everywhere");
                    PacketSocket::open(&program).unwrap();
                }
            }
        }
    }
}
