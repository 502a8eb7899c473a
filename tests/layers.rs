//! Holds the sources to the layers of `docs/architecture.md`, by the paths that they use.
//!
//! The rules: a layer uses only the layers below it; the core (`packet`, `probe`, `director`) does no IO, reads
//! no clock and uses only listed parts of `std` and listed crates; `unsafe` stands in `io::sys` only;
//! only `src/cli` prints. `#[cfg(test)]` code is exempt. How paths are found: `layers/paths.rs`.

use std::fmt;
use std::path::Path;

use paths::{Fact, FactKind};

#[path = "layers/cases.rs"]
mod cases;
#[path = "layers/circles.rs"]
mod circles;
#[path = "layers/paths.rs"]
mod paths;
#[path = "layers/resolve.rs"]
mod resolve;

/// A layer and the layers it may use beside itself. `main` is the binary's root.
const LAYERS: &[(&str, &[&str])] = &[
    ("text", &[]),
    ("packet", &[]),
    ("probe", &["packet"]),
    ("director", &["packet", "probe"]),
    ("config", &["text", "packet", "probe", "director"]),
    ("io", &["text", "packet"]),
    ("decap", &["text", "packet", "io"]),
    (
        "doctor",
        &[
            "text", "packet", "probe", "director", "config", "io", "decap",
        ],
    ),
    (
        "site",
        &["text", "packet", "probe", "director", "config", "io"],
    ),
    (
        "health",
        &[
            "text", "packet", "probe", "director", "config", "io", "site",
        ],
    ),
    (
        "control",
        &[
            "text", "packet", "probe", "director", "config", "io", "site", "health",
        ],
    ),
    (
        "api",
        &[
            "text", "packet", "probe", "director", "config", "io", "site", "health", "control",
        ],
    ),
    ("client", &["text", "api"]),
    (
        "daemon",
        &[
            "text", "packet", "probe", "director", "config", "io", "decap", "doctor", "site",
            "health", "control", "api",
        ],
    ),
    (
        "cli",
        &[
            "text", "packet", "probe", "director", "config", "io", "decap", "doctor", "site",
            "health", "control", "api", "client", "daemon",
        ],
    ),
    ("main", &["cli"]),
];

/// The layers to which the sans-IO rules apply.
const CORE: &[&str] = &["packet", "probe", "director"];

/// The parts of `std` that neither reach outside the process nor differ from run to run.
const CORE_STD: &[&str] = &[
    "std::any",
    "std::array",
    "std::ascii",
    "std::borrow",
    "std::boxed",
    "std::cell",
    "std::char",
    "std::cmp",
    "std::collections",
    "std::convert",
    "std::error",
    "std::fmt",
    "std::hash::BuildHasher",
    "std::hash::BuildHasherDefault",
    "std::hash::Hash",
    "std::hash::Hasher",
    "std::hint",
    "std::iter",
    "std::marker",
    "std::mem",
    "std::net::AddrParseError",
    "std::net::IpAddr",
    "std::net::Ipv4Addr",
    "std::net::Ipv6Addr",
    "std::net::SocketAddr",
    "std::net::SocketAddrV4",
    "std::net::SocketAddrV6",
    "std::num",
    "std::ops",
    "std::option",
    "std::result",
    "std::slice",
    "std::str",
    "std::string",
    "std::sync::Arc",
    "std::time::Duration",
    "std::vec",
];

/// What the director may use on top: its counters are atomics, in arrays that grow.
const DIRECTOR_STD: &[&str] = &["std::sync::OnceLock", "std::sync::atomic"];

/// The crates that the core may use: parsing, hashing, addresses, error types.
const CORE_CRATES: &[&str] = &[
    "ahash",
    "etherparse",
    "hashbrown",
    "ipnet",
    "siphasher",
    "thiserror",
];

/// Macros that reach outside the core without naming a path.
const CORE_MACROS: &[&str] = &[
    "include",
    "include_bytes",
    "include_str",
    "env",
    "option_env",
];

const PRINT_MACROS: &[&str] = &["print", "println", "eprint", "eprintln", "dbg"];
const PRINT_PATHS: &[&str] = &["std::io::stdout", "std::io::stderr"];

/// The one module that may be `unsafe`, with what is below it.
const UNSAFE_MODULE: [&str; 2] = ["io", "sys"];

/// A broken rule.
struct Violation {
    file: String,
    line: usize,
    what: String,
    rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}: `{}`: {}",
            self.file, self.line, self.what, self.rule
        )
    }
}

#[test]
fn sources_keep_to_their_layers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    read_sources(root, &root.join("src"), &mut sources);
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).expect("Cargo.toml");
    let found = violations(&sources, &externs(&manifest));
    assert!(
        sources.len() > 5,
        "only {} source files found",
        sources.len()
    );
    assert!(
        found.is_empty(),
        "{} broken rules:\n{}",
        found.len(),
        listed(&found)
    );
}

#[test]
fn files_of_the_director_use_each_other_in_no_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    read_sources(root, &root.join("src"), &mut sources);
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).expect("Cargo.toml");
    let facts = paths::facts(&sources, &externs(&manifest));
    let circle = circles::circle(&facts, "director");
    assert_eq!(circle, None, "each uses the next, the last one the first");
}

fn listed(found: &[Violation]) -> String {
    found
        .iter()
        .map(|violation| format!("{violation}\n"))
        .collect()
}

fn read_sources(root: &Path, folder: &Path, sources: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).expect("readable folder") {
        let path = entry.expect("readable entry").path();
        if path.is_dir() {
            read_sources(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path
                .strip_prefix(root)
                .expect("below the root")
                .display()
                .to_string();
            sources.push((
                name,
                std::fs::read_to_string(&path).expect("readable source"),
            ));
        }
    }
}

/// The names by which sources can call other crates: the standard ones and the dependencies.
fn externs(manifest: &str) -> Vec<String> {
    let after_heading = manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1);
    let entries = after_heading.take_while(|line| !line.starts_with('['));
    let mut names: Vec<String> = entries
        .filter_map(|line| Some(line.split_once('=')?.0.trim().replace('-', "_")))
        .collect();
    assert!(
        names.contains(&"etherparse".to_owned()),
        "Cargo.toml has another shape: {names:?}"
    );
    names.extend(["std", "core", "alloc", "tunlb"].map(str::to_owned));
    names
}

fn violations(sources: &[(String, String)], externs: &[String]) -> Vec<Violation> {
    paths::facts(sources, externs)
        .iter()
        .filter_map(judge)
        .collect()
}

fn judge(fact: &Fact) -> Option<Violation> {
    let (what, rule) = match &fact.kind {
        FactKind::Unsafe => ("unsafe".to_owned(), unsafe_rule(fact)),
        FactKind::Macro(name) => (format!("{name}!"), macro_rule(fact, name)),
        FactKind::Path(path) => (path.join("::"), path_rule(fact, path, Shorter::Fine)),
        FactKind::Glob(path) => (
            format!("{}::*", path.join("::")),
            path_rule(fact, path, Shorter::TakesAll),
        ),
    };
    rule.map(|rule| Violation {
        file: fact.file.clone(),
        line: fact.line,
        what,
        rule,
    })
}

fn unsafe_rule(fact: &Fact) -> Option<String> {
    let fine = fact.module.len() >= 2 && fact.module[..2] == UNSAFE_MODULE;
    (!fine).then(|| "unsafe code belongs in io::sys".to_owned())
}

fn macro_rule(fact: &Fact, name: &str) -> Option<String> {
    if PRINT_MACROS.contains(&name) && layer_of(fact) != "cli" {
        return Some("only src/cli prints".to_owned());
    }
    let in_core = CORE.contains(&layer_of(fact));
    (in_core && CORE_MACROS.contains(&name))
        .then(|| "the core takes nothing from its surroundings".to_owned())
}

/// How a path is judged that is shorter than what a list allows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shorter {
    /// `use std::net` is fine: what is then taken from it is judged by itself.
    Fine,
    /// `use std::net::*` is not.
    TakesAll,
}

fn path_rule(fact: &Fact, path: &[String], shorter: Shorter) -> Option<String> {
    let layer = layer_of(fact);
    if layer.is_empty() {
        return None; // the library's root declares the layers and does nothing else
    }
    if path[0] == "crate" {
        return layer_rule(layer, path.get(1));
    }
    if listed_in(PRINT_PATHS, path, Shorter::TakesAll) && layer != "cli" {
        return Some("only src/cli prints".to_owned());
    }
    if !CORE.contains(&layer) {
        return None;
    }
    core_rule(layer, path, shorter)
}

fn layer_rule(layer: &str, target: Option<&String>) -> Option<String> {
    let Some((_, below)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
        return Some(format!(
            "`{layer}` is not a layer; give it a place in tests/layers.rs"
        ));
    };
    let Some(target) = target else {
        return Some("name the layer that is meant, not the whole crate".to_owned());
    };
    let fine = target == layer || below.contains(&target.as_str());
    (!fine).then(|| format!("`{layer}` may use {below:?}, not `{target}`"))
}

fn core_rule(layer: &str, path: &[String], shorter: Shorter) -> Option<String> {
    let name = path[0].as_str();
    if name != "std" {
        return (!CORE_CRATES.contains(&name))
            .then(|| format!("the core may use the crates {CORE_CRATES:?} only"));
    }
    let fine = listed_in(CORE_STD, path, shorter)
        || (layer == "director" && listed_in(DIRECTOR_STD, path, shorter));
    (!fine).then(|| "the core does no IO and reads no clock: not on its list of std".to_owned())
}

fn listed_in(list: &[&str], path: &[String], shorter: Shorter) -> bool {
    list.iter().any(|entry| {
        let entry: Vec<&str> = entry.split("::").collect();
        let same = entry
            .iter()
            .zip(path)
            .all(|(wanted, given)| wanted == given);
        same && (path.len() >= entry.len() || shorter == Shorter::Fine)
    })
}

/// The first segment of the module, empty for the library's root.
fn layer_of(fact: &Fact) -> &str {
    fact.module.first().map_or("", String::as_str)
}
