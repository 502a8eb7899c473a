//! One worker: a mio loop that turns a [`Pipeline`] over one TUN queue.
//!
//! A worker shares nothing that it writes but its counters, takes no lock and allocates nothing once it
//! runs, except for copies of packets: where a capture is asked for ([`tee`](super::tee)), and of those that
//! wait for another worker ([`mail`](super::mail)). It reads the clock once for each burst.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log::{trace, warn};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::mail::Mail;
use super::pipeline::{Pipeline, Turn};
use super::tee::Tee;
use super::{Event, Shared};
use crate::control::{FlowMailbox, Heartbeat, WorkerLink};
use crate::director::{ANSWER_WAIT, BackendIndex, DropReason, Timestamp, Verdict};
#[cfg(feature = "xdp")]
use crate::director::{Seat, SharedFlows};
use crate::io::egress::{Egress, Hops, SendError};
use crate::io::ingress::{Ingress, Reading};
use crate::io::sys::KernelPathMtu;
use crate::packet::BURST;

const PACKETS: Token = Token(0);
const WAKE: Token = Token(1);

/// At most one line about packets that could not be sent in this time.
const SEND_FAILURE_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How often held fragments and idle flows are expired while no packets arrive.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);

/// Flows that may expire before the TUN is looked at again: some 100 µs of work.
const EXPIRE_PER_PAUSE: usize = 512;

/// Under load a request for flows waits for so many bursts at most.
const BURSTS_PER_REQUEST: u32 = 16;

/// How a worker reads its queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// How long it polls after a packet before it sleeps.
    pub(super) busy_poll: Duration,
    /// Packets that the queue holds.
    pub(super) queue_length: usize,
}

/// One thread of the data path.
#[derive(Debug)]
pub(super) struct Worker<I, E> {
    poll: Poll,
    pipeline: Pipeline<I, E>,
    tee: Tee,
    /// Those that the egress knows.
    hops: Arc<Hops>,
    shared: Shared,
    /// With the other workers; `None` where there is no other.
    mail: Option<Mail>,
    stop: Arc<AtomicBool>,
    pace: Pace,
    heartbeat: Arc<Heartbeat>,
    flows: Arc<FlowMailbox>,
    /// Bursts that a request for flows has waited for.
    delayed: u32,
    /// When a burst with packets was read last.
    busy_at: Timestamp,
    /// Packets of the first burst after the queue was empty: one where they come alone, so that each leaves
    /// before the queue is looked at again.
    first: usize,
    /// Which of the kernel's MTUs limits what leaves.
    limit: KernelPathMtu,
    last_failure_logged: Option<Instant>,
}

/// A worker's end for other threads.
#[derive(Debug)]
pub(super) struct Remote {
    stop: Arc<AtomicBool>,
    link: WorkerLink,
}

impl Remote {
    /// The worker returns after the burst it is at.
    pub(super) fn stop(&self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.link.waker.wake()
    }

    /// For those that have something for the worker.
    pub(super) fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.link.waker)
    }

    /// For those that watch the worker.
    pub(super) fn link(&self) -> WorkerLink {
        self.link.clone()
    }
}

impl<I: Ingress + AsRawFd, E: Egress> Worker<I, E> {
    /// A worker that has not started to read.
    pub(super) fn new(
        pipeline: Pipeline<I, E>,
        tee: Tee,
        shared: Shared,
        pace: Pace,
    ) -> io::Result<(Self, Remote)> {
        let poll = Poll::new()?;
        let mut source = SourceFd(&pipeline.ingress.as_raw_fd());
        poll.registry()
            .register(&mut source, PACKETS, Interest::READABLE)?;
        for descriptor in pipeline.ingress.beside() {
            let mut source = SourceFd(&descriptor);
            poll.registry()
                .register(&mut source, PACKETS, Interest::READABLE)?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let heartbeat = Arc::new(Heartbeat::new(shared.epoch));
        let link = WorkerLink {
            counters: Arc::clone(pipeline.director().counters()),
            heartbeat: Arc::clone(&heartbeat),
            waker: Arc::new(Waker::new(poll.registry(), WAKE)?),
            flows: Arc::default(),
        };
        let flows = Arc::clone(&link.flows);
        let remote = Remote {
            stop: Arc::clone(&stop),
            link,
        };
        let worker = Self {
            poll,
            pipeline,
            tee,
            hops: Arc::default(),
            shared,
            mail: None,
            stop,
            pace,
            heartbeat,
            flows,
            delayed: 0,
            busy_at: Timestamp::START,
            first: 1,
            limit: KernelPathMtu::Route,
            last_failure_logged: None,
        };
        Ok((worker, remote))
    }

    /// Keeps its flows there, together with others.
    #[cfg(feature = "xdp")]
    pub(super) fn share_flows(&mut self, flows: Box<dyn SharedFlows>, seat: &Seat, others: u16) {
        let director = self.pipeline.director_mut();
        director.share_flows(flows, seat, others);
    }

    /// From now on flows may be asked about.
    pub(super) fn join(&mut self, mail: Mail) {
        self.mail = Some(mail);
    }

    /// Forwards packets until it is stopped.
    ///
    /// # Errors
    /// When the TUN cannot be read any more, above all because the device is gone.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(8);
        let mut pause = None;
        while !self.stopped() {
            match self.poll.poll(&mut events, pause) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => pause = self.forward_until_empty()?,
            }
        }
        self.forward_rest()
    }

    fn now(&self) -> Timestamp {
        Timestamp::after(self.shared.epoch.elapsed())
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Forwards until no packet waits, and none has come for as long as is busily polled: readiness is
    /// edge-triggered, so the queue must be empty before the next wait. Returns how long that may last.
    fn forward_until_empty(&mut self) -> io::Result<Option<Duration>> {
        let mut run = 0; // packets since the queue was empty
        loop {
            self.pipeline
                .limit(if run == 0 { self.first } else { BURST });
            let now = self.now();
            self.heartbeat.beat(now);
            self.adopt();
            self.limit_egress(now);
            let reading = self.turn(now)?;
            if self.flows.is_waiting() {
                self.show_flows(reading, now);
            }
            let read = self.pipeline.last().len();
            run += read;
            if read > 0 {
                self.busy_at = now;
            }
            if self.stopped() {
                return Ok(None);
            }
            if reading == Reading::More {
                continue;
            }
            if run > 0 {
                self.first = if run == 1 { 1 } else { BURST };
                run = 0;
            }
            if now.since(self.busy_at) >= self.pace.busy_poll {
                return Ok(self.expire(now));
            }
        }
    }

    /// Answers a request for flows when no packet waits, or enough bursts have gone before it.
    fn show_flows(&mut self, reading: Reading, now: Timestamp) {
        self.delayed += 1;
        if reading != Reading::More || self.delayed >= BURSTS_PER_REQUEST {
            self.delayed = 0;
            self.flows.serve(self.pipeline.director(), now);
        }
    }

    /// Expires what is due; returns how long the next wait may last.
    fn expire(&mut self, now: Timestamp) -> Option<Duration> {
        let director = self.pipeline.director_mut();
        let expired = director.expire(now, EXPIRE_PER_PAUSE);
        if expired == EXPIRE_PER_PAUSE || director.has_released() {
            Some(Duration::ZERO)
        } else if director.is_asking() {
            Some(ANSWER_WAIT)
        } else {
            director.is_waiting().then_some(EXPIRY_INTERVAL)
        }
    }

    /// Adopts the latest published snapshot and next hops if they changed; called between bursts.
    fn adopt(&mut self) {
        let published = self.shared.current.load();
        let hops = self.shared.hops.load();
        let is_new = !Arc::ptr_eq(&published.snapshot, self.pipeline.director().snapshot());
        if is_new {
            self.pipeline
                .adopt(Arc::clone(&published.snapshot), published.longest);
            // A full channel is no loss: control looks for itself after a while.
            self.shared.events.try_send(Event::Adopted).ok();
        }
        if is_new || !Arc::ptr_eq(&hops, &self.hops) {
            let tunnels = Arc::clone(self.pipeline.director().snapshot());
            self.pipeline.egress.adopt(&*tunnels, &hops);
            self.hops = Arc::clone(&hops);
        }
    }

    /// The kernel's path MTUs limit what leaves, unless it has learnt one that is to be passed by.
    fn limit_egress(&mut self, now: Timestamp) {
        let passed_by = self.shared.pass_by.load(Ordering::Relaxed) > now.as_nanos();
        let limit = if passed_by {
            KernelPathMtu::Device
        } else {
            KernelPathMtu::Route
        };
        if limit != self.limit {
            self.limit = limit;
            if let Err(error) = self.pipeline.egress.limit_by(limit) {
                warn!("cannot set which path MTU the kernel heeds: {error}");
            }
        }
    }

    /// What was in the queue when the routes went is forwarded too, as much as it holds: others may still
    /// send into a TUN that stays. What waits for other workers is forwarded without their answers; they
    /// stop, too.
    fn forward_rest(&mut self) -> io::Result<()> {
        let now = self.now();
        let mut rest = self.pace.queue_length;
        self.pipeline.limit(BURST);
        while self.turn(now)? == Reading::More && rest > 0 {
            rest = rest.saturating_sub(self.pipeline.last().len());
        }
        self.pipeline.director_mut().stop_asking();
        while self.pipeline.director().has_released() {
            self.turn(now)?;
        }
        self.pipeline.director_mut().finish();
        Ok(())
    }

    /// One burst. What its backends did not get is reported.
    fn turn(&mut self, now: Timestamp) -> io::Result<Reading> {
        let director = self.pipeline.director_mut();
        if let Some(mail) = &mut self.mail {
            mail.read(director, now)?;
        }
        let reading = self.pipeline.turn(now)?;
        if let Some(mail) = &mut self.mail {
            mail.ask(self.pipeline.director_mut())?;
        }
        let turn = self.pipeline.last();
        self.tee.turned(&turn);
        if log::log_enabled!(log::Level::Trace) {
            trace_losses(&turn);
        }
        let mut failure = None;
        for (backend, error) in turn.failures() {
            if error == SendError::TooBig {
                // A full channel is no loss: the next such packet reports it again.
                self.shared.events.try_send(Event::TooLongFor(backend)).ok();
            } else {
                failure = Some((backend, error));
            }
        }
        if let Some((backend, error)) = failure {
            self.log_failure(backend, error);
        }
        Ok(reading)
    }

    fn log_failure(&mut self, backend: BackendIndex, error: SendError) {
        let now = Instant::now();
        let quiet = self
            .last_failure_logged
            .is_some_and(|last| now - last < SEND_FAILURE_LOG_INTERVAL);
        if quiet {
            return;
        }
        self.last_failure_logged = Some(now);
        let director = self.pipeline.director();
        let failed = director.counters().dropped(DropReason::SendFailed);
        if let Some(backend) = director.snapshot().backend(backend) {
            let address = backend.address;
            warn!("cannot send to backend {address}: {error} (send_failed: {failed} so far)");
        }
    }
}

/// Says of every packet that went nowhere why.
fn trace_losses(turn: &Turn<'_>) {
    for passage in turn.passages() {
        let length = passage.bytes[0].len();
        match (passage.verdict, passage.sent) {
            (Verdict::Drop(reason), _) => trace!("dropped {length} bytes: {}", reason.name()),
            (Verdict::Reply(_), Err(error)) => trace!("reply not sent: {error}"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
