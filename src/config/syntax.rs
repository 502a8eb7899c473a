//! Before a text is read as TOML: is it small enough inside, and what do its syntax errors mean?
//!
//! A value in a few bytes takes hundreds in memory, so the length of a file does not bound what reading it
//! costs. What is counted here does.

use toml_parser::lexer::Token;
use toml_parser::parser::{EventReceiver, parse_document};
use toml_parser::{ErrorSink, ParseError, Source, Span};

use super::problem::{Fault, excerpt};

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
    /// It has very many syntax errors, at these offsets.
    NotToml(Vec<u32>),
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
        let mut errors = Vec::new();
        let mut sink = |error: ParseError| {
            let start = error.unexpected().map(|span| span.start());
            errors.extend(start.and_then(|start| u32::try_from(start).ok()));
        };
        parse_document(&tokens, &mut sections, &mut sink);
        let Sections(sections) = sections;
        if sections > self.sections {
            let most = self.sections;
            let message =
                format!("{sections} sections, tables and dotted keys; at most {most} are read");
            return Some(Refusal::TooMuch(message));
        }
        (errors.len() > self.errors).then_some(Refusal::NotToml(errors))
    }
}

/// What is said of a line of [`Refusal::NotToml`].
pub(super) const NOT_READ: &str = "one of thousands of such lines, so nothing of the file is read";

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

/// What is wrong with a line that is not TOML, where the parser says `message`.
pub(super) fn fault(line: &str, message: &str) -> Fault {
    if let Some(key) = key_of_bare_text(line) {
        let accepted = format!("{} = \"…\"", excerpt(key));
        return Fault::new("not TOML: a value that is text needs quotes", accepted);
    }
    // Without the parser's remark on tokens that nothing may follow.
    let message = message.trim_end_matches(", expected nothing");
    Fault {
        message: format!("not TOML: {message}"),
        accepted: None,
    }
}

/// The key of a line such as `address = 10.0.1.11`. The value may be a secret, and is not shown.
fn key_of_bare_text(line: &str) -> Option<&str> {
    let (key, value) = line.split_once('=')?;
    let value = value.split('#').next().unwrap_or_default().trim();
    let key = key.trim();
    let is_text = |letter: char| letter.is_ascii_alphanumeric() || "-_.:/".contains(letter);
    let is_no_number = |text: &str| {
        let sign = |letter: char| letter.is_ascii_alphabetic() || ":/".contains(letter);
        key == "hash_key" || text.contains(sign) || text.matches('.').count() > 1
    };
    let in_brackets = value
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let bare = in_brackets
        .filter(|inner| inner.contains("::"))
        .unwrap_or(value);
    (bare.chars().all(is_text) && is_no_number(bare)).then_some(key)
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
            let fault = fault(line, "invalid float");
            assert_eq!(
                fault.message, "not TOML: a value that is text needs quotes",
                "{line}"
            );
            let key = line.trim().split(['=', ' ']).next().unwrap();
            assert_eq!(fault.accepted, Some(format!("{key} = \"…\"")));
        }
        for line in [
            "address = \"10.0.0.1",
            "[vip",
            "address =",
            "port = 08",
            "x = [1, 2",
            "a b = \"c\" d",
        ] {
            assert_eq!(fault(line, "odd").message, "not TOML: odd", "{line}");
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
        let errors = vec![1, 3, 5]; // the ends of the lines, which the parser did not expect
        assert_eq!(refuse("?\n?\n?\n"), Some(Refusal::NotToml(errors)));
    }
}
