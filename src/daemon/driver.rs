//! The data path in the drivers, as the daemon starts and stops it; in a build without the feature `xdp` there is
//! none.

use std::sync::Arc;

use anyhow::Result;

use super::{ReadyWorker, Shared};
use crate::config::{Config, Datapath};
use crate::control::{DriverWatch, WorkerLink};
use crate::director::Roster;

#[cfg(feature = "xdp")]
use log::warn;

#[cfg(feature = "xdp")]
use super::xdp::{AttachedDriver, Driver};

/// Ready to take packets; nothing where they come by the TUN alone.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    #[cfg(feature = "xdp")]
    driver: Option<Driver>,
}

/// Taking packets; nothing where they come by the TUN alone.
#[derive(Debug, Default)]
pub(super) struct AtWork {
    #[cfg(feature = "xdp")]
    driver: Option<AttachedDriver>,
}

/// Has the data path look for what is published.
#[derive(Debug)]
pub(super) struct Waker {
    #[cfg(feature = "xdp")]
    thread: Option<std::thread::Thread>,
}

impl Waker {
    #[allow(
        clippy::unused_self,
        reason = "without the feature there is nothing to wake"
    )]
    pub(super) fn wake(&self) {
        #[cfg(feature = "xdp")]
        if let Some(thread) = &self.thread {
            thread.unpark();
        }
    }
}

/// Loads the program where the configuration wants it.
///
/// # Errors
/// What keeps it from being loaded; a warning where the TUN may take its place.
#[cfg(feature = "xdp")]
pub(super) fn prepare(config: &Config, shared: &Shared) -> Result<Prepared> {
    if !matches!(config.director.datapath, Datapath::Xdp | Datapath::Auto) {
        return Ok(Prepared::default());
    }
    let snapshot = Arc::clone(&shared.current.load().snapshot);
    let workers = u16::try_from(config.director.workers.get()).unwrap_or(u16::MAX);
    let driver = Driver::load(&snapshot, workers, shared.now());
    Ok(Prepared {
        driver: or_tun(config, driver)?,
    })
}

/// # Errors
/// None: the configuration refused what this build does not have.
#[cfg(not(feature = "xdp"))]
pub(super) fn prepare(config: &Config, _: &Shared) -> Result<Prepared> {
    if config.director.datapath == Datapath::Auto {
        log::warn!(
            "packets go by the TUN alone: this tunlb was built without the cargo feature xdp"
        );
    }
    Ok(Prepared::default())
}

/// What did not work is a warning where the TUN may take its place.
#[cfg(feature = "xdp")]
fn or_tun<T>(config: &Config, result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if config.director.datapath == Datapath::Auto => {
            warn!("packets go by the TUN alone: {error:#}");
            Ok(None)
        }
        Err(error) => Err(error.context("datapath = \"xdp\"")),
    }
}

#[cfg(feature = "xdp")]
impl Prepared {
    /// The workers keep their flows where the program does.
    pub(super) fn share_flows(&self, workers: &mut [ReadyWorker], config: &Config) -> Result<()> {
        let Some(driver) = &self.driver else {
            return Ok(());
        };
        for (ready, seat) in workers.iter_mut().zip(super::seats(config)) {
            let flows = Box::new(driver.flows()?);
            ready.worker.share_flows(flows, &seat, driver.cpus());
        }
        Ok(())
    }

    /// Takes packets from now on.
    pub(super) fn attach(
        self,
        config: &Config,
        shared: &Shared,
        workers: &[WorkerLink],
        roster: &mut Roster,
    ) -> Result<AtWork> {
        let Some(driver) = self.driver else {
            return Ok(AtWork::default());
        };
        let counters = workers.iter().map(|link| Arc::clone(&link.counters));
        let company = (Arc::clone(&shared.current), counters.collect());
        let own = Arc::new(crate::director::Counters::new(0));
        let attached = driver.attach(&config.director, company, Arc::clone(&own), shared.epoch);
        let driver = or_tun(config, attached)?;
        if driver.is_some() {
            roster.attach(own);
        }
        Ok(AtWork { driver })
    }
}

#[cfg(not(feature = "xdp"))]
#[allow(
    clippy::unused_self,
    clippy::unnecessary_wraps,
    reason = "without the feature there is nothing to do"
)]
impl Prepared {
    pub(super) fn share_flows(&self, _: &mut [ReadyWorker], _: &Config) -> Result<()> {
        Ok(())
    }

    pub(super) fn attach(
        self,
        _: &Config,
        _: &Shared,
        _: &[WorkerLink],
        _: &mut Roster,
    ) -> Result<AtWork> {
        Ok(AtWork::default())
    }
}

impl AtWork {
    /// For those who watch it.
    #[allow(
        clippy::unused_self,
        reason = "without the feature there is nothing to watch"
    )]
    pub(super) fn watch(&self) -> Option<Arc<dyn DriverWatch>> {
        #[cfg(feature = "xdp")]
        return self.driver.as_ref().map(AttachedDriver::watch);
        #[cfg(not(feature = "xdp"))]
        None
    }

    /// For those that publish.
    #[allow(
        clippy::unused_self,
        reason = "without the feature there is nothing to wake"
    )]
    pub(super) fn waker(&self) -> Waker {
        Waker {
            #[cfg(feature = "xdp")]
            thread: self.driver.as_ref().map(AttachedDriver::waker),
        }
    }

    /// Takes no packets any more: they go to the TUN.
    pub(super) fn detach(self) {
        #[cfg(feature = "xdp")]
        if let Some(driver) = self.driver {
            driver.detach();
        }
    }
}
