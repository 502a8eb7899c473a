//! Egress by a raw socket with its own IPv4 header (`IPPROTO_RAW`, raw(7)): works everywhere.
//!
//! The kernel routes each outer packet and passes it through netfilter's OUTPUT. It overwrites
//! the header's total length and checksum, with the values that are there already.

use std::io;
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::{Egress, Frame, Outgoing};
use crate::io::sys::{self, BATCH};
use crate::packet::HEADROOM;

/// Alignment of frames: a cache line, so that the packet behind the head-room starts on one.
const FRAME_ALIGNMENT: usize = 64;

/// A raw socket and the frames of one batch.
#[derive(Debug)]
pub struct RawEgress {
    socket: Socket,
    frames: Box<[u8]>,
    frame_bytes: usize,
    queued: Vec<Outgoing>,
}

impl RawEgress {
    /// Opens the socket; needs CAP_NET_RAW. Frames hold packets of up to `longest` inner bytes.
    ///
    /// # Errors
    /// The kernel's, above all a missing capability (EPERM).
    pub fn open(longest: usize) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::IPV4,
            Type::RAW,
            Some(Protocol::from(libc::IPPROTO_RAW)),
        )?;
        sys::report_full_queues(socket.as_fd())?;
        let frame_bytes = (HEADROOM + longest).next_multiple_of(FRAME_ALIGNMENT);
        Ok(Self {
            socket,
            frames: vec![0; frame_bytes * BATCH].into_boxed_slice(),
            frame_bytes,
            queued: Vec::with_capacity(BATCH),
        })
    }

    fn send_from(&self, first: usize) -> io::Result<usize> {
        let frames = self.frames.chunks_exact(self.frame_bytes).skip(first);
        let packets = self.queued[first..]
            .iter()
            .zip(frames)
            .map(|(packet, frame)| {
                let bytes = &frame[HEADROOM - packet.overhead..HEADROOM + packet.length];
                (bytes, packet.destination)
            });
        sys::send_batch(self.socket.as_fd(), packets)
    }
}

impl Egress for RawEgress {
    fn frame(&mut self) -> Option<Frame<'_>> {
        let next = self.queued.len();
        let frame = self.frames.chunks_exact_mut(self.frame_bytes).nth(next)?;
        let (headroom, body) = frame.split_first_chunk_mut()?;
        Some(Frame { headroom, body })
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
