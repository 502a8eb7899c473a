//! What `tunlb --version` says: the version, the commit and the features that it was built with.

/// Such as `0.1.0 (commit 63763d67e2b1, features: none)`; `+` after a commit: with changes.
pub const LONG: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("TUNLB_COMMIT"),
    ", features: ",
    env!("TUNLB_FEATURES"),
    ")"
);
