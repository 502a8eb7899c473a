//! `--watch`: follows one flow through the machine while a client sends, and says where it was last seen.
//!
//! One packet socket sees all devices, so that outer packets on E, inner ones on T and replies stand in
//! one order (`live`; its filter in the kernel is `filter`). Counters of before and after and the drop
//! reasons of the host are put beside them. What was seen is an [`Observation`], a plain value; `judge`
//! reads it, and has no other input than that and what the facts say.

mod conclusion;
mod counters;
mod filter;
mod flow;
mod judge;
mod live;
mod observation;
mod sighting;
#[cfg(test)]
mod tests;
mod texts;
mod trail;

use std::net::IpAddr;

use super::facts::{Encap, Target};
use crate::io::packet_socket::Instruction;
use crate::packet::Protocol;

pub use judge::apply;
pub use live::{Progress, WatchError, watch};
pub use observation::{Kind, Observation, Outer, Quotation, Segment, Sighting, Summary, Way};
pub use texts::invitation;

/// The program that lets packets of a service through in the kernel; after the flow's first packet, those
/// of its client only.
#[must_use]
pub fn capture_filter(watched: &Watched, client: Option<IpAddr>) -> Vec<Instruction> {
    filter::program(watched, client)
}

/// What a captured packet is, from its IP header on, out of its tunnel where it is in one; `None` for what
/// says nothing about a flow.
#[must_use]
pub fn seen_in(bytes: &[u8], encap: Encap) -> Option<(Option<Outer>, Summary)> {
    sighting::read(bytes, encap)
}

/// Whose packets are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// The VIP.
    pub vip: IpAddr,
    /// The service's port; none: any.
    pub port: Option<u16>,
    /// Its transport protocol.
    pub protocol: Protocol,
    /// This client's only; none: the first that comes.
    pub client: Option<IpAddr>,
    /// The tunnel. IP-in-IP is looked for in any case.
    pub encap: Encap,
    /// The device by which outer packets are expected (E).
    pub physical: Option<String>,
    /// The device out of which inner packets come (T).
    pub tunnel: Option<String>,
}

impl Watched {
    /// That of a target; of its client only where it was named.
    #[must_use]
    pub fn of(target: &Target) -> Self {
        Self {
            vip: target.vip,
            port: target.port,
            protocol: match target.protocol.as_str() {
                "udp" => Protocol::Udp,
                _ => Protocol::Tcp,
            },
            client: (!target.client_is_assumed).then_some(target.client),
            encap: target.encap,
            physical: target.physical.clone(),
            tunnel: target.tunnel.clone(),
        }
    }
}
