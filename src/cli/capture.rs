//! `tunlb capture`: packets of a running director into a file, begun and ended without a restart.

use std::path::{self, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;

use super::output::is_stdout;
use super::run::capture_size;
use super::running::ApiArgs;
use super::{print, print_json};
use crate::api::model::CaptureRequest;
use crate::text::Plain;

/// Arguments of `tunlb capture`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// Begin or end.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Begin: ingress, outer and dropped packets, the verdict in each one's comment
    ///
    /// The director creates the file, by its own rights, and never replaces one.
    #[command(override_usage = "tunlb capture start [OPTIONS] <FILE>")]
    Start(Start),
    /// End the capture, and say how many packets the file has
    #[command(override_usage = "tunlb capture stop [OPTIONS]")]
    Stop(Stop),
}

/// Arguments of `tunlb capture stop`.
#[derive(Debug, clap::Args)]
pub struct Stop {
    /// One JSON document on stdout (described in docs/api.md)
    #[arg(long)]
    pub json: bool,

    /// The director.
    #[command(flatten)]
    pub api: ApiArgs,
}

/// Arguments of `tunlb capture start`.
#[derive(Debug, clap::Args)]
pub struct Start {
    /// A new pcapng file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Which packets; terms with one key are alternatives: vip=NAME, backend=ADDR, drop=REASON
    /// (drop=any: all that are dropped) [default: every packet]
    #[arg(long, value_name = "KEY=VALUE,…", value_delimiter = ',')]
    pub filter: Vec<String>,

    /// The most that the file may grow to, such as 10MB; when full, the capture ends [default: 64MiB]
    #[arg(long, value_name = "BYTES", value_parser = capture_size)]
    pub size: Option<u64>,

    /// The director.
    #[command(flatten)]
    pub api: ApiArgs,
}

/// Begins or ends.
///
/// # Errors
/// No director answers, or it refuses.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.action {
        Action::Start(start) => begin(start)?,
        Action::Stop(stop) => {
            let captured = stop.api.client()?.stop_capture()?;
            if stop.json {
                print_json(&serde_json::to_string(&captured)?)?;
                return Ok(ExitCode::SUCCESS);
            }
            print(&format!("{}\n", Plain(captured.text)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn begin(start: &Start) -> Result<()> {
    if is_stdout(&start.file) {
        bail!("the director writes the capture, and has another standard output; name a file");
    }
    let file = path::absolute(&start.file).context("cannot tell the current folder")?;
    let shown = file.display().to_string();
    start.api.client()?.start_capture(&CaptureRequest {
        file,
        filter: start.filter.clone(),
        size_bytes: start.size,
    })?;
    print(&format!(
        "capturing into {}; to end it: tunlb capture stop\n",
        Plain(shown)
    ))
}
