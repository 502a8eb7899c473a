//! The `tunlb` binary.

fn main() {}
