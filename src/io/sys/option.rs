//! `setsockopt` for options that `socket2` does not know.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::length_of;
use crate::packet::Version;

/// Asks for a receive buffer of `bytes`, beyond `net.core.rmem_max` (SO_RCVBUFFORCE, socket(7)).
///
/// # Errors
/// EPERM without CAP_NET_ADMIN in the initial user namespace.
pub fn force_receive_buffer(socket: BorrowedFd<'_>, bytes: libc::c_int) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
}

/// Makes a full queue on the way out an error (ENOBUFS) instead of a silent loss (IP_RECVERR,
/// ip(7); IPV6_RECVERR, ipv6(7)).
///
/// # Errors
/// The kernel's, for a socket of another family.
pub fn report_full_queues(socket: BorrowedFd<'_>, version: Version) -> io::Result<()> {
    match version {
        Version::V4 => set(socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1),
        Version::V6 => set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1),
    }
}

fn set(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the value points at an integer of the length given, which outlives the call; the
    // descriptor is open for the lifetime of `socket`.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(&value).cast(),
            length_of::<libc::c_int>(),
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
