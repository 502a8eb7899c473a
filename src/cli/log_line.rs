//! A line of the log: when, how grave, and what. A terminal obeys nothing in it.

use std::io::{self, Write as _};

use env_logger::fmt::Formatter;
use log::Record;

use crate::text::Plain;

/// Writes a record; further lines of its message are indented. Colours are those of `env_logger`, only on a
/// terminal and never with `NO_COLOR`.
///
/// # Errors
/// The system's.
pub fn log_line(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let level = record.level();
    let style = out.default_level_style(level);
    let time = out.timestamp_millis();
    write!(out, "[{time} {style}{level:<5}{style:#}] ")?;
    for (number, line) in record.args().to_string().split('\n').enumerate() {
        let before = if number == 0 { "" } else { "\n    " };
        write!(out, "{before}{}", Plain(line))?;
    }
    writeln!(out)
}
