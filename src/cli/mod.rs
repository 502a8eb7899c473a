//! The command line: one file per subcommand. The only place that prints.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command's output"
)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod decap;

/// A tunnel-aware layer-4 load balancer in userspace.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// On a backend: decapsulate in userspace where the kernel has no tunl0
    Decap(decap::Args),
}

/// Parses the command line and runs the command; exits 2 where it could not do its work.
#[must_use]
pub fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let result = match Cli::parse().command {
        Command::Decap(args) => decap::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("tunlb: {error:#}");
        ExitCode::from(2)
    })
}
