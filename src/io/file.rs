//! Files: those that hold data of the host or its clients are private, and what is read is bounded.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use socket2::SockRef;

/// Readable and writable by its owner only.
const PRIVATE: u32 = 0o600;

/// Creates a file that only its owner reads, for data of the host or its clients. One that is there is
/// neither emptied nor written through, nor is a symbolic link followed; only a FIFO or a character device
/// (`/dev/stdout`, `/dev/null`) is opened as it is, without waiting for a reader. Writing to it waits.
///
/// # Errors
/// The system's, [`io::ErrorKind::AlreadyExists`] where a file or link of that name is there, `ENXIO` for a
/// FIFO that has no reader ([`wait_for_reader`]) or a socket, and `EISDIR` for a directory.
pub fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NONBLOCK);
    match options.open(path) {
        Ok(file) if is_stream(&file)? => {
            // The flag was for opening; of a FIFO that is full it would make an error.
            SockRef::from(&file).set_nonblocking(false)?;
            return Ok(file);
        }
        Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENXIO | libc::EISDIR)) => {
            return Err(error);
        }
        Err(_) => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(PRIVATE);
    options.open(path)
}

/// Opens a FIFO for writing and waits, without end, until it has a reader.
///
/// # Errors
/// The system's, and [`io::ErrorKind::AlreadyExists`] where it is no FIFO any more.
pub fn wait_for_reader(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).open(path)?;
    if is_stream(&file)? {
        return Ok(file);
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn is_stream(file: &File) -> io::Result<bool> {
    let kind = file.metadata()?.file_type();
    Ok(kind.is_fifo() || kind.is_char_device())
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
    use std::io::Write as _;
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::process::Command;
    use std::thread;

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
        assert_eq!(kind(folder.path()), io::ErrorKind::IsADirectory);
        create_private(Path::new("/dev/null")).unwrap();
    }

    /// More than a pipe holds, so that a writer which does not wait would fail.
    #[test]
    fn a_fifo_takes_what_is_written_once_it_has_a_reader() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        let made = Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let error = create_private(&path).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENXIO));
        let reader = thread::spawn({
            let path = path.clone();
            move || fs::read(path).unwrap().len()
        });
        let mut file = wait_for_reader(&path).unwrap();
        let mut again = create_private(&path).unwrap();
        file.write_all(&[0; 300_000]).unwrap();
        again.write_all(&[0; 300_000]).unwrap();
        drop((file, again));
        assert_eq!(reader.join().unwrap(), 600_000);
    }

    #[test]
    fn what_is_read_has_a_bound() {
        assert_eq!(read_bounded(&b"1234"[..], 4).unwrap(), b"1234");
        let error = read_bounded(io::repeat(0), 4).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
