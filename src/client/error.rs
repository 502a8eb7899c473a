//! Why a director gave no answer, or another one than was hoped for.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::api::model::Problem;

/// Why a director gave no answer, or another one than was hoped for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket is not there, or nothing listens on it.
    #[error(
        "no director answers at {}: {error}; is `tunlb run` running in this network namespace? \
         To name its socket: --api PATH", .path.display()
    )]
    NoDirector {
        /// The socket.
        path: PathBuf,
        /// The system's.
        error: io::Error,
    },
    /// The socket is another user's.
    #[error("permission denied at {}: {needed}", .path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
        /// Who may use it.
        needed: String,
    },
    /// It took too long.
    #[error(
        "the director at {} did not answer within {} s; it hangs, is stopped or overloaded",
        .path.display(), .patience.as_secs()
    )]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// How long was waited for a piece of the answer.
        patience: Duration,
    },
    /// The connection ended in the middle of an answer.
    #[error("the answer of the director at {} is cut off: it ended meanwhile", .0.display())]
    CutOff(PathBuf),
    /// What answers does not speak as a director does.
    #[error("what answers at {} is no director of this version: {what}", .path.display())]
    Garbled {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        what: Garbled,
    },
    /// The system's.
    #[error("cannot talk to the director at {}: {error}", .path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// The system's.
        error: io::Error,
    },
    /// The director says no.
    #[error("{}", told(.0))]
    Problem(Box<Problem>),
}

/// What is wrong with an answer.
#[derive(Debug, thiserror::Error)]
pub enum Garbled {
    /// Its head.
    #[error("its answer is not HTTP/1.1")]
    Head,
    /// Its head.
    #[error("the head of its answer is too long")]
    LongHead,
    /// How the body ends.
    #[error("its answer has a body of unknown length")]
    Length,
    /// A chunk.
    #[error("a chunk of its answer is none")]
    Chunk,
    /// More than so many bytes.
    #[error("its answer is longer than {0} bytes")]
    LongBody(u64),
    /// A line of a stream.
    #[error("a line of its answer is too long")]
    LongLine,
    /// Bytes that are no text.
    #[error("its answer is not UTF-8")]
    NotText,
    /// JSON, or another document.
    #[error("its answer is not the document that was asked for: {0}")]
    Document(serde_json::Error),
    /// [`crate::api::model::SCHEMA`]
    #[error("its documents are of schema {0}, and this tunlb reads schema {own}", own = crate::api::model::SCHEMA)]
    Schema(u64),
    /// An error without a document.
    #[error("it answers with status {0}")]
    Status(u16),
}

impl From<Garbled> for io::Error {
    fn from(what: Garbled) -> Self {
        Self::new(io::ErrorKind::InvalidData, what)
    }
}

impl ClientError {
    /// Of a connection that cannot be made.
    pub(super) fn connecting(path: &Path, source: io::Error, patience: Duration) -> Self {
        let path = path.to_owned();
        let kind = source.kind();
        if is_timeout(kind) {
            return Self::TimedOut { path, patience };
        }
        if kind == io::ErrorKind::PermissionDenied {
            let needed = needed(&path);
            return Self::Denied { path, needed };
        }
        Self::NoDirector {
            path,
            error: source,
        }
    }

    /// Of one that is there.
    pub(super) fn talking(path: &Path, source: io::Error, patience: Duration) -> Self {
        let path = path.to_owned();
        let kind = source.kind();
        if is_timeout(kind) {
            return Self::TimedOut { path, patience };
        }
        if matches!(
            kind,
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
        ) {
            return Self::CutOff(path);
        }
        match source.downcast::<Garbled>() {
            Ok(what) => Self::Garbled { path, what },
            Err(error) => Self::System { path, error },
        }
    }

    /// Whether this is an answer, if a bad one: a change that the state of the director does not allow, a
    /// configuration that is invalid. All else is a request that could not be made.
    #[must_use]
    pub fn is_bad_news(&self) -> bool {
        matches!(self, Self::Problem(problem) if matches!(problem.status, 409 | 412 | 422))
    }
}

/// What reading or connecting says once its time is over (SO_RCVTIMEO, SO_SNDTIMEO: socket(7)).
const fn is_timeout(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// A problem document in lines.
fn told(problem: &Problem) -> String {
    let mut text = String::new();
    if let Some(field) = &problem.field {
        write!(text, "{field}: ").unwrap_or_default(); // into a String
    }
    text.push_str(if problem.detail.is_empty() {
        &problem.title
    } else {
        &problem.detail
    });
    for fault in problem
        .problems
        .iter()
        .filter(|fault| **fault != problem.detail)
    {
        write!(text, "\n{fault}").unwrap_or_default();
    }
    text
}

/// The rights that a socket asks for.
fn needed(path: &Path) -> String {
    let Ok(metadata) = fs::metadata(path) else {
        return "its folder is closed to this user; use sudo".to_owned();
    };
    let gid = metadata.gid();
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let group = group_name(&groups, gid).map_or_else(|| gid.to_string(), str::to_owned);
    let rest = metadata.mode() & 0o060;
    if rest == 0o060 {
        format!("it is for root and the group {group}; join that group, or use sudo")
    } else {
        format!("it is for uid {} alone; use sudo", metadata.uid())
    }
}

/// The name of a group by group(5).
fn group_name(groups: &str, gid: u32) -> Option<&str> {
    let is_it = |line: &&str| line.split(':').nth(2) == Some(gid.to_string().as_str());
    groups.lines().find(is_it)?.split(':').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_groups() {
        let groups = "root:x:0:\n# a comment\ntunlb:x:998:ann,bob\n";
        assert_eq!(group_name(groups, 998), Some("tunlb"));
        assert_eq!(group_name(groups, 99), None);
    }

    #[test]
    fn problems_are_told_with_their_field() {
        let problem = |status, field: Option<&str>, problems: &[&str]| {
            ClientError::Problem(Box::new(Problem {
                status,
                title: "refused".to_owned(),
                detail: "70000 is not 0 to 65535".to_owned(),
                field: field.map(str::to_owned),
                problems: problems.iter().map(|text| (*text).to_owned()).collect(),
            }))
        };
        let error = problem(400, Some("weight"), &[]);
        assert_eq!(error.to_string(), "weight: 70000 is not 0 to 65535");
        assert!(!error.is_bad_news());
        let error = problem(422, None, &["a.toml:1: x", "a.toml:2: y"]);
        assert_eq!(
            error.to_string(),
            "70000 is not 0 to 65535\na.toml:1: x\na.toml:2: y"
        );
        assert!(error.is_bad_news());
    }
}
