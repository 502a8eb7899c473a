//! What each code means, in both languages: `--explain`, `--list-checks` and the titles of findings.

mod director;
mod service;
mod tunnel;
mod way_back;
mod wire;

use super::finding::Code;
use super::lang::{Lang, Text, say};

/// A failure mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its code.
    pub code: Code,
    /// How much it costs.
    pub severity: Severity,
    /// It in a few words.
    pub title: Text,
    /// What the client, the director or the operator sees.
    pub happens: Text,
    /// The cause.
    pub why: Text,
    /// Where it shows: counters and commands.
    pub see: Text,
    /// What mends it.
    pub mend: Text,
}

/// How much a failure mode costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// No client is served.
    Fatal,
    /// It comes and goes.
    Intermittent,
    /// Some packets or clients.
    Partial,
    /// Nothing; worth knowing.
    Info,
}

impl Severity {
    /// Its name.
    #[must_use]
    pub const fn in_lang(self, lang: Lang) -> &'static str {
        match self {
            Self::Fatal => lang.pick("fatal", "致命"),
            Self::Intermittent => lang.pick("intermittent", "时有时无"),
            Self::Partial => lang.pick("partial", "部分受影响"),
            Self::Info => lang.pick("information", "供参考"),
        }
    }
}

impl Entry {
    /// All that is known of it, as `--explain` prints it.
    #[must_use]
    pub fn explanation(&self, lang: Lang) -> String {
        let [title, happens, why, see, mend] =
            [self.title, self.happens, self.why, self.see, self.mend]
                .map(|text| text.in_lang(lang));
        let (code, severity) = (self.code, self.severity.in_lang(lang));
        say!(
            lang,
            "{code}: {title} ({severity})\n\nWhat happens: {happens}\nWhy: {why}\nHow to see it: {see}\nHow to fix it: {mend}\n",
            "{code}：{title}（{severity}）\n\n现象：{happens}\n原因：{why}\n如何确认：{see}\n如何修复：{mend}\n"
        )
    }
}

/// Every failure mode, in packet order, those of a backend first.
pub fn entries() -> impl Iterator<Item = &'static Entry> {
    [
        tunnel::ENTRIES,
        way_back::ENTRIES,
        service::ENTRIES,
        wire::ENTRIES,
        director::ENTRIES,
    ]
    .into_iter()
    .flatten()
}

/// The failure mode of a code; nothing for rows that the tables do not have.
#[must_use]
pub fn entry(code: Code) -> Option<&'static Entry> {
    entries().find(|entry| entry.code == code)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_row_of_the_tables_once() {
        let codes: Vec<_> = entries().map(|entry| entry.code).collect();
        let distinct: BTreeSet<_> = codes.iter().copied().collect();
        assert_eq!(codes.len(), distinct.len());
        let backend = (1..=32).map(Code::backend);
        let director = (35..=42).map(Code::director);
        assert_eq!(distinct, backend.chain(director).collect());
    }

    #[test]
    fn every_text_in_both_languages() {
        for entry in entries() {
            let code = entry.code;
            for text in [entry.title, entry.happens, entry.why, entry.see, entry.mend] {
                assert!(
                    text.en.is_ascii() || text.en.contains('…'),
                    "{code}: {}",
                    text.en
                );
                assert!(!text.en.is_empty() && !text.zh.is_empty(), "{code}");
            }
            assert!(!entry.title.zh.is_ascii(), "{code}");
            assert_ne!(entry.explanation(Lang::En), entry.explanation(Lang::Zh));
        }
    }

    #[test]
    fn the_documents_explain_every_code() {
        let english = include_str!("../../../docs/doctor.md");
        let chinese = include_str!("../../../docs/doctor.zh.md");
        for entry in entries() {
            for (name, document, heading) in [
                (
                    "doctor.md",
                    english,
                    format!("### {}: {}", entry.code, entry.title.en),
                ),
                (
                    "doctor.zh.md",
                    chinese,
                    format!("### {}：{}", entry.code, entry.title.zh),
                ),
            ] {
                assert!(document.contains(&heading), "docs/{name} lacks {heading}");
            }
        }
    }
}
