//! Where the headers of a packet are: what tells its flow.

use crate::packet::{Protocol, Version};

/// Bytes of an IPv4 header without options, and of an IPv6 header without extensions.
const IPV4: usize = 20;
const IPV6: usize = 40;

/// Source and destination port, in TCP and in UDP.
const PORTS: usize = 4;

/// The headers of a packet that has ports, within its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Headers {
    pub(super) version: Version,
    pub(super) protocol: Protocol,
    /// Bytes of the IP header: where the transport header begins.
    pub(super) network_bytes: usize,
}

impl Headers {
    /// `None` for fragments, for what is behind IPv6 extension headers, and for all but TCP and UDP.
    pub(super) fn of(packet: &[u8]) -> Option<Self> {
        let version = version(packet)?;
        let (protocol, network_bytes) = match version {
            Version::V4 if is_fragment(packet.get(6..8)?) => return None,
            Version::V4 => (*packet.get(9)?, usize::from(packet[0] & 0xf) * 4),
            Version::V6 => (*packet.get(6)?, IPV6),
        };
        let protocol = match protocol {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            _ => return None,
        };
        let whole = network_bytes >= IPV4 && packet.len() >= network_bytes + PORTS;
        whole.then_some(Self {
            version,
            protocol,
            network_bytes,
        })
    }

    /// Whether the IP header is one that every segment can get a copy of: without options.
    pub(super) fn is_plain(&self) -> bool {
        self.version == Version::V6 || self.network_bytes == IPV4
    }

    /// The addresses and the ports.
    pub(super) fn ends<'p>(&self, packet: &'p [u8]) -> Option<(&'p [u8], &'p [u8])> {
        let addresses = match self.version {
            Version::V4 => 12..20,
            Version::V6 => 8..40,
        };
        let ports = self.network_bytes..self.network_bytes + PORTS;
        Some((packet.get(addresses)?, packet.get(ports)?))
    }
}

/// By the packet's first four bits.
pub(super) fn version(packet: &[u8]) -> Option<Version> {
    match packet.first()? >> 4 {
        4 => Some(Version::V4),
        6 => Some(Version::V6),
        _ => None,
    }
}

/// Whether more fragments follow, or the offset is not 0 (RFC 791 §3.1).
fn is_fragment(bits: &[u8]) -> bool {
    matches!(bits, [high, low] if u16::from_be_bytes([*high, *low]) & 0x3fff != 0)
}
