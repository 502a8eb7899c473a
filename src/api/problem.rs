//! What is told of a request that is refused (RFC 9457).

use super::model::Problem;
use crate::control::overlay::ChangeError;
use crate::control::{Busy, Refused};
use crate::text::Plain;

/// Characters of what a client sent that are shown to it again.
const EXCERPT: usize = 80;

/// A problem with this HTTP status.
pub(super) fn new(status: u16, detail: impl Into<String>) -> Problem {
    Problem {
        status,
        title: title(status).to_owned(),
        detail: detail.into(),
        field: None,
        problems: Vec::new(),
    }
}

/// One of a field of the body, a parameter of the query, or a header.
pub(super) fn of(status: u16, field: &str, detail: impl Into<String>) -> Problem {
    Problem {
        field: Some(field.to_owned()),
        ..new(status, detail)
    }
}

/// What a client sent, printable and short.
pub(super) fn excerpt(text: &str) -> String {
    excerpt_of(text, EXCERPT)
}

/// At most so many characters of it.
pub(super) fn excerpt_of(text: &str, most: usize) -> String {
    let mut letters = text.chars();
    let mut shown: String = letters.by_ref().take(most).collect();
    if letters.next().is_some() {
        shown.push('…');
    }
    Plain(&shown).to_string()
}

/// The reason phrase of a status (RFC 9110 §15).
fn title(status: u16) -> &'static str {
    let known = hyper::StatusCode::from_u16(status).ok();
    known
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Error")
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        let (status, field) = match &error {
            ChangeError::NoVip { .. } => (404, Some("vip")),
            ChangeError::NoBackend(_) | ChangeError::NoOverride(_) => (404, Some("address")),
            ChangeError::Exists(_) => (409, Some("address")),
            ChangeError::Last(_) => (409, None),
            ChangeError::NotExternal(_) => (409, Some("vip")),
            ChangeError::HealthForever => (422, Some("for_seconds")),
            ChangeError::Stale { .. } => (412, Some("If-Match")),
            ChangeError::Refused(_) => (422, None),
        };
        let detail = Plain(error.to_string()).to_string();
        match field {
            Some(field) => of(status, field, detail),
            None => new(status, detail),
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        Self {
            problems: refused.problems,
            ..new(422, "the configuration is not applied; the old one stays")
        }
    }
}

impl From<Busy> for Problem {
    fn from(busy: Busy) -> Self {
        new(503, busy.to_string())
    }
}
