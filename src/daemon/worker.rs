//! One worker: a mio loop over one TUN queue. Read a batch, decide, send the batch.
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

use super::tee::{Origin, Tee};
use super::{Event, Shared};
use crate::director::{Director, DropReason, Forward, Timestamp, Verdict};
use crate::io::egress::{Egress, Outgoing};
use crate::io::sys::{BATCH, KernelPathMtu};
use crate::io::tun::Queue;

const TUN: Token = Token(0);
const STOP: Token = Token(1);

/// At most one line about packets that could not be sent in this time.
const SEND_FAILURE_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How soon waiting fragments and idle flows are looked at again when no packet comes.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);

/// Flows that may expire before the TUN is looked at again: some 100 µs of work.
const EXPIRE_PER_PAUSE: usize = 512;

/// Packets that a TUN queue holds by default (`TUN_READQ_SIZE`, linux/drivers/net/tun.c).
const QUEUE_LENGTH: usize = 500;

/// One thread of the data path.
#[derive(Debug)]
pub(super) struct Worker<E> {
    poll: Poll,
    queue: Queue,
    egress: E,
    director: Director,
    shared: Shared,
    stop: Arc<AtomicBool>,
    /// What the egress holds queued, in its order.
    pending: Vec<Forward>,
    tee: Tee,
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

    /// The worker returns after the batch it is at.
    pub(super) fn stop(&self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.waker.wake()
    }
}

impl<E: Egress> Worker<E> {
    /// A worker that has not started to read.
    pub(super) fn new(
        queue: Queue,
        egress: E,
        director: Director,
        shared: Shared,
        tee: Tee,
    ) -> io::Result<(Self, Remote)> {
        let poll = Poll::new()?;
        let mut source = SourceFd(&queue.as_raw_fd());
        poll.registry()
            .register(&mut source, TUN, Interest::READABLE)?;
        let stop = Arc::new(AtomicBool::new(false));
        let remote = Remote {
            stop: Arc::clone(&stop),
            waker: Waker::new(poll.registry(), STOP)?,
        };
        let worker = Self {
            poll,
            queue,
            egress,
            director,
            shared,
            stop,
            pending: Vec::with_capacity(BATCH),
            tee,
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
            pause = match self.director.expire(self.now(), EXPIRE_PER_PAUSE) {
                EXPIRE_PER_PAUSE.. => Some(Duration::ZERO),
                _ => self.director.is_waiting().then_some(EXPIRY_INTERVAL),
            };
        }
        self.forward_rest()?;
        self.director.finish();
        Ok(())
    }

    fn now(&self) -> Timestamp {
        Timestamp::after(self.shared.epoch.elapsed())
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Readiness is edge-triggered: the queue must be empty before the next wait.
    fn forward_until_empty(&mut self) -> io::Result<()> {
        let mut reading = Reading::More;
        while reading == Reading::More && !self.stopped() {
            self.adopt();
            let now = self.now();
            self.limit_egress(now);
            reading = self.read_batch(now)?;
            self.send_batch();
        }
        Ok(())
    }

    /// Takes over what was published, if anything: between two batches.
    fn adopt(&mut self) {
        let published = self.shared.current.load();
        if !Arc::ptr_eq(&published.snapshot, self.director.snapshot()) {
            self.egress.fit(published.longest);
            self.director.adopt(Arc::clone(&published.snapshot));
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
            if let Err(error) = self.egress.limit_by(limit) {
                warn!("cannot set which path MTU the kernel heeds: {error}");
            }
        }
    }

    /// What was in the queue when the routes went is forwarded too, in a bounded number of batches:
    /// somebody else may still send into a TUN that stays.
    fn forward_rest(&mut self) -> io::Result<()> {
        for _ in 0..=QUEUE_LENGTH / BATCH {
            let reading = self.read_batch(self.now())?;
            self.send_batch();
            if reading == Reading::Empty {
                break;
            }
        }
        Ok(())
    }

    fn read_batch(&mut self, now: Timestamp) -> io::Result<Reading> {
        if let Reading::More = self.queue_released() {
            return Ok(Reading::More);
        }
        // Counted by what is read: packets that are dropped or answered take no frame, and a flood of
        // them must not hold back the batch, the clock or a stop.
        for _ in 0..BATCH {
            let Some(frame) = self.egress.frame() else {
                break;
            };
            let length = match self.queue.recv(frame.body) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Reading::Empty);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let packet = &frame.body[..length];
            let verdict = self.director.decide(packet, now);
            self.tee.decided(self.director.snapshot(), packet, &verdict);
            match verdict {
                Verdict::Forward(forward) => {
                    self.queue_forward(&forward, Origin::Tun);
                    if let Reading::More = self.queue_released() {
                        return Ok(Reading::More);
                    }
                }
                Verdict::Reply => self.send_replies(length),
                Verdict::Hold => {}
                Verdict::Drop(reason) => trace!("dropped {length} bytes: {}", reason.name()),
            }
        }
        Ok(Reading::More)
    }

    /// Encapsulates and queues the packet in the current frame.
    fn queue_forward(&mut self, forward: &Forward, origin: Origin) {
        let Some(frame) = self.egress.frame() else {
            return;
        };
        let length = usize::from(forward.meta.length);
        let inner = &frame.body[..length];
        let Ok(encap) = self.director.encapsulate(forward, frame.headroom, inner) else {
            self.tee.too_big(self.director.snapshot(), inner, forward);
            return;
        };
        let outgoing = Outgoing {
            overhead: encap.overhead(),
            length,
            destination: encap.destination(),
        };
        let snapshot = self.director.snapshot();
        self.tee
            .queued(snapshot, &frame, &outgoing, (forward, origin));
        self.egress.queue(outgoing);
        self.pending.push(*forward);
    }

    /// Queues fragments that waited for a first one, as far as the batch has room: `More` when
    /// it is full.
    fn queue_released(&mut self) -> Reading {
        while let Some(frame) = self.egress.frame() {
            match self.director.take_released(frame.body) {
                Some((forward, _)) => self.queue_forward(&forward, Origin::Held),
                None => return Reading::Empty,
            }
        }
        Reading::More
    }

    /// The kernel routes the director's own answers as if they had come from the VIP through the
    /// TUN. The packet in the current frame, of `length` bytes, is what is answered.
    fn send_replies(&mut self, length: usize) {
        let mut sent = Ok(());
        for reply in self.director.replies() {
            if let Err(error) = self.queue.send(reply) {
                trace!("reply not sent: {error}");
                self.director.counters().count_drop(DropReason::SendFailed);
                sent = Err(error);
            }
        }
        if let Some(frame) = self.egress.frame() {
            let packet = &frame.body[..length];
            let replies = self.director.replies();
            self.tee
                .replied(self.director.snapshot(), packet, replies, &sent);
        }
    }

    fn send_batch(&mut self) {
        let counters = self.director.counters();
        let snapshot = self.director.snapshot();
        let (events, tee) = (&self.shared.events, &mut self.tee);
        let mut pending = self.pending.drain(..);
        let mut failure = None;
        self.egress.flush(|outgoing, result| {
            let Some(forward) = pending.next() else {
                return;
            };
            match result {
                Ok(()) => {
                    counters.count_sent(forward.target.backend, outgoing.length);
                    tee.sent(snapshot, Ok(()));
                }
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                    counters.count_drop(DropReason::TooBig);
                    tee.sent(snapshot, Err((DropReason::TooBig, &error)));
                    // A full channel is no loss: the next such packet reports it again.
                    events
                        .try_send(Event::TooLongFor(forward.target.backend))
                        .ok();
                }
                Err(error) => {
                    counters.count_drop(DropReason::SendFailed);
                    tee.sent(snapshot, Err((DropReason::SendFailed, &error)));
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
