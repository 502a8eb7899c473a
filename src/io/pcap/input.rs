//! Bytes of a file in order, with the offset that errors name.

use std::io::{self, BufReader, ErrorKind, Read};

use super::PcapError;

/// The bytes of a file not read yet.
#[derive(Debug)]
pub(super) struct Input<R> {
    source: BufReader<R>,
    offset: u64,
    /// Where the record or block begins that is being read.
    start: u64,
    /// Its packet; no longer than the longest packet.
    buffer: Vec<u8>,
}

impl<R: Read> Input<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source: BufReader::with_capacity(1 << 16, source),
            offset: 0,
            start: 0,
            buffer: Vec::new(),
        }
    }

    /// Where the record or block begins that is being read.
    pub(super) const fn start(&self) -> u64 {
        self.start
    }

    /// Begins a record or block of which the file may hold no more; `false` at its end.
    pub(super) fn begin(&mut self) -> Result<bool, PcapError> {
        use io::BufRead as _;
        self.start = self.offset;
        loop {
            match self.source.fill_buf() {
                Ok(bytes) => return Ok(!bytes.is_empty()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    /// The next `N` bytes, which belong to `what`.
    pub(super) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], PcapError> {
        let mut bytes = [0; N];
        self.exact(&mut bytes, what)?;
        Ok(bytes)
    }

    /// The next numbers of four bytes each.
    pub(super) fn words<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[[u8; 4]; N], PcapError> {
        let mut words = [[0; 4]; N];
        self.exact(words.as_flattened_mut(), what)?;
        Ok(words)
    }

    /// Reads the next `length` bytes, to be had by [`bytes`](Self::bytes). Callers bound `length`.
    pub(super) fn fill(&mut self, length: u32, what: &'static str) -> Result<(), PcapError> {
        self.buffer.clear();
        let taken = self
            .source
            .by_ref()
            .take(length.into())
            .read_to_end(&mut self.buffer);
        let taken = taken.map_err(|error| self.failed(error))? as u64;
        self.offset += taken;
        if taken < u64::from(length) {
            return Err(self.truncated(what));
        }
        Ok(())
    }

    /// What [`fill`](Self::fill) read last.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Passes over `length` bytes without keeping them.
    pub(super) fn skip(&mut self, length: u32, what: &'static str) -> Result<(), PcapError> {
        let mut part = self.source.by_ref().take(length.into());
        let passed = io::copy(&mut part, &mut io::sink());
        let passed = passed.map_err(|error| self.failed(error))?;
        self.offset += passed;
        if passed < u64::from(length) {
            return Err(self.truncated(what));
        }
        Ok(())
    }

    /// Unlike `read_exact` this tells where the file ends.
    fn exact(&mut self, mut bytes: &mut [u8], what: &'static str) -> Result<(), PcapError> {
        while !bytes.is_empty() {
            match self.source.read(bytes) {
                Ok(0) => return Err(self.truncated(what)),
                Ok(read) => {
                    self.offset += read as u64;
                    bytes = &mut bytes[read..];
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }

    const fn truncated(&self, what: &'static str) -> PcapError {
        PcapError::Truncated {
            end: self.offset,
            offset: self.start,
            what,
        }
    }

    const fn failed(&self, source: io::Error) -> PcapError {
        PcapError::Read {
            offset: self.offset,
            source,
        }
    }
}
