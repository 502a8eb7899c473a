//! Calls that no library wraps, above all for batches of packets. The only `unsafe` code of the
//! crate.
//!
//! Every function here is safe to call with any arguments; what the kernel needs to be true is
//! made true inside.

#![allow(
    unsafe_code,
    reason = "sendmmsg and recvmmsg take arrays of pointers, and no safe wrapper sends without allocating; what else is here has no safe wrapper at all"
)]

mod affinity;
#[cfg(feature = "xdp")]
mod bpf;
#[cfg(feature = "xdp")]
mod bpf_map;
mod datagrams;
mod direct;
mod features;
mod heap;
mod mapping;
mod option;
mod packet;
mod receive;
mod send;
#[cfg(feature = "xdp")]
mod shared_array;
mod user;
mod xsk;

pub use affinity::{pin_to_cpu, usable_cpus};
#[cfg(feature = "xdp")]
pub use bpf::link_xdp_program;
#[cfg(feature = "xdp")]
pub use bpf_map::{
    MapBatch, MapRows, monotonic_ns, possible_cpus, remove_from_map, wait_for_programs,
};
pub use datagrams::{Datagrams, MOST_DATAGRAMS, send_datagrams};
pub use direct::{read, write_parts};
pub use features::has_device_feature;
pub use heap::release_freed_memory;
pub use option::{
    KernelPathMtu, bypass_queueing, force_receive_buffer, join_datagrams, learn_no_path_mtu,
    limit_by, namespace_cookie, receive_only, report_full_queues, route_by_link_scope,
};
pub use packet::{
    Ethertype, LinkArrival, bind_to_all_devices, bind_to_device, lost_packets, receive_link,
    report_times,
};
pub use receive::{ReceiveBatch, Received, Wanted};
pub use send::{Destination, LinkAddress, send_batch};
#[cfg(feature = "xdp")]
pub use shared_array::SharedArray;
pub use user::effective_user;
pub use xsk::{ReceiveSocket, Stalled, TransmitSocket, XSK_FRAME};

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

/// Notes a system call that sends.
#[inline]
fn count_call() {
    #[cfg(test)]
    CALLS.with(|calls| calls.set(calls.get() + 1));
}

#[cfg(test)]
thread_local! {
    static CALLS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// System calls that this thread has sent by so far.
#[cfg(test)]
pub(crate) fn sending_calls() -> usize {
    CALLS.with(std::cell::Cell::get)
}
