//! Where a command writes packets: a path, or `-` for standard output.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// Names of standard output. What it is may be a file that is open already, so it is never opened by a name.
const STDOUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

/// Whether a path stands for standard output.
pub(super) fn is_stdout(path: &Path) -> bool {
    STDOUT.iter().any(|name| path == Path::new(name))
}

/// Standard output as a file, for packets.
///
/// # Errors
/// It is a terminal, or closed.
pub(super) fn stdout_for_packets() -> Result<File> {
    let stdout = io::stdout();
    if stdout.is_terminal() {
        bail!(
            "standard output is a terminal, and packets are binary: redirect it, such as \
             `> FILE` or `| wireshark -k -i -`"
        );
    }
    let copy = stdout.as_fd().try_clone_to_owned();
    copy.map(File::from).context("cannot write to stdout")
}
