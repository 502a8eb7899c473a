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
    pub(super) fn clamp(&self, burst: &mut Burst, frame: usize, now: Timestamp) {
        if !self.snapshot.clamps_mss() {
            return;
        }
        let Some(Verdict::Forward(forward)) = self.verdicts.get(frame) else {
            return;
        };
        let Some(lane) = self.snapshot.lane(forward.backend) else {
            return;
        };
        if self.snapshot.vip(lane.vip).mss == Mss::Keep {
            return;
        }
        let version = forward.meta.version;
        if let Some(room) = self.room(version, forward.backend, now) {
            let headers = headers_beside_mss(version);
            clamp_mss(burst.packet_mut(frame), room.saturating_sub(headers));
        }
    }
}
