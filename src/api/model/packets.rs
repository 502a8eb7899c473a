//! The documents of flows and captures.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One flow of `GET /v1/flows`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// "tcp" or "udp".
    pub protocol: String,
    /// The client.
    pub source: std::net::SocketAddr,
    /// What it addresses.
    pub destination: std::net::SocketAddr,
    /// The name of its VIP.
    pub vip: String,
    /// Where its packets go.
    pub backend: IpAddr,
    /// Of TCP: what the client's side shows; "udp" for UDP.
    pub state: String,
    /// Since its last packet.
    pub idle_seconds: f64,
    /// The worker that remembers it.
    pub worker: usize,
}

/// `GET /v1/flows`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowPage {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// At most as many as were asked for.
    pub flows: Vec<Flow>,
    /// For the next request; absent at the end.
    pub next_cursor: Option<String>,
}

/// `POST /v1/capture`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureRequest {
    /// An absolute path where nothing is yet; the director creates it, by its own rights.
    pub file: PathBuf,
    /// Terms as of `tunlb run --capture-filter`; none: every packet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filter: Vec<String>,
    /// The most that it may grow to; absent: 64 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
}

/// `DELETE /v1/capture`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// Where the packets are, and how many.
    pub text: String,
}
