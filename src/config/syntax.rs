//! Before a text is read as TOML: is it small enough inside, and what do its syntax errors mean?
//!
//! A value in a few bytes takes hundreds in memory, so the length of a file does not bound what reading it
//! costs. What is counted here does.

use std::iter;

use toml::de::DeValue;
use toml_parser::lexer::Token;
use toml_parser::parser::{EventReceiver, RecursionGuard, parse_document};
use toml_parser::{ErrorSink, ParseError, Source, Span};

use super::problem::{Fault, excerpt};
use super::problems::KEPT;

/// How large a text may be inside.
struct Limits {
    /// Words and signs, 56 bytes of memory each while the text is read.
    tokens: usize,
    /// Sections, tables and dots between keys, 1.2 kB each.
    sections: usize,
    /// A text with more syntax errors is not TOML at all, and nothing else is looked for in it.
    errors: usize,
}

/// What `tunlb check` prints for 10,000 VIPs with 100 backends each has 32 million words and signs, and
/// 2 million sections.
const LIMITS: Limits = Limits {
    tokens: 48_000_000,
    sections: 3_000_000,
    errors: 10_000,
};

/// Why a text is not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is too large inside.
    TooMuch(String),
    /// It has very many syntax errors.
    NotToml(SyntaxErrors),
}

/// Many syntax errors, in the order of the text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SyntaxErrors {
    /// The offset of each.
    starts: Vec<u32>,
    /// What the parser says of the first ones; more are not shown.
    messages: Vec<String>,
}

impl SyntaxErrors {
    fn push(&mut self, error: &ParseError) {
        let start = error.unexpected().map(|span| span.start());
        self.starts
            .extend(start.and_then(|start| u32::try_from(start).ok()));
        if self.messages.len() < KEPT {
            self.messages.push(error.description().to_owned());
        }
    }

    /// The offset of each and what is wrong there.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &str)> {
        let messages = self.messages.iter().map(String::as_str);
        let starts = self.starts.iter().map(|&start| start as usize);
        starts.zip(messages.chain(iter::repeat("")))
    }
}

/// Looks through a text without keeping what it says; `None` where it can be read.
pub(super) fn refuse(text: &str) -> Option<Refusal> {
    LIMITS.refuse(text)
}

impl Limits {
    fn refuse(&self, text: &str) -> Option<Refusal> {
        let source = Source::new(text);
        let tokens = source.lex().count();
        if tokens > self.tokens {
            let message = format!("{tokens} words and signs; at most {} are read", self.tokens);
            return Some(Refusal::TooMuch(message));
        }
        let tokens: Vec<Token> = source.lex().into_vec();
        let mut sections = Sections(0);
        let mut errors = SyntaxErrors::default();
        let mut sink = |error: ParseError| errors.push(&error);
        let mut guard = RecursionGuard::new(&mut sections, DEEPEST);
        parse_document(&tokens, &mut guard, &mut sink);
        let Sections(sections) = sections;
        if sections > self.sections {
            let most = self.sections;
            let message =
                format!("{sections} sections, tables and dotted keys; at most {most} are read");
            return Some(Refusal::TooMuch(message));
        }
        (errors.starts.len() > self.errors).then_some(Refusal::NotToml(errors))
    }
}

/// How deep arrays and tables may be in each other; the limit of the `toml` crate.
const DEEPEST: u32 = 80;

/// Counts what becomes a table.
struct Sections(usize);

impl EventReceiver for Sections {
    fn std_table_open(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.0 += 1;
    }

    fn array_table_open(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.0 += 1;
    }

    fn inline_table_open(&mut self, _: Span, _: &mut dyn ErrorSink) -> bool {
        self.0 += 1;
        true
    }

    fn key_sep(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.0 += 1;
    }
}

/// What is wrong with a line that is not TOML, where the parser says `message` of the byte at `at`.
pub(super) fn fault(line: &str, at: usize, message: &str) -> Fault {
    if let Some(key) = key_of_bare_text(line) {
        let accepted = format!("{} = \"…\"", excerpt(key));
        return Fault::new(NEEDS_QUOTES, accepted);
    }
    if bare_word(line, at).is_some_and(is_bare_text) {
        return Fault::new(NEEDS_QUOTES, "\"…\"");
    }
    if message.contains("recurs") {
        let accepted = format!("at most {DEEPEST} levels of arrays, tables and dotted keys");
        return Fault::new("not TOML: nested too deep", accepted);
    }
    // Without the parser's remark on tokens that nothing may follow.
    let message = message.trim_end_matches(", expected nothing");
    Fault {
        message: format!("not TOML: {message}"),
        accepted: None,
    }
}

const NEEDS_QUOTES: &str = "not TOML: a value that is text needs quotes";

/// The key of a line such as `address = 10.0.1.11`. The value may be a secret, and is not shown.
fn key_of_bare_text(line: &str) -> Option<&str> {
    let (key, value) = line.split_once('=')?;
    let value = value.split('#').next().unwrap_or_default().trim();
    let in_brackets = value
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let bare = in_brackets
        .filter(|inner| inner.contains("::"))
        .unwrap_or(value);
    is_bare_text(bare).then_some(key.trim())
}

/// The word around a byte that follows `=`, `[` or `,`, as values in inline tables and arrays do.
fn bare_word(line: &str, at: usize) -> Option<&str> {
    let (before, after) = line.split_at_checked(at)?;
    let start = before.trim_end_matches(is_of_word).len();
    let end = at
        + after
            .find(|letter| !is_of_word(letter))
            .unwrap_or(after.len());
    let before = line.get(..start)?.trim_end();
    let is_value = before.contains('=') && before.ends_with(['=', '[', ',']);
    line.get(start..end).filter(|_| is_value)
}

fn is_of_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "-_.:/".contains(letter)
}

/// Whether a value is no value of TOML, but would be a string if it had quotes. Digits alone, such as
/// `080`, were meant as a number unless they are as many as those of a key.
fn is_bare_text(value: &str) -> bool {
    let letters = |letter: char| letter.is_ascii_alphabetic() || ":/".contains(letter);
    let is_text = value.contains(letters) || value.matches('.').count() > 1 || value.len() == 32;
    is_text && value.chars().all(is_of_word) && DeValue::parse(value).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_without_quotes() {
        for line in [
            "address = 203.0.113.10",
            "address=2001:db8::1 # the VIP",
            "  address = [2001:db8::1]\r\n",
            "protocol = tcp",
            "half_open = 30s",
            "hash_key = 00112233445566778899aabbccddeeff",
            "source = 172.16.0.0/16",
        ] {
            let fault = fault(line, 0, "invalid float");
            assert_eq!(
                fault.message, "not TOML: a value that is text needs quotes",
                "{line}"
            );
            let key = line.trim().split(['=', ' ']).next().unwrap();
            assert_eq!(fault.accepted, Some(format!("{key} = \"…\"")));
        }
        for line in [
            "a = [{ address = 10.0.1.11 }]",
            "a = [\"10.0.1.11\", 10.0.1.12]",
        ] {
            let fault = fault(line, line.rfind(".1.").unwrap(), "invalid float");
            assert_eq!(fault.message, NEEDS_QUOTES, "{line}");
        }
        for line in [
            "address = \"10.0.0.1",
            "[vip",
            "address =",
            "port = 08",
            "flows = 0x400",
            "flows = true",
            "x = [1, 2",
            "a b = \"c\" d",
        ] {
            assert_eq!(
                fault(line, line.len() - 1, "odd").message,
                "not TOML: odd",
                "{line}"
            );
        }
    }

    #[test]
    fn what_is_too_large_inside_is_not_read() {
        let limits = Limits {
            tokens: 40,
            sections: 3,
            errors: 2,
        };
        let refuse = |text: &str| limits.refuse(text);
        assert_eq!(refuse("[a.b]\nc = { d = 1 }\n"), None);
        for (text, message) in [
            (
                "[[a]]\n[b]\nc.d = { e = 1 }\n",
                "4 sections, tables and dotted keys; at most 3",
            ),
            (&"\n".repeat(40), "41 words and signs; at most 40 are read"),
        ] {
            let Some(Refusal::TooMuch(told)) = refuse(text) else {
                panic!("it is read: {text}");
            };
            assert!(told.starts_with(message), "{told}");
        }
        assert_eq!(refuse("?\n?\n"), None);
        let Some(Refusal::NotToml(errors)) = refuse("?\n?\n?\n") else {
            panic!("it is read");
        };
        let what = "key with no value";
        let errors: Vec<_> = errors.iter().collect();
        assert_eq!(
            errors,
            [(1, what), (3, what), (5, what)],
            "where the line ends"
        );
    }

    #[test]
    fn depth_does_not_cost_the_stack() {
        for (start, open) in [
            ("a = ", "["),
            ("a = ", "{a="),
            ("", "a."),
            ("[", "a."),
            ("[[", "a."),
        ] {
            let text = start.to_owned() + &open.repeat(500_000);
            let error = crate::config::Config::parse("f", &text).unwrap_err();
            assert!(
                error.to_string().contains("not TOML: nested too deep"),
                "{error}"
            );
        }
    }
}
