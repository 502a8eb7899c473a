//! What is known of the paths to backends: MTUs that turned out smaller than the device's.
//!
//! Learnt from ICMP errors about outer packets and from sends that the kernel refused; shared by all
//! workers, written seldom, read per packet. Forgotten after ten minutes (RFC 1191 §6.3, RFC 8201 §4).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::segments::Segments;
use super::snapshot::BackendIndex;
use super::time::Timestamp;

/// How long a lowered MTU holds before the larger one is tried again.
const LIFETIME: Duration = Duration::from_secs(600);

/// No path is believed to be smaller: IPv4 must carry a tunnelled datagram of the 576 bytes that
/// every host accepts (RFC 791 §3.1), so a forged error cannot grind a path down to nothing.
const SMALLEST: u32 = 576 + 20;

/// Per backend, an MTU that holds until a moment; by index, over snapshots.
#[derive(Debug)]
pub struct PathMtus(Segments<Learnt>);

#[derive(Debug, Default)]
struct Learnt {
    mtu: AtomicU32,
    /// Nanoseconds of a [`Timestamp`]; 0 means that nothing was learnt.
    until: AtomicU64,
}

impl Default for PathMtus {
    fn default() -> Self {
        Self(Segments::new())
    }
}

impl PathMtus {
    /// Makes room for the indices below `backends`.
    pub(super) fn reserve(&self, backends: usize) {
        self.0.reserve(backends);
    }

    /// Another backend holds this index now.
    pub(super) fn forget(&self, backend: BackendIndex) {
        if let Some(learnt) = self.0.get(backend.position()) {
            learnt.until.store(0, Ordering::Relaxed);
        }
    }

    /// An outer packet to this backend may have at most `mtu` bytes, from now on for ten minutes.
    /// A larger value than the one that holds is ignored; a smaller one than makes sense is raised.
    /// Returns the value that holds now.
    pub fn lower(&self, backend: BackendIndex, mtu: u32, now: Timestamp) -> u32 {
        let mtu = mtu.max(SMALLEST);
        if let Some(known) = self.of(backend, now)
            && known < mtu
        {
            return known;
        }
        if let Some(learnt) = self.0.get(backend.position()) {
            learnt.mtu.store(mtu, Ordering::Relaxed);
            let until = now.plus(LIFETIME).as_nanos();
            // Whoever sees the new moment sees the MTU that belongs to it.
            learnt.until.store(until, Ordering::Release);
        }
        mtu
    }

    /// The largest outer packet for this backend in bytes, where less than its device's MTU.
    #[must_use]
    pub fn of(&self, backend: BackendIndex, now: Timestamp) -> Option<u32> {
        let learnt = self.0.get(backend.position())?;
        let holds = learnt.until.load(Ordering::Acquire) > now.as_nanos();
        holds.then(|| learnt.mtu.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: BackendIndex = BackendIndex::new(0);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::after(Duration::from_secs(seconds))
    }

    fn one() -> PathMtus {
        let mtus = PathMtus::default();
        mtus.reserve(1);
        mtus
    }

    #[test]
    fn lowered_then_forgotten() {
        let mtus = one();
        assert_eq!(mtus.of(B, at(0)), None);
        assert_eq!(mtus.lower(B, 1400, at(1)), 1400);
        assert_eq!(
            mtus.lower(B, 1450, at(2)),
            1400,
            "not raised by a later error"
        );
        assert_eq!(mtus.of(B, at(600)), Some(1400));
        assert_eq!(mtus.of(B, at(601)), None);
        assert_eq!(mtus.lower(B, 1450, at(700)), 1450);
    }

    #[test]
    fn a_forged_error_has_a_floor() {
        assert_eq!(one().lower(B, 68, at(0)), 596);
    }
}
