//! `tunlb man`: the manual pages, made from the same definitions as the helps.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};

use super::{Cli, ENVIRONMENT, EXIT_CODES, Entry, print};

/// Arguments of `tunlb man`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write tunlb.1, tunlb-run.1 and so on here; made if absent, older pages are replaced
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

/// Prints the main page, or writes all.
///
/// # Errors
/// Stdout or a file cannot be written.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut root = Cli::command();
    root.build();
    let Some(directory) = &args.directory else {
        print(&page(root)?)?;
        return Ok(ExitCode::SUCCESS);
    };
    write_all(&root, directory)?;
    Ok(ExitCode::SUCCESS)
}

fn write_all(root: &clap::Command, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    for command in all(root) {
        // `tunlb-run`, as the main page calls it.
        let name = command.get_display_name().unwrap_or(command.get_name());
        let path = directory.join(format!("{name}.1"));
        let text = page(command.clone())?;
        replace(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The command, its commands, and theirs.
fn all(command: &clap::Command) -> Vec<&clap::Command> {
    let below = command.get_subcommands().flat_map(all);
    std::iter::once(command).chain(below).collect()
}

/// A manual page in the macros of man(7).
fn page(mut command: clap::Command) -> Result<String> {
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    let has_commands = command.has_subcommands();
    let is_main = command.get_display_name().is_none();
    let man = Man::new(command)
        .source(concat!("tunlb ", env!("CARGO_PKG_VERSION")))
        .manual("tunlb");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    section("SYNOPSIS", [roman(usage)]).to_writer(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if has_commands {
        man.render_subcommands_section(&mut text)?;
    }
    if is_main {
        list("ENVIRONMENT", &ENVIRONMENT).to_writer(&mut text)?;
        list("EXIT STATUS", &EXIT_CODES).to_writer(&mut text)?;
        man.render_version_section(&mut text)?;
    } else {
        section("SEE ALSO", [bold("tunlb"), roman("(1)")]).to_writer(&mut text)?;
    }
    Ok(in_ascii(&String::from_utf8(text)?))
}

/// Other characters by their numbers, which every troff reads without being told an encoding.
fn in_ascii(text: &str) -> String {
    let letter = |letter: char| match letter {
        letter if letter.is_ascii() => letter.to_string(),
        letter => format!("\\[u{:04X}]", u32::from(letter)),
    };
    text.chars().map(letter).collect()
}

fn section<const N: usize>(title: &str, text: [Inline; N]) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [title]).text(text);
    roff
}

fn list(title: &str, entries: &[Entry]) -> Roff {
    let mut roff = section(title, []);
    for (word, meaning) in entries {
        roff.control("TP", [])
            .text([bold(*word)])
            .text([roman(*meaning)]);
    }
    roff
}

/// Puts the file in its place whole; a link of that name is replaced, not followed.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}.{}", process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&fresh)?;
    let placed = file
        .write_all(text.as_bytes())
        .and_then(|()| fs::rename(&fresh, path));
    if placed.is_err() {
        fs::remove_file(&fresh).unwrap_or_default(); // the first error says more
    }
    placed
}
