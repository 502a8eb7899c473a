//! A line of the log: when, how grave, and what. A terminal obeys nothing in it. The journal of systemd knows when
//! by itself, and takes how grave from a prefix (sd-daemon(3)).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;

use env_logger::fmt::Formatter;
use log::{Level, Record};

use crate::text::Plain;

/// Where the log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTo {
    /// To people, or a file.
    Text,
    /// To the journal.
    Journal,
}

impl LogTo {
    /// Where standard error leads: to the journal where `JOURNAL_STREAM`, as systemd.exec(5) describes it, names it. A
    /// unit may set it and lead standard error elsewhere.
    #[must_use]
    pub fn of_stderr() -> Self {
        let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        let stderr = io::stderr().as_fd().try_clone_to_owned().map(File::from);
        let names_it = stderr
            .and_then(|file| file.metadata())
            .is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()));
        if names_it { Self::Journal } else { Self::Text }
    }

    /// Writes a record; further lines of its message are indented. Colours are those of `env_logger`, only on a
    /// terminal and never with `NO_COLOR`.
    ///
    /// # Errors
    /// The system's.
    pub fn write(self, out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
        let text = record.args().to_string();
        match self {
            Self::Text => write_text(out, record.level(), &text),
            Self::Journal => write_journal(out, record.level(), &text),
        }
    }
}

fn write_text(out: &mut Formatter, level: Level, text: &str) -> io::Result<()> {
    let style = out.default_level_style(level);
    let time = out.timestamp_millis();
    write!(out, "[{time} {style}{level:<5}{style:#}] ")?;
    for (number, line) in text.split('\n').enumerate() {
        let before = if number == 0 { "" } else { "\n    " };
        write!(out, "{before}{}", Plain(line))?;
    }
    writeln!(out)
}

/// Each line is an entry of its own there.
fn write_journal(out: &mut impl Write, level: Level, text: &str) -> io::Result<()> {
    let priority = priority(level);
    for (number, line) in text.split('\n').enumerate() {
        let indent = if number == 0 { "" } else { "    " };
        writeln!(out, "<{priority}>{indent}{}", Plain(line))?;
    }
    Ok(())
}

/// That of syslog(3); it has none below debug.
const fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_the_journal_has_its_priority() {
        let written = |level, text: &str| {
            let mut out = Vec::new();
            write_journal(&mut out, level, text).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(Level::Warn, "one\ntwo"), "<4>one\n<4>    two\n");
        assert_eq!(written(Level::Error, "\u{1b}[2J<0>"), "<3>\\u{1b}[2J<0>\n");
        assert_eq!(
            [Level::Info, Level::Debug, Level::Trace].map(priority),
            [6, 7, 7]
        );
    }
}
