//! What sets kernel settings at boot: the files of sysctl.d(5), in the order in which they are applied.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::doctor::facts::{Observed, SysctlSetting};

/// A file of an earlier folder replaces those of the same name in later ones.
const FOLDERS: [&str; 5] = [
    "etc/sysctl.d",
    "run/sysctl.d",
    "usr/local/lib/sysctl.d",
    "usr/lib/sysctl.d",
    "lib/sysctl.d",
];

/// What procps applies after all others; systemd only where a link in `/etc/sysctl.d` leads to it.
const LAST: &str = "etc/sysctl.conf";

/// The settings below `root`, the last one of a name wins; or the first file that cannot be read.
pub(super) fn read(root: &Path) -> Observed<Vec<SysctlSetting>> {
    let mut settings = Vec::new();
    for path in files(root) {
        match fs::read_to_string(&path) {
            Ok(text) => settings.extend(parse(&named(root, &path), &text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Observed::Unseen(format!("read {}: {error}", path.display())),
        }
    }
    Observed::Seen(settings)
}

/// The path as seen from inside `root`.
fn named(root: &Path, path: &Path) -> String {
    let inside = path.strip_prefix(root).unwrap_or(path);
    Path::new("/").join(inside).display().to_string()
}

/// In the order of their names, whatever the folder.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut by_name: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for folder in FOLDERS {
        let entries = fs::read_dir(root.join(folder));
        for entry in entries.into_iter().flatten().flatten() {
            let path = entry.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "conf")
            {
                by_name.entry(entry.file_name()).or_insert(path);
            }
        }
    }
    by_name.into_values().chain([root.join(LAST)]).collect()
}

pub(super) fn parse(file: &str, text: &str) -> Vec<SysctlSetting> {
    let numbered = text.lines().zip(1..);
    numbered
        .filter_map(|(line, number)| {
            let (name, value) = setting(line.trim())?;
            Some(SysctlSetting {
                file: file.to_owned(),
                line: number,
                name,
                value,
            })
        })
        .collect()
}

/// `name = value`; `-name = value`, where errors do not matter; `-name`, which globs leave out.
fn setting(line: &str) -> Option<(String, String)> {
    if line.is_empty() || line.starts_with(['#', ';']) {
        return None;
    }
    match line.split_once('=') {
        Some((name, value)) => {
            let name = name.trim().trim_start_matches('-');
            Some((dotted(name), value.trim().to_owned()))
        }
        None => {
            let name = line.strip_prefix('-')?;
            Some((format!("-{}", dotted(name.trim())), String::new()))
        }
    }
}

/// A name whose first separator is a slash is a path, in which dots belong to device names.
fn dotted(name: &str) -> String {
    if name.find(['.', '/']).map(|at| &name[at..=at]) != Some("/") {
        return name.to_owned();
    }
    let swapped = name.chars().map(|character| match character {
        '/' => '.',
        '.' => '/',
        other => other,
    });
    swapped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(root: &Path) -> Vec<String> {
        let Observed::Seen(settings) = read(root) else {
            panic!("unseen");
        };
        let line = |s: SysctlSetting| format!("{}:{} {}={}", s.file, s.line, s.name, s.value);
        settings.into_iter().map(line).collect()
    }

    #[test]
    fn files_go_by_name_and_the_first_folder_wins() {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in [
            (
                "usr/lib/sysctl.d/50-default.conf",
                "net.ipv4.conf.*.rp_filter = 2\n",
            ),
            (
                "usr/lib/sysctl.d/60-masked.conf",
                "net.ipv4.ip_forward = 1\n",
            ),
            ("etc/sysctl.d/60-masked.conf", ""),
            (
                "etc/sysctl.d/99-mine.conf",
                "# mine\n\nnet.ipv4.conf.tunl0.rp_filter=0\n",
            ),
            ("run/sysctl.d/10-early.conf", "net.core.somaxconn = 4096"),
            ("etc/sysctl.d/README", "net.core.somaxconn = 1"),
            ("etc/sysctl.conf", "net.ipv4.conf.all.rp_filter = 1"),
        ] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert_eq!(
            lines(root.path()),
            [
                "/run/sysctl.d/10-early.conf:1 net.core.somaxconn=4096",
                "/usr/lib/sysctl.d/50-default.conf:1 net.ipv4.conf.*.rp_filter=2",
                "/etc/sysctl.d/99-mine.conf:3 net.ipv4.conf.tunl0.rp_filter=0",
                "/etc/sysctl.conf:1 net.ipv4.conf.all.rp_filter=1",
            ]
        );
    }

    #[test]
    fn a_machine_without_files_has_no_settings() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(read(root.path()), Observed::Seen(vec![]));
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/sysctl.conf")).unwrap();
        let Observed::Unseen(reason) = read(root.path()) else {
            panic!("seen");
        };
        assert!(reason.contains("etc/sysctl.conf: "), "{reason}");
    }

    #[test]
    fn lines_of_all_forms() {
        for (line, expected) in [
            ("; comment", None),
            (
                "net.ipv4.ip_forward = 1",
                Some(("net.ipv4.ip_forward", "1")),
            ),
            ("-net.ipv4.ip_forward=1", Some(("net.ipv4.ip_forward", "1"))),
            (
                "-net.ipv4.conf.all.rp_filter",
                Some(("-net.ipv4.conf.all.rp_filter", "")),
            ),
            (
                "net/ipv4/conf/eth0.100/rp_filter = 0",
                Some(("net.ipv4.conf.eth0/100.rp_filter", "0")),
            ),
            (
                "net.ipv4.conf.eth0/100.rp_filter = 0",
                Some(("net.ipv4.conf.eth0/100.rp_filter", "0")),
            ),
            (
                "kernel.core_pattern = |/x %P=1",
                Some(("kernel.core_pattern", "|/x %P=1")),
            ),
            ("nonsense", None),
        ] {
            let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(setting(line), expected, "{line}");
        }
    }
}
