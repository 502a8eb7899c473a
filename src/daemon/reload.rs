//! Reload: another configuration for a running director. All that can be refused is refused before
//! anything changes; what the kernel refuses halfway is taken back.
//!
//! The order keeps every packet of a VIP that stays: workers first forward by the new snapshot, which
//! knows every VIP that gets a route, and have room for its packets; then routes and MTU follow.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use log::{error, info, warn};

use super::published::Published;
use super::routes::{self, Mtus};
use super::{Daemon, Paths, preflight};
use crate::config::{Config, ConfigError};
use crate::io::netlink::Netlink;

/// Reads the configuration again.
pub type Reload<'a> = &'a dyn Fn() -> Result<Config, ConfigError>;

/// How long workers may take to adopt a snapshot: they look after every batch.
const ADOPTION: Duration = Duration::from_secs(2);

impl Daemon {
    /// Reads and applies the configuration again, or says why the old one stays.
    pub(super) fn reload(&mut self, read: Reload<'_>) {
        let applied = read()
            .map_err(anyhow::Error::from)
            .and_then(|config| self.apply(config));
        match applied {
            Ok(()) => info!("reloaded: {}", self.summary()),
            Err(error) => error!("reload refused, the old configuration stays: {error:#}"),
        }
    }

    fn apply(&mut self, config: Config) -> Result<()> {
        let fixed = self.config.restart_needed(&config);
        if !fixed.is_empty() {
            let lines: Vec<_> = fixed.iter().map(ToString::to_string).collect();
            bail!("{}", lines.join("; "));
        }
        let mut netlink = Netlink::open()?;
        preflight::refuse_local_vips(&config, &mut netlink)?;
        let paths = Paths::resolve(&config, &mut netlink)?;
        let mtus = paths.inner_mtus(&config);
        routes::device_mtu(&mtus)?;
        for warning in config.warnings() {
            warn!("{warning}");
        }
        self.publish(&config, &paths, &mtus)?;
        let followed = preflight::prepare_host(&config, self.setup, &paths, &mut self.undo)
            .and_then(|()| self.follow(&mtus, &mut netlink));
        if let Err(error) = followed {
            self.take_back(&mut netlink);
            return Err(error);
        }
        (self.config, self.paths) = (config, paths);
        Ok(())
    }

    /// Workers forward by the new snapshot when this returns.
    fn publish(&mut self, config: &Config, paths: &Paths, mtus: &Mtus) -> Result<()> {
        let snapshot = Arc::new(paths.snapshot(config, &mut self.roster)?);
        let longest = self.routes.device_mtu().max(routes::device_mtu(mtus)?);
        let epoch = snapshot.epoch();
        self.drains.follow(&snapshot);
        self.publisher.publish(Published {
            snapshot,
            longest: longest as usize,
        });
        if let Some(watch) = &self.hop_watch {
            watch.wake();
        }
        for worker in &self.workers {
            worker.remote.wake().context("cannot wake a worker")?;
        }
        let deadline = Instant::now() + ADOPTION;
        while !self.roster.is_adopted(epoch) {
            if Instant::now() > deadline {
                warn!("a worker has not adopted the new configuration yet");
                break;
            }
            thread::sleep(Duration::from_micros(100));
        }
        self.publisher.free(&self.roster);
        Ok(())
    }

    /// Routes and MTUs follow; the device's MTU is never below that of a route into it.
    fn follow(&mut self, mtus: &Mtus, netlink: &mut Netlink) -> Result<()> {
        let (before, after) = (self.routes.device_mtu(), routes::device_mtu(mtus)?);
        if after > before {
            self.routes.set_device_mtu(after, netlink)?;
        }
        self.routes.follow(mtus, &mut self.undo)?;
        if after < before {
            self.routes.set_device_mtu(after, netlink)?;
        }
        Ok(())
    }

    /// Back to the configuration that holds, as far as the kernel lets us.
    fn take_back(&mut self, netlink: &mut Netlink) {
        let (config, paths) = (self.config.clone(), self.paths.clone());
        let mtus = paths.inner_mtus(&config);
        let back = self
            .publish(&config, &paths, &mtus)
            .and_then(|()| self.follow(&mtus, netlink));
        if let Err(error) = back {
            error!("not everything could be taken back: {error:#}");
        }
    }
}
