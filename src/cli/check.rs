//! `tunlb check`: is a configuration valid, and what would it do?
//!
//! Opens no device and needs no privileges. Text: the configuration on stdout, problems and
//! warnings on stderr. JSON: one document on stdout, whatever the outcome.

mod report;

use std::process::ExitCode;

use crate::config::{Config, ConfigError, Problems};

use super::source::{ConfigSource, complain_about};
use super::{BAD_NEWS, complain, print};
use report::{Plan, Report};

/// The arguments of `tunlb check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration to judge.
    #[command(flatten)]
    pub source: ConfigSource,

    /// One JSON document on stdout (described in docs/config.md)
    #[arg(long)]
    pub json: bool,
}

/// Judges the configuration: 0 when it is valid, 1 when not.
///
/// # Errors
/// The file cannot be read, or stdout cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match args.source.load() {
        Ok(config) => valid(&config, args.json),
        Err(ConfigError::Invalid(problems)) => invalid(&problems, args.json),
        Err(error @ ConfigError::Read { .. }) => Err(error.into()),
    }
}

fn valid(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let plan = Plan::new(config);
    let warnings: Vec<_> = config.warnings().iter().map(ToString::to_string).collect();
    if json {
        print(&Report::valid(config, &plan, &warnings).to_json()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    for warning in &warnings {
        complain(&format!("warning: {warning}"));
    }
    print(&format!("{}\n{}", report::config_text(config), plan.text()))?;
    Ok(ExitCode::SUCCESS)
}

fn invalid(problems: &Problems, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        print(&Report::invalid(problems).to_json()?)?;
        return Ok(ExitCode::from(BAD_NEWS));
    }
    complain_about(problems);
    Ok(ExitCode::from(BAD_NEWS))
}
