//! The loop: probes start when they are due, their packets leave, their answers come, their results change what
//! backends are taken for, and what changed is reported. Nothing here waits for anything but the next event.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use log::trace;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::echoes::{Echoes, Heard};
use super::flight::{Aim, Flight};
use super::forward::Forwarder;
use super::inquest::{Found, Inquests};
use super::passive::Passive;
use super::plan::{Apart, Plan, Probed};
use super::ports::Ports;
use super::report::REPORT_INTERVAL;
use super::slots::Slots;
use super::timers::{Due, Timers};
use super::trust::Trusts;
use super::ways::Ways;
use super::wire::Wire;
use super::{Command, Reporter, Snapshots, Told};
use crate::io::egress::RawEgress;
use crate::io::sys::KernelPathMtu;
use crate::io::tun::Queue;
use crate::probe::{Board, Kind, Machine, Moment, ProbeResult, Target, Verdict};

const TUN: Token = Token(0);
pub(super) const WAKE: Token = Token(1);

const ICMP_V4: Token = Token(2);
const ICMP_V6: Token = Token(3);
pub(super) const WIRE: Token = Token(4);

/// The token of the flight with number 0.
pub(super) const FLIGHTS: usize = 5;

/// Probes under way at once. Each has a socket.
const MOST_IN_FLIGHT: usize = 4096;

/// What joins the loop to others.
pub(super) struct Outside {
    pub(super) inbox: Receiver<Command>,
    pub(super) snapshots: Snapshots,
    pub(super) report: Reporter,
    /// The index of the probe device.
    pub(super) device: u32,
}

pub(super) struct Engine {
    pub(super) poll: Poll,
    pub(super) queue: Queue,
    pub(super) device: u32,
    /// While something is asked.
    pub(super) wire: Option<Wire>,
    pub(super) apart: Apart,
    pub(super) forwarder: Forwarder<RawEgress>,
    pub(super) snapshots: Snapshots,
    inbox: Receiver<Command>,
    pub(super) report: Reporter,
    pub(super) plan: Plan,
    pub(super) board: Board,
    /// Positions of the plan that a probe is under way for.
    busy: HashSet<usize>,
    /// When the next probe of a position starts.
    starts: HashMap<usize, Moment>,
    pub(super) passive: Passive,
    pub(super) trusts: Trusts,
    /// Until when what others told holds.
    told: HashMap<Target, Moment>,
    pub(super) echoes: Echoes,
    pub(super) inquests: Inquests,
    pub(super) ports: Ports,
    pub(super) flights: Slots<Flight>,
    pub(super) ways: Ways,
    pub(super) timers: Timers,
    pub(super) serial: u64,
    /// What changed and is not reported yet.
    pub(super) changed: HashSet<Target>,
    pub(super) suspects_itself: bool,
    /// When the last report was made.
    pub(super) reported: Moment,
    epoch: Instant,
    pub(super) seed: u64,
}

impl Engine {
    pub(super) fn new(
        poll: Poll,
        queue: Queue,
        longest: usize,
        outside: Outside,
        apart: Apart,
    ) -> io::Result<Self> {
        let mut source = SourceFd(&queue.as_raw_fd());
        poll.registry()
            .register(&mut source, TUN, Interest::READABLE)?;
        let seed = RandomState::new().hash_one(0);
        Ok(Self {
            echoes: Echoes::open(poll.registry(), [ICMP_V4, ICMP_V6], seed)?,
            inquests: Inquests::default(),
            told: HashMap::new(),
            poll,
            queue,
            device: outside.device,
            wire: None,
            forwarder: Forwarder::new(RawEgress::open()?, longest, apart.tos),
            apart,
            snapshots: outside.snapshots,
            inbox: outside.inbox,
            report: outside.report,
            plan: Plan::default(),
            board: Board::default(),
            busy: HashSet::new(),
            starts: HashMap::new(),
            passive: Passive::default(),
            trusts: Trusts::default(),
            ports: Ports::new(seed),
            flights: Slots::default(),
            ways: Ways::default(),
            timers: Timers::default(),
            serial: 0,
            changed: HashSet::new(),
            suspects_itself: false,
            reported: Moment::ZERO,
            epoch: Instant::now(),
            seed,
        })
    }

    /// Probes until it is told to stop.
    ///
    /// # Errors
    /// The probe device cannot be read any more, above all because it was deleted.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            self.turn(&mut events)?;
            if self.hear().is_break() {
                self.call_off_all();
                return Ok(());
            }
            self.tell();
        }
    }

    /// Waits for the next event, and does all that is due.
    pub(super) fn turn(&mut self, events: &mut Events) -> io::Result<()> {
        match self.poll.poll(events, self.patience()) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Ok(()) | Err(_) => {}
        }
        // What was seen on the wire belongs to probes that the rest may end.
        self.watch();
        // Answers before timers: one that came in time while this thread was held up counts.
        for event in &*events {
            match event.token() {
                TUN | WAKE | WIRE => {}
                ICMP_V4 | ICMP_V6 => self.listen(),
                Token(number) => self.go_on(number - FLIGHTS),
            }
        }
        self.work_off_timers();
        self.forward()
    }

    pub(super) fn now(&self) -> Moment {
        self.epoch.elapsed()
    }

    /// How long the next event may be waited for.
    fn patience(&self) -> Option<Duration> {
        let now = self.now();
        let timer = self.timers.next().map(|at| at.saturating_sub(now));
        let report = self
            .has_news()
            .then(|| (self.reported + REPORT_INTERVAL).saturating_sub(now));
        [timer, report].into_iter().flatten().min()
    }

    fn hear(&mut self) -> std::ops::ControlFlow<()> {
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Measure(plan) => self.follow(plan),
                Command::Told(told) => self.take_told(&told),
                Command::Stop => return std::ops::ControlFlow::Break(()),
            }
        }
        std::ops::ControlFlow::Continue(())
    }

    /// Probes under way are for the old plan and end without a result.
    fn follow(&mut self, plan: Plan) {
        self.call_off_all();
        let now = self.now();
        self.busy.clear();
        self.starts.clear();
        let wanted = plan.probed.iter();
        let wanted = wanted.map(|probed| (probed.target.clone(), probed.check.clone()));
        self.board.follow(wanted, now);
        self.inquests.follow(&self.board, &plan);
        self.adopt(plan);
        self.changed = self
            .board
            .iter()
            .map(|(target, _)| target.clone())
            .collect();
        self.suspects_itself = self.board.suspects_itself();
        for position in 0..self.plan.probed.len() {
            let probed = &self.plan.probed[position];
            let interval = probed.check.timing.edge.min(probed.check.timing.interval);
            let at = now + probed.target.phase(self.seed, interval);
            let lacks_cause = self.lacks_cause(probed);
            self.schedule(position, at);
            if lacks_cause {
                let due = Due::Inquest(self.plan.number, position);
                self.timers.set(now, due);
            }
        }
        self.begin_passive(now);
        self.plan_size_checks(now);
    }

    /// The next probe of a position starts then, whatever was planned before.
    fn schedule(&mut self, position: usize, at: Moment) {
        self.starts.insert(position, at);
        self.timers.set(at, Due::Start(self.plan.number, position));
    }

    /// Long packets are sent though this host's kernel has learnt that they do not get through.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn ignore_learnt_mtus(&mut self) -> io::Result<()> {
        self.forwarder.limit_by(KernelPathMtu::Device)
    }

    /// What is probed from now on; nothing starts by itself.
    pub(super) fn adopt(&mut self, plan: Plan) {
        self.forwarder.fit(plan.mtu as usize);
        self.trusts.follow(&plan);
        self.plan = plan;
    }

    fn work_off_timers(&mut self) {
        let now = self.now();
        while let Some((at, due)) = self.timers.take(now) {
            match due {
                Due::Start(plan, position) if plan == self.plan.number => {
                    // One that was brought forward is void at its former time.
                    if self.starts.get(&position) == Some(&at) {
                        self.start(position, now);
                        let lag = now.saturating_sub(at);
                        self.plan.counts.note_start(lag, self.flights.len());
                    }
                }
                Due::Passive(plan) if plan == self.plan.number => self.look_passively(now),
                Due::Inquest(plan, position) if plan == self.plan.number => {
                    self.inquire(position, now)
                }
                Due::Size(plan, position) if plan == self.plan.number => {
                    self.check_size(position, now)
                }
                Due::Untap => self.untap(now),
                Due::Start(..) | Due::Inquest(..) | Due::Size(..) | Due::Passive(_) => {}
                Due::Timeout(number, serial) => self.time_out(number, serial, at),
            }
        }
        self.ways.forget(now);
    }

    fn start(&mut self, position: usize, now: Moment) {
        let Some(probed) = self.plan.probed.get(position).cloned() else {
            return;
        };
        if probed.check.kind == Kind::External {
            return self.miss(position, &probed, now);
        }
        if !self.busy.insert(position) {
            return;
        }
        let outcome = if self.flights.len() < MOST_IN_FLIGHT {
            let aim = Aim::Probe {
                plan: self.plan.number,
                position,
            };
            self.take_off(aim, &probed, now)
        } else {
            Err(ProbeResult::NoFd)
        };
        if let Err(result) = outcome {
            self.conclude(position, result, now);
        }
    }

    /// What others were to tell and did not.
    fn miss(&mut self, position: usize, probed: &Probed, now: Moment) {
        let is_overdue = self
            .told
            .get(&probed.target)
            .is_some_and(|until| *until <= now);
        if is_overdue {
            self.conclude(position, ProbeResult::NoAnswer, now);
        } else {
            self.schedule(position, now + probed.check.timing.interval);
        }
    }

    /// What others found.
    fn take_told(&mut self, told: &Told) {
        let now = self.now();
        let place =
            |probed: &Probed| probed.target == told.target && probed.check.kind == Kind::External;
        let Some(position) = self.plan.probed.iter().position(place) else {
            return;
        };
        self.told.insert(told.target.clone(), now + told.holds);
        self.observe(position, told.result, now);
    }

    pub(super) fn go_on(&mut self, number: usize) {
        let Some(flight) = self.flights.get_mut(number) else {
            return;
        };
        if let Some(result) = flight.go_on() {
            self.land(number, result);
        }
    }

    fn listen(&mut self) {
        for heard in self.echoes.receive() {
            match heard {
                Heard::Echo(number) => self.land(number, ProbeResult::Ok),
                Heard::Inside { vip, flow, error } => {
                    let backend = flow.and_then(|flow| self.ways.backend_of(&flow));
                    self.inquests.hear_inner_error(vip, backend, error);
                }
                Heard::TooBig { to, by, mtu } => self.inquests.hear_too_big(to, by, mtu),
                Heard::Error { to, flow, result } => {
                    self.inquests.hear_error(to, result);
                    let Some(flow) = flow else { continue };
                    let flight = self.ways.flight_of(&flow);
                    match flight.and_then(|number| self.flights.get_mut(number)) {
                        Some(flight) => flight.evidence = Some(result),
                        None => self.suspect_for(to, &flow, self.now()),
                    }
                }
            }
        }
    }

    fn time_out(&mut self, number: usize, serial: u64, at: Moment) {
        let was_sent = |engine: &Self| engine.flights.get(number).is_none_or(|one| one.was_sent);
        // Its packet may have waited for this thread all the time.
        let is_held_up = !was_sent(self) && self.forward().is_ok() && was_sent(self);
        let Some(flight) = self
            .flights
            .get(number)
            .filter(|flight| flight.serial == serial)
        else {
            return;
        };
        let now = self.now();
        let allowed = flight.deadline - flight.started;
        let result = if is_held_up || now.saturating_sub(at) > allowed {
            ProbeResult::Late
        } else if !flight.was_sent {
            ProbeResult::NotSent
        } else {
            let known = flight.timed_out().or(flight.evidence);
            known.unwrap_or(ProbeResult::NoAnswer)
        };
        self.call_off(number);
        self.land(number, result);
    }

    /// A probe found something.
    pub(super) fn land(&mut self, number: usize, result: ProbeResult) {
        let now = self.now();
        if let Some(Aim::Inquest(..)) = self.flights.get(number).map(|flight| flight.aim) {
            self.watch(); // its answer may be there as well
        }
        let Some(flight) = self.end(number, now) else {
            return;
        };
        match flight.aim {
            Aim::Probe { plan, position } if plan == self.plan.number => {
                let fails = result.verdict() == Some(Verdict::Failed);
                let is_hinted = flight.evidence.is_some() && fails;
                let probed = self.plan.probed.get(position);
                if let (Some(probed), Some(expires)) = (probed, flight.certificate_expires()) {
                    probed.gauge.certify(expires);
                }
                self.conclude(position, result, flight.started);
                if is_hinted {
                    self.hurry(position, now);
                }
            }
            Aim::Probe { .. } => {}
            Aim::Inquest(inquest, question) => {
                self.answer(inquest, question, &Found::of(result, &flight));
            }
        }
    }

    /// An ICMP error came in, which any host could have forged: the next probe is brought forward to verify it.
    pub(super) fn hurry(&mut self, position: usize, now: Moment) {
        let target = self.plan.probed.get(position).map(|probed| &probed.target);
        let machine = target.and_then(|target| self.board.of(target));
        let is_up = machine.is_some_and(|machine| machine.standing().is_up());
        if is_up && !self.busy.contains(&position) {
            self.schedule(position, now);
        }
    }

    /// Closes a flight's socket.
    pub(super) fn end(&mut self, number: usize, now: Moment) -> Option<Flight> {
        let flight = self.flights.remove(number)?;
        self.plan.counts.note_in_flight(self.flights.len());
        if let Some(flow) = flight.flow {
            self.ways.end(flow, flight.serial, now);
        }
        if let Some(sequence) = flight.echo() {
            self.echoes.end(sequence);
        }
        Some(flight)
    }

    /// What a result changes, and when the next probe starts.
    fn conclude(&mut self, position: usize, result: ProbeResult, started: Moment) {
        self.busy.remove(&position);
        self.observe(position, result, started);
        let Some(probed) = self.plan.probed.get(position) else {
            return;
        };
        if let Some(machine) = self.board.of(&probed.target) {
            let next = (started + machine.interval()).max(self.now());
            self.schedule(position, next);
        }
    }

    fn observe(&mut self, position: usize, result: ProbeResult, started: Moment) {
        let Some(probed) = self.plan.probed.get(position) else {
            return;
        };
        let now = self.epoch.elapsed();
        let target = &probed.target;
        let was_sent = self.board.of(target).and_then(Machine::last);
        let was_sent = was_sent.is_none_or(|last| last.result != ProbeResult::NotSent);
        let turn = self.board.observe(target, result, now);
        let Some(machine) = self.board.of(target) else {
            return;
        };
        trace!("{} {}: {result}", target.vip, target.address);
        if result.verdict() == Some(Verdict::Passed) {
            self.inquests.forget_inner_error(probed);
        }
        self.plan.counts.count_local(result);
        probed.gauge.record(machine, result, started, now);
        if result == ProbeResult::NotSent && was_sent {
            self.timers
                .set(now, Due::Inquest(self.plan.number, position));
        }
        let Some(turn) = turn else { return };
        self.changed.insert(target.clone());
        if turn.to.is_up() {
            self.inquests.forget_cause(target);
        }
        self.suspects_itself = self.board.suspects_itself();
        // A check past the tunnel says itself all that can be known.
        if turn.is_edge() && !turn.to.is_up() && probed.is_tunnelled() {
            self.timers
                .set(now, Due::Inquest(self.plan.number, position));
        }
    }
}
