//! A list in JSON, one element at a time: none that follows is in memory.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Calls `each` with every element; nothing for what is no list. Ends with the first error.
pub(super) fn for_each<'j>(
    list: &'j RawValue,
    each: &mut dyn FnMut(&'j RawValue) -> Result<(), String>,
) -> Result<(), String> {
    if !list.get().starts_with('[') {
        return Ok(());
    }
    let mut reader = serde_json::Deserializer::from_str(list.get());
    let mut failure = None;
    let mut each = |element| each(element).inspect_err(|why| failure = Some(why.clone()));
    let read = Elements(&mut each).deserialize(&mut reader);
    match (read, failure) {
        (_, Some(why)) => Err(why),
        (Err(why), None) => Err(why.to_string()),
        (Ok(()), None) => Ok(()),
    }
}

struct Elements<'f, 'j>(&'f mut dyn FnMut(&'j RawValue) -> Result<(), String>);

impl<'j> DeserializeSeed<'j> for Elements<'_, 'j> {
    type Value = ();

    fn deserialize<D: Deserializer<'j>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'j> Visitor<'j> for Elements<'_, 'j> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'j>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(element) = list.next_element::<&'j RawValue>()? {
            (self.0)(element).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(text: &str) -> Result<Vec<String>, String> {
        let list: &RawValue = serde_json::from_str(text).unwrap();
        let mut seen = Vec::new();
        for_each(list, &mut |element| {
            seen.push(element.get().to_owned());
            if seen.len() > 3 {
                Err("enough".to_owned())
            } else {
                Ok(())
            }
        })?;
        Ok(seen)
    }

    #[test]
    fn one_after_the_other() {
        assert_eq!(
            elements("[1, [2], {\"a\": \"]\"}]").unwrap(),
            ["1", "[2]", "{\"a\": \"]\"}"]
        );
        assert!(elements("[]").unwrap().is_empty());
        assert!(elements("{}").unwrap().is_empty());
        assert_eq!(elements("[1,2,3,4,5]").unwrap_err(), "enough");
    }
}
