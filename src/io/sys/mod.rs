//! System calls that no library wraps: batches of packets. The only `unsafe` code of the crate.
//!
//! Every function here is safe to call with any arguments; what the kernel needs to be true is
//! made true inside.

#![allow(
    unsafe_code,
    reason = "sendmmsg and recvmmsg take arrays of pointers; no safe wrapper sends without allocating"
)]

mod send;

pub use send::{report_full_queues, send_batch};

/// Packets per system call; more than 64 gained nothing (docs/performance.md).
pub const BATCH: usize = 64;
