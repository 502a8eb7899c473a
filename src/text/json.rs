//! JSON (RFC 8259): of others before it is read, and one's own before a terminal sees it.

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

/// How large a text of JSON is, without a parser: what it holds in memory is bounded by these. Of a text
/// that is no JSON they are numbers all the same. Fed piece by piece.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Values, and names of members; at most so many.
    pub values: usize,
    /// Bytes of the longest string, as it is written.
    pub longest: usize,
    string: Option<usize>,
    escaped: bool,
}

impl Size {
    /// That of a whole text.
    #[must_use]
    pub fn of(text: &[u8]) -> Self {
        let mut size = Self {
            values: 1,
            ..Self::default()
        };
        size.feed(text);
        size
    }

    /// Counts a further piece.
    pub fn feed(&mut self, piece: &[u8]) {
        for byte in piece {
            match (&mut self.string, byte) {
                (Some(length), _) if self.escaped => {
                    self.escaped = false;
                    *length += 1;
                }
                (Some(length), b'"') => {
                    self.longest = self.longest.max(*length);
                    self.string = None;
                }
                (Some(length), _) => {
                    self.escaped = *byte == b'\\';
                    *length += 1;
                }
                (None, b'"') => self.string = Some(0),
                (None, b',' | b':' | b'[' | b'{') => self.values += 1,
                (None, _) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, from_str, to_string, to_string_pretty};

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

    #[test]
    fn sizes() {
        let size = |text: &str| {
            let size = Size::of(text.as_bytes());
            (size.values, size.longest)
        };
        assert_eq!(size("null"), (1, 0));
        assert_eq!(size(r#"[1, "a,b[", {"name": "\\"}]"#), (6, 4));
        assert_eq!(size(r#""\",""#), (1, 3));
    }

    fn values(value: &Value) -> usize {
        match value {
            Value::Array(all) => 1 + all.iter().map(values).sum::<usize>(),
            Value::Object(map) => 1 + map.values().map(|inner| 1 + values(inner)).sum::<usize>(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..8)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_fewer_values_than_there_are(value in value(), cut in 0..100_usize) {
            let text = value.to_string();
            let whole = Size::of(text.as_bytes());
            prop_assert!(whole.values >= values(&value));
            prop_assert!(whole.values <= 2 * values(&value));
            let (head, tail) = text.as_bytes().split_at(cut.min(text.len()));
            let mut pieces = Size::of(head);
            pieces.feed(tail);
            prop_assert_eq!(pieces, whole);
        }

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
