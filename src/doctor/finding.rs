//! What the doctor says: findings, each of one check, and the diagnosis that they add up to.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::facts::Role;
use super::lines::{FixLine, Snippet};

/// The version of the JSON output.
pub const SCHEMA: u32 = 1;

/// A row of the tables of failure modes: `B10` is strict rp_filter, `D35` a local VIP on a director.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code {
    /// On whose side.
    pub role: Role,
    /// 1 to 42.
    pub row: u8,
}

impl Code {
    /// A backend's row.
    #[must_use]
    pub const fn backend(row: u8) -> Self {
        Self {
            role: Role::Backend,
            row,
        }
    }

    /// A director's row.
    #[must_use]
    pub const fn director(row: u8) -> Self {
        Self {
            role: Role::Director,
            row,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.role {
            Role::Backend => 'B',
            Role::Director => 'D',
        };
        write!(f, "{side}{}", self.row)
    }
}

/// A text that is no code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no code of the doctor; --list-checks shows all")]
pub struct CodeError(pub String);

impl FromStr for Code {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        let error = || CodeError(text.to_owned());
        let role = match text.get(..1) {
            Some("B" | "b") => Role::Backend,
            Some("D" | "d") => Role::Director,
            _ => return Err(error()),
        };
        let row = text[1..].parse().map_err(|_| error())?;
        Ok(Self { role, row })
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Looked at, and right.
    Pass,
    /// Does not apply, or depends on a check that failed.
    Skip,
    /// Could not be looked at.
    Unknown,
    /// A risk, or a fault that costs some packets.
    Warn,
    /// No packet gets past.
    Fail,
}

/// What one check found. Texts are in the language that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Which row.
    pub code: Code,
    /// The failure mode in a few words.
    pub title: String,
    /// What it came to.
    pub status: Status,
    /// A packet showed it (a counter that moved, a capture), rather than the configuration alone.
    pub proven: bool,
    /// One sentence: what is so and what follows; empty where it passes.
    pub summary: String,
    /// What was looked at: names and values, such as `net.ipv4.conf.tunl0.rp_filter` and `1`.
    pub evidence: BTreeMap<String, String>,
    /// What fixes it now, in this order; in JSON lines of a shell, advice as comments.
    pub fix: Vec<FixLine>,
    /// What makes that permanent; in JSON a comment that names the file, then its lines.
    pub persist: Vec<Snippet>,
    /// A command that shows that it is fixed.
    pub verify: Option<FixLine>,
    /// The check that failed before and makes this one pointless.
    pub blocked_by: Option<Code>,
}

/// A stage of the packet's way, for the picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// `eth0`, `tunl0`, `rp_filter`, `socket`, `route`, …
    pub stage: String,
    /// What became of the packet there.
    pub state: StageState,
}

/// What becomes of a packet at a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageState {
    /// It gets past.
    Ok,
    /// It does not.
    Fail,
    /// Not known.
    Unknown,
    /// It does not get there.
    Skipped,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Of the first FAIL in packet order; else the worst of all checks.
    pub status: Status,
    /// The check that decides; none where all pass.
    pub code: Option<Code>,
    /// One line.
    pub summary: String,
}

/// All that is said of one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Whose.
    pub role: Role,
    /// The VIP it is about, as `ADDR:PORT/PROTO`.
    pub vip: Option<String>,
    /// The client that was assumed or named.
    pub client: Option<IpAddr>,
    /// The answer.
    pub verdict: Verdict,
    /// In packet order.
    pub path: Vec<Stage>,
    /// In packet order.
    pub checks: Vec<Finding>,
}
