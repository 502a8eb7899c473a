//! A build without programs for drivers: all packets come by the TUN.

#[path = "share.rs"]
mod share;

use anyhow::Result;

use crate::config::DirectorConfig;
use crate::director::Snapshot;
pub(super) use share::Share;

/// None.
#[derive(Debug, Clone)]
pub(super) struct Redirects;

impl Redirects {
    /// As many empty shares as there are workers.
    #[allow(clippy::unnecessary_wraps, reason = "as with the feature xdp")]
    pub(super) fn open(director: &DirectorConfig) -> Result<(Self, Vec<Share>)> {
        let workers = 0..director.workers.get();
        Ok((Self, workers.map(|_| Share::default()).collect()))
    }

    #[allow(
        clippy::unnecessary_wraps,
        clippy::unused_self,
        reason = "as with the feature xdp"
    )]
    pub(super) fn begin(&self, _: &DirectorConfig, _: &Snapshot) -> Result<()> {
        Ok(())
    }

    #[allow(clippy::unused_self, reason = "as with the feature xdp")]
    pub(super) fn follow(&self, _: &Snapshot) {}

    #[allow(clippy::unused_self, reason = "as with the feature xdp")]
    pub(super) fn end(&self) {}
}
