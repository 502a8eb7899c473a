//! Packets with their headers written, on their way into one socket.

use std::io;
use std::os::fd::BorrowedFd;

use super::patience::Patience;
use super::{SendError, Sent};
use crate::io::sys::{self, Destination};
use crate::packet::{BURST, Burst, Outgoing};

/// Packets for one socket, each with where it goes.
#[derive(Debug)]
pub(super) struct Batch<D> {
    ready: Vec<Ready<D>>,
    patience: Patience,
}

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
        Self {
            ready: Vec::with_capacity(2 * BURST),
            patience: Patience::default(),
        }
    }

    pub(super) fn push(&mut self, packet: Ready<D>) {
        self.ready.push(packet);
    }

    /// Sends and forgets all packets, which are among `packets`. What the kernel refuses is reported and
    /// skipped; a queue that is full is waited for, but not long.
    pub(super) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        (burst, packets): (&Burst, &[Outgoing]),
        results: &mut [Sent],
    ) {
        let mut done = 0;
        let mut waiting = self.patience.begin();
        while let Some(next) = self.ready.get(done) {
            let packets = self.ready[done..].iter().map(|ready| {
                let packet = &packets[ready.position];
                (burst.with_header(packet, ready.overhead), ready.to)
            });
            match sys::send_batch(socket, packets) {
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let error = SendError::from(error);
                    if matches!(error, SendError::Full(_)) && waiting.wait() {
                        continue;
                    }
                    results[next.position] = Err(error);
                    done += 1;
                }
            }
        }
        self.patience.end(&waiting);
        self.ready.clear();
    }

    /// Forgets all packets: none of them leaves, for one reason.
    pub(super) fn refuse(&mut self, error: SendError, results: &mut [Sent]) {
        for packet in self.ready.drain(..) {
            results[packet.position] = Err(error);
        }
    }
}
