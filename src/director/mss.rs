//! `mss = "clamp"`: lowers the MSS of clients' SYNs to what fits the path to their backend.
//!
//! What a client announces limits what the *backend* sends, and that goes past the director. So the clamp is of
//! use where the backend's answers take a path as narrow as the tunnel's, on which ICMP errors are lost. What
//! the client sends is limited by the backend's own MSS, which does not pass here: `tunlb decap --setup`
//! lowers that.

use super::{Director, Mss, Timestamp, Verdict};
use crate::packet::{Burst, clamp_mss, headers_beside_mss};

impl Director {
    /// Lowers the MSS of a SYN that is to leave, where its VIP wants that.
    pub(super) fn clamp(&self, verdict: &Verdict, burst: &mut Burst, frame: usize, now: Timestamp) {
        let Verdict::Forward(forward) = verdict else {
            return;
        };
        let Some(backend) = self.snapshot.backend(forward.backend) else {
            return;
        };
        if self.snapshot.vip(backend.vip).mss == Mss::Keep {
            return;
        }
        if let Some(room) = self.room(forward.meta, forward.backend, now) {
            let headers = headers_beside_mss(forward.meta.version);
            clamp_mss(burst.packet_mut(frame), room.saturating_sub(headers));
        }
    }
}
