//! A director of which nothing is real but what the API sees: a view, its handle and its events. No privileges.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;

use super::losses::Losses;
use super::rates::AllRates;
use super::shares::Shares;
use super::status::Measurements;
use crate::config::Config;
use crate::control::events::{EventKind, EventLog, Happening};
use crate::control::overlay::{
    Action, Author, BackendName, Change, ChangeError, Edit, Edits, Overlay,
};
use crate::control::view::{HostProblem, Identity, View};
use crate::control::{Ask, Busy, Handle, Heartbeat, Refused, Reloaded, Request, WorkerLink};
use crate::director::{BackendState, Counters, Director, Health, Roster, Seat, Snapshot, VipSpec};
use crate::site::Paths;

/// The director. What is asked of it is done at once.
pub(super) struct Fake {
    handle: Handle,
    view: Arc<ArcSwap<View>>,
    state: Arc<Mutex<State>>,
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    waker: Arc<mio::Waker>,
    worker: Option<JoinHandle<()>>,
}

/// How the one worker behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FakeWorker {
    /// It beats when it is woken.
    Turns,
    /// It never does.
    Hangs,
}

struct State {
    config: Arc<Config>,
    overlay: Overlay,
    roster: Roster,
    /// The worker's; none before the first snapshot.
    director: Option<Director>,
    generation: u64,
    /// Asks that are refused as busy.
    busy: bool,
    /// Requests left unanswered.
    kept: Option<Vec<Ask>>,
}

impl Fake {
    /// VIPs `vip0`, `vip1` … on port 80, each with these backends.
    pub(super) fn new(vips: u8, backends: &[&str]) -> Self {
        Self::with(vips, backends, FakeWorker::Turns)
    }

    pub(super) fn with(vips: u8, backends: &[&str], worker: FakeWorker) -> Self {
        let backend = |address: &&str| format!("{{ address = \"{address}\" }},");
        let backends: String = backends.iter().map(backend).collect();
        let vip = |n| {
            format!(
                "[[vip]]\nname = \"vip{n}\"\naddress = \"192.0.2.{n}\"\nbackend = [{backends}]\n"
            )
        };
        let text: String = (0..vips).map(vip).collect();
        Self::of(Config::parse("f", &text).unwrap(), worker)
    }

    pub(super) fn of(config: Config, behaviour: FakeWorker) -> Self {
        let mut state = State {
            config: Arc::new(config),
            overlay: Overlay::default(),
            roster: Roster::default(),
            director: None,
            generation: 1,
            busy: false,
            kept: None,
        };
        let view = Arc::new(ArcSwap::from_pointee(state.view()));
        let counters = state
            .director
            .as_ref()
            .map(|director| Arc::clone(director.counters()));
        let counters = counters.unwrap();
        let poll = mio::Poll::new().unwrap();
        let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
        let heartbeat = Arc::new(Heartbeat::new(Instant::now()));
        let link = WorkerLink {
            counters: Arc::clone(&counters),
            heartbeat: Arc::clone(&heartbeat),
            waker: Arc::clone(&waker),
            flows: Arc::default(),
        };
        let identity = Identity {
            started: SystemTime::now(),
            file: Some("/etc/tunlb/tunlb.toml".into()),
            tun: "tunlb0".into(),
            workers: vec![link],
            driver: None,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let worker = run_worker(poll, heartbeat, Arc::clone(&stop), behaviour);
        let state = Arc::new(Mutex::new(state));
        let events = Arc::new(EventLog::default());
        let answerer = Answerer {
            state: Arc::clone(&state),
            view: Arc::clone(&view),
            events: Arc::clone(&events),
        };
        let ask = move |ask| answerer.ask(ask);
        Self {
            handle: Handle::new(Arc::new(identity), events, Arc::clone(&view), ask),
            view,
            state,
            counters,
            stop,
            waker,
            worker: Some(worker),
        }
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    pub(super) fn view(&self) -> Arc<View> {
        self.handle.view()
    }

    pub(super) fn measurements(&self) -> Measurements {
        let mut rates = AllRates::new(Instant::now());
        rates.read(&self.view(), Instant::now());
        Measurements {
            rates,
            shares: Shares::default(),
            losses: Losses::new("tunlb0"),
            host: "lb1".into(),
        }
    }

    /// Counts packets that left for a backend, by the positions of it and its VIP.
    pub(super) fn send(&self, vip: usize, backend: usize, packets: u64, bytes: usize) {
        let view = self.view();
        let index = view.snapshot.vips()[vip].backends()[backend];
        for _ in 0..packets {
            self.counters.count_sent(index, bytes);
        }
    }

    pub(super) fn disable(&mut self, vip: &str, address: &str) {
        let edits = Edits {
            state: Edit::Set(BackendState::Disabled),
            ..Edits::default()
        };
        self.change(vip, address, Action::Edit(edits)).unwrap();
    }

    pub(super) fn set_health(&mut self, vip: &str, address: &str, health: Health) {
        let edits = Edits {
            health: Edit::Set(health),
            ..Edits::default()
        };
        self.change(vip, address, Action::Edit(edits)).unwrap();
    }

    pub(super) fn add(&mut self, vip: &str, address: &str) {
        let action = Action::Add(Edits::default());
        self.change(vip, address, action).unwrap();
    }

    fn change(&mut self, vip: &str, address: &str, action: Action) -> Result<u64, ChangeError> {
        let change = Change {
            backend: BackendName {
                vip: vip.into(),
                address: address.parse().unwrap(),
            },
            action,
            lasts: Some(Duration::from_secs(600)),
            reason: Some("a test".into()),
            if_generation: None,
        };
        let by = Author {
            uid: 1000,
            user: Some("ann".into()),
            pid: None,
        };
        let (sender, answer) = std::sync::mpsc::channel();
        let reply = crate::control::Reply::new(move |answer| sender.send(answer).unwrap());
        let request = Request::Change { change, by, reply };
        self.handle.ask(Ask::Control(request)).unwrap();
        answer.recv().unwrap()
    }

    /// From now on there is that problem, too.
    pub(super) fn problem(&self, what: &str, keeps_from_work: bool) {
        let mut view = View::clone(&self.view());
        let problem = HostProblem {
            what: what.into(),
            text: format!("{what} is off"),
            keeps_from_work,
        };
        view.problems = view.problems.iter().cloned().chain([problem]).collect();
        self.view.store(Arc::new(view));
    }

    /// From now on nothing can be asked.
    pub(super) fn be_busy(&self) {
        self.state.lock().unwrap().busy = true;
    }

    /// From now on nothing is answered.
    pub(super) fn be_slow(&self) {
        self.state.lock().unwrap().kept = Some(Vec::new());
    }

    pub(super) fn tell(&self, text: &str) {
        let happening = Happening::new(EventKind::Restored, text.to_owned());
        self.handle.events.tell(happening);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.waker.wake().unwrap();
        self.worker.take().map(JoinHandle::join);
    }
}

fn run_worker(
    mut poll: mio::Poll,
    heartbeat: Arc<Heartbeat>,
    stop: Arc<AtomicBool>,
    behaviour: FakeWorker,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut events = mio::Events::with_capacity(1);
        while !stop.load(Ordering::Relaxed) {
            poll.poll(&mut events, None).unwrap();
            if behaviour == FakeWorker::Turns {
                heartbeat.beat(heartbeat.now());
            }
        }
    })
}

impl State {
    fn view(&mut self) -> View {
        let effective = self.overlay.applied(&self.config);
        let paths = Paths::without_routes(&effective);
        let snapshot = Arc::new(self.snapshot(&effective, &paths));
        let seat = Seat {
            worker: 0,
            workers: 1,
            seed: [1; 4],
        };
        let roster = &mut self.roster;
        let director = self.director.get_or_insert_with(|| {
            let director = Director::new(Arc::clone(&snapshot), &seat);
            roster.attach(Arc::clone(director.counters()));
            director
        });
        director.adopt(Arc::clone(&snapshot));
        View {
            measured: Arc::default(),
            slow_starts: Arc::default(),
            announced: Arc::default(),
            gauges: Arc::default(),
            generation: self.generation,
            config: Arc::clone(&self.config),
            effective: Arc::new(effective),
            overlay: Arc::new(self.overlay.clone()),
            paths: Arc::new(paths),
            snapshot,
            counters: self.roster.counters().clone(),
            loaded: SystemTime::now(),
            last_reload: None,
            builds: Arc::default(),
            problems: Arc::default(),
        }
    }

    fn snapshot(&mut self, effective: &Config, paths: &Paths) -> Snapshot {
        let overlay = self.overlay.clone();
        let health =
            |vip: &VipSpec, address: IpAddr| overlay.health(&vip.name, address).unwrap_or_default();
        paths.snapshot(effective, &mut self.roster, health).unwrap()
    }

    fn change(&mut self, change: &Change, by: &Author) -> Result<u64, ChangeError> {
        if let Some(expected) = change.if_generation
            && expected != self.generation
        {
            let now = self.generation;
            return Err(ChangeError::Stale { expected, now });
        }
        let config = Arc::clone(&self.config);
        self.overlay = self
            .overlay
            .changed(&config, change, by, SystemTime::now())?;
        self.generation += 1;
        Ok(self.generation)
    }
}

/// What does what it is asked.
struct Answerer {
    state: Arc<Mutex<State>>,
    view: Arc<ArcSwap<View>>,
    events: Arc<EventLog>,
}

impl Answerer {
    fn ask(&self, ask: Ask) -> Result<(), Busy> {
        let mut state = self.state.lock().unwrap();
        if state.busy {
            return Err(Busy);
        }
        if let Some(kept) = &mut state.kept {
            kept.push(ask);
            return Ok(());
        }
        match ask {
            Ask::Control(Request::Change { change, by, reply }) => {
                let answer = state.change(&change, &by);
                self.view.store(Arc::new(state.view()));
                self.events.tell(Happening {
                    by: Some(by),
                    ..Happening::new(EventKind::OverrideSet, change.backend.to_string())
                });
                reply.send(answer);
            }
            Ask::Control(Request::ClearOverrides { reply, .. }) => {
                state.overlay = Overlay::default();
                state.generation += 1;
                self.view.store(Arc::new(state.view()));
                reply.send(Ok(state.generation));
            }
            Ask::Control(Request::Told { told, reply }) => {
                let name = BackendName {
                    vip: told.target.vip.to_string(),
                    address: told.target.address,
                };
                // Of the fake's backends the first alone is measured from outside.
                reply.send(match told.target.address == IpAddr::from([10, 0, 1, 11]) {
                    true => Ok(()),
                    false => Err(ChangeError::NotExternal(name)),
                });
            }
            Ask::Control(Request::Health(_)) => panic!("no client asks for that"),
            Ask::Capture { reply, .. } => reply.send(Ok(())),
            Ask::StopCapture { reply, .. } => reply.send(Err("no capture runs".into())),
            Ask::Reload { options, reply, .. } => reply.send(match options.overrides {
                crate::control::KeepOverrides::Yes => Ok(Reloaded {
                    generation: state.generation,
                    changes: vec![format!("{:?}", options.dry_run)],
                    overrides_ended: Vec::new(),
                }),
                crate::control::KeepOverrides::No => Err(Refused {
                    problems: vec!["f:1: vip: there is no VIP".into()],
                }),
            }),
        }
        Ok(())
    }
}
