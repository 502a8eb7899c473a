//! This host, as control sees it: what the kernel says of ways, and what a configuration makes of routes, settings
//! and answers to ARP. Control decides by the trait [`Host`], so that tests can decide by a host of their own.

mod forwarding;
mod neighbours;
mod preflight;
mod problems;
mod routes;

use anyhow::{Context as _, Result};
use log::warn;

use super::view::HostProblem;
use crate::config::Config;
use crate::health::{Health, Plan, Told};
use crate::io::netlink::Netlink;
use crate::io::tun::{Offloads, Queue, TunDevice};
use crate::io::undo::{Step, Undo, UndoError};
use crate::site::Paths;
use neighbours::Neighbours;
pub use preflight::HostSetup;
pub use routes::Wanted;
use routes::{Guards, Routes};

/// What control asks of the host.
pub trait Host {
    /// Refuses what the host alone shows to be impossible, before anything is changed.
    ///
    /// # Errors
    /// What is impossible, by name, and the fix.
    fn refuse(&mut self, config: &Config) -> Result<()>;

    /// The ways to all backends.
    ///
    /// # Errors
    /// A way that leads back into the TUN; a kernel that does not answer.
    fn paths(&mut self, config: &Config) -> Result<Paths>;

    /// Adds the ways to backends that `paths` does not know yet.
    ///
    /// # Errors
    /// As of [`paths`](Self::paths).
    fn complete(&mut self, config: &Config, paths: &mut Paths) -> Result<()>;

    /// All ways as they are now, and those that cannot be used, which stay what they were.
    ///
    /// # Errors
    /// A kernel that does not answer.
    fn paths_again(&mut self, config: &Config, before: &Paths) -> Result<(Paths, Vec<String>)>;

    /// Makes the host such that packets for the VIPs of `config` can come: what is to be so before their routes.
    ///
    /// # Errors
    /// The kernel's.
    fn prepare(&mut self, config: &Config, paths: &Paths, wanted: &Wanted) -> Result<()>;

    /// Leads the VIPs' packets into the TUN, and those of others no more; returns what others had removed or
    /// changed and is there again, a sentence each.
    ///
    /// # Errors
    /// The kernel's refusal of a change; those before it are made.
    fn lead(&mut self, wanted: &Wanted) -> Result<Vec<String>>;

    /// Answers ARP and neighbour discovery for VIPs of the host's own subnets, as the configuration wants.
    ///
    /// # Errors
    /// The kernel's.
    fn answer(&mut self, config: &Config) -> Result<()>;

    /// Has backends measured by `plan` from now on.
    ///
    /// # Errors
    /// The kernel's.
    fn measure(&mut self, plan: Plan) -> Result<()>;

    /// Hands on what others found of a backend that is measured from outside.
    ///
    /// # Errors
    /// Nothing is measured.
    fn tell(&mut self, told: Told) -> Result<()>;

    /// The TUN's MTU in bytes.
    fn device_mtu(&self) -> u32;

    /// What keeps packets from their way now.
    fn problems(&mut self, config: &Config) -> Vec<HostProblem>;
}

/// What this host shows to be impossible of a configuration, a line each. Needs no privileges and changes
/// nothing.
///
/// # Errors
/// No netlink socket.
pub fn examine(config: &Config) -> Result<Vec<String>> {
    let mut netlink = Netlink::open()?;
    let refused = refuse(config, &mut netlink);
    let paths = Paths::resolve(config, &mut netlink);
    let paths = paths.and_then(|paths| Wanted::new(config, &paths));
    let errors = [refused.err(), paths.err()].into_iter().flatten();
    Ok(errors.map(|error| format!("{error:#}")).collect())
}

fn refuse(config: &Config, netlink: &mut Netlink) -> Result<()> {
    preflight::refuse_local_vips(config, netlink)?;
    preflight::refuse_local_backends(config, netlink)?;
    crate::health::refuse_unusable(config)?;
    neighbours::refuse_unusable_device(config, netlink)
}

/// The host that this process runs on.
#[derive(Debug)]
pub struct ThisHost {
    netlink: Netlink,
    undo: Undo,
    setup: HostSetup,
    guards: Guards,
    routes: Option<Routes>,
    neighbours: Neighbours,
    health: Option<Health>,
}

impl ThisHost {
    /// Nothing is changed yet.
    ///
    /// # Errors
    /// No netlink socket.
    pub fn new(setup: HostSetup) -> Result<Self> {
        Ok(Self {
            netlink: Netlink::open()?,
            undo: Undo::new()?,
            setup,
            guards: Guards::default(),
            routes: None,
            neighbours: Neighbours::default(),
            health: None,
        })
    }

    /// Opens the TUN; packets are led into it by [`Host::lead`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn open_tun(&mut self, config: &Config, wanted: &Wanted) -> Result<Vec<Queue>> {
        let director = &config.director;
        let device = TunDevice::open(
            &director.tun,
            director.workers,
            Offloads::IfNew,
            wanted.mtu,
            &mut self.undo,
        )?;
        self.netlink
            .set_queue_length(device.index, director.queue_length)?;
        let routes = Routes::new(device.name, device.index, wanted.mtu);
        self.routes = Some(routes);
        Ok(device.queues)
    }

    /// Backends are measured by `health` from now on.
    pub fn measure_by(&mut self, health: Health) {
        self.health = Some(health);
    }

    /// Takes back what brings packets, and says what could not be.
    pub fn undo_traffic(&mut self) {
        self.neighbours.stop();
        if let Some(health) = &mut self.health {
            health.stop();
        }
        warn_of_failures(self.undo.undo_traffic());
    }

    /// Takes back all that was changed, and says what could not be.
    pub fn undo_all(&mut self) {
        warn_of_failures(self.undo.undo_all());
    }
}

fn warn_of_failures(failures: Vec<(Step, UndoError)>) {
    for (step, error) in failures {
        warn!("cannot undo {step}: {error}; by hand: {}", step.by_hand());
    }
}

impl Host for ThisHost {
    fn refuse(&mut self, config: &Config) -> Result<()> {
        refuse(config, &mut self.netlink)
    }

    fn paths(&mut self, config: &Config) -> Result<Paths> {
        Paths::resolve(config, &mut self.netlink)
    }

    fn complete(&mut self, config: &Config, paths: &mut Paths) -> Result<()> {
        paths.complete(config, &mut self.netlink)
    }

    fn paths_again(&mut self, config: &Config, before: &Paths) -> Result<(Paths, Vec<String>)> {
        before.again(config, &mut self.netlink)
    }

    fn prepare(&mut self, config: &Config, paths: &Paths, wanted: &Wanted) -> Result<()> {
        self.guards.add(wanted, &mut self.undo);
        preflight::prepare_host(config, self.setup, paths, &mut self.undo)
    }

    fn lead(&mut self, wanted: &Wanted) -> Result<Vec<String>> {
        let routes = self.routes.as_mut().context("no TUN is open")?;
        if let Some(health) = &mut self.health {
            health.retain(|vip| wanted.has(vip), &mut self.undo)?;
        }
        let mut restored = routes.lead(wanted, &mut self.netlink, &mut self.undo)?;
        if let Some(health) = &self.health {
            restored.extend(health.restore(&mut self.netlink)?);
        }
        self.guards.retain(wanted, &mut self.undo)?;
        Ok(restored)
    }

    fn answer(&mut self, config: &Config) -> Result<()> {
        self.neighbours.follow(config, self.setup, &mut self.undo)
    }

    fn measure(&mut self, plan: Plan) -> Result<()> {
        match &mut self.health {
            Some(health) => health.measure(plan, &mut self.netlink, &mut self.undo),
            None => Ok(()),
        }
    }

    fn tell(&mut self, told: Told) -> Result<()> {
        self.health
            .as_ref()
            .context("nothing is measured")?
            .tell(told)
    }

    fn device_mtu(&self) -> u32 {
        self.routes.as_ref().map_or(0, Routes::device_mtu)
    }

    fn problems(&mut self, config: &Config) -> Vec<HostProblem> {
        problems::find(config, &mut self.netlink)
    }
}
