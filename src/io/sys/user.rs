//! By which user's rights the process acts.

/// The effective user id (geteuid(2)).
#[must_use]
pub fn effective_user() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}
