//! The thread that measures backends: it sends probes to the VIPs through the tunnels of their backends, as clients'
//! packets go, and reports what changed. It changes nothing itself.
//!
//! A probe's way: an ordinary socket of the kernel's own TCP or UDP (`flight`), bound to an address and a port of
//! this host (`ports`), connects to the VIP. Its packets take the second route of the VIP (`device`) into a TUN
//! of this thread's own. There the port tells which backend is meant; the outer header of that very backend is
//! written, and the packet leaves (`forward`). The answer comes as it would to a client: from the VIP, past the director.
//! No worker takes part.
//!
//! `engine` is the loop; `plan` is what is to be measured; [`gauge`] is where others read what was.

mod departure;
mod device;
mod echoes;
mod engine;
mod flight;
mod forward;
pub mod gauge;
mod inquest;
mod look;
mod passive;
mod plan;
mod ports;
mod report;
mod reset;
mod sizes;
mod slots;
mod take_off;
mod talk;
mod timers;
#[cfg(feature = "https")]
mod trust;
#[cfg(not(feature = "https"))]
#[path = "trust_off.rs"]
mod trust;
mod ways;
mod wire;

use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use log::{error, warn};
use mio::{Poll, Waker};

use crate::director::Snapshot;
use crate::io::netlink::Netlink;
use crate::io::undo::Undo;
use crate::probe::{Cause, ProbeResult, SizeFound, Standing, Target};
use device::ProbeDevice;
use engine::{Engine, Outside};
pub use gauge::{Counts, Gauge, Gauges, Seen};
pub use look::{Asking, Look, look};
pub use plan::{Apart, Plan, Probed, probe_ends};
pub use trust::refuse_unusable;

/// What changed since the last report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reports {
    /// The number of the plan that it is about.
    pub plan: u64,
    /// One for each backend that changed.
    pub changes: Vec<Report>,
    /// Whether everything failed everywhere at once, so that rather this host is at fault.
    pub suspects_itself: bool,
}

/// What a backend is from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which.
    pub target: Target,
    /// What it is taken for.
    pub standing: Standing,
    /// The last result.
    pub result: ProbeResult,
    /// Verdicts of that kind in a row.
    pub streak: u32,
    /// Why it fails, once that is known.
    pub cause: Option<Cause>,
    /// What packets of full size found, where they are sent.
    pub size: Option<SizeFound>,
}

/// What others found of a backend whose check is "external".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Which.
    pub target: Target,
    /// What they found.
    pub result: ProbeResult,
    /// After that, silence counts as no answer.
    pub holds: Duration,
}

/// Where the thread finds what the workers forward by.
pub type Snapshots = Box<dyn Fn() -> Arc<Snapshot> + Send>;

/// Takes reports without waiting.
pub type Reporter = Box<dyn Fn(Reports) -> Result<(), NotTaken> + Send>;

/// Control has too much to do; what changed is reported again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotTaken;

/// Control's end of the thread, and the device and routes of probes. The thread starts with the first plan that
/// has something to measure.
pub struct Health {
    tun: String,
    /// Until the thread starts.
    parts: Option<(Snapshots, Reporter)>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    device: ProbeDevice,
    commands: Sender<Command>,
    waker: Waker,
    thread: JoinHandle<()>,
}

/// What the thread is told.
#[derive(Debug)]
enum Command {
    Measure(Plan),
    Told(Told),
    Stop,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Health")
            .field("tun", &self.tun)
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

impl Health {
    /// One beside the data TUN of that name.
    #[must_use]
    pub fn new(data_tun: &str, snapshots: Snapshots, report: Reporter) -> Self {
        Self {
            tun: device::name(data_tun),
            parts: Some((snapshots, report)),
            running: None,
        }
    }

    /// Removes the routes of VIPs that are not measured any more: before others that lead elsewhere go, or their
    /// packets would take these.
    ///
    /// # Errors
    /// The kernel's.
    pub fn retain(
        &mut self,
        is_kept: impl Fn(std::net::IpAddr) -> bool,
        undo: &mut Undo,
    ) -> Result<()> {
        match &mut self.running {
            Some(running) => running.device.retain(is_kept, undo),
            None => Ok(()),
        }
    }

    /// Restores what others removed of the probes' way into their device, and tells what.
    ///
    /// # Errors
    /// The kernel's.
    pub fn restore(&self, netlink: &mut Netlink) -> Result<Vec<String>> {
        match &self.running {
            Some(running) => running.device.restore(netlink),
            None => Ok(Vec::new()),
        }
    }

    /// Measures what `plan` says from now on.
    ///
    /// # Errors
    /// The kernel refuses the device, a route or a thread; those before it are there.
    pub fn measure(&mut self, plan: Plan, netlink: &mut Netlink, undo: &mut Undo) -> Result<()> {
        if self.running.is_none() {
            if plan.probed.is_empty() {
                return Ok(());
            }
            self.running = Some(self.start(&plan, netlink, undo)?);
        }
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        running.device.follow(&plan, netlink, undo)?;
        if running.commands.send(Command::Measure(plan)).is_err() {
            anyhow::bail!("the thread of health checks has ended");
        }
        running
            .waker
            .wake()
            .context("cannot wake the thread of health checks")
    }

    fn start(&mut self, plan: &Plan, netlink: &mut Netlink, undo: &mut Undo) -> Result<Running> {
        let (snapshots, report) = self
            .parts
            .take()
            .context("health checks did not start before")?;
        let (device, queue) =
            ProbeDevice::open(&self.tun, Apart::DIRECTOR, plan.mtu, netlink, undo)?;
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), engine::WAKE)?;
        let (commands, inbox) = mpsc::channel();
        let outside = Outside {
            inbox,
            snapshots,
            report,
            device: device.index(),
        };
        let engine = Engine::new(poll, queue, plan.mtu as usize, outside, Apart::DIRECTOR)?;
        let thread = thread::Builder::new()
            .name("tunlb-health".into())
            .spawn(move || {
                if let Err(error) = engine.run() {
                    error!("health checks ended: {error}; what was measured last holds");
                }
            })
            .context("cannot start the thread of health checks")?;
        Ok(Running {
            device,
            commands,
            waker,
            thread,
        })
    }

    /// Has what others found count.
    ///
    /// # Errors
    /// The thread has ended.
    pub fn tell(&self, told: Told) -> Result<()> {
        let running = self.running.as_ref().context("nothing is measured")?;
        if running.commands.send(Command::Told(told)).is_err() {
            anyhow::bail!("the thread of health checks has ended");
        }
        running
            .waker
            .wake()
            .context("cannot wake the thread of health checks")
    }

    /// Ends the thread; its device goes with it.
    pub fn stop(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        let told = running.commands.send(Command::Stop).is_ok() && running.waker.wake().is_ok();
        if told && running.thread.join().is_err() {
            warn!("the thread of health checks panicked");
        }
    }
}
