//! An AF_XDP socket that has packets from an XDP program, and may send by the same queue.
//!
//! Without a copy where the driver can, by which the queue's packets are in this memory from the start.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::ptr;
use std::slice;
use std::sync::Arc;

use super::{Ring, RingKind, Socket, TransmitSocket, XSK_FRAME, transmit};

/// Frames for packets that arrive, and entries of the rings: a power of two; 2 ms of a million packets a second.
const FRAMES: u32 = 2048;

/// Tells when the kernel wants a system call (linux/if_xdp.h).
const XDP_USE_NEED_WAKEUP: u16 = 1 << 3;

/// The receiving half of a socket on one queue of one device.
#[derive(Debug)]
pub struct ReceiveSocket {
    socket: Arc<Socket>,
    received: Ring,
    fill: Ring,
    /// The next frame to be looked at.
    next: u32,
    /// Frames before it are known to be there.
    seen: u32,
    /// Frames given back so far.
    filled: u32,
}

impl ReceiveSocket {
    /// Opens a socket on queue `queue` of the device `link`. What an XDP program sends to it arrives here; the
    /// other half sends by the queue. Needs CAP_NET_RAW.
    ///
    /// # Errors
    /// As of [`TransmitSocket::open`].
    pub fn open(link: u32, queue: u32) -> io::Result<(Self, TransmitSocket)> {
        let socket = Arc::new(Socket::open(FRAMES + transmit::FRAMES)?);
        let received = socket.ring(RingKind::Receive, FRAMES)?;
        let fill = socket.ring(RingKind::Fill, FRAMES)?;
        let transmit = TransmitSocket::on(Arc::clone(&socket), FRAMES)?;
        for frame in 0..FRAMES {
            let address = u64::from(frame) * XSK_FRAME as u64;
            // SAFETY: there are as many entries, and the kernel has none yet.
            unsafe { fill.write(frame, address) };
        }
        fill.producer.set(FRAMES);
        socket.bind(link, queue, XDP_USE_NEED_WAKEUP)?;
        let receive = Self {
            socket,
            received,
            fill,
            next: 0,
            seen: 0,
            filled: FRAMES,
        };
        Ok((receive, transmit))
    }

    /// The next frame that arrived, with its link header; `None` where there is none. It is the same one until
    /// it is [passed](Self::pass).
    pub fn frame(&mut self) -> Option<&[u8]> {
        if self.next == self.seen {
            self.seen = self.received.producer.get();
            if self.next == self.seen {
                return None;
            }
        }
        let descriptor = self.descriptor();
        let at = usize::try_from(descriptor.addr).ok()?;
        let length = descriptor.len as usize;
        let Ok(frame) = self.socket.memory.at(at, length) else {
            return Some(&[]); // the kernel writes no such thing
        };
        // SAFETY: the place was looked at, and the frame is not the kernel's until it is given back.
        Some(unsafe { slice::from_raw_parts(frame.as_ptr(), length) })
    }

    fn descriptor(&self) -> libc::xdp_desc {
        // SAFETY: the kernel wrote the entry before it moved the producer.
        unsafe { self.received.read(self.next) }
    }

    /// Goes on to the next frame; this one's room is given back with the next [`give_back`](Self::give_back).
    pub fn pass(&mut self) {
        if self.next == self.seen {
            return;
        }
        let address = self.descriptor().addr & !(XSK_FRAME as u64 - 1);
        // SAFETY: there are as many entries as frames, and this one is not the kernel's.
        unsafe { self.fill.write(self.filled, address) };
        self.filled = self.filled.wrapping_add(1);
        self.next = self.next.wrapping_add(1);
    }

    /// Lets the kernel have the frames that were passed.
    pub fn give_back(&mut self) {
        self.received.consumer.set(self.next);
        self.fill.producer.set(self.filled);
        if self.fill.needs_wakeup() {
            self.wake_up();
        }
    }

    /// A driver without copies goes on where it found no room before.
    #[cold]
    fn wake_up(&self) {
        let (socket, flags) = (self.socket.file.as_raw_fd(), libc::MSG_DONTWAIT);
        let nothing = ptr::null_mut();
        // SAFETY: nothing is passed. What it returns says nothing: the kernel tries in any case.
        unsafe { libc::recvfrom(socket, nothing, 0, flags, nothing.cast(), nothing.cast()) };
    }
}

impl AsFd for ReceiveSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.file.as_fd()
    }
}
