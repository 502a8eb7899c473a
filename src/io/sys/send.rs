//! `sendmmsg`: a batch of packets in one system call.

use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::{BATCH, length_of};

/// Where a packet socket sends a frame to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkAddress {
    /// Index of the device.
    pub link: u32,
    /// The type in the frame's link header.
    pub ethertype: u16,
}

/// What [`send_batch`] sends to.
pub trait Destination: Copy {
    /// Becomes the name of a message; returns its length in bytes.
    #[doc(hidden)]
    fn write(self, name: &mut Name) -> libc::socklen_t;
}

/// Sends up to [`BATCH`] packets, each in two parts, to its destination, which must be of the socket's address family;
/// returns how many the kernel took, from the first on.
///
/// # Errors
/// The kernel's for the first packet that was not taken, when none before it was.
pub fn send_batch<'a, D: Destination>(
    socket: BorrowedFd<'_>,
    packets: impl Iterator<Item = ([&'a [u8]; 2], D)>,
) -> io::Result<usize> {
    // SAFETY: all three are plain C structs for which zeros are a valid value.
    let (mut names, mut pieces, mut messages): (
        [Name; BATCH],
        [[libc::iovec; 2]; BATCH],
        [libc::mmsghdr; BATCH],
    ) = unsafe { mem::zeroed() };
    let mut count = 0;
    for ((name, pieces), (message, (parts, destination))) in names
        .iter_mut()
        .zip(&mut pieces)
        .zip(messages.iter_mut().zip(packets))
    {
        message.msg_hdr.msg_namelen = destination.write(name);
        message.msg_hdr.msg_name = ptr::from_mut(name).cast();
        for (piece, part) in pieces.iter_mut().zip(parts) {
            piece.iov_base = part.as_ptr().cast_mut().cast();
            piece.iov_len = part.len();
        }
        message.msg_hdr.msg_iov = pieces.as_mut_ptr();
        message.msg_hdr.msg_iovlen = if parts[1].is_empty() { 1 } else { 2 };
        count += 1;
    }
    // SAFETY: the first `count` messages point to names and pieces that live until the call
    // returns, and the pieces to packets borrowed for 'a; the kernel only reads through them.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// A socket address.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(
    missing_debug_implementations,
    reason = "which of the fields holds is not known"
)]
pub union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
    link: libc::sockaddr_ll,
}

impl Destination for IpAddr {
    fn write(self, name: &mut Name) -> libc::socklen_t {
        match self {
            Self::V4(v4) => {
                name.v4 = libc::sockaddr_in {
                    sin_family: AF_INET,
                    sin_port: 0,
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.octets()),
                    },
                    sin_zero: [0; 8],
                };
                length_of::<libc::sockaddr_in>()
            }
            Self::V6(v6) => {
                name.v6 = libc::sockaddr_in6 {
                    sin6_family: AF_INET6,
                    sin6_port: 0,
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr {
                        s6_addr: v6.octets(),
                    },
                    sin6_scope_id: 0,
                };
                length_of::<libc::sockaddr_in6>()
            }
        }
    }
}

impl Destination for LinkAddress {
    fn write(self, name: &mut Name) -> libc::socklen_t {
        name.link = libc::sockaddr_ll {
            sll_family: AF_PACKET,
            sll_protocol: self.ethertype.to_be(),
            sll_ifindex: self.link.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [0; 8], // the frame's own header says it
        };
        length_of::<libc::sockaddr_ll>()
    }
}

const AF_INET: libc::sa_family_t = family(libc::AF_INET);
const AF_INET6: libc::sa_family_t = family(libc::AF_INET6);
const AF_PACKET: libc::sa_family_t = family(libc::AF_PACKET);

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "families are small numbers; the type differs from the constants' only in width"
)]
const fn family(constant: libc::c_int) -> libc::sa_family_t {
    constant as libc::sa_family_t
}
