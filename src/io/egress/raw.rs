//! Egress by raw sockets with their own IP header (`IPPROTO_RAW`, raw(7)): works everywhere.
//!
//! The kernel routes each outer packet and passes it through netfilter's OUTPUT. Over IPv4 it
//! overwrites the header's total length and checksum, with the values that are there already.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::batch::{Batch, Ready};
use super::{Egress, Errno, Header, SendError, Sent, write_header};
use crate::io::sys::{self, KernelPathMtu};
use crate::packet::{Burst, Outgoing, Tunnels, Version};

/// Raw sockets.
#[derive(Debug)]
pub struct RawEgress {
    v4: Socket,
    /// `None` on a kernel without IPv6.
    v6: Option<Socket>,
    v4_ready: Batch<IpAddr>,
    v6_ready: Batch<IpAddr>,
}

impl RawEgress {
    /// Opens the sockets; needs CAP_NET_RAW.
    ///
    /// # Errors
    /// The kernel's, above all a missing capability (EPERM).
    pub fn open() -> io::Result<Self> {
        let v6 = match open(Version::V6) {
            Ok(socket) => Some(socket),
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            Err(error) => return Err(error),
        };
        Ok(Self {
            v4: open(Version::V4)?,
            v6,
            v4_ready: Batch::new(),
            v6_ready: Batch::new(),
        })
    }
}

fn open(version: Version) -> io::Result<Socket> {
    let domain = match version {
        Version::V4 => Domain::IPV4,
        Version::V6 => Domain::IPV6,
    };
    let protocol = Protocol::from(libc::IPPROTO_RAW);
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    sys::report_full_queues(socket.as_fd(), version)?;
    Ok(socket)
}

impl RawEgress {
    /// Takes a packet whose header is written, to be sent with the next [`flush`](Self::flush).
    pub(super) fn take(&mut self, position: usize, header: Header) {
        let batch = match header.destination {
            IpAddr::V4(_) => &mut self.v4_ready,
            IpAddr::V6(_) => &mut self.v6_ready,
        };
        batch.push(Ready {
            position,
            overhead: header.overhead,
            to: header.destination,
        });
    }

    /// Sends what was taken of `packets`.
    pub(super) fn flush(&mut self, burst: (&Burst, &[Outgoing]), results: &mut [Sent]) {
        self.v4_ready.send(self.v4.as_fd(), burst, results);
        match &self.v6 {
            Some(socket) => self.v6_ready.send(socket.as_fd(), burst, results),
            None => self.v6_ready.refuse(NO_IPV6, results),
        }
    }
}

impl Egress for RawEgress {
    fn limit_by(&mut self, limit: KernelPathMtu) -> io::Result<()> {
        sys::limit_by(self.v4.as_fd(), Version::V4, limit)?;
        match &self.v6 {
            Some(v6) => sys::limit_by(v6.as_fd(), Version::V6, limit),
            None => Ok(()),
        }
    }

    fn send(
        &mut self,
        burst: &mut Burst,
        packets: &mut [Outgoing],
        tunnels: &impl Tunnels,
        results: &mut [Sent],
    ) {
        for (position, packet) in packets.iter().enumerate() {
            match write_header(burst, packet, tunnels) {
                Ok(header) => self.take(position, header),
                Err(error) => results[position] = Err(error),
            }
        }
        self.flush((burst, packets), results);
    }
}

const NO_IPV6: SendError = SendError::Unreachable(Errno(libc::EAFNOSUPPORT));
