//! The undo script: on disk before the change that it takes back, whole at every moment.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::doctor::finding::Code;
use crate::io::file;
use crate::text::{Plain, shell};

/// Only its owner reads and runs it: it tells rules and addresses.
const MODE: u32 = 0o700;

/// Why the undo script cannot be kept; no change is made without it.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// A file of that name is there.
    #[error(
        "the undo script {} is there already, and is not overwritten: name another one, --undo-file FILE",
        Plain(path.to_string_lossy())
    )]
    Exists {
        /// Its path.
        path: PathBuf,
    },
    /// It cannot be written.
    #[error("cannot write the undo script {}: {cause}", Plain(path.to_string_lossy()))]
    Write {
        /// Its path.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
}

/// What one change needs to be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The finding that it mends.
    pub code: Code,
    /// What was done, in words of a shell.
    pub done: String,
    /// Lines of a shell, in their order.
    pub undo: Vec<String>,
}

/// An undo script that grows with the changes.
#[derive(Debug)]
pub struct Script {
    path: PathBuf,
    /// Of this time, the first free one of its names.
    stamp: Option<u64>,
    entries: Vec<Entry>,
    exists: bool,
}

impl Script {
    /// One that will be at `path`, which must not exist; nothing is written yet.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self {
            path,
            stamp: None,
            entries: Vec::new(),
            exists: false,
        }
    }

    /// One in a folder that is named after a time in seconds, and numbered where another one is.
    #[must_use]
    pub fn stamped(folder: &Path, stamp: u64) -> Self {
        Self {
            stamp: Some(stamp),
            ..Self::new(folder.join(format!("tunlb-doctor-undo-{stamp}.sh")))
        }
    }

    /// Where it is, once it has something to take back.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.exists.then_some(self.path.as_path())
    }

    /// Takes down how to take back what is about to be done.
    ///
    /// # Errors
    /// [`ScriptError`]: the file exists already, or cannot be written.
    pub fn record(&mut self, entry: Entry) -> Result<(), ScriptError> {
        self.entries.push(entry);
        let written = self.write();
        if written.is_err() {
            self.entries.pop();
        }
        written
    }

    /// The last recorded change was not made after all.
    ///
    /// # Errors
    /// [`ScriptError`].
    pub fn forget_last(&mut self) -> Result<(), ScriptError> {
        self.entries.pop();
        if !self.entries.is_empty() {
            return self.write();
        }
        self.exists = false;
        fs::remove_file(&self.path).map_err(|cause| self.error(cause))
    }

    /// The old script stays whole until the new one is.
    fn write(&mut self) -> Result<(), ScriptError> {
        let text = text(&self.entries);
        if self.exists {
            let replaced = file::replace(&self.path, MODE, text.as_bytes());
            return replaced.map_err(|cause| self.error(cause));
        }
        let created = self.create(&text);
        created.map_err(|cause| self.error(cause))
    }

    fn create(&mut self, text: &str) -> io::Result<()> {
        let (path, mut file) = file::create_first(self.names(), MODE)?;
        self.path = path;
        self.exists = true;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    /// Two runs may begin within a second.
    fn names(&self) -> impl Iterator<Item = PathBuf> + use<> {
        let folder = self.path.parent().unwrap_or(Path::new("")).to_owned();
        let numbered = self
            .stamp
            .into_iter()
            .flat_map(|stamp| (2_u32..).map(move |number| (stamp, number)));
        let more = numbered.map(move |(stamp, number)| {
            folder.join(format!("tunlb-doctor-undo-{stamp}-{number}.sh"))
        });
        std::iter::once(self.path.clone()).chain(more)
    }

    fn error(&self, cause: io::Error) -> ScriptError {
        let path = self.path.clone();
        if cause.kind() == io::ErrorKind::AlreadyExists {
            ScriptError::Exists { path }
        } else {
            ScriptError::Write { path, cause }
        }
    }
}

/// The script: each change taken back, the last one first; what fails keeps no other from being tried.
pub(in crate::doctor) fn text(entries: &[Entry]) -> String {
    let mut text = "#!/bin/sh\n# Takes back what tunlb doctor changed, the last change first.\nset -eu\nfailed=0\n"
        .to_owned();
    for Entry { code, done, undo } in entries.iter().rev() {
        write!(text, "\n# {code}: {}\n", Plain(done)).unwrap_or_default(); // into a String
        for line in undo {
            writeln!(text, "{line} || failed=1").unwrap_or_default();
        }
    }
    text + "\nexit \"$failed\"\n"
}

/// Lines of a shell that give a file its former content, or remove it where there was none.
#[must_use]
pub fn restore(path: &Path, former: Option<&str>) -> Vec<String> {
    let path = path.to_string_lossy().into_owned();
    match former {
        None => vec![shell::line(&["rm", "-f", &path].map(str::to_owned))],
        Some(content) => {
            let words = ["printf", "%s", content].map(str::to_owned);
            let path = shell::line(&[path]);
            vec![format!("{} >{path}", shell::line(&words))]
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    fn entry(row: u8, done: &str, undo: &str) -> Entry {
        Entry {
            code: Code::backend(row),
            done: done.to_owned(),
            undo: vec![undo.to_owned()],
        }
    }

    #[test]
    fn the_last_change_is_taken_back_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("undo.sh");
        let mut script = Script::new(path.clone());
        assert_eq!(script.path(), None);
        script
            .record(entry(5, "ip addr add V", "echo first"))
            .unwrap();
        script.record(entry(10, "sysctl", "false")).unwrap();
        script.record(entry(19, "nft", "echo last")).unwrap();
        let expected = "#!/bin/sh\n# Takes back what tunlb doctor changed, the last change first.\nset -eu\n\
                        failed=0\n\n# B19: nft\necho last || failed=1\n\n# B10: sysctl\nfalse || failed=1\n\n\
                        # B5: ip addr add V\necho first || failed=1\n\nexit \"$failed\"\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
        let run = Command::new(&path).output().unwrap();
        assert_eq!(run.status.code(), Some(1), "one line failed");
        assert_eq!(run.stdout, b"last\nfirst\n", "the others ran");
    }

    #[test]
    fn what_was_not_done_is_not_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("undo.sh");
        let mut script = Script::new(path.clone());
        script.record(entry(5, "a", "echo a")).unwrap();
        script.record(entry(5, "b", "echo b")).unwrap();
        script.forget_last().unwrap();
        assert!(!fs::read_to_string(&path).unwrap().contains("echo b"));
        script.forget_last().unwrap();
        assert!(!path.exists(), "nothing to take back, no script");
    }

    #[test]
    fn a_file_of_others_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("undo.sh");
        fs::write(&path, "mine").unwrap();
        let error = Script::new(path.clone())
            .record(entry(5, "a", "b"))
            .unwrap_err();
        assert!(
            error.to_string().contains("undo.sh is there already"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn two_runs_within_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let mut paths = Vec::new();
        for _ in 0..3 {
            let mut script = Script::stamped(folder.path(), 17);
            script.record(entry(5, "a", "true")).unwrap();
            script.record(entry(5, "b", "true")).unwrap();
            paths.push(script.path().unwrap().to_owned());
        }
        let names = ["17", "17-2", "17-3"].map(|name| format!("tunlb-doctor-undo-{name}.sh"));
        assert_eq!(paths, names.map(|name| folder.path().join(name)));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    /// Nothing of it becomes a line of its own.
    #[test]
    fn comments_stay_comments() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("undo.sh");
        let mut script = Script::new(path.clone());
        let done = "write a\ntouch pwned\r\ntouch pwned\u{2028}\u{85}touch pwned";
        script.record(entry(5, done, "true")).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("# B5: write a\\ntouch pwned\\r\\ntouch"),
            "{text}"
        );
        assert!(
            text.lines().all(|line| !line.starts_with("touch")),
            "{text}"
        );
    }

    #[test]
    fn files_get_their_content_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("99 tunlb.conf");
        let former = "# it's\nnet.a = 1 # 100%\n\\n\n";
        for (former, after) in [(Some(former), Some(former)), (None, None)] {
            fs::write(&path, "new").unwrap();
            let lines = restore(&path, former);
            let run = Command::new("sh")
                .args(["-euc", &lines.join("\n")])
                .status();
            assert!(run.unwrap().success());
            assert_eq!(fs::read_to_string(&path).ok().as_deref(), after);
        }
    }
}
