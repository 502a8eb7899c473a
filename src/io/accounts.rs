//! Users and groups of this host by the files that list them (passwd(5), group(5)). Those of a directory service are
//! not in there, and are known by number alone.

use std::fs::File;
use std::path::Path;

use super::file::read_bounded;

const USERS: &str = "/etc/passwd";
const GROUPS: &str = "/etc/group";

/// In bytes, more than any such file has; a larger one is not read.
const LIMIT: u64 = 4 << 20;

/// The name of a user; `None` where the file has none.
#[must_use]
pub fn user_name(uid: u32) -> Option<String> {
    name_of(&read(USERS), uid)
}

/// The number of a group; `None` where the file has no group of that name.
#[must_use]
pub fn group_number(name: &str) -> Option<u32> {
    number_of(&read(GROUPS), name)
}

fn read(path: &str) -> String {
    let content = File::open(Path::new(path)).and_then(|file| read_bounded(file, LIMIT));
    String::from_utf8_lossy(&content.unwrap_or_default()).into_owned()
}

/// Each line is `NAME:PASSWORD:NUMBER:…`.
fn entries(content: &str) -> impl Iterator<Item = (&str, u32)> {
    content.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        Some((name, fields.nth(1)?.parse().ok()?))
    })
}

fn name_of(content: &str, number: u32) -> Option<String> {
    let entry = entries(content).find(|&(_, of)| of == number);
    entry.map(|(name, _)| name.to_owned())
}

fn number_of(content: &str, name: &str) -> Option<u32> {
    entries(content)
        .find(|&(of, _)| of == name)
        .map(|(_, number)| number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_whatever_is_between_them() {
        let content = "# a comment\nroot:x:0:0:root:/root:/bin/sh\n\n+::::::\nbroken:x\n\
                       ann:x:1000:1000::/nonexistent:/bin/sh\nagain:x:1000:7::/:/bin/sh\n";
        assert_eq!(name_of(content, 0).as_deref(), Some("root"));
        assert_eq!(
            name_of(content, 1000).as_deref(),
            Some("ann"),
            "the first one"
        );
        assert_eq!(name_of(content, 7), None);
        assert_eq!(number_of(content, "ann"), Some(1000));
        assert_eq!(number_of(content, "broken"), None);
        assert_eq!(user_name(0).as_deref(), Some("root"));
    }
}
