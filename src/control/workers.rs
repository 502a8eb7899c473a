//! The other end of a worker, for those who watch it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mio::Waker;

use super::flows::{FlowChunk, FlowError, FlowMailbox, FlowRequest};
use crate::director::{Counters, Timestamp};

/// A worker, for those who watch it.
#[derive(Debug, Clone)]
pub struct WorkerLink {
    /// What it counts.
    pub counters: Arc<Counters>,
    /// Whether it still turns.
    pub heartbeat: Arc<Heartbeat>,
    /// Wakes it; it then beats.
    pub waker: Arc<Waker>,
    /// Through which it shows its flows.
    pub flows: Arc<FlowMailbox>,
}

impl WorkerLink {
    /// Some of its flows. Waits for the worker no longer than `timeout`, and for other clients.
    ///
    /// # Errors
    /// [`FlowError`].
    pub fn list(&self, request: FlowRequest, timeout: Duration) -> Result<FlowChunk, FlowError> {
        self.flows.list(request, timeout, || self.waker.wake())
    }
}

/// When a worker last looked up from its work or its sleep.
#[derive(Debug)]
pub struct Heartbeat {
    epoch: Instant,
    /// In nanoseconds after the epoch.
    last: AtomicU64,
}

impl Heartbeat {
    /// One that beats now.
    #[must_use]
    pub fn new(epoch: Instant) -> Self {
        let heartbeat = Self {
            epoch,
            last: AtomicU64::new(0),
        };
        heartbeat.beat(Timestamp::after(epoch.elapsed()));
        heartbeat
    }

    /// It turns.
    pub fn beat(&self, now: Timestamp) {
        self.last.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// This moment, by the clock of the data path.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::after(self.epoch.elapsed())
    }

    /// How long ago it beat.
    #[must_use]
    pub fn age(&self) -> Duration {
        let last = Duration::from_nanos(self.last.load(Ordering::Relaxed));
        self.epoch.elapsed().saturating_sub(last)
    }
}
