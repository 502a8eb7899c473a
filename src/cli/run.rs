//! `tunlb run`: the director, until SIGINT or SIGTERM.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use log::warn;

use super::source::ConfigSource;
use super::{BAD_NEWS, print};
use crate::config::Config;
use crate::daemon::{
    self, CaptureOptions, Filter, FilterError, HostSetup, Reload, RunOptions, StopReason,
};

/// Arguments of `tunlb run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to forward.
    #[command(flatten)]
    pub source: ConfigSource,

    /// Also set what the host needs (ip_forward, rp_filter) and set it back on exit
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

    /// The most that the file may grow to, in bytes or with K, M or G; when full, the capture ends and the
    /// director goes on
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "64M",
        value_parser = capture_size,
        requires = "capture"
    )]
    pub capture_size: u64,
}

/// Room for the file's own headers and a packet or two.
const SMALLEST_CAPTURE: u64 = 4096;

/// A number of bytes: `65536`, or with a unit, binary (`64K`, `64KiB`) or decimal (`64kB`).
fn capture_size(text: &str) -> Result<u64, String> {
    let end = text.find(|letter: char| !letter.is_ascii_digit());
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit: Option<u64> = match unit {
        "" | "B" => Some(1),
        "K" | "k" | "KiB" => Some(1 << 10),
        "M" | "MiB" => Some(1 << 20),
        "G" | "GiB" => Some(1 << 30),
        "kB" | "KB" => Some(1_000),
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        _ => None,
    };
    let number: Option<u64> = number.parse().ok();
    let (Some(number), Some(unit)) = (number, unit) else {
        return Err("not a size; give bytes, or a number with K, M or G, such as 64M".to_owned());
    };
    match number.checked_mul(unit) {
        Some(bytes) if bytes >= SMALLEST_CAPTURE => Ok(bytes),
        Some(_) => Err(format!(
            "too small: the file's headers and one packet need {SMALLEST_CAPTURE} bytes"
        )),
        None => Err("too large: the most is 16 EiB".to_owned()),
    }
}

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
    let (totals, reason) = daemon::run(config, &options, reload)?;
    print(&totals.to_string())?;
    match reason {
        StopReason::Signal => Ok(ExitCode::SUCCESS),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("4096", 4096),
            ("64M", 64 << 20),
            ("64MiB", 64 << 20),
            ("10MB", 10_000_000),
            ("4K", 4096),
            ("1G", 1 << 30),
        ] {
            assert_eq!(capture_size(text), Ok(bytes), "{text}");
        }
        for (text, words) in [
            ("", "not a size"),
            ("10XB", "such as 64M"),
            ("-1", "not a size"),
            ("1.5M", "not a size"),
            ("0x1000", "not a size"),
            ("99999999999999999999", "not a size"),
            ("99999999999G", "too large"),
            ("1", "4096 bytes"),
            ("3K", "4096 bytes"),
        ] {
            let message = capture_size(text).unwrap_err();
            assert!(message.contains(words), "{text}: {message}");
        }
    }
}
