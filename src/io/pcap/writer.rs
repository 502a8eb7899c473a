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
    resolution: Resolution,
}

impl<W: Write> Writer<W> {
    /// Writes the file header. `sink` should be buffered.
    ///
    /// # Errors
    /// What the sink says.
    pub fn new(mut sink: W, resolution: Resolution) -> io::Result<Self> {
        let magic: u32 = match resolution {
            Resolution::Micro => 0xa1b2_c3d4,
            Resolution::Nano => 0xa1b2_3c4d,
        };
        sink.write_all(&magic.to_le_bytes())?;
        sink.write_all(&[2, 0, 4, 0])?; // version 2.4
        for word in [0, 0, MAX_PACKET, LINK_RAW] {
            sink.write_all(&word.to_le_bytes())?;
        }
        Ok(Self { sink, resolution })
    }

    /// Writes one packet, `head` and then `tail`, captured at `timestamp` since 1970. A time after
    /// 2106 is written as the last that fits.
    ///
    /// # Errors
    /// What the sink says.
    pub fn write(&mut self, timestamp: Duration, head: &[u8], tail: &[u8]) -> io::Result<()> {
        let seconds = u32::try_from(timestamp.as_secs()).unwrap_or(u32::MAX);
        let fraction = match self.resolution {
            Resolution::Micro => timestamp.subsec_micros(),
            Resolution::Nano => timestamp.subsec_nanos(),
        };
        let length = u32::try_from(head.len() + tail.len()).map_err(io::Error::other)?;
        for word in [seconds, fraction, length, length] {
            self.sink.write_all(&word.to_le_bytes())?;
        }
        self.sink.write_all(head)?;
        self.sink.write_all(tail)
    }

    /// Writes what is still buffered.
    ///
    /// # Errors
    /// What the sink says.
    pub fn finish(mut self) -> io::Result<W> {
        self.sink.flush()?;
        Ok(self.sink)
    }
}
