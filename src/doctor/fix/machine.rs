//! What mending does to the world, and what it asks: implemented by the command line for this machine,
//! and by tests from literals.

use super::before::Before;
use super::command::Change;
use super::script::Entry;
use crate::doctor::finding::{Code, Diagnosis};

/// What a session does to the world; a test answers from literals.
pub trait Machine {
    /// Why the session cannot go on at all.
    type Error;

    /// Looks and judges, the worst diagnosis first.
    ///
    /// # Errors
    /// Nothing can be examined.
    fn diagnose(&mut self) -> Result<Vec<Diagnosis>, Self::Error>;

    /// What a change's undo depends on.
    ///
    /// # Errors
    /// What could not be read, and why.
    fn before(&mut self, change: &Change) -> Result<Before, String>;

    /// Whether a change may be made.
    ///
    /// # Errors
    /// The user cannot be asked.
    fn allows(&mut self, proposal: &Proposal<'_>) -> Result<bool, Self::Error>;

    /// Takes down an undo before its change.
    ///
    /// # Errors
    /// It cannot be kept; then nothing is changed.
    fn record(&mut self, entry: Entry) -> Result<(), Self::Error>;

    /// The change of the last record was not made.
    ///
    /// # Errors
    /// As [`Machine::record`].
    fn forget_last(&mut self) -> Result<(), Self::Error>;

    /// Runs a command, without a shell, within a deadline.
    ///
    /// # Errors
    /// Why it failed.
    fn run(&mut self, command: &[String]) -> Result<(), String>;

    /// Gives a file a content, whole or not at all; makes its folder.
    ///
    /// # Errors
    /// Why it could not be written.
    fn write(&mut self, file: &str, content: &str) -> Result<(), String>;
}

/// A change that is about to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proposal<'a> {
    /// The finding that it mends.
    pub code: Code,
    /// A line of a shell, or the file that is written and its new content.
    pub what: &'a str,
    /// Lines of a shell that take it back.
    pub undo: &'a [String],
}
