//! What probes found of a backend, beside its health.

use serde::{Deserialize, Serialize};

use super::Cause;

/// What packets of full size found of the tunnel to a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelMtu {
    /// Bytes of the longest inner packet that is to get through.
    pub wanted: u16,
    /// Bytes of the longest that does.
    pub fits: u16,
    /// Why that is less, where nobody tells those who send packets.
    pub cause: Option<Cause>,
}
