//! What packet(7) sockets need beyond `socket2`: link-layer addresses, the time of each packet, and how
//! many the kernel could not queue.

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
    time::{Duration, SystemTime},
};

use super::length_of;

/// Room for one control message that holds a time, aligned as control messages must be (cmsg(3)).
type Control = [u64; 8];

/// Of the width that `sockaddr_ll` has for them (linux/socket.h, linux/if_ether.h).
const AF_PACKET: u16 = 17;
const ETH_P_ALL: u16 = 3;

/// The protocol of a frame (linux/if_ether.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Ethertype {
    /// ETH_P_IP
    Ipv4 = 0x0800,
    /// ETH_P_ARP
    Arp = 0x0806,
    /// ETH_P_IPV6
    Ipv6 = 0x86dd,
}

// SAFETY: CMSG_SPACE only computes.
const _: () = assert!(
    unsafe { libc::CMSG_SPACE(length_of::<libc::timespec>()) } as usize <= size_of::<Control>()
);

/// A packet as the link layer saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkArrival {
    /// Bytes of it in the buffer; the rest of a longer one is cut.
    pub length: usize,
    /// Index of the device.
    pub device: u32,
    /// How it was addressed: PACKET_HOST, PACKET_OUTGOING, … (packet(7)).
    pub addressing: u8,
    /// When the kernel got it; the time of the call where the socket was not told to report it
    /// (SO_TIMESTAMPNS).
    pub time: SystemTime,
}

/// Lets a packet socket receive packets of all protocols and all devices, both ways; it needs none of
/// its own address before.
///
/// # Errors
/// The kernel's, for a socket of another family.
pub fn bind_to_all_devices(socket: BorrowedFd<'_>) -> io::Result<()> {
    bind(socket, ETH_P_ALL, 0) // index 0 is every device
}

/// Lets a packet socket send by the device of that index, and receive what comes in there with that
/// protocol.
///
/// # Errors
/// ENODEV where there is no such device; otherwise the kernel's, for a socket of another family.
pub fn bind_to_device(socket: BorrowedFd<'_>, protocol: Ethertype, link: u32) -> io::Result<()> {
    let index = i32::try_from(link).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    bind(socket, protocol as u16, index)
}

fn bind(socket: BorrowedFd<'_>, protocol: u16, index: libc::c_int) -> io::Result<()> {
    // SAFETY: `sockaddr_ll` is plain data for which all zeroes is valid.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = AF_PACKET;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index;
    // SAFETY: the address is of the length given and outlives the call, which only reads it.
    let status = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            ptr::from_ref(&address).cast(),
            length_of::<libc::sockaddr_ll>(),
        )
    };
    succeeded(status)
}

/// Makes a socket report when the kernel got each packet (SO_TIMESTAMPNS, socket(7)).
///
/// # Errors
/// The kernel's.
pub fn report_times(socket: BorrowedFd<'_>) -> io::Result<()> {
    super::option::set(
        socket,
        libc::SOL_SOCKET,
        libc::SO_TIMESTAMPNS,
        libc::c_int::from(true),
    )
}

/// Receives one packet of a packet socket; blocks as the socket does.
///
/// # Errors
/// `WouldBlock` when none comes in time; otherwise the socket's error.
pub fn receive_link(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<LinkArrival> {
    // SAFETY: both are plain data for which all zeroes is valid.
    let (mut name, mut header): (libc::sockaddr_ll, libc::msghdr) =
        unsafe { (mem::zeroed(), mem::zeroed()) };
    let mut control = Control::default();
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    header.msg_name = ptr::from_mut(&mut name).cast();
    header.msg_namelen = length_of::<libc::sockaddr_ll>();
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = ptr::from_mut(&mut control).cast();
    header.msg_controllen = size_of::<Control>();
    // SAFETY: the header points at one name, one vector and one control buffer, each of the length that
    // it says and alive until the call returns; the vector spans `buffer`.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, 0) };
    Ok(LinkArrival {
        length: usize::try_from(length).map_err(|_| io::Error::last_os_error())?,
        device: u32::try_from(name.sll_ifindex).unwrap_or_default(),
        addressing: name.sll_pkttype,
        time: time_of(&header).unwrap_or_else(SystemTime::now),
    })
}

/// The time among the control messages.
fn time_of(header: &libc::msghdr) -> Option<SystemTime> {
    // SAFETY: the kernel has filled the room that `header` points at, a whole `Control` that is still
    // alive, and has set its length; the first message, if there is one, lies within.
    let message = unsafe { libc::CMSG_FIRSTHDR(header).as_ref() }?;
    if (message.cmsg_level, message.cmsg_type) != (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) {
        return None;
    }
    // SAFETY: such a message holds a `timespec`, which is read wherever it is aligned.
    let time = unsafe {
        libc::CMSG_DATA(message)
            .cast::<libc::timespec>()
            .read_unaligned()
    };
    let seconds = u64::try_from(time.tv_sec).ok()?;
    let nanoseconds = u32::try_from(time.tv_nsec).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))
}

/// How many packets the kernel could not queue since the last call (PACKET_STATISTICS, packet(7)).
///
/// # Errors
/// The kernel's, for a socket of another family.
pub fn lost_packets(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut statistics = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = length_of::<libc::tpacket_stats>();
    // SAFETY: the value is of the length given, which the call may only shorten, and both outlive it.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            ptr::from_mut(&mut statistics).cast(),
            &raw mut length,
        )
    };
    succeeded(status).map(|()| statistics.tp_drops)
}

fn succeeded(status: libc::c_int) -> io::Result<()> {
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
