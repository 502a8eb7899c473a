//! Which ICMP errors about the paths to backends are believed: those that quote a packet which a tunnel of
//! ours may have sent. Pure: an error and a snapshot in, a verdict out.
//!
//! Anybody can send such an error, and a host off the path knows or guesses most of what a tunnel packet
//! looks like (RFC 5927 §7). So everything that the quotation shows has to fit: the outer header, the
//! UDP header of GUE, and as much of the inner packet as the router quoted, which may be its first 8 bytes
//! only (RFC 792). Where the flow shows, and its keyed hash in the outer source or source port, those must
//! agree: no outsider can compute them. Which backend the ring has for the flow is not asked, since a flow
//! may have stayed with another one. What an attacker still guesses is bounded by [`PathMtus`](super::PathMtus).

use std::net::IpAddr;

use super::indices::BackendIndex;
use super::snapshot::{Backend, Snapshot};
use crate::packet::{Encap, EncapKind, PathMtuError, Quoted, QuotedPacket, Version};

/// The least that a router may name: RFC 791 §3.2, RFC 8200 §5. A Packet Too Big below it is to be
/// discarded (RFC 8201 §4).
const LEAST_IPV4: u32 = 68;
const LEAST_IPV6: u32 = 1280;

/// Length of a UDP header in bytes.
const UDP_HEADER: u32 = 8;

/// Why an error about a path is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Disbelief {
    /// It is about a packet to somewhere else: none of a tunnel.
    #[error("{0} is no backend")]
    NoBackend(IpAddr),
    /// It is this host's own, about what its kernel refuses to send: by a route that is known, or by an
    /// error that the kernel believed itself, which may be as forged as any.
    #[error("it is this host's own")]
    Own,
    /// No link has so small an MTU.
    #[error("no link has an MTU of {0} bytes")]
    Mtu(u32),
    /// A packet that passes is no reason for an error.
    #[error(
        "the packet that it quotes has {length} bytes, which fit the MTU of {mtu} that it names"
    )]
    Fits {
        /// Of the quoted packet, in bytes.
        length: u32,
        /// That the error names, in bytes.
        mtu: u32,
    },
    /// No packet of a tunnel is so long.
    #[error("no tunnel packet has {0} bytes, as the one that it quotes")]
    TooLong(u32),
    /// A router would have fragmented the packet, or did already.
    #[error("the packet that it quotes may be fragmented, or is a fragment")]
    Fragmentable,
    /// It was not sent to the source of the packet.
    #[error("it was sent to {0}, not to the source of the packet that it quotes")]
    Destination(IpAddr),
    /// No tunnel to that backend has this outer source.
    #[error("no tunnel to this backend has the source {0}")]
    Source(IpAddr),
    /// No tunnel to that backend has this protocol.
    #[error("no tunnel to this backend has protocol {0}")]
    Protocol(u8),
    /// The UDP header of the quoted packet is none of GUE's.
    #[error("the UDP header that it quotes is none of a GUE tunnel")]
    Gue,
    /// What the quoted packet carries is no packet for the backend's VIP.
    #[error("the packet that it quotes carries none for a VIP of this backend")]
    Inner,
}

impl Snapshot {
    /// Examines an error about an outer packet.
    ///
    /// # Errors
    /// Why it is not believed, of the last tunnel to that backend that might have sent the packet.
    pub fn examine(&self, error: &PathMtuError<'_>) -> Result<(), Disbelief> {
        let quoted = &error.quoted;
        let address = quoted.quoted.destination;
        let mut backends = self.backends_at(address).peekable();
        if backends.peek().is_none() {
            return Err(Disbelief::NoBackend(address));
        }
        examine_outer(error)?;
        let mut verdict = Err(Disbelief::NoBackend(address));
        for (index, backend) in backends {
            verdict = self.examine_tunnel((index, &backend), error);
            if verdict.is_ok() {
                break;
            }
        }
        verdict
    }

    fn examine_tunnel(
        &self,
        (index, backend): (BackendIndex, &Backend<'_>),
        error: &PathMtuError<'_>,
    ) -> Result<(), Disbelief> {
        let (quoted, encap) = (&error.quoted, backend.encap);
        let source = quoted.quoted.source;
        // The kernel delivered it here, so where it was sent is an address of this host.
        let is_chosen = encap.source_is_chosen_by_kernel() && error.destination == Some(source);
        if !is_chosen && !encap.may_come_from(source) {
            return Err(Disbelief::Source(source));
        }
        let longest = self.path_mtus().configured(index);
        if longest.is_some_and(|longest| quoted.length > longest.get()) {
            return Err(Disbelief::TooLong(quoted.length));
        }
        let vip = self.vip(backend.vip).address();
        let (inner, length) = carried(quoted, encap, &vip)?;
        if !is_packet_for(inner, length, vip) {
            return Err(Disbelief::Inner);
        }
        match Quoted::parse(inner) {
            Some(flow) => self.examine_flow(backend, &flow, quoted),
            None => Ok(()),
        }
    }

    fn examine_flow(
        &self,
        backend: &Backend<'_>,
        inner: &Quoted,
        quoted: &QuotedPacket<'_>,
    ) -> Result<(), Disbelief> {
        let Some(flow) = inner.sent_flow() else {
            return Ok(()); // not of TCP or UDP, or a later fragment
        };
        let is_of_vip = self
            .find_vip(&flow)
            .is_some_and(|vip| vip.index == backend.vip);
        if !is_of_vip {
            return Err(Disbelief::Inner);
        }
        if !backend.encap.takes_entropy() {
            return Ok(());
        }
        let hash = self.flow_hash(&flow);
        let (source, port) = (quoted.quoted.source, quoted.quoted.ports);
        match backend.encap.source_port(hash) {
            Some(expected) if port.is_none_or(|(port, _)| port != expected) => Err(Disbelief::Gue),
            _ if backend.encap.source_is_chosen_by_kernel() => Ok(()),
            _ if backend.encap.source(hash) != source => Err(Disbelief::Source(source)),
            _ => Ok(()),
        }
    }
}

/// What is the same for every tunnel.
fn examine_outer(error: &PathMtuError<'_>) -> Result<(), Disbelief> {
    let (mtu, quoted) = (error.mtu, &error.quoted);
    if error.sender == Some(quoted.quoted.source) {
        return Err(Disbelief::Own);
    }
    let least = match quoted.version {
        Version::V4 => LEAST_IPV4,
        Version::V6 => LEAST_IPV6,
    };
    if mtu < least {
        return Err(Disbelief::Mtu(mtu));
    }
    if quoted.length <= mtu {
        let length = quoted.length;
        return Err(Disbelief::Fits { length, mtu });
    }
    if quoted.may_be_fragmented || quoted.is_fragment {
        return Err(Disbelief::Fragmentable);
    }
    match error.destination {
        Some(destination) if destination != quoted.quoted.source => {
            Err(Disbelief::Destination(destination))
        }
        _ => Ok(()),
    }
}

/// The start of the inner packet, and the length in bytes that it must have.
fn carried<'a>(
    quoted: &QuotedPacket<'a>,
    encap: &Encap,
    vip: &IpAddr,
) -> Result<(&'a [u8], u32), Disbelief> {
    let protocol = quoted.quoted.protocol;
    let length = quoted.length - quoted.header.min(quoted.length);
    let expected = match (encap.kind(), vip) {
        (EncapKind::Gue { .. }, _) => 17,
        (EncapKind::Ipip, IpAddr::V4(_)) => 4,
        (EncapKind::Ipip, IpAddr::V6(_)) => 41,
    };
    if protocol != expected {
        return Err(Disbelief::Protocol(protocol));
    }
    let EncapKind::Gue { port } = encap.kind() else {
        return Ok((quoted.payload, length));
    };
    let ports = quoted.quoted.ports;
    let fits = ports.is_some_and(|(from, to)| encap.may_use_source_port(from) && to == port.get());
    if !fits || word(quoted.payload, 4).is_some_and(|udp| u32::from(udp) != length) {
        return Err(Disbelief::Gue);
    }
    let inner = quoted.payload.get(8..).unwrap_or_default();
    Ok((inner, length.saturating_sub(UDP_HEADER)))
}

/// Whether the bytes, as far as they go, are those of a packet of `length` bytes for `vip` that may not be
/// fragmented.
fn is_packet_for(inner: &[u8], length: u32, vip: IpAddr) -> bool {
    let version = inner.first().map(|byte| byte >> 4);
    let is = |field: Option<u16>, value: u32| field.is_none_or(|field| u32::from(field) == value);
    match vip {
        IpAddr::V4(vip) => {
            let destination = inner.get(16..20);
            version.is_none_or(|version| version == 4)
                && is(word(inner, 2), length)
                && inner.get(6).is_none_or(|flags| flags & 0x40 != 0)
                && destination.is_none_or(|address| address == vip.octets())
        }
        IpAddr::V6(vip) => {
            let destination = inner.get(24..40);
            version.is_none_or(|version| version == 6)
                && is(word(inner, 4), length.saturating_sub(40))
                && destination.is_none_or(|address| address == vip.octets())
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let [high, low] = *bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes([high, low]))
}

#[cfg(test)]
mod tests;
