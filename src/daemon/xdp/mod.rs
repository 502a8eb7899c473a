//! The XDP data path of a director: the program in the drivers of its interfaces, fed from the snapshots that
//! control publishes, with one flow table for it and the workers.

mod fill;
mod flows;
mod keeper;
mod pool;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use log::{info, warn};

use crate::config::{DirectorConfig, XdpMode};
use crate::control::published::Current;
use crate::control::{DriverInterface, DriverWatch};
use crate::director::{Counters, Snapshot, Timestamp};
use crate::io::netlink::Netlink;
use crate::io::sys::possible_cpus;
use crate::io::xdp::layout::{MOST_PORTS, Port};
use crate::io::xdp::{
    Attached, DirectorProgram, FlowMaps, Hook, LoadError, Loaded, MapCounts, Sizes, attach,
};
pub use fill::{Fill, FillError, sizes};
pub use flows::DriverFlows;
use keeper::{Company, Keeper};
use watch::Watch;

/// The program and its maps, filled; attached to nothing.
#[derive(Debug)]
pub struct Driver {
    /// The program.
    pub program: DirectorProgram,
    /// What it decides by.
    pub fill: Fill,
    /// Its flow table.
    flows: FlowMaps,
    /// What it counts.
    pub counts: Arc<MapCounts>,
    limits: Arc<crate::io::sys::SharedArray>,
    sizes: Sizes,
    snapshot: Arc<Snapshot>,
}

impl Driver {
    /// Loads the program and fills its maps with a snapshot.
    ///
    /// # Errors
    /// What the kernel or this process lacks.
    pub fn load(snapshot: &Arc<Snapshot>, workers: u16, now: Timestamp) -> Result<Self> {
        let cpus = possible_cpus().context("cannot read the list of CPUs")?;
        let sizes = sizes(snapshot, cpus);
        let Loaded {
            program,
            tables,
            flows,
            counts,
            limits,
        } = DirectorProgram::load(sizes)?;
        let mut fill = Fill::new(tables, sizes, workers);
        fill.apply(snapshot, now)?;
        Ok(Self {
            program,
            fill,
            flows,
            counts,
            limits,
            sizes,
            snapshot: Arc::clone(snapshot),
        })
    }

    /// A handle of the flow table, for one worker.
    ///
    /// # Errors
    /// The kernel's.
    pub fn flows(&self) -> Result<DriverFlows, LoadError> {
        let maps = self.flows.again()?;
        Ok(DriverFlows::new(maps, Arc::clone(&self.limits)))
    }

    /// How many CPUs number outer packets.
    #[must_use]
    pub fn cpus(&self) -> u16 {
        u16::try_from(self.sizes.cpus).unwrap_or(u16::MAX)
    }

    /// Takes packets from the interfaces of the configuration from now on. `counters` show what it counts;
    /// `workers` are those that it waits for.
    ///
    /// # Errors
    /// An interface is not there, has another program, or cannot run this one.
    pub(super) fn attach(
        mut self,
        config: &DirectorConfig,
        (current, workers): (Current, Vec<Arc<Counters>>),
        counters: Arc<Counters>,
        epoch: Instant,
    ) -> Result<AttachedDriver> {
        let hooks: &[Hook] = match config.xdp_mode {
            XdpMode::Auto => &[Hook::Native, Hook::Generic],
            XdpMode::Native => &[Hook::Native],
            XdpMode::Generic => &[Hook::Generic],
        };
        let names = config.interfaces.names();
        if names.len() > MOST_PORTS {
            bail!("director.interface: at most {MOST_PORTS} interfaces can have the XDP program");
        }
        let mut attached = Vec::new();
        for name in names {
            let program = self.program.program()?;
            attached.push(attach(program, name, hooks)?);
        }
        let ways_out = ways_out(&attached);
        self.fill.set_ports(ports(&attached)?, &ways_out)?;
        for one in &attached {
            info!(
                "packets are taken by XDP on {} ({} mode)",
                one.device, one.hook
            );
        }
        let interfaces = attached.iter().map(|one| DriverInterface {
            name: one.device.clone(),
            mode: one.hook.to_string(),
        });
        let watch = Watch {
            interfaces: interfaces.collect(),
            counts: Arc::clone(&self.counts),
            flows: self.flows.again()?,
            current: Arc::clone(&current),
        };
        counters.follow(&self.snapshot);
        let stop = Arc::new(AtomicBool::new(false));
        let company = Company {
            current,
            workers,
            counters,
            epoch,
            stop: Arc::clone(&stop),
        };
        let counts = Arc::clone(&self.counts);
        let keeper = Keeper::new(self.fill, self.flows, counts, company, self.snapshot);
        let thread = thread::Builder::new()
            .name("tunlb-xdp".into())
            .spawn(move || keeper.run())
            .context("cannot start the thread of the XDP data path")?;
        Ok(AttachedDriver {
            attached,
            watch: Arc::new(watch),
            stop,
            thread,
            _program: self.program,
        })
    }
}

/// Packets may leave by the devices that are attached; where some run the program in their drivers and others do
/// not, only by the former, since a driver hands packets only to a driver.
fn ways_out(attached: &[Attached]) -> Vec<u32> {
    let all_generic = attached.iter().all(|one| one.hook == Hook::Generic);
    let takes = |one: &&Attached| all_generic || one.hook == Hook::Native;
    attached.iter().filter(takes).map(|one| one.index).collect()
}

fn ports(attached: &[Attached]) -> Result<Vec<Port>> {
    let mut netlink = Netlink::open()?;
    let mut ports = Vec::new();
    for one in attached {
        let link = netlink.link(&one.device)?;
        let link = link.with_context(|| format!("{} is gone", one.device))?;
        let mac = link.mac;
        let address = mac.with_context(|| format!("{} has no link address", one.device))?;
        ports.push(Port {
            index: one.index,
            address: address.0,
            redirects: link.kind.as_deref() == Some("veth"),
        });
    }
    Ok(ports)
}

/// The program at work.
#[derive(Debug)]
pub(super) struct AttachedDriver {
    attached: Vec<Attached>,
    watch: Arc<Watch>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    _program: DirectorProgram,
}

impl AttachedDriver {
    /// There may be something new to decide by.
    pub(super) fn waker(&self) -> thread::Thread {
        self.thread.thread().clone()
    }

    /// For those who watch it.
    pub(super) fn watch(&self) -> Arc<dyn DriverWatch> {
        Arc::clone(&self.watch) as Arc<dyn DriverWatch>
    }

    /// Takes no packets any more: those that come go to the TUN.
    pub(super) fn detach(self) {
        drop(self.attached);
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            warn!("the thread of the XDP data path panicked");
        }
    }
}
