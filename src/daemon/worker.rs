//! One worker: a mio loop that turns a [`Pipeline`] over one TUN queue.
//!
//! A worker shares nothing that it writes but its counters, takes no lock and allocates nothing
//! once it runs, except for copies of packets where a capture is asked for ([`tee`](super::tee)).

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log::{trace, warn};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::pipeline::{Pipeline, Turn};
use super::tee::Tee;
use super::{Event, Shared};
use crate::director::{BackendIndex, DropReason, Timestamp, Verdict};
use crate::io::egress::{Egress, Hops, SendError};
use crate::io::ingress::{Ingress, Reading};
use crate::io::sys::KernelPathMtu;
use crate::packet::BURST;

const TUN: Token = Token(0);
const STOP: Token = Token(1);

/// At most one line about packets that could not be sent in this time.
const SEND_FAILURE_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How often held fragments and idle flows are expired while no packets arrive.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);

/// Flows that may expire before the TUN is looked at again: some 100 µs of work.
const EXPIRE_PER_PAUSE: usize = 512;

/// Packets that a TUN queue holds by default (`TUN_READQ_SIZE`, linux/drivers/net/tun.c).
const QUEUE_LENGTH: usize = 500;

/// One thread of the data path.
#[derive(Debug)]
pub(super) struct Worker<I, E> {
    poll: Poll,
    pipeline: Pipeline<I, E>,
    tee: Tee,
    /// Those that the egress knows.
    hops: Arc<Hops>,
    shared: Shared,
    stop: Arc<AtomicBool>,
    /// Which of the kernel's MTUs limits what leaves.
    limit: KernelPathMtu,
    last_failure_logged: Option<Instant>,
}

/// A worker's end for other threads.
#[derive(Debug)]
pub(super) struct Remote {
    stop: Arc<AtomicBool>,
    waker: Waker,
}

impl Remote {
    /// The worker looks at what is published, also when no packet comes.
    pub(super) fn wake(&self) -> io::Result<()> {
        self.waker.wake()
    }

    /// The worker returns after the burst it is at.
    pub(super) fn stop(&self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.waker.wake()
    }
}

impl<I: Ingress + AsRawFd, E: Egress> Worker<I, E> {
    /// A worker that has not started to read.
    pub(super) fn new(
        pipeline: Pipeline<I, E>,
        tee: Tee,
        shared: Shared,
    ) -> io::Result<(Self, Remote)> {
        let poll = Poll::new()?;
        let mut source = SourceFd(&pipeline.ingress.as_raw_fd());
        poll.registry()
            .register(&mut source, TUN, Interest::READABLE)?;
        let stop = Arc::new(AtomicBool::new(false));
        let remote = Remote {
            stop: Arc::clone(&stop),
            waker: Waker::new(poll.registry(), STOP)?,
        };
        let worker = Self {
            poll,
            pipeline,
            tee,
            hops: Arc::default(),
            shared,
            stop,
            limit: KernelPathMtu::Route,
            last_failure_logged: None,
        };
        Ok((worker, remote))
    }

    /// Forwards packets until it is stopped.
    ///
    /// # Errors
    /// When the TUN cannot be read any more, above all because the device is gone.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(2);
        let mut pause = None;
        while !self.stopped() {
            match self.poll.poll(&mut events, pause) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => self.forward_until_empty()?,
            }
            pause = self.expire();
        }
        self.forward_rest()?;
        self.pipeline.director_mut().finish();
        Ok(())
    }

    fn now(&self) -> Timestamp {
        Timestamp::after(self.shared.epoch.elapsed())
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Expires what is due; returns how long the next wait may last.
    fn expire(&mut self) -> Option<Duration> {
        let now = self.now();
        let director = self.pipeline.director_mut();
        match director.expire(now, EXPIRE_PER_PAUSE) {
            EXPIRE_PER_PAUSE.. => Some(Duration::ZERO),
            _ => director.is_waiting().then_some(EXPIRY_INTERVAL),
        }
    }

    /// Readiness is edge-triggered: the queue must be empty before the next wait.
    fn forward_until_empty(&mut self) -> io::Result<()> {
        let mut reading = Reading::More;
        while reading == Reading::More && !self.stopped() {
            self.adopt();
            self.limit_egress();
            reading = self.turn()?;
        }
        Ok(())
    }

    /// Adopts the latest published snapshot and next hops if they changed; called between bursts.
    fn adopt(&mut self) {
        let published = self.shared.current.load();
        let hops = self.shared.hops.load();
        let is_new = !Arc::ptr_eq(&published.snapshot, self.pipeline.director().snapshot());
        if is_new {
            self.pipeline
                .adopt(Arc::clone(&published.snapshot), published.longest);
        }
        if is_new || !Arc::ptr_eq(&hops, &self.hops) {
            let tunnels = Arc::clone(self.pipeline.director().snapshot());
            self.pipeline.egress.adopt(&*tunnels, &hops);
            self.hops = Arc::clone(&hops);
        }
    }

    /// The kernel's path MTUs limit what leaves, unless it has learnt one that is to be passed by.
    fn limit_egress(&mut self) {
        let passed_by = self.shared.pass_by.load(Ordering::Relaxed) > self.now().as_nanos();
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

    /// What was in the queue when the routes went is forwarded too, in a bounded number of bursts:
    /// somebody else may still send into a TUN that stays.
    fn forward_rest(&mut self) -> io::Result<()> {
        for _ in 0..=QUEUE_LENGTH / BURST {
            if self.turn()? == Reading::Empty {
                break;
            }
        }
        Ok(())
    }

    /// One burst. What its backends did not get is reported.
    fn turn(&mut self) -> io::Result<Reading> {
        let now = self.now();
        let reading = self.pipeline.turn(now)?;
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
