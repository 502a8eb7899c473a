//! One worker: a mio loop over one TUN queue. Read a batch, decide, send the batch.
//!
//! A worker shares nothing that it writes but its counters, takes no lock and allocates nothing
//! once it runs.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log::{trace, warn};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::director::{Director, DropReason, Forward, Timestamp, Verdict};
use crate::io::egress::{Egress, Outgoing};
use crate::io::sys::BATCH;
use crate::io::tun::Queue;

const TUN: Token = Token(0);
const STOP: Token = Token(1);

/// At most one line about packets that could not be sent in this time.
const SEND_FAILURE_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// One thread of the data path.
#[derive(Debug)]
pub(super) struct Worker<E> {
    poll: Poll,
    queue: Queue,
    egress: E,
    director: Director,
    started: Instant,
    stop: Arc<AtomicBool>,
    /// What the egress holds queued, in its order.
    pending: Vec<Forward>,
    last_failure_logged: Option<Instant>,
}

/// Stops a worker from another thread.
#[derive(Debug)]
pub(super) struct Stopper {
    stop: Arc<AtomicBool>,
    waker: Waker,
}

impl Stopper {
    /// The worker returns after the batch it is at.
    pub(super) fn stop(&self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.waker.wake()
    }
}

impl<E: Egress> Worker<E> {
    /// A worker that has not started to read.
    pub(super) fn new(queue: Queue, egress: E, director: Director) -> io::Result<(Self, Stopper)> {
        let poll = Poll::new()?;
        let mut source = SourceFd(&queue.as_raw_fd());
        poll.registry()
            .register(&mut source, TUN, Interest::READABLE)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopper = Stopper {
            stop: Arc::clone(&stop),
            waker: Waker::new(poll.registry(), STOP)?,
        };
        let worker = Self {
            poll,
            queue,
            egress,
            director,
            started: Instant::now(),
            stop,
            pending: Vec::with_capacity(BATCH),
            last_failure_logged: None,
        };
        Ok((worker, stopper))
    }

    /// Forwards packets until it is stopped.
    ///
    /// # Errors
    /// When the TUN cannot be read any more, above all because the device is gone.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(2);
        while !self.stopped() {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => self.forward_until_empty()?,
            }
        }
        Ok(())
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Readiness is edge-triggered: the queue must be empty before the next wait.
    fn forward_until_empty(&mut self) -> io::Result<()> {
        let mut reading = Reading::More;
        while reading == Reading::More && !self.stopped() {
            let now = Timestamp::after(self.started.elapsed());
            reading = self.read_batch(now)?;
            self.send_batch();
        }
        Ok(())
    }

    fn read_batch(&mut self, now: Timestamp) -> io::Result<Reading> {
        while let Some(frame) = self.egress.frame() {
            let length = match self.queue.recv(frame.body) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Reading::Empty);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let forward = match self.director.decide(&frame.body[..length], now) {
                Verdict::Forward(forward) => forward,
                Verdict::Drop(reason) => {
                    trace!("dropped {length} bytes: {}", reason.name());
                    continue;
                }
            };
            if let Ok(encap) = self.director.encapsulate(&forward, frame.headroom) {
                let outgoing = Outgoing {
                    overhead: encap.overhead(),
                    length: forward.meta.length.into(),
                    destination: encap.destination(),
                };
                self.egress.queue(outgoing);
                self.pending.push(forward);
            }
        }
        Ok(Reading::More)
    }

    fn send_batch(&mut self) {
        let counters = self.director.counters();
        let mut pending = self.pending.drain(..);
        let mut failure = None;
        self.egress.flush(|outgoing, result| {
            let Some(forward) = pending.next() else {
                return;
            };
            match result {
                Ok(()) => counters.count_sent(forward.backend, outgoing.length),
                Err(error) => {
                    counters.count_drop(DropReason::SendFailed);
                    failure = Some((outgoing.destination, error));
                }
            }
        });
        drop(pending);
        if let Some((destination, error)) = failure {
            self.log_failure(&format_args!(
                "cannot send to backend {destination}: {error}"
            ));
        }
    }

    fn log_failure(&mut self, message: &std::fmt::Arguments<'_>) {
        let now = Instant::now();
        let quiet = self
            .last_failure_logged
            .is_some_and(|last| now - last < SEND_FAILURE_LOG_INTERVAL);
        if !quiet {
            self.last_failure_logged = Some(now);
            let failed = self.director.counters().dropped(DropReason::SendFailed);
            warn!("{message} (send_failed: {failed} so far)");
        }
    }
}

/// Whether the TUN queue may hold more packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    More,
    Empty,
}
