//! Capture files: packets with comments as pcapng, never more bytes than allowed.
//!
//! Blocks are built in memory and leave whole, so the file can be read at any time while it is
//! written. Knows nothing of why a packet is captured. Format: draft-ietf-opsawg-pcapng; link type
//! RAW: <https://www.tcpdump.org/linktypes.html>.
//!
//! A file describes one interface, whatever way packets go: libpcap 1.10 refuses a second one of
//! link type RAW, because it compares the type in the file with the one that it maps it to.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::file;
use crate::text::Plain;

/// Packets begin with their IPv4 or IPv6 header.
const LINKTYPE_RAW: u16 = 101;

/// Types of blocks.
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;

/// The one that is described.
const INTERFACE: u32 = 0;

/// Written in the byte order of the section, by which readers know it: here little-endian.
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;

/// Options of any block.
const OPT_ENDOFOPT: u16 = 0;
const OPT_COMMENT: u16 = 1;
/// Options of a section header.
const SHB_USERAPPL: u16 = 4;
/// Options of an interface description.
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
/// Options of an enhanced packet.
const EPB_FLAGS: u16 = 2;

/// Timestamps count 10⁻⁹ s.
const NANOSECONDS: u8 = 9;

/// Blocks leave the process when they fill this, or when [`CaptureFile::flush`] is called.
const BUFFER_BYTES: usize = 64 * 1024;

/// Which way a packet went, seen from this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// It was read.
    Inbound,
    /// It was written.
    Outbound,
}

/// A packet to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapturedPacket<'a> {
    /// Which way it went.
    pub direction: Direction,
    /// When.
    pub time: SystemTime,
    /// From its IP header on.
    pub bytes: &'a [u8],
    /// Shown with the packet; cut at 65535 bytes.
    pub comment: &'a str,
}

/// Why a capture cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file could not be created.
    #[error("cannot create capture file {}: {cause}", Plain(path.to_string_lossy()))]
    Create {
        /// The file.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
    /// A file of that name is there already, and may hold data of others.
    #[error(
        "capture file {} is there already, and is not overwritten: name another file, or remove it",
        Plain(path.to_string_lossy())
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Packets would be written to a terminal.
    #[error(
        "{} is a terminal, and a capture is binary: name a file, or `-` and a program that reads it, such \
         as `| wireshark -k -i -`",
        Plain(path.to_string_lossy())
    )]
    Terminal {
        /// The terminal.
        path: PathBuf,
    },
    /// The program that read a FIFO or pipe has ended.
    #[error("its reader has closed it")]
    Closed,
    /// The file could not be written.
    #[error("cannot write the capture: {0}")]
    Write(#[source] io::Error),
    /// The next packet would exceed the file's bound.
    #[error("the capture file is full: a further packet would exceed {limit} bytes")]
    Full {
        /// The bound in bytes.
        limit: u64,
    },
}

/// A pcapng file that grows up to a bound.
#[derive(Debug)]
pub struct CaptureFile {
    file: File,
    /// Whole blocks that are not in the file yet.
    buffer: Vec<u8>,
    /// Bytes in the file, whole blocks all of them.
    written: u64,
    limit: u64,
    packets: u64,
    /// Packets in the file.
    written_packets: u64,
}

impl CaptureFile {
    /// Creates a file as [`create`] does, waits until a FIFO has a reader, and begins a capture in it.
    ///
    /// # Errors
    /// Those of [`create`] and [`begin`](Self::begin).
    pub fn create(path: &Path, limit: u64, interface: &str) -> Result<Self, CaptureError> {
        let file = match create(path)? {
            Some(file) => file,
            None => wait_for_reader(path)?,
        };
        Self::begin(file, limit, interface)
    }

    /// Begins a capture in a file that is open and empty; `limit` bounds its bytes. Readers show packets as
    /// those of `interface`. The header is in the file when this returns.
    ///
    /// # Errors
    /// [`CaptureError::Write`] and [`CaptureError::Closed`].
    pub fn begin(file: File, limit: u64, interface: &str) -> Result<Self, CaptureError> {
        let mut capture = Self {
            file,
            buffer: Vec::with_capacity(2 * BUFFER_BYTES),
            written: 0,
            limit,
            packets: 0,
            written_packets: 0,
        };
        put_section_header(&mut capture.buffer);
        put_interface(&mut capture.buffer, interface);
        capture.flush()?;
        Ok(capture)
    }

    /// Packets of the file, those included that are still to be written.
    #[must_use]
    pub const fn packets(&self) -> u64 {
        self.packets
    }

    /// Bytes of the file, those included that are still to be written.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Appends a packet and returns its number in the file, from 1 on.
    ///
    /// # Errors
    /// [`CaptureError::Full`], and the file is as before; those of [`flush`](Self::flush).
    pub fn append(&mut self, packet: &CapturedPacket<'_>) -> Result<u64, CaptureError> {
        let before = self.buffer.len();
        put_packet(&mut self.buffer, packet);
        if self.bytes() > self.limit {
            self.buffer.truncate(before);
            return Err(CaptureError::Full { limit: self.limit });
        }
        self.packets += 1;
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(self.packets)
    }

    /// Writes what is buffered, so that others can read it.
    ///
    /// # Errors
    /// [`CaptureError::Write`] and [`CaptureError::Closed`]: what was buffered is lost, what was written
    /// before is readable.
    pub fn flush(&mut self) -> Result<(), CaptureError> {
        let result = self.file.write_all(&self.buffer);
        if result.is_ok() {
            self.written = self.bytes();
            self.written_packets = self.packets;
        } else {
            // Part of a block at the end would be an error to readers. Where it stays, they have
            // read everything before it.
            self.file.set_len(self.written).ok();
            self.packets = self.written_packets;
        }
        self.buffer.clear();
        result.map_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                CaptureError::Closed
            } else {
                CaptureError::Write(error)
            }
        })
    }
}

/// Creates a file for a capture: a new one that only its owner reads, or a FIFO or device that is there.
/// `None` for a FIFO without a reader, which [`wait_for_reader`] waits for.
///
/// # Errors
/// [`CaptureError::Create`], [`CaptureError::Exists`] and [`CaptureError::Terminal`].
pub fn create(path: &Path) -> Result<Option<File>, CaptureError> {
    match file::create_private(path) {
        Ok(file) if file.is_terminal() => Err(CaptureError::Terminal { path: path.into() }),
        Ok(file) => Ok(Some(file)),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) && is_fifo(path) => Ok(None),
        Err(error) => Err(not_created(path, error)),
    }
}

/// Opens a FIFO and waits, without end, until it has a reader.
///
/// # Errors
/// [`CaptureError::Create`] and [`CaptureError::Exists`].
pub fn wait_for_reader(path: &Path) -> Result<File, CaptureError> {
    file::wait_for_reader(path).map_err(|error| not_created(path, error))
}

fn is_fifo(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

fn not_created(path: &Path, cause: io::Error) -> CaptureError {
    let path = path.to_owned();
    if cause.kind() == io::ErrorKind::AlreadyExists {
        CaptureError::Exists { path }
    } else {
        CaptureError::Create { path, cause }
    }
}

fn put_section_header(out: &mut Vec<u8>) {
    put_block(out, SECTION_HEADER, |body| {
        put_u32(body, BYTE_ORDER_MAGIC);
        put_u16(body, 1); // version 1.0
        put_u16(body, 0);
        body.extend([0xff; 8]); // the section's length is not given
        put_option(
            body,
            SHB_USERAPPL,
            concat!("tunlb ", env!("CARGO_PKG_VERSION")).as_bytes(),
        );
        put_option(body, OPT_ENDOFOPT, &[]);
    });
}

fn put_interface(out: &mut Vec<u8>, name: &str) {
    put_block(out, INTERFACE_DESCRIPTION, |body| {
        put_u16(body, LINKTYPE_RAW);
        put_u16(body, 0); // reserved
        put_u32(body, 0); // packets are never cut
        put_option(body, IF_NAME, name.as_bytes());
        put_option(body, IF_TSRESOL, &[NANOSECONDS]);
        put_option(body, OPT_ENDOFOPT, &[]);
    });
}

fn put_packet(out: &mut Vec<u8>, packet: &CapturedPacket<'_>) {
    let since_epoch = packet.time.duration_since(SystemTime::UNIX_EPOCH);
    let [high, low] = nanoseconds(since_epoch.unwrap_or_default());
    let length = u32::try_from(packet.bytes.len()).unwrap_or(u32::MAX);
    let flags: u32 = match packet.direction {
        Direction::Inbound => 1,
        Direction::Outbound => 2,
    };
    put_block(out, ENHANCED_PACKET, |body| {
        for word in [INTERFACE, high, low, length, length] {
            put_u32(body, word);
        }
        put_padded(body, packet.bytes);
        put_option(body, OPT_COMMENT, packet.comment.as_bytes());
        put_option(body, EPB_FLAGS, &flags.to_le_bytes());
        put_option(body, OPT_ENDOFOPT, &[]);
    });
}

/// Upper and lower half of the 64-bit timestamp, which lasts until the year 2554.
fn nanoseconds(since_epoch: Duration) -> [u32; 2] {
    let count = u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX);
    let [a, b, c, d, e, f, g, h] = count.to_be_bytes();
    [[a, b, c, d], [e, f, g, h]].map(u32::from_be_bytes)
}

/// A block carries its length at both ends, so that it can be skipped either way.
fn put_block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    put_u32(out, kind);
    put_u32(out, 0);
    body(out);
    let length = u32::try_from(out.len() + 4 - start).unwrap_or(u32::MAX);
    out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    put_u32(out, length);
}

fn put_option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    put_u16(out, code);
    put_u16(out, length);
    put_padded(out, &value[..usize::from(length)]);
}

/// Everything in a block is padded to 32 bits.
fn put_padded(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
    let padding = bytes.len().next_multiple_of(4) - bytes.len();
    out.resize(out.len() + padding, 0);
}

fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend(value.to_le_bytes());
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend(value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn begin(path: &Path, limit: u64) -> Result<CaptureFile, CaptureError> {
        CaptureFile::create(path, limit, "tunlb0")
    }

    fn packet(comment: &str) -> CapturedPacket<'_> {
        CapturedPacket {
            direction: Direction::Outbound,
            time: SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789),
            bytes: &[0x45, 0, 0, 5, 6],
            comment,
        }
    }

    #[test]
    fn an_interface_in_bytes() {
        let mut block = Vec::new();
        put_interface(&mut block, "tunlb0");
        #[rustfmt::skip]
        let expected = [
            1, 0, 0, 0, 44, 0, 0, 0,
            101, 0, 0, 0, 0, 0, 0, 0,
            2, 0, 6, 0, b't', b'u', b'n', b'l', b'b', b'0', 0, 0,
            9, 0, 1, 0, 9, 0, 0, 0,
            0, 0, 0, 0,
            44, 0, 0, 0,
        ];
        assert_eq!(block, expected);
    }

    #[test]
    fn a_packet_in_bytes() {
        let mut block = Vec::new();
        put_packet(&mut block, &packet("drop"));
        // 1700000000123456789 = 0x1797_9cfe_3d85_cd15
        #[rustfmt::skip]
        let expected = [
            6, 0, 0, 0, 60, 0, 0, 0,
            0, 0, 0, 0,
            0xfe, 0x9c, 0x97, 0x17, 0x15, 0xcd, 0x85, 0x3d,
            5, 0, 0, 0, 5, 0, 0, 0,
            0x45, 0, 0, 5, 6, 0, 0, 0,
            1, 0, 4, 0, b'd', b'r', b'o', b'p',
            2, 0, 4, 0, 2, 0, 0, 0,
            0, 0, 0, 0,
            60, 0, 0, 0,
        ];
        assert_eq!(block, expected);
    }

    #[test]
    fn a_section_begins_with_its_byte_order() {
        let mut block = Vec::new();
        put_section_header(&mut block);
        let start = [0x0a, 0x0d, 0x0d, 0x0a];
        assert_eq!(block[..4], start);
        assert_eq!(
            block[8..24],
            [
                0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255
            ]
        );
        let length = u32::try_from(block.len()).unwrap().to_le_bytes();
        assert_eq!(block[4..8], length);
        assert_eq!(block[block.len() - 4..], length);
    }

    #[test]
    fn a_full_file_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("capture.pcapng");
        let mut file = begin(&path, 300).unwrap();
        let header = file.bytes();
        assert_eq!(fs::metadata(&path).unwrap().len(), header);
        let room = (300 - header) / 60;
        for number in 1..=room {
            assert_eq!(file.append(&packet("drop")).unwrap(), number);
        }
        for _ in 0..2 {
            let full = file.append(&packet("drop"));
            assert!(matches!(full, Err(CaptureError::Full { limit: 300 })));
        }
        file.flush().unwrap();
        assert_eq!(file.packets(), room);
        assert_eq!(file.bytes(), header + 60 * room);
        assert_eq!(fs::metadata(&path).unwrap().len(), file.bytes());
    }

    #[test]
    fn only_the_owner_reads_it_and_no_other_file_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("capture.pcapng");
        begin(&path, 1000).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(&path, "kept").unwrap();
        let link = folder.path().join("link");
        symlink(folder.path().join("target"), &link).unwrap();
        for path in [&path, &link] {
            let message = begin(path, 1000).unwrap_err().to_string();
            assert!(
                message.contains("is there already, and is not overwritten"),
                "{message}"
            );
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
        assert!(!folder.path().join("target").exists());
    }

    #[test]
    fn what_cannot_be_written_is_an_error() {
        let message = begin(Path::new("/nowhere/\u{1b}c"), 1000)
            .unwrap_err()
            .to_string();
        assert!(
            message.starts_with("cannot create capture file /nowhere/\\u{1b}c: No such file"),
            "{message}"
        );
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        for path in [socket.as_path(), folder.path()] {
            let error = begin(path, 1000).unwrap_err();
            assert!(matches!(error, CaptureError::Create { .. }), "{error}");
        }
        let full = begin(Path::new("/dev/full"), 1000);
        assert!(matches!(full, Err(CaptureError::Write(_))), "{full:?}");
    }

    #[test]
    fn a_comment_longer_than_an_option_is_cut() {
        let long = "x".repeat(70_000);
        let mut block = Vec::new();
        put_packet(&mut block, &packet(&long));
        assert_eq!(block.len(), 60 - 4 + 65_536);
        assert_eq!(block.len() % 4, 0);
    }
}
