//! `tunlb doctor` on hosts that are ill, one fault at a time or two, and on hosts that are well.
//!
//! A fault is injected into a host that worked a moment ago. Where a packet can show it, a client proves
//! that the service is dead, and that it lives again once the finding's own commands have run. The
//! tables say what the doctor must answer; `figure:` lines of the output tell how often it did.

mod bench;
mod fault;

mod backend;
mod bad_input;
mod director;
mod families;
mod healthy;
mod neighbour;
mod pairs;
mod seeds;
mod service;

pub(crate) use bench::WAY;
