//! What a finding names for the user to take over: commands for a shell, lines for files, advice.
//!
//! They are kept as words and lines and become text at the edge. Names of devices, rules and programs are
//! chosen by others, also by whoever made a bundle; a text of such a name never becomes more than a word
//! of its command or a part of its line. Where it would have to, there is advice instead of a command.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::text::{Plain, shell};

/// A line for a shell.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FixLine {
    /// A program and its arguments: the words that a shell sees in the line.
    Command(Vec<String>),
    /// What only the user can do; a comment in the line.
    Advice(String),
}

/// A command of words, each anything that can be displayed:
/// `command!["ip", "link", "set", "dev", name, "up"]`.
macro_rules! command {
    ($($word:expr),+ $(,)?) => {
        $crate::doctor::lines::FixLine::Command(vec![$($word.to_string()),+])
    };
}
pub(crate) use command;

impl FixLine {
    /// The words of a command; none of advice.
    #[must_use]
    pub fn words(&self) -> Option<&[String]> {
        match self {
            Self::Command(words) if words.iter().all(|word| is_in_one_line(word)) => Some(words),
            Self::Command(_) | Self::Advice(_) => None,
        }
    }
}

/// No name on a host has a line break, and no word of a shell a NUL.
fn is_in_one_line(word: &str) -> bool {
    !word.contains(['\n', '\0'])
}

/// One printable line, of which a shell sees exactly the words, or a comment.
impl fmt::Display for FixLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.words(), self) {
            (Some(words), _) => f.write_str(&shell::line(words)),
            (None, Self::Command(words)) => write!(f, "# {}", Plain(words.join(" "))),
            (None, Self::Advice(text)) => write!(f, "# {}", Plain(text)),
        }
    }
}

/// Reads a line as it is displayed. What is neither words nor a comment is advice: no text of others
/// becomes a command that a shell would do more with than run it.
impl From<&str> for FixLine {
    fn from(line: &str) -> Self {
        if let Some(advice) = line.strip_prefix('#') {
            return Self::Advice(advice.trim().to_owned());
        }
        match shell::words(line) {
            Some(words) => Self::Command(words),
            None => Self::Advice(line.to_owned()),
        }
    }
}

impl From<String> for FixLine {
    fn from(line: String) -> Self {
        Self::from(line.as_str())
    }
}

impl FromStr for FixLine {
    type Err = Infallible;

    fn from_str(line: &str) -> Result<Self, Infallible> {
        Ok(Self::from(line))
    }
}

impl PartialEq<str> for FixLine {
    fn eq(&self, line: &str) -> bool {
        is_displayed_as(self, line)
    }
}

impl PartialEq<&str> for FixLine {
    fn eq(&self, line: &&str) -> bool {
        is_displayed_as(self, line)
    }
}

fn is_displayed_as(this: &impl fmt::Display, text: &str) -> bool {
    let displayed = this.to_string();
    displayed == text
}

impl Serialize for FixLine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FixLine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// What makes a fix permanent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Snippet {
    /// Lines for a file.
    File {
        /// Its absolute path.
        path: String,
        /// The lines.
        lines: Vec<String>,
    },
    /// What only the user can write.
    Advice(String),
}

impl Snippet {
    /// Lines for a file that name a device. Advice where the name would not stay a name there:
    /// interfaces(5), systemd.network(5) and sysctl.d(5) split lines at spaces and take globs, and the
    /// first gives parts of them to a shell.
    #[must_use]
    pub fn naming(device: &str, path: String, lines: &str) -> Self {
        if !is_plain_name(device) {
            return Self::Advice(format!("{path}: \"{device}\" cannot be named there"));
        }
        Self::File {
            path,
            lines: lines.lines().map(str::to_owned).collect(),
        }
    }

    /// Lines for tunlb's own file of settings.
    #[must_use]
    pub fn settings(lines: Vec<String>) -> Self {
        if let Some(line) = lines.iter().find(|line| !is_setting(line)) {
            return Self::Advice(format!("{SETTINGS}: this cannot be written there: {line}"));
        }
        Self::File {
            path: SETTINGS.to_owned(),
            lines,
        }
    }
}

const SETTINGS: &str = "/etc/sysctl.d/99-tunlb.conf";

/// Whether a line `NAME = VALUE` or `-NAME` sets what it says: names are globs and end at the first `=`.
fn is_setting(line: &str) -> bool {
    let (name, value) = line.split_once(" = ").unwrap_or((line, ""));
    is_setting_name(name) && is_setting_name(value)
}

/// Whether sysctl(8) and sysctl.d(5) take a setting's name for this name alone.
#[must_use]
pub fn is_setting_name(name: &str) -> bool {
    !name.contains(|letter: char| {
        letter.is_whitespace() || letter.is_control() || "=*?[]\\".contains(letter)
    })
}

/// Whether a device's name is one word in every file that names devices.
#[must_use]
pub fn is_plain_name(name: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_.@+-".contains(letter);
    !name.is_empty() && !name.starts_with(['-', '.']) && name.chars().all(plain)
}

/// A comment that names the file, and the lines.
impl fmt::Display for Snippet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, lines } => {
                write!(f, "# {}", Plain(path))?;
                lines
                    .iter()
                    .try_for_each(|line| write!(f, "\n{}", Plain(line)))
            }
            Self::Advice(text) => write!(f, "# {}", Plain(text)),
        }
    }
}

/// Reads a snippet as it is displayed.
impl From<&str> for Snippet {
    fn from(text: &str) -> Self {
        let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
        let first = first.strip_prefix('#').unwrap_or(first).trim();
        if first.starts_with('/') && !rest.is_empty() {
            return Self::File {
                path: first.to_owned(),
                lines: rest.lines().map(str::to_owned).collect(),
            };
        }
        let text = text.strip_prefix('#').unwrap_or(text);
        Self::Advice(text.trim().to_owned())
    }
}

impl From<String> for Snippet {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl PartialEq<&str> for Snippet {
    fn eq(&self, text: &&str) -> bool {
        is_displayed_as(self, text)
    }
}

impl Serialize for Snippet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Snippet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}
