//! Keeps the steps of this process in a journal, or does without where none can be: what a journal is for
//! is worth a warning, not an end.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use super::folder::{Folder, FolderError, candidates};
use super::journal::{Header, Journal};
use super::namespace::{NO_IDENTITY, Namespace};
use super::step::Step;

/// The journal of this process, if any.
#[derive(Debug)]
pub(super) struct Keeper {
    folders: Vec<PathBuf>,
    state: State,
    /// Whether the journal holds what could not be understood or undone, and so must stay.
    unsettled: bool,
}

#[derive(Debug)]
enum State {
    /// No step was made yet.
    NotYet,
    Open {
        journal: Journal,
        header: Header,
    },
    /// It cannot be written to any more, but its lock still says that this process lives.
    Full {
        journal: Journal,
    },
    /// There cannot be one; that was said.
    Without,
}

impl Keeper {
    /// Of a process without steps.
    pub(super) fn new() -> Self {
        Self::within(candidates())
    }

    /// The first of these folders that can be used is.
    pub(super) const fn within(folders: Vec<PathBuf>) -> Self {
        Self {
            folders,
            state: State::NotYet,
            unsettled: false,
        }
    }

    /// Of a journal that was left, and that this process has locked.
    pub(super) const fn resume(journal: Journal, header: Header, unsettled: bool) -> Self {
        Self {
            folders: Vec::new(),
            state: State::Open { journal, header },
            unsettled,
        }
    }

    pub(super) fn make(&mut self, id: u64, step: &Step) {
        if matches!(self.state, State::NotYet) {
            self.state = match start(&self.folders) {
                Ok((journal, header)) => State::Open { journal, header },
                Err(reason) => {
                    log::warn!(
                        "no undo journal: {reason}; should this process be killed, its changes stay"
                    );
                    State::Without
                }
            };
        }
        self.write(|journal| journal.make(id, step));
    }

    pub(super) fn undoing(&mut self, id: u64) {
        self.write(|journal| journal.undoing(id));
    }

    pub(super) fn undone(&mut self, id: u64) {
        self.write(|journal| journal.undone(id));
    }

    /// A step could not be undone: the journal stays, for another attempt.
    pub(super) const fn failed(&mut self) {
        self.unsettled = true;
    }

    /// Makes a journal small that is mostly about what is undone.
    pub(super) fn shrink(&mut self, steps: &BTreeMap<u64, Step>) {
        if let State::Open { journal, header } = &mut self.state
            && journal.is_mostly_idle(steps.len())
            && let Err(error) = journal.rewrite(header, steps)
        {
            log::debug!("cannot shorten the undo journal: {error}");
        }
    }

    /// Takes the file away once all that it said is undone.
    pub(super) fn remove_if_settled(&mut self) {
        if self.unsettled {
            return;
        }
        match std::mem::replace(&mut self.state, State::NotYet) {
            State::Open { journal, .. } | State::Full { journal } => journal.remove(),
            other @ (State::NotYet | State::Without) => self.state = other,
        }
    }

    fn write(&mut self, write: impl FnOnce(&mut Journal) -> io::Result<()>) {
        let State::Open { journal, .. } = &mut self.state else {
            return;
        };
        let Err(error) = write(journal) else { return };
        let path = journal.path().display();
        log::warn!(
            "undo journal {path}: {error}; should this process be killed, some changes stay"
        );
        if let State::Open { journal, .. } = std::mem::replace(&mut self.state, State::Without) {
            self.state = State::Full { journal };
        }
    }
}

fn start(folders: &[PathBuf]) -> Result<(Journal, Header), String> {
    let namespace = Namespace::current().map_err(|error| error.to_string())?;
    let namespace = namespace.ok_or(NO_IDENTITY)?;
    let header = Header::new(namespace);
    let mut reasons = Vec::new();
    for path in folders {
        let journal = Folder::create(path).and_then(|folder| Journal::create(&folder, &header));
        match journal {
            Ok(journal) => return Ok((journal, header)),
            Err(error) => reasons.push(FolderError::to_string(&error)),
        }
    }
    Err(reasons.join("; "))
}
