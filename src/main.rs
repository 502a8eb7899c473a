//! The `tunlb` binary: logging, the command line, the exit code.

use std::process::ExitCode;

use clap::Parser;
use tunlb::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Colours only on a terminal and never with NO_COLOR: env_logger sees to both.
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"))
        .format_target(false)
        .format_timestamp_millis()
        .init();
    match cli::run(&cli) {
        Ok(code) => code,
        Err(error) => {
            cli::complain(&format!("tunlb: {error:#}"));
            ExitCode::from(cli::NO_WORK)
        }
    }
}
