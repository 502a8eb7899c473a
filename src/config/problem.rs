//! What can be wrong with a configuration, and where it was written.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::text::Plain;

/// One thing that is wrong, with all that is needed to fix it. Its text is one printable line.
///
/// The fields are those of `tunlb check --json` (see `docs/config.md`), and hold what was written as it
/// was written, but for its length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file; `None` when the value came from a flag.
    pub file: Option<String>,
    /// The line in the file, from 1; `None` for a flag or for the file as a whole.
    pub line: Option<usize>,
    /// The key, such as `vip[0].backend[1].address`, or the flag, such as `--backend`; `None` where
    /// the text is not TOML.
    pub key: Option<String>,
    /// The value as it was written; `None` when there is none, or when it is a secret.
    pub value: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What would be accepted instead.
    pub accepted: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", Plain(file))?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "{}", Plain(key))?;
            if let Some(value) = &self.value {
                let between = if self.file.is_some() { " = " } else { " " };
                write!(f, "{between}{}", Plain(value))?;
            }
            f.write_str(": ")?;
        }
        write!(f, "{}", Plain(&self.message))?;
        match &self.accepted {
            Some(accepted) => write!(f, "; accepted: {}", Plain(accepted)),
            None => Ok(()),
        }
    }
}

/// Where a value was written, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) file: Option<Arc<str>>,
    pub(super) line: Option<usize>,
    pub(super) key: String,
    pub(super) value: Option<String>,
}

impl Site {
    /// The site of a command-line flag.
    pub(super) fn flag(flag: &str, value: &str) -> Self {
        Self {
            file: None,
            line: None,
            key: flag.to_owned(),
            value: Some(excerpt(value)),
        }
    }

    /// The site of an absent key inside this section; a flag has no keys inside.
    pub(super) fn absent(&self, key: &str) -> Self {
        if self.file.is_none() {
            return self.clone();
        }
        Self {
            key: self.child(key),
            value: None,
            ..self.clone()
        }
    }

    /// The full name of a key inside this section.
    pub(super) fn child(&self, key: &str) -> String {
        let key = excerpt(key);
        if self.key.is_empty() {
            return key;
        }
        format!("{}.{key}", self.key)
    }

    /// Puts a fault at this site.
    pub(super) fn problem(&self, fault: Fault) -> Problem {
        Problem {
            file: self.file.as_deref().map(str::to_owned),
            line: self.line,
            key: Some(self.key.clone()),
            value: self.value.clone(),
            message: fault.message,
            accepted: fault.accepted,
        }
    }
}

/// "on line 12", or the flag: how another problem refers to this place.
impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, &self.value) {
            (Some(line), _) => write!(f, "on line {line}"),
            (None, Some(value)) => write!(f, "given as {} {value}", self.key),
            (None, None) => f.write_str(&self.key),
        }
    }
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written<T> {
    pub(super) value: T,
    pub(super) site: Site,
}

/// What is wrong with a value, before it is known where the value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) accepted: Option<String>,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>, accepted: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            accepted: Some(accepted.into()),
        }
    }
}

/// The longest excerpt of a value in a message, in characters.
const EXCERPT: usize = 64;

/// The first line of `text`, bounded: what a message shows of a value.
pub(super) fn excerpt(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let mut excerpt: String = line.chars().take(EXCERPT).collect();
    if excerpt.len() < text.len() {
        excerpt.push('…');
    }
    excerpt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_problem() {
        let fault = || {
            Fault::new(
                "not an IPv4 or IPv6 address",
                "an address such as \"10.0.1.11\"",
            )
        };
        let site = Site {
            file: Some("tunlb.toml".into()),
            line: Some(12),
            key: "vip[1].backend[0].address".to_owned(),
            value: Some("\"10.0.0.300\"".to_owned()),
        };
        assert_eq!(
            site.problem(fault()).to_string(),
            "tunlb.toml:12: vip[1].backend[0].address = \"10.0.0.300\": \
             not an IPv4 or IPv6 address; accepted: an address such as \"10.0.1.11\""
        );
        assert_eq!(
            Site::flag("--backend", "10.0.0.300")
                .problem(fault())
                .to_string(),
            "--backend 10.0.0.300: not an IPv4 or IPv6 address; accepted: an address such as \"10.0.1.11\""
        );
        let vip = Site::flag("--vip", "10.0.0.100:80/tcp");
        assert_eq!(vip.absent("backend"), vip);
        let absent = Site { line: None, ..site }.absent("port").problem(fault());
        assert!(
            absent
                .to_string()
                .starts_with("tunlb.toml: vip[1].backend[0].address.port: not")
        );
    }

    #[test]
    fn excerpts_are_one_line_of_bounded_length() {
        assert_eq!(excerpt("\"a\""), "\"a\"");
        assert_eq!(excerpt("one\ntwo"), "one…");
        assert_eq!(
            excerpt(&"ä".repeat(100)),
            format!("{}…", "ä".repeat(EXCERPT))
        );
    }

    #[test]
    fn a_terminal_obeys_nothing_in_a_problem() {
        let hostile = "a\u{1b}[2J\u{202e}\r\u{9b}b";
        let site = Site {
            file: Some(hostile.into()),
            line: Some(1),
            key: hostile.to_owned(),
            value: Some(hostile.to_owned()),
        };
        let text = site.problem(Fault::new(hostile, hostile)).to_string();
        let shown = "a\\u{1b}[2J\\u{202e}\\r\\u{9b}b";
        assert_eq!(text.matches(shown).count(), 5, "{text}");
        assert!(crate::text::plain::is_plain(&text), "{text}");
    }
}
