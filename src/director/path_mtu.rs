//! What is known of the paths to backends: the MTU of route or device, and smaller ones that turned up.
//!
//! Those are learnt from [ICMP errors](super::path_error) about outer packets and from sends that the kernel refused;
//! shared by all workers, written seldom, read per packet; forgotten after ten minutes (RFC 1191 §6.3,
//! RFC 8201 §4), unless a new error renews it.

use std::net::IpAddr;
use std::num::NonZeroU32;
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

/// Per backend, an MTU that holds always and one that holds until a moment; by index, over snapshots.
#[derive(Debug)]
pub struct PathMtus {
    paths: Segments<PathMtu>,
    /// No learnt MTU holds after this moment, in nanoseconds of a [`Timestamp`].
    latest: AtomicU64,
    /// No configured MTU is or was smaller.
    least: AtomicU32,
}

#[derive(Debug, Default)]
struct PathMtu {
    /// Of the route, else of the device; 0 means that there is no route.
    configured: AtomicU32,
    learnt: AtomicU32,
    /// Nanoseconds of a [`Timestamp`]; 0 means that nothing was learnt.
    until: AtomicU64,
}

impl Default for PathMtus {
    fn default() -> Self {
        Self {
            paths: Segments::new(),
            latest: AtomicU64::new(0),
            least: AtomicU32::new(u32::MAX),
        }
    }
}

impl PathMtus {
    /// Makes room for the indices below `backends`.
    pub(super) fn reserve(&self, backends: usize) {
        self.paths.reserve(backends);
    }

    /// Another backend holds this index now.
    pub(super) fn forget(&self, backend: BackendIndex) {
        if let Some(path) = self.paths.get(backend.position()) {
            path.configured.store(0, Ordering::Relaxed);
            path.until.store(0, Ordering::Relaxed);
        }
    }

    /// The route to this backend, or the device that it leads to, takes outer packets of at most `mtu` bytes;
    /// `None`: it has no route.
    pub fn configure(&self, backend: BackendIndex, mtu: Option<NonZeroU32>) {
        if let Some(path) = self.paths.get(backend.position()) {
            let bytes = mtu.map_or(0, NonZeroU32::get);
            path.configured.store(bytes, Ordering::Relaxed);
        }
        if let Some(mtu) = mtu {
            self.least.fetch_min(mtu.get(), Ordering::Relaxed);
        }
    }

    /// What was [configured](Self::configure).
    #[must_use]
    pub fn configured(&self, backend: BackendIndex) -> Option<NonZeroU32> {
        let path = self.paths.get(backend.position())?;
        NonZeroU32::new(path.configured.load(Ordering::Relaxed))
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
        if let Some(path) = self.paths.get(backend.position()) {
            path.learnt.store(mtu, Ordering::Relaxed);
            let until = now.plus(LIFETIME).as_nanos();
            // Whoever sees the new moment sees the MTU that belongs to it.
            path.until.store(until, Ordering::Release);
            self.latest.fetch_max(until, Ordering::Release);
        }
        mtu
    }

    /// The largest outer packet for this backend in bytes; `None` where nothing is known.
    #[must_use]
    pub fn of(&self, backend: BackendIndex, now: Timestamp) -> Option<u32> {
        let path = self.paths.get(backend.position())?;
        let holds = path.until.load(Ordering::Acquire) > now.as_nanos();
        let learnt = holds.then(|| path.learnt.load(Ordering::Relaxed));
        let configured = path.configured.load(Ordering::Relaxed);
        let configured = (configured > 0).then_some(configured);
        learnt.into_iter().chain(configured).min()
    }

    /// Bytes that an outer packet may have on every path; 0 while a learnt MTU holds somewhere, as each path is
    /// to be looked at then.
    #[must_use]
    pub fn all_take(&self, now: Timestamp) -> u32 {
        let holds = self.latest.load(Ordering::Acquire) > now.as_nanos();
        if holds {
            0
        } else {
            self.least.load(Ordering::Relaxed)
        }
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
    fn what_is_configured_holds_always() {
        let mtus = one();
        mtus.configure(B, NonZeroU32::new(1500));
        assert_eq!(mtus.of(B, at(0)), Some(1500));
        assert_eq!(mtus.lower(B, 1500, at(1)), 1500);
        assert_eq!(
            mtus.lower(B, 9000, at(1)),
            1500,
            "no larger than the device"
        );
        assert_eq!(mtus.lower(B, 1400, at(1)), 1400);
        assert_eq!(mtus.of(B, at(2)), Some(1400));
        assert_eq!(mtus.of(B, at(602)), Some(1500));
        mtus.forget(B);
        assert_eq!((mtus.of(B, at(2)), mtus.configured(B)), (None, None));
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
