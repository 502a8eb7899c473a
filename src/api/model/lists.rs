//! Parts of the status by themselves, and short answers about the whole.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Backend, Override, Vip};

/// `GET /v1/vips`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vips {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// As of [`Status`](super::Status).
    pub generation: u64,
    /// In the order of the configuration.
    pub vips: Vec<Vip>,
}

/// `GET /v1/backends`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backends {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// As of [`Status`](super::Status).
    pub generation: u64,
    /// In the order of VIPs, and in that of each VIP.
    pub backends: Vec<Backend>,
}

/// `GET /v1/overrides`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overrides {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// As of [`Status`](super::Status).
    pub generation: u64,
    /// In the order of VIPs' names and of addresses.
    pub overrides: Vec<Override>,
}

/// `GET /v1/config`: what runs, against what the file said when it was read last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigDifferences {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// As of [`Status`](super::Status).
    pub generation: u64,
    /// Absent where the configuration came as flags.
    pub file: Option<PathBuf>,
    /// One line for each key that runs otherwise than the file says.
    pub differences: Vec<String>,
}

/// `GET /healthz`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Liveness {
    /// Every worker looked up within a second.
    pub ok: bool,
    /// One for each thread of the data path.
    pub workers: Vec<WorkerLiveness>,
}

/// Whether one worker turns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerLiveness {
    /// From 0.
    pub id: usize,
    /// It looked up when it was woken.
    pub ok: bool,
    /// Since it did last.
    pub heartbeat_age_seconds: f64,
}
