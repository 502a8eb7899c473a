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
mod fragmentation;
mod icmp;
mod mss;
pub mod neighbour;
mod parse;
mod partial;
mod path_mtu;
mod reply;
mod segment;
mod segmentation;
pub mod vnet;

pub use burst::{BURST, Burst, Outgoing, Piece};
pub use encap::{
    Encap, EncapKind, Entropy, EntropyPrefix, EntropyPrefixError, FamilyMismatch, HEADROOM,
    SourceRule, TooLong, TunnelId, Tunnels,
};
pub use flow::{FlowKey, Protocol};
pub use fragmentation::Fragmentation;
pub use icmp::{Icmp, Quoted};
pub use mss::{clamp_mss, headers_beside_mss};
pub use parse::{Fragment, Malformed, Meta, Packet, TcpFlags, Transport, Version};
pub use partial::complete_partial;
pub use path_mtu::{PathMtuError, QuotedPacket};
pub use reply::{FragmentRule, Replies, echo_reply, packet_too_big};
pub use segment::{PackedFlow, Segment};
pub use segmentation::Segmentation;
