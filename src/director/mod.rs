//! The decision: which backend takes a packet. Sans-IO: no sockets, no clock, no logging.

mod spec;

pub use crate::packet::Protocol;
pub use spec::{
    AllDown, BackendSpec, BackendState, HashFields, HashKey, HashKeyError, PortMatch, RingSize,
    RingSizeError, VipSpec,
};
