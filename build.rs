//! Tells the program which commit and which features it is built from, for `tunlb --version`; with the
//! feature `xdp`, compiles the BPF programs of `bpf/`.
//!
//! The first never fails a build: without git, or without a repository of its own (a tarball, `cargo
//! install`), the commit is the one that `cargo package` wrote down, or "unknown". The second needs clang, and
//! the headers of libbpf and of the kernel; `CLANG` may name another one than the first in `PATH`.

#![allow(clippy::print_stdout, reason = "cargo reads it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, process};

/// What a commit can change; also what a build with changes that are not committed is told by.
const SOURCES: [&str; 5] = ["bpf", "src", "build.rs", "Cargo.toml", "Cargo.lock"];

/// Written by `cargo package` into the crate.
const PACKAGED: &str = ".cargo_vcs_info.json";

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    for path in SOURCES {
        println!("cargo::rerun-if-changed={path}");
    }
    let commit = repository(&root).or_else(|| packaged(&root));
    let commit = commit.unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=TUNLB_COMMIT={commit}");
    println!("cargo::rustc-env=TUNLB_FEATURES={}", features());
    println!("cargo::rerun-if-env-changed=CLANG");
    if env::var_os("CARGO_FEATURE_XDP").is_some()
        && let Err(problem) = compile_programs(&root.join("bpf"))
    {
        println!(
            "cargo::error={}",
            problem.trim_end().replace('\n', "\ncargo::error=")
        );
        process::exit(1);
    }
}

/// Each `NAME.bpf.c` of the folder to a `NAME.bpf.o` in cargo's output folder.
fn compile_programs(folder: &Path) -> Result<(), String> {
    let output = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    for source in paths.filter(|path| path.to_string_lossy().ends_with(".bpf.c")) {
        let name = source.with_extension("o");
        let object = output.join(name.file_name().unwrap_or_default());
        compile(&source, &object)?;
    }
    Ok(())
}

fn compile(source: &Path, object: &Path) -> Result<(), String> {
    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    // Where Debian has asm/types.h; clang looks there for its own target only.
    let machine = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let headers = format!("/usr/include/{machine}-linux-gnu");
    let mut command = Command::new(&clang);
    command.args(["-O2", "-g", "-target", "bpf", "-mcpu=v3"]);
    command.args(["-Wall", "-Wextra", "-Werror", "-idirafter", &headers, "-c"]);
    command.arg(source).arg("-o").arg(object);
    let output = command.output().map_err(|error| {
        let clang = clang.display();
        format!("the feature xdp needs clang: {clang}: {error}; on Debian: {PACKAGES}")
    })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let hint = if text.contains("file not found") {
        format!(
            "the feature xdp needs the headers of libbpf and of the kernel; on Debian: {PACKAGES}\n"
        )
    } else {
        String::new()
    };
    Err(format!(
        "{hint}{} does not compile:\n{text}",
        source.display()
    ))
}

/// What brings clang and the headers.
const PACKAGES: &str = "apt-get install clang libbpf-dev linux-libc-dev";

/// The commit that is checked out, with a `+` where the sources differ from it.
fn repository(root: &Path) -> Option<String> {
    // A repository around an unpacked tarball is another project's.
    let top = git(root, &["rev-parse", "--show-toplevel"])?;
    if fs::canonicalize(top).ok()? != fs::canonicalize(root).ok()? {
        return None;
    }
    watch_head(root);
    let commit = git(root, &["rev-parse", "--short=12", "HEAD"])?;
    let status = ["status", "--porcelain", "--untracked-files=no", "--"];
    let changes = git(root, &[&status[..], &SOURCES].concat())?;
    let changed = if changes.is_empty() { "" } else { "+" };
    Some(commit + changed)
}

/// Has cargo ask again when another commit is checked out or made: either moves one of these files.
fn watch_head(root: &Path) {
    let branch = git(root, &["symbolic-ref", "--quiet", "HEAD"]);
    let names = ["HEAD", "logs/HEAD", "packed-refs"].map(str::to_owned);
    for name in names.into_iter().chain(branch) {
        let path = git(root, &["rev-parse", "--git-path", &name]).map(|path| root.join(path));
        // To cargo a file that is not there has always changed.
        if let Some(path) = path.filter(|path| path.exists()) {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
}

fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    // Asking for the status must not write into the repository, which another user may own.
    let mut command = Command::new("git");
    command.arg("--no-optional-locks").arg("-C").arg(root);
    let output = command.args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// `{"git": {"sha1": "…"}, …}`
fn packaged(root: &Path) -> Option<String> {
    let text = fs::read_to_string(root.join(PACKAGED)).ok()?;
    let (_, rest) = text.split_once("\"sha1\"")?;
    let commit = rest.split('"').nth(1)?;
    let is_hash = commit.len() >= 12 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| commit[..12].to_owned())
}

/// Those of `Cargo.toml` that are on, by the variables that cargo sets.
fn features() -> String {
    let names = env::vars().filter_map(|(name, _)| {
        let feature = name.strip_prefix("CARGO_FEATURE_")?;
        Some(feature.to_lowercase().replace('_', "-"))
    });
    let mut names: Vec<_> = names.collect();
    names.sort();
    if names.is_empty() {
        return "none".to_owned();
    }
    names.join(" ")
}
