//! Why a text is not the JSON that was expected, in the words of one who did not write it.

use serde_json::error::Category;

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
        Category::Data => format!("JSON of something else: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::text;

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
