//! The problems of a configuration: as many as a reader can use, and how many there are.
//!
//! A hostile file has as many problems as lines. Memory and output are bounded by [`KEPT`], whatever
//! the file.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use super::problem::Problem;

/// How many problems are kept and shown.
pub const KEPT: usize = 100;

/// What is wrong with a configuration; never nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    first: Vec<Problem>,
    total: usize,
}

impl Problems {
    /// The first [`KEPT`], in the order of the file.
    #[must_use]
    pub fn first(&self) -> &[Problem] {
        &self.first
    }

    /// How many there are.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.total
    }
}

/// One line for each of the first problems, and one that says how many more there are.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.first.iter().enumerate() {
            let between = if number == 0 { "" } else { "\n" };
            write!(f, "{between}{problem}")?;
        }
        match self.total - self.first.len() {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

/// Problems that are being found, in any order.
#[derive(Debug, Default)]
pub(super) struct Collector {
    /// By line, and of one line by the order in which they were found.
    first: BTreeMap<(Option<usize>, usize), Problem>,
    total: usize,
    /// Lines that are not TOML: they have no other problem.
    broken: HashSet<Option<usize>>,
    /// Sections that are there in a wrong form: they are not missing as well.
    misshapen: HashSet<String>,
    /// Backends from flags belong to every VIP, and so do their problems.
    of_flags: HashSet<String>,
}

impl Collector {
    pub(super) fn push(&mut self, problem: Problem) {
        if problem.file.is_none() && !self.of_flags.insert(problem.to_string()) {
            return;
        }
        self.push_with(problem.line, || problem);
    }

    /// Like [`push`](Self::push) for a problem of a file; it is only made where it is kept.
    pub(super) fn push_with(&mut self, line: Option<usize>, problem: impl FnOnce() -> Problem) {
        if self.broken.contains(&line) {
            return;
        }
        let place = (line, self.total);
        self.total += 1;
        if self.first.len() == KEPT {
            if self
                .first
                .last_key_value()
                .is_some_and(|last| *last.0 < place)
            {
                return;
            }
            self.first.pop_last();
        }
        self.first.insert(place, problem());
    }

    pub(super) fn extend(&mut self, problems: impl IntoIterator<Item = Problem>) {
        problems.into_iter().for_each(|problem| self.push(problem));
    }

    /// A line that is not TOML. Comes before all other problems of its line, and is its only one.
    pub(super) fn push_syntax(&mut self, line: Option<usize>, problem: impl FnOnce() -> Problem) {
        self.push_with(line, problem);
        self.broken.insert(line);
    }

    /// A key that should be a section and is not.
    pub(super) fn push_misshapen(&mut self, problem: Problem) {
        self.misshapen.extend(problem.key.clone());
        self.push(problem);
    }

    /// A section that is not there; nothing where it is there in a wrong form.
    pub(super) fn push_missing(&mut self, problem: Problem) {
        if !problem
            .key
            .as_ref()
            .is_some_and(|key| self.misshapen.contains(key))
        {
            self.push(problem);
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.total == 0
    }

    pub(super) fn finish(self) -> Problems {
        Problems {
            first: self.first.into_values().collect(),
            total: self.total,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(line: usize, message: &str) -> Problem {
        Problem {
            file: Some("f".to_owned()),
            line: Some(line),
            key: None,
            value: None,
            message: message.to_owned(),
            accepted: None,
        }
    }

    #[test]
    fn the_first_of_the_file_are_kept() {
        let mut collector = Collector::default();
        for line in (1..=520_000).rev() {
            collector.push_with(Some(line), || problem(line, "wrong"));
        }
        let problems = collector.finish();
        assert_eq!(problems.total(), 520_000);
        let lines: Vec<_> = problems.first().iter().filter_map(|p| p.line).collect();
        assert_eq!(lines, (1..=KEPT).collect::<Vec<_>>());
        let text = problems.to_string();
        assert_eq!(text.lines().count(), KEPT + 1);
        assert!(text.starts_with("f:1: wrong\nf:2:"), "{text}");
        assert!(text.ends_with("\nand 519900 more"), "{text}");
    }

    #[test]
    fn problems_of_a_line_are_in_the_order_in_which_they_were_found() {
        let mut collector = Collector::default();
        collector.push(problem(2, "a"));
        collector.push(problem(1, "b"));
        collector.push(problem(2, "c"));
        assert_eq!(collector.finish().to_string(), "f:1: b\nf:2: a\nf:2: c");
    }

    #[test]
    fn a_line_that_is_not_toml_has_one_problem() {
        let mut collector = Collector::default();
        for message in ["not TOML: a", "not TOML: b"] {
            collector.push_syntax(Some(1), || problem(1, message));
        }
        collector.push(problem(1, "out of range"));
        assert_eq!(collector.finish().to_string(), "f:1: not TOML: a");
    }
}
