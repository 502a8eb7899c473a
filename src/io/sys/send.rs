//! `sendmmsg`: a batch of packets in one system call.

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, SocketAddr};
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
    super::count_call();
    let mut names = [const { MaybeUninit::<Name>::uninit() }; BATCH];
    let mut pieces = [const { MaybeUninit::<[libc::iovec; 2]>::uninit() }; BATCH];
    let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH];
    let mut count = 0;
    for ((name, pieces), (message, (parts, destination))) in names
        .iter_mut()
        .zip(&mut pieces)
        .zip(messages.iter_mut().zip(packets))
    {
        // SAFETY: a plain C structure, any of whose address kinds may be zero.
        let name = name.write(unsafe { mem::zeroed() });
        let pieces = pieces.write(parts.map(|part| libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        }));
        // SAFETY: a plain C structure for which zeros are valid.
        let message = message.write(unsafe { mem::zeroed() });
        message.msg_hdr.msg_namelen = destination.write(name);
        message.msg_hdr.msg_name = ptr::from_mut(name).cast();
        message.msg_hdr.msg_iov = pieces.as_mut_ptr();
        message.msg_hdr.msg_iovlen = if parts[1].is_empty() { 1 } else { 2 };
        count += 1;
    }
    // SAFETY: the first `count` messages point to names and pieces that live until the call
    // returns, and the pieces to packets borrowed for 'a; the kernel only reads through them.
    let sent =
        unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr().cast(), count, 0) };
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
        SocketAddr::new(self, 0).write(name)
    }
}

impl Destination for SocketAddr {
    fn write(self, name: &mut Name) -> libc::socklen_t {
        match self {
            Self::V4(v4) => {
                name.v4 = libc::sockaddr_in {
                    sin_family: AF_INET,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                length_of::<libc::sockaddr_in>()
            }
            Self::V6(v6) => {
                name.v6 = libc::sockaddr_in6 {
                    sin6_family: AF_INET6,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: v6.ip().octets(),
                    },
                    sin6_scope_id: v6.scope_id(),
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
