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
use crate::io::pcap::{Reader, Record};
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
    let core = Core::new(&config)?;
    let input = open(&args.input)?;
    let named = || Plain(args.input.to_string_lossy()).to_string();
    // Before the output, so that nothing is created for what is no capture.
    let mut reader = Reader::open(&input).with_context(named)?;
    let output = args
        .output
        .as_deref()
        .map(|path| Output::create(path, &input))
        .transpose()?;
    let mut replay = Replay {
        core,
        output,
        lines: lines(args),
        tally: Tally::default(),
    };
    let replayed = replay.run(&mut reader).with_context(named);
    // A capture that ends in the middle is still worth what came before.
    replay.finish(args, replayed)
}

/// Where the packets go to standard output, the text goes to standard error.
fn is_text_to_stderr(args: &Args) -> bool {
    args.output.as_deref().is_some_and(is_stdout)
}

fn lines(args: &Args) -> Lines {
    let style = match (args.json, args.verbose) {
        (true, _) => Style::Json,
        (false, true) => Style::Text,
        (false, false) => Style::Silent,
    };
    if is_text_to_stderr(args) {
        Lines::to_stderr(style)
    } else {
        Lines::to_stdout(style)
    }
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

/// A replay under way.
struct Replay {
    core: Core,
    output: Option<Output>,
    lines: Lines,
    tally: Tally,
}

impl Replay {
    fn run(&mut self, reader: &mut Reader<impl Read>) -> Result<()> {
        while let Some(record) = reader.next_record()? {
            self.take(&record)?;
            let output = self.output.as_ref();
            if !output.map_or(!self.lines.is_closed(), Output::is_read) {
                break;
            }
        }
        Ok(())
    }

    fn take(&mut self, record: &Record<'_>) -> Result<()> {
        self.tally.count(record);
        // What is not IP never reaches a TUN; to the core it is a packet without a version.
        let packet = record.network_packet().unwrap_or_default();
        let moment = self.core.advance(record.timestamp);
        let output = &mut self.output;
        let answer = self.core.replay(packet, |bytes| match output {
            Some(output) => output.write(moment, record.resolution, bytes),
            None => Ok(()),
        })?;
        self.lines.write(self.tally.packets, record, &answer)
    }

    /// Writes what is buffered and prints the summary, if there is something to sum up.
    fn finish(mut self, args: &Args, replayed: Result<()>) -> Result<ExitCode> {
        self.lines.flush()?;
        if let Some(output) = self.output {
            output.finish()?;
        }
        if !args.json && (replayed.is_ok() || self.tally.packets > 0) {
            let summary = self.tally.summary(&self.core.totals());
            if is_text_to_stderr(args) {
                complain(&summary);
            } else {
                print(&summary)?;
            }
        }
        if let Some(warning) = self.tally.warning() {
            complain(&warning);
        }
        replayed.map(|()| ExitCode::SUCCESS)
    }
}

fn cannot(verb: &str, path: &Path) -> String {
    format!("cannot {verb} {}", Plain(path.to_string_lossy()))
}
