//! A diagnosis for people: the verdict in one line, the packet's way, then what was found.
//!
//! Lines are wrapped at the width of the terminal, commands never: they are to be copied. What others
//! chose, names and texts of the other end, is shown printable.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Effects, Style as Ansi};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::doctor::finding::{Diagnosis, Finding, Stage, StageState, Status};
use crate::doctor::lang::{Lang, say};
use crate::text::plain::{Plain, plain};

/// How a report looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Columns of the terminal.
    pub width: usize,
    /// Which findings are shown.
    pub detail: Detail,
    /// Of titles and headings; findings have theirs already.
    pub lang: Lang,
}

/// Which findings a report shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Those that need attention.
    Notable,
    /// Passed and skipped ones too.
    All,
}

/// The report of one machine: every diagnosis, the worst first. Styled by ANSI escapes, which a stream
/// that is no terminal takes out again.
#[must_use]
pub fn report(diagnoses: &[Diagnosis], style: Style) -> String {
    let reports: Vec<_> = diagnoses
        .iter()
        .map(|diagnosis| one(diagnosis, style))
        .collect();
    reports.join("\n")
}

/// The commands that mend what was found, in their order, each finding's after a comment.
#[must_use]
pub fn fixes(diagnoses: &[Diagnosis]) -> String {
    let mut text = String::new();
    let mut seen = Vec::new();
    for finding in diagnoses.iter().flat_map(|diagnosis| &diagnosis.checks) {
        let wanted = matches!(finding.status, Status::Fail | Status::Warn);
        if !wanted || finding.fix.is_empty() || seen.contains(&&finding.fix) {
            continue;
        }
        seen.push(&finding.fix);
        add(
            &mut text,
            format_args!("# {}: {}\n", finding.code, Plain(&finding.title)),
        );
        for command in &finding.fix {
            add(&mut text, format_args!("{command}\n"));
        }
    }
    text
}

/// Writing into a `String` cannot fail.
fn add(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).unwrap_or_default();
}

fn one(diagnosis: &Diagnosis, style: Style) -> String {
    let mut text = headline(diagnosis, style);
    add(&mut text, format_args!("  {}\n", picture(&diagnosis.path)));
    for finding in &diagnosis.checks {
        let notable = matches!(
            finding.status,
            Status::Fail | Status::Warn | Status::Unknown
        );
        if notable {
            text += &full(finding, style);
        } else if style.detail == Detail::All {
            text += &short(finding, style);
        }
    }
    let passed = diagnosis
        .checks
        .iter()
        .filter(|finding| finding.status == Status::Pass)
        .count();
    let skipped = diagnosis
        .checks
        .iter()
        .filter(|finding| finding.status == Status::Skip)
        .count();
    text += &match style.detail {
        Detail::Notable => say!(
            style.lang,
            "\n  {passed} checks passed, {skipped} skipped; --verbose shows them\n",
            "\n  {passed} 项通过，{skipped} 项跳过；--verbose 可查看\n"
        ),
        Detail::All => say!(
            style.lang,
            "\n  {passed} checks passed, {skipped} skipped\n",
            "\n  {passed} 项通过，{skipped} 项跳过\n"
        ),
    };
    text
}

/// The verdict, with the VIP where several are reported.
fn headline(diagnosis: &Diagnosis, style: Style) -> String {
    let verdict = &diagnosis.verdict;
    let code = verdict
        .code
        .map_or(String::new(), |code| format!(" [{code}]"));
    let vip = diagnosis
        .vip
        .as_ref()
        .map_or(String::new(), |vip| format!("{vip}: "));
    let line = plain(&format!("{vip}{}{code}", verdict.summary));
    let paint = Ansi::new()
        .effects(Effects::BOLD)
        .fg_color(Some(color(verdict.status).into()));
    let lines: Vec<_> = wrapped(&line, style.width, 0);
    format!("{paint}{}{paint:#}\n", lines.join("\n"))
}

fn picture(path: &[Stage]) -> String {
    let last = path.len().saturating_sub(1);
    let stages: Vec<_> = path
        .iter()
        .enumerate()
        .map(|(index, stage)| match stage.state {
            // The end of a way that was not gone to its end.
            StageState::Skipped if index == last => plain(&stage.stage),
            state @ (StageState::Ok
            | StageState::Fail
            | StageState::Unknown
            | StageState::Skipped) => format!("{} {}", Plain(&stage.stage), mark(state)),
        })
        .collect();
    stages.join(" → ")
}

fn mark(state: StageState) -> String {
    let (mark, color) = match state {
        StageState::Ok => ("✓", AnsiColor::Green),
        StageState::Fail => ("✗", AnsiColor::Red),
        StageState::Unknown => ("?", AnsiColor::Yellow),
        StageState::Skipped => return "–".to_owned(),
    };
    let paint = color.on_default();
    format!("{paint}{mark}{paint:#}")
}

const fn color(status: Status) -> AnsiColor {
    match status {
        Status::Pass | Status::Skip => AnsiColor::Green,
        Status::Unknown | Status::Warn => AnsiColor::Yellow,
        Status::Fail => AnsiColor::Red,
    }
}

/// A status as reports write it.
pub(in crate::doctor) const fn word(status: Status) -> &'static str {
    match status {
        Status::Pass => "PASS",
        Status::Skip => "SKIP",
        Status::Unknown => "UNKNOWN",
        Status::Warn => "WARN",
        Status::Fail => "FAIL",
    }
}

fn title(finding: &Finding) -> String {
    let paint = color(finding.status).on_default();
    let status = word(finding.status);
    format!(
        "{paint}{status:<7}{paint:#} {:<4} {}",
        finding.code.to_string(),
        Plain(&finding.title)
    )
}

fn short(finding: &Finding, style: Style) -> String {
    let mut text = format!("\n{}\n", title(finding));
    for line in wrapped(&plain(&finding.summary), style.width, INDENT) {
        add(&mut text, format_args!("{line}\n"));
    }
    text
}

/// Columns before what belongs to a finding.
const INDENT: usize = 8;
/// Columns before a value below its heading.
const DEEPER: usize = INDENT + 2;

fn full(finding: &Finding, style: Style) -> String {
    let mut text = short(finding, style);
    let lang = style.lang;
    if finding.status == Status::Fail || finding.status == Status::Warn {
        let basis = if finding.proven {
            lang.pick("(proven by packets)", "（已由抓到的包证实）")
        } else {
            lang.pick(
                "(inferred from configuration, not proven by a packet)",
                "（依据配置判断，尚未由包证实）",
            )
        };
        add(&mut text, format_args!("{:INDENT$}{basis}\n", ""));
    }
    let evidence = finding
        .evidence
        .iter()
        .map(|(name, value)| plain(&format!("{name} = {value}")));
    section(&mut text, lang.pick("evidence:", "证据："), evidence);
    section(
        &mut text,
        lang.pick("fix:", "修复："),
        finding.fix.iter().map(ToString::to_string),
    );
    let persist: Vec<_> = finding.persist.iter().map(ToString::to_string).collect();
    let lines = persist
        .iter()
        .flat_map(|text| text.lines())
        .map(str::to_owned);
    section(
        &mut text,
        lang.pick("to make it permanent:", "持久化："),
        lines,
    );
    section(
        &mut text,
        lang.pick("verify:", "验证："),
        finding.verify.iter().map(ToString::to_string),
    );
    text
}

fn section(text: &mut String, heading: &str, lines: impl Iterator<Item = String>) {
    let mut lines = lines.peekable();
    if lines.peek().is_none() {
        return;
    }
    add(text, format_args!("{:INDENT$}{heading}\n", ""));
    for line in lines {
        add(text, format_args!("{:DEEPER$}{line}\n", ""));
    }
}

/// Breaks a text into lines of a width: at spaces, and between Chinese characters.
fn wrapped(text: &str, width: usize, indent: usize) -> Vec<String> {
    let room = width.saturating_sub(indent).max(20);
    let mut lines = Vec::new();
    let mut line = String::new();
    for piece in pieces(text) {
        let full = line.width() + piece.trim_end().width() > room;
        if full && !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        line += if line.is_empty() {
            piece.trim_start()
        } else {
            piece
        };
    }
    if !line.is_empty() {
        lines.push(line);
    }
    let indent = " ".repeat(indent);
    lines
        .iter()
        .map(|line| format!("{indent}{}", line.trim_end()))
        .collect()
}

/// The pieces between which a line may end: words with the space after them, wide characters with the
/// punctuation that must not begin a line.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut previous: Option<char> = None;
    for (index, letter) in text.char_indices() {
        let closes = matches!(letter, '，' | '。' | '；' | '：' | '）' | '、' | '？');
        let opened = matches!(previous, Some('（'));
        let breaks =
            previous.is_some_and(|before| before == ' ' || is_wide(before) || is_wide(letter));
        if breaks && !closes && !opened && letter != ' ' {
            pieces.push(&text[start..index]);
            start = index;
        }
        previous = Some(letter);
    }
    pieces.push(&text[start..]);
    pieces
}

fn is_wide(letter: char) -> bool {
    letter.width() == Some(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_spaces_and_between_wide_characters() {
        assert_eq!(
            wrapped("one two three four five six", 22, 2),
            ["  one two three four", "  five six"]
        );
        assert_eq!(
            wrapped("防火墙丢弃了以地址为源的应答，规则见下", 22, 0),
            ["防火墙丢弃了以地址为源", "的应答，规则见下"]
        );
        assert_eq!(wrapped("", 80, 4), [""; 0]);
    }
}
