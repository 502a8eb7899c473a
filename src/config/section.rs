//! Walking a TOML document: its sections, the lines of its values, and its unknown keys.
//!
//! Knows no key of the schema; [`file`](super::file) does. Nothing stops at a first problem.

use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Absences;
use super::problem::{Fault, Problem, Site, Written, excerpt};
use super::problems::Collector;
use super::syntax::{self, Refusal};
use super::value::Raw;

/// The text of a configuration file, for turning offsets into lines and excerpts.
#[derive(Debug)]
pub(super) struct Document<'a> {
    file: Arc<str>,
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
    /// Reads as much of `text` as is TOML; its syntax errors are problems.
    pub(super) fn parse(
        file: &str,
        text: &'a str,
        problems: &mut Collector,
    ) -> (Self, Spanned<DeTable<'a>>) {
        let newlines = text.match_indices('\n').map(|(offset, _)| offset + 1);
        let mut document = Self {
            file: file.into(),
            text,
            lines: std::iter::once(0).chain(newlines).collect(),
            intact: true,
            headers_intact: true,
        };
        let (table, errors) = match syntax::refuse(text) {
            None => DeTable::parse_recoverable(text),
            Some(refusal) => {
                document.refuse(refusal, problems);
                (Spanned::new(0..0, DeTable::new()), Vec::new())
            }
        };
        for error in errors {
            let start = error.span().map(|span| span.start);
            document.not_toml(start, error.message(), problems);
        }
        (document, table)
    }

    /// Whether what is missing is known to be.
    pub(super) const fn absences(&self) -> Absences {
        if self.intact {
            Absences::Told
        } else {
            Absences::Ignored
        }
    }

    /// Of a text that is not read any further.
    fn refuse(&mut self, refusal: Refusal, problems: &mut Collector) {
        match refusal {
            Refusal::TooMuch(message) => problems.push(Problem {
                file: Some(self.file.as_ref().to_owned()),
                line: None,
                key: None,
                value: None,
                message,
                accepted: None,
            }),
            Refusal::NotToml(errors) => {
                // In the order of the text, so that lines with several errors are known without a set.
                let mut last = None;
                for (start, message) in errors.iter() {
                    let line = Some(self.line(start));
                    if line != last {
                        last = line;
                        problems.push_with(line, || self.syntax_problem(start, message));
                    }
                }
            }
        }
        self.intact = false;
        self.headers_intact = false;
    }

    fn not_toml(&mut self, start: Option<usize>, message: &str, problems: &mut Collector) {
        self.intact = false;
        self.headers_intact &= !start.is_some_and(|start| self.is_header(start));
        let line = start.map(|start| self.line(start));
        problems.push_syntax(line, || Problem {
            line,
            ..self.syntax_problem(start.unwrap_or_default(), message)
        });
    }

    fn syntax_problem(&self, start: usize, message: &str) -> Problem {
        let line = self.line(start);
        let begin = self.lines.get(line - 1).copied().unwrap_or_default();
        let text = self.text_of(line).unwrap_or_default();
        let fault = syntax::fault(text, start.saturating_sub(begin), message);
        Problem {
            file: Some(self.file.as_ref().to_owned()),
            line: Some(line),
            key: None,
            value: None,
            message: fault.message,
            accepted: fault.accepted,
        }
    }

    /// The line of a byte offset, from 1.
    fn line(&self, offset: usize) -> usize {
        self.lines.partition_point(|&start| start <= offset)
    }

    /// The text of a line, which is counted from 1, up to what is left of the file.
    fn text_of(&self, line: usize) -> Option<&'a str> {
        let start = self.lines.get(line.checked_sub(1)?)?;
        let end = self.lines.get(line).copied().unwrap_or(self.text.len());
        self.text.get(*start..end)
    }

    /// Whether the line at a byte offset begins as a section header does.
    fn is_header(&self, offset: usize) -> bool {
        let text = self.text_of(self.line(offset));
        text.is_some_and(|text| text.trim_start_matches([' ', '\t']).starts_with('['))
    }

    fn site(&self, offset: usize, key: String, value: Option<String>) -> Site {
        Site {
            file: Some(Arc::clone(&self.file)),
            line: Some(self.line(offset)),
            key,
            value,
        }
    }

    /// The value as it was written; none for sections, which may contain secrets.
    fn excerpt(&self, value: &Spanned<DeValue<'_>>) -> Option<String> {
        match value.get_ref() {
            DeValue::Array(array) if array.iter().all(is_plain) => {
                self.text.get(value.span()).map(excerpt)
            }
            DeValue::Array(_) | DeValue::Table(_) => None,
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => self.text.get(value.span()).map(excerpt),
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
        problems: &mut Collector,
        read: impl FnOnce(Raw<'_>) -> Result<T, Fault>,
    ) -> Option<Written<T>> {
        let (site, value) = self.take(key)?;
        keep(site, read(raw(value.get_ref())), problems)
    }

    /// Reads a key whose absence is known apart from a wrong value: `Some(None)`.
    pub(super) fn absent_or<T>(
        &mut self,
        key: &'static str,
        problems: &mut Collector,
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
        problems: &mut Collector,
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
        problems: &mut Collector,
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
        problems: &mut Collector,
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
    pub(super) fn table(&mut self, key: &'static str, problems: &mut Collector) -> Option<Self> {
        let (site, value) = self.take(key)?;
        if let DeValue::Table(table) = value.get_ref() {
            return Some(Self::new(self.document, table, site));
        }
        let accepted = format!("a section [{}]", without_indices(&site.key));
        self.wrong_section(&site, value.get_ref(), &accepted, problems);
        None
    }

    /// The sub-sections `[[key]]`; a problem for each that is something else.
    pub(super) fn tables(&mut self, key: &'static str, problems: &mut Collector) -> Vec<Self> {
        let Some((site, value)) = self.take(key) else {
            return Vec::new();
        };
        let accepted = format!("sections [[{}]]", without_indices(&site.key));
        let DeValue::Array(array) = value.get_ref() else {
            self.wrong_section(&site, value.get_ref(), &accepted, problems);
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
                self.wrong_section(&site, element.get_ref(), &accepted, problems);
            }
        }
        sections
    }

    /// Reports every key that nobody asked for. The value is not shown: it may be a secret.
    pub(super) fn finish(self, problems: &mut Collector) {
        if !self.document.headers_intact {
            return;
        }
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let start = key.span().start;
            problems.push_with(Some(self.document.line(start)), || {
                let site = self.document.site(start, self.site.child(name), None);
                site.problem(self.unknown(name))
            });
        }
    }

    fn wrong_section(
        &self,
        site: &Site,
        value: &DeValue<'_>,
        accepted: &str,
        problems: &mut Collector,
    ) {
        if self.document.headers_intact {
            let message = format!("wrong type ({})", value.type_str());
            problems.push_misshapen(site.problem(Fault::new(message, accepted)));
        }
    }

    fn unknown(&self, name: &str) -> Fault {
        let accepted = self.known.join(", ");
        match nearest(name, &self.known) {
            Some(near) => Fault::new(format!("unknown key; did you mean {near}?"), accepted),
            None => Fault::new("unknown key", accepted),
        }
    }
}

fn keep<T>(site: Site, outcome: Result<T, Fault>, problems: &mut Collector) -> Option<Written<T>> {
    match outcome {
        Ok(value) => Some(Written { value, site }),
        Err(fault) => {
            problems.push(site.problem(fault));
            None
        }
    }
}

/// An entry that can be shown as it was written.
fn is_plain(entry: &Spanned<DeValue<'_>>) -> bool {
    entry.get_ref().is_str() || entry.get_ref().is_integer()
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
        DeValue::Boolean(on) => Raw::Switch(*on),
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => {
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

/// The known key that `name` was probably meant to be: one that it abbreviates, such as `prot` for
/// `protocol`, else one of which at most a third differs.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let plain = name.to_ascii_lowercase().replace('-', "_");
    if plain.len() >= ABBREVIATION {
        let mut longer = known.iter().filter(|key| key.starts_with(&plain));
        if let (Some(key), None) = (longer.next(), longer.next()) {
            return Some(key);
        }
    }
    let most = |key: &str| (key.len() / 3).max(1);
    known
        .iter()
        // So that the distance of a very long name is not computed.
        .filter(|key| plain.len().abs_diff(key.len()) <= most(key))
        .map(|&key| (strsim::osa_distance(&plain, key), key))
        .filter(|&(distance, key)| distance <= most(key))
        .min()
        .map(|(_, key)| key)
}

/// The shortest name that can abbreviate a key, in bytes.
const ABBREVIATION: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses() {
        let known = [
            "tun", "workers", "hash_key", "weight", "backend", "port", "protocol", "address",
        ];
        for (name, expected) in [
            ("worker", Some("workers")),
            ("hash-key", Some("hash_key")),
            ("HashKey", Some("hash_key")),
            ("weigth", Some("weight")),
            ("backends", Some("backend")),
            ("tnu", Some("tun")),
            ("prot", Some("protocol")),
            ("Proto", Some("protocol")),
            ("addr", Some("address")),
            ("hash", Some("hash_key")),
            ("prt", Some("port")),
            ("we", None),
            ("colour", None),
            ("", None),
            (&"x".repeat(1 << 20), None),
        ] {
            assert_eq!(nearest(name, &known), expected, "{name}");
        }
    }

    #[test]
    fn lines() {
        let mut found = Collector::default();
        let text = "a = 1\r\nb = 2\n\nc = 3";
        let (document, table) = Document::parse("f", text, &mut found);
        assert!(found.is_empty(), "{found:?}");
        let mut section = Section::root(&document, table.get_ref());
        section.finish(&mut found);
        let found = found.finish();
        let lines: Vec<_> = found.first().iter().map(|problem| problem.line).collect();
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
