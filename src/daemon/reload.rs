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
use super::routes::Wanted;
use super::{Daemon, Paths, neighbours, preflight};
use crate::config::{Config, ConfigError, Difference};
use crate::io::netlink::Netlink;
use crate::text::count;

/// How long workers may take to adopt a snapshot: they look after every batch.
const ADOPTION: Duration = Duration::from_secs(2);

/// So many changes are named in the log; of more, the number.
const NAMED: usize = 8;

impl Daemon {
    /// Applies the configuration that was read again, or says why the old one stays.
    pub(super) fn reload(&mut self, read: Result<Config, ConfigError>) {
        let applied = read
            .map_err(anyhow::Error::from)
            .and_then(|config| self.apply(config));
        match applied {
            Ok(changes) => info!("reloaded: {}; {}", said(&changes), self.summary()),
            Err(error) => error!("reload refused, the old configuration stays: {error:#}"),
        }
    }

    /// Returns what is different now.
    fn apply(&mut self, config: Config) -> Result<Vec<Difference>> {
        let fixed = self.config.restart_needed(&config);
        if !fixed.is_empty() {
            let lines: Vec<_> = fixed.iter().map(ToString::to_string).collect();
            bail!("{}", lines.join("; "));
        }
        let mut netlink = Netlink::open()?;
        preflight::refuse_local_vips(&config, &mut netlink)?;
        neighbours::refuse_unusable_device(&config, &mut netlink)?;
        let paths = Paths::resolve(&config, &mut netlink)?;
        let wanted = Wanted::new(&config, &paths)?;
        for warning in config.warnings() {
            warn!("{warning}");
        }
        self.publish(&config, &paths, &wanted)?;
        self.routes.guard(&wanted, &mut self.undo);
        let followed = preflight::prepare_host(&config, self.setup, &paths, &mut self.undo)
            .and_then(|()| self.follow(&wanted, &mut netlink))
            .and_then(|()| self.follow_neighbours(&config));
        if let Err(error) = followed {
            self.take_back(&mut netlink);
            return Err(error);
        }
        let changes = self.config.differences(&config);
        (self.config, self.paths) = (config, paths);
        Ok(changes)
    }

    /// Workers forward by the new snapshot when this returns.
    fn publish(&mut self, config: &Config, paths: &Paths, wanted: &Wanted) -> Result<()> {
        let snapshot = Arc::new(paths.snapshot(config, &mut self.roster)?);
        let longest = self.routes.device_mtu().max(wanted.mtu);
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

    /// The device's MTU and the routes follow.
    fn follow(&mut self, wanted: &Wanted, netlink: &mut Netlink) -> Result<()> {
        self.routes.set_device_mtu(wanted.mtu, netlink)?;
        self.routes.follow(wanted, &mut self.undo)
    }

    fn follow_neighbours(&mut self, config: &Config) -> Result<()> {
        self.neighbours.follow(config, self.setup, &mut self.undo)
    }

    /// Back to the configuration that holds, as far as the kernel lets us.
    fn take_back(&mut self, netlink: &mut Netlink) {
        let (config, paths) = (self.config.clone(), self.paths.clone());
        let back = Wanted::new(&config, &paths)
            .and_then(|wanted| {
                self.publish(&config, &paths, &wanted)?;
                self.follow(&wanted, netlink)
            })
            .and_then(|()| self.follow_neighbours(&config));
        if let Err(error) = back {
            error!("not everything could be taken back: {error:#}");
        }
    }
}

/// In one line of bounded length.
fn said(changes: &[Difference]) -> String {
    if changes.is_empty() {
        return "nothing changed".to_owned();
    }
    let named = changes.iter().take(NAMED).map(ToString::to_string);
    let more = changes.len().saturating_sub(NAMED);
    let more = (more > 0).then(|| count(more, "more change"));
    named.chain(more).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_named_up_to_a_bound() {
        let config = |backends: std::ops::Range<u8>| {
            let backends: String = backends
                .map(|n| format!("[[vip.backend]]\naddress = \"10.0.1.{n}\"\n"))
                .collect();
            let vip = "[[vip]]\nname = \"web\"\naddress = \"10.0.0.100\"\n";
            Config::parse("f", &format!("{vip}{backends}")).unwrap()
        };
        let said = |new| said(&config(1..2).differences(&config(new)));
        assert_eq!(said(1..2), "nothing changed");
        assert_eq!(said(1..3), "vip web: backend 10.0.1.2: added");
        assert!(said(1..10).ends_with("backend 10.0.1.9: added"));
        assert!(said(1..11).ends_with("backend 10.0.1.9: added; 1 more change"));
        assert!(said(1..251).ends_with("; 241 more changes"));
        assert!(said(1..251).len() < 400);
    }
}
