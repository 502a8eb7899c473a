//! Notices that ways through the network may have changed: links, addresses, routes, rules, neighbours.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{NetlinkError, Operation, socket_error};

/// Multicast groups of linux/rtnetlink.h (`RTNLGRP_*`), all below 33.
const GROUPS: [u32; 9] = [
    1,  // links
    3,  // neighbours
    5,  // IPv4 addresses
    7,  // IPv4 routes
    8,  // IPv4 rules
    9,  // IPv6 addresses
    11, // IPv6 routes
    19, // IPv6 rules
    32, // next hops
];

/// A non-blocking socket that becomes readable when a way may have changed.
///
/// It says only that something changed: look it up anew then. So a message that is lost because the socket's
/// buffer was full leaves nothing wrong behind.
#[derive(Debug)]
pub struct PathMonitor {
    socket: Socket,
}

impl PathMonitor {
    /// Opens it; needs no privileges. Open it before what it watches over is looked up.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open() -> Result<Self, NetlinkError> {
        let mask = GROUPS.iter().fold(0, |mask, group| mask | 1 << (group - 1));
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.set_non_blocking(true)?;
            socket.bind(&SocketAddr::new(0, mask))?;
            Ok(Self { socket })
        };
        open().map_err(|cause| socket_error(&operation(), cause))
    }

    /// Reads until nothing is left; true where anything changed since the last call.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn drain(&mut self) -> Result<bool, NetlinkError> {
        let mut changed = false;
        let mut scratch = [0; 64]; // the content does not matter: a cut message counts as one
        loop {
            match self.socket.recv(&mut scratch.as_mut_slice(), 0) {
                Ok(_) => changed = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(changed),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The kernel had to drop messages: something changed.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => changed = true,
                Err(error) => return Err(socket_error(&operation(), error)),
            }
        }
    }
}

fn operation() -> Operation {
    Operation::new("watch", "paths")
}

impl AsRawFd for PathMonitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
