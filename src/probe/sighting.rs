//! Packets of a probe as a tap on the devices saw them: which way they left, and what came back.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// An answer to a probe, or what stands for one, before this host's own filters judged it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// What it is.
    pub what: Answer,
    /// Its source address.
    pub from: IpAddr,
    /// The device that it came in by.
    pub device: Arc<str>,
    /// Its TTL or hop limit as it came in.
    pub ttl: u8,
}

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// TCP takes the connection.
    SynAck,
    /// TCP refuses or ends the connection.
    Reset,
    /// More of a TCP connection.
    Segment,
    /// A UDP datagram.
    Datagram,
    /// The reply to an echo request.
    EchoReply,
    /// An ICMP or ICMPv6 error about the inner packet, by type and code.
    Error(u8, u8),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SynAck => f.write_str("SYN-ACK"),
            Self::Reset => f.write_str("reset"),
            Self::Segment => f.write_str("TCP segment"),
            Self::Datagram => f.write_str("datagram"),
            Self::EchoReply => f.write_str("echo reply"),
            Self::Error(kind, code) => write!(f, "ICMP error {kind}/{code}"),
        }
    }
}

impl fmt::Display for Sighting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            from,
            device,
            ttl,
        } = self;
        write!(f, "{what} from {from} by {device}, TTL {ttl}")
    }
}

/// An ICMP or ICMPv6 error about a packet from the tunnel, to a VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InnerError {
    /// Its source address.
    pub from: IpAddr,
    /// Its type.
    pub kind: u8,
    /// Its code.
    pub code: u8,
}

impl InnerError {
    /// Whether it says that no route leads to the VIP (RFC 792, RFC 4443 §3.1).
    #[must_use]
    pub const fn is_no_route(&self) -> bool {
        match self.from {
            IpAddr::V4(_) => matches!((self.kind, self.code), (3, 0 | 1)),
            IpAddr::V6(_) => matches!((self.kind, self.code), (1, 0 | 3)),
        }
    }

    /// Whether it says that a filter forbids the packet (RFC 1812 §5.2.7.1, RFC 4443 §3.1).
    #[must_use]
    pub const fn is_prohibited(&self) -> bool {
        match self.from {
            IpAddr::V4(_) => matches!((self.kind, self.code), (3, 9 | 10 | 13)),
            IpAddr::V6(_) => matches!((self.kind, self.code), (1, 1 | 5 | 6)),
        }
    }
}

impl fmt::Display for InnerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, kind, code } = self;
        write!(f, "{} from {from}", Answer::Error(*kind, *code))
    }
}

/// Which part of this host kept an answer that arrived from the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeper {
    /// Reverse-path filtering, by the kernel's own word.
    ReversePath,
    /// What is left: a filter for incoming packets.
    Filter,
}

impl fmt::Display for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReversePath => "rp_filter",
            Self::Filter => "a firewall",
        })
    }
}

/// How this host's own rules kept a probe from its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detour {
    /// It left with another source address, so that its answer could not come back.
    Masqueraded(IpAddr),
    /// It left by another device.
    Device(Arc<str>),
    /// It was seen nowhere.
    Nowhere,
}
