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

/// Sends what a packet socket sends straight to the device's driver, past its queueing discipline
/// (PACKET_QDISC_BYPASS, packet(7)).
///
/// # Errors
/// The kernel's, for a socket of another family.
pub fn bypass_queueing(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)
}

/// Lets a raw ICMP socket receive messages of one type only (ICMP_FILTER, raw(7); ICMP6_FILTER,
/// RFC 3542 §3.2).
///
/// # Errors
/// The kernel's, for a socket of another kind.
pub fn receive_only(socket: BorrowedFd<'_>, version: Version, icmp_type: u8) -> io::Result<()> {
    const ICMP_FILTER: libc::c_int = 1; // linux/icmp.h; set bits are blocked, so are types from 32 on
    const ICMP6_FILTER: libc::c_int = 1; // linux/icmpv6.h
    match version {
        Version::V4 => set(
            socket,
            libc::SOL_RAW,
            ICMP_FILTER,
            !(1u32 << (icmp_type % 32)),
        ),
        Version::V6 => {
            let mut blocked = [u32::MAX; 8];
            blocked[usize::from(icmp_type / 32)] &= !(1 << (icmp_type % 32));
            set(socket, libc::IPPROTO_ICMPV6, ICMP6_FILTER, blocked)
        }
    }
}

/// Sets an option whose value is plain data.
pub(super) fn set<T: Copy>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: T,
) -> io::Result<()> {
    // SAFETY: the value points at data of the length given, which outlives the call and is only
    // read; the descriptor is open for the lifetime of `socket`.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(&value).cast(),
            length_of::<T>(),
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
