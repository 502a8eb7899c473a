//! The command line: one file per subcommand, and the only place that prints.
//!
//! Exit codes: 0 fine; 1 the answer is bad news; 2 the command could not do its work.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "printing is what this layer is for"
)]

mod amount;
pub mod backend;
pub mod capture;
pub mod check;
mod columns;
pub mod completions;
pub mod decap;
pub mod diff;
pub mod doctor;
pub mod events;
pub mod explain;
pub mod flows;
pub mod help;
mod log_line;
pub mod man;
mod output;
pub mod probe;
pub mod reload;
pub mod replay;
pub mod run;
pub mod running;
mod size;
pub mod source;
pub mod status;
pub mod undo;
pub mod verbosity;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use log::LevelFilter;

use crate::packet::Protocol;
use crate::text::plain::plain;
use crate::text::{Plain, json};
pub use log_line::LogTo;

/// The exit code of bad news: an invalid file, a FAIL finding.
pub const BAD_NEWS: u8 = 1;
/// The exit code of a command that could not do its work.
pub const NO_WORK: u8 = 2;

/// A layer-4 load balancer: TUN in, Maglev, IPIP out, direct server return.
#[derive(Debug, Parser)]
#[command(
    name = "tunlb",
    version,
    long_version = crate::text::version::LONG,
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
            Command::Backend(_)
            | Command::Capture(_)
            | Command::Check(_)
            | Command::Completions(_)
            | Command::Diff(_)
            | Command::Doctor(_)
            | Command::Events(_)
            | Command::Explain(_)
            | Command::Flows(_)
            | Command::Help(_)
            | Command::Man(_)
            | Command::Probe(_)
            | Command::Reload(_)
            | Command::Replay(_)
            | Command::Status(_)
            | Command::Undo(_) => None,
        }
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Change a backend of a running director: its weight, state, taken health; add, drain, remove one
    ///
    /// The change holds until it is cleared (--clear), expires (--for), or the file changes the
    /// same key; --persist writes it into the file, too.
    #[command(
        disable_help_subcommand = true,
        override_usage = "tunlb backend <add|set|drain|remove> [OPTIONS] <VIP> <ADDRESS>"
    )]
    Backend(backend::Args),
    /// Capture packets of a running director into a file, without a restart
    ///
    /// The same as `tunlb run --capture` writes from the start on: docs/capture.md.
    #[command(
        disable_help_subcommand = true,
        override_usage = "tunlb capture start [OPTIONS] <FILE>\n       tunlb capture stop [OPTIONS]"
    )]
    Capture(capture::Args),
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
    /// Compare a running director with its file; exit code 1 if they differ
    ///
    /// Shows what operators override, and what a reload would change.
    #[command(override_usage = "tunlb diff [OPTIONS]")]
    Diff(diff::Args),
    /// Find out why packets reach the backend but the client gets no reply; --fix fixes it
    ///
    /// Looks at this machine and changes nothing, unless --fix --apply or --persist ask for it. Best as root:
    /// what cannot be read is reported as unknown.
    #[command(override_usage = "tunlb doctor [OPTIONS]")]
    Doctor(doctor::Args),
    /// Follow what happens to a running director: changes, reloads, drained backends, faults of the host
    ///
    /// Runs until it is stopped; exit code 2 when the director ends. docs/operations.md lists the kinds of events.
    #[command(override_usage = "tunlb events [OPTIONS]")]
    Events(events::Args),
    /// Show which backend a flow gets, by which rule, and the outer header; needs no privileges
    ///
    /// The answer is the ring's: that of a new flow. With --running it is that of the director that runs.
    #[command(
        override_usage = "tunlb explain [OPTIONS] <-c FILE | --running | --vip ADDR:PORT/PROTO --backend ADDR> \
                          <SRC:PORT> <DST:PORT/PROTO>"
    )]
    Explain(explain::Args),
    /// List flows that a running director remembers
    ///
    /// A moment's view, worker after worker: flows begin and end meanwhile.
    #[command(override_usage = "tunlb flows [OPTIONS]")]
    Flows(flows::Args),
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
    /// Have a running director read its file again; says what changed
    ///
    /// Exit code 1 and all problems if the file is invalid: the old configuration stays.
    #[command(override_usage = "tunlb reload [OPTIONS]")]
    Reload(reload::Args),
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
    /// Show VIPs, backends, rates and drops of a running director
    ///
    /// Rates are averages over ten seconds. Answers do not pass the director, so OutPkts and the like are
    /// unknown: "-".
    #[command(override_usage = "tunlb status [OPTIONS]")]
    Status(status::Args),
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
        Command::Backend(args) => running::ended(backend::run(args)),
        Command::Capture(args) => running::ended(capture::run(args)),
        Command::Check(args) => check::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Decap(args) => decap::run(args),
        Command::Diff(args) => running::ended(diff::run(args)),
        Command::Doctor(args) => doctor::run(args),
        Command::Events(args) => running::ended(events::run(args)),
        Command::Explain(args) => running::ended(explain::run(args)),
        Command::Flows(args) => running::ended(flows::run(args)),
        Command::Help(args) => help::run(args),
        Command::Man(args) => man::run(args),
        Command::Probe(args) => probe::run(args),
        Command::Reload(args) => running::ended(reload::run(args)),
        Command::Replay(args) => replay::run(args),
        Command::Run(args) => run::run(args),
        Command::Status(args) => running::ended(status::run(args)),
        Command::Undo(args) => undo::run(args),
    }
}

/// Prints to stdout. A reader that closed the pipe (`| head`) has read enough: not an error.
fn print(text: &str) -> anyhow::Result<()> {
    print_on(text).map(drop)
}

/// Prints to stdout what more may follow; whether anything reads it still.
fn print_on(text: &str) -> anyhow::Result<bool> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write to stdout"),
    }
}

/// Prints with colours on a terminal and never with NO_COLOR.
fn print_styled(text: &str) -> anyhow::Result<()> {
    print(&for_stdout(text))
}

/// A text with styles as stdout may have it.
fn for_stdout(text: &str) -> String {
    let choice = anstream::AutoStream::choice(&io::stdout());
    if choice == anstream::ColorChoice::Never {
        anstream::adapter::strip_str(text).to_string()
    } else {
        text.to_owned()
    }
}

/// Prints a JSON document in a line that a terminal may show; whether anything reads it still.
fn print_json(document: &str) -> anyhow::Result<bool> {
    let document = document.trim_end();
    let is_printable = document.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let is_read = if is_printable {
        print_on(document)? // one of 80 MB is not copied
    } else {
        print_on(&json::printable(document))?
    };
    Ok(is_read && print_on("\n")?)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::control::events::EventKind;
    use crate::text::shell;

    const OPERATIONS: &str = include_str!("../../docs/operations.md");

    #[test]
    fn commands_of_the_operators_manual_are_valid() {
        let lines = OPERATIONS.lines();
        let typed = lines.filter_map(|line| line.strip_prefix("$ "));
        let typed: Vec<_> = typed.collect();
        assert!(typed.len() > 15, "{typed:?}");
        let mut used = BTreeSet::new();
        for line in typed {
            let words = shell::words(line).unwrap_or_else(|| panic!("{line}"));
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("{line}: {error}");
            }
            used.insert(words[1].clone());
        }
        let all = [
            "backend", "capture", "diff", "events", "explain", "reload", "status",
        ];
        assert!(
            all.iter().all(|command| used.contains(*command)),
            "{used:?}"
        );
    }

    #[test]
    fn every_kind_of_event_is_in_the_operators_manual() {
        for kind in EventKind::ALL {
            let row = format!("\n| `{}` | ", kind.name());
            assert!(OPERATIONS.contains(&row), "{row}");
        }
    }
}
