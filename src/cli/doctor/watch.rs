//! `tunlb doctor --watch`: tells on stderr what it sees, and stops early for a signal.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::cli::complain;
use crate::cli::output::{is_stdout, stdout_for_packets};
use crate::doctor::facts::Facts;
use crate::doctor::lang::Lang;
use crate::doctor::watch::{self, Observation, Progress, Watched};
use crate::io::capture::CaptureFile;

/// Bytes of a capture file; headers of a handshake take some hundred.
const MOST_CAPTURED: u64 = 64 << 20;

/// What a capture file names as its interface: all devices.
const INTERFACE: &str = "tunlb doctor";

/// Arguments of the watch.
#[derive(Debug, clap::Args)]
pub struct WatchArgs {
    /// Follow one flow through the backend while a client sends, and say where it ends
    #[arg(long, conflicts_with_all = ["from_bundle", "apply", "persist"])]
    pub watch: bool,

    /// How long to wait for a client
    #[arg(long, value_name = "N", requires = "watch", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub seconds: u64,

    /// Keep what is captured on all devices in a new file (pcapng); - is standard output
    #[arg(long, value_name = "FILE", requires = "watch")]
    pub pcap: Option<PathBuf>,
}

/// Follows a flow of the only target.
///
/// # Errors
/// No VIP, several of them, a missing privilege, a file that cannot be written.
pub(super) fn follow(args: &WatchArgs, facts: &Facts, lang: Lang) -> Result<Observation> {
    let [target] = facts.targets.as_slice() else {
        bail!("--watch follows the packets of one service; name it: --vip ADDR:PORT/PROTO");
    };
    let capture = match &args.pcap {
        Some(path) if is_stdout(path) => {
            let stdout = stdout_for_packets()?;
            Some(CaptureFile::begin(stdout, MOST_CAPTURED, INTERFACE)?)
        }
        Some(path) => Some(CaptureFile::create(path, MOST_CAPTURED, INTERFACE)?),
        None => None,
    };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .context("cannot watch for signals")?;
    }
    let seconds = args.seconds;
    let mut progress = |progress: Progress<'_>| match progress {
        Progress::Watching => complain(&watch::invitation(seconds, lang)),
        Progress::Seen(sighting) => complain(&sighting.timed()),
        Progress::CaptureEnded(error) => complain(&format!("tunlb: {error}")),
    };
    let patience = Duration::from_secs(seconds);
    let watched = Watched::of(target);
    watch::watch(&watched, patience, capture, &stop, &mut progress).context("--watch")
}
