//! The running director: joins [`io`](crate::io) to [`director`](crate::director).
//!
//! Start order, each step before anything that it could leave behind: validate (the caller's
//! [`Config`]), privileges, the host's state, TUN, sockets, routes, threads. Stop order is the
//! reverse: routes and settings first, so that no packet enters a TUN that nobody reads.

mod drains;
#[cfg(test)]
mod faults;
mod forwarding;
mod hops;
mod mail;
mod neighbours;
mod path_mtu;
mod paths;
pub mod pipeline;
mod preflight;
mod published;
mod reload;
mod reread;
mod routes;
mod signals;
mod tee;
mod threads;
mod totals;
mod ways;
mod worker;

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use log::{error, info, warn};

use crate::config::{Config, ConfigError, DirectorConfig};
use crate::director::{BackendIndex, Director, Roster, Seat, VipSpec};
use crate::io::capability::{self, Capability};
use crate::io::egress::{GueEgress, PacketEgress, XskEgress};
use crate::io::netlink::Netlink;
use crate::io::sys::{pin_to_cpu, release_freed_memory, usable_cpus};
use crate::io::tun::{Offloads, Queue, TunDevice};
use crate::io::undo::{self, Step, Undo, UndoError};
use crate::text::count;
use drains::Drains;
use hops::{CurrentHops, HopWatch};
use neighbours::Neighbours;
use path_mtu::PathLearner;
pub use paths::Paths;
use pipeline::Pipeline;
pub use preflight::HostSetup;
use published::{Current, Published, Publisher};
pub use reread::Reload;
use reread::Rereading;
use routes::{Guards, Routes, Wanted};
use tee::{Capture, Tee};
pub use tee::{CaptureOptions, CaptureTo, Destination, Filter, FilterError};
pub use totals::{BackendTotals, Totals, VipTotals};
use ways::Policy;
use worker::{Pace, Remote, Worker};

/// How a director runs, apart from its configuration.
#[derive(Debug)]
pub struct RunOptions {
    /// What is done about a host that is not set up for it.
    pub setup: HostSetup,
    /// What is captured.
    pub capture: Option<CaptureOptions>,
}

/// Why a director stopped.
#[derive(Debug)]
pub enum StopReason {
    /// A signal that means to stop, by its name.
    Signal(String),
    /// The TUN cannot be read any more, above all because it was deleted.
    Failed(io::Error),
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(name) => f.write_str(name),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

/// Forwards packets until a signal comes or the TUN is gone. SIGHUP reads the configuration again
/// by `reload`, where it came from a file; `report` is called with the totals so far at each SIGUSR1.
///
/// # Errors
/// What is missing (privileges, TUN, routes), naming the object and the fix. Nothing is left
/// behind.
pub fn run(
    config: Config,
    options: RunOptions,
    reload: Option<Reload>,
    report: impl Fn(&Totals),
) -> Result<(Totals, StopReason)> {
    let (events, happened) = mpsc::sync_channel(EVENTS);
    signals::hear(events.clone()).context("cannot watch for signals")?;
    let mut daemon = Daemon::start(config, options, &events)?;
    let mut rereading = reload.map(|read| Rereading::new(read, events));
    info!("{}", daemon.summary());
    release_freed_memory();
    loop {
        match (daemon.wait(&happened)?, &mut rereading) {
            (Event::Stop(reason), _) => {
                info!("stopping: {reason}");
                return Ok((daemon.stop(), reason));
            }
            (Event::HangUp, None) => error!("{NO_FILE}"),
            (Event::HangUp, Some(rereading)) => rereading.begin(),
            (Event::Reread(read), rereading) => {
                daemon.reload(*read);
                release_freed_memory();
                if let Some(rereading) = rereading {
                    rereading.ended();
                }
            }
            (Event::Totals, _) => report(&daemon.totals()),
            (Event::TooLongFor(backend), _) => daemon.learner.ask_kernel(backend),
        }
    }
}

/// The answer to SIGHUP where there is nothing to read again. A terminal that closes sends it, too; that
/// ends a director no more than it would under nohup(1).
const NO_FILE: &str = "reload refused: the configuration came as flags, so there is no file to read again; \
     SIGTERM stops the director";

/// Events that may wait; what does not fit is reported again by the next packet.
const EVENTS: usize = 64;

/// What other threads tell the main one.
#[derive(Debug)]
enum Event {
    Stop(StopReason),
    /// SIGHUP.
    HangUp,
    /// The configuration was read again.
    Reread(Box<Result<Config, ConfigError>>),
    /// SIGUSR1.
    Totals,
    /// The kernel refused a packet for this backend as too long.
    TooLongFor(BackendIndex),
}

/// How often draining backends are looked at.
const DRAIN_INTERVAL: Duration = Duration::from_millis(500);

/// A director at work.
#[derive(Debug)]
struct Daemon {
    undo: Undo,
    /// What it runs by.
    config: Config,
    paths: Paths,
    setup: HostSetup,
    roster: Roster,
    publisher: Publisher,
    routes: Routes,
    neighbours: Neighbours,
    drains: Drains,
    learner: PathLearner,
    hop_watch: Option<HopWatch>,
    workers: Vec<WorkerThread>,
    capture: Option<Capture>,
}

#[derive(Debug)]
struct WorkerThread {
    remote: Remote,
    thread: JoinHandle<()>,
}

impl Daemon {
    /// Starts the workers; when this returns, packets flow. `events` hears of what
    /// the workers cannot settle.
    fn start(config: Config, options: RunOptions, events: &SyncSender<Event>) -> Result<Self> {
        capability::require(&[Capability::NetAdmin, Capability::NetRaw])?;
        capability::require_tun()?;
        undo::recover();
        let mut netlink = Netlink::open()?;
        config.check_cpus(&usable_cpus().context("cannot read the CPU affinity")?)?;
        preflight::refuse_local_vips(&config, &mut netlink)?;
        neighbours::refuse_unusable_device(&config, &mut netlink)?;
        let paths = Paths::resolve(&config, &mut netlink)?;
        let mut roster = Roster::building_by(threads::build_rings);
        let snapshot = Arc::new(paths.snapshot(&config, &mut roster)?);
        let wanted = Wanted::new(&config, &paths)?;
        let tun = &config.director.tun;
        let capture = options
            .capture
            .map(|options| Capture::start(options, tun))
            .transpose()?;

        let mut undo = Undo::new()?;
        let mut guards = Guards::default();
        guards.add(&wanted, &mut undo);
        preflight::prepare_host(&config, options.setup, &paths, &mut undo)?;
        let device = TunDevice::open(
            tun,
            config.director.workers,
            Offloads::IfNew,
            wanted.mtu,
            &mut undo,
        )?;
        netlink.set_queue_length(device.index, config.director.queue_length)?;
        let mut drains = Drains::default();
        drains.follow(&snapshot);
        let publisher = Publisher::new(Published {
            snapshot,
            longest: wanted.mtu as usize,
        });
        let pace = Pace {
            busy_poll: config.director.busy_poll,
            queue_length: config.director.queue_length as usize,
        };
        let shared = Shared {
            current: Arc::clone(publisher.current()),
            hops: CurrentHops::default(),
            epoch: Instant::now(),
            events: events.clone(),
            pass_by: Arc::default(),
        };
        let mut workers = device
            .queues
            .into_iter()
            .zip(seats(&config))
            .map(|(queue, seat)| {
                let tee = capture.as_ref().map(Capture::tee).unwrap_or_default();
                ready_worker(queue, &seat, &shared, tee, &mut roster, pace)
            })
            .collect::<Result<Vec<_>>>()?;
        introduce(&mut workers);
        let hop_watch = Policy::of(config.director.egress)
            .map(|policy| {
                hops::watch(
                    Arc::clone(&shared.current),
                    Arc::clone(&shared.hops),
                    policy,
                )
            })
            .transpose()?;
        let learner = PathLearner::new(&shared);
        learner
            .clone()
            .listen()
            .context("cannot listen for path MTU errors")?;
        let mut routes = Routes::new(device.name, device.index, wanted.mtu, guards);
        routes.follow(&wanted, &mut undo)?;
        let workers = workers
            .into_iter()
            .enumerate()
            .map(|(worker, ready)| {
                let cpu = config.director.cpus.numbers().get(worker).copied();
                ready.start(events.clone(), cpu)
            })
            .collect::<Result<_>>()?;
        let mut daemon = Self {
            undo,
            neighbours: Neighbours::default(),
            paths,
            setup: options.setup,
            roster,
            publisher,
            routes,
            drains,
            learner,
            hop_watch,
            workers,
            capture,
            config,
        };
        // Last: a machine that asks for a VIP from now on is served.
        let Self {
            neighbours,
            config,
            undo,
            ..
        } = &mut daemon;
        if let Err(error) = neighbours.follow(config, options.setup, undo) {
            daemon.stop();
            return Err(error);
        }
        Ok(daemon)
    }

    /// The next event; meanwhile draining backends are looked after.
    fn wait(&mut self, happened: &Receiver<Event>) -> Result<Event> {
        const DEAF: &str = "event channel closed unexpectedly";
        while self.drains.is_waiting() {
            match happened.recv_timeout(DRAIN_INTERVAL) {
                Ok(event) => return Ok(event),
                Err(RecvTimeoutError::Timeout) => {
                    let current = self.publisher.current().load();
                    self.drains.report(&current.snapshot, &self.roster);
                }
                Err(RecvTimeoutError::Disconnected) => bail!(DEAF),
            }
        }
        happened.recv().context(DEAF)
    }

    /// Undoes routes and settings, ends the workers, undoes the rest, and sums up what they did.
    fn stop(mut self) -> Totals {
        self.neighbours.stop();
        warn_of_failures(self.undo.undo_traffic());
        for worker in &self.workers {
            if let Err(error) = worker.remote.stop() {
                warn!("cannot wake a worker: {error}");
            }
        }
        let workers = mem::take(&mut self.workers);
        workers.into_iter().for_each(WorkerThread::join);
        if let Some(capture) = self.capture.take() {
            capture.stop();
        }
        warn_of_failures(self.undo.undo_all());
        self.totals()
    }

    /// What was forwarded and dropped so far.
    fn totals(&self) -> Totals {
        Totals {
            path_errors_refused: self.learner.refused(),
            ..Totals::new(&self.publisher.current().load().snapshot, &self.roster)
        }
    }

    /// Says that packets flow; scripts wait for the word "forwarding".
    fn summary(&self) -> String {
        let DirectorConfig { tun, workers, .. } = &self.config.director;
        let backends: usize = self.config.vips.iter().map(|vip| vip.backends.len()).sum();
        let vips = match self.config.vips.as_slice() {
            many if many.len() > NAMED => count(many.len(), "VIP"),
            few => names(few),
        };
        let backends = count(backends, "backend");
        let workers = count(workers.get(), "worker");
        let mtu = self.routes.device_mtu();
        format!("{tun}: forwarding {vips} to {backends}, {workers}, MTU {mtu}")
    }
}

fn warn_of_failures(failures: Vec<(Step, UndoError)>) {
    for (step, error) in failures {
        warn!("cannot undo {step}: {error}; by hand: {}", step.by_hand());
    }
}

/// More VIPs than this are counted in the log, not named.
const NAMED: usize = 8;

fn names(vips: &[VipSpec]) -> String {
    let names: Vec<_> = vips.iter().map(|vip| vip.name.as_str()).collect();
    names.join(", ")
}

/// What all threads of the data path share.
#[derive(Debug, Clone)]
struct Shared {
    current: Current,
    hops: CurrentHops,
    /// Of all timestamps of this run.
    epoch: Instant,
    events: SyncSender<Event>,
    /// Until when, in nanoseconds of a timestamp, the kernel's learnt path MTUs are passed by.
    pass_by: Arc<AtomicU64>,
}

/// One seat per worker.
fn seats(config: &Config) -> impl Iterator<Item = Seat> {
    let workers = u16::try_from(config.director.workers.get()).unwrap_or(u16::MAX);
    (0..workers).map(move |worker| Seat {
        worker,
        workers,
        seed: random_seed(),
    })
}

/// Four words of the random state with which std keys its hash maps.
fn random_seed() -> [u64; 4] {
    let state = RandomState::new();
    std::array::from_fn(|word| state.hash_one(word))
}

/// The smallest MTU of an IPv6 link (RFC 8200 §5).
const SMALLEST_IPV6_MTU: u32 = 1280;

/// A worker with everything open, not yet reading.
struct ReadyWorker {
    worker: Worker<Queue, GueEgress>,
    remote: Remote,
}

fn ready_worker(
    queue: Queue,
    seat: &Seat,
    shared: &Shared,
    tee: Tee,
    roster: &mut Roster,
    pace: Pace,
) -> Result<ReadyWorker> {
    let current = shared.current.load();
    let packet = PacketEgress::open().context("cannot open a packet or raw socket")?;
    let egress = GueEgress::new(XskEgress::new(seat.worker.into(), packet));
    let director = Director::new(Arc::clone(&current.snapshot), seat);
    roster.attach(Arc::clone(director.counters()));
    let pipeline = Pipeline::new(queue, egress, director, current.longest);
    let (worker, remote) =
        Worker::new(pipeline, tee, shared.clone(), pace).context("cannot set up the event loop")?;
    Ok(ReadyWorker { worker, remote })
}

/// Each worker can ask the others, where there are others.
fn introduce(workers: &mut [ReadyWorker]) {
    if workers.len() > 1 {
        let mails = mail::connect(workers.iter().map(|ready| ready.remote.waker()));
        for (ready, mail) in workers.iter_mut().zip(mails) {
            ready.worker.join(mail);
        }
    }
}

impl ReadyWorker {
    /// Starts the thread, on that CPU alone where there is one.
    fn start(self, events: SyncSender<Event>, cpu: Option<u16>) -> Result<WorkerThread> {
        let worker = self.worker;
        let body = move || {
            if let Err(error) = pin(cpu).and_then(|()| worker.run()) {
                // Nobody listens only while the daemon is stopping anyway.
                events.send(Event::Stop(StopReason::Failed(error))).ok();
            }
        };
        let thread = thread::Builder::new()
            .name("tunlb-worker".into())
            .spawn(body)
            .context("cannot start a worker thread")?;
        Ok(WorkerThread {
            remote: self.remote,
            thread,
        })
    }
}

fn pin(cpu: Option<u16>) -> io::Result<()> {
    let Some(cpu) = cpu else {
        return Ok(());
    };
    pin_to_cpu(cpu).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot pin a worker to CPU {cpu}: {error}"),
        )
    })
}

impl WorkerThread {
    fn join(self) {
        if self.thread.join().is_err() {
            warn!("a worker panicked");
        }
    }
}
