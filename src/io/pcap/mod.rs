//! Capture files: reads classic pcap and pcapng, writes classic pcap. Knows nothing of flows.
//!
//! A file is read from front to back with a bounded buffer, whatever its size; what it says about
//! lengths is believed only within [`MAX_PACKET`]. No file makes this module panic. Its own rather
//! than a crate's: errors must name the offset, a long block must not be buffered, and the obsolete
//! packet block must be read. Read first: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.

mod classic;
mod input;
mod kind;
mod link;
mod ng;
mod writer;

use std::io::{self, Read};
use std::time::Duration;

pub use link::{LinkType, NotIp};
pub use writer::Writer;

use classic::Classic;
use input::Input;
use ng::Ng;

/// The longest packet in bytes; libpcap's MAXIMUM_SNAPLEN, which no IP packet reaches.
pub const MAX_PACKET: u32 = 262_144;

/// One packet of a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it was captured, since 1970; `None` where the file does not say (simple packet block).
    pub timestamp: Option<Duration>,
    /// How fine the file's timestamps are.
    pub resolution: Resolution,
    /// What the bytes begin with.
    pub link: LinkType,
    /// The bytes that were captured.
    pub bytes: &'a [u8],
    /// How many bytes the packet had; more than were captured where it was cut.
    pub original_length: u32,
}

impl<'a> Record<'a> {
    /// Whether the capture holds only the start of the packet.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        usize::try_from(self.original_length).is_ok_and(|length| length > self.bytes.len())
    }

    /// The IP packet after the link header and any VLAN tags.
    ///
    /// # Errors
    /// [`NotIp`]: the frame carries something else, or ends within its link header.
    pub fn network_packet(&self) -> Result<&'a [u8], NotIp> {
        self.link.network_packet(self.bytes)
    }
}

/// The fraction of a second that timestamps are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Resolution {
    /// 10⁻⁶ s, or coarser.
    #[default]
    Micro,
    /// 10⁻⁹ s, or anything finer than 10⁻⁶ s.
    Nano,
}

/// What is wrong with a capture, and at which byte of the file.
#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    /// The file cannot be read.
    #[error("cannot read beyond byte {offset}")]
    Read {
        /// How many bytes had been read.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// Neither pcap nor pcapng.
    #[error("not a pcap or pcapng file: {}", kind::of(*magic))]
    Magic {
        /// The first bytes.
        magic: [u8; 4],
    },
    /// A version that this reader does not know.
    #[error("byte {offset}: version {major} of the format is unknown")]
    Version {
        /// Where it stands.
        offset: u64,
        /// The major version.
        major: u16,
    },
    /// There is nothing in it.
    #[error("the file is empty")]
    Empty,
    /// The file ends within something.
    #[error("the file ends at byte {end}, within the {what} at byte {offset}")]
    Truncated {
        /// Where the file ends.
        end: u64,
        /// Where the thing begins.
        offset: u64,
        /// What it is.
        what: &'static str,
    },
    /// A packet that cannot be one.
    #[error("byte {offset}: a packet of {length} bytes; {MAX_PACKET} are the most")]
    PacketTooLong {
        /// Where its record begins.
        offset: u64,
        /// The length that the record claims.
        length: u32,
    },
    /// A pcapng block whose length does not fit what it holds.
    #[error("byte {offset}: the block length {length} is wrong")]
    BlockLength {
        /// Where the block begins.
        offset: u64,
        /// The length that it claims.
        length: u32,
    },
    /// A pcapng section whose byte order cannot be told.
    #[error("byte {offset}: the section has no byte-order magic")]
    ByteOrder {
        /// Where the section begins.
        offset: u64,
    },
    /// A packet from an interface that the section does not describe.
    #[error("byte {offset}: interface {interface} is not described before")]
    Interface {
        /// Where the packet's block begins.
        offset: u64,
        /// The interface's number.
        interface: u32,
    },
    /// More interfaces in a section than any host has.
    #[error("byte {offset}: a section with more than {max} interfaces")]
    TooManyInterfaces {
        /// Where the first one too many is described.
        offset: u64,
        /// How many are read.
        max: usize,
    },
    /// A link type whose packets cannot be read.
    #[error(
        "byte {offset}: link type {link} is not supported; \
         Ethernet (1), raw IP (101, 228, 229), Linux cooked (113, 276) and loopback (0, 108) are"
    )]
    Link {
        /// Where the first packet of that type stands.
        offset: u64,
        /// The number of the link type.
        link: u16,
    },
}

/// Reads a capture from front to back.
#[derive(Debug)]
pub struct Reader<R> {
    input: Input<R>,
    format: Format,
}

#[derive(Debug)]
enum Format {
    Classic(Classic),
    Ng(Ng),
}

impl<R: Read> Reader<R> {
    /// Reads the file's header; `source` need not be buffered.
    ///
    /// # Errors
    /// [`PcapError`]: no capture, or one whose header is damaged.
    pub fn open(source: R) -> Result<Self, PcapError> {
        let mut input = Input::new(source);
        if !input.begin()? {
            return Err(PcapError::Empty);
        }
        let magic = input.array("file header")?;
        let format = match Classic::recognise(magic) {
            Some(kind) => Format::Classic(Classic::open(kind, &mut input)?),
            None if magic == ng::SECTION_HEADER => Format::Ng(Ng::open(&mut input)?),
            None => return Err(PcapError::Magic { magic }),
        };
        Ok(Self { input, format })
    }

    /// The next packet; `None` at the end of the file.
    ///
    /// # Errors
    /// [`PcapError`]: the file is damaged here, and cannot be read on.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, PcapError> {
        match &mut self.format {
            Format::Classic(classic) => classic.next_record(&mut self.input),
            Format::Ng(ng) => ng.next_record(&mut self.input),
        }
    }
}

/// How numbers of a file are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Big,
    Little,
}

impl Order {
    const fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Big => u16::from_be_bytes(bytes),
            Self::Little => u16::from_le_bytes(bytes),
        }
    }

    const fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Big => u32::from_be_bytes(bytes),
            Self::Little => u32::from_le_bytes(bytes),
        }
    }

    /// `N` numbers that stand one after the other.
    fn u32s<const N: usize>(self, bytes: &[[u8; 4]; N]) -> [u32; N] {
        bytes.map(|number| self.u32(number))
    }
}

#[cfg(test)]
mod tests;
