//! Bytes on the wire: views, flow keys, encapsulation, checksums. Sans-IO, no allocation per packet.
//!
//! No function here panics or reads past its input, whatever the bytes.

pub mod checksum;
pub mod decap;
pub mod ecn;
mod encap;
mod flow;
mod parse;
mod partial;

pub use encap::{Encap, HEADROOM, TooLong};
pub use flow::{FlowKey, Protocol};
pub use parse::{Fragment, Malformed, Meta, Packet, TcpFlags, Transport, Version};
