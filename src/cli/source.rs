//! Where a command gets its configuration: a file, or flags for a single service.

use std::path::PathBuf;

use super::complain;
use crate::config::{self, Config, ConfigError, Flags, Problems};
use crate::text::count;

/// The group of arguments of which one has to be there.
pub(super) const SOURCE: &str = "source";

/// `-c FILE`, or `--vip` and `--backend`.
#[derive(Debug, Clone, clap::Args)]
#[command(group(clap::ArgGroup::new(SOURCE).required(true).multiple(true).args(["config", "vip"])))]
pub struct ConfigSource {
    /// Configuration file (docs/config.md names every key); - is standard input
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Without a file: what clients address, such as 10.0.0.100:80/tcp; may be repeated
    #[arg(
        long,
        value_name = "ADDR:PORT/PROTO",
        conflicts_with = "config",
        requires = "backend"
    )]
    pub vip: Vec<String>,

    /// Without a file: a backend, such as 10.0.1.12 or 10.0.1.12,weight=2; may be repeated
    #[arg(
        long,
        value_name = "ADDR[,weight=N][,state=STATE]",
        conflicts_with = "config"
    )]
    pub backend: Vec<String>,

    /// Without a file: name of the TUN device [default: tunlb0]
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub tun: Option<String>,

    /// Without a file: TUN queues, one thread each [default: 1]
    #[arg(long, value_name = "N|auto", conflicts_with = "config")]
    pub workers: Option<String>,

    /// Without a file: the tunnel to the backends [default: ipip]
    #[arg(long, value_name = "ipip|gue[:PORT]", conflicts_with = "config")]
    pub encap: Option<String>,
}

impl ConfigSource {
    /// The configuration that the command line asks for.
    ///
    /// # Errors
    /// [`ConfigError`]: the file cannot be read, or something is wrong in it or in the flags.
    pub fn load(&self) -> Result<Config, ConfigError> {
        match &self.config {
            Some(path) => Config::load(path),
            None => Config::from_flags(&self.flags()),
        }
    }

    /// Like [`load`](Self::load) for a source that was read before: only a regular file can have changed.
    ///
    /// # Errors
    /// As of [`load`](Self::load), and where the source cannot be read again.
    pub fn load_again(&self) -> Result<Config, ConfigError> {
        match &self.config {
            Some(path) => Config::load_again(path),
            None => Config::from_flags(&self.flags()),
        }
    }

    /// Whether the configuration takes up standard input.
    pub(super) fn is_stdin(&self) -> bool {
        let path = self.config.as_deref();
        path.is_some_and(|path| path == config::STDIN)
    }

    fn flags(&self) -> Flags {
        Flags {
            vips: self.vip.clone(),
            backends: self.backend.clone(),
            tun: self.tun.clone(),
            workers: self.workers.clone(),
            encap: self.encap.clone(),
        }
    }

    /// The configuration that the command line asks for; `None` where it is invalid, once every
    /// problem is printed, and what this comes to.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn load_or_complain(
        &self,
        consequence: Option<&str>,
    ) -> anyhow::Result<Option<Config>> {
        match self.load() {
            Ok(config) => Ok(Some(config)),
            Err(ConfigError::Invalid(problems)) => {
                complain_about(&problems, consequence);
                Ok(None)
            }
            Err(error @ ConfigError::Read { .. }) => Err(error.into()),
        }
    }
}

/// Prints the first problems to stderr, one a line, how many there were, and what this comes to.
pub(super) fn complain_about(problems: &Problems, consequence: Option<&str>) {
    problems.to_string().lines().for_each(complain);
    let found = count(problems.total(), "problem");
    let consequence = consequence.map(|text| format!("; {text}"));
    complain(&format!(
        "tunlb: {found} in the configuration{}",
        consequence.unwrap_or_default()
    ));
}
