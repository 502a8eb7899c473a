//! Ingress by AF_XDP sockets, with packets that a program sends to them from the driver, and by the TUN for
//! whatever else is for the director.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};

use super::{Ingress, Reading};
use crate::io::sys::{ReceiveSocket, XSK_FRAME};
use crate::io::tun::Queue;
use crate::packet::{Burst, complete_partial};

/// Bytes of an Ethernet header (IEEE 802.3); tagged frames are not redirected.
const ETHERNET: usize = 14;

/// A TUN queue, and AF_XDP sockets beside it.
#[derive(Debug)]
pub struct XskIngress {
    queue: Queue,
    sockets: Vec<Socket>,
    /// Which of the sources is read first: by turns, so that none waits for good behind one that is never empty.
    first: usize,
}

/// A source beside the TUN.
#[derive(Debug)]
struct Socket {
    receive: ReceiveSocket,
    checksums: Checksums,
}

/// What checksums frames may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksums {
    /// Whole ones, as on a wire.
    Complete,
    /// Also partial ones, whose rest the receiver adds: of senders on this machine, by a veth.
    MaybePartial,
}

impl XskIngress {
    /// The TUN alone.
    #[must_use]
    pub const fn new(queue: Queue) -> Self {
        Self {
            queue,
            sockets: Vec::new(),
            first: 0,
        }
    }

    /// Reads a socket, too.
    pub fn join(&mut self, receive: ReceiveSocket, checksums: Checksums) {
        self.sockets.push(Socket { receive, checksums });
    }
}

impl Socket {
    fn fill(&mut self, burst: &mut Burst) -> Reading {
        let reading = loop {
            let Some(room) = burst.vacant(0) else {
                break Reading::More;
            };
            let Some(frame) = self.receive.frame() else {
                break Reading::Empty;
            };
            let packet = frame.get(ETHERNET..).unwrap_or_default();
            let length = packet.len();
            match room.get_mut(..length) {
                Some(room) => {
                    room.copy_from_slice(packet);
                    if self.checksums == Checksums::MaybePartial {
                        complete_partial(room);
                    }
                    burst.push(length);
                }
                None => burst.push(0), // longer than any MTU here: dropped as malformed, and counted
            }
            self.receive.pass();
        };
        self.receive.give_back();
        reading
    }
}

impl Ingress for XskIngress {
    fn longest(&self, of_device: usize) -> usize {
        let longest = self.queue.longest(of_device);
        if self.sockets.is_empty() {
            longest
        } else {
            longest.max(XSK_FRAME)
        }
    }

    fn fill(&mut self, burst: &mut Burst) -> io::Result<Reading> {
        let sources = self.sockets.len() + 1;
        let mut reading = Reading::Empty;
        for turn in 0..sources {
            let source = (self.first + turn) % sources;
            let of_source = match self.sockets.get_mut(source) {
                Some(socket) => socket.fill(burst),
                None => self.queue.fill(burst)?,
            };
            if of_source == Reading::More {
                reading = Reading::More;
                break;
            }
        }
        self.first = (self.first + 1) % sources;
        Ok(reading)
    }

    fn answer(&mut self, packet: &[u8]) -> io::Result<()> {
        self.queue.answer(packet)
    }

    fn beside(&self) -> Vec<RawFd> {
        let sockets = self.sockets.iter();
        sockets
            .map(|socket| socket.receive.as_fd().as_raw_fd())
            .collect()
    }
}

impl AsRawFd for XskIngress {
    fn as_raw_fd(&self) -> RawFd {
        self.queue.as_raw_fd()
    }
}
