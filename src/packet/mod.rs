//! Bytes on the wire: views, flow keys, encapsulation, checksums. Sans-IO, no allocation per packet.
//!
//! No function here panics or reads past its input, whatever the bytes.

mod burst;
pub mod checksum;
pub mod coalesce;
pub mod decap;
pub mod ecn;
mod encap;
mod flow;
mod icmp;
pub mod neighbour;
mod parse;
mod partial;
mod path_mtu;
mod reply;
mod vnet;

pub use burst::{BURST, Burst};
pub use encap::{
    Encap, EncapKind, Entropy, EntropyPrefix, EntropyPrefixError, FamilyMismatch, HEADROOM,
    Outgoing, SourceRule, TooLong, TunnelId, Tunnels,
};
pub use flow::{FlowKey, Protocol};
pub use icmp::{Icmp, Quoted};
pub use parse::{Fragment, Malformed, Meta, Packet, TcpFlags, Transport, Version};
pub use path_mtu::{PathMtuError, QuotedPacket};
pub use reply::{FragmentRule, Replies, echo_reply, packet_too_big};
pub use vnet::{
    PartialChecksum, Segmentation, Segments, UnknownVnetHeader, VNET_HEADER, VnetHeader,
};
