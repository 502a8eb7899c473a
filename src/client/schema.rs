//! The schema of a document, which is its first member: found without reading the rest, which may have 80 MB.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};

/// The number of the schema that a document says it has; nothing where it says none, as a single backend.
///
/// # Errors
/// It is no JSON object, as far as it was read.
pub(super) fn of(text: &[u8]) -> serde_json::Result<Option<u64>> {
    let mut found = None;
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let read = deserializer.deserialize_map(First(&mut found));
    // Once it is found, the rest is not read, which is an error by itself.
    match (found, read) {
        (None, Err(error)) => Err(error),
        (found, _) => Ok(found),
    }
}

struct First<'a>(&'a mut Option<u64>);

impl<'de> Visitor<'de> for First<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            if key == "schema" {
                *self.0 = Some(map.next_value()?);
                return Ok(());
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas() {
        for (text, schema) in [
            (r#"{"schema":1,"vips":[{}]}"#, Some(1)),
            (r#"{"vips":[{"schema":7}],"schema":2}"#, Some(2)),
            (r#"{"schema":3,"not read"#, Some(3)),
            (r#"{"vip":"web"}"#, None),
            ("{}", None),
        ] {
            assert_eq!(of(text.as_bytes()).unwrap(), schema, "{text}");
        }
        for text in ["", "<html>", "[]", "{\"schema\":\"1\"}", "{\"vip\":", "1"] {
            assert!(of(text.as_bytes()).is_err(), "{text}");
        }
    }
}
