//! What a probe says to a service, and what it makes of the answer. Bytes in, a result out: no sockets, no clock.
//!
//! Answers come from anywhere and may be of any shape: each conversation keeps a bounded part of them, and decides
//! in bounded time.

mod datagram;
mod dns;
mod http;
mod tls;

use std::net::SocketAddr;

use crate::packet::Protocol;
use crate::probe::{Kind, ProbeResult};
use datagram::DatagramTalk;
use dns::DnsTalk;
use http::HttpTalk;
use tls::TlsTalk;

/// One conversation.
#[derive(Debug)]
pub(super) enum Talk {
    Http(HttpTalk),
    Tls(TlsTalk),
    Dns(DnsTalk),
    Datagram(DatagramTalk),
}

impl Talk {
    /// What follows a connection for a probe of that kind; `None` where the connection is all. `salt` makes no two
    /// alike.
    pub(super) fn new(kind: &Kind, destination: SocketAddr, salt: u64) -> Option<Self> {
        match kind {
            Kind::Http(http) => Some(Self::Http(HttpTalk::new(http, destination))),
            Kind::Tls(tls) => Some(Self::Tls(TlsTalk::new(tls, salt))),
            Kind::Dns(dns) => Some(Self::Dns(DnsTalk::new(dns, salt))),
            Kind::Udp(datagram) => Some(Self::Datagram(DatagramTalk::new(datagram))),
            Kind::Tcp | Kind::Ping(_) | Kind::External => None,
        }
    }

    /// What is sent first, and all that is.
    pub(super) fn request(&self) -> &[u8] {
        match self {
            Self::Http(talk) => talk.request(),
            Self::Tls(talk) => talk.request(),
            Self::Dns(talk) => talk.request(),
            Self::Datagram(talk) => talk.request(),
        }
    }

    /// More of the answer came; the result, once nothing that follows could change it.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Option<ProbeResult> {
        match self {
            Self::Http(talk) => talk.read(bytes),
            Self::Tls(talk) => talk.read(bytes),
            Self::Dns(talk) => talk.read(bytes),
            Self::Datagram(talk) => Some(talk.read(bytes)),
        }
    }

    /// The service ended the connection.
    pub(super) fn closed(&self) -> ProbeResult {
        match self {
            Self::Http(talk) => talk.closed(),
            Self::Tls(_) | Self::Dns(_) | Self::Datagram(_) => ProbeResult::ClosedEarly,
        }
    }

    /// The time is over; `None`: as for any probe without an answer.
    pub(super) fn timed_out(&self) -> Option<ProbeResult> {
        match self {
            Self::Http(talk) => talk.so_far(),
            Self::Datagram(talk) => talk.silence(),
            Self::Tls(_) | Self::Dns(_) => None,
        }
    }
}

/// The bytes of a DNS message over TCP are preceded by their number (RFC 1035 §4.2.2).
const fn is_framed(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Tcp)
}
