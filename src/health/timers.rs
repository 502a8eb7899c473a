//! When what is due: a heap. What was planned and became void is recognized when it is due, not searched for.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::probe::Moment;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// A flight's time is over: its number, and which flight of that number.
    Timeout(usize, u64),
    /// A backend is to be probed: its position in the plan of that number.
    Start(u64, usize),
    /// Why it fails is to be asked: the same.
    Inquest(u64, usize),
    /// Whether packets of full size get through is to be asked: the same.
    Size(u64, usize),
    /// The tap on the devices may be over.
    Untap,
    /// What clients' packets show is to be looked at, for the plan of that number.
    Passive(u64),
}

#[derive(Debug, Default)]
pub(super) struct Timers(BinaryHeap<Reverse<(Moment, Due)>>);

impl Timers {
    pub(super) fn set(&mut self, at: Moment, due: Due) {
        self.0.push(Reverse((at, due)));
    }

    /// What is due now, the earliest first, and when it was.
    pub(super) fn take(&mut self, now: Moment) -> Option<(Moment, Due)> {
        let Reverse((at, _)) = self.0.peek()?;
        if *at > now {
            return None;
        }
        self.0.pop().map(|Reverse(due)| due)
    }

    /// When something is due next.
    pub(super) fn next(&self) -> Option<Moment> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }
}
