//! What was seen while a client sent: plain values, which serialise as part of a bundle.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::doctor::facts::{Encap, Observed};

/// One watch of one VIP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// The VIP (V).
    pub vip: IpAddr,
    /// The service's port; none: any.
    pub port: Option<u16>,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Name of the device by which outer packets are expected (E), where it is known.
    pub physical: Option<String>,
    /// Name of the device out of which inner packets come (T), where it is known.
    pub tunnel: Option<String>,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
    /// A signal ended it before a flow came or was followed to its end.
    pub interrupted: bool,
    /// The client and its port: the flow that was followed; none where nothing came.
    pub flow: Option<(IpAddr, u16)>,
    /// Whether the kernel had that connection established in the end; none: it had none, or did not tell.
    #[serde(default)]
    pub established: Option<bool>,
    /// Packets of that flow and errors about it, in their order.
    pub seen: Vec<Sighting>,
    /// Packets that came faster than they could be looked at.
    pub lost: u32,
    /// By how much the counters of the network namespace moved, from before the flow's first packet on;
    /// those that did not are left out. `IpInReceives` as nstat(8) names them, `eth0.rx_errs` of devices.
    pub deltas: BTreeMap<String, u64>,
    /// Counters that this kernel has and that the judgement needs to know of: `IpOutTransmits` came with
    /// Linux 6.6.
    pub counts_transmits: bool,
    /// Packets that the whole host dropped meanwhile, by reason.
    pub drop_reasons: Observed<BTreeMap<String, u64>>,
}

/// A packet at a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// Since the flow's first packet, in microseconds.
    pub microseconds: u64,
    /// Name of the device.
    pub device: String,
    /// Which way.
    pub way: Way,
    /// The tunnel's header around it.
    pub outer: Option<Outer>,
    /// The packet, that in the tunnel where there is one.
    pub packet: Summary,
}

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// It came in by the device.
    In,
    /// It leaves by the device.
    Out,
}

/// A tunnel's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outer {
    /// The director.
    pub source: IpAddr,
    /// The backend (R).
    pub destination: IpAddr,
    /// Its kind.
    pub encap: Encap,
}

/// What matters of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// What it is.
    pub kind: Kind,
}

/// What a packet is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A TCP segment.
    Tcp {
        /// Source and destination port.
        ports: (u16, u16),
        /// What it does.
        segment: Segment,
    },
    /// A UDP datagram.
    Udp {
        /// Source and destination port.
        ports: (u16, u16),
    },
    /// An ICMP error.
    Error {
        /// Its type.
        icmp_type: u8,
        /// Its code.
        code: u8,
        /// What it is about.
        about: Quotation,
    },
}

/// What a TCP segment does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Segment {
    /// Opens a connection.
    Syn,
    /// Accepts one.
    SynAck,
    /// Refuses or ends one.
    Rst,
    /// Anything else.
    Other,
}

/// A packet that an ICMP error quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quotation {
    /// Who sent it.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// What it carried.
    pub protocol: u8,
    /// Its ports, where they are quoted.
    pub ports: Option<(u16, u16)>,
}

impl Sighting {
    /// With its time before it: `+0.000123 s eth0 in: …`.
    #[must_use]
    pub fn timed(&self) -> String {
        let seconds = self.microseconds / 1_000_000;
        let micro = self.microseconds % 1_000_000;
        format!("+{seconds}.{micro:06} s {self}")
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::In => "in",
            Self::Out => "out",
        })
    }
}

/// `eth0 in: IPIP 10.0.1.2 > 10.0.1.11: SYN 10.0.9.2:40000 > 10.0.0.100:80`
impl fmt::Display for Sighting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.device, self.way)?;
        if let Some(outer) = &self.outer {
            write!(f, "{outer}: ")?;
        }
        write!(f, "{}", self.packet)
    }
}

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.encap {
            Encap::Ipip => "IPIP",
            Encap::Gue(_) => "GUE",
        };
        write!(f, "{name} {} > {}", self.source, self.destination)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (source, destination) = (self.source, self.destination);
        match &self.kind {
            Kind::Tcp { ports, segment } => write!(
                f,
                "{segment} {} > {}",
                End(source, ports.0),
                End(destination, ports.1)
            ),
            Kind::Udp { ports } => write!(
                f,
                "UDP {} > {}",
                End(source, ports.0),
                End(destination, ports.1)
            ),
            Kind::Error {
                icmp_type,
                code,
                about,
            } => write!(
                f,
                "ICMP {icmp_type}/{code} {source} > {destination} about {about}"
            ),
        }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syn => "SYN",
            Self::SynAck => "SYN-ACK",
            Self::Rst => "RST",
            Self::Other => "TCP",
        })
    }
}

impl fmt::Display for Quotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = self.protocol;
        match self.ports {
            Some((from, to)) => write!(
                f,
                "protocol {protocol} {} > {}",
                End(self.source, from),
                End(self.destination, to)
            ),
            None => write!(
                f,
                "protocol {protocol} {} > {}",
                self.source, self.destination
            ),
        }
    }
}

/// An address with its port.
struct End(IpAddr, u16);

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::net::SocketAddr::new(self.0, self.1).fmt(f)
    }
}
