//! `UDP_SEGMENT` (udp(7)): many datagrams of one size in one system call, cut apart by the device or, just
//! before it, by the kernel.

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::length_of;
use super::send::{Destination, Name};

/// Datagrams per call: what older kernels take (`UDP_MAX_SEGMENTS`, linux/include/linux/udp.h).
pub const MOST_DATAGRAMS: usize = 64;

/// Room for all control messages, aligned as they must be (cmsg(3)).
type Control = [u64; 20];

/// What datagrams of one call have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagrams {
    /// Where they go.
    pub destination: SocketAddr,
    /// Where they come from, of the same address family; an address of this host.
    pub source: IpAddr,
    /// Bytes of each but the last, which may be shorter.
    pub size: u16,
    /// TOS or traffic class.
    pub traffic_class: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
}

/// Sends up to [`MOST_DATAGRAMS`] datagrams, each given in two parts, by a UDP socket of the destination's
/// family. All are taken or none.
///
/// # Errors
/// The kernel's; EIO and EINVAL where it cannot segment on the way to there.
pub fn send_datagrams<'a>(
    socket: BorrowedFd<'_>,
    common: &Datagrams,
    datagrams: impl Iterator<Item = [&'a [u8]; 2]>,
) -> io::Result<()> {
    super::count_call();
    let mut pieces = [const { MaybeUninit::<libc::iovec>::uninit() }; 2 * MOST_DATAGRAMS];
    let mut count = 0;
    let parts = datagrams.flatten().filter(|part| !part.is_empty());
    for (piece, part) in pieces.iter_mut().zip(parts) {
        piece.write(libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        });
        count += 1;
    }
    let mut name = MaybeUninit::<Name>::zeroed();
    let mut control: Control = [0; 20];
    // SAFETY: a plain C structure for which zeros are valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    // SAFETY: zeros are a valid address of any kind.
    let name = unsafe { name.assume_init_mut() };
    message.msg_namelen = common.destination.write(name);
    message.msg_name = ptr::from_mut(name).cast();
    message.msg_iov = pieces.as_mut_ptr().cast();
    message.msg_iovlen = count;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>();
    message.msg_controllen = write_control(&mut message, common);
    // SAFETY: all that the message points to lives until the call returns: the name, the control messages,
    // the first `count` pieces and the datagrams that they point to. The kernel only reads.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Returns the bytes that the control messages take.
fn write_control(message: &mut libc::msghdr, common: &Datagrams) -> usize {
    let mut control = ControlWriter::new(message);
    let (class, limit) = (i32::from(common.traffic_class), i32::from(common.hop_limit));
    control.push(libc::SOL_UDP, libc::UDP_SEGMENT, common.size);
    match common.source {
        IpAddr::V4(source) => {
            control.push(libc::IPPROTO_IP, libc::IP_TOS, class);
            control.push(libc::IPPROTO_IP, libc::IP_TTL, limit);
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from_ne_bytes(source.octets()),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        IpAddr::V6(source) => {
            control.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, class);
            control.push(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, limit);
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: source.octets(),
                },
                ipi6_ifindex: 0,
            };
            control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
    }
    control.written
}

/// Writes control messages one behind the other.
struct ControlWriter<'a> {
    message: &'a libc::msghdr,
    next: *mut libc::cmsghdr,
    written: usize,
}

impl<'a> ControlWriter<'a> {
    /// Into the control buffer of `message`, which is all zero.
    fn new(message: &'a libc::msghdr) -> Self {
        // SAFETY: the buffer is as long as the message says.
        let next = unsafe { libc::CMSG_FIRSTHDR(message) };
        Self {
            message,
            next,
            written: 0,
        }
    }

    /// One that finds no room is left out.
    fn push<T: Copy>(&mut self, level: libc::c_int, kind: libc::c_int, value: T) {
        let length = length_of::<T>();
        // SAFETY: both only compute.
        let (space, length) = unsafe { (libc::CMSG_SPACE(length), libc::CMSG_LEN(length)) };
        let after = self.written + space as usize;
        if self.next.is_null() || after > self.message.msg_controllen {
            return;
        }
        // SAFETY: `next` is a place in the buffer with room for the whole control message, and what follows
        // is looked for within the buffer.
        unsafe {
            (*self.next).cmsg_level = level;
            (*self.next).cmsg_type = kind;
            (*self.next).cmsg_len = length as usize;
            libc::CMSG_DATA(self.next)
                .cast::<T>()
                .write_unaligned(value);
            self.next = libc::CMSG_NXTHDR(self.message, self.next);
        }
        self.written = after;
    }
}
