//! A TOML file or flags become one validated [`Config`], or the list of all that is wrong.
//!
//! The way of a configuration: `load` reads the file, `syntax` bounds it, `section` walks the text, `file`
//! (or `flags`) names the keys, `value` and `source` read each value, and the `draft` is judged by
//! `unsupported` and `relations`.
//! Nothing here needs privileges, opens a device or prints.

mod datapath;
mod difference;
mod draft;
mod duration;
mod file;
mod flags;
mod health;
mod listen;
mod load;
mod neighbour;
mod problem;
mod problems;
mod relations;
mod restart;
mod section;
mod source;
mod syntax;
mod unsupported;
mod value;
mod workers;

use std::fmt;
use std::num::{NonZeroU8, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

pub use datapath::{Datapath, Interfaces, XdpMode};
pub use difference::{Difference, DifferenceKind, Subject};
pub use duration::{parse as parse_duration, text as duration_text};
pub use flags::Flags;
pub use listen::{
    ApiSocket, Compat, Group, MAX_BACKENDS_WITH_METRICS, MetricsConfig, MetricsListener,
};
pub use load::{MAX_FILE_BYTES, STDIN, Unreadable};
pub use neighbour::Neighbour;
pub use problem::Problem;
pub use problems::{KEPT, Problems};
pub use restart::RestartNeeded;
pub use source::OuterSource;
pub use value::unusable_address;
pub use value::{DEFAULT_WEIGHT, MAX_FLOWS, MAX_WORKERS, MIN_FLOWS};
pub use workers::{Cpus, MAX_QUEUE_LENGTH, MIN_QUEUE_LENGTH, busy_poll_text};

use crate::director::{FlowLimits, HashFields, HashKey, Plan, PortMatch, RingSize, VipSpec};
use crate::packet::{EncapKind, EntropyPrefix, SourceRule};
use crate::probe::{ProbedBy, Via};
use crate::text::{Plain, shell};
use draft::Draft;
use problems::Collector;
use section::Document;

/// A configuration in which everything is possible and supported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The director itself.
    pub director: DirectorConfig,
    /// At least one VIP, each with at least one active backend.
    pub vips: Vec<VipSpec>,
    /// What its metrics hold.
    pub metrics: MetricsConfig,
    /// The file that it was read from, where that has a hash key and others of this host may read it.
    pub exposed: Option<Exposed>,
}

/// A file with a secret that others may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposed {
    /// The file.
    pub path: PathBuf,
    /// Its permission bits.
    pub mode: u32,
}

/// `[director]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectorConfig {
    /// The name of the TUN device, 1 to 15 bytes.
    pub tun: String,
    /// TUN queues, one thread each, 1 to [`MAX_WORKERS`]; "auto" is already a number.
    pub workers: NonZeroUsize,
    /// The CPU of each worker, as many as workers; none: the scheduler chooses.
    pub cpus: Cpus,
    /// How long a worker polls the TUN after a packet before it sleeps, at most 10 ms; zero: not at all.
    pub busy_poll: Duration,
    /// Packets that each queue of the TUN holds, [`MIN_QUEUE_LENGTH`] to [`MAX_QUEUE_LENGTH`].
    pub queue_length: u32,
    /// Where packets for VIPs are taken from.
    pub datapath: Datapath,
    /// The devices that programs are on; none with [`Datapath::Tun`], else at least one.
    pub interfaces: Interfaces,
    /// Where programs on the interfaces run.
    pub xdp_mode: XdpMode,
    /// How encapsulated packets leave.
    pub egress: Egress,
    /// For which VIPs of its own subnets it answers ARP and neighbour discovery.
    pub neighbour: Neighbour,
    /// The unix socket by which it is watched and changed.
    pub api: ApiSocket,
    /// The group that owns the socket; `None`: that of the process.
    pub api_group: Option<Group>,
    /// Where metrics are served by TCP.
    pub metrics: MetricsListener,
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
    /// An AF_XDP socket where the next hop is known and it works there, else as [`Packet`](Self::Packet).
    Xsk,
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Raw => "raw",
            Self::Packet => "packet",
            Self::Xsk => "xsk",
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
            cpus: Cpus::default(),
            busy_poll: Duration::ZERO,
            queue_length: workers::DEFAULT_QUEUE_LENGTH,
            datapath: Datapath::default(),
            interfaces: Interfaces::default(),
            xdp_mode: XdpMode::default(),
            egress: Egress::Auto,
            neighbour: Neighbour::Auto,
            api: ApiSocket::default(),
            api_group: None,
            metrics: MetricsListener::default(),
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
    #[error("cannot read {}: {why}", Plain(path.to_string_lossy()))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        why: Unreadable,
    },
    /// What is wrong, in the order of the file.
    #[error("{0}")]
    Invalid(Problems),
}

/// Something that works, and that an operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// The hash key is the one in tunlb's source.
    PublicHashKey,
    /// The hash key is an example or a simple pattern.
    GuessableHashKey,
    /// Errors about outer packets are not addressed to the director.
    EntropySource(EntropyPrefix),
    /// A VIP of one port is hashed by the port alone, so that all its flows have one hash.
    OneHash {
        /// The VIP's name.
        vip: String,
    },
    /// Probes do not go the way of clients' packets.
    DirectProbes {
        /// The VIP's name.
        vip: String,
    },
    /// Metrics tell nothing of single backends, as there are too many.
    NoBackendMetrics {
        /// How many there are.
        backends: usize,
    },
    /// Others may read the hash key.
    ExposedHashKey(Exposed),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PublicHashKey => f.write_str(
                "director.hash_key is the default, which is public: anyone can aim flows at one \
                 backend; set the output of `openssl rand -hex 16`, the same on all directors",
            ),
            Self::GuessableHashKey => f.write_str(
                "director.hash_key is an example or a simple pattern, which anyone can guess and \
                 then aim flows at one backend; set the output of `openssl rand -hex 16`, the same \
                 on all directors",
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
            Self::DirectProbes { vip } => write!(
                f,
                "vip {vip}: health.via = \"direct\": probes go to the backends' own addresses and pass while \
                 the tunnel, the VIP or the way back to clients is dead [D40]"
            ),
            Self::NoBackendMetrics { backends } => write!(
                f,
                "{backends} backends: above {MAX_BACKENDS_WITH_METRICS} each one has metrics of its own only \
                 with metrics.per_backend = true; per_backend = false turns this warning off"
            ),
            Self::ExposedHashKey(Exposed { path, mode }) => {
                let path = path.to_string_lossy();
                write!(
                    f,
                    "{} holds hash_key and has mode {mode:04o}: other users of this host may read \
                     the key and aim flows at one backend; {}",
                    Plain(&path),
                    shell::line(&["chmod", "600", &path])
                )
            }
        }
    }
}

impl Config {
    /// Validates the text of a file; `file` is its name in messages.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with everything that is wrong.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        let mut problems = Collector::default();
        let (document, table) = Document::parse(file, text, &mut problems);
        let draft = file::read(&document, table.get_ref(), &mut problems);
        judge(&draft, problems, document.absences())
    }

    /// Validates a configuration that was given as flags.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with everything that is wrong.
    pub fn from_flags(flags: &Flags) -> Result<Self, ConfigError> {
        let mut problems = Collector::default();
        let draft = flags::read(flags, &mut problems);
        judge(&draft, problems, Absences::Told)
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
        let mut warnings: Vec<_> = key_warning(self.director.hash_key).into_iter().collect();
        for rule in self.director.encap.source.rules() {
            if let SourceRule::Entropy(prefix) = rule {
                warnings.push(Warning::EntropySource(prefix));
            }
        }
        let one_hash = self.vips.iter().filter(|vip| has_one_hash(vip));
        warnings.extend(one_hash.map(|vip| Warning::OneHash {
            vip: vip.name.clone(),
        }));
        let direct = self.vips.iter().filter(|vip| is_probed_directly(vip));
        warnings.extend(direct.map(|vip| Warning::DirectProbes {
            vip: vip.name.clone(),
        }));
        if self.director.metrics.0.is_some() && self.metrics.per_backend.is_none() {
            let backends = self.backends();
            let too_many = !self.has_backend_metrics();
            warnings.extend(too_many.then_some(Warning::NoBackendMetrics { backends }));
        }
        warnings.extend(self.exposed.clone().map(Warning::ExposedHashKey));
        warnings
    }
}

impl Config {
    /// Whether each backend has metrics of its own.
    #[must_use]
    pub fn has_backend_metrics(&self) -> bool {
        let few = || self.backends() <= MAX_BACKENDS_WITH_METRICS;
        self.metrics.per_backend.unwrap_or_else(few)
    }

    /// How many backends all VIPs have together.
    fn backends(&self) -> usize {
        self.vips.iter().map(|vip| vip.backends.len()).sum()
    }
}

fn is_probed_directly(vip: &VipSpec) -> bool {
    let by = vip.probing.as_ref().map(|probing| &probing.by);
    matches!(by, Some(ProbedBy::Check(check)) if check.via == Via::Direct)
}

fn key_warning(key: HashKey) -> Option<Warning> {
    if key == HashKey::DEFAULT {
        return Some(Warning::PublicHashKey);
    }
    key.is_guessable().then_some(Warning::GuessableHashKey)
}

fn has_one_hash(vip: &VipSpec) -> bool {
    vip.hash == HashFields::DestinationPort && vip.port != PortMatch::Any
}

/// Whether what a text lacks is a problem. Where it is not all TOML, what seems to be missing may only
/// be unreadable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absences {
    Told,
    Ignored,
}

/// Judges a draft as a whole. `problems` are those of its single values.
fn judge(
    draft: &Draft,
    mut problems: Collector,
    absences: Absences,
) -> Result<Config, ConfigError> {
    unsupported::refuse(draft, &mut problems);
    relations::check(draft, &mut problems);
    if absences == Absences::Told {
        relations::check_presence(draft, &mut problems);
    }
    match draft.finish() {
        Some(config) if problems.is_empty() => Ok(config),
        Some(_) | None => Err(ConfigError::Invalid(problems.finish())),
    }
}

#[cfg(test)]
mod tests;
