//! `tunlb doctor` as an operator runs it where it looks at no machine: its texts, files and exit codes.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;
use tunlb::doctor::Observed;
use tunlb::doctor::bundle;
use tunlb::doctor::facts::{Encap, Facts, Link, Role, RouteAnswer, Target};

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

/// A backend whose devices bear names of someone else's choice.
fn hostile(name: &str) -> Facts {
    let link = |index, name: &str| Link {
        index,
        name: name.to_owned(),
        mtu: 1500,
        ..Link::default()
    };
    let mut facts = Facts {
        schema: 1,
        version: name.to_owned(),
        kernel: name.to_owned(),
        role: Role::Backend,
        links: Observed::Seen(vec![link(1, "lo"), link(2, name), link(3, name)]),
        addresses: Observed::Seen(Vec::new()),
        sockets: Observed::Unseen(name.to_owned()),
        targets: vec![Target {
            vip: [203, 0, 113, 10].into(),
            port: Some(80),
            protocol: name.to_owned(),
            client: [192, 0, 2, 7].into(),
            client_is_assumed: false,
            director: Some([10, 0, 1, 2].into()),
            encap: Encap::Ipip,
            physical: Some(name.to_owned()),
            tunnel: Some(name.to_owned()),
            vip_route: RouteAnswer::Refused(113),
            input: RouteAnswer::Refused(22),
            way_back: RouteAnswer::Refused(101),
            way_back_of_any: RouteAnswer::Unseen(name.to_owned()),
            input_by_mark: std::collections::BTreeMap::new(),
            way_back_by_mark: std::collections::BTreeMap::new(),
            outer_inputs: std::collections::BTreeMap::new(),
            onward: None,
            hop_claims: vec![name.to_owned()],
            listeners_elsewhere: Observed::Seen(vec![(7, name.to_owned())]),
        }],
        ..Facts::default()
    };
    for key in ["rp_filter", "arp_ignore", "arp_announce"] {
        for device in ["all", name] {
            facts
                .sysctls
                .insert(format!("net.ipv4.conf.{device}.{key}"), 1);
        }
    }
    facts
}

fn bundle_of(folder: &TempDir, facts: &Facts) -> PathBuf {
    let path = folder.path().join("bundle.tar.zst");
    fs::write(&path, bundle::write(facts, &[]).unwrap()).unwrap();
    path
}

/// Whether a terminal obeys nothing in it: of what is not printable only line ends and the spaces of JSON.
fn is_printable(text: &str) -> bool {
    text.split('\n').all(tunlb::text::plain::is_plain)
}

#[test]
fn names_of_a_bundle_run_nothing_and_reach_no_terminal() {
    let folder = TempDir::new().unwrap();
    let programs = folder.path().join("bin");
    fs::create_dir(&programs).unwrap();
    symlink("/usr/bin/touch", programs.join("touch")).unwrap();
    let names = [
        "$(touch pwned)",
        "`touch pwned`",
        "x;touch pwned;",
        "x\ntouch pwned\nPASS",
        "\u{1b}[2J\u{9b}31m\u{7}",
        "\u{202e}PASS\u{2066}",
        "it's \"x\"",
        "-x *",
    ];
    for name in names {
        let path = bundle_of(&folder, &hostile(name));
        let bundle = path.to_str().unwrap();
        for arguments in [
            &[][..],
            &["--verbose"],
            &["--fix"],
            &["--json"],
            &["--lang", "zh"],
        ] {
            let output = doctor(&[&["--from-bundle", bundle], arguments].concat());
            assert_eq!(
                output.status.code(),
                Some(1),
                "{name:?} {}",
                stderr(&output)
            );
            assert!(
                is_printable(&stdout(&output)),
                "{arguments:?} {}",
                stdout(&output)
            );
            assert_eq!(stderr(&output), "");
        }
        let fixes = stdout(&doctor(&["--from-bundle", bundle, "--fix"]));
        assert!(
            fixes.contains("ip addr add 203.0.113.10/32 dev lo"),
            "{fixes}"
        );
        // Of all programs there is only `touch`; the doctor's own are not found.
        let ran = Command::new("/bin/sh")
            .args(["-c", &fixes])
            .current_dir(folder.path())
            .env("PATH", &programs)
            .output();
        drop(ran.unwrap());
        assert!(!folder.path().join("pwned").exists(), "{fixes}");
    }
}

#[test]
fn what_the_other_end_says_reaches_no_terminal() {
    let folder = TempDir::new().unwrap();
    let mut facts = hostile("eth0");
    let own = bundle_of(&folder, &facts).to_str().unwrap().to_owned();
    facts.role = Role::Director;
    let path = folder.path().join("director.tar.zst");
    fs::write(&path, bundle::write(&facts, &[]).unwrap()).unwrap();
    let document = doctor(&["--from-bundle", path.to_str().unwrap(), "--json"]);
    let mut document: serde_json::Value = serde_json::from_slice(&document.stdout).unwrap();
    let evil = "\u{1b}[2J\nPASS\r\u{202e}";
    document["verdict"]["summary"] = evil.into();
    document["path"][0]["stage"] = evil.into();
    let check = &mut document["checks"][0];
    check["title"] = evil.into();
    check["summary"] = evil.into();
    check["evidence"][evil] = evil.into();
    check["status"] = "fail".into();
    check["fix"] = serde_json::json!(["ip link set $(touch pwned) up", evil, "modprobe 'a b'"]);
    check["persist"] = serde_json::json!(["# /etc/x\r\n\u{1b}", evil]);
    check["verify"] = "touch pwned; true".into();
    let peer = folder.path().join("peer.json");
    fs::write(&peer, document.to_string()).unwrap();
    let arguments = ["--from-bundle", &own, "--peer", peer.to_str().unwrap()];
    for more in [&["--verbose"][..], &["--fix"], &["--json"]] {
        let output = doctor(&[&arguments, more].concat());
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(
            is_printable(&stdout(&output)),
            "{more:?} {}",
            stdout(&output)
        );
        if more != ["--json"] {
            let text = stdout(&output);
            assert!(text.contains("# ip link set $(touch pwned) up"), "{text}");
            assert!(text.contains("modprobe 'a b'"), "{text}");
            assert!(
                !text
                    .lines()
                    .any(|line| line.trim_start().starts_with("PASS\\")),
                "{text}"
            );
        }
    }
}

/// Runs the doctor in an address space of so many kilobytes.
fn doctor_within(kilobytes: usize, arguments: &str) -> Output {
    let tunlb = env!("CARGO_BIN_EXE_tunlb");
    let script = format!("ulimit -v {kilobytes} && exec {tunlb} doctor {arguments}");
    Command::new("sh")
        .args(["-c", &script])
        .env("LC_ALL", "C")
        .output()
        .unwrap()
}

/// A frame of Zstandard (RFC 8878) with this byte for its window, of blocks that repeat one byte each.
fn frame(window: u8, repeated: &[u8]) -> Vec<u8> {
    const BLOCK: u32 = 128 << 10;
    const RLE: u32 = 1;
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, window];
    for (number, byte) in repeated.iter().enumerate() {
        let last = u32::from(number + 1 == repeated.len());
        let header = last | (RLE << 1) | (BLOCK << 3);
        frame.extend(&header.to_le_bytes()[..3]);
        frame.push(*byte);
    }
    frame
}

/// Some kilobytes that would be gigabytes: of archive, of values, of window.
#[test]
fn bombs_cost_little() {
    const WINDOW: u8 = 10 << 3; // 1 MiB
    let folder = TempDir::new().unwrap();
    let values = format!("{{\"schema\":1,\"x\":[{}0]}}", "{\"\":0},".repeat(600_000));
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(values.len() as u64);
    archive
        .append_data(&mut header, "facts.json", values.as_bytes())
        .unwrap();
    let archive = archive.into_inner().unwrap();
    let values = ruzstd::encoding::compress_to_vec(
        archive.as_slice(),
        ruzstd::encoding::CompressionLevel::Fastest,
    );
    for (name, bytes, words) in [
        (
            "blocks",
            frame(WINDOW, &[b'['; 3000]),
            "the archive, in bytes: more; the limit is 67108864",
        ),
        (
            "window",
            frame(17 << 3, b" "),
            "the window of the compression, in bytes: 134217728",
        ),
        ("values", values, "missing field"),
    ] {
        assert!(bytes.len() < 100_000, "{name}: {}", bytes.len());
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let output = doctor_within(250_000, &format!("--from-bundle {}", path.display()));
        assert_eq!(output.status.code(), Some(2), "{name}: {}", stderr(&output));
        assert!(
            stderr(&output).contains(words),
            "{name}: {}",
            stderr(&output)
        );
    }
    // `{"":0},` without the bound on values: hundreds of bytes each.
    let peer = format!(
        "{{\"schema\":1,\"x\":[{}0]}}",
        "{\"\":0},".repeat(1_200_000)
    );
    let path = folder.path().join("peer.json");
    fs::write(&path, peer).unwrap();
    let own = bundle_of(&folder, &hostile("eth0"));
    let arguments = format!("--from-bundle {} --peer {}", own.display(), path.display());
    let output = doctor_within(250_000, &arguments);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("values; the limit is"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn files_that_do_not_end_and_files_that_are_none() {
    let folder = TempDir::new().unwrap();
    let own = bundle_of(&folder, &hostile("eth0"))
        .to_str()
        .unwrap()
        .to_owned();
    let empty = folder.path().join("empty");
    fs::write(&empty, "").unwrap();
    let gzip = folder.path().join("gzip");
    fs::write(&gzip, [0x1f, 0x8b, 8, 8]).unwrap();
    let [empty, gzip, here] =
        [&empty, &gzip, folder.path()].map(|path: &Path| path.to_str().unwrap());
    for (arguments, words) in [
        (
            &["--from-bundle", "/dev/zero"][..],
            "/dev/zero: more than 16777216 bytes",
        ),
        (&["--from-bundle", here], "directory"),
        (&["--from-bundle", empty], "it is empty"),
        (&["--from-bundle", gzip], "it is a gzip file"),
        (
            &["--from-bundle", &own, "--peer", "/dev/zero"],
            "/dev/zero: more than 16777216 bytes",
        ),
        (&["--from-bundle", &own, "--peer", here], "directory"),
        (
            &["--from-bundle", &own, "--peer", empty],
            "JSON that ends too early",
        ),
        (&["--from-bundle", "-", "--peer", "-"], "can be read once"),
        (&["--json", "--bundle", "-"], "cannot take two"),
    ] {
        let output = doctor_within(250_000, &arguments.join(" "));
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?} {}",
            stderr(&output)
        );
        assert_eq!(stdout(&output), "");
        let said = stderr(&output);
        assert!(said.contains(words), "{arguments:?} {said}");
        assert!(
            !said.contains(": expected value") && !said.contains("line 1 column 2: "),
            "{said}"
        );
    }
}

#[test]
fn a_dash_is_standard_input() {
    let folder = TempDir::new().unwrap();
    let path = bundle_of(&folder, &hostile("eth0"));
    let output = Command::new(env!("CARGO_BIN_EXE_tunlb"))
        .args(["doctor", "--from-bundle", "-", "--json"])
        .stdin(File::open(&path).unwrap())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stdout(&output),
        stdout(&doctor(&[
            "--from-bundle",
            path.to_str().unwrap(),
            "--json"
        ]))
    );
}

const BACKEND: [&str; 4] = ["--role", "backend", "--vip", "203.0.113.10:80/tcp"];

#[test]
fn a_bundle_is_a_new_file_of_its_owner() {
    let folder = TempDir::new().unwrap();
    let (path, link) = (folder.path().join("new"), folder.path().join("link"));
    let target = folder.path().join("target");
    symlink(&target, &link).unwrap();
    let into =
        |path: &Path| doctor(&[&BACKEND[..], &["--bundle", path.to_str().unwrap()]].concat());
    assert_ne!(stdout(&into(&path)), "");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let whole = fs::read(&path).unwrap();
    assert!(bundle::read(&whole).is_ok());
    for taken in [&path, &link] {
        let again = into(taken);
        assert_eq!(again.status.code(), Some(2));
        assert!(
            stderr(&again).contains("is there already, and is not overwritten"),
            "{}",
            stderr(&again)
        );
    }
    assert_eq!(fs::read(&path).unwrap(), whole);
    assert!(!target.exists());
    // To standard output, the report beside it.
    let piped = doctor(&[&BACKEND[..], &["--bundle", "-"]].concat());
    assert!(bundle::read(&piped.stdout).is_ok());
    assert!(
        stderr(&piped).contains("203.0.113.10:80/tcp"),
        "{}",
        stderr(&piped)
    );
    // A file of which nothing came goes away.
    let unused = folder.path().join("unused");
    let nothing = doctor(&[
        "--role",
        "director",
        "-c",
        "/nowhere",
        "--bundle",
        unused.to_str().unwrap(),
    ]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(!unused.exists());
}

#[test]
fn a_client_of_another_family() {
    let output = doctor(&["--client", "2001:db8::1", "--vip", "203.0.113.10:80/tcp"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stdout(&output), "");
    assert!(
        stderr(&output).contains("different families"),
        "{}",
        stderr(&output)
    );
}
