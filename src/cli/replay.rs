//! `tunlb replay`: a capture through the director's core, offline.
//!
//! The same code decides as in `tunlb run`, by the clock of the capture. No device is opened, no
//! route is asked for, so the answer is the same on every machine. `docs/replay.md` has the formats.

mod core;
mod output;
mod report;

use std::fs::File;
use std::io::{IsTerminal as _, Read};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use super::output::is_stdout;
use super::source::ConfigSource;
use super::{BAD_NEWS, complain, print};
use crate::io::pcap::Reader;
use crate::text::Plain;
use core::Core;
use output::Output;
use report::{Lines, Style, Tally};

/// Arguments of `tunlb replay`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What decides.
    #[command(flatten)]
    pub source: ConfigSource,

    /// The capture: pcap or pcapng; Ethernet (VLAN tags are skipped), raw IP, Linux cooked or loopback; -
    /// is standard input
    #[arg(value_name = "IN.pcap")]
    pub input: PathBuf,

    /// Write what the director would emit, in that order, without link header (LINKTYPE_RAW), to a new
    /// file; - is standard output, and the text goes to standard error
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
    if is_stdin(&args.input) && args.source.is_stdin() {
        bail!("the configuration and the capture cannot both be standard input");
    }
    let Some(config) = args.source.load_or_complain(None)? else {
        return Ok(ExitCode::from(BAD_NEWS));
    };
    let mut core = Core::new(&config)?;
    let input = open(&args.input)?;
    let named = || Plain(args.input.to_string_lossy()).to_string();
    // Before the output, so that nothing is created for what is no capture.
    let mut reader = Reader::open(&input).with_context(named)?;
    let mut output = args
        .output
        .as_deref()
        .map(|path| Output::create(path, &input))
        .transpose()?;
    let to_stdout = args.output.as_deref().is_some_and(is_stdout);
    let style = match (args.json, args.verbose) {
        (true, _) => Style::Json,
        (false, true) => Style::Text,
        (false, false) => Style::Silent,
    };
    let mut lines = if to_stdout {
        Lines::to_stderr(style)
    } else {
        Lines::to_stdout(style)
    };
    let mut tally = Tally::default();
    let replayed = replay(
        &mut reader,
        &mut core,
        output.as_mut(),
        &mut lines,
        &mut tally,
    )
    .with_context(named);
    // A capture that ends in the middle is still worth what came before.
    lines.flush()?;
    if let Some(output) = output {
        output.finish()?;
    }
    if !args.json && (replayed.is_ok() || tally.packets > 0) {
        let summary = tally.summary(&core.totals());
        if to_stdout {
            complain(&summary);
        } else {
            print(&summary)?;
        }
    }
    if let Some(warning) = tally.warning() {
        complain(&warning);
    }
    replayed.map(|()| ExitCode::SUCCESS)
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

fn open(path: &Path) -> Result<File> {
    if is_stdin(path) {
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            bail!(
                "standard input is a terminal, and a capture is binary: name a file, or use a pipe"
            );
        }
        let copy = stdin.as_fd().try_clone_to_owned();
        return copy.map(File::from).context("cannot read stdin");
    }
    let file = File::open(path).with_context(|| cannot("open", path))?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        bail!(
            "{}: it is a directory; name a capture in it",
            cannot("read", path)
        );
    }
    Ok(file)
}

fn replay(
    reader: &mut Reader<impl Read>,
    core: &mut Core,
    mut output: Option<&mut Output>,
    lines: &mut Lines,
    tally: &mut Tally,
) -> Result<()> {
    while let Some(record) = reader.next_record()? {
        tally.count(&record);
        // What is not IP never reaches a TUN; to the core it is a packet without a version.
        let packet = record.network_packet().unwrap_or_default();
        let moment = core.advance(record.timestamp);
        let answer = core.replay(packet, |head, tail| match output.as_deref_mut() {
            Some(output) => output.write(moment, record.resolution, head, tail),
            None => Ok(()),
        })?;
        lines.write(tally.packets, &record, &answer)?;
        let is_read = output
            .as_deref()
            .map_or(!lines.is_closed(), Output::is_read);
        if !is_read {
            break;
        }
    }
    Ok(())
}

fn cannot(verb: &str, path: &Path) -> String {
    format!("cannot {verb} {}", Plain(path.to_string_lossy()))
}
