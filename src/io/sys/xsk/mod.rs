//! AF_XDP sockets (linux/Documentation/networking/af_xdp.rst): the memory and the rings that they share with the
//! kernel. [`TransmitSocket`] sends, [`ReceiveSocket`] has packets that an XDP program sends to it.

mod receive;
mod transmit;

use std::io;
use std::mem;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use super::length_of;
use super::mapping::Mapping;
use super::option::set;

pub use receive::ReceiveSocket;
pub use transmit::{Stalled, TransmitSocket};

/// Bytes of a frame; a page, the longest that there is.
pub const XSK_FRAME: usize = 4096;

/// A socket with its memory: frames of [`XSK_FRAME`] bytes.
#[derive(Debug)]
struct Socket {
    file: OwnedFd,
    memory: Mapping,
}

/// A kind of ring of a socket.
#[derive(Debug, Clone, Copy)]
enum RingKind {
    Receive,
    Transmit,
    Fill,
    Completion,
}

impl Socket {
    /// One with memory of `frames` frames, bound to nothing.
    fn open(frames: u32) -> io::Result<Self> {
        // SAFETY: a plain system call.
        let socket = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was just opened and belongs to nothing else.
        let file = unsafe { OwnedFd::from_raw_fd(socket) };
        let length = frames as usize * XSK_FRAME;
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
        set(file.as_fd(), level, libc::XDP_UMEM_REG, registration)?;
        Ok(Self { file, memory })
    }

    /// A ring of `entries`, a power of two.
    fn ring(&self, kind: RingKind, entries: u32) -> io::Result<Ring> {
        let option = match kind {
            RingKind::Receive => libc::XDP_RX_RING,
            RingKind::Transmit => libc::XDP_TX_RING,
            RingKind::Fill => libc::XDP_UMEM_FILL_RING,
            RingKind::Completion => libc::XDP_UMEM_COMPLETION_RING,
        };
        set(self.file.as_fd(), libc::SOL_XDP, option, entries)?;
        let all = self.ring_offsets()?;
        // Where a ring is mapped from: `XDP_PGOFF_*`, linux/if_xdp.h.
        let (offsets, at, entry) = match kind {
            RingKind::Receive => (&all.rx, 0, size_of::<libc::xdp_desc>()),
            RingKind::Transmit => (&all.tx, 0x8000_0000, size_of::<libc::xdp_desc>()),
            RingKind::Fill => (&all.fr, 0x1_0000_0000, size_of::<u64>()),
            RingKind::Completion => (&all.cr, 0x1_8000_0000, size_of::<u64>()),
        };
        Ring::map(&self.file, offsets, (entry, entries), at)
    }

    fn ring_offsets(&self) -> io::Result<libc::xdp_mmap_offsets> {
        // SAFETY: plain numbers, for which zeros are valid.
        let mut offsets: libc::xdp_mmap_offsets = unsafe { mem::zeroed() };
        let mut length = length_of::<libc::xdp_mmap_offsets>();
        // SAFETY: the kernel writes up to `length` bytes, which is the structure's size.
        let answer = unsafe {
            libc::getsockopt(
                self.file.as_raw_fd(),
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

    /// Binds it to a queue of a device; it works from now on.
    fn bind(&self, link: u32, queue: u32, flags: u16) -> io::Result<()> {
        let address = libc::sockaddr_xdp {
            sxdp_family: AF_XDP,
            sxdp_flags: flags,
            sxdp_ifindex: link,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: 0,
        };
        let length = length_of::<libc::sockaddr_xdp>();
        let (file, address) = (self.file.as_raw_fd(), ptr::from_ref(&address));
        // SAFETY: the address is `length` bytes long and only read.
        let bound = unsafe { libc::bind(file, address.cast(), length) };
        if bound < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// As `sockaddr_xdp` has it (linux/socket.h).
const AF_XDP: u16 = 44;

/// A ring that is shared with the kernel.
#[derive(Debug)]
struct Ring {
    producer: Index,
    consumer: Index,
    flags: Index,
    entries: NonNull<u8>,
    /// One less than there are entries, a power of two.
    mask: u32,
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
        (entry, number): (usize, u32),
        at: libc::off64_t,
    ) -> io::Result<Self> {
        let unknown = |_| io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        let entries = entry * number as usize;
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
            flags: index(offsets.flags)?,
            entries: mapping.at(begin, entries)?,
            mask: number - 1,
            _mapping: mapping,
        })
    }

    /// # Safety
    /// `T` is what the ring holds, and the entry is not the kernel's.
    unsafe fn write<T>(&self, index: u32, value: T) {
        let at = (index & self.mask) as usize;
        // SAFETY: the mapping has as many entries.
        unsafe { self.entries.cast::<T>().add(at).write(value) };
    }

    /// # Safety
    /// `T` is what the ring holds, and the entry is not the kernel's.
    unsafe fn read<T: Copy>(&self, index: u32) -> T {
        let at = (index & self.mask) as usize;
        // SAFETY: the mapping has as many entries.
        unsafe { self.entries.cast::<T>().add(at).read() }
    }

    /// Whether the kernel wants a system call before it goes on with the ring.
    fn needs_wakeup(&self) -> bool {
        const XDP_RING_NEED_WAKEUP: u32 = 1;
        self.flags.get() & XDP_RING_NEED_WAKEUP != 0
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
