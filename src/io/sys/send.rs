//! `sendmmsg`: a batch of packets in one system call.

use std::io;
use std::mem;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::{BATCH, length_of};

/// Sends up to [`BATCH`] packets, each to its destination; returns how many the kernel took,
/// from the first on.
///
/// # Errors
/// The kernel's for the first packet that was not taken, when none before it was.
pub fn send_batch<'a>(
    socket: BorrowedFd<'_>,
    packets: impl Iterator<Item = (&'a [u8], Ipv4Addr)>,
) -> io::Result<usize> {
    // SAFETY: all three are plain C structs for which zeros are a valid value.
    let (mut names, mut pieces, mut messages): (
        [libc::sockaddr_in; BATCH],
        [libc::iovec; BATCH],
        [libc::mmsghdr; BATCH],
    ) = unsafe { mem::zeroed() };
    let mut count = 0;
    for ((name, piece), (message, (bytes, destination))) in names
        .iter_mut()
        .zip(&mut pieces)
        .zip(messages.iter_mut().zip(packets))
    {
        name.sin_family = AF_INET;
        name.sin_addr.s_addr = u32::from_ne_bytes(destination.octets());
        piece.iov_base = bytes.as_ptr().cast_mut().cast();
        piece.iov_len = bytes.len();
        message.msg_hdr.msg_name = ptr::from_mut(name).cast();
        message.msg_hdr.msg_namelen = SOCKADDR_IN;
        message.msg_hdr.msg_iov = piece;
        message.msg_hdr.msg_iovlen = 1;
        count += 1;
    }
    // SAFETY: the first `count` messages point to names and pieces that live until the call
    // returns, and the pieces to packets borrowed for 'a; the kernel only reads through them.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "AF_INET is 2; the type differs from the constant's only in width"
)]
const AF_INET: libc::sa_family_t = libc::AF_INET as libc::sa_family_t;

const SOCKADDR_IN: libc::socklen_t = length_of::<libc::sockaddr_in>();
