//! Packets with their headers written, on their way into one socket.

use std::io;
use std::os::fd::BorrowedFd;

use super::{SendError, Sent};
use crate::io::sys::{self, Destination};
use crate::packet::{BURST, Burst, Outgoing};

/// Packets for one socket, each with where it goes.
#[derive(Debug)]
pub(super) struct Batch<D>(Vec<Ready<D>>);

/// A packet that only has to be sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ready<D> {
    /// Its position among the packets that are to leave.
    pub(super) position: usize,
    /// Bytes of all headers at the end of the head-room.
    pub(super) overhead: usize,
    pub(super) to: D,
}

impl<D: Destination> Batch<D> {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(2 * BURST))
    }

    pub(super) fn push(&mut self, packet: Ready<D>) {
        self.0.push(packet);
    }

    /// Sends and forgets all packets, which are among `packets`. What the kernel refuses is reported and
    /// skipped.
    pub(super) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        (burst, packets): (&Burst, &[Outgoing]),
        results: &mut [Sent],
    ) {
        let mut done = 0;
        while let Some(next) = self.0.get(done) {
            let packets = self.0[done..].iter().map(|ready| {
                let packet = &packets[ready.position];
                (burst.with_header(packet, ready.overhead), ready.to)
            });
            match sys::send_batch(socket, packets) {
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    results[next.position] = Err(SendError::from(error));
                    done += 1;
                }
            }
        }
        self.0.clear();
    }

    /// Forgets all packets: none of them leaves, for one reason.
    pub(super) fn refuse(&mut self, error: SendError, results: &mut [Sent]) {
        for packet in self.0.drain(..) {
            results[packet.position] = Err(error);
        }
    }
}
