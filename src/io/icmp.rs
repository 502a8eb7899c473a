//! A raw socket that hears one kind of ICMP: that a packet of this host was too big for its path.
//!
//! The kernel keeps such errors to itself where no socket of its own sent the packet, and packets of
//! the egress have none that it would find. A raw socket is one that it finds, for any error that quotes
//! ICMP: it is told to learn nothing on that account, or the socket that hears forged errors would make the
//! kernel believe them (raw_err, linux/net/ipv4/raw.c).

use std::io;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};

use socket2::{Domain, Protocol, Socket, Type};

use super::sys::{self, ReceiveBatch, Wanted};
use crate::packet::{PathMtuError, Version};

/// Room for one message: ICMPv6 errors are at most 1280 bytes (RFC 4443 §2.4 c), ICMP ones 576.
pub const LONGEST: usize = 2048;

/// Receives path MTU errors of one family, without blocking.
#[derive(Debug)]
pub struct PathMtuListener {
    socket: Socket,
    version: Version,
}

impl PathMtuListener {
    /// Opens the socket; needs CAP_NET_RAW.
    ///
    /// # Errors
    /// The kernel's; EAFNOSUPPORT without that family.
    pub fn open(version: Version) -> io::Result<Self> {
        let (domain, protocol, icmp_type) = match version {
            Version::V4 => (Domain::IPV4, Protocol::ICMPV4, 3),
            Version::V6 => (Domain::IPV6, Protocol::ICMPV6, 2),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        sys::receive_only(socket.as_fd(), version, &[icmp_type])?;
        sys::learn_no_path_mtu(socket.as_fd(), version)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, version })
    }

    /// Hands over the errors among the messages that wait, as many as `batch` has slots of [`LONGEST`] bytes
    /// at most; messages of other kinds and damaged ones are passed over. Returns how many messages there were.
    ///
    /// # Errors
    /// `WouldBlock` when none waits; otherwise the socket's error.
    pub fn receive(
        &self,
        batch: &mut ReceiveBatch,
        mut heard: impl FnMut(&PathMtuError<'_>),
    ) -> io::Result<usize> {
        let count = batch.receive(self.socket.as_fd(), Wanted::Everything)?;
        for received in batch.packets_mut() {
            // Over IPv4 a raw socket delivers the IP header too, over IPv6 it does not (RFC 3542 §3).
            let error = match self.version {
                Version::V4 => PathMtuError::parse_packet(received.bytes),
                Version::V6 => PathMtuError::parse_v6(received.bytes),
            };
            if let Some(mut error) = error {
                error.sender = received.source;
                heard(&error);
            }
        }
        Ok(count)
    }
}

impl AsRawFd for PathMtuListener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
