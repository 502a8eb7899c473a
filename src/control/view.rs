//! What others see of a running director: published whole after each change, read without waiting for control.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::announce::{Announced, Announcements};
use super::build_times::BuildTimes;
use super::driver::DriverWatch;
use super::health::{Measured, measured_by};
use super::overlay::Overlay;
use super::slow_start::SlowStarts;
use super::workers::WorkerLink;
use crate::config::Config;
use crate::director::{CounterReader, Health, Snapshot, VipSpec};
use crate::health::{Gauge, Gauges};
use crate::probe::Target;
use crate::site::Paths;

/// What stays the same as long as the process runs.
#[derive(Debug)]
pub struct Identity {
    /// When it began to forward.
    pub started: SystemTime,
    /// The file of the configuration; `None` where it came as flags.
    pub file: Option<PathBuf>,
    /// The TUN device.
    pub tun: String,
    /// One for each thread of the data path.
    pub workers: Vec<WorkerLink>,
    /// The data path in drivers, where there is one.
    pub driver: Option<Arc<dyn DriverWatch>>,
}

/// The state of a director after its last change.
#[derive(Debug, Clone)]
pub struct View {
    /// Counts the changes of configuration, overrides and health, from 1.
    pub generation: u64,
    /// As the file says, or the flags.
    pub config: Arc<Config>,
    /// With what operators changed since.
    pub effective: Arc<Config>,
    /// What they changed.
    pub overlay: Arc<Overlay>,
    /// The ways to backends.
    pub paths: Arc<Paths>,
    /// What the workers forward by.
    pub snapshot: Arc<Snapshot>,
    /// What probes found, as far as packets go by it.
    pub measured: Arc<Measured>,
    /// The backends that take a part of their weight yet.
    pub slow_starts: Arc<SlowStarts>,
    /// What is measured of the backends that are probed, while it is measured.
    pub gauges: Arc<Gauges>,
    /// What they count, by the indices of that snapshot.
    pub counters: CounterReader,
    /// When the configuration was applied.
    pub loaded: SystemTime,
    /// How the last reload ended; `None` before the first.
    pub last_reload: Option<LastReload>,
    /// What keeps the director from its work now.
    pub problems: Arc<[HostProblem]>,
    /// What routers are to be told of the VIPs' addresses.
    pub announced: Arc<Announcements>,
    /// How long snapshots took to build, but for the first.
    pub builds: Arc<BuildTimes>,
}

impl View {
    /// What a backend counts as: what an operator says, else what was measured.
    #[must_use]
    pub fn health(&self, vip: &VipSpec, address: IpAddr) -> Health {
        super::health::effective(
            &self.overlay,
            &self.measured,
            &self.slow_starts,
            (vip, address),
        )
    }

    /// What routers are to be told of a VIP's address.
    #[must_use]
    pub fn announced(&self, vip: IpAddr) -> Option<&Announced> {
        self.announced.get(&vip)
    }

    /// What is measured of a backend of a VIP; `None` where nothing is.
    #[must_use]
    pub fn gauge(&self, vip: &VipSpec, address: IpAddr) -> Option<&Arc<Gauge>> {
        let name = measured_by(vip, vip.probing.as_ref()?);
        self.gauges.of(&Target {
            vip: name.into(),
            address,
        })
    }
}

/// How the last reload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastReload {
    /// When.
    pub at: SystemTime,
    /// Why the configuration was refused; nothing where it was applied.
    pub problems: Vec<String>,
}

/// Something of this host that keeps packets from their way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostProblem {
    /// A word that stays the same while it lasts, such as "ip_forward".
    pub what: String,
    /// In a sentence, with the fix.
    pub text: String,
    /// Whether packets of some VIP get no further.
    pub keeps_from_work: bool,
}
