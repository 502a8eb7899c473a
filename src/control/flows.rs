//! How another thread reads the flows of a worker, whose table only the worker may touch: it puts a request into the
//! worker's mailbox, and the worker answers between two bursts.
//!
//! The worker takes no lock, never waits and allocates nothing: while no request is there, it costs one relaxed
//! load for each burst; a request is one [step](crate::director::Director::list) of the table, into memory that
//! the client brought. Clients wait for one another.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use crate::director::{Director, FlowCursor, FlowFilter, KnownFlow, Snapshot, Timestamp};

/// Flows in an answer, at most.
pub const MAX_FLOWS: usize = 512;

/// What is asked of a worker.
#[derive(Debug, Clone, Copy)]
pub struct FlowRequest {
    /// Where to begin.
    pub from: FlowCursor,
    /// Which flows.
    pub filter: FlowFilter,
    /// Flows that are wanted, at most; no more than [`MAX_FLOWS`] come.
    pub most: usize,
}

/// What a worker answered.
#[derive(Debug)]
pub struct FlowChunk {
    /// Flows that it knows; there may be none though further ones follow.
    pub flows: Vec<KnownFlow>,
    /// Where to go on; `None` at the end.
    pub next: Option<FlowCursor>,
    /// What it forwards by: it has the names and addresses.
    pub snapshot: Arc<Snapshot>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// The worker cannot be woken.
    #[error("cannot wake the worker: {0}")]
    Wake(#[from] io::Error),
    /// The kernel does not show the flows of a data path in drivers.
    #[error("cannot read the flows of the XDP program: {0}")]
    Map(io::Error),
    /// It did not answer in time.
    #[error("the worker did not answer within {0:?}")]
    Late(Duration),
}

/// Where a worker finds a request, and a client the answer.
#[derive(Debug, Default)]
pub struct FlowMailbox {
    is_waiting: AtomicBool,
    request: ArcSwapOption<Exchange>,
    answer: ArcSwapOption<Exchange>,
    /// Counts the requests; held by the client that waits.
    clients: Mutex<u64>,
}

/// A request, and room for the answer.
#[derive(Debug)]
struct Exchange {
    number: u64,
    request: FlowRequest,
    client: Thread,
    flows: Vec<KnownFlow>,
    next: Option<FlowCursor>,
    /// Of the worker, once it answered.
    snapshot: Option<Arc<Snapshot>>,
}

impl FlowMailbox {
    /// Whether a request waits for the worker.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.is_waiting.load(Ordering::Relaxed)
    }

    /// The worker answers the request that waits, if any.
    pub fn serve(&self, director: &Director, now: Timestamp) {
        if !self.is_waiting.swap(false, Ordering::AcqRel) {
            return;
        }
        let Some(mut exchange) = self.request.swap(None) else {
            return; // the client waits no longer
        };
        let Some(Exchange {
            request,
            flows,
            next,
            snapshot,
            client,
            ..
        }) = Arc::get_mut(&mut exchange)
        else {
            return; // a mailbox has the only reference
        };
        let FlowRequest { from, filter, most } = &*request;
        *next = director.list(*from, filter, *most, flows, now);
        *snapshot = Some(Arc::clone(director.snapshot()));
        let client = client.clone();
        self.answer.store(Some(exchange));
        client.unpark();
    }

    /// Asks the worker, which `wake` wakes, and waits for its answer no longer than `timeout`; before that, for
    /// other clients. Not for threads that must not wait, nor for the worker.
    ///
    /// # Errors
    /// [`FlowError`].
    pub fn list(
        &self,
        request: FlowRequest,
        timeout: Duration,
        wake: impl FnOnce() -> io::Result<()>,
    ) -> Result<FlowChunk, FlowError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        *clients += 1;
        let number = *clients;
        let most = request.most.min(MAX_FLOWS);
        self.request.store(Some(Arc::new(Exchange {
            number,
            request: FlowRequest { most, ..request },
            client: thread::current(),
            flows: Vec::with_capacity(most),
            next: None,
            snapshot: None,
        })));
        self.is_waiting.store(true, Ordering::Release);
        let answer = match wake() {
            Ok(()) => self.wait(number, timeout),
            Err(error) => Err(error.into()),
        };
        if answer.is_err() {
            self.request.store(None);
        }
        answer
    }

    fn wait(&self, number: u64, timeout: Duration) -> Result<FlowChunk, FlowError> {
        let deadline = Instant::now() + timeout;
        loop {
            // An answer to a client that waits no longer is passed over.
            if let Some(answer) = self.answer.swap(None).and_then(Arc::into_inner)
                && answer.number == number
                && let Some(snapshot) = answer.snapshot
            {
                return Ok(FlowChunk {
                    flows: answer.flows,
                    next: answer.next,
                    snapshot,
                });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(FlowError::Late(timeout));
            }
            thread::park_timeout(left);
        }
    }
}

#[cfg(test)]
mod tests;
