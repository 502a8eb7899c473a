//! `tunlb help`, `man`, `completions` and `--version` as an operator runs them, and the program of
//! `build.rs` that finds out the commit.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

const COMMANDS: [&str; 18] = [
    "backend",
    "capture",
    "check",
    "completions",
    "decap",
    "diff",
    "doctor",
    "events",
    "explain",
    "flows",
    "help",
    "man",
    "probe",
    "reload",
    "replay",
    "run",
    "status",
    "undo",
];

/// Commands of a command.
const NESTED: [[&str; 2]; 6] = [
    ["backend", "add"],
    ["backend", "drain"],
    ["backend", "remove"],
    ["backend", "set"],
    ["capture", "start"],
    ["capture", "stop"],
];

fn tunlb(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tunlb"));
    command.args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What it prints to stdout; it must succeed without a word on stderr.
fn said(arguments: &[&str]) -> String {
    let output = tunlb(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
    stdout(&output)
}

/// What it complains about with exit code 2.
fn refused(arguments: &[&str]) -> String {
    let output = tunlb(arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn every_command_has_help() {
    let root = said(&["--help"]);
    assert!(root.contains("RUST_LOG") && root.contains("Exit codes"));
    assert_eq!(said(&["help"]), root);
    for command in COMMANDS {
        let help = said(&[command, "--help"]);
        assert_eq!(said(&["help", command]), help, "{command}");
        assert!(help.contains(&format!("Usage: tunlb {command}")), "{help}");
        assert!(root.contains(&format!("\n  {command} ")), "{root}");
        assert!(said(&[command, "-h"]).contains("Usage: "));
    }
    for [command, action] in NESTED {
        let help = said(&[command, action, "--help"]);
        assert!(
            help.contains(&format!("Usage: tunlb {command} {action}")),
            "{help}"
        );
        assert!(said(&["help", command]).contains(&format!("\n  {action} ")));
    }
    let text = refused(&["help", "nothing"]);
    assert!(text.starts_with("tunlb: no help for \"nothing\""), "{text}");
    assert!(text.contains("check") && text.contains("docs/config.md"));
}

#[test]
fn a_mistyped_option_shows_the_usage_of_the_help() {
    let usage = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("Usage: "));
        line.unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    for command in COMMANDS {
        let text = refused(&[command, "--hlep"]);
        assert_eq!(usage(&text), usage(&said(&[command, "--help"])));
        assert!(text.contains("--help"), "{text}");
    }
}

#[test]
fn documents_come_with_the_program() {
    let example = said(&["help", "config"]);
    assert_eq!(said(&["help", "docs/tunlb.example.toml"]), example);
    assert!(said(&["help", "docs/config.md"]).starts_with("# Configuration\n"));
}

#[test]
fn the_example_is_valid_and_has_every_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tunlb.toml");
    fs::write(&path, said(&["help", "config"])).unwrap();
    let output = tunlb(&["check", "-c", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let example = said(&["help", "config"]);
    let supported = include_str!("../docs/config.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter(|row| row.starts_with("director.") || row.starts_with("vip."))
        .filter(|row| !row.contains("**not yet** (") && !row.contains("| none | **not yet**"))
        .map(|row| row.split('`').next().unwrap());
    let mut keys = 0;
    for path in supported {
        let key = path.rsplit('.').next().unwrap();
        let section = [format!("[{path}]"), format!("[[{path}]]")];
        let is_key = |line: &str| {
            let line = line.strip_prefix("# ").unwrap_or(line);
            line.starts_with(&format!("{key} = ")) || section.iter().any(|header| line == header)
        };
        assert!(example.lines().any(is_key), "{path} is not in the example");
        keys += 1;
    }
    assert!(keys > 25, "{keys}");
}

#[test]
fn manual_pages() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("share/man1");
    // What is there is replaced, and a link is not followed.
    fs::create_dir_all(&pages).unwrap();
    let precious = folder.path().join("precious");
    fs::write(&precious, "kept").unwrap();
    symlink(&precious, pages.join("tunlb.1")).unwrap();
    fs::write(pages.join("tunlb-run.1"), "old").unwrap();

    said(&["man", pages.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&precious).unwrap(), "kept");
    let page = |name: &str| fs::read_to_string(pages.join(name)).unwrap();
    assert_eq!(page("tunlb.1"), said(&["man"]));
    assert!(page("tunlb.1").contains(".SH ENVIRONMENT\n"));
    for command in COMMANDS {
        let text = page(&format!("tunlb-{command}.1"));
        assert!(text.contains(&format!(".TH tunlb-{command} 1")), "{text}");
        assert!(text.contains(".SH SYNOPSIS\ntunlb "), "{text}");
        assert!(text.is_ascii(), "{text}");
    }
    for [command, action] in NESTED {
        let text = page(&format!("tunlb-{command}-{action}.1"));
        assert!(
            text.contains(&format!(".SH SYNOPSIS\ntunlb {command} {action} ")),
            "{text}"
        );
        assert!(
            page(&format!("tunlb-{command}.1"))
                .contains(&format!("tunlb\\-{command}\\-{action}(1)"))
        );
    }
    let pages_written = fs::read_dir(&pages).unwrap().count();
    assert_eq!(pages_written, 1 + COMMANDS.len() + NESTED.len());
    assert!(page("tunlb-run.1").contains("capture"));

    let text = refused(&["man", "/dev/null/man1"]);
    assert!(
        text.starts_with("tunlb: cannot make /dev/null/man1"),
        "{text}"
    );
}

#[test]
fn completions_complete() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(said(&["completions", shell]).contains("tunlb"), "{shell}");
    }
    assert!(refused(&["completions", "tcsh"]).contains("bash"));
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("tunlb");
    fs::write(&script, said(&["completions", "bash"])).unwrap();
    let completed = |words: &[&str]| {
        let last = words.len() - 1;
        let program = format!(
            ". '{}'; COMP_WORDS=({}); COMP_CWORD={last}; _tunlb tunlb '{}' '{}'; echo \"${{COMPREPLY[@]}}\"",
            script.display(),
            words.join(" "),
            words[last],
            words[last - 1],
        );
        let output = Command::new("bash")
            .args(["-c", &program])
            .output()
            .unwrap();
        stdout(&output).trim().to_owned()
    };
    assert_eq!(completed(&["tunlb", "rep"]), "replay");
    assert_eq!(completed(&["tunlb", "check", "--show"]), "--show-key");
}

#[test]
fn the_version_names_the_commit_and_the_features() {
    let short = said(&["-V"]);
    assert_eq!(short, concat!("tunlb ", env!("CARGO_PKG_VERSION"), "\n"));
    let long = said(&["--version"]);
    let commit = env!("TUNLB_COMMIT");
    let words = format!("{} (commit {commit}, features: ", short.trim());
    assert!(long.starts_with(&words), "{long}");
}

/// The program of `build.rs`, run for some folder as the crate's.
struct BuildScript {
    folder: tempfile::TempDir,
}

impl BuildScript {
    fn build() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("build.rs");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let status = Command::new(rustc)
            .args(["--edition=2024", "-o"])
            .arg(folder.path().join("script"))
            .arg(source)
            .status();
        assert!(status.unwrap().success());
        Self { folder }
    }

    /// The commit that it finds for this folder.
    fn commit(&self, root: &Path, path: &str) -> String {
        let output = Command::new(self.folder.path().join("script"))
            .env("CARGO_MANIFEST_DIR", root)
            .env("PATH", path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = stdout(&output);
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("cargo::rustc-env=TUNLB_COMMIT="));
        line.unwrap().to_owned()
    }
}

#[test]
fn the_commit_with_and_without_git() {
    let script = BuildScript::build();
    let path = std::env::var("PATH").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let outer = folder.path();
    let root = outer.join("tunlb");
    fs::create_dir_all(root.join("src")).unwrap();
    fs::write(root.join("src/main.rs"), "fn main() {}").unwrap();
    assert_eq!(script.commit(&root, &path), "unknown");

    let info =
        r#"{"git": {"sha1": "0123456789abcdef0123456789abcdef01234567"}, "path_in_vcs": ""}"#;
    fs::write(root.join(".cargo_vcs_info.json"), info).unwrap();
    assert_eq!(script.commit(&root, &path), "0123456789ab");

    // A repository around the folder is not tunlb's.
    commit_all(outer);
    assert_eq!(script.commit(&root, &path), "0123456789ab");

    let commit = commit_all(&root);
    assert_eq!(script.commit(&root, &path), commit);
    fs::write(root.join("src/main.rs"), "fn main() { loop {} }").unwrap();
    assert_eq!(script.commit(&root, &path), format!("{commit}+"));
    assert_eq!(script.commit(&root, "/nonexistent"), "0123456789ab");
}

/// Makes a repository of a folder, with one commit; returns its first twelve digits.
fn commit_all(folder: &Path) -> String {
    let git = |arguments: &[&str]| {
        let identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"];
        let mut command = Command::new("git");
        command.args(identity).args(arguments).current_dir(folder);
        let output = command
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        stdout(&output)
    };
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "a commit"]);
    git(&["rev-parse", "HEAD"])[..12].to_owned()
}
