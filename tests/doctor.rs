//! `tunlb doctor` as an operator runs it where it looks at no machine: its texts, files and exit codes.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::process::{Command, Output};

use tempfile::TempDir;

fn doctor(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tunlb"))
        .arg("doctor")
        .args(arguments)
        .env("LC_ALL", "C")
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn codes_are_listed_and_explained() {
    let list = doctor(&["--list-checks"]);
    assert_eq!(list.status.code(), Some(0));
    assert_eq!(stdout(&list).lines().count(), 40);
    let english = doctor(&["--explain", "b11"]);
    assert!(stdout(&english).starts_with("B11: rp_filter is loose"));
    let chinese = doctor(&["--explain", "B11", "--lang", "zh"]);
    assert!(stdout(&chinese).contains("如何修复"));
    assert!(stdout(&chinese).contains("127.0.0.42/32"));
}

#[test]
fn codes_that_do_not_exist() {
    for arguments in [["--explain", "B33"], ["--only", "D1"], ["--skip", "X"]] {
        let output = doctor(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains("--list-checks"), "{arguments:?}");
    }
}

#[test]
fn files_that_are_no_bundle() {
    let folder = TempDir::new().unwrap();
    let half = folder.path().join("half.tar.zst");
    // The magic number of Zstandard and the beginning of a frame.
    fs::write(&half, [0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x00, 0x81]).unwrap();
    let missing = folder.path().join("none.tar.zst");
    for (path, words) in [
        (&half, "not a whole Zstandard file"),
        (&missing, "cannot read"),
    ] {
        let output = doctor(&["--from-bundle", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(stdout(&output), "");
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
}

#[test]
fn a_peer_file_of_something_else() {
    let folder = TempDir::new().unwrap();
    let peer = folder.path().join("peer.json");
    for (content, words) in [
        ("{\"schema\":9}", "schema is 9"),
        ("{\"sch", "not what `tunlb doctor --json` prints"),
    ] {
        fs::write(&peer, content).unwrap();
        let output = doctor(&[
            "--role",
            "backend",
            "--vip",
            "203.0.113.10:80/tcp",
            "--peer",
            peer.to_str().unwrap(),
        ]);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
}
