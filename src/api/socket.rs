//! Where the API's socket is, and how it comes and goes. Server and clients find it by the same rule.
//!
//! A unix socket belongs to no network namespace, so its name carries the director's: a client that runs in the
//! same namespace computes the same name. In the machine's first namespace a link with a plain name leads to it.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use log::debug;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::{ApiSocket, Group};
use crate::io::accounts::group_number;
use crate::io::undo::{self, Folder};

/// The name of the link in the machine's first network namespace.
const PLAIN_NAME: &str = "api.sock";

/// Of the socket: its owner and its group.
const MODE: u32 = 0o660;

/// Connections that wait until they are taken; a client that does not wait for a place gets an error beyond it.
const BACKLOG: i32 = 1024;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process answers at it.
    #[error("{} is another process's, which is running", .0.display())]
    InUse(PathBuf),
    /// What is there is no socket.
    #[error("{} exists, and is no socket", .0.display())]
    NoSocket(PathBuf),
    /// No folder may be used.
    #[error("{0}")]
    NoFolder(String),
    /// There is no group of that name.
    #[error("{0}: no such group in /etc/group; name one, or give its number")]
    NoGroup(String),
    /// The kernel's error.
    #[error("{}: {cause}", .path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// Where the API of the director of this process's network namespace is, if its configuration does not say
/// otherwise: the first place where there is one, else the first place where one could be.
///
/// # Errors
/// What cannot be read of `/proc`.
pub fn default_path() -> io::Result<PathBuf> {
    let mut places = places()?;
    if undo::is_the_first() {
        // A configuration may have the plain name for the socket itself.
        places.extend(
            undo::folders()
                .into_iter()
                .map(|folder| folder.join(PLAIN_NAME)),
        );
    }
    let found = places.iter().find(|path| path.exists());
    let first = found.or_else(|| places.first());
    Ok(first.cloned().unwrap_or_else(|| PLAIN_NAME.into()))
}

/// Every place where it may be, the first choice first: the rule that both ends share.
fn places() -> io::Result<Vec<PathBuf>> {
    let name = format!("api-{}.sock", undo::namespace_mark()?);
    let folders = undo::folders().into_iter();
    Ok(folders.map(|folder| folder.join(&name)).collect())
}

/// A socket that others can connect to; dropping it removes what is in the file system.
#[derive(Debug)]
pub struct ApiListener {
    listener: UnixListener,
    path: PathBuf,
    link: Option<PathBuf>,
    /// Device and inode: what is at the path later may be another process's.
    identity: (u64, u64),
}

impl ApiListener {
    /// The one that a configuration asks for; `None`: none.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn open(socket: &ApiSocket, group: Option<&Group>) -> Result<Option<Self>, SocketError> {
        let group = group.map(number_of).transpose()?;
        match socket {
            ApiSocket::Off => Ok(None),
            ApiSocket::At(path) => Self::at(path, group).map(Some),
            ApiSocket::Default => Self::at_default(group).map(Some),
        }
    }

    fn at(path: &Path, group: Option<u32>) -> Result<Self, SocketError> {
        if let Some(parent) = own_folder(path) {
            Self::folder(&parent, group).map_err(SocketError::NoFolder)?;
        }
        Self::bind(path, group)
    }

    /// One of tunlb's own, made where there is none.
    fn folder(path: &Path, group: Option<u32>) -> Result<Folder, String> {
        let folder = Folder::create(path).map_err(|error| error.to_string())?;
        if group.is_some() {
            folder
                .let_others_pass()
                .map_err(|error| error.to_string())?;
        }
        Ok(folder)
    }

    fn at_default(group: Option<u32>) -> Result<Self, SocketError> {
        let places = places().map_err(|cause| SocketError::NoFolder(format!("/proc: {cause}")))?;
        let mut reasons = Vec::new();
        for path in places {
            let parent = path.parent().unwrap_or_else(|| Path::new("/"));
            match Self::folder(parent, group) {
                Ok(folder) => return Self::in_folder(&folder, &path, group),
                Err(error) => reasons.push(error),
            }
        }
        Err(SocketError::NoFolder(reasons.join("; ")))
    }

    fn in_folder(folder: &Folder, path: &Path, group: Option<u32>) -> Result<Self, SocketError> {
        let mut listener = Self::bind(path, group)?;
        if undo::is_the_first() {
            let link = folder.path().join(PLAIN_NAME);
            match set_link(&link, path) {
                Ok(()) => listener.link = Some(link),
                Err(error) => debug!("{}: {error}", link.display()),
            }
        }
        Ok(listener)
    }

    fn bind(path: &Path, group: Option<u32>) -> Result<Self, SocketError> {
        remove_stale(path)?;
        let system = |cause: io::Error| {
            if cause.kind() == io::ErrorKind::AddrInUse {
                return SocketError::InUse(path.to_owned()); // since a moment
            }
            SocketError::System {
                path: path.to_owned(),
                cause,
            }
        };
        let listener = listen(path).map_err(system)?;
        let metadata = fs::symlink_metadata(path).map_err(system)?;
        let listener = Self {
            listener,
            path: path.to_owned(),
            link: None,
            identity: (metadata.dev(), metadata.ino()),
        };
        if group.is_some() {
            chown(path, None, group).map_err(system)?;
        }
        fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(system)?;
        Ok(listener)
    }

    /// Where others find it.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.link.as_deref().unwrap_or(&self.path)
    }

    /// A second descriptor of the listening socket, which does not wait.
    ///
    /// # Errors
    /// The kernel's.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.set_nonblocking(true)?;
        self.listener.try_clone()
    }
}

impl Drop for ApiListener {
    fn drop(&mut self) {
        if let Some(link) = &self.link
            && fs::read_link(link).is_ok_and(|target| Some(&*target) == file_name(&self.path))
        {
            remove(link);
        }
        let is_ours = |metadata: fs::Metadata| (metadata.dev(), metadata.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            remove(&self.path);
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        debug!("cannot remove {}: {error}", path.display());
    }
}

fn number_of(group: &Group) -> Result<u32, SocketError> {
    match group {
        Group::Number(number) => Ok(*number),
        Group::Name(name) => group_number(name).ok_or_else(|| SocketError::NoGroup(name.clone())),
    }
}

/// Only the owner and its group may connect, from the first moment: the kernel gives the file the mode that
/// the socket has when it is bound (`unix_bind_bsd`, linux/net/unix/af_unix.c).
fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let socket = File::from(OwnedFd::from(socket));
    socket.set_permissions(Permissions::from_mode(MODE))?;
    let socket = Socket::from(OwnedFd::from(socket));
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    Ok(UnixListener::from(OwnedFd::from(socket)))
}

/// The folder of a path, if it is one of tunlb's own.
fn own_folder(path: &Path) -> Option<PathBuf> {
    let mut folders = undo::folders().into_iter();
    folders.find(|folder| Some(&**folder) == path.parent())
}

/// Removes the socket of a process that is gone, or the link to it.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let system = |cause| SocketError::System {
        path: path.to_owned(),
        cause,
    };
    let kind = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(system)?.file_type(),
    };
    let leads_on = kind.is_symlink() && own_folder(path).is_some();
    if !kind.is_socket() && !leads_on {
        return Err(SocketError::NoSocket(path.to_owned()));
    }
    if is_deaf(path).map_err(system)? {
        return fs::remove_file(path).map_err(system);
    }
    Err(SocketError::InUse(path.to_owned()))
}

/// Whether no process listens on a socket. Does not block: a listener's queue may be full.
fn is_deaf(path: &Path) -> io::Result<bool> {
    let client = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    client.set_nonblocking(true)?;
    let answer = client.connect(&SockAddr::unix(path)?);
    Ok(answer.is_err_and(|error| {
        // Of a link that leads nowhere the second.
        let kind = error.kind();
        kind == io::ErrorKind::ConnectionRefused || kind == io::ErrorKind::NotFound
    }))
}

/// Makes `link` lead to a file beside it, whatever it led to before; never replaces what is no link.
fn set_link(link: &Path, file: &Path) -> io::Result<()> {
    let target = file_name(file).ok_or(io::ErrorKind::InvalidInput)?;
    match fs::symlink_metadata(link) {
        Ok(metadata) if metadata.is_symlink() => fs::remove_file(link)?,
        Ok(_) | Err(_) => {}
    }
    symlink(target, link)
}

fn file_name(path: &Path) -> Option<&Path> {
    path.file_name().map(Path::new)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn open(path: &Path) -> Result<Option<ApiListener>, SocketError> {
        ApiListener::open(&ApiSocket::At(path.to_owned()), None)
    }

    #[test]
    fn a_socket_comes_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let first = open(&path).unwrap().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        UnixStream::connect(&path).unwrap();
        assert!(matches!(open(&path), Err(SocketError::InUse(_))));
        drop(first);
        assert!(!path.exists());
        assert!(ApiListener::open(&ApiSocket::Off, None).unwrap().is_none());
    }

    #[test]
    fn that_of_a_dead_process_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a closed socket leaves its file");
        let second = open(&path).unwrap().unwrap();
        UnixStream::connect(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let others = UnixListener::bind(&path).unwrap();
        drop(second);
        assert!(path.exists(), "it is another process's by now");
        drop(others);
        let file = folder.path().join("file");
        fs::write(&file, "precious").unwrap();
        assert!(matches!(open(&file), Err(SocketError::NoSocket(_))));
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
        let link = folder.path().join("link");
        symlink(&file, &link).unwrap();
        assert!(matches!(open(&link), Err(SocketError::NoSocket(_))));
        let nowhere = folder.path().join("no/such/folder.sock");
        assert!(matches!(open(&nowhere), Err(SocketError::System { .. })));
    }

    #[test]
    fn the_plain_name_is_that_of_the_machines_first_namespace() {
        let parent = tempfile::tempdir().unwrap();
        let folder = ApiListener::folder(&parent.path().join("tunlb"), Some(0)).unwrap();
        let [path, link] = ["api-7.sock", PLAIN_NAME].map(|name| folder.path().join(name));
        let listener = ApiListener::in_folder(&folder, &path, Some(0)).unwrap();
        assert_eq!(link.exists(), undo::is_the_first());
        assert_eq!(
            listener.path(),
            if undo::is_the_first() { &link } else { &path }
        );
        UnixStream::connect(listener.path()).unwrap();
        assert_eq!(fs::metadata(folder.path()).unwrap().mode() & 0o777, 0o711);
        drop(listener);
        assert!(!path.exists() && fs::symlink_metadata(&link).is_err());
    }

    #[test]
    fn a_group_is_of_this_host() {
        let named = |name: &str| number_of(&Group::Name(name.into()));
        assert_eq!(number_of(&Group::Number(7)).unwrap(), 7);
        assert_eq!(named("root").unwrap(), 0);
        let error = named("no such group").unwrap_err().to_string();
        assert!(error.contains("no such group in /etc/group"), "{error}");
    }

    #[test]
    fn every_place_has_the_namespace_in_its_name() {
        let mark = undo::namespace_mark().unwrap();
        let name = format!("/run/tunlb/api-{mark}.sock");
        assert_eq!(places().unwrap()[0], Path::new(&name));
        assert!(
            default_path()
                .unwrap()
                .ends_with(format!("api-{mark}.sock"))
        );
    }

    #[test]
    fn a_link_replaces_a_link_alone() {
        let folder = tempfile::tempdir().unwrap();
        let [link, a, b] = ["link", "a", "b"].map(|name| folder.path().join(name));
        set_link(&link, &a).unwrap();
        set_link(&link, &b).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("b"));
        fs::write(&a, "").unwrap();
        assert!(set_link(&a, &b).is_err());
    }
}
