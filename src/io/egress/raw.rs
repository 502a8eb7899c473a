//! Egress by raw sockets with their own IP header (`IPPROTO_RAW`, raw(7)): works everywhere.
//!
//! The kernel routes each outer packet and passes it through netfilter's OUTPUT. Over IPv4 it
//! overwrites the header's total length and checksum, with the values that are there already.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::{Egress, Frame, Outgoing};
use crate::io::sys::{self, BATCH, KernelPathMtu};
use crate::packet::{HEADROOM, Version};

/// Alignment of frames: a cache line, so that the packet behind the head-room starts on one.
const FRAME_ALIGNMENT: usize = 64;

/// Raw sockets and the frames of one batch.
#[derive(Debug)]
pub struct RawEgress {
    v4: Socket,
    /// `None` on a kernel without IPv6.
    v6: Option<Socket>,
    frames: Box<[u8]>,
    frame_bytes: usize,
    queued: Vec<Outgoing>,
}

impl RawEgress {
    /// Opens the sockets; needs CAP_NET_RAW. Frames hold packets of up to `longest` inner bytes.
    ///
    /// # Errors
    /// The kernel's, above all a missing capability (EPERM).
    pub fn open(longest: usize) -> io::Result<Self> {
        let v6 = match open(Version::V6) {
            Ok(socket) => Some(socket),
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            Err(error) => return Err(error),
        };
        let mut egress = Self {
            v4: open(Version::V4)?,
            v6,
            frames: Box::default(),
            frame_bytes: 0,
            queued: Vec::with_capacity(BATCH),
        };
        egress.fit(longest);
        Ok(egress)
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

    /// Sends what is queued from `first` on, up to the first packet of the other family.
    fn send_from(&self, first: usize) -> io::Result<usize> {
        let destination = self.queued[first].destination;
        let socket = self.socket_for(destination)?;
        let frames = self.frames.chunks_exact(self.frame_bytes).skip(first);
        let packets = self.queued[first..]
            .iter()
            .take_while(|packet| packet.destination.is_ipv4() == destination.is_ipv4())
            .zip(frames)
            .map(|(packet, frame)| {
                let bytes = &frame[HEADROOM - packet.overhead..HEADROOM + packet.length];
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
    fn limit_by(&mut self, limit: KernelPathMtu) -> io::Result<()> {
        sys::limit_by(self.v4.as_fd(), Version::V4, limit)?;
        match &self.v6 {
            Some(v6) => sys::limit_by(v6.as_fd(), Version::V6, limit),
            None => Ok(()),
        }
    }

    fn frame(&mut self) -> Option<Frame<'_>> {
        let next = self.queued.len();
        let frame = self.frames.chunks_exact_mut(self.frame_bytes).nth(next)?;
        let (headroom, body) = frame.split_first_chunk_mut()?;
        Some(Frame { headroom, body })
    }

    fn fit(&mut self, longest: usize) {
        let frame_bytes = (HEADROOM + longest).next_multiple_of(FRAME_ALIGNMENT);
        if frame_bytes > self.frame_bytes {
            self.frames = vec![0; frame_bytes * BATCH].into_boxed_slice();
            self.frame_bytes = frame_bytes;
        }
    }

    fn queue(&mut self, packet: Outgoing) {
        self.queued.push(packet);
    }

    /// A packet that the kernel refuses is reported and skipped; the rest of the batch goes on.
    fn flush(&mut self, mut sent: impl FnMut(&Outgoing, io::Result<()>)) {
        let mut done = 0;
        while done < self.queued.len() {
            match self.send_from(done) {
                Ok(count) => {
                    for packet in &self.queued[done..done + count] {
                        sent(packet, Ok(()));
                    }
                    done += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    sent(&self.queued[done], Err(error));
                    done += 1;
                }
            }
        }
        self.queued.clear();
    }
}
