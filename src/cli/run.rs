//! `tunlb run`: the director, until a signal stops it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use log::warn;

use super::source::ConfigSource;
use super::{BAD_NEWS, print};
use crate::config::Config;
use crate::daemon::{
    self, CaptureOptions, Filter, FilterError, HostSetup, Reload, RunOptions, StopReason, Totals,
};

/// Arguments of `tunlb run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to forward.
    #[command(flatten)]
    pub source: ConfigSource,

    /// Also set what the host needs (ip_forward, rp_filter, ARP and NDP for VIPs of its own subnets) and set it
    /// back on exit
    #[arg(long)]
    pub setup: bool,

    /// Write ingress, outer and dropped packets to a pcapng file, the verdict in each one's comment
    #[arg(long, value_name = "FILE")]
    pub capture: Option<PathBuf>,

    /// Which packets; terms with one key are alternatives: vip=NAME, backend=ADDR, drop=REASON
    /// (drop=any: all that are dropped) [default: every packet]
    #[arg(
        long,
        value_name = "KEY=VALUE,…",
        value_delimiter = ',',
        requires = "capture"
    )]
    pub capture_filter: Vec<String>,

    /// The most that the file may grow to; when full, the capture ends and the director goes on
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 64 * 1024 * 1024,
        value_parser = clap::value_parser!(u64).range(SMALLEST_CAPTURE..),
        requires = "capture"
    )]
    pub capture_size: u64,
}

/// Room for the file's own headers and a packet or two.
const SMALLEST_CAPTURE: u64 = 4096;

/// Forwards until told to stop, then prints what was forwarded and dropped.
///
/// # Errors
/// What keeps the director from starting, or made it stop by itself.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Some(config) = args.source.load_or_complain()? else {
        return Ok(ExitCode::from(BAD_NEWS));
    };
    for warning in config.warnings() {
        warn!("{warning}");
    }
    let setup = if args.setup {
        HostSetup::Apply
    } else {
        HostSetup::Warn
    };
    let options = RunOptions {
        setup,
        capture: capture(args, &config)?,
    };
    let tun = config.director.tun.clone();
    let read = || args.source.load();
    let reload: Option<Reload<'_>> = args.source.config.is_some().then_some(&read);
    let report = |totals: &Totals| {
        if let Err(error) = print(&totals.to_string()) {
            warn!("{error:#}");
        }
    };
    let (totals, reason) = daemon::run(config, &options, reload, report)?;
    print(&totals.to_string())?;
    match reason {
        StopReason::Signal(_) => Ok(ExitCode::SUCCESS),
        StopReason::Failed(error) => {
            Err(anyhow!(error)).with_context(|| format!("{tun} cannot be read any more"))
        }
    }
}

fn capture(args: &Args, config: &Config) -> Result<Option<CaptureOptions>, FilterError> {
    let Some(path) = args.capture.clone() else {
        return Ok(None);
    };
    Ok(Some(CaptureOptions {
        path,
        filter: Filter::parse(&args.capture_filter, config)?,
        limit_bytes: args.capture_size,
    }))
}
