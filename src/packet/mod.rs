//! Bytes on the wire: views, flow keys, encapsulation, checksums. Sans-IO, no allocation per packet.
//!
//! No function here panics or reads past its input, whatever the bytes.

pub mod checksum;
pub mod decap;
pub mod ecn;
