//! The command line: one file per subcommand, and the only place that prints.
//!
//! Exit codes: 0 fine; 1 the answer is bad news; 2 the command could not do its work.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "printing is what this layer is for"
)]

pub mod check;
pub mod decap;
pub mod doctor;
pub mod explain;
mod log_line;
mod output;
pub mod replay;
pub mod run;
mod size;
pub mod source;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::packet::Protocol;
use crate::text::Plain;
use crate::text::plain::plain;
pub use log_line::log_line;

/// The exit code of bad news: an invalid file, a FAIL finding.
pub const BAD_NEWS: u8 = 1;
/// The exit code of a command that could not do its work.
pub const NO_WORK: u8 = 2;

/// A layer-4 load balancer: TUN in, Maglev, IPIP out, direct server return.
#[derive(Debug, Parser)]
#[command(name = "tunlb", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Validate a configuration and show what would run; needs no privileges
    Check(check::Args),
    /// On a backend: decapsulate in userspace where the kernel has no tunl0
    Decap(decap::Args),
    /// Find out why a backend gets the packet and the client no answer; --fix mends it
    Doctor(doctor::Args),
    /// Show which backend a flow gets, by which rule, and the outer header; needs no privileges
    Explain(explain::Args),
    /// Send a capture through the director's core, offline; needs no privileges
    Replay(replay::Args),
    /// Run the director: packets for VIPs from a TUN device to backends in IPIP
    Run(run::Args),
}

/// The command line; where it is wrong, this says why and ends the process.
#[must_use]
pub fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|error| {
        // What is quoted of an argument shall not be obeyed by the terminal.
        let printable = |argument: OsString| plain(&argument.to_string_lossy());
        let shown = Cli::try_parse_from(env::args_os().map(printable));
        shown.err().unwrap_or(error).exit()
    })
}

/// Does what the command line says.
///
/// # Errors
/// What kept the command from its work; the process should exit with [`NO_WORK`].
pub fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.command {
        Command::Check(args) => check::run(args),
        Command::Decap(args) => decap::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Run(args) => run::run(args),
    }
}

/// Prints to stdout. A reader that closed the pipe (`| head`) has read enough: not an error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to stdout")
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The transport protocol of that name; nothing for those that no VIP has.
fn parse_protocol(name: &str) -> Option<Protocol> {
    match name {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        _ => None,
    }
}

/// Prints lines to stderr, what is not printable in them escaped. Where stderr is closed, nothing can be
/// told any more.
pub fn complain(lines: &str) {
    for line in lines.lines() {
        writeln!(io::stderr(), "{}", Plain(line)).unwrap_or_default();
    }
}
