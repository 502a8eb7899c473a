//! The running director: joins [`io`](crate::io) to [`director`](crate::director).
//!
//! Start order, each step before anything that it could leave behind: validate (the caller's
//! [`Config`]), privileges, the host's state, TUN, sockets, routes, threads. Stop order is the
//! reverse: routes and settings first, so that no packet enters a TUN that nobody reads.

mod path_mtu;
mod paths;
mod preflight;
mod tee;
mod totals;
mod worker;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use log::{info, warn};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::config::{Config, DirectorConfig};
use crate::director::{BackendIndex, Counters, Director, Seat};
use crate::io::capability::{self, Capability};
use crate::io::egress::RawEgress;
use crate::io::netlink::Netlink;
use crate::io::sysctl::Sysctl;
use crate::io::tun::{Before, Queue, TunDevice};
use crate::io::undo::Undo;
use path_mtu::PathLearner;
pub use paths::Paths;
pub use preflight::HostSetup;
use tee::{Capture, Tee};
pub use tee::{CaptureOptions, Filter, FilterError};
pub use totals::{BackendTotals, Totals, VipTotals};
use worker::{Stopper, Worker};

/// Why a director stopped.
#[derive(Debug)]
pub enum StopReason {
    /// SIGINT, SIGTERM or SIGHUP.
    Signal,
    /// The TUN cannot be read any more, above all because it was deleted.
    Failed(io::Error),
}

/// Forwards packets until a signal comes or the TUN is gone.
///
/// # Errors
/// What is missing (privileges, TUN, routes), naming the object and the mend. Nothing is left
/// behind.
pub fn run(
    config: &Config,
    setup: HostSetup,
    capture: Option<&CaptureOptions>,
) -> Result<(Totals, StopReason)> {
    let (events, happened) = mpsc::sync_channel(EVENTS);
    stop_on_signals(events.clone()).context("cannot watch for signals")?;
    let daemon = Daemon::start(config, setup, capture, &events)?;
    info!("{}", summary(config, daemon.mtu));
    loop {
        match happened
            .recv()
            .context("nobody left to stop the director")?
        {
            Event::Stop(reason) => return Ok((daemon.stop(), reason)),
            Event::TooLongFor(backend) => daemon.paths.ask_kernel(backend),
        }
    }
}

/// Events that may wait; what does not fit is reported again by the next packet.
const EVENTS: usize = 64;

/// What other threads tell the main one.
#[derive(Debug)]
enum Event {
    Stop(StopReason),
    /// The kernel refused a packet for this backend as too long.
    TooLongFor(BackendIndex),
}

fn stop_on_signals(events: SyncSender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let body = move || {
        if signals.forever().next().is_some() {
            events.send(Event::Stop(StopReason::Signal)).ok();
        }
    };
    thread::Builder::new()
        .name("tunlb-signals".into())
        .spawn(body)?;
    Ok(())
}

/// A director at work.
#[derive(Debug)]
struct Daemon {
    undo: Undo,
    paths: PathLearner,
    workers: Vec<WorkerThread>,
    capture: Option<Capture>,
    /// Of the TUN, in bytes.
    mtu: u32,
    /// Gives a TUN that was there before its MTU and state back.
    _before: Option<Before>,
}

#[derive(Debug)]
struct WorkerThread {
    counters: Arc<Counters>,
    stopper: Stopper,
    thread: JoinHandle<()>,
}

impl Daemon {
    /// Starts the workers; when this returns, packets flow. `events` hears of what
    /// the workers cannot settle.
    fn start(
        config: &Config,
        setup: HostSetup,
        capture: Option<&CaptureOptions>,
        events: &SyncSender<Event>,
    ) -> Result<Self> {
        capability::require(&[Capability::NetAdmin, Capability::NetRaw])?;
        capability::require_tun()?;
        let mut netlink = Netlink::open()?;
        preflight::refuse_local_vips(config, &mut netlink)?;
        let paths = Paths::resolve(config, &mut netlink)?;
        let learner = PathLearner {
            snapshot: Arc::new(paths.snapshot(config)?),
            epoch: Instant::now(),
        };
        let mtus = paths.inner_mtus(config);
        let mtu = device_mtu(&mtus)?;
        let capture = capture
            .map(|options| Capture::start(options, &config.director.tun))
            .transpose()?;

        let mut undo = Undo::new()?;
        preflight::prepare_host(config, setup, &paths, &mut undo)?;
        let TunDevice {
            index,
            queues,
            before,
            ..
        } = TunDevice::open(&config.director.tun, config.director.workers, mtu)?;
        let workers = queues
            .into_iter()
            .zip(seats(config))
            .map(|(queue, seat)| {
                let director = Director::new(Arc::clone(&learner.snapshot), &seat);
                let tee = capture.as_ref().map(Capture::tee).unwrap_or_default();
                worker(queue, mtu, director, learner.epoch, events.clone(), tee)
            })
            .collect::<Result<Vec<_>>>()?;
        learner
            .clone()
            .listen()
            .context("cannot listen for path MTU errors")?;
        add_routes(&config.director.tun, index, &mtus, &mut undo)?;
        let workers = workers
            .into_iter()
            .map(|ready| ready.start(events.clone()))
            .collect::<Result<_>>()?;
        Ok(Self {
            undo,
            paths: learner,
            workers,
            capture,
            mtu,
            _before: before,
        })
    }

    /// Takes back routes and settings, ends the workers and sums up what they did.
    fn stop(mut self) -> Totals {
        for (step, error) in self.undo.undo_all() {
            warn!("not undone: {step}: {error}");
        }
        for worker in &self.workers {
            if let Err(error) = worker.stopper.stop() {
                warn!("cannot wake a worker: {error}");
            }
        }
        let counters: Vec<_> = self.workers.into_iter().map(WorkerThread::join).collect();
        if let Some(capture) = self.capture {
            capture.stop();
        }
        Totals::new(&self.paths.snapshot, &counters)
    }
}

/// One seat per worker; the bound on flows is for all of them together.
fn seats(config: &Config) -> impl Iterator<Item = Seat> {
    let DirectorConfig { workers, flows, .. } = config.director;
    let flows = NonZeroUsize::new(flows.get() / workers).unwrap_or(NonZeroUsize::MIN);
    let workers = u16::try_from(workers.get()).unwrap_or(u16::MAX);
    (0..workers).map(move |worker| Seat {
        worker,
        workers,
        flows,
        seed: random_seed(),
    })
}

/// Four words of the random state with which std keys its hash maps.
fn random_seed() -> [u64; 4] {
    let state = RandomState::new();
    std::array::from_fn(|word| state.hash_one(word))
}

/// The MTU of the TUN: that of the VIP that allows the largest packets.
fn device_mtu(mtus: &BTreeMap<IpAddr, u32>) -> Result<u32> {
    for (vip, &mtu) in mtus {
        let smallest = match vip {
            IpAddr::V4(_) => SMALLEST_IPV4_MTU,
            IpAddr::V6(_) => SMALLEST_IPV6_MTU,
        };
        if mtu < smallest {
            bail!(
                "vip {vip}: the path to a backend leaves {mtu} bytes for a packet, less than the \
                 {smallest} that its address family needs; raise the MTU of the device towards it"
            );
        }
    }
    Ok(mtus.values().max().copied().unwrap_or(SMALLEST_IPV6_MTU))
}

/// The smallest MTU of an IPv4 link (RFC 791 §3.2).
const SMALLEST_IPV4_MTU: u32 = 68;
/// The smallest MTU of an IPv6 link (RFC 8200 §5).
const SMALLEST_IPV6_MTU: u32 = 1280;

/// A host route for every VIP address into the TUN, with the MTU of its own tunnels: the kernel
/// tells clients that, not the device's.
fn add_routes(
    tun: &str,
    tun_index: u32,
    mtus: &BTreeMap<IpAddr, u32>,
    undo: &mut Undo,
) -> Result<()> {
    if mtus.keys().any(IpAddr::is_ipv6) {
        // Some hosts switch IPv6 off for devices to come; a route into this one needs it.
        undo.set_sysctl(Sysctl::ipv6_conf(tun, "disable_ipv6")?, 0)?;
    }
    for (&address, &mtu) in mtus {
        let net = IpNet::from(address);
        undo.add_route(tun_index, tun, net, Some(mtu))
            .with_context(|| format!("vip {address}: cannot route it into {tun}"))?;
    }
    Ok(())
}

/// Says that packets flow; scripts wait for the word "forwarding".
fn summary(config: &Config, mtu: u32) -> String {
    let DirectorConfig { tun, workers, .. } = &config.director;
    let backends: usize = config.vips.iter().map(|vip| vip.backends.len()).sum();
    let vips: Vec<_> = config.vips.iter().map(|vip| vip.name.as_str()).collect();
    format!(
        "{tun}: forwarding {} to {backends} backend(s), {workers} worker(s), MTU {mtu}",
        vips.join(", ")
    )
}

/// A worker with everything open, not yet reading.
struct ReadyWorker {
    worker: Worker<RawEgress>,
    stopper: Stopper,
    counters: Arc<Counters>,
}

fn worker(
    queue: Queue,
    mtu: u32,
    director: Director,
    epoch: Instant,
    events: SyncSender<Event>,
    tee: Tee,
) -> Result<ReadyWorker> {
    let egress = RawEgress::open(mtu as usize).context("cannot open a raw socket")?;
    let counters = Arc::clone(director.counters());
    let (worker, stopper) = Worker::new(queue, egress, director, epoch, events, tee)
        .context("cannot set up the event loop")?;
    Ok(ReadyWorker {
        worker,
        stopper,
        counters,
    })
}

impl ReadyWorker {
    fn start(self, events: SyncSender<Event>) -> Result<WorkerThread> {
        let worker = self.worker;
        let body = move || {
            if let Err(error) = worker.run() {
                // Nobody listens only while the daemon is stopping anyway.
                events.send(Event::Stop(StopReason::Failed(error))).ok();
            }
        };
        let thread = thread::Builder::new()
            .name("tunlb-worker".into())
            .spawn(body)
            .context("cannot start a worker thread")?;
        Ok(WorkerThread {
            counters: self.counters,
            stopper: self.stopper,
            thread,
        })
    }
}

impl WorkerThread {
    fn join(self) -> Arc<Counters> {
        if self.thread.join().is_err() {
            warn!("a worker panicked");
        }
        self.counters
    }
}
