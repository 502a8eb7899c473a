//! Text that a terminal shows as it is: nothing in it moves the cursor, hides, reorders or breaks a line.

use std::fmt::{self, Write as _};

/// Displays a text with every character that is not printable escaped, in the notation of Rust
/// (`\n`, `\u{1b}`, `\u{202e}`): control, format and bidirectional characters, separators other than
/// a space, private and unassigned ones. Quotes and backslashes are left as they are, so this is for
/// readers, not for parsers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plain<T>(pub T);

impl<T: AsRef<str>> fmt::Display for Plain<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.as_ref().chars() {
            if is_printable(letter) {
                f.write_char(letter)?;
            } else {
                letter.escape_debug().fmt(f)?;
            }
        }
        Ok(())
    }
}

/// Whether a terminal shows a character as it is, and does nothing else for it.
#[must_use]
pub fn is_printable(letter: char) -> bool {
    matches!(letter, '"' | '\'' | '\\') || letter.escape_debug().eq([letter])
}

/// The text with what is not printable escaped, as [`Plain`] displays it.
#[must_use]
pub fn plain(text: &str) -> String {
    Plain(text).to_string()
}

/// Whether [`Plain`] displays the text as it is.
#[must_use]
pub fn is_plain(text: &str) -> bool {
    plain(text) == text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn printable_text_is_left_alone() {
        for text in ["eth0", "it's \"C:\\\"", "后端 10.0.0.1", "café", ""] {
            assert_eq!(plain(text), text);
            assert!(is_plain(text));
        }
    }

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        for (text, shown) in [
            ("a\u{1b}[2J", "a\\u{1b}[2J"),
            ("a\nPASS", "a\\nPASS"),
            ("a\rb\tc\0", "a\\rb\\tc\\0"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{202e}evil\u{2066}", "\\u{202e}evil\\u{2066}"),
            ("\u{200b}\u{feff}\u{2028}", "\\u{200b}\\u{feff}\\u{2028}"),
            ("\u{e0041}", "\\u{e0041}"),
        ] {
            assert_eq!(plain(text), shown);
            assert!(!is_plain(text));
        }
    }

    proptest! {
        #[test]
        fn nothing_but_printable_characters(text: String) {
            let shown = plain(&text);
            prop_assert!(shown.chars().all(is_printable));
        }
    }
}
