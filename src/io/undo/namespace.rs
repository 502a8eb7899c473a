//! Which network namespace this is, so surely that a journal is never taken for that of another one.
//!
//! Since Linux 5.14 each has a cookie that no other one gets until the machine starts again. Before, there
//! is only the inode number of `/proc/self/ns/net`, which a later namespace may get: it is no identity.
//! What is certain there is the machine's first namespace, which lasts as long as the machine runs.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::{fs::MetadataExt as _, net::UnixDatagram};

use serde::{Deserialize, Serialize};

use crate::io::sys::namespace_cookie;

/// The inode of the machine's first process namespace (PROC_PID_INIT_INO, linux/proc_ns.h): inside it,
/// process 1 is the machine's own.
const FIRST_PROCESS_NAMESPACE: u64 = 0xEFFF_FFFC;

/// The inode of the machine's first network namespace since Linux 6.18 (NET_NS_INIT_INO, linux/nsfs.h).
const FIRST_NETWORK_NAMESPACE: u64 = 0xEFFF_FFF9;

/// Why there is no journal where nothing tells the namespace apart.
pub(super) const NO_IDENTITY: &str =
    "before Linux 5.14 only the machine's first network namespace can be told from a later one";

/// What tells the network namespace of this process from every other one that exists now: a part of a file's name,
/// the same for each process in it.
///
/// # Errors
/// What cannot be read of `/proc`.
pub fn mark() -> io::Result<String> {
    match namespace_cookie(UnixDatagram::unbound()?.as_fd()) {
        Ok(cookie) => Ok(format!("{cookie:x}")),
        Err(_) => Ok(format!("inode-{}", own_inode()?)),
    }
}

/// Whether this process is in the machine's first network namespace, as far as it may find out: before Linux 6.18
/// that needs privileges.
#[must_use]
pub fn is_the_first() -> bool {
    own_inode().is_ok_and(|inode| inode == FIRST_NETWORK_NAMESPACE || is_first(inode))
}

fn own_inode() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/net")?.ino())
}

/// A network namespace of one run of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Namespace {
    /// Of the run of the machine: `/proc/sys/kernel/random/boot_id`.
    boot: String,
    which: Which,
    /// Of `/proc/self/ns/net`. Two that exist at the same time differ in it.
    inode: u64,
}

/// Tells the network namespaces of one run of the machine apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Which {
    Cookie(u64),
    First,
}

/// How a namespace relates to that of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    Same,
    /// It no longer exists: the machine started again since, or its inode number is that of this one.
    Gone,
    /// Another one, which may still exist.
    Other,
}

impl Namespace {
    /// That of this process; `None` where nothing tells it apart from a later one for certain.
    ///
    /// # Errors
    /// What cannot be read of `/proc`.
    pub(super) fn current() -> io::Result<Option<Self>> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let inode = own_inode()?;
        let which = match namespace_cookie(UnixDatagram::unbound()?.as_fd()) {
            Ok(cookie) => Some(Which::Cookie(cookie)),
            Err(_) if is_first(inode) => Some(Which::First),
            Err(_) => None,
        };
        Ok(which.map(|which| Self {
            boot: boot.trim().to_owned(),
            which,
            inode,
        }))
    }

    /// What `other` is to this one, the namespace of this process.
    pub(super) fn relation(&self, other: &Self) -> Relation {
        if self.boot != other.boot {
            Relation::Gone
        } else if self.which == other.which {
            Relation::Same
        } else if self.inode == other.inode {
            Relation::Gone
        } else {
            Relation::Other
        }
    }

    /// A part of a file's name; that two agree in it proves nothing.
    pub(super) fn label(&self) -> String {
        match self.which {
            Which::Cookie(cookie) => format!("{cookie:x}"),
            Which::First => "first".to_owned(),
        }
    }
}

fn is_first(inode: u64) -> bool {
    let of = |path: &str| fs::metadata(path).map(|metadata| metadata.ino());
    of("/proc/self/ns/pid").is_ok_and(|pid| pid == FIRST_PROCESS_NAMESPACE)
        && of("/proc/1/ns/net").is_ok_and(|first| first == inode)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn namespace(boot: &str, cookie: u64, inode: u64) -> Namespace {
        Namespace {
            boot: boot.into(),
            which: Which::Cookie(cookie),
            inode,
        }
    }

    #[test]
    fn only_the_cookie_of_the_same_boot_makes_it_the_same() {
        let own = namespace("b1", 7, 4_026_532_000);
        for (description, boot, cookie, inode, expected) in [
            ("itself", "b1", 7, 4_026_532_000, Relation::Same),
            ("before a boot", "b2", 7, 4_026_532_000, Relation::Gone),
            ("inode used again", "b1", 6, 4_026_532_000, Relation::Gone),
            ("another", "b1", 6, 4_026_532_001, Relation::Other),
        ] {
            let other = namespace(boot, cookie, inode);
            assert_eq!(own.relation(&other), expected, "{description}");
        }
    }

    #[test]
    fn this_one_is_itself() {
        let own = Namespace::current().unwrap().unwrap();
        assert_eq!(
            own.relation(&Namespace::current().unwrap().unwrap()),
            Relation::Same
        );
    }
}
