//! Memory that is mapped until it is dropped (mmap(2)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

/// A mapping for reading and writing.
#[derive(Debug)]
pub(super) struct Mapping {
    at: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory belongs to the mapping alone, and may be used from any thread.
unsafe impl Send for Mapping {}
// SAFETY: a shared mapping gives out where it is, and neither reads nor writes.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `length` bytes of memory of its own, all zero, with its pages in place.
    ///
    /// # Errors
    /// The kernel's, for lack of memory.
    pub(super) fn anonymous(length: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        Self::new(length, flags, -1, 0)
    }

    /// `length` bytes that a socket shares, from `offset` of it on.
    ///
    /// # Errors
    /// The kernel's, where the socket has nothing there.
    pub(super) fn of_socket(
        socket: BorrowedFd<'_>,
        length: usize,
        offset: libc::off64_t,
    ) -> io::Result<Self> {
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        Self::new(length, flags, socket.as_raw_fd(), offset)
    }

    /// The first `length` bytes of a BPF map.
    ///
    /// # Errors
    /// The kernel's, where the map cannot be mapped or is smaller.
    #[cfg(feature = "xdp")]
    pub(super) fn of_map(map: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        Self::new(length, libc::MAP_SHARED, map.as_raw_fd(), 0)
    }

    fn new(
        length: usize,
        flags: libc::c_int,
        file: libc::c_int,
        offset: libc::off64_t,
    ) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: without an address of ours it takes none that is in use.
        let at = unsafe { libc::mmap64(ptr::null_mut(), length, protection, flags, file, offset) };
        let failed = at == libc::MAP_FAILED;
        match NonNull::new(at.cast()) {
            Some(at) if !failed => Ok(Self { at, length }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Where `length` bytes begin, `offset` bytes into the mapping.
    ///
    /// # Errors
    /// They are not all in it.
    pub(super) fn at(&self, offset: usize, length: usize) -> io::Result<NonNull<u8>> {
        let end = offset.checked_add(length);
        if end.is_none_or(|end| end > self.length) {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        // SAFETY: just looked at.
        Ok(unsafe { self.at.add(offset) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's own, and what points into it does not outlive it.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.length) };
    }
}
