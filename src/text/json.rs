//! JSON that a terminal shows as it is.

use std::fmt::Write as _;

/// JSON with every character that is not printable as `\uXXXX`, so that a terminal that shows the
/// document obeys nothing in it. The document means the same: what is not ASCII is only in strings, and
/// serializers escape the control characters of ASCII but DEL themselves.
#[must_use]
pub fn printable(document: &str) -> String {
    let mut shown = String::with_capacity(document.len());
    for letter in document.chars() {
        let raw = letter == '\u{7f}' || !letter.is_ascii() && !letter.escape_debug().eq([letter]);
        if raw {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                write!(shown, "\\u{unit:04x}").unwrap_or_default(); // into a String
            }
        } else {
            shown.push(letter);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{from_str, to_string, to_string_pretty};

    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        for (text, json) in [
            ("\u{1b}[2J\u{7f}\u{9b}31m", r#""\u001b[2J\u007f\u009b31m""#),
            ("\u{202e}后端\u{e0041}", r#""\u202e后端\udb40\udc41""#),
            ("\"\\", r#""\"\\""#),
        ] {
            assert_eq!(printable(&to_string(text).unwrap()), json);
        }
    }

    proptest! {
        #[test]
        fn the_document_means_the_same(texts: Vec<String>) {
            for document in [to_string(&texts).unwrap(), to_string_pretty(&texts).unwrap()] {
                let shown = printable(&document);
                prop_assert_eq!(&from_str::<Vec<String>>(&shown).unwrap(), &texts);
                let plain = crate::text::plain::is_plain;
                prop_assert!(shown.split('\n').all(plain), "{}", shown);
            }
        }
    }
}
