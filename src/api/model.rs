//! What the API says, as values that both ends share: the daemon writes them, `tunlb status` and its like read
//! them. Field for field what `docs/api.md` and `docs/openapi.yaml` describe; a change that breaks a reader
//! raises [`SCHEMA`].
//!
//! Durations are numbers with the unit in the name, times are RFC 3339 in UTC, enums lower_snake words.

mod datapath;
mod health;
mod lists;
mod packets;
mod tunnel_mtu;

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use datapath::{Worker, Xdp, XdpInterface};
pub use health::{Announce, Cause, Health, LastProbe};
pub use lists::{Backends, ConfigDifferences, Liveness, Overrides, Vips, WorkerLiveness};
pub use packets::{CaptureRequest, Captured, Flow, FlowPage};
pub use tunnel_mtu::TunnelMtu;

/// The version of these documents.
pub const SCHEMA: u32 = 1;

/// `GET /v1/status`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When it was made.
    pub at: String,
    /// Counts the changes of configuration, overrides and health; the entity tag of what can be changed.
    pub generation: u64,
    /// The director itself.
    pub director: Director,
    /// In the order of the configuration.
    pub vips: Vec<Vip>,
}

/// The director itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Director {
    /// As `tunlb --version` says it.
    pub version: String,
    /// The machine's name.
    pub host: String,
    /// Of the process.
    pub pid: u32,
    /// When it began to forward.
    pub started: String,
    /// Since then.
    pub uptime_seconds: u64,
    /// The TUN device.
    pub tun: String,
    /// One for each thread of the data path.
    pub workers: Vec<Worker>,
    /// The XDP data path; absent where packets come by the TUN alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xdp: Option<Xdp>,
    /// Where the configuration came from.
    pub config: ConfigState,
    /// What the workers forward by.
    pub snapshot: SnapshotState,
    /// Whether this director can do its work.
    pub ready: Readiness,
    /// Of all workers.
    pub flows: Flows,
    /// Packets dropped since the start, by reason; reasons that never occurred are left out.
    pub drops: Counts,
    /// Packets that the kernel refused to take, by the name of the error.
    pub send_errors: Counts,
    /// Packets that the director answered itself: echo requests, packets too big for a path.
    pub replies: u64,
    /// Packets that the kernel dropped before tunlb could read them, because the TUN's queue was full or it was down.
    pub tun_drops: u64,
    /// Packets, anybody's, that a device to the backends or its queueing discipline dropped since the start, by the
    /// device's name; those that dropped none are left out.
    pub device_drops: Counts,
}

/// Numbers by name.
pub type Counts = std::collections::BTreeMap<String, u64>;

/// Where the configuration came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigState {
    /// Absent where it came as flags.
    pub file: Option<PathBuf>,
    /// When it was applied.
    pub loaded: String,
    /// Backends with an override.
    pub overrides: usize,
    /// Absent before the first.
    pub last_reload: Option<LastReload>,
}

/// How the last reload ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastReload {
    /// When.
    pub at: String,
    /// Whether the new configuration was applied.
    pub ok: bool,
    /// Why not.
    pub problems: Vec<String>,
}

/// What the workers forward by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotState {
    /// Counts snapshots.
    pub epoch: u64,
    /// Whether every worker forwards by it.
    pub adopted: bool,
}

/// Whether the director can do its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Nothing keeps it from it.
    pub ok: bool,
    /// What does.
    pub reasons: Vec<String>,
}

/// Of all workers together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// In the tables.
    pub now: u64,
    /// `director.flows`
    pub bound: u64,
}

/// One VIP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vip {
    /// The operator's name for it.
    pub name: String,
    /// What clients address.
    pub address: IpAddr,
    /// Absent: every port.
    pub port: Option<u16>,
    /// "tcp" or "udp".
    pub protocol: String,
    /// The tunnel.
    pub encap: Encap,
    /// How flows are spread.
    pub ring: Ring,
    /// Backends that nothing measured says are down.
    pub healthy: usize,
    /// Backends that take new flows.
    pub takes_new: usize,
    /// Whether flows go to backends that are down, since none is up, or too few (`min_healthy`).
    pub fail_open: bool,
    /// What routers are to be told of its address. Absent for a moment while another configuration is being applied.
    #[serde(default)]
    pub announce: Option<Announce>,
    /// Packets for it that were dropped, by reason.
    pub drops: Counts,
    /// Of all its backends.
    pub traffic: Traffic,
    /// Over the last seconds.
    pub rates: Rates,
    /// In the order of the configuration; those that were added at run time behind them.
    pub backends: Vec<Backend>,
}

/// The tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encap {
    /// "ipip" or "gue".
    pub kind: String,
    /// Of GUE.
    pub port: Option<u16>,
}

/// How flows are spread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    /// How many slots it has.
    pub slots: u32,
    /// Eight hexadecimal digits over slots and addresses: equal on directors that choose alike. Absent while no
    /// backend takes new flows.
    pub fingerprint: Option<String>,
    /// How often it changed since the start.
    pub changes: u64,
}

/// Since the start of the director.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets that left for it.
    pub packets: u64,
    /// Their inner bytes.
    pub bytes: u64,
    /// Packets beyond `new_flows_per_second`.
    pub untracked: u64,
    /// Flows that began.
    pub new_flows: u64,
}

/// Averages over three times, each weighted by age as a load average is.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Rates {
    /// Over one second.
    pub second: Rate,
    /// Over ten.
    pub ten_seconds: Rate,
    /// Over sixty.
    pub minute: Rate,
}

/// In a second.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Rate {
    /// Packets.
    pub packets: f64,
    /// Inner bytes.
    pub bytes: f64,
    /// Flows that began.
    pub new_flows: f64,
}

/// One backend of one VIP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// The name of its VIP.
    pub vip: String,
    /// The tunnel's far end.
    pub address: IpAddr,
    /// Its share of new flows, relative to the others.
    pub weight: Layered<u16>,
    /// What the operator wants of it: "active", "draining" or "disabled".
    pub state: Layered<String>,
    /// What was measured.
    pub health: Health,
    /// Which flows it takes: "new", "known" or "nothing".
    pub takes: String,
    /// Why not all.
    pub why: Option<String>,
    /// Of the VIP's new flows.
    pub share_percent: f64,
    /// In the tables.
    pub flows: u64,
    /// Since the start.
    pub traffic: Traffic,
    /// Over the last seconds.
    pub rates: Rates,
    /// The way to it.
    pub path: Path,
    /// What an operator changed at run time.
    #[serde(rename = "override")]
    pub overridden: Option<Override>,
}

/// A key of the file that can be overridden.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layered<T> {
    /// By the file; absent for a backend that is not in it.
    pub configured: Option<T>,
    /// By an operator.
    #[serde(rename = "override")]
    pub overridden: Option<T>,
    /// Which of them holds.
    pub effective: T,
}

/// The way to a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path {
    /// Absent while there is no route.
    pub device: Option<String>,
    /// In bytes, for outer packets: what was learnt, else what the route or the device has.
    pub mtu: Option<u32>,
    /// Absent where the kernel chooses it.
    pub outer_source: Option<IpAddr>,
}

/// What an operator changed of a backend at run time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// The name of its VIP.
    pub vip: String,
    /// The backend.
    pub address: IpAddr,
    /// What it sets.
    #[serde(flatten)]
    pub set: OverrideKeys,
    /// When it was made.
    pub made: String,
    /// When it ends by itself; absent: never.
    pub expires: Option<String>,
    /// Until then.
    pub expires_in_seconds: Option<u64>,
    /// Who made it.
    pub by: Author,
    /// In the operator's words.
    pub reason: Option<String>,
}

/// The keys that an override can set; what is absent is the file's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OverrideKeys {
    /// Of a backend that is not in the file: true. Of one that is, and is to be gone: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
    /// 0 to 65535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// "active", "draining" or "disabled".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// "up" or "down".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
}

/// Who made a change, as the socket says it (SO_PEERCRED, unix(7)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// Of the process.
    pub uid: u32,
    /// Where the machine knows it.
    pub user: Option<String>,
    /// Of the process.
    pub pid: Option<u32>,
}

/// `PATCH /v1/backends` (RFC 7396), and `POST`: an absent key stays, null goes back to the file's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendPatch {
    /// 0 to 65535.
    #[serde(
        default,
        with = "absent_or_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub weight: Option<Option<u16>>,
    /// "active", "draining" or "disabled".
    #[serde(
        default,
        with = "absent_or_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub state: Option<Option<String>>,
    /// "up" or "down"; it always expires.
    #[serde(
        default,
        with = "absent_or_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub health: Option<Option<String>>,
    /// After that the file holds again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_seconds: Option<u64>,
    /// In the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a reload did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Whether nothing was changed because nothing was to be.
    pub dry_run: bool,
    /// Of the state after it.
    pub generation: u64,
    /// One line for each key.
    pub changes: Vec<String>,
    /// Overrides that the file took the place of.
    pub overrides_ended: Vec<String>,
}

/// One line of `GET /v1/events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts events, without a gap.
    pub id: u64,
    /// When.
    pub at: String,
    /// What happened: a word of `docs/api.md`.
    pub kind: String,
    /// Where it is about one.
    pub vip: Option<String>,
    /// Where it is about one.
    pub backend: Option<IpAddr>,
    /// In a sentence.
    pub text: String,
    /// Rows of `docs/doctor.md` that may tell why.
    pub codes: Vec<String>,
    /// Where an operator caused it.
    pub by: Option<Author>,
}

/// An error (RFC 9457, `application/problem+json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The kind of error, in a few words.
    pub title: String,
    /// What is wrong, and what is accepted.
    pub detail: String,
    /// The field or parameter, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// One for each fault of a configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// Tells a key that is absent from one that is null.
mod absent_or_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<Option<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value
            .as_ref()
            .and_then(Option::as_ref)
            .serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        Option::deserialize(deserializer).map(Some)
    }
}
