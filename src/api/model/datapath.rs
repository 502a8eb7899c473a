//! The data path as the status shows it: its threads, and what is in drivers.

use serde::{Deserialize, Serialize};

use super::Counts;

/// One thread of the data path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// From 0.
    pub id: usize,
    /// In its table.
    pub flows: u64,
    /// Bursts that had packets.
    pub bursts: u64,
    /// Packets in a burst, on average since the start; absent before the first.
    pub burst_mean: Option<f64>,
    /// Since it last looked up from its work or its sleep when asked to.
    pub heartbeat_age_seconds: f64,
}

/// The XDP data path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Xdp {
    /// What it takes packets from.
    pub interfaces: Vec<XdpInterface>,
    /// Packets by how they left, or why they went on to the kernel, since the start.
    pub packets: Counts,
}

/// A device with the XDP program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct XdpInterface {
    /// Its name.
    pub name: String,
    /// "native" or "generic".
    pub mode: String,
}
