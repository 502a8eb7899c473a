//! An AF_XDP socket that transmits.
//!
//! Copy mode, where it only transmits: the kernel copies each frame into a packet of its own and hands it to the device's driver, so
//! that any Ethernet-like device will do, no BPF program is needed and reception stays as it is. Zero-copy
//! mode is never asked for: it would take the queue's reception for this socket too.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::super::count_call;
use super::super::option::set;
use super::{Ring, RingKind, Socket, XSK_FRAME};

/// Frames of a socket, and entries of its rings: a power of two; several bursts, as a driver may
/// complete a frame only when it has left.
pub(super) const FRAMES: u32 = 512;

/// Short packets begin at different cache lines of their frames, as all frames' first lines compete for the
/// same few places of a cache.
const STAGGER: usize = 128;
const STAGGERED: usize = 16;

/// How often the kernel is asked in vain before the device counts as stalled: about a millisecond.
const PATIENCE: u32 = 2000;

/// Packets per system call (linux/if_xdp.h, since Linux 6.17; 32 before).
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// A transmit-only socket on one queue of one device.
#[derive(Debug)]
pub struct TransmitSocket {
    /// Its own, or that of a [`ReceiveSocket`](super::ReceiveSocket) on the same queue.
    socket: Arc<Socket>,
    /// Its first frame in the memory.
    first: u32,
    transmit: Ring,
    completion: Ring,
    /// Frames that the kernel does not have, by number; the last used is used next.
    free: Vec<u32>,
    /// Frames written so far.
    written: u32,
    /// Of those, frames that were shown to the kernel.
    shown: u32,
    /// Of those, frames that it took, or dropped and said so.
    taken: u32,
}

/// The kernel took no further frame.
#[derive(Debug)]
pub struct Stalled {
    /// Frames that it took before, of those written since the last time.
    pub taken: usize,
    /// Why not the next one.
    pub cause: io::Error,
}

impl TransmitSocket {
    /// Opens a socket that sends by the device `link`, as its queue `queue`; needs CAP_NET_RAW.
    ///
    /// # Errors
    /// EBUSY where the queue has such a socket already, EINVAL where there is no such queue, ENODEV without
    /// the device, EPERM without the capability, ENOBUFS where RLIMIT_MEMLOCK does not allow the memory of
    /// 2 MiB, EAFNOSUPPORT on a kernel without AF_XDP.
    pub fn open(link: u32, queue: u32) -> io::Result<Self> {
        let socket = Socket::open(FRAMES)?;
        // The ring by which reception would be fed must be there, too, and stays empty.
        socket.ring(RingKind::Fill, 1)?;
        let transmit = Self::on(Arc::new(socket), 0)?;
        transmit.socket.bind(link, queue, libc::XDP_COPY)?;
        Ok(transmit)
    }

    /// The transmitting half of a socket that is not bound yet, with [`FRAMES`] frames of its memory.
    pub(super) fn on(socket: Arc<Socket>, first: u32) -> io::Result<Self> {
        let transmit = socket.ring(RingKind::Transmit, FRAMES)?;
        let completion = socket.ring(RingKind::Completion, FRAMES)?;
        // An older kernel takes 32 packets per system call.
        let (file, level) = (socket.file.as_fd(), libc::SOL_XDP);
        set(file, level, XDP_MAX_TX_SKB_BUDGET, FRAMES).ok();
        Ok(Self {
            socket,
            first,
            transmit,
            completion,
            free: (0..FRAMES).collect(),
            written: 0,
            shown: 0,
            taken: 0,
        })
    }

    /// Copies a frame, given in parts, to be sent with the next [`flush`](Self::flush). False where it is too
    /// long, empty, or no room is left.
    pub fn push(&mut self, parts: &[&[u8]]) -> bool {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length == 0 || length > XSK_FRAME {
            return false;
        }
        if self.free.is_empty() {
            self.reap();
        }
        let Some(frame) = self.free.pop() else {
            return false;
        };
        let mut at = self.first as usize * XSK_FRAME + place(frame, length);
        let descriptor = libc::xdp_desc {
            addr: at as u64,
            #[allow(clippy::cast_possible_truncation, reason = "at most a page")]
            len: length as u32,
            options: 0,
        };
        for part in parts {
            let Ok(to) = self.socket.memory.at(at, part.len()) else {
                return false; // no frame is outside the memory
            };
            // SAFETY: the place was looked at, and the kernel does not have the frame.
            unsafe { to.copy_from_nonoverlapping(NonNull::from(*part).cast(), part.len()) };
            at += part.len();
        }
        // SAFETY: there are as many entries as frames, and the kernel has none of this frame's.
        unsafe { self.transmit.write(self.written, descriptor) };
        self.written = self.written.wrapping_add(1);
        true
    }

    /// Hands over what was written. `dropped` is told the position of each frame of those that the driver
    /// did not take.
    ///
    /// # Errors
    /// [`Stalled`] where it did not go on; the socket is of no more use, and sends none of the rest
    /// once it is dropped.
    pub fn flush(&mut self, mut dropped: impl FnMut(usize)) -> Result<(), Stalled> {
        let first = self.taken;
        let position = |frame: u32| frame.wrapping_sub(first) as usize;
        self.shown = self.written;
        self.transmit.producer.set(self.shown);
        let mut idle = 0;
        while self.taken != self.shown {
            let before = self.taken;
            let kicked = self.kick();
            self.note_consumed();
            let cause = match kicked {
                Ok(()) => io::Error::from_raw_os_error(libc::EAGAIN),
                // The last one that it looked at was dropped by the driver (`__xsk_generic_xmit`,
                // linux/net/xdp/xsk.c). It shows how far it got only where it sent some before.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    if self.taken == before {
                        self.taken = before.wrapping_add(1);
                    }
                    dropped(position(self.taken.wrapping_sub(1)));
                    error
                }
                Err(error) => error,
            };
            idle = if self.taken == before { idle + 1 } else { 0 };
            if self.taken == before && (!is_passing(&cause) || idle > PATIENCE) {
                let taken = position(self.taken);
                return Err(Stalled { taken, cause });
            }
        }
        self.reap();
        Ok(())
    }

    /// Makes the kernel send what it was shown.
    fn kick(&self) -> io::Result<()> {
        count_call();
        let socket = self.socket.file.as_raw_fd();
        // SAFETY: nothing is passed.
        let sent =
            unsafe { libc::sendto(socket, ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    fn note_consumed(&mut self) {
        let consumed = self.transmit.consumer.get();
        // Behind `taken`, by frames that were dropped, it may lag.
        if consumed.wrapping_sub(self.taken) <= self.shown.wrapping_sub(self.taken) {
            self.taken = consumed;
        }
    }

    /// Takes back the frames that the driver is done with.
    fn reap(&mut self) {
        let done = self.completion.producer.get();
        let mut next = self.completion.consumer.get();
        while next != done && self.free.len() < FRAMES as usize {
            // SAFETY: the kernel wrote the entry before it moved the producer.
            let address: u64 = unsafe { self.completion.read(next) };
            if let Ok(frame) = u32::try_from(address / XSK_FRAME as u64) {
                self.free.push(frame.wrapping_sub(self.first));
            }
            next = next.wrapping_add(1);
        }
        self.completion.consumer.set(next);
    }
}

/// Where a packet of `length` bytes begins in the memory.
const fn place(frame: u32, length: usize) -> usize {
    let frame = frame as usize;
    let stagger = if length + STAGGER * STAGGERED <= XSK_FRAME {
        STAGGER * (frame % STAGGERED)
    } else {
        0
    };
    frame * XSK_FRAME + stagger
}

/// Whether it passes by asking again.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::EBUSY | libc::EINTR | libc::ENOBUFS | libc::ENOMEM)
    )
}
