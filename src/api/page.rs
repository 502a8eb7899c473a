//! The web page of the metrics listener (`GET /`): one file that asks for `/status.json` and shows it. It changes
//! nothing, and loads nothing from elsewhere.

/// The page.
pub const HTML: &str = include_str!("page.html");

/// The type of [`HTML`].
pub const CONTENT_TYPE: &str = "text/html; charset=utf-8";

/// The header `Content-Security-Policy` of [`HTML`]: only its own script and style, by their hashes, and questions to
/// the listener that it came from.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'sha256-jKQaOMN2cC7BI8b74oriNz6nt4olD0aG6aYsev+X0vg='; style-src 'sha256-nTBaL8gcnU9+OPc5PsY8BNfCJyIUjd0HooCj+a8xm3o='; \
    img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Further headers of [`HTML`], by name: beside the policy, a browser sends no address of it elsewhere and takes it for
/// nothing else.
pub const HEADERS: &[(&str, &str)] = &[
    ("content-security-policy", CONTENT_SECURITY_POLICY),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
];

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::api::model::Status;

    /// What is between the one opening and the one closing tag.
    fn inside(tag: &str) -> &'static str {
        let [open, close] = [format!("<{tag}>"), format!("</{tag}>")];
        assert_eq!(
            (HTML.matches(&open).count(), HTML.matches(&close).count()),
            (1, 1)
        );
        let (_, rest) = HTML.split_once(&open).unwrap();
        rest.split_once(&close).unwrap().0
    }

    /// As a source of a content security policy.
    fn hash(text: &str) -> String {
        const PROGRAM: &str = "import base64, hashlib, sys
print(base64.b64encode(hashlib.sha256(sys.stdin.buffer.read()).digest()).decode())";
        let mut python = Command::new("python3")
            .args(["-c", PROGRAM])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        python
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        let output = python.wait_with_output().unwrap();
        assert!(output.status.success());
        format!(
            "'sha256-{}'",
            String::from_utf8(output.stdout).unwrap().trim()
        )
    }

    #[test]
    fn the_policy_allows_the_script_and_the_style_that_the_page_has() {
        for (tag, directive) in [("script", "script-src"), ("style", "style-src")] {
            let wanted = format!("{directive} {};", hash(inside(tag)));
            assert!(
                CONTENT_SECURITY_POLICY.contains(&wanted),
                "should be: {wanted}"
            );
        }
    }

    /// Attributes with code or style would be refused by the policy; markup made of text could be an operator's.
    #[test]
    fn the_page_loads_nothing_and_makes_no_markup_of_text() {
        for word in [
            "http:",
            "https:",
            "//cdn",
            "@import",
            "url(",
            "src=",
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
            "Function(",
            " style=",
            " onclick",
            " onload",
            "localStorage",
        ] {
            let known = HTML.replace("http://www.w3.org/2000/svg", ""); // a name space, not loaded
            assert!(!known.contains(word), "{word}");
        }
    }

    /// The document of `packaging/page/`, by which a browser tests the page, is one of this model.
    #[test]
    fn the_canned_document_is_one_of_the_api() {
        let text = include_str!("../../packaging/page/status.json");
        let status: Status = serde_json::from_str(text).unwrap();
        let again: serde_json::Value = serde_json::to_value(&status).unwrap();
        let canned: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(
            again, canned,
            "the document has other fields than the model"
        );
    }
}
