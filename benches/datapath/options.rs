//! What the command line asks for.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

const USAGE: &str = "\
cargo bench --bench datapath -- [--rounds N] [--seconds S] [--only NAMES] [--small]
cargo bench --bench datapath -- --decap [--program PATH]... [--rounds N] [--seconds S]
cargo bench --bench datapath -- --overload [--rounds N] [--seconds S]
cargo bench --bench datapath -- --idle [--rounds N]
  --rounds N    how often each contender is measured (5)
  --seconds S   how long each measurement takes (3)
  --only NAMES  these contenders (separated by commas) and the naive loop, which the ratios need
  --small       64-byte UDP alone
  --decap       what tunlb decap costs
  --program PATH  a build of tunlb to measure instead of this one; repeat for several, compared to the first
  --overload    what arrives where more is offered than is forwarded, and of another VIP's flows
  --idle        resident memory, time to the first forwarded packet, size of the binary";

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Packets per second, CPU time per packet, and round trips.
    Compare,
    /// What the backend's decapsulator costs.
    Decap,
    /// What arrives where more is offered than is forwarded.
    Overload,
    /// What tunlb costs before any load.
    Idle,
    /// Be the naive loop: how this program starts that contender.
    Naive,
    /// Be clients of the API at that path.
    ApiClients(String),
}

/// The validated command line.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) mode: Mode,
    pub(crate) rounds: usize,
    pub(crate) seconds: Duration,
    pub(crate) only: Option<String>,
    /// Whether 64-byte UDP is the only load.
    pub(crate) small: bool,
    /// Builds of tunlb for [`Mode::Decap`]; none: this one.
    pub(crate) programs: Vec<String>,
}

impl Options {
    /// # Errors
    /// An argument that is unknown or lacks a usable value.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let seconds = Duration::from_secs(3);
        let mut options = Self {
            mode: Mode::Compare,
            rounds: 5,
            seconds,
            only: None,
            small: false,
            programs: Vec::new(),
        };
        while let Some(argument) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .with_context(|| format!("{argument} needs a value"))
            };
            match argument.as_str() {
                "--rounds" => {
                    options.rounds = value()?.parse().context("--rounds needs a number")?
                }
                "--seconds" => {
                    let seconds = value()?.parse().context("--seconds needs a number")?;
                    options.seconds = Duration::try_from_secs_f64(seconds).context("--seconds")?;
                }
                "--only" => options.only = Some(value()?),
                "--decap" => options.mode = Mode::Decap,
                "--program" => options.programs.push(value()?),
                "--small" => options.small = true,
                "--overload" => options.mode = Mode::Overload,
                "--idle" => options.mode = Mode::Idle,
                NAIVE => options.mode = Mode::Naive,
                API_CLIENTS => options.mode = Mode::ApiClients(value()?),
                "--bench" => {} // what cargo bench passes to every bench
                _ => bail!("unknown argument {argument}\n{USAGE}"),
            }
        }
        ensure!(options.rounds > 0, "--rounds must be at least 1");
        ensure!(!options.seconds.is_zero(), "--seconds must be more than 0");
        Ok(options)
    }
}

/// The argument that makes this program the naive loop.
pub(crate) const NAIVE: &str = "--be-the-naive-loop";

/// The argument, before the path of a socket, that makes this program the API's clients.
pub(crate) const API_CLIENTS: &str = "--be-the-api-clients";
