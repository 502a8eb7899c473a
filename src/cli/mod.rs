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
pub mod replay;
pub mod run;
pub mod source;
pub mod undo;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::packet::Protocol;

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
    /// Undo what a killed run or decap left behind: settings, routes, addresses
    Undo(undo::Args),
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
        Command::Undo(args) => undo::run(args),
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

/// Prints one line to stderr. Where stderr is closed there is nobody left to tell.
pub fn complain(line: &str) {
    writeln!(io::stderr(), "{line}").unwrap_or_default();
}
