//! bpf(2) for maps as far as aya does not have it: many rows of a call; and what keeps programs and this
//! process in step.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The part of `union bpf_attr` for batches (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    elem_flags: u64,
    flags: u64,
}

/// In linux/bpf.h.
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;

/// The keys of some rows, and their values.
pub type MapRows<'a, const KEY: usize, const VALUE: usize> = (&'a [[u8; KEY]], &'a [[u8; VALUE]]);

/// Goes through a hash map in batches, in an order of the kernel's. Rows that come or go meanwhile may be seen
/// or not.
#[derive(Debug)]
pub struct MapBatch<'a, const KEY: usize, const VALUE: usize> {
    map: BorrowedFd<'a>,
    keys: Vec<[u8; KEY]>,
    values: Vec<[u8; VALUE]>,
    /// Where the next batch begins; the kernel's.
    cursor: Option<u64>,
    is_done: bool,
}

impl<'a, const KEY: usize, const VALUE: usize> MapBatch<'a, KEY, VALUE> {
    /// At most `most` rows of a batch: more than the fullest bucket of the map holds.
    #[must_use]
    pub fn new(map: BorrowedFd<'a>, most: usize) -> Self {
        Self {
            map,
            keys: vec![[0; KEY]; most],
            values: vec![[0; VALUE]; most],
            cursor: None,
            is_done: false,
        }
    }

    /// The same from a bucket of the map on.
    #[must_use]
    pub fn starting_at(mut self, bucket: u32) -> Self {
        self.cursor = Some(bucket.into());
        self
    }

    /// The bucket at which the next rows begin; `None` after the last.
    #[must_use]
    pub fn next_bucket(&self) -> Option<u32> {
        let bucket = self.cursor.and_then(|cursor| u32::try_from(cursor).ok());
        bucket.filter(|_| !self.is_done)
    }

    /// The next rows; `None` after the last.
    ///
    /// # Errors
    /// The kernel's, above all that it has no batches (before 5.6).
    pub fn read(&mut self) -> io::Result<Option<MapRows<'_, KEY, VALUE>>> {
        if self.is_done {
            return Ok(None);
        }
        let (mut next, from) = (0_u64, self.cursor);
        let mut batch = Batch {
            in_batch: from.as_ref().map_or(0, address),
            out_batch: (&raw mut next).expose_provenance() as u64,
            keys: self.keys.as_mut_ptr().expose_provenance() as u64,
            values: self.values.as_mut_ptr().expose_provenance() as u64,
            count: u32::try_from(self.keys.len()).unwrap_or(u32::MAX),
            map: self.map.as_raw_fd().cast_unsigned(),
            ..Batch::default()
        };
        // SAFETY: the arrays hold `count` rows of the map's sizes, which `of` its caller are those of the map;
        // the cursors are as long as the kernel's (4 bytes, of at most 8).
        let result = unsafe { call(BPF_MAP_LOOKUP_BATCH, &raw mut batch) };
        match result {
            Ok(()) => self.cursor = Some(next),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.is_done = true,
            Err(error) => return Err(error),
        }
        let count = (batch.count as usize).min(self.keys.len());
        Ok(Some((&self.keys[..count], &self.values[..count])))
    }
}

/// Removes rows; those that are gone already do not matter.
///
/// # Errors
/// The kernel's.
pub fn remove_from_map<const KEY: usize>(
    map: BorrowedFd<'_>,
    keys: &[[u8; KEY]],
) -> io::Result<()> {
    let mut rest = keys;
    while !rest.is_empty() {
        let mut batch = Batch {
            keys: rest.as_ptr().expose_provenance() as u64,
            count: u32::try_from(rest.len()).unwrap_or(u32::MAX),
            map: map.as_raw_fd().cast_unsigned(),
            ..Batch::default()
        };
        // SAFETY: there are `count` keys of the map's size.
        let result = unsafe { call(BPF_MAP_DELETE_BATCH, &raw mut batch) };
        let done = (batch.count as usize).min(rest.len());
        match result {
            Ok(()) => return Ok(()),
            // The one after those that are done was not there.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                rest = rest.get(done + 1..).unwrap_or_default();
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn address(word: &u64) -> u64 {
    std::ptr::from_ref(word).expose_provenance() as u64
}

/// # Safety
/// What `batch` points to is as long as its fields and the map say.
unsafe fn call(command: libc::c_long, batch: *mut Batch) -> io::Result<()> {
    // SAFETY: the kernel reads and writes as many bytes of the structure; the rest is the caller's business.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, batch, size_of::<Batch>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Returns when every program that runs now has ended: what they may still have read can be used for something
/// else. Programs run as readers of RCU, and MEMBARRIER_CMD_GLOBAL waits for all of those (membarrier(2)).
///
/// # Errors
/// The kernel has no such call, or not on CPUs that are `nohz_full`.
pub fn wait_for_programs() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: no memory is given to the kernel.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Nanoseconds of CLOCK_MONOTONIC, which programs read, too.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure is the kernel's to write; the call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// How many CPUs there may be: programs' numbers of CPUs are below it.
///
/// # Errors
/// The kernel's list cannot be read.
pub fn possible_cpus() -> io::Result<usize> {
    let list = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = list.trim().rsplit([',', '-']).next().unwrap_or_default();
    let last: usize = last.parse().map_err(io::Error::other)?;
    Ok(last + 1)
}
