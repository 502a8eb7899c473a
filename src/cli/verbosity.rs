//! `--verbose` of the commands that log.

use log::LevelFilter;

/// How much a command logs.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Verbosity {
    /// Log more: -v what is decided about routes and devices, -vv each dropped packet too; has precedence
    /// over RUST_LOG
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

impl Verbosity {
    /// The level that was asked for; nothing where RUST_LOG or the default decides.
    pub(super) const fn level(self) -> Option<LevelFilter> {
        match self.verbose {
            0 => None,
            1 => Some(LevelFilter::Debug),
            _ => Some(LevelFilter::Trace),
        }
    }
}
