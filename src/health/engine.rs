//! The loop: probes start when they are due, their packets leave, their answers come, their results change what
//! backends are taken for, and what changed is reported. Nothing here waits for anything but the next event.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime};

use log::{debug, trace};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::flight::{Ends, Flight, NotStarted, Start, connect};
use super::forward::Forwarder;
use super::plan::{Plan, Probed};
use super::ports::Ports;
use super::slots::Slots;
use super::reset::reset_packet;
use super::timers::{Due, Timers};
use super::ways::{Way, Ways};
use super::{Command, Report, Reporter, Reports, Snapshots};
use crate::director::BackendIndex;
use crate::io::egress::{RawEgress, SendError};
use crate::io::ingress::Reading;
use crate::io::tun::Queue;
use crate::packet::{FlowKey, Protocol};
use crate::probe::{Board, Kind, Moment, ProbeResult, Target};

const TUN: Token = Token(0);
pub(super) const WAKE: Token = Token(1);

/// The token of the flight with number 0.
const FLIGHTS: usize = 2;

/// Probes under way at once. Each has a socket.
const MOST_IN_FLIGHT: usize = 4096;

/// Ports that are tried for one probe.
const PORT_ATTEMPTS: u32 = 64;

/// What changed is reported at most this often.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct Engine {
    poll: Poll,
    queue: Queue,
    forwarder: Forwarder<RawEgress>,
    snapshots: Snapshots,
    inbox: Receiver<Command>,
    report: Reporter,
    plan: Plan,
    board: Board,
    /// Positions of the plan that a probe is under way for.
    busy: HashSet<usize>,
    ports: Ports,
    flights: Slots<Flight>,
    ways: Ways,
    timers: Timers,
    serial: u64,
    /// What changed and is not reported yet.
    changed: HashSet<Target>,
    suspects_itself: bool,
    /// When the last report was made.
    reported: Moment,
    epoch: Instant,
    seed: u64,
}

impl Engine {
    pub(super) fn new(
        poll: Poll,
        queue: Queue,
        longest: usize,
        inbox: Receiver<Command>,
        snapshots: Snapshots,
        report: Reporter,
    ) -> io::Result<Self> {
        let mut source = SourceFd(&queue.as_raw_fd());
        poll.registry().register(&mut source, TUN, Interest::READABLE)?;
        let seed = RandomState::new().hash_one(0);
        Ok(Self {
            poll,
            queue,
            forwarder: Forwarder::new(RawEgress::open()?, longest),
            snapshots,
            inbox,
            report,
            plan: Plan::default(),
            board: Board::default(),
            busy: HashSet::new(),
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
            match self.poll.poll(&mut events, self.patience()) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                Ok(()) | Err(_) => {}
            }
            // Answers before timers: one that came in time while this thread was held up counts.
            for event in &events {
                if let Some(number) = event.token().0.checked_sub(FLIGHTS) {
                    self.go_on(number);
                }
            }
            if self.hear().is_break() {
                return Ok(());
            }
            self.work_off_timers();
            self.forward()?;
            self.tell();
        }
    }

    fn now(&self) -> Moment {
        self.epoch.elapsed()
    }

    /// How long the next event may be waited for.
    fn patience(&self) -> Option<Duration> {
        let now = self.now();
        let timer = self.timers.next().map(|at| at.saturating_sub(now));
        let report = self.has_news().then(|| (self.reported + REPORT_INTERVAL).saturating_sub(now));
        [timer, report].into_iter().flatten().min()
    }

    fn hear(&mut self) -> std::ops::ControlFlow<()> {
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Measure(plan) => self.follow(plan),
                Command::Stop => return std::ops::ControlFlow::Break(()),
            }
        }
        std::ops::ControlFlow::Continue(())
    }

    /// Probes under way are for the old plan and end without a result.
    fn follow(&mut self, plan: Plan) {
        let now = self.now();
        for number in self.flights.numbers() {
            self.end(number, now);
        }
        self.busy.clear();
        let wanted = plan.probed.iter();
        let wanted = wanted.map(|probed| (probed.target.clone(), probed.check.clone()));
        self.board.follow(wanted, now);
        self.forwarder.fit(plan.mtu as usize);
        self.plan = plan;
        self.changed = self.board.iter().map(|(target, _)| target.clone()).collect();
        self.suspects_itself = self.board.suspects_itself();
        for (position, probed) in self.plan.probed.iter().enumerate() {
            if probed.check.kind != Kind::External {
                let interval = probed.check.timing.edge.min(probed.check.timing.interval);
                let at = now + probed.target.phase(self.seed, interval);
                self.timers.set(at, Due::Start(self.plan.number, position));
            }
        }
    }

    fn work_off_timers(&mut self) {
        let now = self.now();
        while let Some((at, due)) = self.timers.take(now) {
            match due {
                Due::Start(plan, position) if plan == self.plan.number => self.start(position, now),
                Due::Start(..) => {}
                Due::Timeout(number, serial) => self.time_out(number, serial, at),
            }
        }
        self.ways.forget(now);
    }

    fn start(&mut self, position: usize, now: Moment) {
        let Some(probed) = self.plan.probed.get(position).cloned() else {
            return;
        };
        if !self.busy.insert(position) {
            return;
        }
        let outcome = if self.flights.len() < MOST_IN_FLIGHT {
            self.take_off(position, &probed, now)
        } else {
            Err(ProbeResult::NoFd)
        };
        if let Err(result) = outcome {
            self.conclude(position, result, now);
        }
    }

    fn take_off(&mut self, position: usize, probed: &Probed, now: Moment) -> Result<(), ProbeResult> {
        let source = probed.source.ok_or(ProbeResult::NoSource)?;
        let protocol = Protocol::Tcp;
        for _ in 0..PORT_ATTEMPTS.min(self.ports.len()) {
            let port = self.ports.next(source, probed.destination, protocol);
            let ends = Ends {
                source,
                port,
                destination: probed.destination,
            };
            let flow = ends.flow(protocol);
            if self.ways.has(&flow) {
                continue;
            }
            match connect(&ends, probed.check.close) {
                Ok(connection) => {
                    self.serial += 1;
                    let start = Start {
                        plan: self.plan.number,
                        position,
                        serial: self.serial,
                        flow,
                        backend: probed.backend,
                        started: now,
                        deadline: now + probed.check.timing.timeout,
                    };
                    return self.launch(Flight::new(start, connection));
                }
                Err(NotStarted::PortTaken) => {}
                Err(NotStarted::For(result)) => return Err(result),
            }
        }
        Err(ProbeResult::NoPort)
    }

    fn launch(&mut self, mut flight: Flight) -> Result<(), ProbeResult> {
        let number = self.flights.next();
        flight
            .register(self.poll.registry(), Token(FLIGHTS + number))
            .map_err(|_| ProbeResult::NoFd)?;
        let way = Way {
            backend: flight.backend,
            serial: flight.serial,
            flight: Some(number),
        };
        self.ways.begin(flight.flow, way);
        self.timers.set(flight.deadline, Due::Timeout(number, flight.serial));
        self.flights.insert(flight);
        Ok(())
    }

    fn go_on(&mut self, number: usize) {
        let Some(flight) = self.flights.get_mut(number) else {
            return;
        };
        if let Some(result) = flight.go_on() {
            self.land(number, result);
        }
    }

    fn time_out(&mut self, number: usize, serial: u64, at: Moment) {
        let Some(flight) = self.flights.get(number).filter(|flight| flight.serial == serial) else {
            return;
        };
        let now = self.now();
        let allowed = flight.deadline - flight.started;
        let result = if now.saturating_sub(at) > allowed {
            ProbeResult::Late
        } else if !flight.was_sent {
            ProbeResult::NotSent
        } else {
            flight.evidence.unwrap_or(ProbeResult::NoAnswer)
        };
        let half_open = flight.sequence.filter(|_| !flight.is_connected());
        let (flow, backend) = (flight.flow, flight.backend);
        if let Some(sequence) = half_open {
            self.reset(&flow, backend, sequence.wrapping_add(1));
        }
        self.land(number, result);
    }

    /// Frees what the backend may have kept for a connection whose answer did not come.
    fn reset(&mut self, flow: &FlowKey, backend: BackendIndex, sequence: u32) {
        if let Some(packet) = reset_packet(flow, sequence) {
            let snapshot = (self.snapshots)();
            self.forwarder
                .send_made(&packet, backend, &snapshot, |_, error| trace!("reset not sent: {error}"));
        }
    }

    /// A probe found something.
    fn land(&mut self, number: usize, result: ProbeResult) {
        let now = self.now();
        if let Some(flight) = self.end(number, now)
            && flight.plan == self.plan.number
        {
            self.conclude(flight.position, result, flight.started);
        }
    }

    /// Closes a flight's socket.
    fn end(&mut self, number: usize, now: Moment) -> Option<Flight> {
        let flight = self.flights.remove(number)?;
        self.ways.end(flight.flow, flight.serial, now);
        Some(flight)
    }

    /// What a result changes, and when the next probe starts.
    fn conclude(&mut self, position: usize, result: ProbeResult, started: Moment) {
        self.busy.remove(&position);
        let Some(probed) = self.plan.probed.get(position) else {
            return;
        };
        let now = self.epoch.elapsed();
        let target = &probed.target;
        let turn = self.board.observe(target, result, now);
        let Some(machine) = self.board.of(target) else {
            return;
        };
        trace!("{} {}: {result}", target.vip, target.address);
        let wall = SystemTime::now();
        probed.gauge.update(|seen| {
            seen.streak = machine.streak();
            seen.changes = machine.changes();
            seen.last = Some(super::gauge::LastProbe {
                result,
                at: wall,
                took: now.saturating_sub(started),
            });
            seen.counts[result as usize] += 1;
            seen.held_until = machine.held_until(now).map(|until| wall + until.saturating_sub(now));
            if result.verdict().is_some() {
                seen.verdict_at = Instant::now();
            }
            if turn.is_some() {
                seen.standing = machine.standing();
                seen.since = wall;
            }
        });
        let next = (started + machine.interval()).max(now);
        self.timers.set(next, Due::Start(self.plan.number, position));
        if turn.is_some() {
            self.changed.insert(target.clone());
            self.suspects_itself = self.board.suspects_itself();
        }
    }

    /// Sends what waits in the probe device.
    fn forward(&mut self) -> io::Result<()> {
        loop {
            let snapshot = (self.snapshots)();
            let mut failures = Vec::new();
            let (ways, flights) = (&mut self.ways, &mut self.flights);
            let reading = self.forwarder.turn(
                &mut self.queue,
                &snapshot,
                |flow, packet| ways.of(flow, packet, flights, &snapshot),
                |flow, error| failures.push((*flow, error)),
            )?;
            for (flow, error) in failures {
                self.not_sent(&flow, error);
            }
            if reading == Reading::Empty {
                return Ok(());
            }
        }
    }

    /// The kernel refused a packet: without a way to the backend clients' packets have none either.
    fn not_sent(&mut self, flow: &FlowKey, error: SendError) {
        let result = match error {
            SendError::Unreachable(_) => ProbeResult::Unreachable,
            SendError::TooBig | SendError::Full | SendError::Refused(_) | SendError::Other(_) => {
                ProbeResult::NotSent
            }
        };
        debug!("a probe, {flow}: {error}");
        if let Some(number) = self.ways.flight_of(flow) {
            self.land(number, result);
        }
    }

    fn has_news(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Reports what changed, unless that was done just now.
    fn tell(&mut self) {
        let now = self.now();
        if !self.has_news() || now < self.reported + REPORT_INTERVAL {
            return;
        }
        let changes = self.changed.iter().filter_map(|target| {
            let machine = self.board.of(target)?;
            Some(Report {
                target: target.clone(),
                standing: machine.standing(),
                result: machine.last().map_or(ProbeResult::NoVerdict, |last| last.result),
                streak: machine.streak(),
            })
        });
        let reports = Reports {
            plan: self.plan.number,
            changes: changes.collect(),
            suspects_itself: self.suspects_itself,
        };
        self.reported = now;
        if (self.report)(reports).is_ok() {
            self.changed.clear();
        }
    }
}
