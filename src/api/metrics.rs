//! `GET /metrics`: what Prometheus reads.

use crate::control::Handle;

/// Of the text format (version 0.0.4).
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The metrics of a running director.
#[must_use]
pub fn encode(handle: &Handle) -> String {
    let view = handle.view();
    format!(
        "# HELP tunlb_snapshot_epoch Snapshots since the start.\n\
         # TYPE tunlb_snapshot_epoch gauge\n\
         tunlb_snapshot_epoch {}\n",
        view.snapshot.epoch()
    )
}
