//! What was measured of backends, and what routers are to be told.

use serde::{Deserialize, Serialize};

use super::TunnelMtu;

/// What routers are to be told of a VIP's address, as the best of the VIPs with that address has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announce {
    /// "up", "drain" or "down".
    pub state: String,
    /// Since when.
    pub since: String,
    /// Why it is not up.
    pub why: Option<String>,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Health {
    /// "unchecked" (taken for healthy), "trial" (so far no result), "healthy", "unhealthy", or "unknown": for too long
    /// no probe proved anything, and what was last known holds.
    pub status: String,
    /// When it became so; absent where nothing is measured.
    #[serde(default)]
    pub since: Option<String>,
    /// How often flows had to go another way.
    #[serde(default)]
    pub changes: u64,
    /// What the last probe found.
    #[serde(default)]
    pub result: Option<String>,
    /// Verdicts like the last one in a row.
    #[serde(default)]
    pub streak: u32,
    /// The last probe.
    #[serde(default)]
    pub last: Option<LastProbe>,
    /// Why it fails, as far as that is known.
    #[serde(default)]
    pub cause: Option<Cause>,
    /// What packets of full size found, where they are sent.
    #[serde(default)]
    pub mtu: Option<TunnelMtu>,
    /// Until when it is held down, because it changed too often.
    #[serde(default)]
    pub damped_until: Option<String>,
    /// When the certificate that it showed last expires; of checks of the kind "https".
    #[serde(default)]
    pub certificate_expires: Option<String>,
    /// By which way it is probed: "tunnel" or "direct"; absent where nothing is measured.
    #[serde(default)]
    pub via: Option<String>,
    /// While it is starting (`slow_start`): the part of its weight that it takes.
    #[serde(default)]
    pub slow_start_percent: Option<u8>,
    /// By an operator: "up" or "down".
    #[serde(rename = "override")]
    pub overridden: Option<String>,
}

/// A probe that ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastProbe {
    /// When.
    pub at: String,
    /// How long it took.
    pub seconds: f64,
}

/// Why a backend fails its probes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// In a sentence.
    pub text: String,
    /// Rows of `docs/doctor.md`.
    pub codes: Vec<String>,
}
