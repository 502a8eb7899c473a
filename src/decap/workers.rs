//! Further threads (`--workers`): each has sockets, a queue and rules of its own, and shares nothing that it
//! writes but its counts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, Scope},
};

use mio::{Events, Poll, Token, Waker};

use super::{
    DecapError, Totals,
    engine::{loop_error, wait},
    mover::Mover,
    totals::COUNTS,
    watch::Alarm,
};

/// What the further threads did, written by each after every turn.
#[derive(Debug, Default)]
pub(super) struct Tally(Vec<[AtomicU64; COUNTS]>);

/// One further thread.
#[derive(Debug)]
struct Worker {
    poll: Poll,
    mover: Mover,
    stopped: Arc<AtomicBool>,
    /// Of [`Stop`]: a waker that is dropped takes the event along that it has just made.
    _waker: Arc<Waker>,
}

/// Ends a worker when it is dropped.
#[derive(Debug)]
pub(super) struct Stop {
    waker: Arc<Waker>,
    stopped: Arc<AtomicBool>,
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.waker.wake().unwrap_or_default(); // it fails only where the worker has ended
    }
}

impl Tally {
    /// For so many threads.
    pub(super) fn new(threads: usize) -> Self {
        Self((0..threads).map(|_| Default::default()).collect())
    }

    /// The sum.
    pub(super) fn totals(&self) -> Totals {
        let read = |counts: &[AtomicU64; COUNTS]| {
            Totals::from_counts(counts.each_ref().map(|count| count.load(Ordering::Relaxed)))
        };
        self.0
            .iter()
            .map(read)
            .fold(Totals::default(), |sum, of_one| sum + of_one)
    }

    fn write(&self, thread: usize, totals: &Totals) {
        let counts = self.0.get(thread).into_iter().flatten();
        for (count, value) in counts.zip(totals.counts()) {
            count.store(value, Ordering::Relaxed);
        }
    }
}

/// Starts a thread for each of `movers`; they run until what is returned is dropped. What ends one of them is
/// raised as an alarm.
///
/// # Errors
/// [`DecapError::Loop`].
pub(super) fn start<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    movers: Vec<Mover>,
    (tally, doubled): (&'env Tally, &'env AtomicBool),
    alarm: &Alarm,
) -> Result<Vec<Stop>, DecapError> {
    let mut stops = Vec::new();
    for (index, mover) in movers.into_iter().enumerate() {
        let (mut worker, stop) = Worker::open(mover)?;
        stops.push(stop);
        let alarm = alarm.clone();
        let run = move || {
            if let Err(error) = worker.run(doubled, |totals| tally.write(index, totals)) {
                alarm.raise(error);
            }
        };
        let builder = thread::Builder::new().name(format!("worker-{}", index + 1));
        builder
            .spawn_scoped(scope, run)
            .map_err(|cause| DecapError::Loop {
                operation: "start a worker",
                cause,
            })?;
    }
    Ok(stops)
}

impl Worker {
    fn open(mut mover: Mover) -> Result<(Self, Stop), DecapError> {
        let poll = Poll::new().map_err(loop_error("open"))?;
        let free = mover.register(poll.registry());
        let token = Token(free.map_err(loop_error("register"))?);
        let waker = Waker::new(poll.registry(), token).map_err(loop_error("open"))?;
        let (waker, stopped) = (Arc::new(waker), Arc::new(AtomicBool::new(false)));
        let stop = Stop {
            waker: Arc::clone(&waker),
            stopped: Arc::clone(&stopped),
        };
        let worker = Self {
            poll,
            mover,
            stopped,
            _waker: waker,
        };
        Ok((worker, stop))
    }

    fn run(&mut self, doubled: &AtomicBool, publish: impl Fn(&Totals)) -> Result<(), DecapError> {
        let mut events = Events::with_capacity(8);
        loop {
            wait(&mut self.poll, &mut events, self.mover.timeout())?;
            if self.stopped.load(Ordering::Relaxed) {
                return Ok(());
            }
            for event in &events {
                self.mover.note(event.token());
            }
            let result = self.mover.turn(doubled);
            publish(self.mover.totals());
            result?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decap::admission::Refusal;

    #[test]
    fn counts_of_all_threads_are_summed() {
        let tally = Tally::new(2);
        let mut totals = Totals::default();
        totals.count_injected(3);
        totals.count_doubled(1);
        tally.write(0, &totals);
        totals.count_refused(Refusal::Ecn, 5);
        tally.write(1, &totals);
        tally.write(2, &totals); // no such thread
        let mut expected = Totals::default();
        expected.count_injected(6);
        expected.count_doubled(2);
        expected.count_refused(Refusal::Ecn, 5);
        assert_eq!(tally.totals(), expected);
    }
}
