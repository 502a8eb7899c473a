//! Notices that addresses of this machine came or went, for an event loop.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

use mio::{Interest, Registry, Token, event::Source};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{NetlinkError, Operation, socket_error};

/// IPv4 and IPv6 address changes (linux/rtnetlink.h).
#[allow(clippy::cast_sign_loss, reason = "bit masks: 0x10 and 0x100")]
const GROUPS: u32 = (libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR) as u32;

/// A non-blocking socket that becomes readable when an address changes.
///
/// It says only that something changed, so that a lost message can never leave a wrong list behind:
/// after each change, list the addresses anew.
#[derive(Debug)]
pub struct AddressMonitor {
    socket: Socket,
}

impl AddressMonitor {
    /// Opens it; needs no privileges. Open it before the first listing, so that no change falls between.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.set_non_blocking(true)?;
            socket.bind(&SocketAddr::new(0, GROUPS))?;
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
    Operation::new("watch", "addresses")
}

impl AsRawFd for AddressMonitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Source for AddressMonitor {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        mio::unix::SourceFd(&self.as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        mio::unix::SourceFd(&self.as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        mio::unix::SourceFd(&self.as_raw_fd()).deregister(registry)
    }
}
