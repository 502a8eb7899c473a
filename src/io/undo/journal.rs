//! The journal as a file: lines of JSON that are only ever added. A step's line is written before its
//! change is made, and another one when the step is undone, so that what the file says is enough to undo
//! everything, whenever the process ends. The process holds a lock on it as long as it lives.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::folder::{Folder, FolderError};
use super::namespace::Namespace;
use super::step::Step;
use crate::io::file::read_bounded;

/// Of the format; one that is not known is left alone.
const VERSION: u32 = 1;

/// The largest journal that is read: 10,000 VIPs make 3 MB.
const LARGEST_BYTES: u64 = 64 * 1024 * 1024;

/// The longest first line: its texts are short.
const LONGEST_HEADER_BYTES: u64 = 4096;

/// Lines of undone steps that a journal may keep beside those that count.
const IDLE_LINES: usize = 4096;

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Entry<S> {
    Journal(Header),
    /// This step is about to be made.
    Make {
        id: u64,
        step: S,
    },
    /// This step, on which others hang, is about to be undone.
    Undoing(u64),
    /// This step is undone, or was not made after all.
    Undone(u64),
}

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    version: u32,
    pub(super) namespace: Namespace,
    /// The process that made the changes.
    pub(super) pid: u32,
    /// Its subcommand.
    pub(super) command: String,
}

impl Header {
    /// For a journal of this process.
    pub(super) fn new(namespace: Namespace) -> Self {
        Self {
            version: VERSION,
            namespace,
            pid: std::process::id(),
            command: std::env::args().nth(1).unwrap_or_default(),
        }
    }
}

/// What a journal says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) header: Option<Header>,
    /// What is not undone, in the order in which it was made.
    pub(super) steps: BTreeMap<u64, Step>,
    /// Steps of these that were about to be undone.
    pub(super) undoing: Vec<u64>,
    /// Numbers of the lines that could not be understood, from 1.
    pub(super) garbage: Vec<usize>,
}

/// A journal that is written to.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    length: u64,
    /// Lines of steps that are undone.
    idle: usize,
}

impl Journal {
    /// A new one, with its first line.
    pub(super) fn create(folder: &Folder, header: &Header) -> Result<Self, FolderError> {
        let (file, path) = folder.new_journal(&header.namespace.label())?;
        let mut journal = Self {
            file,
            path,
            length: 0,
            idle: 0,
        };
        let entry = Entry::<&Step>::Journal(header.clone());
        if let Err(cause) = journal.append(&entry) {
            let path = journal.path.clone();
            journal.remove();
            return Err(FolderError::System { path, cause });
        }
        Ok(journal)
    }

    /// One that was left, and that this process has locked.
    pub(super) const fn resume(file: File, path: PathBuf, length: u64) -> Self {
        Self {
            file,
            path,
            length,
            idle: 0,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes down a step that is about to be made.
    pub(super) fn make(&mut self, id: u64, step: &Step) -> io::Result<()> {
        self.append(&Entry::Make { id, step })
    }

    /// Takes down that a step is about to be undone.
    pub(super) fn undoing(&mut self, id: u64) -> io::Result<()> {
        self.append(&Entry::<&Step>::Undoing(id))
    }

    /// Takes down that a step is undone.
    pub(super) fn undone(&mut self, id: u64) -> io::Result<()> {
        self.idle += 1;
        self.append(&Entry::<&Step>::Undone(id))
    }

    /// Whether most of it is about steps that are undone.
    pub(super) const fn is_mostly_idle(&self, steps: usize) -> bool {
        self.idle > IDLE_LINES && self.idle > steps
    }

    /// Puts a journal of these steps alone in its place.
    pub(super) fn rewrite(
        &mut self,
        header: &Header,
        steps: &BTreeMap<u64, Step>,
    ) -> Result<(), FolderError> {
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        let Some(folder) = Folder::open(parent)? else {
            return Ok(());
        };
        let mut new = Self::create(&folder, header)?;
        let written = steps.iter().try_for_each(|(id, step)| new.make(*id, step));
        if let Err(cause) = written.and_then(|()| fs::rename(&new.path, &self.path)) {
            let path = new.path.clone();
            new.remove();
            return Err(FolderError::System { path, cause });
        }
        new.path.clone_from(&self.path);
        *self = new;
        Ok(())
    }

    /// Takes the file away: nothing is left to undo.
    pub(super) fn remove(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            log::debug!("{}: {error}", self.path.display());
        }
    }

    /// One write of a whole line; what a full file system took of it is cut off again.
    fn append(&mut self, entry: &Entry<&Step>) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += line.len() as u64;
        Ok(())
    }
}

/// How a journal begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    Header(Header),
    /// Without a whole line: it was about to be made.
    Unborn,
    /// With something else, perhaps of another version.
    Unknown,
}

/// The first line of a journal.
pub(super) fn head(file: &File) -> io::Result<Head> {
    let mut start = Vec::new();
    file.take(LONGEST_HEADER_BYTES).read_to_end(&mut start)?;
    Ok(match start.iter().position(|byte| *byte == b'\n') {
        Some(end) => parse(&start[..=end])
            .header
            .map_or(Head::Unknown, Head::Header),
        None if start.len() as u64 == LONGEST_HEADER_BYTES => Head::Unknown,
        None => Head::Unborn,
    })
}

/// All of a journal, and its length in bytes.
///
/// # Errors
/// The system's; [`io::ErrorKind::FileTooLarge`].
pub(super) fn read(mut file: &File) -> io::Result<(Content, u64)> {
    file.rewind()?;
    let bytes = read_bounded(file, LARGEST_BYTES)?;
    Ok((parse(&bytes), bytes.len() as u64))
}

/// The last line counts only when it is whole: before that, its change has not been made.
fn parse(bytes: &[u8]) -> Content {
    let mut content = Content::default();
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
    let lines = bytes[..whole].split(|byte| *byte == b'\n');
    for (number, line) in (1..).zip(lines) {
        match (serde_json::from_slice(line), content.header.is_some()) {
            (Ok(Entry::Journal(header)), false) if number == 1 && header.version == VERSION => {
                content.header = Some(header);
            }
            (Ok(Entry::Make { id, step }), true) if !content.steps.contains_key(&id) => {
                content.steps.insert(id, step);
            }
            (Ok(Entry::Undoing(id)), true) => content.undoing.push(id),
            (Ok(Entry::Undone(id)), true) => {
                content.steps.remove(&id);
            }
            _ => content.garbage.push(number),
        }
    }
    content
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::namespace::tests::namespace;
    use super::*;

    fn unreachable(host: u8) -> Step {
        Step::Unreachable {
            net: std::net::IpAddr::from([10, 0, 0, host]).into(),
        }
    }

    fn journal(parent: &Path) -> (Folder, Header, Journal) {
        let folder = Folder::create(&parent.join("tunlb")).unwrap();
        let header = Header::new(namespace("b1", 7, 9));
        let journal = Journal::create(&folder, &header).unwrap();
        (folder, header, journal)
    }

    fn content(journal: &Journal) -> Content {
        read(&File::open(journal.path()).unwrap()).unwrap().0
    }

    #[test]
    fn what_is_not_undone_is_left() {
        let parent = tempfile::tempdir().unwrap();
        let (_, header, mut journal) = journal(parent.path());
        for id in 0..4 {
            journal
                .make(id, &unreachable(u8::try_from(id).unwrap()))
                .unwrap();
        }
        journal.undone(1).unwrap();
        journal.undoing(3).unwrap();
        journal.undone(77).unwrap();
        let content = content(&journal);
        assert_eq!(content.header, Some(header));
        let ids: Vec<_> = content.steps.keys().copied().collect();
        assert_eq!((ids, content.undoing), (vec![0, 2, 3], vec![3]));
        assert!(content.garbage.is_empty());
    }

    #[test]
    fn half_a_line_at_the_end_was_never_made() {
        let parent = tempfile::tempdir().unwrap();
        let (_, header, mut journal) = journal(parent.path());
        journal.make(0, &unreachable(1)).unwrap();
        let whole = fs::read(journal.path()).unwrap();
        journal.make(1, &unreachable(2)).unwrap();
        let longer = fs::read(journal.path()).unwrap();
        for length in whole.len()..longer.len() {
            let content = parse(&longer[..length]);
            assert_eq!(content.header.as_ref(), Some(&header));
            assert_eq!(
                (content.steps.len(), content.garbage),
                (1, vec![]),
                "{length}"
            );
        }
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]).steps.len(), 0);
        }
    }

    #[test]
    fn garbage_is_told_by_its_line_and_the_rest_is_read() {
        let parent = tempfile::tempdir().unwrap();
        let (_, _, mut journal) = journal(parent.path());
        journal.make(0, &unreachable(1)).unwrap();
        let first = fs::read(journal.path()).unwrap();
        let mut text = first.clone();
        text.extend(b"\xff\0\n\n{\"run\":\"id\"}\n[[[[\n");
        text.extend(&first); // a second header, and a second step of that number
        let content = parse(&text);
        assert_eq!(content.steps.len(), 1);
        assert_eq!(content.garbage, [3, 4, 5, 6, 7, 8]);
        let newer = String::from_utf8(first)
            .unwrap()
            .replace("\"version\":1", "\"version\":2");
        assert_eq!(parse(newer.as_bytes()).header, None);
        assert_eq!(parse(newer.as_bytes()).steps.len(), 0);
    }

    #[test]
    fn a_journal_that_is_mostly_idle_becomes_small_again() {
        let parent = tempfile::tempdir().unwrap();
        let (folder, header, mut journal) = journal(parent.path());
        let mut steps = BTreeMap::new();
        for id in 0..5000 {
            journal.make(id, &unreachable(1)).unwrap();
            journal.undone(id).unwrap();
        }
        journal.make(5000, &unreachable(2)).unwrap();
        steps.insert(5000, unreachable(2));
        assert!(journal.is_mostly_idle(steps.len()));
        let path = journal.path().to_owned();
        journal.rewrite(&header, &steps).unwrap();
        assert_eq!(journal.path(), path);
        assert_eq!(folder.journals().unwrap(), [path]);
        assert_eq!(content(&journal).steps, steps);
        assert!(journal.length < 1000);
        journal.undone(5000).unwrap();
        assert_eq!(content(&journal).steps.len(), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            parse(&bytes);
        }

        #[test]
        fn any_lines_behind_a_header_are_read_without_panic(lines in prop::collection::vec(".{0,40}", 0..8)) {
            let header = serde_json::to_string(&Entry::<&Step>::Journal(Header::new(namespace("b1", 7, 9)))).unwrap();
            let text = format!("{header}\n{}\n", lines.join("\n"));
            prop_assert!(parse(text.as_bytes()).steps.is_empty());
        }
    }
}
