//! What is known of the paths to backends: MTUs that turned out smaller than the device's.
//!
//! Learnt from [ICMP errors](super::path_error) about outer packets and from sends that the kernel refused;
//! shared by all workers, written seldom, read per packet. Forgotten after ten minutes (RFC 1191 §6.3,
//! RFC 8201 §4), unless a new error renews it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::indices::BackendIndex;
use super::segments::Segments;
use super::time::Timestamp;

/// How long a lowered MTU holds before the larger one is tried again.
const LIFETIME: Duration = Duration::from_secs(600);

/// No IPv4 path is believed to be smaller, so a forged error cannot grind one down to nothing. As Linux
/// (`net.ipv4.route.min_pmtu`): room for 512 bytes of data, and below the 576 that every host accepts (RFC 791
/// §3.1), which is the MTU of some links.
const SMALLEST_IPV4: u32 = 552;

/// RFC 8200 §5.
const SMALLEST_IPV6: u32 = 1280;

/// Per backend, an MTU that holds until a moment; by index, over snapshots.
#[derive(Debug)]
pub struct PathMtus {
    learnt: Segments<Learnt>,
    /// No MTU holds after this moment, in nanoseconds of a [`Timestamp`]: where none does, which is the rule,
    /// a packet reads this alone.
    latest: AtomicU64,
}

#[derive(Debug, Default)]
struct Learnt {
    mtu: AtomicU32,
    /// Nanoseconds of a [`Timestamp`]; 0 means that nothing was learnt.
    until: AtomicU64,
}

impl Default for PathMtus {
    fn default() -> Self {
        Self {
            learnt: Segments::new(),
            latest: AtomicU64::new(0),
        }
    }
}

impl PathMtus {
    /// Makes room for the indices below `backends`.
    pub(super) fn reserve(&self, backends: usize) {
        self.learnt.reserve(backends);
    }

    /// Another backend holds this index now.
    pub(super) fn forget(&self, backend: BackendIndex) {
        if let Some(learnt) = self.learnt.get(backend.position()) {
            learnt.until.store(0, Ordering::Relaxed);
        }
    }

    /// The MTU that is believed of an ICMP error about a packet to `backend`: what makes no sense is raised.
    #[must_use]
    pub fn believable(backend: IpAddr, mtu: u32) -> u32 {
        match backend {
            IpAddr::V4(_) => mtu.max(SMALLEST_IPV4),
            IpAddr::V6(_) => mtu.max(SMALLEST_IPV6),
        }
    }

    /// An outer packet to this backend may have at most `mtu` bytes, from now on for ten minutes.
    /// A larger value than the one that holds is ignored. Returns the value that holds now.
    pub fn lower(&self, backend: BackendIndex, mtu: u32, now: Timestamp) -> u32 {
        if let Some(known) = self.of(backend, now)
            && known < mtu
        {
            return known;
        }
        if let Some(learnt) = self.learnt.get(backend.position()) {
            learnt.mtu.store(mtu, Ordering::Relaxed);
            let until = now.plus(LIFETIME).as_nanos();
            // Whoever sees the new moment sees the MTU that belongs to it.
            learnt.until.store(until, Ordering::Release);
            self.latest.fetch_max(until, Ordering::Release);
        }
        mtu
    }

    /// The largest outer packet for this backend in bytes, where less than its device's MTU.
    #[must_use]
    pub fn of(&self, backend: BackendIndex, now: Timestamp) -> Option<u32> {
        if self.latest.load(Ordering::Acquire) <= now.as_nanos() {
            return None;
        }
        let learnt = self.learnt.get(backend.position())?;
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
        let backends: [IpAddr; 2] = [[10, 0, 1, 11].into(), [0xfd; 16].into()];
        for (mtu, believed) in [(68, [552, 1280]), (576, [576, 1280]), (1400, [1400, 1400])] {
            let found = backends.map(|backend| PathMtus::believable(backend, mtu));
            assert_eq!(found, believed, "{mtu}");
        }
    }
}
