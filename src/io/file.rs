//! Files: those that hold data of the host or its clients are private, and what is read is bounded.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process;

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

/// Gives a file a content and a mode, whole or not at all: through a new file beside it that takes its place.
/// A symbolic link of that name is replaced, not followed. The new file's name begins with a dot, so that no
/// program takes it for a configuration.
///
/// # Errors
/// The system's.
pub fn replace(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let (next, mut file) = beside(path, mode)?;
    let written = file
        .set_permissions(Permissions::from_mode(mode)) // whatever the umask is
        .and_then(|()| file.write_all(content))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&next, path));
    written.inspect_err(|_| fs::remove_file(&next).unwrap_or_default())
}

/// Creates a file of a name that nothing has, in the folder of another one.
fn beside(path: &Path, mode: u32) -> io::Result<(PathBuf, File)> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let next = |number| folder.join(format!(".{name}.tunlb-{}-{number}", process::id()));
    create_first((0_u32..).map(next), mode)
}

/// Names that are tried where others are taken.
const MOST_NAMES: usize = 1000;

/// Creates the first file of these names that nothing has, with a mode. Links are not followed.
///
/// # Errors
/// The system's, [`io::ErrorKind::AlreadyExists`] where all are taken.
pub fn create_first(
    names: impl Iterator<Item = PathBuf>,
    mode: u32,
) -> io::Result<(PathBuf, File)> {
    for name in names.take(MOST_NAMES) {
        let mut options = OpenOptions::new();
        match options.write(true).create_new(true).mode(mode).open(&name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => return Ok((name, created?)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
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
    fn a_file_is_replaced_whole_and_no_link_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("99.conf"), folder.path().join("other"));
        fs::write(&other, "kept").unwrap();
        symlink(&other, &path).unwrap();
        // Left by a run that was killed, and a trap.
        let taken = |number| {
            folder
                .path()
                .join(format!(".99.conf.tunlb-{}-{number}", process::id()))
        };
        fs::write(taken(0), "").unwrap();
        symlink(&other, taken(1)).unwrap();
        for content in ["one", "two"] {
            replace(&path, 0o644, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            let metadata = fs::symlink_metadata(&path).unwrap();
            assert_eq!((metadata.is_file(), metadata.mode() & 0o777), (true, 0o644));
        }
        assert_eq!(fs::read_to_string(&other).unwrap(), "kept");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
        let unwritable = folder.path().join("none/99.conf");
        assert!(replace(&unwritable, 0o644, b"").is_err());
    }

    #[test]
    fn the_first_free_name_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let names = || (1..4).map(|number| folder.path().join(format!("undo-{number}")));
        symlink("/nowhere", folder.path().join("undo-1")).unwrap();
        for expected in ["undo-2", "undo-3"] {
            let (path, file) = create_first(names(), 0o700).unwrap();
            assert_eq!(path, folder.path().join(expected));
            assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o700);
        }
        let error = create_first(names(), 0o700).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn what_is_read_has_a_bound() {
        assert_eq!(read_bounded(&b"1234"[..], 4).unwrap(), b"1234");
        let error = read_bounded(io::repeat(0), 4).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
