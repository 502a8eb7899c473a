//! ICMP of this thread: echo requests and their answers, and errors about the tunnels of probes. Read first: RFC 792,
//! RFC 4443.
//!
//! An error marks nothing down: anybody can send one. It only tells why a probe that had no answer may have had none,
//! and that the next one should not wait.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _};

use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header,
    Ipv4HeaderSlice, Ipv6FlowLabel, Ipv6Header, Ipv6HeaderSlice,
};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};

use crate::io::icmp::LONGEST;
use crate::io::sys::{self, BATCH, ReceiveBatch, Wanted};
use crate::packet::{FlowKey, Packet, PathMtuError, Quoted, Version};
use crate::probe::{InnerError, ProbeResult};

/// Bytes before the body of a message.
const HEADER: usize = 8;

/// Bytes of a small echo request, whole.
const SMALL: u16 = 84;

/// TTL or hop limit.
const TTL: u8 = 64;

/// Batches of messages that are read at once, so that a flood of them holds nothing up.
const MOST_BATCHES: usize = 4;

/// Raw sockets, and the echo requests that have no answer yet.
#[derive(Debug)]
pub(super) struct Echoes {
    v4: Option<Socket>,
    v6: Option<Socket>,
    /// Of all echo requests of this process.
    identifier: u16,
    sequence: u16,
    /// The flight that each sequence number is of, and where the answer comes from.
    under_way: HashMap<u16, (usize, IpAddr)>,
}

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// An echo request of that flight was answered.
    Echo(usize),
    /// Packets to that host do not arrive; the flow of the inner one, where it has one.
    Error {
        to: IpAddr,
        flow: Option<FlowKey>,
        result: ProbeResult,
    },
    /// A packet from a tunnel, to a VIP, got no further; its flow, where it has one.
    Inside {
        vip: IpAddr,
        flow: Option<FlowKey>,
        error: InnerError,
    },
    /// Packets to that host are too long for a link of that MTU, as `by` or this host's kernel says.
    TooBig {
        to: IpAddr,
        by: Option<IpAddr>,
        mtu: u32,
    },
}

impl Echoes {
    /// Opens the sockets; without one family where the kernel has it not.
    pub(super) fn open(registry: &Registry, tokens: [Token; 2], seed: u64) -> io::Result<Self> {
        let [low, high, ..] = seed.to_be_bytes();
        Ok(Self {
            v4: open(Version::V4, registry, tokens[0])?,
            v6: open(Version::V6, registry, tokens[1])?,
            identifier: u16::from_be_bytes([low, high]),
            sequence: 0,
            under_way: HashMap::new(),
        })
    }

    /// The number of the next echo request, which is of `flight` and goes to `destination`.
    fn begin(&mut self, flight: usize, destination: IpAddr) -> u16 {
        self.sequence = self.sequence.wrapping_add(1);
        self.under_way.insert(self.sequence, (flight, destination));
        self.sequence
    }

    /// One to a host's own address, on the kernel's way.
    pub(super) fn send(&mut self, flight: usize, destination: IpAddr) -> io::Result<u16> {
        let sequence = self.begin(flight, destination);
        let socket = match destination {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        let socket = socket.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        // Over IPv6 the kernel completes the checksum (RFC 3542 §3.1), which needs the source it chooses.
        let message = message(self.identifier, sequence, 56, (UNSPECIFIED, destination));
        socket.send_to(&message, &SocketAddr::new(destination, 0).into())?;
        Ok(sequence)
    }

    /// A whole packet with one, of `size` bytes where that is possible, for a tunnel.
    pub(super) fn packet(
        &mut self,
        flight: usize,
        (source, destination): (IpAddr, IpAddr),
        size: Option<u16>,
    ) -> (u16, Vec<u8>) {
        let sequence = self.begin(flight, destination);
        let header = if destination.is_ipv4() { 20 } else { 40 };
        let data = usize::from(size.unwrap_or(SMALL)).saturating_sub(header + HEADER);
        let message = message(self.identifier, sequence, data, (source, destination));
        (sequence, with_header(source, destination, message))
    }

    /// The flight whose echo request had that identifier and number.
    pub(super) fn flight_of(&self, identifier: u16, sequence: u16) -> Option<usize> {
        let known = self.under_way.get(&sequence);
        let (flight, _) = known.filter(|_| identifier == self.identifier)?;
        Some(*flight)
    }

    /// That answer is no longer waited for.
    pub(super) fn end(&mut self, sequence: u16) {
        self.under_way.remove(&sequence);
    }

    /// Reads what waits.
    pub(super) fn receive(&mut self) -> Vec<Heard> {
        let mut heard = Vec::new();
        let mut batch = ReceiveBatch::new(BATCH, LONGEST);
        for (version, socket) in [(Version::V4, &self.v4), (Version::V6, &self.v6)] {
            let Some(socket) = socket.as_ref() else {
                continue;
            };
            for _ in 0..MOST_BATCHES {
                if batch.receive(socket.as_fd(), Wanted::Everything).is_err() {
                    break;
                }
                let messages = batch.packets_mut();
                heard.extend(
                    messages
                        .filter_map(|message| self.hear(version, message.source, message.bytes)),
                );
            }
        }
        heard
    }

    fn hear(&self, version: Version, by: Option<IpAddr>, bytes: &[u8]) -> Option<Heard> {
        // Over IPv4 a raw socket delivers the IP header too, over IPv6 it does not (RFC 3542 §3).
        let (message, too_big) = match version {
            Version::V4 => (
                Packet::parse(bytes).ok()?.payload(),
                PathMtuError::parse_packet(bytes),
            ),
            Version::V6 => (bytes, PathMtuError::parse_v6(bytes)),
        };
        if let Some(PathMtuError { mtu, quoted, .. }) = too_big {
            let to = quoted.quoted.destination;
            return Some(Heard::TooBig { to, by, mtu });
        }
        let &[kind, code, _, _, a, b, c, d, ..] = message else {
            return None;
        };
        if matches!((version, kind), (Version::V4, 0) | (Version::V6, 129)) {
            let (identifier, sequence) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            return self.flight_of(identifier, sequence).map(Heard::Echo);
        }
        let result = meaning(version, kind, code)?;
        let quoted = message.get(HEADER..)?;
        let Some(Tunnelled {
            to,
            protocol: tunnel,
            flow,
        }) = tunnelled(quoted)
        else {
            let quoted = Quoted::parse(quoted)?;
            let from = by?;
            return Some(Heard::Inside {
                vip: quoted.destination,
                flow: quoted.sent_flow(),
                error: InnerError { from, kind, code },
            });
        };
        // A kernel that knows the protocol, and has no tunnel for it, says "port" (linux/net/ipv4/tunnel4.c).
        let is_port = result == ProbeResult::TunnelPort && tunnel != UDP;
        let result = if is_port {
            ProbeResult::NoDecapsulator
        } else {
            result
        };
        Some(Heard::Error { to, flow, result })
    }
}

const UNSPECIFIED: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

fn open(version: Version, registry: &Registry, token: Token) -> io::Result<Option<Socket>> {
    let (domain, protocol, types) = match version {
        Version::V4 => (Domain::IPV4, SocketProtocol::ICMPV4, &[0, 3, 11][..]),
        Version::V6 => (Domain::IPV6, SocketProtocol::ICMPV6, &[129, 1, 2, 3, 4][..]),
    };
    let socket = match Socket::new(domain, Type::RAW.nonblocking(), Some(protocol)) {
        Ok(socket) => socket,
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => return Ok(None),
        Err(error) => return Err(error),
    };
    sys::receive_only(socket.as_fd(), version, types)?;
    sys::learn_no_path_mtu(socket.as_fd(), version)?;
    registry.register(
        &mut SourceFd(&socket.as_raw_fd()),
        token,
        Interest::READABLE,
    )?;
    Ok(Some(socket))
}

/// What an error about a tunnel means, by its type and code (RFC 792, RFC 1812 §5.2.7.1, RFC 4443 §3).
const fn meaning(version: Version, kind: u8, code: u8) -> Option<ProbeResult> {
    match (version, kind, code) {
        (Version::V4, 3, 4) => None, // too big, and damaged
        (Version::V4, 3, 2) | (Version::V6, 4, 1) => Some(ProbeResult::NoDecapsulator),
        (Version::V4, 3, 3) | (Version::V6, 1, 4) => Some(ProbeResult::TunnelPort),
        (Version::V4, 3, 9 | 10 | 13) | (Version::V6, 1, 1 | 5 | 6) => {
            Some(ProbeResult::Prohibited)
        }
        (Version::V4, 3 | 11, _) | (Version::V6, 1 | 3, _) => Some(ProbeResult::Unreachable),
        _ => None,
    }
}

/// The protocol number of UDP, which carries GUE.
const UDP: u8 = 17;

/// A tunnel packet that an error quotes.
struct Tunnelled {
    /// Where it was sent.
    to: IpAddr,
    protocol: u8,
    /// Of the packet inside.
    flow: Option<FlowKey>,
}

fn tunnelled(outer: &[u8]) -> Option<Tunnelled> {
    let (to, protocol, rest) = match outer.first()? >> 4 {
        4 => {
            let header = Ipv4HeaderSlice::from_slice(outer).ok()?;
            let to = IpAddr::V4(header.destination_addr());
            (to, header.protocol().0, outer.get(header.slice().len()..)?)
        }
        6 => {
            let header = Ipv6HeaderSlice::from_slice(outer).ok()?;
            let to = IpAddr::V6(header.destination_addr());
            (to, header.next_header().0, outer.get(Ipv6Header::LEN..)?)
        }
        _ => return None,
    };
    let inner = match protocol {
        4 | 41 => rest,
        UDP => rest.get(HEADER..)?, // behind its header
        _ => return None,
    };
    let flow = Quoted::parse(inner).and_then(|quoted| quoted.sent_flow());
    Some(Tunnelled { to, protocol, flow })
}

/// An echo request with so many bytes of data.
fn message(
    identifier: u16,
    sequence: u16,
    data: usize,
    (source, destination): (IpAddr, IpAddr),
) -> Vec<u8> {
    let echo = IcmpEchoHeader {
        id: identifier,
        seq: sequence,
    };
    let data = vec![0xa5; data];
    match destination {
        IpAddr::V4(_) => {
            let header = Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), &data);
            [&header.to_bytes()[..], &data].concat()
        }
        IpAddr::V6(to) => {
            let from = match source {
                IpAddr::V6(from) => from,
                IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED,
            };
            let kind = Icmpv6Type::EchoRequest(echo);
            let header = Icmpv6Header::with_checksum(kind, from.octets(), to.octets(), &data);
            header.map_or_else(
                |_| Vec::new(),
                |header| [&header.to_bytes()[..], &data].concat(),
            )
        }
    }
}

/// With an IP header before it that forbids fragmentation.
fn with_header(source: IpAddr, destination: IpAddr, message: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    match (source, destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let Ok(mut header) =
                Ipv4Header::new(length, TTL, IpNumber::ICMP, from.octets(), to.octets())
            else {
                return Vec::new();
            };
            header.dont_fragment = true;
            header.header_checksum = header.calc_header_checksum();
            [&header.to_bytes()[..], &message].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: length,
                next_header: IpNumber::IPV6_ICMP,
                hop_limit: TTL,
                source: from.octets(),
                destination: to.octets(),
            };
            [&header.to_bytes()[..], &message].concat()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Icmp, Transport};

    fn echoes() -> Echoes {
        Echoes {
            v4: None,
            v6: None,
            identifier: 0x1234,
            sequence: 6,
            under_way: HashMap::new(),
        }
    }

    #[test]
    fn requests_are_whole_packets_of_the_size() {
        for (source, destination) in [("10.0.1.2", "10.0.0.100"), ("2001:db8::2", "2001:db8::100")]
        {
            let ends: (IpAddr, IpAddr) = (source.parse().unwrap(), destination.parse().unwrap());
            for (size, length) in [(None, 84), (Some(1480), 1480)] {
                let (sequence, bytes) = echoes().packet(5, ends, size);
                assert_eq!((sequence, bytes.len()), (7, length));
                let packet = Packet::parse(&bytes).unwrap();
                assert_eq!(packet.transport(), Ok(Transport::Icmp(Icmp::EchoRequest)));
                assert!(packet.meta().dont_fragment);
                assert_eq!((packet.source(), packet.destination()), ends);
            }
        }
    }

    #[test]
    fn an_answer_is_told_from_others() {
        let mut echoes = echoes();
        let (_, mut bytes) = echoes.packet(
            5,
            ("10.0.0.100".parse().unwrap(), "10.0.1.2".parse().unwrap()),
            None,
        );
        assert_eq!(echoes.hear(Version::V4, None, &bytes), None, "a request");
        bytes[20] = 0;
        assert_eq!(echoes.hear(Version::V4, None, &bytes), Some(Heard::Echo(5)));
        echoes.identifier = 1;
        assert_eq!(
            echoes.hear(Version::V4, None, &bytes),
            None,
            "of another process"
        );
        echoes.identifier = 0x1234;
        echoes.end(7);
        assert_eq!(
            echoes.hear(Version::V4, None, &bytes),
            None,
            "it is no longer waited for"
        );
    }

    #[test]
    fn errors_name_the_probe() {
        let flow = FlowKey {
            source: "10.0.1.2".parse().unwrap(),
            destination: "10.0.0.100".parse().unwrap(),
            source_port: 40_000,
            destination_port: 80,
            protocol: crate::packet::Protocol::Tcp,
        };
        let inner = super::super::reset::reset_packet(&flow, 1).unwrap();
        let outer = |protocol: IpNumber, between: &[u8]| {
            let payload = [between, &inner].concat();
            let length = u16::try_from(payload.len()).unwrap();
            let header =
                Ipv4Header::new(length, 64, protocol, [10, 0, 1, 2], [10, 0, 1, 11]).unwrap();
            [&header.to_bytes()[..], &payload].concat()
        };
        let router: IpAddr = [10, 0, 1, 11].into();
        let error = |code: u8, quoted: &[u8]| {
            let message = [&[3, code, 0, 0, 0, 0, 0, 0][..], quoted].concat();
            let length = u16::try_from(message.len()).unwrap();
            let header =
                Ipv4Header::new(length, 64, IpNumber::ICMP, [10, 0, 1, 11], [10, 0, 1, 2]).unwrap();
            let bytes = [&header.to_bytes()[..], &message].concat();
            echoes().hear(Version::V4, Some(router), &bytes)
        };
        let heard = |flow, result| {
            let to = [10, 0, 1, 11].into();
            Some(Heard::Error { to, flow, result })
        };
        let ipip = outer(IpNumber::IPV4, &[]);
        assert_eq!(
            error(2, &ipip),
            heard(Some(flow), ProbeResult::NoDecapsulator)
        );
        assert_eq!(error(13, &ipip), heard(Some(flow), ProbeResult::Prohibited));
        assert_eq!(error(4, &ipip), None, "too big");
        assert_eq!(
            error(3, &ipip),
            heard(Some(flow), ProbeResult::NoDecapsulator)
        );
        let gue = outer(IpNumber::UDP, &[0; 8]);
        assert_eq!(error(3, &gue), heard(Some(flow), ProbeResult::TunnelPort));
        let inside = |flow, code| {
            let error = InnerError {
                from: router,
                kind: 3,
                code,
            };
            Some(Heard::Inside {
                vip: [10, 0, 0, 100].into(),
                flow,
                error,
            })
        };
        assert_eq!(error(1, &inner), inside(Some(flow), 1), "out of the tunnel");
        assert_eq!(
            error(2, &ipip[..22]),
            heard(None, ProbeResult::NoDecapsulator),
            "as short as RFC 792 allows"
        );
        assert_eq!(error(2, &ipip[..18]), None, "cut");
    }
}
