//! One flow among what is seen: which packet begins it, what belongs to it, and when enough was seen.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::Watched;
use super::observation::{Kind, Outer, Quotation, Segment, Sighting, Way};
use crate::doctor::facts::Encap;

/// A client's connection, or its datagrams from one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) client: IpAddr,
    pub(super) client_port: u16,
    vip: IpAddr,
    service_port: u16,
}

/// How a packet belongs to a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// From the client to V.
    Request,
    /// To the client, from V or another address.
    Reply,
    /// An ICMP error about the tunnel's packet.
    TunnelError,
    /// An ICMP error about a request or a reply.
    Error,
}

impl Flow {
    /// That which the packet begins: a SYN or a datagram that comes in for V.
    pub(super) fn begun_by(sighting: &Sighting, watched: &Watched) -> Option<Self> {
        Self::of(sighting, watched).filter(|_| opens(&sighting.packet.kind))
    }

    /// That of a packet to V.
    pub(super) fn of(sighting: &Sighting, watched: &Watched) -> Option<Self> {
        let (client_port, service_port) = ports(&sighting.packet.kind)?;
        let packet = &sighting.packet;
        (sighting.way == Way::In && packet.destination == watched.vip).then_some(Self {
            client: packet.source,
            client_port,
            vip: watched.vip,
            service_port,
        })
    }

    /// Address and port that the client asks.
    pub(super) const fn service(&self) -> SocketAddr {
        SocketAddr::new(self.vip, self.service_port)
    }

    /// The client's own.
    pub(super) const fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.client, self.client_port)
    }

    pub(super) fn part(&self, sighting: &Sighting) -> Option<Part> {
        let packet = &sighting.packet;
        let request = (self.client_port, self.service_port);
        match &packet.kind {
            Kind::Error { about, .. } => self.error(about),
            kind @ (Kind::Tcp { .. } | Kind::Udp { .. }) => match ports(kind)? {
                ports if ports == request => (packet.source == self.client
                    && packet.destination == self.vip)
                    .then_some(Part::Request),
                (from, to) if (to, from) == request => {
                    (packet.destination == self.client).then_some(Part::Reply)
                }
                _ => None,
            },
        }
    }

    /// Errors about tunnels are those of any director and any flow: they quote too little to tell.
    fn error(&self, about: &Quotation) -> Option<Part> {
        let request = (self.client_port, self.service_port);
        let (source, destination) = (about.source, about.destination);
        match about.ports {
            Some(ports) if ports == request && destination == self.vip => Some(Part::Error),
            Some((from, to)) if (to, from) == request && source == self.vip => Some(Part::Error),
            Some(_) | None => Some(Part::TunnelError),
        }
    }
}

/// Whether an error is about the tunnel's packets: of the addresses, and of the kind.
pub(super) fn is_about_tunnel(about: &Quotation, outer: &Outer) -> bool {
    let same_ends = (about.source, about.destination) == (outer.source, outer.destination);
    let same_kind = match outer.encap {
        Encap::Ipip => matches!(about.protocol, 4 | 41),
        Encap::Gue(port) => about.protocol == 17 && about.ports.is_none_or(|(_, to)| to == port),
    };
    same_ends && same_kind
}

pub(super) const fn opens(kind: &Kind) -> bool {
    match kind {
        Kind::Tcp { segment, .. } => matches!(segment, Segment::Syn),
        Kind::Udp { .. } => true,
        Kind::Error { .. } => false,
    }
}

const fn ports(kind: &Kind) -> Option<(u16, u16)> {
    match kind {
        Kind::Tcp { ports, .. } | Kind::Udp { ports } => Some(*ports),
        Kind::Error { .. } => None,
    }
}

/// How long to look on after the packet that decides: for an error that the kernel is about to send.
const AFTER_DECISION: Duration = Duration::from_millis(300);

/// How long to look on after a packet that comes again: it may have crossed the answer on the way.
const AFTER_REPETITION: Duration = Duration::from_secs(1);

/// How long to look on after the client's ACK: the kernel sends the SYN-ACK again after a second if it did not get it
/// (`TCP_TIMEOUT_INIT`, linux/net/tcp.h).
const AFTER_ACKNOWLEDGEMENT: Duration = Duration::from_millis(1300);

/// How much longer a flow is to be followed, once it was answered and the client went on, or refused, or
/// once the client begins again.
pub(super) fn rest(seen: &[Sighting]) -> Option<Duration> {
    let mut replied = false;
    let mut first_request: Option<&Sighting> = None;
    let mut repeated = None;
    let mut went_on = false;
    for sighting in seen {
        match (&sighting.packet.kind, sighting.way) {
            (Kind::Error { .. }, _)
            | (
                Kind::Tcp {
                    segment: Segment::Rst,
                    ..
                },
                _,
            )
            | (Kind::Udp { .. }, Way::Out) => return Some(AFTER_DECISION),
            (Kind::Tcp { segment, .. }, Way::In) => {
                if replied && *segment == Segment::Other {
                    went_on = true;
                }
                let first = first_request.get_or_insert(sighting);
                if *first != sighting
                    && first.packet == sighting.packet
                    && first.device == sighting.device
                {
                    repeated = Some(AFTER_REPETITION);
                }
            }
            (Kind::Tcp { segment, .. }, Way::Out) => {
                // What acknowledges the client's own acknowledgement, or follows it.
                if went_on && *segment == Segment::Other {
                    return Some(AFTER_DECISION);
                }
                replied |= *segment != Segment::Syn;
            }
            (Kind::Udp { .. }, Way::In) => {}
        }
    }
    if went_on {
        Some(AFTER_ACKNOWLEDGEMENT)
    } else {
        repeated
    }
}

/// Whether mere data was seen that way, so that what follows tells nothing new.
pub(super) fn has_data(seen: &[Sighting], way: Way) -> bool {
    let is_data = |sighting: &&Sighting| is_mere_data(&sighting.packet.kind);
    seen.iter()
        .filter(is_data)
        .any(|sighting| sighting.way == way)
}

pub(super) const fn is_mere_data(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Tcp {
            segment: Segment::Other,
            ..
        }
    )
}
