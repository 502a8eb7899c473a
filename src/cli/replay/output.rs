//! The capture that a replay writes.

use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::cannot;
use crate::io::pcap::{Resolution, Writer};

/// A file to which the packets go that a replay emits.
#[derive(Debug)]
pub(super) struct Output {
    path: PathBuf,
    writer: Writer<BufWriter<File>>,
}

impl Output {
    /// Creates the file, or empties it; refuses to empty the input.
    ///
    /// # Errors
    /// The file cannot be created, or is the input.
    pub(super) fn create(path: &Path, input: &File) -> Result<Self> {
        if let (Ok(output), Ok(input)) = (fs::metadata(path), input.metadata())
            && output.is_file()
            && (output.dev(), output.ino()) == (input.dev(), input.ino())
        {
            bail!(
                "--output {} is the input; name another file",
                path.display()
            );
        }
        let file = File::create(path).with_context(|| cannot("create", path))?;
        Ok(Self {
            path: path.to_owned(),
            writer: Writer::new(BufWriter::new(file)),
        })
    }

    /// Writes a packet, at the time of the packet that caused it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write(
        &mut self,
        timestamp: Duration,
        resolution: Resolution,
        bytes: &[u8],
    ) -> Result<()> {
        let written = self.writer.write(timestamp, resolution, bytes);
        written.with_context(|| cannot("write", &self.path))
    }

    /// Writes what is still buffered.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn finish(self) -> Result<()> {
        let Self { path, writer } = self;
        let finished = writer.finish().with_context(|| cannot("write", &path));
        finished.map(|_| ())
    }
}
