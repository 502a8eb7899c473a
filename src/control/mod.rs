//! Control: the one owner of what a director runs by. Configuration, overrides, ways, the roster and what is
//! published of them change here and nowhere else, on one thread, by one request after the other.
//!
//! - What others ask for is a [`Request`] with a [`Reply`]; what they see is a [`View`], which they read without waiting.
//! - Workers forward by what is published (`published`). A change of packets' ways is done in two parts: it is published,
//!   and when every worker has adopted it, the host follows (`pending`). Control waits for neither: requests that
//!   come meanwhile wait in a queue, so that each sees a state in which nothing is half done.
//! - What this host is asked and told goes through the trait [`Host`].
//!
//! Control never touches a packet, and sends no answer itself: replies must not wait.

pub mod announce;
pub mod build_times;
mod change;
mod command;
mod converge;
mod drains;
mod driver;
pub mod events;
mod flows;
mod health;
pub mod host;
pub mod overlay;
mod pending;
pub(crate) mod published;
mod reload;
pub mod slow_start;
pub mod view;
mod workers;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use arc_swap::ArcSwap;

pub use command::{
    Ask, Busy, CaptureRequest, DryRun, Handle, KeepOverrides, Refused, Reload, ReloadOptions,
    Reloaded, Reply, Request,
};
pub use driver::{DriverInterface, DriverWatch};
pub use flows::{FlowChunk, FlowError, FlowMailbox, FlowRequest, MAX_FLOWS};
pub use health::Measured;
pub use workers::{Heartbeat, WorkerLink};

use crate::config::Config;
use crate::director::{Roster, Snapshot, VipIndex, VipSpec};
use crate::health::{Gauges, probe_ends};
use crate::site::Paths;
use announce::Announcements;
use build_times::BuildTimes;
use drains::Drains;
use events::EventLog;
use host::{Host, Wanted};
use overlay::Overlay;
use pending::Pending;
use published::{Current, Published, Publisher};
use slow_start::SlowStarts;
use view::{HostProblem, LastReload, View};

/// How often draining backends are looked at.
const DRAIN_INTERVAL: Duration = Duration::from_millis(500);

/// What a director runs by, each part whole.
#[derive(Debug, Clone)]
struct State {
    /// As the file says, or the flags.
    config: Arc<Config>,
    overlay: Arc<Overlay>,
    /// The configuration with the overrides.
    effective: Arc<Config>,
    /// The ways to the backends of that.
    paths: Arc<Paths>,
    /// What probes found.
    measured: Arc<Measured>,
    /// Those that take a part of their weight yet.
    slow_starts: Arc<SlowStarts>,
}

/// The owner. `H` is the host that it works on.
pub struct Control<H> {
    host: H,
    state: State,
    roster: Roster,
    publisher: Publisher,
    drains: Drains,
    pending: VecDeque<Pending>,
    /// What came while a change was under way.
    queue: VecDeque<Work>,
    /// Wakes the workers and the other readers of what is published.
    wake: Box<dyn Fn() + Send>,
    generation: u64,
    /// No attempt to end expired overrides before: the last one failed.
    no_expiry_before: Instant,
    /// Nor a step of a slow start.
    no_step_before: Instant,
    /// The number of what is measured.
    plan: u64,
    gauges: Arc<Gauges>,
    loaded: SystemTime,
    last_reload: Option<LastReload>,
    problems: Arc<[HostProblem]>,
    /// What routers are to be told of the VIPs' addresses.
    announced: Arc<Announcements>,
    builds: Arc<BuildTimes>,
    view: Arc<ArcSwap<View>>,
    events: Arc<EventLog>,
}

/// What is done by one after the other.
#[derive(Debug)]
enum Work {
    Request(Request),
    /// A configuration that was read.
    Reload(Box<Reload>),
    /// The kernel says that something of this host changed.
    Converge,
}

impl<H: fmt::Debug> fmt::Debug for Control<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("host", &self.host)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// A director's parts before its workers exist.
#[derive(Debug)]
pub struct Beginning {
    state: State,
    /// By which snapshots are built; workers attach their counters to it.
    pub roster: Roster,
    /// What is to lead into the TUN.
    pub wanted: Wanted,
    publisher: Publisher,
}

impl Beginning {
    /// What `config` is on `host`: refused where that is impossible, and nothing is changed yet.
    ///
    /// # Errors
    /// What is impossible, by name, and the fix.
    pub fn new(config: Config, host: &mut impl Host, mut roster: Roster) -> Result<Self> {
        host.refuse(&config)?;
        let paths = host.paths(&config)?;
        let state = State {
            effective: Arc::new(config.clone()),
            measured: Arc::new(Measured::default().followed(&config)),
            slow_starts: Arc::default(),
            config: Arc::new(config),
            overlay: Arc::default(),
            paths: Arc::new(paths),
        };
        let snapshot = state.snapshot(&mut roster)?;
        let wanted = Wanted::new(&state.effective, &state.paths)?;
        let publisher = Publisher::new(Published {
            snapshot: Arc::new(snapshot),
            longest: wanted.mtu as usize,
        });
        Ok(Self {
            state,
            roster,
            wanted,
            publisher,
        })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Arc<Config> {
        &self.state.config
    }

    /// The ways to its backends.
    #[must_use]
    pub fn paths(&self) -> &Arc<Paths> {
        &self.state.paths
    }

    /// Where the workers find what holds.
    pub(crate) const fn current(&self) -> &Current {
        self.publisher.current()
    }

    /// Control over a host whose TUN is open and whose workers are attached to the roster. `wake` wakes them, and
    /// the other readers of what is published.
    #[must_use]
    pub fn control<H: Host>(
        self,
        host: H,
        events: Arc<EventLog>,
        wake: impl Fn() + Send + 'static,
    ) -> Control<H> {
        let loaded = SystemTime::now();
        let snapshot = Arc::clone(&self.publisher.current().load().snapshot);
        let mut drains = Drains::default();
        drains.follow(&snapshot);
        let builds = Arc::<BuildTimes>::default();
        let view = View {
            generation: 1,
            config: Arc::clone(&self.state.config),
            effective: Arc::clone(&self.state.effective),
            overlay: Arc::clone(&self.state.overlay),
            paths: Arc::clone(&self.state.paths),
            snapshot,
            measured: Arc::clone(&self.state.measured),
            slow_starts: Arc::clone(&self.state.slow_starts),
            gauges: Arc::default(),
            counters: self.roster.counters().clone(),
            loaded,
            last_reload: None,
            problems: Arc::default(),
            announced: Arc::default(),
            builds: Arc::clone(&builds),
        };
        let mut control = Control {
            host,
            state: self.state,
            roster: self.roster,
            publisher: self.publisher,
            drains,
            pending: VecDeque::new(),
            queue: VecDeque::new(),
            wake: Box::new(wake),
            generation: 1,
            no_expiry_before: Instant::now(),
            no_step_before: Instant::now(),
            plan: 0,
            gauges: Arc::default(),
            loaded,
            last_reload: None,
            problems: Arc::default(),
            announced: Arc::default(),
            builds,
            view: Arc::new(ArcSwap::from_pointee(view)),
            events,
        };
        control.measure();
        control.show();
        control
    }
}

impl State {
    fn snapshot(&self, roster: &mut Roster) -> Result<Snapshot> {
        let health = |vip: &VipSpec, address| self.health(vip, address);
        roster.know_probes(probe_ends(&self.effective, &self.paths));
        self.paths.snapshot(&self.effective, roster, health)
    }

    fn refreshed(&self, roster: &mut Roster, changed: &[VipIndex]) -> Result<Snapshot> {
        let health = |vip: &VipSpec, address| self.health(vip, address);
        self.paths
            .refreshed(&self.effective, roster, changed, health)
    }
}

impl<H: Host> Control<H> {
    /// The host that it works on.
    pub const fn host(&mut self) -> &mut H {
        &mut self.host
    }

    /// What it runs by: the configuration with the overrides.
    #[must_use]
    pub fn effective(&self) -> &Config {
        &self.state.effective
    }

    /// Where its view is published.
    #[must_use]
    pub const fn view(&self) -> &Arc<ArcSwap<View>> {
        &self.view
    }

    /// By which snapshots are built, and what the workers count.
    #[must_use]
    pub const fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Does what a client asks for, or keeps it until what is under way is done.
    pub fn ask(&mut self, request: Request) {
        self.work(Work::Request(request));
    }

    /// Applies a configuration that was read, or says why the old one stays.
    pub fn reload(&mut self, reload: Reload) {
        self.work(Work::Reload(Box::new(reload)));
    }

    /// Looks at the host again: the kernel says that something changed.
    pub fn converge(&mut self) {
        let waits = self.queue.iter().any(|work| matches!(work, Work::Converge));
        if !waits {
            self.work(Work::Converge);
        }
    }

    fn work(&mut self, work: Work) {
        self.queue.push_back(work);
        self.go_on();
    }

    /// Goes on with what is under way, as far as it can without waiting; to be called after each event, and when
    /// [`patience`](Self::patience) is over.
    pub fn go_on(&mut self) {
        loop {
            while let Some(pending) = self.pending.pop_front() {
                if pending.is_due(&self.roster, Instant::now()) {
                    self.finish(pending);
                } else {
                    self.pending.push_front(pending);
                    break;
                }
            }
            if !self.pending.is_empty() {
                break;
            }
            self.publisher.free(&self.roster);
            match self.queue.pop_front() {
                Some(Work::Request(request)) => self.begin_request(request),
                Some(Work::Reload(reload)) => self.begin_reload(*reload),
                Some(Work::Converge) => self.begin_converging(),
                None => break,
            }
        }
        self.expire_overrides();
        self.step_slow_starts();
        self.end_waits();
        self.report_drains();
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.queue.is_empty()
    }

    /// How long the next event may be waited for; `None`: for ever.
    #[must_use]
    pub fn patience(&self) -> Option<Duration> {
        let pending = self.pending.front().map(|pending| pending.patience());
        let drains = self.drains.is_waiting().then_some(DRAIN_INTERVAL);
        let overrides = self.until_override_ends();
        let waits = self.until_wait_ends();
        let steps = self.until_step();
        [pending, drains, overrides, waits, steps]
            .into_iter()
            .flatten()
            .min()
    }

    fn report_drains(&mut self) {
        if self.drains.is_waiting() {
            let current = self.publisher.current().load();
            self.drains
                .report(&current.snapshot, &self.roster, &self.events);
        }
    }

    /// Makes `state` what the workers forward by. Only `changed` VIPs are different, or everything.
    fn publish(
        &mut self,
        state: &State,
        changed: Option<&[VipIndex]>,
        longest: u32,
    ) -> Result<u64> {
        let begun = Instant::now();
        let snapshot = match changed {
            Some(changed) => state.refreshed(&mut self.roster, changed)?,
            None => state.snapshot(&mut self.roster)?,
        };
        self.builds.add(begun.elapsed());
        let snapshot = Arc::new(snapshot);
        let epoch = snapshot.epoch();
        self.drains.follow(&snapshot);
        self.publisher.publish(Published {
            snapshot,
            longest: longest as usize,
        });
        (self.wake)();
        Ok(epoch)
    }

    /// Shows what holds now, whatever changed.
    fn show(&mut self) {
        self.judge_addresses(None);
        self.show_view();
    }

    /// The same where nothing changed that is announced, or it was judged already.
    fn show_view(&mut self) {
        let current = self.publisher.current().load();
        let view = View {
            generation: self.generation,
            config: Arc::clone(&self.state.config),
            effective: Arc::clone(&self.state.effective),
            overlay: Arc::clone(&self.state.overlay),
            paths: Arc::clone(&self.state.paths),
            snapshot: Arc::clone(&current.snapshot),
            measured: Arc::clone(&self.state.measured),
            slow_starts: Arc::clone(&self.state.slow_starts),
            gauges: Arc::clone(&self.gauges),
            counters: self.roster.counters().clone(),
            loaded: self.loaded,
            last_reload: self.last_reload.clone(),
            problems: Arc::clone(&self.problems),
            announced: Arc::clone(&self.announced),
            builds: Arc::clone(&self.builds),
        };
        self.view.store(Arc::new(view));
    }
}

#[cfg(test)]
mod tests;
