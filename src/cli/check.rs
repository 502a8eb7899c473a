//! `tunlb check`: is a configuration valid, and what would it do?
//!
//! Opens no device and needs no privileges. Text: the configuration on stdout, problems and
//! warnings on stderr. JSON: one document on stdout, whatever the outcome.

mod health;
mod plan;
mod report;

use std::process::ExitCode;

use anyhow::anyhow;

use crate::config::{Config, ConfigError, Problems};
use crate::control::host::examine;
use crate::director::HashKey;
use crate::io::sys::usable_cpus;

use super::source::{ConfigSource, complain_about};
use super::{BAD_NEWS, complain, print};
use plan::Plan;
use report::{KeyDisplay, Report};

/// Arguments of `tunlb check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration to judge.
    #[command(flatten)]
    pub source: ConfigSource,

    /// One JSON document on stdout, on one line (described in docs/config.md)
    #[arg(long)]
    pub json: bool,

    /// Also ask this host: is it possible here? Refused are a VIP or backend that is an address of this host, and a
    /// backend whose route leads back into the TUN; needs no privileges
    #[arg(long)]
    pub host: bool,

    /// Print the file's hash_key too, which is otherwise left out; it is a secret
    #[arg(long)]
    pub show_key: bool,
}

/// Judges the configuration: 0 when it is valid, 1 when not.
///
/// # Errors
/// The file cannot be read, or stdout cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match args.source.load() {
        Ok(config) => match config.check_cpus(&usable_cpus()?) {
            Err(ConfigError::Invalid(problems)) => invalid(&problems, args.json),
            Err(error) => Err(error.into()),
            Ok(()) => valid(config, args),
        },
        Err(ConfigError::Invalid(problems)) => invalid(&problems, args.json),
        Err(error @ ConfigError::Read { .. }) => Err(error.into()),
    }
}

fn valid(mut config: Config, args: &Args) -> anyhow::Result<ExitCode> {
    let mut key = if args.show_key {
        KeyDisplay::Shown
    } else {
        KeyDisplay::Hidden
    };
    // From flags, the text is a file to start with, which needs a key of its own.
    if args.source.config.is_none() && !args.json {
        config.director.hash_key = fresh_key()?;
        key = KeyDisplay::Shown;
    }
    let plan = Plan::new(&config);
    let warnings: Vec<_> = config.warnings().iter().map(ToString::to_string).collect();
    let host = args.host.then(|| examine(&config)).transpose()?;
    let code = match host.as_deref() {
        Some([_, ..]) => ExitCode::from(BAD_NEWS),
        Some([]) | None => ExitCode::SUCCESS,
    };
    if args.json {
        print(&Report::valid(&config, key, &plan, &warnings, host.as_deref()).to_json()?)?;
        return Ok(code);
    }
    for warning in &warnings {
        complain(&format!("warning: {warning}"));
    }
    for impossible in host.iter().flatten() {
        complain(&format!("tunlb: {impossible}"));
    }
    let text = report::config_text(&config, key);
    print(&format!("{text}\n{}", plan.text()))?;
    Ok(code)
}

fn fresh_key() -> anyhow::Result<HashKey> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow!("cannot make a hash_key: no random numbers: {error}"))?;
    Ok(HashKey(bytes))
}

fn invalid(problems: &Problems, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        print(&Report::invalid(problems).to_json()?)?;
        return Ok(ExitCode::from(BAD_NEWS));
    }
    complain_about(problems, None);
    Ok(ExitCode::from(BAD_NEWS))
}
