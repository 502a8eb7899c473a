//! The folder of what ends with the machine, journals and sockets: root's own under `/run`, else the user's under `$XDG_RUNTIME_DIR`. Both
//! are gone when the machine starts again, as are the changes that the journals are about.

use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use crate::io::sys::effective_user;

/// How the name of a journal ends.
const EXTENSION: &str = "journal";

/// Permissions of a folder and a file that are their owner's alone.
const PRIVATE_FOLDER: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;

/// Permissions of a folder that others may pass through, but not list.
const PASSABLE_FOLDER: u32 = 0o711;

/// What others may not have on either: with any of it, what is inside may not be ours.
const OTHERS_MAY_WRITE: u32 = 0o022;

/// Names that are tried before a journal is given up for want of a free one.
const NAMES: u32 = 64;

/// A folder that exists and that nobody but this user may write to.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

/// Why a folder or a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The kernel's error.
    #[error("{}: {cause}", .path.display())]
    System {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Others may have written to it.
    #[error("{}: {what}", .path.display())]
    NotOurs {
        /// The folder or file.
        path: PathBuf,
        /// Why not.
        what: &'static str,
    },
}

/// Where the folder may be, the first choice first.
#[must_use]
pub fn candidates() -> Vec<PathBuf> {
    let own = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let own = own.filter(|path| path.is_absolute());
    let parents = [Some(PathBuf::from("/run")), own];
    let folders = parents.into_iter().flatten();
    folders.map(|parent| parent.join("tunlb")).collect()
}

impl Folder {
    /// The folder at `path`; `None` where there is none.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, FolderError> {
        let mut options = OpenOptions::new();
        options.read(true);
        options.custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW);
        match options.open(path) {
            Ok(folder) => {
                require_ours(path, &folder)?;
                Ok(Some(Self(path.to_owned())))
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(system(path, cause)),
        }
    }

    /// The folder at `path`, made where there is none.
    ///
    /// # Errors
    /// It cannot be made, or is not this user's alone.
    pub fn create(path: &Path) -> Result<Self, FolderError> {
        match DirBuilder::new().mode(PRIVATE_FOLDER).create(path) {
            Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => Err(system(path, cause)),
            Ok(()) | Err(_) => {
                Self::open(path)?.ok_or_else(|| system(path, io::ErrorKind::NotFound.into()))
            }
        }
    }

    /// Lets others pass through it to files whose names they know; what they may do with these is the files' own.
    ///
    /// # Errors
    /// The kernel's.
    pub fn let_others_pass(&self) -> Result<(), FolderError> {
        let passable = Permissions::from_mode(PASSABLE_FOLDER);
        fs::set_permissions(&self.0, passable).map_err(|cause| system(&self.0, cause))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The journals in it, in the order of their names.
    pub(super) fn journals(&self) -> Result<Vec<PathBuf>, FolderError> {
        let list = || {
            fs::read_dir(&self.0)?
                .map(|entry| Ok(entry?.path()))
                .collect::<io::Result<Vec<_>>>()
        };
        let mut paths = list().map_err(|cause| system(&self.0, cause))?;
        paths.retain(|path| path.extension().is_some_and(|kind| kind == EXTENSION));
        paths.sort();
        Ok(paths)
    }

    /// A new journal, locked, whose name begins with `label`.
    pub(super) fn new_journal(&self, label: &str) -> Result<(File, PathBuf), FolderError> {
        let process = std::process::id();
        for attempt in 0..NAMES {
            let name = format!("{label}-{process}-{attempt}.{EXTENSION}");
            let path = self.0.join(name);
            let mut options = OpenOptions::new();
            options.read(true).append(true).create_new(true);
            let file = match options.mode(PRIVATE_FILE).open(&path) {
                Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other.map_err(|cause| system(&path, cause))?,
            };
            // Another process that looks for what is left may have taken the lock, or the file away.
            if file.try_lock().is_ok() && is_linked(&file) {
                return Ok((file, path));
            }
        }
        Err(system(&self.0, io::ErrorKind::AlreadyExists.into()))
    }
}

/// Opens a journal that is there: never through a link, and only one that nobody else may write to.
pub(super) fn open_journal(path: &Path) -> Result<File, FolderError> {
    let mut options = OpenOptions::new();
    options.read(true).append(true);
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path).map_err(|cause| system(path, cause))?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err(not_ours(path, "not a regular file"));
    }
    require_ours(path, &file)?;
    Ok(file)
}

/// Whether the file still has a name.
pub(super) fn is_linked(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
}

fn require_ours(path: &Path, file: &File) -> Result<(), FolderError> {
    let metadata = file.metadata().map_err(|cause| system(path, cause))?;
    if metadata.uid() != effective_user() {
        return Err(not_ours(path, "belongs to another user, so it is not used"));
    }
    if metadata.mode() & OTHERS_MAY_WRITE != 0 {
        return Err(not_ours(path, "others may write to it, so it is not used"));
    }
    if metadata.is_file() && metadata.nlink() > 1 {
        return Err(not_ours(path, "has another name, so it is not used"));
    }
    Ok(())
}

fn system(path: &Path, cause: io::Error) -> FolderError {
    FolderError::System {
        path: path.to_owned(),
        cause,
    }
}

fn not_ours(path: &Path, what: &'static str) -> FolderError {
    FolderError::NotOurs {
        path: path.to_owned(),
        what,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_folder_is_the_users_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("tunlb");
        assert!(Folder::open(&path).unwrap().is_none());
        Folder::create(&path).unwrap();
        Folder::create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        Folder::create(&path).unwrap().let_others_pass().unwrap();
        assert!(
            Folder::open(&path).unwrap().is_some(),
            "others cannot write"
        );
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(
            Folder::create(&path),
            Err(FolderError::NotOurs { .. })
        ));
        let link = parent.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(
            Folder::create(&link),
            Err(FolderError::System { .. })
        ));
    }

    #[test]
    fn a_journal_is_private_and_locked() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::create(&parent.path().join("tunlb")).unwrap();
        let (first, path) = folder.new_journal("7").unwrap();
        assert_eq!(first.metadata().unwrap().mode() & 0o777, 0o600);
        let again = open_journal(&path).unwrap();
        assert!(again.try_lock().is_err(), "its process lives");
        drop(first);
        assert!(again.try_lock().is_ok());
        let (_second, other) = folder.new_journal("7").unwrap();
        assert_ne!(path, other);
        assert_eq!(folder.journals().unwrap(), [path, other]);
    }

    #[test]
    fn what_may_be_anothers_is_not_opened() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::create(&parent.path().join("tunlb")).unwrap();
        let (_file, path) = folder.new_journal("7").unwrap();
        let beside = |name: &str| path.with_file_name(name);
        symlink(&path, beside("link.journal")).unwrap();
        assert!(open_journal(&beside("link.journal")).is_err());
        fs::create_dir(beside("folder.journal")).unwrap();
        assert!(open_journal(&beside("folder.journal")).is_err());
        fs::hard_link(&path, beside("second.journal")).unwrap();
        assert!(open_journal(&path).is_err());
        fs::remove_file(beside("second.journal")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        assert!(open_journal(&path).is_err());
    }
}
