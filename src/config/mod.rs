//! A TOML file or flags become one validated [`Config`], or the list of all that is wrong.
//!
//! The way of a configuration: `section` walks the text, `file` (or `flags`) names the keys, `value`
//! and `source` read each value, and the `draft` is judged by `unsupported` and `relations`.
//! Nothing here needs privileges, opens a device or prints.

mod draft;
mod duration;
mod file;
mod flags;
mod problem;
mod relations;
mod restart;
mod section;
mod source;
mod unsupported;
mod value;

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io;
use std::num::{NonZeroU8, NonZeroUsize};
use std::path::{Path, PathBuf};

pub use duration::text as duration_text;
pub use flags::Flags;
pub use problem::Problem;
pub use restart::RestartNeeded;
pub use source::OuterSource;
pub use value::{MAX_FLOWS, MAX_WORKERS, MIN_FLOWS};

use crate::director::{FlowLimits, HashFields, HashKey, Plan, PortMatch, RingSize, VipSpec};
use crate::packet::{EncapKind, EntropyPrefix, SourceRule};
use draft::Draft;
use section::Document;

/// A configuration in which everything is possible and supported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The director itself.
    pub director: DirectorConfig,
    /// At least one VIP, each with at least one active backend.
    pub vips: Vec<VipSpec>,
}

/// `[director]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectorConfig {
    /// The name of the TUN device, 1 to 15 bytes.
    pub tun: String,
    /// TUN queues, one thread each, 1 to [`MAX_WORKERS`]; "auto" is already a number.
    pub workers: NonZeroUsize,
    /// How encapsulated packets leave.
    pub egress: Egress,
    /// The secret of the selection hash; [`HashKey::DEFAULT`] where none was set.
    pub hash_key: HashKey,
    /// Slots of each VIP's ring.
    pub ring_size: RingSize,
    /// `flows` and `[director.timeouts]`.
    pub flows: FlowLimits,
    /// The outer header.
    pub encap: EncapConfig,
}

/// How encapsulated packets leave the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Egress {
    /// The fastest way that works here.
    #[default]
    Auto,
    /// A raw IP socket.
    Raw,
    /// A packet socket where the next hop is known, else a raw IP socket.
    Packet,
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Raw => "raw",
            Self::Packet => "packet",
        })
    }
}

/// `[director.encap]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncapConfig {
    /// The tunnel of VIPs that name none; each VIP has its own in [`VipSpec::encap`].
    pub kind: EncapKind,
    /// The source address of the outer header.
    pub source: OuterSource,
    /// The TTL or hop limit of the outer header.
    pub ttl: NonZeroU8,
}

impl Default for DirectorConfig {
    fn default() -> Self {
        Self {
            tun: "tunlb0".to_owned(),
            workers: NonZeroUsize::MIN,
            egress: Egress::Auto,
            hash_key: HashKey::DEFAULT,
            ring_size: RingSize::DEFAULT,
            flows: FlowLimits::default(),
            encap: EncapConfig::default(),
        }
    }
}

impl Default for EncapConfig {
    /// TTL 64: RFC 2003 §3.1 wants enough to reach the tunnel's end, RFC 1700 recommends 64.
    fn default() -> Self {
        Self {
            kind: EncapKind::default(),
            source: OuterSource::default(),
            ttl: const { NonZeroU8::new(64).expect("not 0") },
        }
    }
}

/// Why there is no [`Config`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// All that is wrong, in the order of the file; never empty.
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<_> = problems.iter().map(Problem::to_string).collect();
    lines.join("\n")
}

/// Something that works, and that an operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// The hash key is the one in tunlb's source.
    PublicHashKey,
    /// Errors about outer packets are not addressed to the director.
    EntropySource(EntropyPrefix),
    /// A VIP of one port is hashed by the port alone, so that all its flows have one hash.
    OneHash {
        /// The VIP's name.
        vip: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PublicHashKey => f.write_str(
                "director.hash_key is the default, which is public: anyone can aim flows at one \
                 backend; set the output of `openssl rand -hex 16`, the same on all directors",
            ),
            Self::EntropySource(prefix) => write!(
                f,
                "director.encap.source {} is an entropy prefix: ICMP errors about tunnel packets \
                 go to addresses in it and not to the director, which then does not learn that a \
                 path's MTU shrank; keep the MTU on the way to backends constant",
                prefix.net()
            ),
            Self::OneHash { vip } => write!(
                f,
                "vip {vip}: hash = \"destination-port\" sends every new flow to the same backend, \
                 because the VIP has one port; use it with port = \"any\""
            ),
        }
    }
}

impl Config {
    /// Reads and validates a file.
    ///
    /// # Errors
    /// [`ConfigError`]: the file cannot be read, or something in it is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let bytes = fs::read(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let file = path.display().to_string();
        let text = std::str::from_utf8(&bytes)
            .map_err(|error| ConfigError::Invalid(vec![not_utf8(&file, &bytes, error)]))?;
        Self::parse(&file, text)
    }

    /// Validates the text of a file; `file` is its name in messages.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with everything that is wrong.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        let (document, table, syntax) = Document::parse(file, text);
        let mut problems = Vec::new();
        let draft = file::read(&document, table.get_ref(), &mut problems);
        judge(&draft, problems, syntax)
    }

    /// Validates a configuration that was given as flags.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with everything that is wrong.
    pub fn from_flags(flags: &Flags) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let draft = flags::read(flags, &mut problems);
        judge(&draft, problems, Vec::new())
    }

    /// What the packet path is built from.
    #[must_use]
    pub fn plan(&self) -> Plan<'_> {
        Plan {
            vips: &self.vips,
            hash_key: self.director.hash_key,
            ring_size: self.director.ring_size,
            flows: self.director.flows,
        }
    }

    /// What works but should be known.
    #[must_use]
    pub fn warnings(&self) -> Vec<Warning> {
        let public_key = self.director.hash_key == HashKey::DEFAULT;
        let mut warnings: Vec<_> = public_key
            .then_some(Warning::PublicHashKey)
            .into_iter()
            .collect();
        for rule in self.director.encap.source.rules() {
            if let SourceRule::Entropy(prefix) = rule {
                warnings.push(Warning::EntropySource(prefix));
            }
        }
        let one_hash = self.vips.iter().filter(|vip| has_one_hash(vip));
        warnings.extend(one_hash.map(|vip| Warning::OneHash {
            vip: vip.name.clone(),
        }));
        warnings
    }
}

fn has_one_hash(vip: &VipSpec) -> bool {
    vip.hash == HashFields::DestinationPort && vip.port != PortMatch::Any
}

fn not_utf8(file: &str, bytes: &[u8], error: std::str::Utf8Error) -> Problem {
    let before = bytes.iter().take(error.valid_up_to());
    Problem {
        file: Some(file.to_owned()),
        line: Some(before.filter(|&&byte| byte == b'\n').count() + 1),
        key: None,
        value: None,
        message: "not UTF-8".to_owned(),
        accepted: Some("TOML, which is UTF-8 text".to_owned()),
    }
}

/// Judges a draft as a whole. `problems` are those of its single values.
///
/// Where the text is not TOML, what seems to be missing may only be unreadable, so nothing is
/// called missing then; and a line has no second problem next to its syntax error.
fn judge(
    draft: &Draft,
    mut problems: Vec<Problem>,
    syntax: Vec<Problem>,
) -> Result<Config, ConfigError> {
    problems.extend(unsupported::refuse(draft));
    problems.extend(relations::check(draft));
    if syntax.is_empty() {
        // A section that is there in a wrong form is not called missing as well.
        let keys: HashSet<_> = problems.iter().map(|problem| problem.key.clone()).collect();
        let absences = relations::check_presence(draft).into_iter();
        problems.extend(absences.filter(|absence| !keys.contains(&absence.key)));
    }
    let broken: HashSet<_> = syntax.iter().map(|problem| problem.line).collect();
    problems.retain(|problem| !broken.contains(&problem.line));
    problems.extend(syntax);
    problems.sort_by_key(|problem| problem.line);
    // Backends from flags belong to every VIP, and so do their problems.
    let mut seen = HashSet::new();
    problems.retain(|problem| seen.insert(problem.to_string()));
    match draft.finish() {
        Some(config) if problems.is_empty() => Ok(config),
        Some(_) | None => Err(ConfigError::Invalid(problems)),
    }
}

#[cfg(test)]
mod tests;
