//! The `tunlb` binary: logging, the command line, the exit code.

use std::process::ExitCode;

use clap::Parser;
use tunlb::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Colours only on a terminal and never with NO_COLOR: env_logger sees to both.
    let environment = env_logger::Env::default().default_filter_or("info");
    let mut logger = env_logger::Builder::from_env(environment);
    logger.format_target(false).format_timestamp_millis();
    if let Some(level) = cli.log_level() {
        logger.filter_module("tunlb", level);
    }
    logger.init();
    match cli::run(&cli) {
        Ok(code) => code,
        Err(error) => {
            cli::complain(&format!("tunlb: {error:#}"));
            ExitCode::from(cli::NO_WORK)
        }
    }
}
