//! `tunlb run`: the director, until SIGINT or SIGTERM.

use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use log::warn;

use super::source::{ConfigSource, complain_about};
use super::{BAD_NEWS, print};
use crate::config::ConfigError;
use crate::daemon::{self, HostSetup, StopReason};

/// Arguments of `tunlb run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to forward.
    #[command(flatten)]
    pub source: ConfigSource,

    /// Also set what the host needs (ip_forward, rp_filter) and set it back on exit
    #[arg(long)]
    pub setup: bool,
}

/// Forwards until told to stop, then prints what was forwarded and dropped.
///
/// # Errors
/// What keeps the director from starting, or made it stop by itself.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = match args.source.load() {
        Ok(config) => config,
        Err(ConfigError::Invalid(problems)) => {
            complain_about(&problems);
            return Ok(ExitCode::from(BAD_NEWS));
        }
        Err(error @ ConfigError::Read { .. }) => return Err(error.into()),
    };
    for warning in config.warnings() {
        warn!("{warning}");
    }
    let setup = if args.setup {
        HostSetup::Apply
    } else {
        HostSetup::Warn
    };
    let (totals, reason) = daemon::run(&config, setup)?;
    print(&totals.to_string())?;
    match reason {
        StopReason::Signal => Ok(ExitCode::SUCCESS),
        StopReason::Failed(error) => {
            let tun = &config.director.tun;
            Err(anyhow!(error)).with_context(|| format!("{tun} cannot be read any more"))
        }
    }
}
