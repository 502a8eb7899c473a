//! Writes classic pcap of IP packets without a link header.

use std::io::{self, Write};
use std::time::Duration;

use super::{MAX_PACKET, Resolution};

/// LINKTYPE_RAW: the bytes are an IP packet.
const LINK_RAW: u32 = 101;

/// A capture that is being written; little-endian on every machine.
#[derive(Debug)]
pub struct Writer<W> {
    sink: W,
    /// `None` while the file has no header, which tells how fine its timestamps are.
    resolution: Option<Resolution>,
}

impl<W: Write> Writer<W> {
    /// A capture without packets yet. `sink` should be buffered.
    #[must_use]
    pub const fn new(sink: W) -> Self {
        Self {
            sink,
            resolution: None,
        }
    }

    /// Writes the file header, unless it is written: the first call decides how fine the
    /// timestamps of the file are, which is what it returns.
    ///
    /// # Errors
    /// What the sink says.
    pub fn begin(&mut self, resolution: Resolution) -> io::Result<Resolution> {
        if let Some(begun) = self.resolution {
            return Ok(begun);
        }
        let magic: u32 = match resolution {
            Resolution::Micro => 0xa1b2_c3d4,
            Resolution::Nano => 0xa1b2_3c4d,
        };
        self.sink.write_all(&magic.to_le_bytes())?;
        self.sink.write_all(&[2, 0, 4, 0])?; // version 2.4
        for word in [0, 0, MAX_PACKET, LINK_RAW] {
            self.sink.write_all(&word.to_le_bytes())?;
        }
        self.resolution = Some(resolution);
        Ok(resolution)
    }

    /// Writes one packet, captured at `timestamp` since 1970 by a clock of
    /// that resolution. A time after 2106 is written as the last that fits.
    ///
    /// # Errors
    /// What the sink says.
    pub fn write(
        &mut self,
        timestamp: Duration,
        resolution: Resolution,
        bytes: &[u8],
    ) -> io::Result<()> {
        let seconds = u32::try_from(timestamp.as_secs()).unwrap_or(u32::MAX);
        let fraction = match self.begin(resolution)? {
            Resolution::Micro => timestamp.subsec_micros(),
            Resolution::Nano => timestamp.subsec_nanos(),
        };
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        for word in [seconds, fraction, length, length] {
            self.sink.write_all(&word.to_le_bytes())?;
        }
        self.sink.write_all(bytes)
    }

    /// Writes what is still buffered; a capture without packets gets its header.
    ///
    /// # Errors
    /// What the sink says.
    pub fn finish(mut self) -> io::Result<W> {
        self.begin(Resolution::default())?;
        self.sink.flush()?;
        Ok(self.sink)
    }
}
