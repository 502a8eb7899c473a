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

/// Keeps the kernel from learning a path MTU on account of this socket (IP_PMTUDISC_INTERFACE, ip(7)): an ICMP
/// error that quotes a packet which the socket could have sent lowers the MTU of its route for ten minutes
/// otherwise, unexamined. IPv6 does so for raw sockets whatever they ask, but never below 1280 bytes.
///
/// # Errors
/// The kernel's, for a socket of another family.
pub fn learn_no_path_mtu(socket: BorrowedFd<'_>, version: Version) -> io::Result<()> {
    match version {
        Version::V4 => {
            let interface = libc::IP_PMTUDISC_INTERFACE;
            set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, interface)
        }
        Version::V6 => {
            let interface = libc::IPV6_PMTUDISC_INTERFACE;
            set(
                socket,
                libc::IPPROTO_IPV6,
                libc::IPV6_MTU_DISCOVER,
                interface,
            )
        }
    }
}

/// What the kernel refuses to send as too long for a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelPathMtu {
    /// What exceeds the route's MTU, also where it was learnt by path MTU discovery.
    Route,
    /// What exceeds the device's MTU only.
    Device,
}

/// Sets which MTU limits what a socket sends (IP_MTU_DISCOVER, ip(7); IPV6_MTU_DISCOVER, ipv6(7)). The kernel's
/// default is the route's.
///
/// # Errors
/// The kernel's, for a socket of another family.
pub fn limit_by(socket: BorrowedFd<'_>, version: Version, limit: KernelPathMtu) -> io::Result<()> {
    let (level, option, want, probe) = match version {
        Version::V4 => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_WANT,
            libc::IP_PMTUDISC_PROBE,
        ),
        Version::V6 => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_WANT,
            libc::IPV6_PMTUDISC_PROBE,
        ),
    };
    let value = match limit {
        KernelPathMtu::Route => want,
        KernelPathMtu::Device => probe,
    };
    set(socket, level, option, value)
}

/// Sends what a packet socket sends straight to the device's driver, past its queueing discipline
/// (PACKET_QDISC_BYPASS, packet(7)).
///
/// # Errors
/// The kernel's, for a socket of another family.
pub fn bypass_queueing(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)
}

/// Hands datagrams over joined that the kernel has received so, each message with their size (UDP_GRO,
/// udp(7)).
///
/// # Errors
/// The kernel's, before Linux 5.0 and for a socket of another kind.
pub fn join_datagrams(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Lets a raw ICMP socket receive messages of these types only, over IPv4 each below 32 (ICMP_FILTER, raw(7);
/// ICMP6_FILTER, RFC 3542 §3.2).
///
/// # Errors
/// The kernel's, for a socket of another kind.
pub fn receive_only(socket: BorrowedFd<'_>, version: Version, icmp_types: &[u8]) -> io::Result<()> {
    const ICMP_FILTER: libc::c_int = 1; // linux/icmp.h; set bits are blocked, so are types from 32 on
    const ICMP6_FILTER: libc::c_int = 1; // linux/icmpv6.h
    let mut blocked = [u32::MAX; 8];
    for icmp_type in icmp_types {
        blocked[usize::from(icmp_type / 32)] &= !(1 << (icmp_type % 32));
    }
    match version {
        Version::V4 => set(socket, libc::SOL_RAW, ICMP_FILTER, blocked[0]),
        Version::V6 => set(socket, libc::IPPROTO_ICMPV6, ICMP6_FILTER, blocked),
    }
}

/// Has an IPv4 socket's packets take only routes that need no gateway (SO_DONTROUTE, socket(7)), or of the scope of
/// a link: the kernel looks them up with that scope.
///
/// # Errors
/// The kernel's.
pub fn route_by_link_scope(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_DONTROUTE, 1)
}

/// The cookie of a socket's network namespace: unique among all namespaces since the machine started
/// (SO_NETNS_COOKIE; linux/net/core/net_namespace.c numbers them and reuses none).
///
/// # Errors
/// ENOPROTOOPT before Linux 5.14.
pub fn namespace_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = length_of::<u64>();
    // SAFETY: the value points at writable data of the length given, which outlives the call; the
    // descriptor is open for the lifetime of `socket`.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if status == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
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
