//! A table of copies of the main table's routes, and rules by which answers ask it first.

use std::net::IpAddr;

use super::step::Step;
use super::{Undo, UndoError, there_is_fine};
use crate::packet::Version;

impl Undo {
    /// Remembers that a table, which has no routes of this family, is going to have some: undoing removes
    /// all of them. To be called before the first one is added.
    pub fn keep_table(&mut self, version: Version, table: u32) {
        let version = version.into();
        self.intend(Step::Table { version, table });
    }

    /// Makes packets from an address ask a table before those of rules with a larger `priority`. A rule that
    /// this journal added before, and that is gone, is added again.
    ///
    /// # Errors
    /// [`UndoError::Netlink`].
    pub fn add_rule(&mut self, from: IpAddr, table: u32, priority: u32) -> Result<(), UndoError> {
        let step = Step::Rule {
            from,
            table,
            priority,
        };
        if self.done.values().any(|done| *done == step) {
            let added = self.netlink.add_rule_from(from, table, priority);
            return there_is_fine(added.map_err(Into::into));
        }
        let made = self.make(step, |netlink| {
            Ok(netlink.add_rule_from(from, table, priority)?)
        });
        there_is_fine(made)
    }
}
