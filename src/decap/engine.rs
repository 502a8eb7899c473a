//! The main loop: one mio loop over the first [`Mover`], the signals and the alarms of the other threads.

use std::{
    io,
    sync::{
        Arc,
        atomic::AtomicBool,
        mpsc::{Receiver, TryRecvError},
    },
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, Waker};
use signal_hook_mio::v1_0::Signals;

use crate::io::signals::{Ignored, Meaning, meaning, name};

use super::{DecapError, Totals, mover::Mover, workers::Tally};

/// Everything that the loop works with, open and ready.
pub(super) struct Engine {
    poll: Poll,
    mover: Mover,
    signals: Signals,
    /// Tokens of this loop's own: of the signals and of the alarms.
    tokens: [Token; 2],
    ignored: Ignored,
    alarms: Receiver<DecapError>,
    /// What the other threads did.
    others: Arc<Tally>,
    /// Of the alarms: a waker that is dropped takes the event along that it has just made.
    _waker: Arc<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Continue,
    Stop,
}

impl Engine {
    /// Joins the parts, and returns what wakes the loop to hear an alarm.
    ///
    /// # Errors
    /// [`DecapError::Loop`].
    pub(super) fn open(
        mut mover: Mover,
        mut signals: Signals,
        alarms: Receiver<DecapError>,
        others: Arc<Tally>,
    ) -> Result<(Self, Arc<Waker>), DecapError> {
        let poll = Poll::new().map_err(loop_error("open"))?;
        let registry = poll.registry();
        let free = mover.register(registry).map_err(loop_error("register"))?;
        let tokens = [Token(free), Token(free + 1)];
        registry
            .register(&mut signals, tokens[0], Interest::READABLE)
            .map_err(loop_error("register"))?;
        let waker = Arc::new(Waker::new(registry, tokens[1]).map_err(loop_error("open"))?);
        let engine = Self {
            poll,
            mover,
            signals,
            tokens,
            ignored: Ignored::default(),
            alarms,
            others,
            _waker: Arc::clone(&waker),
        };
        Ok((engine, waker))
    }

    /// Runs until a signal means to stop, or an alarm. `report` is called at each SIGUSR1. Packets are
    /// counted as doubled while `doubled` says so.
    ///
    /// # Errors
    /// What ends the command.
    pub(super) fn run(
        &mut self,
        doubled: &AtomicBool,
        mut report: impl FnMut(&Totals),
    ) -> Result<(), DecapError> {
        let mut events = Events::with_capacity(8);
        loop {
            wait(&mut self.poll, &mut events, self.mover.timeout())?;
            let [signals, alarm] = self.tokens;
            for event in &events {
                let token = event.token();
                if token == alarm {
                    self.hear_alarm()?;
                } else if token != signals {
                    self.mover.note(token);
                } else if self.take_signals(&mut report) == Wish::Stop {
                    return Ok(());
                }
            }
            self.mover
                .turn(doubled)
                .map_err(|error| self.explained(error))?;
        }
    }

    /// What happened to the packets so far, on all threads.
    pub(super) fn totals(&self) -> Totals {
        *self.mover.totals() + self.mover.in_drivers() + self.others.totals()
    }

    fn hear_alarm(&self) -> Result<(), DecapError> {
        match self.alarms.try_recv() {
            Ok(error) => Err(self.explained(error)),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => Ok(()),
        }
    }

    /// The watch sees more of a lost device than what writes to it.
    fn explained(&self, error: DecapError) -> DecapError {
        if matches!(error, DecapError::DeviceLost { .. }) {
            self.alarms.try_recv().unwrap_or(error)
        } else {
            error
        }
    }

    fn take_signals(&mut self, report: &mut impl FnMut(&Totals)) -> Wish {
        let mut wish = Wish::Continue;
        for signal in self.signals.pending() {
            match meaning(signal) {
                Meaning::Stop => {
                    log::info!("stopping: {}", name(signal));
                    wish = Wish::Stop;
                }
                Meaning::Totals => report(&self.totals()),
                Meaning::Reload => log::info!("{}: there is no file to read again", name(signal)),
                Meaning::Nothing => self.ignored.note(signal),
            }
        }
        wish
    }
}

/// Waits for events.
pub(super) fn wait(
    poll: &mut Poll,
    events: &mut Events,
    timeout: Option<Duration>,
) -> Result<(), DecapError> {
    match poll.poll(events, timeout) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            events.clear();
            Ok(())
        }
        other => other.map_err(loop_error("wait")),
    }
}

pub(super) fn loop_error(operation: &'static str) -> impl Fn(io::Error) -> DecapError {
    move |cause| DecapError::Loop { operation, cause }
}
