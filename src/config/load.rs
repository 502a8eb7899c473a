//! Reading the file of a configuration: bounded, and the second time only what can be read twice.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::problem::Problem;
use super::{Collector, Config, ConfigError, Exposed};
use crate::director::HashKey;

/// The longest file. What `tunlb check` prints for 10,000 VIPs with 100 backends each has 134 MB.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

/// The path that stands for standard input. A file of that name is `./-`.
pub const STDIN: &str = "-";

/// Permission bits that let others than the owner read a file.
const READABLE_BY_OTHERS: u32 = 0o044;

/// Why a file cannot be read, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// There is no such file.
    #[error("No such file or directory; check the path")]
    Missing,
    /// It may not be read.
    #[error("Permission denied; run as a user who may read it")]
    Denied,
    /// It is a directory.
    #[error("Is a directory; name the file in it")]
    Directory,
    /// It is longer than [`MAX_FILE_BYTES`].
    #[error("it is longer than {} MiB, the limit for a configuration", MAX_FILE_BYTES >> 20)]
    TooLong,
    /// It was to be read again, and is gone once it is read.
    #[error("it is {0}, which cannot be read again; give a regular file, or restart tunlb")]
    Once(&'static str),
    /// Anything else.
    #[error("{0}")]
    System(io::Error),
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        let kind = error.kind();
        if kind == io::ErrorKind::NotFound {
            Self::Missing
        } else if kind == io::ErrorKind::PermissionDenied {
            Self::Denied
        } else if kind == io::ErrorKind::IsADirectory {
            Self::Directory
        } else {
            Self::System(error)
        }
    }
}

impl Config {
    /// Reads and validates a file, FIFO or device, or standard input where the path is [`STDIN`]. Waits for
    /// what a FIFO does not have yet.
    ///
    /// # Errors
    /// [`ConfigError`]: the file cannot be read, or something in it is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        if path == Path::new(STDIN) {
            let bytes = bounded(io::stdin().lock()).map_err(|why| unreadable(path, why))?;
            return from_bytes("stdin", &bytes);
        }
        let file = File::open(path).map_err(|error| unreadable(path, error.into()))?;
        read(path, &file)
    }

    /// Like [`load`](Self::load) for a configuration that was read before: only a regular file still has it.
    ///
    /// # Errors
    /// [`ConfigError`]: it is no regular file, cannot be read, or something in it is wrong.
    pub fn load_again(path: &Path) -> Result<Self, ConfigError> {
        if path == Path::new(STDIN) {
            return Err(unreadable(path, Unreadable::Once("standard input")));
        }
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK); // does not wait for the writer of a FIFO
        let open = || -> Result<File, Unreadable> {
            let file = options.open(path)?;
            match once(&file.metadata()?) {
                Some(kind) => Err(Unreadable::Once(kind)),
                None => Ok(file),
            }
        };
        read(path, &open().map_err(|why| unreadable(path, why))?)
    }
}

/// What kind of file gives its bytes only once, or never ends.
fn once(metadata: &Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    if kind.is_fifo() {
        Some("a FIFO")
    } else if kind.is_char_device() || kind.is_block_device() {
        Some("a device")
    } else {
        None
    }
}

fn read(path: &Path, file: &File) -> Result<Config, ConfigError> {
    let metadata = file
        .metadata()
        .map_err(|error| unreadable(path, error.into()))?;
    let bytes = bounded(file).map_err(|why| unreadable(path, why))?;
    let mut config = from_bytes(&path.to_string_lossy(), &bytes)?;
    config.exposed =
        exposed(path, &metadata).filter(|_| config.director.hash_key != HashKey::DEFAULT);
    Ok(config)
}

fn bounded(input: impl Read) -> Result<Vec<u8>, Unreadable> {
    let mut bytes = Vec::new();
    let read = input.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if u64::try_from(read).is_ok_and(|read| read > MAX_FILE_BYTES) {
        return Err(Unreadable::TooLong);
    }
    Ok(bytes)
}

fn unreadable(path: &Path, why: Unreadable) -> ConfigError {
    let path = path.to_owned();
    ConfigError::Read { path, why }
}

/// A name below `/dev` is that of a descriptor, such as `/dev/stdin`, and not the file's own.
fn exposed(path: &Path, metadata: &Metadata) -> Option<Exposed> {
    let named = metadata.is_file() && !path.starts_with("/dev");
    let exposed = named && metadata.mode() & READABLE_BY_OTHERS != 0;
    exposed.then(|| Exposed {
        path: path.to_owned(),
        mode: metadata.mode() & 0o7777,
    })
}

fn from_bytes(file: &str, bytes: &[u8]) -> Result<Config, ConfigError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Config::parse(file, text),
        Err(error) => {
            let mut problems = Collector::default();
            problems.push(not_utf8(file, bytes, error.valid_up_to()));
            Err(ConfigError::Invalid(problems.finish()))
        }
    }
}

fn not_utf8(file: &str, bytes: &[u8], valid_up_to: usize) -> Problem {
    let before = bytes.iter().take(valid_up_to);
    let message = match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "UTF-16, not UTF-8",
        [0x1f, 0x8b, ..] => "compressed by gzip, not text",
        _ => "not UTF-8",
    };
    Problem {
        file: Some(file.to_owned()),
        line: Some(before.filter(|&&byte| byte == b'\n').count() + 1),
        key: None,
        value: None,
        message: message.to_owned(),
        accepted: Some("TOML, which is UTF-8 text".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;
    use crate::config::Warning;

    const SECRET: &str = "[director]\nhash_key = \"c0a1f75e9b3344d2817f06e9ab5d20c8\"\n[[vip]]\n\
                          address = \"10.0.0.100\"\nbackend = [{ address = \"10.0.1.11\" }]\n";

    fn file(folder: &tempfile::TempDir, content: &[u8], mode: u32) -> PathBuf {
        let path = folder.path().join("tunlb.toml");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_secret_that_others_may_read_is_warned_about() {
        let folder = tempfile::tempdir().unwrap();
        for (mode, warned) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true)] {
            let path = file(&folder, SECRET.as_bytes(), mode);
            let warnings = Config::load(&path).unwrap().warnings();
            assert_eq!(
                warnings.len(),
                usize::from(warned),
                "{mode:o}: {warnings:?}"
            );
            if let [Warning::ExposedHashKey(exposed)] = &warnings[..] {
                assert_eq!(exposed.mode, mode);
                let text = warnings[0].to_string();
                assert!(text.contains(&format!("has mode {mode:04o}")), "{text}");
                assert!(
                    text.ends_with(&format!("chmod 600 {}", path.display())),
                    "{text}"
                );
            }
        }
        let public = SECRET.replace("hash_key", "#");
        let path = file(&folder, public.as_bytes(), 0o644);
        let warnings = Config::load(&path).unwrap().warnings();
        assert_eq!(warnings, [Warning::PublicHashKey], "there is no secret");
    }

    #[test]
    fn what_cannot_be_read_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let text = |path: &str| Config::load(Path::new(path)).unwrap_err().to_string();
        assert_eq!(
            text("/nowhere/tunlb.toml"),
            "cannot read /nowhere/tunlb.toml: No such file or directory; check the path"
        );
        let name = folder.path().display().to_string();
        let directory = text(&name);
        assert!(
            directory.ends_with("Is a directory; name the file in it"),
            "{directory}"
        );
        let hostile = text("/nowhere/\u{1b}[2J\u{202e}");
        assert!(
            hostile.contains("/nowhere/\\u{1b}[2J\\u{202e}: "),
            "{hostile}"
        );
        assert_eq!(
            text("/dev/zero"),
            "cannot read /dev/zero: it is longer than 256 MiB, the limit for a configuration"
        );
        for (content, message) in [
            (
                &[0xff, 0xfe, b'['][..],
                ":1: UTF-16, not UTF-8; accepted: TOML",
            ),
            (&[0x1f, 0x8b, 8], ":1: compressed by gzip, not text"),
            (b"\n\xe9", ":2: not UTF-8"),
        ] {
            let path = file(&folder, content, 0o600);
            let text = Config::load(&path).unwrap_err().to_string();
            assert!(text.contains(message), "{text}");
        }
    }

    #[test]
    fn only_a_regular_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(&folder, SECRET.as_bytes(), 0o600);
        assert_eq!(
            Config::load_again(&path).unwrap(),
            Config::load(&path).unwrap()
        );
        for (path, kind) in [("-", "standard input"), ("/dev/null", "a device")] {
            let error = Config::load_again(Path::new(path)).unwrap_err().to_string();
            assert!(
                error.contains(&format!("it is {kind}, which cannot")),
                "{error}"
            );
        }
    }
}
