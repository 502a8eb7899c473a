//! What comes by on the devices while a backend is asked why it fails: an answer that this host's own filters keep from
//! the socket is seen here, and so is a probe that left by a way of its own.
//!
//! The tap is there only as long as something is asked: it costs every packet of the host a few instructions.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use log::debug;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::engine::Engine;
use super::flight::Aim;
use super::plan::Plan;
use super::timers::Due;
use crate::io::netlink::{Netlink, RouteQuery};
use crate::io::packet_filter::{
    ADDRESSING, Assembler, DEVICE, ETHERTYPE, IPV4, IPV6, IpFields, LOOPBACK, Label,
    TO_ANOTHER_HOST, Target, WHOLE,
};
use crate::io::packet_socket::{Instruction, PacketSocket, Way};
use crate::packet::{FlowKey, Packet, Quoted, Transport, Version};
use crate::probe::{Answer, Detour, Keeper, Moment, Sighting};

/// How long the tap stays after the last question: closing it makes the kernel wait for all its processors.
const LINGERING: Duration = Duration::from_secs(2);

/// Packets that are read at once.
const MOST_PACKETS: usize = 1024;

/// Addresses that the filter in the kernel compares with; where there are more it lets all through that are for
/// this host, and the rest is done here.
const MOST_ADDRESSES: usize = 64;

/// What was seen of the packets of one flight.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Trace {
    pub(super) answer: Option<Sighting>,
    /// The device that it came in by.
    device: u32,
    /// The address that it came to.
    to: Option<IpAddr>,
    /// The flight's own packet came in, out of the tunnel.
    pub(super) returned: bool,
    pub(super) detour: Option<Detour>,
}

/// The tap.
#[derive(Debug)]
pub(super) struct Wire {
    socket: PacketSocket,
    names: HashMap<u32, Arc<str>>,
    /// The device of probes.
    own_device: u32,
    /// When something was asked last.
    used: Moment,
}

/// A packet that came by.
#[derive(Debug, PartialEq, Eq)]
struct Passing {
    about: About,
    what: Option<Answer>,
    from: IpAddr,
    to: IpAddr,
    ttl: u8,
}

/// Which probe a packet belongs to, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// The packet's own flow.
    Flow(FlowKey),
    /// The flow of the packet that an ICMP error quotes.
    Quoted(FlowKey),
    /// The echo identifier and sequence number.
    Echo(u16, u16),
}

impl Wire {
    fn open(plan: &Plan, own_device: u32, registry: &Registry, token: Token) -> io::Result<Self> {
        let socket = PacketSocket::open(&program(plan, own_device))?;
        let fd = socket.as_raw_fd();
        registry.register(&mut SourceFd(&fd), token, Interest::READABLE)?;
        let links = Netlink::open().and_then(|mut netlink| netlink.links());
        let links = links.map_err(io::Error::other)?.into_iter();
        Ok(Self {
            socket,
            names: links.map(|link| (link.index, link.name.into())).collect(),
            own_device,
            used: Moment::ZERO,
        })
    }

    /// The next packet, its device and its way.
    fn next(&mut self) -> Option<(Passing, u32, Way)> {
        loop {
            let packet = self.socket.receive(Duration::ZERO).ok()??;
            if let Some(passing) = read(packet.bytes) {
                return Some((passing, packet.device, packet.way));
            }
        }
    }

    fn name(&self, device: u32) -> Arc<str> {
        let known = self.names.get(&device).cloned();
        known.unwrap_or_else(|| format!("device {device}").into())
    }
}

/// Reads a packet as far as it matters here.
fn read(bytes: &[u8]) -> Option<Passing> {
    let packet = Packet::parse(bytes).ok()?;
    let (ttl, version) = match packet.source() {
        IpAddr::V4(_) => (*bytes.get(8)?, Version::V4),
        IpAddr::V6(_) => (*bytes.get(7)?, Version::V6),
    };
    let passing = |about, what| Passing {
        about,
        what,
        from: packet.source(),
        to: packet.destination(),
        ttl,
    };
    match packet.transport().ok()? {
        Transport::Tcp { key, flags } => {
            let is_first = packet.payload().get(13)? & 0x12 == 0x12; // SYN and ACK
            let what = match () {
                () if flags.rst => Some(Answer::Reset),
                () if is_first => Some(Answer::SynAck),
                () if flags.opens => None,
                () => Some(Answer::Segment),
            };
            Some(passing(About::Flow(key), what))
        }
        Transport::Udp { key } => Some(passing(About::Flow(key), Some(Answer::Datagram))),
        Transport::Icmp(_) => {
            let &[kind, code, _, _, a, b, c, d, ..] = packet.payload() else {
                return None;
            };
            let echo = About::Echo(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            match (version, kind) {
                (Version::V4, 0) | (Version::V6, 129) => {
                    Some(passing(echo, Some(Answer::EchoReply)))
                }
                (Version::V4, 8) | (Version::V6, 128) => Some(passing(echo, None)),
                (Version::V4, 3 | 11) | (Version::V6, 1..=3) => {
                    let quoted = Quoted::parse(packet.payload().get(8..)?)?;
                    Some(passing(
                        About::Quoted(quoted.sent_flow()?),
                        Some(Answer::Error(kind, code)),
                    ))
                }
                _ => None,
            }
        }
        Transport::Other(_) => None,
    }
}

impl Engine {
    /// Has packets seen from now on; without a tap where the kernel refuses one.
    pub(super) fn tap(&mut self, now: Moment) {
        if self.wire.is_none() {
            let opened = Wire::open(
                &self.plan,
                self.device,
                self.poll.registry(),
                super::engine::WIRE,
            );
            match opened {
                Ok(wire) => {
                    self.wire = Some(wire);
                    self.timers.set(now + LINGERING, Due::Untap);
                }
                Err(error) => debug!("answers are not seen on the wire: {error}"),
            }
        }
        if let Some(wire) = &mut self.wire {
            wire.used = now;
        }
    }

    /// Ends the tap where nothing was asked for a while.
    pub(super) fn untap(&mut self, now: Moment) {
        let Some(wire) = &mut self.wire else { return };
        if self.inquests.under_way() > 0 {
            wire.used = now;
        }
        if wire.used + LINGERING <= now {
            self.wire = None;
        } else {
            self.timers.set(wire.used + LINGERING, Due::Untap);
        }
    }

    /// Reads what came by.
    pub(super) fn watch(&mut self) {
        for _ in 0..MOST_PACKETS {
            let Some((passing, device, way)) = self.wire.as_mut().and_then(Wire::next) else {
                return;
            };
            self.note(&passing, device, way);
        }
    }

    fn note(&mut self, passing: &Passing, device: u32, way: Way) {
        let Some(wire) = &self.wire else { return };
        let (name, own_device) = (wire.name(device), wire.own_device);
        let Some((number, is_answer)) = self.flight_about(passing.about) else {
            return;
        };
        let Some(flight) = self.flights.get_mut(number) else {
            return;
        };
        if !matches!(flight.aim, Aim::Inquest(..)) {
            return;
        }
        let trace = &mut flight.trace;
        match (way, passing.what) {
            (Way::In, Some(what)) if is_answer => {
                if trace.answer.is_none() || what == Answer::Reset {
                    trace.device = device;
                    trace.to = Some(passing.to);
                    trace.answer = Some(Sighting {
                        what,
                        from: passing.from,
                        device: name,
                        ttl: passing.ttl,
                    });
                }
            }
            (Way::In, _) => trace.returned = true,
            (Way::Out, _) if is_answer => {}
            (Way::Out, _) => {
                let source = flight.flow.map(|flow| flow.source);
                if source.is_some_and(|source| source != passing.from) {
                    trace.detour = Some(Detour::Masqueraded(passing.from));
                } else if device != own_device && trace.detour.is_none() {
                    trace.detour = Some(Detour::Device(name));
                }
            }
        }
    }

    /// The flight that a packet belongs to, and whether it goes from the backend to this host.
    fn flight_about(&self, about: About) -> Option<(usize, bool)> {
        let flow = match about {
            About::Echo(identifier, sequence) => {
                return Some((self.echoes.flight_of(identifier, sequence)?, true));
            }
            About::Quoted(flow) => return Some((self.ways.flight_of(&flow)?, true)),
            About::Flow(flow) => flow,
        };
        if let Some(number) = self.ways.flight_of(&flow) {
            return Some((number, false));
        }
        let turned = flow.turned_around();
        if let Some(number) = self.ways.flight_of(&turned) {
            return Some((number, true));
        }
        let answer = self.flights.find(|flight| {
            let known = flight.flow;
            known.is_some_and(|known| differs_in_address(&known, &turned, |flow| flow.source))
        });
        if let Some(number) = answer {
            return Some((number, true));
        }
        let request = self.flights.find(|flight| {
            let known = flight.flow;
            known.is_some_and(|known| differs_in_address(&known, &flow, |flow| flow.destination))
        });
        Some((request?, false))
    }
}

impl Trace {
    /// What kept an answer that arrived from its socket: the kernel tells whether its reverse-path check refuses such
    /// a packet.
    pub(super) fn kept_by(&self) -> Option<Keeper> {
        let answer = self.answer.as_ref()?;
        let query = RouteQuery {
            from: Some(answer.from),
            iif: Some(self.device),
            ..RouteQuery::default()
        };
        let to = self.to?;
        let route = Netlink::open().and_then(|mut netlink| netlink.route_to(to, query));
        let refused = route.err().and_then(|error| error.errno());
        Some(match refused {
            Some(libc::EINVAL | libc::EXDEV) => Keeper::ReversePath,
            _ => Keeper::Filter,
        })
    }
}

/// Whether two flows have the same ports, and that one of their addresses.
fn differs_in_address(one: &FlowKey, other: &FlowKey, same: fn(&FlowKey) -> IpAddr) -> bool {
    let ports = |flow: &FlowKey| (flow.source_port, flow.destination_port, flow.protocol);
    ports(one) == ports(other) && same(one) == same(other)
}

/// The filter: answers of the backends and VIPs of `plan` to this host, what goes from this host to the VIPs, and all
/// packets of the device of probes.
fn program(plan: &Plan, own_device: u32) -> Vec<Instruction> {
    let mut ends = Ends::default();
    for probed in &plan.probed {
        let vip = probed.destination.ip();
        ends.vips.insert(vip);
        ends.peers.extend([vip, probed.target.address]);
        ends.own.extend(probed.source);
    }
    let mut code = Assembler::default();
    let [v4, v6, not_v4, own, refuse] = std::array::from_fn(|_| code.label());
    code.load_word(ADDRESSING);
    code.if_equal(TO_ANOTHER_HOST, Target::To(refuse), Target::Next);
    code.load_word(DEVICE);
    code.if_equal(LOOPBACK, Target::To(refuse), Target::Next);
    code.if_equal(own_device, Target::To(own), Target::Next);
    code.load_word(ETHERTYPE);
    code.if_equal(IPV4.ethertype, Target::Next, Target::To(not_v4));
    code.go_to(v4);
    code.here(not_v4);
    code.if_equal(IPV6.ethertype, Target::Next, Target::To(refuse));
    code.go_to(v6);
    code.here(own);
    code.take(WHOLE);
    code.here(refuse);
    code.take(0);
    for (here, fields, is_v4) in [(v4, &IPV4, true), (v6, &IPV6, false)] {
        code.here(here);
        family(&mut code, fields, &ends.of_family(is_v4));
    }
    code.finish()
}

/// Where packets that matter begin and end.
#[derive(Debug, Default)]
struct Ends {
    vips: BTreeSet<IpAddr>,
    /// VIPs and backends.
    peers: BTreeSet<IpAddr>,
    /// Of this host.
    own: BTreeSet<IpAddr>,
}

impl Ends {
    fn of_family(&self, is_v4: bool) -> Self {
        let only = |addresses: &BTreeSet<IpAddr>| -> BTreeSet<IpAddr> {
            let all = addresses.iter().copied();
            all.filter(|address| address.is_ipv4() == is_v4).collect()
        };
        Self {
            vips: only(&self.vips),
            peers: only(&self.peers),
            own: only(&self.own),
        }
    }
}

/// Of one family. Where there are too many VIPs, those of this host's packets are not seen that leave by another device.
fn family(code: &mut Assembler, fields: &IpFields, ends: &Ends) {
    let [answer, request, taken] = std::array::from_fn(|_| code.label());
    code.set_x(0);
    one_of(code, fields.destination, &ends.own, answer);
    if ends.vips.len() <= MOST_ADDRESSES {
        one_of(code, fields.destination, &ends.vips, request);
    }
    code.take(0);
    code.here(request);
    one_of(code, fields.source, &ends.own, taken);
    code.take(0);
    code.here(answer);
    if ends.peers.len() <= MOST_ADDRESSES {
        one_of(code, fields.source, &ends.peers, taken);
        code.take(0);
    }
    code.here(taken);
    code.take(WHOLE);
}

/// Goes to `found` where the address there is one of these.
fn one_of(code: &mut Assembler, at: u32, addresses: &BTreeSet<IpAddr>, found: Label) {
    for address in addresses.iter().take(MOST_ADDRESSES) {
        let next = code.label();
        code.if_address(at, *address, next);
        code.go_to(found);
        code.here(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Protocol;

    fn tcp(flags: u8) -> Vec<u8> {
        let flow = FlowKey {
            source: "10.0.0.100".parse().unwrap(),
            destination: "10.0.1.2".parse().unwrap(),
            source_port: 80,
            destination_port: 40_000,
            protocol: Protocol::Tcp,
        };
        let mut bytes = super::super::reset::reset_packet(&flow, 1).unwrap();
        bytes[33] = flags;
        bytes
    }

    fn icmp(message: &[u8]) -> Vec<u8> {
        let mut bytes = vec![
            0x45, 0, 0, 0, 0, 0, 0, 0, 61, 1, 0, 0, 10, 0, 0, 100, 10, 0, 1, 2,
        ];
        bytes.extend(message);
        bytes[3] = u8::try_from(bytes.len()).unwrap();
        bytes
    }

    #[test]
    fn what_a_packet_is() {
        let quoting = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &tcp(0x02)].concat();
        for (bytes, what, ttl) in [
            (tcp(0x12), Some(Answer::SynAck), 64),
            (tcp(0x14), Some(Answer::Reset), 64),
            (tcp(0x10), Some(Answer::Segment), 64),
            (tcp(0x02), None, 64),
            (icmp(&[0, 0, 0, 0, 0, 7, 0, 9]), Some(Answer::EchoReply), 61),
            (icmp(&[8, 0, 0, 0, 0, 7, 0, 9]), None, 61),
            (icmp(&quoting), Some(Answer::Error(3, 3)), 61),
        ] {
            let passing = read(&bytes).unwrap();
            assert_eq!((passing.what, passing.ttl), (what, ttl), "{bytes:x?}");
            assert_eq!(passing.from, IpAddr::from([10, 0, 0, 100]));
        }
        assert_eq!(
            read(&icmp(&[0, 0, 0, 0, 0, 7, 0, 9])).unwrap().about,
            About::Echo(7, 9)
        );
        for cut in [&tcp(0x12)[..30], &icmp(&[0, 0])[..], &[][..], &[0x45][..]] {
            assert_eq!(read(cut), None, "{cut:x?}");
        }
    }
}
