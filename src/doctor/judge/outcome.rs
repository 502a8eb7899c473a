//! What one check comes to, before it is given its code and title.

use std::collections::BTreeMap;

use crate::doctor::finding::{Code, Status};
use crate::doctor::firewall::RuleText;
use crate::doctor::lines::{FixLine, Snippet};

/// The part of a finding that a check decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) status: Status,
    pub(super) summary: String,
    pub(super) evidence: BTreeMap<String, String>,
    pub(super) fix: Vec<FixLine>,
    pub(super) persist: Vec<Snippet>,
    pub(super) verify: Option<FixLine>,
    pub(super) blocked_by: Option<Code>,
}

impl Outcome {
    fn new(status: Status, summary: impl Into<String>) -> Self {
        Self {
            status,
            summary: summary.into(),
            evidence: BTreeMap::new(),
            fix: Vec::new(),
            persist: Vec::new(),
            verify: None,
            blocked_by: None,
        }
    }

    pub(super) fn pass() -> Self {
        Self::new(Status::Pass, "")
    }

    pub(super) fn skip(why: impl Into<String>) -> Self {
        Self::new(Status::Skip, why)
    }

    pub(super) fn unknown(why: impl Into<String>) -> Self {
        Self::new(Status::Unknown, why)
    }

    pub(super) fn warn(what: impl Into<String>) -> Self {
        Self::new(Status::Warn, what)
    }

    pub(super) fn fail(what: impl Into<String>) -> Self {
        Self::new(Status::Fail, what)
    }

    /// Pointless because of another check.
    pub(super) fn blocked(by: Code) -> Self {
        Self {
            blocked_by: Some(by),
            ..Self::new(Status::Skip, "")
        }
    }

    pub(super) fn evidence(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.evidence.insert(name.into(), value.to_string());
        self
    }

    /// The rule that decides.
    pub(super) fn quoted(self, rule: &RuleText) -> Self {
        let outcome = self.evidence(format!("{} {}", rule.program, rule.place()), &rule.rule);
        match rule.packets {
            Some(packets) => outcome.evidence("packets of that rule", packets),
            None => outcome,
        }
    }

    pub(super) fn fix(mut self, command: impl Into<FixLine>) -> Self {
        self.fix.push(command.into());
        self
    }

    pub(super) fn persist(mut self, snippet: impl Into<Snippet>) -> Self {
        self.persist.push(snippet.into());
        self
    }

    pub(super) fn verify(mut self, command: impl Into<FixLine>) -> Self {
        self.verify = Some(command.into());
        self
    }
}
