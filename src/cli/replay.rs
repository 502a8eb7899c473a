//! `tunlb replay`: a capture through the director's core, offline.
//!
//! The same code decides as in `tunlb run`, by the clock of the capture. No device is opened, no
//! route is asked for, so the answer is the same on every machine. `docs/replay.md` has the formats.

mod core;
mod output;
mod report;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::source::ConfigSource;
use super::{BAD_NEWS, complain, print};
use crate::io::pcap::Reader;
use core::Core;
use output::Output;
use report::{Lines, Style, Tally};

/// Arguments of `tunlb replay`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What decides.
    #[command(flatten)]
    pub source: ConfigSource,

    /// The capture: pcap or pcapng; Ethernet (VLAN tags are skipped), raw IP, Linux cooked or loopback
    #[arg(value_name = "IN.pcap")]
    pub input: PathBuf,

    /// Write what the director would emit, in that order, without link header (LINKTYPE_RAW)
    #[arg(long, value_name = "OUT.pcap")]
    pub output: Option<PathBuf>,

    /// One JSON object per packet on stdout (described in docs/replay.md)
    #[arg(long)]
    pub json: bool,

    /// One line per packet before the summary
    #[arg(short, long, conflicts_with = "json")]
    pub verbose: bool,
}

/// Replays the capture and prints what became of its packets.
///
/// # Errors
/// A file that cannot be read or written, or a damaged capture; what came before was replayed.
pub fn run(args: &Args) -> Result<ExitCode> {
    let Some(config) = args.source.load_or_complain()? else {
        return Ok(ExitCode::from(BAD_NEWS));
    };
    let mut core = Core::new(&config)?;
    let file = File::open(&args.input).with_context(|| cannot("open", &args.input))?;
    let mut output = args
        .output
        .as_deref()
        .map(|path| Output::create(path, &file))
        .transpose()?;
    let mut lines = Lines::new(match (args.json, args.verbose) {
        (true, _) => Style::Json,
        (false, true) => Style::Text,
        (false, false) => Style::Silent,
    });
    let mut tally = Tally::default();
    let replayed = replay(file, &mut core, output.as_mut(), &mut lines, &mut tally)
        .with_context(|| args.input.display().to_string());
    // A capture that ends in the middle is still worth what came before.
    lines.flush()?;
    if let Some(output) = output {
        output.finish()?;
    }
    if !args.json {
        print(&tally.summary(&core.totals()))?;
    }
    if let Some(warning) = tally.warning() {
        complain(&warning);
    }
    replayed.map(|()| ExitCode::SUCCESS)
}

fn replay(
    file: File,
    core: &mut Core,
    mut output: Option<&mut Output>,
    lines: &mut Lines,
    tally: &mut Tally,
) -> Result<()> {
    let mut reader = Reader::open(file)?;
    while let Some(record) = reader.next_record()? {
        tally.count(&record);
        // What is not IP never reaches a TUN; to the core it is a packet without a version.
        let packet = record.network_packet().unwrap_or_default();
        let moment = core.advance(record.timestamp);
        let answer = core.replay(packet, |bytes| match output.as_deref_mut() {
            Some(output) => output.write(moment, record.resolution, bytes),
            None => Ok(()),
        })?;
        lines.write(tally.packets, &answer)?;
        if lines.is_closed() && output.is_none() {
            break;
        }
    }
    Ok(())
}

fn cannot(verb: &str, path: &Path) -> String {
    format!("cannot {verb} {}", path.display())
}
