//! Reads and writes without the C library's: in a program with threads it makes each call one that a thread
//! can be cancelled at (pthreads(7)), which costs two atomic operations, 4 % of a packet's time. No thread
//! is cancelled here.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Reads into `buffer` (read(2)); returns how many bytes.
///
/// # Errors
/// The kernel's.
#[inline]
pub fn read(file: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most so many bytes into a buffer of that length, which is borrowed.
    let read = unsafe {
        libc::syscall(
            libc::SYS_read,
            file.as_raw_fd(),
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// Writes all parts at once (writev(2)); returns how many bytes.
///
/// # Errors
/// The kernel's.
#[inline]
pub fn write_parts(file: BorrowedFd<'_>, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: an `IoSlice` is a `struct iovec`, and the kernel only reads what they point to, which is borrowed.
    let written = unsafe {
        libc::syscall(
            libc::SYS_writev,
            file.as_raw_fd(),
            parts.as_ptr(),
            parts.len(),
        )
    };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}
