//! What runs here: processes with their network namespaces, the owners of sockets, and other tunlbs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the owners of sockets are looked for: a machine may have a million open files.
const SEARCH: Duration = Duration::from_millis(200);

/// When a search for owners that begins now ends, whatever it has found.
#[must_use]
pub fn end_of_search() -> Instant {
    Instant::now() + SEARCH
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// The name of its program, cut to 15 bytes by the kernel.
    pub program: String,
    /// The inode of its network namespace; `None` where that may not be seen.
    pub namespace: Option<u64>,
}

/// The processes of the machine, as far as `/proc` shows them.
#[derive(Debug)]
pub struct Processes {
    proc: PathBuf,
    /// The inode of our own network namespace.
    own: Option<u64>,
    all: Vec<Process>,
}

impl Processes {
    /// Reads `/proc`, or what is in its place.
    #[must_use]
    pub fn read(proc: &Path) -> Self {
        let entries = fs::read_dir(proc).into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Self {
            own: namespace_of(&proc.join("self")).ok().flatten(),
            all: pids.filter_map(|pid| process(proc, pid)).collect(),
            proc: proc.to_owned(),
        }
    }

    /// All of them, those of our network namespace first.
    pub fn all(&self) -> impl Iterator<Item = &Process> {
        let elsewhere = |process: &&Process| self.own.is_none() || process.namespace != self.own;
        self.here().chain(self.all.iter().filter(elsewhere))
    }

    /// Those of our network namespace.
    pub fn here(&self) -> impl Iterator<Item = &Process> {
        let here = |process: &&Process| self.own.is_some() && process.namespace == self.own;
        self.all.iter().filter(here)
    }

    /// Those of each other network namespace, by its inode.
    #[must_use]
    pub fn elsewhere(&self) -> BTreeMap<u64, Vec<&Process>> {
        let mut namespaces: BTreeMap<u64, Vec<&Process>> = BTreeMap::new();
        for process in &self.all {
            if let Some(namespace) = process.namespace.filter(|inode| Some(*inode) != self.own) {
                namespaces.entry(namespace).or_default().push(process);
            }
        }
        namespaces
    }

    /// How many processes there are whose namespace may not be seen.
    #[must_use]
    pub fn unseen(&self) -> usize {
        let unseen = |process: &&Process| process.namespace.is_none();
        self.all.iter().filter(unseen).count()
    }

    /// Running tunlbs with this subcommand, and their arguments, the program's own name first. Those
    /// whose namespace may not be seen are among them.
    #[must_use]
    pub fn tunlbs(&self, subcommand: &str) -> Vec<(&Process, Vec<String>)> {
        let candidates = self.all.iter().filter(|process| {
            let elsewhere = process.namespace.is_some() && process.namespace != self.own;
            !elsewhere && process.program.starts_with("tunlb")
        });
        candidates
            .map(|process| (process, self.arguments(process.pid)))
            .filter(|(_, arguments)| arguments.get(1).is_some_and(|word| word == subcommand))
            .collect()
    }

    /// The arguments of a process, its own name first; empty where it has ended.
    #[must_use]
    pub fn arguments(&self, pid: u32) -> Vec<String> {
        let text = fs::read(self.folder(pid).join("cmdline")).unwrap_or_default();
        let words = text.split(|byte| *byte == 0);
        let mut words: Vec<_> = words
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        words.pop(); // the end after the last one's zero byte
        words
    }

    /// The folder of a process in `/proc`.
    #[must_use]
    pub fn folder(&self, pid: u32) -> PathBuf {
        self.proc.join(pid.to_string())
    }

    /// Whether a process is stopped, by a signal or a debugger: it runs, and does nothing.
    #[must_use]
    pub fn is_stopped(&self, pid: u32) -> bool {
        let text = fs::read_to_string(self.folder(pid).join("stat")).unwrap_or_default();
        // The program's name, in parentheses, may have any characters.
        let state = text.rsplit_once(") ").map(|(_, rest)| rest.as_bytes());
        matches!(state, Some([b'T' | b't', ..]))
    }

    /// The processes that hold sockets open, by the sockets' inodes; as far as they may be seen, and
    /// those found before `end`.
    #[must_use]
    pub fn owners<'a>(
        &self,
        among: impl Iterator<Item = &'a Process>,
        mut inodes: BTreeSet<u32>,
        end: Instant,
    ) -> BTreeMap<u32, &'a Process> {
        let mut owners = BTreeMap::new();
        for process in among {
            if inodes.is_empty() || Instant::now() > end {
                break;
            }
            for inode in sockets_of(&self.folder(process.pid)) {
                if inodes.remove(&inode) {
                    owners.insert(inode, process);
                }
            }
        }
        owners
    }
}

/// `None` where it has ended, if only half: a zombie has no namespaces any more.
fn process(proc: &Path, pid: u32) -> Option<Process> {
    let folder = proc.join(pid.to_string());
    // A process names itself, with any bytes.
    let program = fs::read(folder.join("comm")).ok()?;
    let program = String::from_utf8_lossy(&program);
    let namespace = match namespace_of(&folder) {
        Ok(namespace) => namespace,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
        Err(_) => return None,
    };
    Some(Process {
        pid,
        program: program.trim_end().to_owned(),
        namespace,
    })
}

fn namespace_of(folder: &Path) -> io::Result<Option<u64>> {
    let link = fs::read_link(folder.join("ns/net"))?;
    Ok(link.to_str().and_then(|link| bracketed(link, "net")))
}

fn sockets_of(folder: &Path) -> Vec<u32> {
    let entries = fs::read_dir(folder.join("fd"))
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| bracketed(fs::read_link(entry.path()).ok()?.to_str()?, "socket"))
        .collect()
}

/// The inode in a link such as `socket:[17]`.
fn bracketed<T: std::str::FromStr>(link: &str, kind: &str) -> Option<T> {
    let rest = link.strip_prefix(kind)?.strip_prefix(":[")?;
    rest.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn inodes_stand_in_brackets() {
        assert_eq!(
            bracketed("net:[4026531840]", "net"),
            Some(4_026_531_840_u64)
        );
        assert_eq!(bracketed("socket:[17]", "socket"), Some(17_u32));
        for link in [
            "pipe:[17]",
            "socket:[x]",
            "socket:[4294967296]",
            "/dev/null",
        ] {
            assert_eq!(bracketed::<u32>(link, "socket"), None, "{link}");
        }
    }

    /// A `/proc` with processes of (pid, program, namespace, arguments).
    fn proc(processes: &[(&str, &str, Option<u64>, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (pid, program, namespace, arguments) in processes {
            let folder = root.path().join(pid);
            fs::create_dir_all(folder.join("ns")).unwrap();
            fs::write(folder.join("comm"), format!("{program}\n")).unwrap();
            fs::write(folder.join("cmdline"), arguments).unwrap();
            let link = namespace.map_or("hidden".to_owned(), |inode| format!("net:[{inode}]"));
            symlink(link, folder.join("ns/net")).unwrap();
        }
        root
    }

    #[test]
    fn tunlbs_of_this_namespace_are_found() {
        let root = proc(&[
            ("self", "test", Some(1), ""),
            ("7", "tunlb", Some(1), "tunlb\0decap\0--vip=10.0.0.100\0"),
            ("8", "tunlb", Some(2), "tunlb\0decap\0"),
            ("9", "tunlb", None, "tunlb\0decap\0"),
            ("10", "tunlb", Some(1), "tunlb\0run\0-c\0decap\0"),
            ("11", "vim", Some(1), "vim\0decap\0"),
        ]);
        let processes = Processes::read(root.path());
        let mut found: Vec<_> = processes
            .tunlbs("decap")
            .into_iter()
            .map(|(process, arguments)| (process.pid, arguments.len()))
            .collect();
        found.sort_unstable();
        assert_eq!(found, [(7, 3), (9, 2)]);
        assert_eq!(processes.here().count(), 3);
        assert_eq!(processes.elsewhere()[&2].len(), 1);
        assert_eq!(processes.unseen(), 1);
    }

    #[test]
    fn no_name_hides_a_process() {
        let root = proc(&[("self", "test", Some(1), ""), ("7", "x", Some(1), "")]);
        fs::write(root.path().join("7/comm"), b"a\xff\x1b[2J\n").unwrap();
        let processes = Processes::read(root.path());
        let names: Vec<_> = processes
            .here()
            .map(|process| process.program.as_str())
            .collect();
        assert_eq!(names, ["a\u{fffd}\u{1b}[2J"]);
    }

    #[test]
    fn the_dead_are_passed_over() {
        let root = proc(&[("self", "test", Some(1), ""), ("7", "zombie", Some(1), "")]);
        fs::remove_file(root.path().join("7/ns/net")).unwrap();
        let processes = Processes::read(root.path());
        assert_eq!((processes.here().count(), processes.unseen()), (0, 0));
    }

    #[test]
    fn owners_are_found_by_inode() {
        let root = proc(&[("self", "test", Some(1), ""), ("7", "nginx", Some(1), "")]);
        let folder = root.path().join("7/fd");
        fs::create_dir(&folder).unwrap();
        symlink("socket:[17]", folder.join("3")).unwrap();
        symlink("/dev/null", folder.join("4")).unwrap();
        let processes = Processes::read(root.path());
        let owners = processes.owners(processes.here(), BTreeSet::from([17, 18]), end_of_search());
        let owners: Vec<_> = owners.iter().map(|(inode, p)| (*inode, p.pid)).collect();
        assert_eq!(owners, [(17, 7)]);
    }
}
