//! `tunlb run`: the director, until a signal stops it.

use std::path::{self, PathBuf};
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, anyhow};
use log::warn;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_shutdown;

use super::output::{is_stdout, stdout_for_packets};
use super::source::ConfigSource;
use super::verbosity::Verbosity;
use super::{BAD_NEWS, complain, print, size};
use crate::config::Config;
use crate::daemon::{
    self, CaptureOptions, Filter, HostSetup, ReadAgain, RunOptions, SMALLEST_CAPTURE, StopReason,
    Totals,
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

    /// Write ingress, outer and dropped packets to a new pcapng file, the verdict in each one's comment; -
    /// is standard output, for `| wireshark -k -i -`
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

    /// The most that the file may grow to, such as 10MB; when full, the capture ends and the director goes
    /// on [default: 64MiB; none for a pipe or FIFO]
    #[arg(long, value_name = "BYTES", value_parser = capture_size, requires = "capture")]
    pub capture_size: Option<u64>,

    /// What is logged.
    #[command(flatten)]
    pub verbosity: Verbosity,
}

pub(super) fn capture_size(text: &str) -> Result<u64, String> {
    let bytes = size::parse(text)?;
    if bytes < SMALLEST_CAPTURE {
        return Err(format!(
            "too little for a packet; at least {SMALLEST_CAPTURE} bytes"
        ));
    }
    Ok(bytes)
}

/// Forwards until told to stop, then prints what was forwarded and dropped.
///
/// # Errors
/// What keeps the director from starting, or made it stop by itself.
pub fn run(args: &Args) -> Result<ExitCode> {
    let reading = end_by_signals_in_a_container()?;
    let loaded = args.source.load_or_complain(Some("nothing was started"))?;
    reading.store(false, Ordering::Relaxed);
    let Some(config) = loaded else {
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
        file: file(&args.source)?,
    };
    let to_stdout = args.capture.as_deref().is_some_and(is_stdout);
    let tun = config.director.tun.clone();
    let report = move |totals: &Totals| {
        if to_stdout {
            complain(&totals.to_string());
        } else if let Err(error) = print(&totals.to_string()) {
            warn!("{error:#}");
        }
    };
    let (totals, reason) = daemon::run(config, options, reload(&args.source), report)?;
    report(&totals);
    match reason {
        StopReason::Signal(_) => Ok(ExitCode::SUCCESS),
        StopReason::Failed(error) => {
            Err(anyhow!(error)).with_context(|| format!("{tun} cannot be read any more"))
        }
    }
}

/// The file of the configuration as others find it, too; standard input is none.
fn file(source: &ConfigSource) -> Result<Option<PathBuf>> {
    let path = source.config.as_ref().filter(|_| !source.is_stdin());
    let absolute = path.map(path::absolute).transpose();
    absolute.context("cannot tell the current folder")
}

/// Signals have no default action for process 1, as which containers run it: until the flag is cleared,
/// they end it, also while it waits for a FIFO.
fn end_by_signals_in_a_container() -> Result<Arc<AtomicBool>> {
    let reading = Arc::new(AtomicBool::new(true));
    let is_first = process::id() == 1; // all others have the default action, until a handler replaces it
    for signal in [SIGINT, SIGTERM].into_iter().filter(|_| is_first) {
        let flag = Arc::clone(&reading);
        register_conditional_shutdown(signal, KILLED + signal, flag)
            .context("cannot watch for signals")?;
    }
    Ok(reading)
}

/// What shells add to a signal that ended a program.
const KILLED: i32 = 128;

/// Where the configuration came as flags, there is nothing to read again.
fn reload(source: &ConfigSource) -> Option<ReadAgain> {
    source.config.as_ref()?;
    let source = source.clone();
    Some(Arc::new(move || source.load_again()))
}

fn capture(args: &Args, config: &Config) -> Result<Option<CaptureOptions>> {
    let Some(path) = &args.capture else {
        return Ok(None);
    };
    let filter = Filter::parse(&args.capture_filter, config)?;
    Ok(Some(if is_stdout(path) {
        CaptureOptions::to_stdout(stdout_for_packets()?, filter, args.capture_size)
    } else {
        CaptureOptions::to_path(path.clone(), filter, args.capture_size)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_captures() {
        assert_eq!(capture_size("10MB"), Ok(10_000_000));
        assert!(
            capture_size("4095")
                .unwrap_err()
                .contains("at least 4096 bytes")
        );
    }
}
