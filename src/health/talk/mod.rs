//! What a probe says to a service, and what it makes of the answer. Bytes in, a result out: no sockets, no clock.
//!
//! Answers come from anywhere and may be of any shape: each conversation keeps a bounded part of them, and decides
//! in bounded time.

mod datagram;
mod dns;
#[cfg(feature = "https")]
pub(super) mod expiry;
mod http;
#[cfg(feature = "https")]
mod https;
mod tls;

use std::net::SocketAddr;

use crate::packet::Protocol;
use crate::probe::{Kind, ProbeResult};
use datagram::DatagramTalk;
use dns::DnsTalk;
use http::HttpTalk;
#[cfg(feature = "https")]
pub(super) use https::HttpsTalk;
use tls::TlsTalk;

/// One conversation.
#[derive(Debug)]
pub(super) enum Talk {
    Http(HttpTalk),
    #[cfg(feature = "https")]
    Https(Box<HttpsTalk>),
    Tls(TlsTalk),
    Dns(DnsTalk),
    Datagram(DatagramTalk),
}

impl Talk {
    /// What follows a connection for a probe of that kind; `None` where the connection is all, and for the kind
    /// "https", which needs more than the check says (`trust`). `salt` makes no two alike.
    pub(super) fn new(kind: &Kind, destination: SocketAddr, salt: u64) -> Option<Self> {
        match kind {
            Kind::Http(http) => Some(Self::Http(HttpTalk::new(http, destination, 80))),
            Kind::Tls(tls) => Some(Self::Tls(TlsTalk::new(tls, salt))),
            Kind::Dns(dns) => Some(Self::Dns(DnsTalk::new(dns, salt))),
            Kind::Udp(datagram) => Some(Self::Datagram(DatagramTalk::new(datagram))),
            Kind::Tcp | Kind::Https(_) | Kind::Ping(_) | Kind::External => None,
        }
    }

    /// All that is sent, as far as it is known.
    pub(super) fn request(&self) -> &[u8] {
        match self {
            Self::Http(talk) => talk.request(),
            #[cfg(feature = "https")]
            Self::Https(talk) => talk.request(),
            Self::Tls(talk) => talk.request(),
            Self::Dns(talk) => talk.request(),
            Self::Datagram(talk) => talk.request(),
        }
    }

    /// More of the answer came; the result, once nothing that follows could change it.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Option<ProbeResult> {
        match self {
            Self::Http(talk) => talk.read(bytes),
            #[cfg(feature = "https")]
            Self::Https(talk) => talk.read(bytes),
            Self::Tls(talk) => talk.read(bytes),
            Self::Dns(talk) => talk.read(bytes),
            Self::Datagram(talk) => Some(talk.read(bytes)),
        }
    }

    /// The service ended the connection.
    pub(super) fn closed(&self) -> ProbeResult {
        match self {
            Self::Http(talk) => talk.closed(),
            #[cfg(feature = "https")]
            Self::Https(talk) => talk.closed(),
            Self::Tls(_) | Self::Dns(_) | Self::Datagram(_) => ProbeResult::ClosedEarly,
        }
    }

    /// The time is over; `None`: as for any probe without an answer.
    pub(super) fn timed_out(&self) -> Option<ProbeResult> {
        match self {
            Self::Http(talk) => talk.so_far(),
            #[cfg(feature = "https")]
            Self::Https(talk) => talk.so_far(),
            Self::Datagram(talk) => talk.silence(),
            Self::Tls(_) | Self::Dns(_) => None,
        }
    }
}

impl Talk {
    /// When the certificate that the service showed expires, in seconds after the Unix epoch.
    pub(super) fn certificate_expires(&self) -> Option<u64> {
        match self {
            #[cfg(feature = "https")]
            Self::Https(talk) => talk.certificate_expires(),
            Self::Http(_) | Self::Tls(_) | Self::Dns(_) | Self::Datagram(_) => None,
        }
    }
}

/// The bytes of a DNS message over TCP are preceded by their number (RFC 1035 §4.2.2).
const fn is_framed(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Tcp)
}
