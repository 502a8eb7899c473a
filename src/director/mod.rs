//! The decision: which backend takes a packet. Sans-IO: no sockets, no clock, no logging.

mod spec;

pub use spec::{
    AllDown, BackendSpec, BackendState, HashFields, HashKey, HashKeyError, PortMatch, Protocol,
    RingSize, RingSizeError, VipSpec,
};
