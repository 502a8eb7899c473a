//! The capture that a replay writes.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, IsTerminal as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::cannot;
use crate::cli::output::{is_stdout, stdout_for_packets};
use crate::io::file::{create_private, wait_for_reader};
use crate::io::pcap::{Resolution, Writer};
use crate::text::Plain;

/// A file to which the packets go that a replay emits, until its reader has had enough.
#[derive(Debug)]
pub(super) struct Output {
    path: PathBuf,
    /// `None` once the reader closed the pipe.
    writer: Option<Writer<BufWriter<File>>>,
}

impl Output {
    /// Creates the file, for its owner only. One that is there is refused, above all the input; a FIFO or
    /// device is written to.
    ///
    /// # Errors
    /// The file cannot be created, is there, or is a terminal.
    pub(super) fn create(path: &Path, input: &File) -> Result<Self> {
        let shown = Plain(path.to_string_lossy());
        if is_same(path, input) {
            bail!("--output {shown} is the input; name another file");
        }
        let file = if is_stdout(path) {
            stdout_for_packets()?
        } else {
            match create(path) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!(
                    "--output {shown} is there already, and is not overwritten: name another file, or \
                     remove it"
                ),
                Err(error) => return Err(error).with_context(|| cannot("create", path)),
            }
        };
        if file.is_terminal() {
            bail!("--output {shown} is a terminal, and packets are binary; name a file");
        }
        Ok(Self {
            path: path.to_owned(),
            writer: Some(Writer::new(BufWriter::new(file))),
        })
    }

    /// Whether a reader may still be there.
    pub(super) const fn is_read(&self) -> bool {
        self.writer.is_some()
    }

    /// Writes a packet, at the time of the packet that caused it.
    ///
    /// # Errors
    /// The file cannot be written, but for a pipe that was closed.
    pub(super) fn write(
        &mut self,
        timestamp: Duration,
        resolution: Resolution,
        bytes: &[u8],
    ) -> Result<()> {
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        let written = writer.write(timestamp, resolution, bytes);
        self.unless_closed(written)
    }

    /// Writes what is still buffered.
    ///
    /// # Errors
    /// As of [`write`](Self::write).
    pub(super) fn finish(mut self) -> Result<()> {
        let Some(writer) = self.writer.take() else {
            return Ok(());
        };
        let finished = writer.finish().map(|_| ());
        self.unless_closed(finished)
    }

    fn unless_closed(&mut self, written: io::Result<()>) -> Result<()> {
        match written {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.writer = None;
                Ok(())
            }
            written => written.with_context(|| cannot("write", &self.path)),
        }
    }
}

fn is_same(path: &Path, input: &File) -> bool {
    let (Ok(output), Ok(input)) = (fs::metadata(path), input.metadata()) else {
        return false;
    };
    output.is_file() && (output.dev(), output.ino()) == (input.dev(), input.ino())
}

fn create(path: &Path) -> io::Result<File> {
    match create_private(path) {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => wait_for_reader(path),
        created => created,
    }
}
