//! Calls that no library wraps, above all for batches of packets. The only `unsafe` code of the
//! crate.
//!
//! Every function here is safe to call with any arguments; what the kernel needs to be true is
//! made true inside.

#![allow(
    unsafe_code,
    reason = "sendmmsg and recvmmsg take arrays of pointers, and no safe wrapper sends without allocating; what else is here has no safe wrapper at all"
)]

mod heap;
mod option;
mod packet;
mod receive;
mod send;
mod user;

pub use heap::release_freed_memory;
pub use option::{
    KernelPathMtu, bypass_queueing, force_receive_buffer, join_datagrams, learn_no_path_mtu,
    limit_by, namespace_cookie, receive_only, report_full_queues,
};
pub use packet::{
    Ethertype, LinkArrival, bind_to_all_devices, bind_to_device, lost_packets, receive_link,
    report_times,
};
pub use receive::{ReceiveBatch, Received, Wanted};
pub use send::{Destination, LinkAddress, send_batch};
pub use user::effective_user;

/// Packets per system call; more than 64 gained nothing (docs/performance.md).
pub const BATCH: usize = 64;

/// The size of a C type as socket calls want it.
#[allow(
    clippy::cast_possible_truncation,
    reason = "no socket address or option is near 4 GiB"
)]
const fn length_of<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}
