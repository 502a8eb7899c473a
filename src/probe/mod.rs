//! Health as values: what is probed, what a probe found, and what follows for a backend. No sockets, no clock.
//!
//! - [`check`]: what an operator asks for in `[vip.health]`.
//! - [`result`]: the outcome of one probe, by the names of every output.
//! - [`machine`]: one backend's way between healthy and unhealthy, by results alone.
//! - [`board`]: the machines of all backends; what survives a reload, and a fault of this host's own.
//! - [`cause`]: from what follow-ups found to a sentence and rows of `docs/doctor.md`.
//!
//! Time comes in as a [`Moment`].

pub mod board;
pub mod cause;
pub mod check;
mod flaps;
pub mod machine;
pub mod result;

use std::time::Duration;

pub use board::{Board, Target};
pub use cause::{Cause, Evidence};
pub use check::{Check, Close, Initial, Kind, OnUnhealthy, ProbedBy, Probing, Timing};
pub use machine::{Machine, Standing, Turn};
pub use result::{ProbeResult, Verdict};

/// Since an epoch of the caller's choice, by a clock that never runs backwards.
pub type Moment = Duration;
