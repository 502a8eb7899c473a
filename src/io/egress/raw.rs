//! Egress by raw sockets with their own IP header (`IPPROTO_RAW`, raw(7)): works everywhere.
//!
//! The kernel routes each outer packet and passes it through netfilter's OUTPUT. Over IPv4 it
//! overwrites the header's total length and checksum, with the values that are there already.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::{Egress, SendError, Sent, write_header};
use crate::io::sys;
use crate::packet::{BURST, Burst, Outgoing, Tunnels, Version};

/// Raw sockets.
#[derive(Debug)]
pub struct RawEgress {
    v4: Socket,
    /// `None` on a kernel without IPv6.
    v6: Option<Socket>,
    /// What has a header and is not sent yet.
    ready: Vec<Ready>,
}

/// A packet whose outer header is written.
#[derive(Debug, Clone, Copy)]
struct Ready {
    frame: usize,
    overhead: usize,
    length: usize,
    destination: IpAddr,
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
            ready: Vec::with_capacity(2 * BURST),
        })
    }

    fn socket_for(&self, destination: IpAddr) -> io::Result<&Socket> {
        match destination {
            IpAddr::V4(_) => Ok(&self.v4),
            IpAddr::V6(_) => self
                .v6
                .as_ref()
                .ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
        }
    }

    /// Sends what is ready from `first` on, up to the first packet of the other family.
    fn send_from(&self, burst: &Burst, first: usize) -> io::Result<usize> {
        let destination = self.ready[first].destination;
        let socket = self.socket_for(destination)?;
        let packets = self.ready[first..]
            .iter()
            .take_while(|packet| packet.destination.is_ipv4() == destination.is_ipv4())
            .map(|packet| {
                let bytes = burst.with_header(packet.frame, packet.overhead, packet.length);
                (bytes, packet.destination)
            });
        sys::send_batch(socket.as_fd(), packets)
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

impl Egress for RawEgress {
    fn send(
        &mut self,
        burst: &mut Burst,
        packets: &[Outgoing],
        tunnels: &impl Tunnels,
        results: &mut [Sent],
    ) {
        self.ready.clear();
        for packet in packets {
            match write_header(burst, packet, tunnels) {
                Ok(header) => self.ready.push(Ready {
                    frame: packet.frame,
                    overhead: header.overhead,
                    length: packet.meta.length.into(),
                    destination: header.destination,
                }),
                Err(error) => results[packet.frame] = Err(error),
            }
        }
        let mut done = 0;
        while done < self.ready.len() {
            match self.send_from(burst, done) {
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    results[self.ready[done].frame] = Err(SendError::from(error));
                    done += 1;
                }
            }
        }
    }
}
