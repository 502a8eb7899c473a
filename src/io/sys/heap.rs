//! Memory that was freed: the C library keeps it, unless it is told not to.

/// Gives freed memory back to the kernel (malloc_trim(3)); for after a lot of it was needed once.
/// Does nothing where the C library is not glibc.
pub fn release_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer, and any thread may call it at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
