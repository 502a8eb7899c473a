//! Files: those that hold data of the host or its clients are private, and what is read is bounded.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Readable and writable by its owner only.
const PRIVATE: u32 = 0o600;

/// Creates a file that only its owner reads, for data of the host or its clients. One that is there is
/// neither emptied nor written through, nor is a symbolic link followed; only a FIFO or a character device
/// (`/dev/stdout`, `/dev/null`) is opened as it is, without waiting for a reader.
///
/// # Errors
/// The system's, [`io::ErrorKind::AlreadyExists`] where a file or link of that name is there, and `ENXIO`
/// for a FIFO that has no reader.
pub fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NONBLOCK);
    if let Ok(file) = options.open(path) {
        let kind = file.metadata()?.file_type();
        if kind.is_fifo() || kind.is_char_device() {
            return Ok(file);
        }
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(PRIVATE);
    options.open(path)
}

/// Reads all of a file or stream, of at most `limit` bytes.
///
/// # Errors
/// The system's, and [`io::ErrorKind::FileTooLarge`] where there is more.
pub fn read_bounded(input: impl io::Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn a_private_file_is_new_and_its_owners() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("facts");
        let file = create_private(&path).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        let kind = |path: &Path| create_private(path).unwrap_err().kind();
        assert_eq!(kind(&path), io::ErrorKind::AlreadyExists);
        let (link, target) = (folder.path().join("link"), folder.path().join("target"));
        symlink(&target, &link).unwrap();
        assert_eq!(kind(&link), io::ErrorKind::AlreadyExists);
        assert!(!target.exists());
        fs::write(&target, "kept").unwrap();
        assert_eq!(kind(&link), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
        create_private(Path::new("/dev/null")).unwrap();
    }

    #[test]
    fn what_is_read_has_a_bound() {
        assert_eq!(read_bounded(&b"1234"[..], 4).unwrap(), b"1234");
        let error = read_bounded(io::repeat(0), 4).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
