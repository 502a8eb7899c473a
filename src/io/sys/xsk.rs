//! An AF_XDP socket that only transmits (linux/Documentation/networking/af_xdp.rst).
//!
//! Copy mode: the kernel copies each frame into a packet of its own and hands it to the device's driver, so
//! that any Ethernet-like device will do, no BPF program is needed and reception stays as it is. Zero-copy
//! mode is never asked for: it would take the queue's reception for this socket too.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use super::length_of;
use super::mapping::Mapping;
use super::option::set;

/// Bytes of a frame; a page, the longest that there is.
pub const XSK_FRAME: usize = 4096;

/// Frames of a socket, and entries of its rings: a power of two; several bursts, as a driver may
/// complete a frame only when it has left.
const FRAMES: u32 = 512;

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
    socket: OwnedFd,
    memory: Mapping,
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
        // SAFETY: a plain system call.
        let socket = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was just opened and belongs to nothing else.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let memory = register_memory(&socket)?;
        let [transmit, completion] = rings(&socket)?;
        // An older kernel takes 32 packets per system call.
        set(socket.as_fd(), libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, FRAMES).ok();
        bind(&socket, link, queue)?;
        Ok(Self {
            socket,
            memory,
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
        let mut at = place(frame, length);
        let descriptor = libc::xdp_desc {
            addr: at as u64,
            #[allow(clippy::cast_possible_truncation, reason = "at most a page")]
            len: length as u32,
            options: 0,
        };
        for part in parts {
            let Ok(to) = self.memory.at(at, part.len()) else {
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
        super::count_call();
        let socket = self.socket.as_raw_fd();
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
                self.free.push(frame);
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

fn register_memory(socket: &OwnedFd) -> io::Result<Mapping> {
    let length = FRAMES as usize * XSK_FRAME;
    let memory = Mapping::anonymous(length)?;
    let registration = libc::xdp_umem_reg {
        addr: memory.at(0, length)?.addr().get() as u64,
        len: length as u64,
        #[allow(clippy::cast_possible_truncation, reason = "a page")]
        chunk_size: XSK_FRAME as u32,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    let level = libc::SOL_XDP;
    set(socket.as_fd(), level, libc::XDP_UMEM_REG, registration)?;
    Ok(memory)
}

/// Those for transmission and for completion. The one by which reception would be fed must be there, too,
/// and stays empty.
fn rings(socket: &OwnedFd) -> io::Result<[Ring; 2]> {
    for (option, entries) in [
        (libc::XDP_TX_RING, FRAMES),
        (libc::XDP_UMEM_COMPLETION_RING, FRAMES),
        (libc::XDP_UMEM_FILL_RING, 1),
    ] {
        set(socket.as_fd(), libc::SOL_XDP, option, entries)?;
    }
    let offsets = ring_offsets(socket)?;
    let completion_at = libc::XDP_UMEM_PGOFF_COMPLETION_RING.cast_signed();
    let descriptor = size_of::<libc::xdp_desc>();
    Ok([
        Ring::map(socket, &offsets.tx, descriptor, TRANSMIT_AT)?,
        Ring::map(socket, &offsets.cr, size_of::<u64>(), completion_at)?,
    ])
}

/// Where the transmit ring is mapped from (`XDP_PGOFF_TX_RING`, linux/if_xdp.h).
const TRANSMIT_AT: libc::off64_t = 0x8000_0000;

fn ring_offsets(socket: &OwnedFd) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: plain numbers, for which zeros are valid.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { mem::zeroed() };
    let mut length = length_of::<libc::xdp_mmap_offsets>();
    // SAFETY: the kernel writes up to `length` bytes, which is the structure's size.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_MMAP_OFFSETS,
            ptr::from_mut(&mut offsets).cast(),
            &raw mut length,
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    if length != length_of::<libc::xdp_mmap_offsets>() {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)); // before Linux 5.4
    }
    Ok(offsets)
}

fn bind(socket: &OwnedFd, link: u32, queue: u32) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: AF_XDP,
        sxdp_flags: libc::XDP_COPY,
        sxdp_ifindex: link,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    let length = length_of::<libc::sockaddr_xdp>();
    // SAFETY: the address is `length` bytes long and only read.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), ptr::from_ref(&address).cast(), length) };
    if bound < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// As `sockaddr_xdp` has it (linux/socket.h).
const AF_XDP: u16 = 44;

/// A ring that is shared with the kernel, of [`FRAMES`] entries.
#[derive(Debug)]
struct Ring {
    producer: Index,
    consumer: Index,
    entries: NonNull<u8>,
    /// Keeps what the others point to.
    _mapping: Mapping,
}

/// An index that one side writes and the other reads.
#[derive(Debug)]
struct Index(NonNull<AtomicU32>);

// SAFETY: all pointers are into the mapping, which moves along.
unsafe impl Send for Ring {}

impl Ring {
    fn map(
        socket: &OwnedFd,
        offsets: &libc::xdp_ring_offset,
        entry: usize,
        at: libc::off64_t,
    ) -> io::Result<Self> {
        let unknown = |_| io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        let entries = entry * FRAMES as usize;
        let begin = usize::try_from(offsets.desc).map_err(unknown)?;
        let mapping = Mapping::of_socket(socket.as_fd(), begin + entries, at)?;
        let index = |offset: u64| -> io::Result<Index> {
            let offset = usize::try_from(offset).map_err(unknown)?;
            let at = mapping.at(offset, size_of::<AtomicU32>())?;
            Ok(Index(at.cast()))
        };
        Ok(Self {
            producer: index(offsets.producer)?,
            consumer: index(offsets.consumer)?,
            entries: mapping.at(begin, entries)?,
            _mapping: mapping,
        })
    }

    /// # Safety
    /// `T` is what the ring holds, and the entry is not the kernel's.
    unsafe fn write<T>(&self, index: u32, value: T) {
        let at = (index % FRAMES) as usize;
        // SAFETY: the mapping has as many entries.
        unsafe { self.entries.cast::<T>().add(at).write(value) };
    }

    /// # Safety
    /// `T` is what the ring holds, and the entry is not the kernel's.
    unsafe fn read<T: Copy>(&self, index: u32) -> T {
        let at = (index % FRAMES) as usize;
        // SAFETY: the mapping has as many entries.
        unsafe { self.entries.cast::<T>().add(at).read() }
    }
}

impl Index {
    fn get(&self) -> u32 {
        // SAFETY: it points into the ring's mapping, aligned as the kernel made it.
        unsafe { self.0.as_ref() }.load(Ordering::Acquire)
    }

    fn set(&self, value: u32) {
        // SAFETY: as above.
        unsafe { self.0.as_ref() }.store(value, Ordering::Release);
    }
}
