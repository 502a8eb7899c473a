//! An array of the kernel's BPF maps in this process's memory, which programs read and write at the same time.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicU64;

use super::mapping::Mapping;

/// The rows of a map of the type array, made with `BPF_F_MMAPABLE`. Dropping it frees no row: the map has them.
#[derive(Debug)]
pub struct SharedArray {
    mapping: Mapping,
    rows: usize,
    row_words: usize,
}

impl SharedArray {
    /// Maps the array, which has so many rows of so many bytes, a multiple of 8.
    ///
    /// # Errors
    /// The kernel's: no such map, or not one that can be mapped, or smaller.
    pub fn of(map: BorrowedFd<'_>, rows: usize, row_bytes: usize) -> io::Result<Self> {
        let row_words = row_bytes / 8;
        let bytes = rows.checked_mul(row_words * 8);
        let bytes = bytes.ok_or_else(|| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        Ok(Self {
            mapping: Mapping::of_map(map, bytes)?,
            rows,
            row_words,
        })
    }

    /// How many rows it has.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// The words of a row, in the machine's byte order; none where there is no such row.
    #[must_use]
    pub fn row(&self, row: usize) -> &[AtomicU64] {
        let bytes = self.row_words * 8;
        if row >= self.rows {
            return &[];
        }
        let Ok(at) = self.mapping.at(row * bytes, bytes) else {
            return &[];
        };
        // SAFETY: the mapping is as long, page-aligned and lives as long as `self`; every bit pattern is a word,
        // and all that write them, the kernel's programs too, write whole words or parts of them.
        unsafe { std::slice::from_raw_parts(at.as_ptr().cast::<AtomicU64>(), self.row_words) }
    }
}
