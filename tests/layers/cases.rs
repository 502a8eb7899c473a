//! Snippets that the rules of `layers.rs` must refuse, and snippets that they must let pass.

use super::violations;

/// Judges snippets as if they were the given files; the answer is `file:line what` per broken rule.
fn judged(files: &[(&str, &str)]) -> Vec<String> {
    let owned = |(file, text): &(&str, &str)| (format!("src/{file}"), (*text).to_owned());
    let sources: Vec<_> = files.iter().map(owned).collect();
    let externs = [
        "std",
        "core",
        "alloc",
        "tunlb",
        "log",
        "libc",
        "serde",
        "thiserror",
    ];
    let found = violations(&sources, &externs.map(str::to_owned));
    let place = |file: &str| file.trim_start_matches("src/").to_owned();
    found
        .iter()
        .map(|v| format!("{}:{} {}", place(&v.file), v.line, v.what))
        .collect()
}

/// (file, what it holds, what must be refused in its last line)
const REFUSED: &[(&str, &str, &str)] = &[
    ("packet/a.rs", "use std::io::Read;", "std::io::Read"),
    (
        "packet/a.rs",
        "type T = core::net::TcpStream;",
        "std::net::TcpStream",
    ),
    (
        "director/a.rs",
        "use std::net::{IpAddr, UdpSocket};",
        "std::net::UdpSocket",
    ),
    ("packet/a.rs", "use std::net::*;", "std::net::*"),
    (
        "director/a.rs",
        "fn f() { std::time::Instant::now(); }",
        "std::time::Instant::now",
    ),
    (
        "packet/a.rs",
        "use std::time;\nfn f(t: time::SystemTime) {}",
        "std::time::SystemTime",
    ),
    (
        "packet/a.rs",
        "use std as s;\nfn f() { s::env::args(); }",
        "std::env::args",
    ),
    (
        "packet/a.rs",
        "fn f() { ::std::thread::yield_now() }",
        "std::thread::yield_now",
    ),
    (
        "packet/a.rs",
        "use std::hash::RandomState;",
        "std::hash::RandomState",
    ),
    (
        "packet/a.rs",
        "use std::sync::atomic::AtomicU64;",
        "std::sync::atomic::AtomicU64",
    ),
    (
        "director/a.rs",
        "fn f() { log::trace!(\"x\"); }",
        "log::trace",
    ),
    ("packet/a.rs", "use libc;", "libc"),
    ("packet/a.rs", "extern crate libc as l;", "libc"),
    (
        "packet/a.rs",
        "#[derive(serde::Serialize)] struct S;",
        "serde::Serialize",
    ),
    (
        "packet/a.rs",
        "fn f() { assert!(std::env::args().len() > 1) }",
        "std::env::args",
    ),
    (
        "packet/a.rs",
        "fn f<T>() { <T as std::io::Read>::read }",
        "std::io::Read::read",
    ),
    (
        "packet/a.rs",
        "fn f() { <std::fs::File>::open(b) }",
        "std::fs::File",
    ),
    (
        "packet/a.rs",
        "const A: &str = include_str!(\"a\");",
        "include_str!",
    ),
    ("daemon/a.rs", "fn f() { println!(\"x\") }", "println!"),
    ("io/a.rs", "fn f() { vec![eprintln!(\"x\")]; }", "eprintln!"),
    (
        "daemon/a.rs",
        "fn f() { std::io::stdout(); }",
        "std::io::stdout",
    ),
    (
        "packet/a.rs",
        "use crate::director::Ring;",
        "crate::director::Ring",
    ),
    (
        "director/a.rs",
        "use super::super::io::Tun;",
        "crate::io::Tun",
    ),
    (
        "director/a.rs",
        "mod b { use super::super::super::io; }",
        "crate::io",
    ),
    (
        "io/a.rs",
        "fn f(r: crate::director::Ring) {}",
        "crate::director::Ring",
    ),
    (
        "decap/mod.rs",
        "use crate::{config::C, io::T};",
        "crate::config::C",
    ),
    ("config/a.rs", "use crate::io as outside;", "crate::io"),
    ("daemon/a.rs", "pub(in crate::cli) fn f() {}", "crate::cli"),
    (
        "main.rs",
        "fn main() { tunlb::daemon::run() }",
        "crate::daemon::run",
    ),
    ("packet/a.rs", "use crate as all;", "crate"),
    ("extra/mod.rs", "use crate::packet;", "crate::packet"),
    ("packet/a.rs", "fn f() { unsafe { g() } }", "unsafe"),
    ("io/tun.rs", "unsafe fn f() {}", "unsafe"),
    ("daemon/a.rs", "unsafe impl Send for S {}", "unsafe"),
    ("cli/a.rs", "unsafe extern \"C\" { fn f(); }", "unsafe"),
    (
        "io/mod.rs",
        "#[allow(unsafe_code, reason = \"x\")] mod sys;",
        "unsafe",
    ),
    ("io/a.rs", "fn f() { assert!(unsafe { g() }) }", "unsafe"),
];

#[test]
fn every_rule_can_fail() {
    for (file, text, what) in REFUSED {
        let expected = format!("{file}:{} {what}", text.lines().count());
        assert_eq!(judged(&[(file, text)]), [expected], "{file}: {text}");
    }
}

/// (file, what it holds)
const PERMITTED: &[(&str, &str)] = &[
    (
        "packet/a.rs",
        "use std::{fmt, net::{self, Ipv4Addr}, sync::Arc, time::Duration};",
    ),
    (
        "packet/a.rs",
        "use thiserror::Error; #[derive(Error)] enum E {} fn f() { u8::from_be(1); }",
    ),
    (
        "packet/a.rs",
        "use super::sum::Sum; fn f() { let log = 1; log.g(); Vec::<u8>::new(); }",
    ),
    (
        "director/a.rs",
        "use crate::packet::Ipv4; use std::sync::atomic::{AtomicU64, Ordering};",
    ),
    (
        "director/a.rs",
        "#[cfg(test)] mod tests { use std::time::Instant; fn f() { println!(); } }",
    ),
    (
        "director/a.rs",
        "struct S; impl S { #[cfg(test)] fn f() { std::env::args(); } }",
    ),
    ("director/mod.rs", "#[cfg(all(test, unix))] use std::fs;"),
    ("io/sys/send.rs", "unsafe fn f() { unsafe { g() } }"),
    (
        "io/sys.rs",
        "#![allow(unsafe_code, reason = \"here\")] unsafe fn f() { unsafe { g() } }",
    ),
    (
        "cli/run.rs",
        "use crate::{config, daemon}; fn f() { println!(); std::io::stdout(); }",
    ),
    ("main.rs", "fn main() { tunlb::cli::main() }"),
    ("packet/a.rs", "fn f() { <[u8]>::len(b) }"),
    (
        "lib.rs",
        "#![deny(unsafe_code)] pub mod packet; pub mod director;",
    ),
];

#[test]
fn what_the_rules_permit_passes() {
    for (file, text) in PERMITTED {
        assert_eq!(
            judged(&[(file, text)]),
            Vec::<String>::new(),
            "{file}: {text}"
        );
    }
}

#[test]
fn imports_are_followed_through_other_modules() {
    let parent = ("packet/mod.rs", "use std::net as sockets; mod a;");
    for text in [
        "fn f(s: super::sockets::TcpStream) {}",
        "use super::*; fn f(s: sockets::TcpStream) {}",
        "mod b { use crate::packet::sockets::TcpStream; }",
    ] {
        let found = judged(&[parent, ("packet/a.rs", text)]);
        assert_eq!(found, ["packet/a.rs:1 std::net::TcpStream"], "{text}");
    }
}

#[test]
fn a_file_of_a_test_module_is_exempt() {
    let parent = ("packet/mod.rs", "#[cfg(test)] mod oracle;");
    let oracle = ("packet/oracle.rs", "use std::fs;");
    assert_eq!(judged(&[parent, oracle]), Vec::<String>::new());
    assert_eq!(judged(&[oracle]), ["packet/oracle.rs:1 std::fs"]);
}
