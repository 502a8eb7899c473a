//! Why a text is not the JSON that was expected, in the words of one who did not write it.

use serde_json::error::Category;

use crate::text::Plain;

/// What a text is instead, with the place.
pub(super) fn text(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    match error.classify() {
        Category::Eof => {
            format!("JSON that ends too early, at line {line} column {column}: cut off?")
        }
        Category::Syntax | Category::Io => {
            format!("not JSON, from line {line} column {column} on")
        }
        // It quotes what it found.
        Category::Data => format!("JSON of something else: {}", Plain(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::text;
    use crate::doctor::Status;

    #[test]
    fn what_it_quotes_is_printable() {
        let error = serde_json::from_str::<Status>(r#""\u001b[2J\nPASS""#).unwrap_err();
        let said = text(&error);
        assert!(
            said.contains(r"unknown variant `\u{1b}[2J\nPASS`"),
            "{said}"
        );
    }

    #[test]
    fn what_it_is_instead() {
        let of = |json: &str| text(&serde_json::from_str::<Vec<u8>>(json).unwrap_err());
        assert_eq!(
            of("{x"),
            "JSON of something else: invalid type: map, expected a sequence at line 1 column 0"
        );
        assert_eq!(of("[1 x"), "not JSON, from line 1 column 4 on");
        assert_eq!(
            of("[1,"),
            "JSON that ends too early, at line 1 column 3: cut off?"
        );
        assert_eq!(
            of(""),
            "JSON that ends too early, at line 1 column 0: cut off?"
        );
    }
}
