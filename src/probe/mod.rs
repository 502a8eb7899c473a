//! Health as values: what is probed, what a probe found, and what follows for a backend. No sockets, no clock.
//!
//! - [`check`]: what an operator asks for in `[vip.health]`.
//! - [`result`]: the outcome of one probe, by the names of every output.
//! - [`machine`]: one backend's way between healthy and unhealthy, by results alone.
//! - [`board`]: the machines of all backends; what survives a reload, and a fault of this host's own.
//! - [`sighting`]: what came back on the wire.
//! - [`sizes`]: the search for the longest packet that gets through.
//! - [`cause`]: from what follow-ups found to a sentence and rows of `docs/doctor.md`.
//!
//! Time comes in as a [`Moment`].

pub mod board;
pub mod cause;
pub mod check;
mod flaps;
pub mod machine;
pub mod result;
pub mod sighting;
pub mod sizes;

use std::time::Duration;

pub use board::{Board, Target};
pub use cause::{Cause, Evidence, SizeFound};
pub use check::{Check, Close, Initial, Kind, OnUnhealthy, ProbedBy, Probing, Timing, Via};
pub use machine::{Machine, Standing, Turn};
pub use result::{ProbeResult, Verdict};
pub use sighting::{Answer, Detour, InnerError, Keeper, Sighting};
pub use sizes::SizeSearch;

/// Since an epoch of the caller's choice, by a clock that never runs backwards.
pub type Moment = Duration;
