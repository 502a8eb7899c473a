//! Walking a TOML document: its sections, the lines of its values, and its unknown keys.
//!
//! Knows no key of the schema; [`file`](super::file) does. Nothing stops at a first problem.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Fault, Problem, Site, Written, printable};
use super::value::Raw;

/// The text of a configuration file, for turning offsets into lines and excerpts.
#[derive(Debug)]
pub(super) struct Document<'a> {
    file: &'a str,
    text: &'a str,
    /// The offset of each line's first byte.
    lines: Vec<usize>,
    /// Whether all of the text is TOML. Otherwise what seems to be missing may be unreadable.
    intact: bool,
    /// Whether every section header was understood. After one that was not, keys seem to be in
    /// another section than they are in.
    headers_intact: bool,
}

impl<'a> Document<'a> {
    /// Reads as much of `text` as is TOML; the problems are its syntax errors.
    pub(super) fn parse(
        file: &'a str,
        text: &'a str,
    ) -> (Self, Spanned<DeTable<'a>>, Vec<Problem>) {
        let newlines = text.match_indices('\n').map(|(offset, _)| offset + 1);
        let mut document = Self {
            file,
            text,
            lines: std::iter::once(0).chain(newlines).collect(),
            intact: true,
            headers_intact: true,
        };
        let (table, errors) = DeTable::parse_recoverable(text);
        document.intact = errors.is_empty();
        let mut problems = Vec::new();
        for error in errors {
            let start = error.span().map(|span| span.start);
            document.headers_intact &= !start.is_some_and(|start| document.is_header(start));
            problems.push(Problem {
                file: Some(file.to_owned()),
                line: start.map(|start| document.line(start)),
                key: None,
                value: None,
                message: not_toml(error.message()),
                accepted: None,
            });
        }
        (document, table, problems)
    }

    /// The line of a byte offset, from 1.
    fn line(&self, offset: usize) -> usize {
        self.lines.partition_point(|&start| start <= offset)
    }

    /// Whether the line at a byte offset begins as a section header does.
    fn is_header(&self, offset: usize) -> bool {
        let start = self.line(offset).checked_sub(1);
        start
            .and_then(|line| self.text.get(*self.lines.get(line)?..))
            .is_some_and(|text| text.trim_start_matches([' ', '\t']).starts_with('['))
    }

    fn site(&self, offset: usize, key: String, value: Option<String>) -> Site {
        Site {
            file: Some(self.file.to_owned()),
            line: Some(self.line(offset)),
            key,
            value,
        }
    }

    /// The value as it was written; none for sections, which may contain secrets.
    fn excerpt(&self, value: &Spanned<DeValue<'_>>) -> Option<String> {
        match value.get_ref() {
            DeValue::Array(array) if array.iter().all(|entry| entry.get_ref().is_str()) => {
                self.text.get(value.span()).map(printable)
            }
            DeValue::Array(_) | DeValue::Table(_) => None,
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => self.text.get(value.span()).map(printable),
        }
    }
}

/// One table of the document, and which of its keys were asked for.
#[derive(Debug)]
pub(super) struct Section<'a> {
    document: &'a Document<'a>,
    table: &'a DeTable<'a>,
    site: Site,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The top of the document.
    pub(super) fn root(document: &'a Document<'a>, table: &'a DeTable<'a>) -> Self {
        let mut site = document.site(0, String::new(), None);
        site.line = None;
        Self::new(document, table, site)
    }

    fn new(document: &'a Document<'a>, table: &'a DeTable<'a>, site: Site) -> Self {
        Self {
            document,
            table,
            site,
            known: Vec::new(),
        }
    }

    /// Where the section begins.
    pub(super) fn site(&self) -> &Site {
        &self.site
    }

    fn take(&mut self, key: &'static str) -> Option<(Site, &'a Spanned<DeValue<'a>>)> {
        self.known.push(key);
        let (name, value) = self.table.get_key_value(key)?;
        let excerpt = self.document.excerpt(value);
        let site = self
            .document
            .site(name.span().start, self.site.child(key), excerpt);
        Some((site, value))
    }

    /// Reads a key; a problem when the value is wrong; `None` also when the key is absent.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        problems: &mut Vec<Problem>,
        read: impl FnOnce(Raw<'_>) -> Result<T, Fault>,
    ) -> Option<Written<T>> {
        let (site, value) = self.take(key)?;
        keep(site, read(raw(value.get_ref())), problems)
    }

    /// Reads a key whose absence is known apart from a wrong value: `Some(None)`.
    pub(super) fn absent_or<T>(
        &mut self,
        key: &'static str,
        problems: &mut Vec<Problem>,
        read: impl FnOnce(Raw<'_>) -> Result<T, Fault>,
    ) -> Option<Option<Written<T>>> {
        let Some((site, value)) = self.take(key) else {
            return Some(None);
        };
        keep(site, read(raw(value.get_ref())), problems).map(Some)
    }

    /// Reads a key that has a default.
    pub(super) fn or_default<T>(
        &mut self,
        key: &'static str,
        default: T,
        problems: &mut Vec<Problem>,
        read: impl FnOnce(Raw<'_>) -> Result<T, Fault>,
    ) -> Option<Written<T>> {
        if !self.contains(key) {
            self.known.push(key);
            let site = self.site.absent(key);
            return Some(Written {
                value: default,
                site,
            });
        }
        self.optional(key, problems, read)
    }

    /// Reads a key that must be there; `example` is what to write.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        example: &str,
        problems: &mut Vec<Problem>,
        read: impl FnOnce(Raw<'_>) -> Result<T, Fault>,
    ) -> Option<Written<T>> {
        if !self.contains(key) && self.document.intact {
            let fault = Fault::new("missing", example);
            problems.push(self.site.absent(key).problem(fault));
        }
        self.optional(key, problems, read)
    }

    /// Like [`Section::or_default`], and no problem shows the value.
    pub(super) fn secret<T>(
        &mut self,
        key: &'static str,
        default: T,
        problems: &mut Vec<Problem>,
        read: impl FnOnce(Raw<'_>) -> Result<T, Fault>,
    ) -> Option<Written<T>> {
        let Some((mut site, value)) = self.take(key) else {
            let site = self.site.absent(key);
            return Some(Written {
                value: default,
                site,
            });
        };
        site.value = None;
        keep(site, read(raw(value.get_ref())), problems)
    }

    /// Whether the key is written here.
    pub(super) fn contains(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The sub-section `[key]`; a problem when the key is something else.
    pub(super) fn table(&mut self, key: &'static str, problems: &mut Vec<Problem>) -> Option<Self> {
        let (site, value) = self.take(key)?;
        if let DeValue::Table(table) = value.get_ref() {
            return Some(Self::new(self.document, table, site));
        }
        let accepted = format!("a section [{}]", without_indices(&site.key));
        problems.extend(self.wrong_section(&site, value.get_ref(), &accepted));
        None
    }

    /// The sub-sections `[[key]]`; a problem for each that is something else.
    pub(super) fn tables(&mut self, key: &'static str, problems: &mut Vec<Problem>) -> Vec<Self> {
        let Some((site, value)) = self.take(key) else {
            return Vec::new();
        };
        let accepted = format!("sections [[{}]]", without_indices(&site.key));
        let DeValue::Array(array) = value.get_ref() else {
            problems.extend(self.wrong_section(&site, value.get_ref(), &accepted));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, element) in array.iter().enumerate() {
            let key = format!("{}[{index}]", site.key);
            let excerpt = self.document.excerpt(element);
            let site = self.document.site(element.span().start, key, excerpt);
            if let DeValue::Table(table) = element.get_ref() {
                sections.push(Self::new(self.document, table, site));
            } else {
                problems.extend(self.wrong_section(&site, element.get_ref(), &accepted));
            }
        }
        sections
    }

    /// Reports every key that nobody asked for. The value is not shown: it may be a secret.
    pub(super) fn finish(self, problems: &mut Vec<Problem>) {
        if !self.document.headers_intact {
            return;
        }
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let path = self.site.child(name);
            let site = self.document.site(key.span().start, path, None);
            problems.push(site.problem(self.unknown(name)));
        }
    }

    fn wrong_section(&self, site: &Site, value: &DeValue<'_>, accepted: &str) -> Option<Problem> {
        let message = format!("wrong type ({})", value.type_str());
        let problem = || site.problem(Fault::new(message, accepted));
        self.document.headers_intact.then(problem)
    }

    fn unknown(&self, name: &str) -> Fault {
        let accepted = self.known.join(", ");
        match nearest(name, &self.known) {
            Some(near) => Fault::new(format!("unknown key; did you mean {near}?"), accepted),
            None => Fault::new("unknown key", accepted),
        }
    }
}

/// Without the parser's remark on tokens that nothing may follow.
fn not_toml(message: &str) -> String {
    let message = message.trim_end_matches(", expected nothing");
    format!("not TOML: {message}")
}

fn keep<T>(
    site: Site,
    outcome: Result<T, Fault>,
    problems: &mut Vec<Problem>,
) -> Option<Written<T>> {
    match outcome {
        Ok(value) => Some(Written { value, site }),
        Err(fault) => {
            problems.push(site.problem(fault));
            None
        }
    }
}

fn raw<'v>(value: &'v DeValue<'_>) -> Raw<'v> {
    match value {
        DeValue::String(text) => Raw::Text(text),
        DeValue::Integer(number) => {
            Raw::Whole(i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(i128::MAX))
        }
        DeValue::Array(array) => {
            Raw::List(array.iter().map(|entry| raw(entry.get_ref())).collect())
        }
        DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Table(_) => {
            Raw::Other(value.type_str())
        }
    }
}

/// `vip[0].backend` as it stands in a section header: `vip.backend`.
fn without_indices(key: &str) -> String {
    let parts = key
        .split('.')
        .map(|part| part.split('[').next().unwrap_or(part));
    parts.collect::<Vec<_>>().join(".")
}

/// The known key that `name` was probably meant to be: at most a third of it differs.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let plain = name.to_ascii_lowercase().replace('-', "_");
    known
        .iter()
        .map(|&key| (strsim::osa_distance(&plain, key), key))
        .filter(|&(distance, key)| distance <= (key.len() / 3).max(1))
        .min()
        .map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses() {
        let known = ["tun", "workers", "hash_key", "weight", "backend"];
        for (name, expected) in [
            ("worker", Some("workers")),
            ("hash-key", Some("hash_key")),
            ("HashKey", Some("hash_key")),
            ("weigth", Some("weight")),
            ("backends", Some("backend")),
            ("tnu", Some("tun")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, &known), expected, "{name}");
        }
    }

    #[test]
    fn lines() {
        let (document, table, problems) = Document::parse("f", "a = 1\r\nb = 2\n\nc = 3");
        assert_eq!(problems, []);
        let mut section = Section::root(&document, table.get_ref());
        let mut found = Vec::new();
        section.finish(&mut found);
        let lines: Vec<_> = found.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [Some(1), Some(2), Some(4)]);
        section = Section::root(&document, table.get_ref());
        assert_eq!(
            section.take("c").map(|(site, _)| site.value),
            Some(Some("3".to_owned()))
        );
    }

    #[test]
    fn section_names() {
        assert_eq!(without_indices("vip[10].backend"), "vip.backend");
        assert_eq!(without_indices("director.encap"), "director.encap");
    }
}
