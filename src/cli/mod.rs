//! The command line: one file per subcommand, and the only place that prints.
//!
//! Exit codes: 0 fine; 1 the answer is bad news; 2 the command could not do its work.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "printing is what this layer is for"
)]

pub mod check;
pub mod completions;
pub mod decap;
pub mod doctor;
pub mod explain;
pub mod help;
mod log_line;
pub mod man;
mod output;
pub mod probe;
pub mod replay;
pub mod run;
mod size;
pub mod source;
pub mod undo;
pub mod verbosity;
mod version;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use log::LevelFilter;

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
#[command(
    name = "tunlb",
    version,
    long_version = version::LONG,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = after_help()
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// A word and its meaning.
type Entry = (&'static str, &'static str);

/// What the environment has a say in; also a section of the manual.
const ENVIRONMENT: [Entry; 2] = [
    (
        "RUST_LOG",
        "level of the log on stderr: error, warn, info (the default), debug, trace or off",
    ),
    ("NO_COLOR", "no colours, also on a terminal"),
];

/// Also a section of the manual.
const EXIT_CODES: [Entry; 3] = [
    ("0", "fine"),
    (
        "1",
        "the answer is bad news: an invalid configuration, a fault that was found",
    ),
    ("2", "the command could not do its work"),
];

/// The ends of the help: what holds for all commands.
fn after_help() -> String {
    let list = |title: &str, entries: &[Entry]| {
        let lines = entries
            .iter()
            .map(|(word, meaning)| format!("  {word:<8}  {meaning}\n"));
        format!("{title}:\n{}", lines.collect::<String>())
    };
    let environment = list("Environment", &ENVIRONMENT);
    environment + "\n" + list("Exit codes", &EXIT_CODES).trim_end()
}

impl Cli {
    /// The level at which tunlb's own log was asked for on the command line.
    #[must_use]
    pub fn log_level(&self) -> Option<LevelFilter> {
        match &self.command {
            Command::Decap(args) => args.verbosity.level(),
            Command::Run(args) => args.verbosity.level(),
            Command::Check(_)
            | Command::Completions(_)
            | Command::Doctor(_)
            | Command::Explain(_)
            | Command::Help(_)
            | Command::Man(_)
            | Command::Probe(_)
            | Command::Replay(_)
            | Command::Undo(_) => None,
        }
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Validate a configuration and show what would run; needs no privileges
    ///
    /// Prints the effective configuration as a file, and the plan in its comments; problems and warnings
    /// go to stderr. With --vip and --backend it is a file to start with, with a fresh random hash_key: a
    /// secret, so keep the file to yourself (umask 077).
    #[command(
        override_usage = "tunlb check [OPTIONS] <-c FILE | --vip ADDR:PORT/PROTO --backend ADDR>"
    )]
    Check(check::Args),
    /// Print a script that completes tunlb's commands and options in a shell
    ///
    /// For bash: tunlb completions bash | sudo tee /usr/share/bash-completion/completions/tunlb >/dev/null
    #[command(override_usage = "tunlb completions <SHELL>")]
    Completions(completions::Args),
    /// On a backend: decapsulate in userspace where the kernel has no tunl0
    ///
    /// Receives IP-in-IP (protocols 4 and 41, over IPv4 and IPv6) or GUE, removes the outer header and
    /// hands the inner packet to the kernel through a TUN device. Runs until SIGINT or SIGTERM, then prints
    /// totals; SIGUSR1 prints them meanwhile. Needs CAP_NET_ADMIN and, without --gue, CAP_NET_RAW.
    #[command(override_usage = "tunlb decap [OPTIONS] --vip <ADDR>")]
    Decap(decap::Args),
    /// Find out why packets reach the backend but the client gets no reply; --fix fixes it
    ///
    /// Looks at this machine and changes nothing, unless --fix --apply or --persist ask for it. Best as root:
    /// what cannot be read is reported as unknown.
    #[command(override_usage = "tunlb doctor [OPTIONS]")]
    Doctor(doctor::Args),
    /// Show which backend a flow gets, by which rule, and the outer header; needs no privileges
    ///
    /// The answer is the ring's: that of a new flow.
    #[command(
        override_usage = "tunlb explain [OPTIONS] <-c FILE | --vip ADDR:PORT/PROTO --backend ADDR> \
                          <SRC:PORT> <DST:PORT/PROTO>"
    )]
    Explain(explain::Args),
    /// Print this help, that of a command, or a document: `tunlb help config` is an annotated configuration
    ///
    /// Documents are named as in the other helps: `tunlb help docs/config.md`.
    #[command(override_usage = "tunlb help [COMMAND | config | docs/FILE]")]
    Help(help::Args),
    /// Print the manual page tunlb(1), or write one for each command into a directory
    ///
    /// To read it at once: tunlb man | man -l -
    #[command(override_usage = "tunlb man [DIR]")]
    Man(man::Args),
    /// From here through the tunnels to the backends: where does a packet die on its way?
    ///
    /// Sends probes to the VIPs through the tunnel of each backend, as a director does, and asks each backend
    /// directly, too. Runs beside a director, or on a host without one. Needs CAP_NET_ADMIN and CAP_NET_RAW.
    #[command(override_usage = "tunlb probe [OPTIONS] -c <FILE>")]
    Probe(probe::Args),
    /// Send a capture through the director's core, offline; needs no privileges
    ///
    /// Decides as `tunlb run` would, by the clock of the capture, and prints what became of the packets.
    #[command(
        override_usage = "tunlb replay [OPTIONS] <-c FILE | --vip ADDR:PORT/PROTO --backend ADDR> <IN.pcap>"
    )]
    Replay(replay::Args),
    /// Run the director: packets for VIPs from a TUN device to backends in IPIP or GUE
    ///
    /// Runs until SIGINT or SIGTERM, then prints totals. SIGHUP reads the file again. Needs CAP_NET_ADMIN and
    /// CAP_NET_RAW.
    #[command(
        override_usage = "tunlb run [OPTIONS] <-c FILE | --vip ADDR:PORT/PROTO --backend ADDR>"
    )]
    Run(run::Args),
    /// Undo what a killed run or decap left behind: settings, routes, addresses
    ///
    /// Both undo everything when they end, and keep a journal of it under /run/tunlb (or
    /// $XDG_RUNTIME_DIR/tunlb). Where one was killed, the next start in the same network namespace undoes
    /// what the journal says, and so does this command. A running process is left alone. Needs CAP_NET_ADMIN.
    #[command(override_usage = "tunlb undo [OPTIONS]")]
    Undo(undo::Args),
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
        Command::Completions(args) => completions::run(args),
        Command::Decap(args) => decap::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Help(args) => help::run(args),
        Command::Man(args) => man::run(args),
        Command::Probe(args) => probe::run(args),
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

/// Prints with colours on a terminal and never with NO_COLOR.
fn print_styled(text: &str) -> anyhow::Result<()> {
    let choice = anstream::AutoStream::choice(&io::stdout());
    if choice == anstream::ColorChoice::Never {
        print(&anstream::adapter::strip_str(text).to_string())
    } else {
        print(text)
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
