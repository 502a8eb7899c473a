//! The query of a request: parameters by name, percent-decoded, each known and each once.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::model::Problem;
use super::problem;

/// The parameters of one request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query of which these parameters are known.
    ///
    /// # Errors
    /// 400 for one that is unknown, comes twice or is no text.
    pub(super) fn parse(query: &str, known: &[&str]) -> Result<Self, Problem> {
        let mut all: Vec<(String, String)> = Vec::new();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (Some(name), Some(value)) = (decode(name), decode(value)) else {
                let detail = format!(
                    "{}: not the percent-encoding of a UTF-8 text",
                    problem::excerpt(part)
                );
                return Err(problem::new(400, detail));
            };
            if !known.contains(&&*name) {
                return Err(unknown(&name, known));
            }
            if all.iter().any(|(other, _)| *other == name) {
                return Err(problem::of(
                    400,
                    &name,
                    "given twice; accepted: each parameter once",
                ));
            }
            all.push((name, value));
        }
        Ok(Self(all))
    }

    /// The text of a parameter.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| &**value)
    }

    /// That of one that has to be there.
    pub(super) fn needed(&self, name: &str, accepted: &str) -> Result<&str, Problem> {
        let missing = || problem::of(400, name, format!("missing; accepted: {accepted}"));
        self.text(name).ok_or_else(missing)
    }

    fn parsed<T: FromStr>(&self, name: &str, accepted: &str) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let wrong = || {
            let text = problem::excerpt(text);
            problem::of(400, name, format!("\"{text}\"; accepted: {accepted}"))
        };
        text.parse().map(Some).map_err(|_| wrong())
    }

    /// A backend's address.
    pub(super) fn address(&self, name: &str) -> Result<Option<IpAddr>, Problem> {
        self.parsed(name, "an address such as 10.0.1.11 or 2001:db8::11")
    }

    /// An end of a flow.
    pub(super) fn endpoint(&self, name: &str) -> Result<SocketAddr, Problem> {
        const ACCEPTED: &str = "ADDRESS:PORT such as 192.0.2.1:40000 or [2001:db8::1]:40000";
        self.needed(name, ACCEPTED)?;
        let endpoint = self.parsed(name, ACCEPTED)?;
        endpoint.ok_or_else(|| problem::of(400, name, "missing"))
    }

    /// A whole number.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Problem> {
        self.parsed(name, "a whole number from 0")
    }

    /// `true` or `false`, which it is when it is absent.
    pub(super) fn switch(&self, name: &str) -> Result<bool, Problem> {
        let on: Option<bool> = self.parsed(name, "true or false")?;
        Ok(on.unwrap_or_default())
    }
}

fn unknown(name: &str, known: &[&str]) -> Problem {
    let name = problem::excerpt(name);
    let detail = match known {
        [] => "unknown parameter; none is accepted here".to_owned(),
        known => format!("unknown parameter; accepted: {}", known.join(", ")),
    };
    problem::of(400, &name, detail)
}

/// Percent-encoding (RFC 3986 §2.1), and `+` for a space as forms have it.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => digit(rest.next()?)? << 4 | digit(rest.next()?)?,
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn digit(byte: u8) -> Option<u8> {
    let value = char::from(byte).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KNOWN: [&str; 4] = ["vip", "address", "since", "follow"];

    fn parse(query: &str) -> Result<Query, Problem> {
        Query::parse(query, &KNOWN)
    }

    #[test]
    fn parameters() {
        let query = parse("vip=203.0.113.10%3a80/tcp&address=2001:db8::1&&follow=true").unwrap();
        assert_eq!(query.text("vip"), Some("203.0.113.10:80/tcp"));
        assert_eq!(
            query.address("address"),
            Ok(Some("2001:db8::1".parse().unwrap()))
        );
        assert_eq!(query.switch("follow"), Ok(true));
        assert_eq!(query.number("since"), Ok(None));
        assert_eq!(
            parse("vip=a+b%2B%E5%90%8E").unwrap().text("vip"),
            Some("a b+后")
        );
        assert_eq!(parse("vip").unwrap().text("vip"), Some(""));
        assert_eq!(parse(""), Ok(Query::default()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (query, field, detail) in [
            ("vpi=web", Some("vpi"), "accepted: vip, address"),
            ("vip=a&vip=b", Some("vip"), "twice"),
            ("vip=%ff", None, "UTF-8"),
            ("vip=%4", None, "percent-encoding"),
            ("vip=%zz", None, "percent-encoding"),
            ("%1b[2J=1", Some("\\u{1b}[2J"), "unknown parameter"),
        ] {
            let problem = parse(query).unwrap_err();
            assert_eq!(problem.status, 400, "{query}");
            assert_eq!(problem.field.as_deref(), field, "{query}");
            assert!(
                problem.detail.contains(detail),
                "{query}: {}",
                problem.detail
            );
        }
        let query = parse("address=web&since=-1&follow=yes").unwrap();
        for problem in [
            query.address("address").unwrap_err(),
            query.number("since").unwrap_err(),
            query.switch("follow").unwrap_err(),
            query.endpoint("address").unwrap_err(),
            query.endpoint("vip").unwrap_err(),
            query.needed("vip", "a name").unwrap_err(),
        ] {
            assert_eq!(problem.status, 400);
            assert!(problem.detail.contains("accepted: "), "{problem:?}");
        }
        let none = Query::parse("a=1", &[]).unwrap_err();
        assert!(none.detail.contains("none is accepted"));
    }

    proptest! {
        #[test]
        fn any_query_is_read_or_refused(query in ".{0,60}") {
            if let Err(problem) = parse(&query) {
                prop_assert_eq!(problem.status, 400);
                prop_assert!(crate::text::plain::is_plain(&problem.detail), "{:?}", problem);
            }
        }

        #[test]
        fn what_is_encoded_is_the_text(value: String) {
            let encoded: String = value.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let query = parse(&format!("vip={encoded}")).unwrap();
            prop_assert_eq!(query.text("vip"), Some(&*value));
        }
    }
}
