//! The running director: joins [`io`](crate::io) to [`director`](crate::director).
//!
//! Start order, each step before anything that it could leave behind: validate (the caller's
//! [`Config`]), privileges, the host's state, TUN, sockets, routes, threads. Stop order is the
//! reverse: routes and settings first, so that no packet enters a TUN that nobody reads.

mod driver;
#[cfg(test)]
mod faults;
mod hops;
mod host_watch;
mod mail;
mod path_mtu;
pub mod pipeline;
mod pulse;
#[cfg_attr(not(feature = "xdp"), path = "redirect/without.rs")]
mod redirect;
mod reloading;
mod reread;
mod signals;
mod tee;
#[cfg(test)]
mod testing;
mod threads;
mod totals;
mod ways;
mod worker;
#[cfg(feature = "xdp")]
pub mod xdp;

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use log::{info, warn};

use crate::api::ApiServer;
use crate::config::{Config, ConfigError};
use crate::control::events::{EventKind, EventLog, Happening};
pub use crate::control::host::HostSetup;
use crate::control::host::{Host as _, ThisHost};
use crate::control::overlay::Author;
use crate::control::published::Current;
use crate::control::view::Identity;
use crate::control::{Ask, Beginning, Busy, Control, DryRun, Handle, Reload, Reply, Request};
#[cfg(feature = "xdp")]
use crate::director::Timestamp;
use crate::director::{BackendIndex, Director, Roster, Seat};
use crate::health::{Health, NotTaken};
use crate::io::capability::{self, Capability};
use crate::io::egress::{GueEgress, PacketEgress, XskEgress};
use crate::io::ingress::XskIngress;
use crate::io::service_manager;
use crate::io::sys::{release_freed_memory, usable_cpus};
use crate::io::tun::Queue;
use crate::io::undo;
use hops::{CurrentHops, HopWatch};
use path_mtu::PathLearner;
use pipeline::Pipeline;
use redirect::{Redirects, Share};
use reloading::Reloading;
pub use reread::ReadAgain;
use reread::{Asker, Rereading};
pub use tee::{CaptureOptions, CaptureTo, Destination, Filter, FilterError, SMALLEST_CAPTURE};
use tee::{Captures, Client, Tee};
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
    /// The file of the configuration; `None` where it came as flags.
    pub file: Option<PathBuf>,
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
/// by `again`, where it came from a file; `report` is called with the totals so far at each SIGUSR1.
///
/// # Errors
/// What is missing (privileges, TUN, routes), naming the object and the fix. Nothing is left
/// behind.
pub fn run(
    config: Config,
    options: RunOptions,
    again: Option<ReadAgain>,
    report: impl Fn(&Totals),
) -> Result<(Totals, StopReason)> {
    let (events, happened) = mpsc::sync_channel(EVENTS);
    signals::hear(events.clone()).context("cannot watch for signals")?;
    let mut daemon = Daemon::start(config, options, &events)?;
    let mut rereading = again.map(|read| Rereading::new(read, events));
    let summary = daemon.control.summary();
    info!("{summary}");
    service_manager::tell_ready(&summary);
    release_freed_memory();
    loop {
        let reading = rereading.as_ref().is_some_and(Rereading::is_reading);
        match daemon.wait(&happened, reading)? {
            Event::Stop(reason) => {
                info!("stopping: {reason}");
                service_manager::tell_stopping(&reason.to_string());
                return Ok((daemon.stop(), reason));
            }
            Event::HangUp => {
                daemon.reloading.begin();
                reread(&mut rereading, Asker::default());
            }
            Event::Ask(Ask::Reload { options, by, reply }) => {
                if options.dry_run == DryRun::No {
                    daemon.reloading.begin();
                }
                let asker = Asker {
                    options,
                    by: Some(by),
                    reply: Some(reply),
                };
                reread(&mut rereading, asker);
            }
            Event::Ask(Ask::Control(request)) => daemon.control.ask(request),
            Event::Ask(Ask::Capture { what, by, reply }) => {
                let client = daemon.client(by, reply);
                let config = daemon.control.effective();
                daemon.captures.ask_begin(what, config, client);
            }
            Event::Ask(Ask::StopCapture { by, reply }) => {
                daemon.captures.ask_end(daemon.client(by, reply));
            }
            Event::Reread(read, asker) => {
                daemon.reload(*read, asker.unwrap_or_default());
                if let Some(rereading) = &mut rereading {
                    rereading.ended();
                }
            }
            Event::Totals => report(&daemon.totals()),
            Event::TooLongFor(backend) => daemon.learner.ask_kernel(backend),
            Event::Adopted => daemon.control.go_on(),
            Event::HostChanged => daemon.control.converge(),
        }
    }
}

/// Reads the configuration again, or says that there is nothing to read. A terminal that closes sends SIGHUP,
/// too; that ends a director no more than it would under nohup(1).
fn reread(rereading: &mut Option<Rereading>, asker: Asker) {
    match rereading {
        Some(rereading) => rereading.begin(asker),
        None => asker.refuse(NO_FILE),
    }
}

const NO_FILE: &str = "the configuration came as flags, so there is no file to read again; \
     SIGTERM stops the director";

/// Events that may wait; what does not fit is reported again by the next packet, or looked for in time.
const EVENTS: usize = 64;

/// What other threads tell the main one.
#[derive(Debug)]
enum Event {
    Stop(StopReason),
    /// SIGHUP.
    HangUp,
    /// The configuration was read again, for this one.
    Reread(Box<Result<Config, ConfigError>>, Option<Asker>),
    /// SIGUSR1.
    Totals,
    /// The kernel refused a packet for this backend as too long.
    TooLongFor(BackendIndex),
    /// A worker forwards by another snapshot.
    Adopted,
    /// The kernel tells that links, addresses, routes or settings changed.
    HostChanged,
    /// A client asks.
    Ask(Ask),
}

/// A director at work.
#[derive(Debug)]
struct Daemon {
    control: Control<ThisHost>,
    learner: PathLearner,
    workers: Vec<WorkerThread>,
    captures: Captures,
    redirects: Redirects,
    driver: driver::AtWork,
    handle: Handle,
    reloading: Reloading,
    api: Option<ApiServer>,
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
        config.check_cpus(&usable_cpus().context("cannot read the CPU affinity")?)?;
        let mut host = ThisHost::new(options.setup)?;
        let roster = Roster::building_by(threads::build_rings);
        let mut beginning = Beginning::new(config, &mut host, roster)?;
        let config = Arc::clone(beginning.config());
        let captures = Captures::default();
        if let Some(capture) = options.capture {
            captures.begin(capture, &config.director.tun)?;
        }
        host.prepare(&config, beginning.paths(), &beginning.wanted)?;
        let queues = host.open_tun(&config, &beginning.wanted)?;
        let shared = Shared::new(beginning.current(), events);
        let (redirects, shares) = Redirects::open(&config.director)?;
        let queues = queues.into_iter().zip(shares).collect();
        let driver = driver::prepare(&config, &shared)?;
        let mut workers = ready_workers(queues, &config, &shared, &captures, &mut beginning)?;
        driver.share_flows(&mut workers, &config)?;
        introduce(&mut workers);
        let hop_watch = watch_hops(&config, &shared)?;
        let learner = PathLearner::new(&shared);
        learner
            .clone()
            .listen()
            .context("cannot listen for path MTU errors")?;
        host.lead(&beginning.wanted)?;
        host.measure_by(health(&config, &shared));
        let links: Vec<_> = workers.iter().map(|ready| ready.remote.link()).collect();
        let workers = start_workers(workers, &config, events)?;
        let driver = driver.attach(&config, &shared, &links, &mut beginning.roster)?;
        let log = Arc::new(EventLog::default());
        let wakers: Vec<_> = workers.iter().map(|worker| worker.remote.waker()).collect();
        let (current, following) = (Arc::clone(&shared.current), redirects.clone());
        let driver_waker = driver.waker();
        let wake = move || {
            wake_all(&wakers, hop_watch.as_ref());
            following.follow(&current.load().snapshot);
            driver_waker.wake();
        };
        let control = beginning.control(host, Arc::clone(&log), wake);
        let identity = Identity {
            started: SystemTime::now(),
            file: options.file,
            tun: config.director.tun.clone(),
            workers: links,
            driver: driver.watch(),
        };
        let handle = handle(identity, log, &control, events);
        let mut daemon = Self {
            control,
            learner,
            workers,
            captures,
            redirects,
            driver,
            handle,
            reloading: Reloading::default(),
            api: None,
        };
        if let Err(error) = daemon.open_up(&config, events) {
            daemon.stop();
            return Err(error);
        }
        Ok(daemon)
    }

    /// Last: a machine that asks for a VIP from now on is served.
    fn open_up(&mut self, config: &Config, events: &SyncSender<Event>) -> Result<()> {
        let snapshot = Arc::clone(&self.control.view().load().snapshot);
        self.redirects.begin(&config.director, &snapshot)?;
        self.control.host().answer(config)?;
        host_watch::watch(events.clone())?;
        pulse::start(self.handle.identity.workers.clone()).context("cannot start the pulse")?;
        self.control.converge();
        self.api = ApiServer::start(self.handle.clone(), &config.director)?;
        let text = self.control.summary();
        self.handle
            .events
            .tell(Happening::new(EventKind::Started, text));
        Ok(())
    }

    /// The next event; meanwhile control goes on with what is under way. `reading`: the configuration is being read.
    fn wait(&mut self, happened: &Receiver<Event>, reading: bool) -> Result<Event> {
        const DEAF: &str = "event channel closed unexpectedly";
        loop {
            self.control.go_on();
            if !reading && self.control.is_settled() {
                self.reloading.settle(|| self.control.status());
            }
            let Some(patience) = self.control.patience() else {
                return happened.recv().context(DEAF);
            };
            match happened.recv_timeout(patience) {
                Ok(event) => return Ok(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!(DEAF),
            }
        }
    }

    fn reload(&mut self, read: Result<Config, ConfigError>, asker: Asker) {
        self.control.reload(Reload {
            read,
            options: asker.options,
            by: asker.by,
            reply: asker.reply,
        });
        release_freed_memory();
    }

    /// Takes no more requests, undoes routes and settings, ends the workers, undoes the rest, and sums up what they did.
    fn stop(mut self) -> Totals {
        if let Some(api) = self.api.take() {
            api.stop();
        }
        self.redirects.end();
        std::mem::take(&mut self.driver).detach();
        self.control.host().undo_traffic();
        for worker in &self.workers {
            if let Err(error) = worker.remote.stop() {
                warn!("cannot wake a worker: {error}");
            }
        }
        let workers = std::mem::take(&mut self.workers);
        workers.into_iter().for_each(WorkerThread::join);
        self.captures.end();
        self.control.host().undo_all();
        self.totals()
    }

    fn client<T>(&self, by: Author, reply: Reply<Result<T, String>>) -> Client<T> {
        let events = Arc::clone(&self.handle.events);
        Client { by, events, reply }
    }

    /// What was forwarded and dropped so far.
    fn totals(&self) -> Totals {
        let view = self.control.view().load();
        Totals {
            path_errors_refused: self.learner.refused(),
            ..Totals::new(&view.snapshot, &view.counters)
        }
    }
}

/// The workers, and the thread of next hops, look at what is published.
fn wake_all(workers: &[Arc<mio::Waker>], hops: Option<&HopWatch>) {
    if let Some(hops) = hops {
        hops.wake();
    }
    for worker in workers {
        if let Err(error) = worker.wake() {
            warn!("cannot wake a worker: {error}");
        }
    }
}

fn handle(
    identity: Identity,
    log: Arc<EventLog>,
    control: &Control<ThisHost>,
    events: &SyncSender<Event>,
) -> Handle {
    let events = events.clone();
    let ask = move |ask| events.try_send(Event::Ask(ask)).map_err(|_| Busy);
    Handle::new(Arc::new(identity), log, Arc::clone(control.view()), ask)
}

/// Measures backends of what the workers forward by, and tells the main loop.
fn health(config: &Config, shared: &Shared) -> Health {
    let current = Arc::clone(&shared.current);
    let events = shared.events.clone();
    let report = move |reports| {
        let ask = Event::Ask(Ask::Control(Request::Health(reports)));
        events.try_send(ask).map_err(|_| NotTaken)
    };
    let snapshots = move || Arc::clone(&current.load().snapshot);
    Health::new(&config.director.tun, Box::new(snapshots), Box::new(report))
}

fn watch_hops(config: &Config, shared: &Shared) -> Result<Option<HopWatch>> {
    let watch = |policy| {
        hops::watch(
            Arc::clone(&shared.current),
            Arc::clone(&shared.hops),
            policy,
        )
    };
    Policy::of(config.director.egress).map(watch).transpose()
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

impl Shared {
    /// This moment.
    #[cfg(feature = "xdp")]
    fn now(&self) -> Timestamp {
        Timestamp::after(self.epoch.elapsed())
    }

    fn new(current: &Current, events: &SyncSender<Event>) -> Self {
        Self {
            current: Arc::clone(current),
            hops: CurrentHops::default(),
            epoch: Instant::now(),
            events: events.clone(),
            pass_by: Arc::default(),
        }
    }
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

/// A worker with everything open, not yet reading.
struct ReadyWorker {
    worker: Worker<XskIngress, GueEgress>,
    remote: Remote,
}

fn ready_workers(
    queues: Vec<(Queue, Share)>,
    config: &Config,
    shared: &Shared,
    captures: &Captures,
    beginning: &mut Beginning,
) -> Result<Vec<ReadyWorker>> {
    let pace = Pace {
        busy_poll: config.director.busy_poll,
        queue_length: config.director.queue_length as usize,
    };
    let ready = queues.into_iter().zip(seats(config)).map(|(queues, seat)| {
        let tee = captures.tee();
        ready_worker(queues, &seat, shared, tee, &mut beginning.roster, pace)
    });
    ready.collect()
}

fn start_workers(
    workers: Vec<ReadyWorker>,
    config: &Config,
    events: &SyncSender<Event>,
) -> Result<Vec<WorkerThread>> {
    let started = workers.into_iter().enumerate().map(|(worker, ready)| {
        let cpu = config.director.cpus.numbers().get(worker).copied();
        ready.start(events.clone(), cpu)
    });
    started.collect()
}

fn ready_worker(
    (queue, share): (Queue, Share),
    seat: &Seat,
    shared: &Shared,
    tee: Tee,
    roster: &mut Roster,
    pace: Pace,
) -> Result<ReadyWorker> {
    let current = shared.current.load();
    let packet = PacketEgress::open().context("cannot open a packet or raw socket")?;
    let mut ingress = XskIngress::new(queue);
    let mut egress = XskEgress::new(seat.worker.into(), packet);
    share.give(&mut ingress, &mut egress);
    let egress = GueEgress::new(egress);
    let director = Director::new(Arc::clone(&current.snapshot), seat);
    roster.attach(Arc::clone(director.counters()));
    let pipeline = Pipeline::new(ingress, egress, director, current.longest);
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
            if let Err(error) = threads::pin(cpu).and_then(|()| worker.run()) {
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

impl WorkerThread {
    fn join(self) {
        if self.thread.join().is_err() {
            warn!("a worker panicked");
        }
    }
}
