//! Journals that processes left behind which were killed: found, told apart, undone.
//!
//! Only a journal of this very network namespace is acted on, and only when its process is gone. One of a
//! namespace that is certainly gone is taken away; one of another namespace, which may still exist, is left
//! to a start there.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::folder::{Folder, FolderError, candidates, is_linked, open_journal};
use super::journal::{self, Content, Head, Header, Journal};
use super::keeper::Keeper;
use super::namespace::{NO_IDENTITY, Namespace, Relation};
use super::step::Step;
use super::{Reversal, Undo, UndoError, tell};
use crate::text::plain::Plain;

/// How long another process may take that undoes at the same time, before this one goes on all the same.
const PATIENCE: Duration = Duration::from_secs(10);

/// Journals of other namespaces that are kept at most: those of namespaces that are gone cannot be told
/// from the others for certain, and must not fill the folder.
const KEPT_OF_OTHERS: usize = 256;

/// What was found.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// What killed processes of this namespace left, the newest first.
    pub left: Vec<Left>,
    /// Processes of this namespace that live, and have something to undo when they end.
    pub living: Vec<Living>,
    /// Journals of other namespaces.
    pub elsewhere: usize,
    /// Folders that were not looked into, and why.
    pub folders: Vec<String>,
    /// Files that were not acted on, and why.
    pub unusable: Vec<String>,
}

/// A process that lives, and its journal.
#[derive(Debug)]
pub struct Living {
    /// The journal.
    pub path: PathBuf,
    /// The process.
    pub pid: u32,
    /// Its subcommand.
    pub command: String,
}

/// A journal that was left. As long as this lives, no other process undoes it.
#[derive(Debug)]
pub struct Left {
    file: File,
    path: PathBuf,
    header: Header,
    content: Content,
    length: u64,
    changed: SystemTime,
}

impl Left {
    /// The journal.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The process that left it.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.header.pid
    }

    /// The subcommand of that process.
    #[must_use]
    pub fn command(&self) -> String {
        Plain(&self.header.command).to_string()
    }

    /// What is to be undone, in the order of undoing.
    #[must_use]
    pub fn steps(&self) -> Vec<&Step> {
        let steps = || self.content.steps.values().rev();
        let first = steps().filter(|step| !step.outlasts_traffic());
        first
            .chain(steps().filter(|step| step.outlasts_traffic()))
            .collect()
    }

    /// Numbers of the lines that were not understood.
    #[must_use]
    pub fn garbage(&self) -> &[usize] {
        &self.content.garbage
    }

    /// Undoes it; `told` hears of each step that is. Returns what could not be undone, and why: the journal
    /// then stays, for another attempt.
    ///
    /// # Errors
    /// [`UndoError::Netlink`] where nothing could be undone.
    pub fn undo(
        self,
        mut told: impl FnMut(&Step, Reversal),
    ) -> Result<Vec<(Step, UndoError)>, UndoError> {
        let unsettled = !self.content.garbage.is_empty();
        let journal = Journal::resume(self.file, self.path, self.length);
        let keeper = Keeper::resume(journal, self.header, unsettled);
        let mut undo = Undo::kept_by(keeper)?;
        undo.adopt(self.content.steps, self.content.undoing);
        Ok(undo.undo_telling(&mut told))
    }
}

/// Looks for journals, and takes away those of namespaces that are gone.
#[must_use]
pub fn find() -> Leftovers {
    find_in(&candidates())
}

pub(super) fn find_in(folders: &[PathBuf]) -> Leftovers {
    let mut found = Leftovers::default();
    let own = match Namespace::current() {
        Ok(Some(own)) => own,
        Ok(None) => {
            found.folders.push(NO_IDENTITY.to_owned());
            return found;
        }
        Err(error) => {
            found.folders.push(format!("/proc: {error}"));
            return found;
        }
    };
    let mut others = Vec::new();
    for folder in folders {
        let journals = match Folder::open(folder) {
            Ok(Some(folder)) => folder.journals(),
            Ok(None) => continue,
            Err(error) => Err(error),
        };
        let journals = journals.unwrap_or_else(|error| {
            found.folders.push(error.to_string());
            Vec::new()
        });
        for path in journals {
            match look_at(&path, &own) {
                Ok(Look::Left(left)) => found.left.push(*left),
                Ok(Look::Living(living)) => found.living.push(living),
                Ok(Look::Elsewhere(changed)) => others.push((changed, path)),
                Ok(Look::Nothing) => {}
                Err(error) => found.unusable.push(error.to_string()),
            }
        }
    }
    found
        .left
        .sort_by_key(|left| std::cmp::Reverse(left.changed));
    others.sort();
    found.elsewhere = others.len().min(KEPT_OF_OTHERS);
    let surplus = others.len() - found.elsewhere;
    others
        .iter()
        .take(surplus)
        .for_each(|(_, path)| remove_if_left(path));
    found
}

/// What one file turned out to be.
enum Look {
    Left(Box<Left>),
    Living(Living),
    /// Of another namespace, last changed at this time.
    Elsewhere(SystemTime),
    /// Nothing that matters any more.
    Nothing,
}

fn look_at(path: &Path, own: &Namespace) -> Result<Look, FolderError> {
    let failed = |cause| FolderError::System {
        path: path.to_owned(),
        cause,
    };
    let file = match open_journal(path) {
        Err(FolderError::System { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
            return Ok(Look::Nothing); // it was undone meanwhile
        }
        other => other?,
    };
    let header = match journal::head(&file).map_err(failed)? {
        Head::Header(header) => header,
        Head::Unborn => {
            remove_if_left(path);
            return Ok(Look::Nothing);
        }
        Head::Unknown => return Err(unknown(path)),
    };
    let changed = file.metadata().and_then(|metadata| metadata.modified());
    let changed = changed.unwrap_or(SystemTime::UNIX_EPOCH);
    match own.relation(&header.namespace) {
        Relation::Gone => remove_if_left(path),
        Relation::Other => return Ok(Look::Elsewhere(changed)),
        Relation::Same => return look_at_own(path, file, header, changed).map_err(failed),
    }
    Ok(Look::Nothing)
}

fn look_at_own(path: &Path, file: File, header: Header, changed: SystemTime) -> io::Result<Look> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Ok(Look::Living(Living {
                path: path.to_owned(),
                pid: header.pid,
                command: Plain(&header.command).to_string(),
            }));
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    if !is_linked(&file) {
        return Ok(Look::Nothing); // it was undone meanwhile
    }
    let (content, length) = journal::read(&file)?;
    Ok(Look::Left(Box::new(Left {
        file,
        path: path.to_owned(),
        header,
        content,
        length,
        changed,
    })))
}

fn unknown(path: &Path) -> FolderError {
    FolderError::NotOurs {
        path: path.to_owned(),
        what: "not a journal that this version of tunlb understands, so it is left alone; \
               once what it says is settled, remove it",
    }
}

/// Takes a file away that no living process holds.
fn remove_if_left(path: &Path) {
    let left = open_journal(path).is_ok_and(|file| {
        file.try_lock().is_ok() && { is_linked(&file) && fs::remove_file(path).is_ok() }
    });
    log::debug!(
        "{}: {}",
        path.display(),
        if left { "removed" } else { "kept" }
    );
}

/// Undoes what killed processes of this namespace left, and tells the log: the first thing that a process
/// does that changes the host itself.
pub fn recover() {
    recover_in(&candidates());
}

fn recover_in(folders: &[PathBuf]) {
    let _alone = alone(folders);
    let found = find_in(folders);
    for text in found.folders {
        log::debug!("no undo journals looked for: {text}"); // whoever needs the folder says more
    }
    for text in found.unusable {
        log::warn!("undo journal not used: {text}");
    }
    for left in found.left {
        recover_one(left);
    }
}

fn recover_one(left: Left) {
    let (path, command) = (left.path().to_owned(), left.command());
    let (pid, steps) = (left.pid(), left.steps().len());
    log::warn!(
        "process {pid} (tunlb {command}) ended without undoing its {steps} changes; undoing them"
    );
    for line in left.garbage() {
        log::warn!(
            "{}: line {line} is not understood, nothing was made of it",
            path.display()
        );
    }
    match left.undo(tell) {
        Ok(failures) => {
            for (step, error) in failures {
                log::warn!("cannot undo {step}: {error}; by hand: {}", step.by_hand());
            }
        }
        Err(error) => log::warn!("cannot undo what process {pid} left: {error}"),
    }
}

/// Keeps two processes that start at the same time from one judging the host while the other undoes.
fn alone(folders: &[PathBuf]) -> Vec<File> {
    let deadline = Instant::now() + PATIENCE;
    let folders = folders
        .iter()
        .filter(|path| matches!(Folder::open(path), Ok(Some(_))));
    let mut held = Vec::new();
    for folder in folders.filter_map(|path| File::open(path).ok()) {
        while matches!(folder.try_lock(), Err(TryLockError::WouldBlock)) {
            if Instant::now() > deadline {
                return held;
            }
            thread::sleep(Duration::from_millis(20));
        }
        held.push(folder);
    }
    held
}
