//! Paths with a query (RFC 3986, section 3.4).

use std::fmt::{Display, Write as _};

/// A path and the parameters that were given a value.
#[derive(Debug)]
pub(super) struct Target(String);

impl Target {
    pub(super) fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    /// With a parameter, where there is a value.
    #[must_use]
    pub(super) fn with(mut self, name: &str, value: Option<impl Display>) -> Self {
        if let Some(value) = value {
            self.0.push(if self.0.contains('?') { '&' } else { '?' });
            self.0.push_str(name);
            self.0.push('=');
            escape(&value.to_string(), &mut self.0);
        }
        self
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// All but unreserved characters as `%XX`.
fn escape(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            into.push(char::from(byte));
        } else {
            write!(into, "%{byte:02X}").unwrap_or_default(); // into a String
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped() {
        let target = Target::new("/v1/backends")
            .with("vip", Some("203.0.113.10:80/tcp"))
            .with("limit", None::<u64>)
            .with("address", Some("2001:db8::1"));
        assert_eq!(
            target.as_str(),
            "/v1/backends?vip=203.0.113.10%3A80%2Ftcp&address=2001%3Adb8%3A%3A1"
        );
        let target = Target::new("/").with("vip", Some("a&b=c d+é"));
        assert_eq!(target.as_str(), "/?vip=a%26b%3Dc%20d%2B%C3%A9");
    }
}
