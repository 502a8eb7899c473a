//! What was published and waits until every worker forwards by it.

use std::time::{Duration, Instant};

use log::warn;

use super::command::{Refused, Reloaded, Reply};
use super::overlay::ChangeError;
use super::reload::Following;
use super::{Control, Host};
use crate::director::Roster;

/// How long workers may take to adopt a snapshot: they look after every burst.
const ADOPTION: Duration = Duration::from_secs(2);

/// How soon it is looked at again, should no worker tell that it has adopted.
const LOOK: Duration = Duration::from_millis(20);

/// Published, and waiting for adoption.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) epoch: u64,
    pub(super) then: Then,
    deadline: Instant,
}

/// What is done then.
#[derive(Debug)]
pub(super) enum Then {
    /// Nothing.
    Rest,
    /// A client hears that its change holds, from that generation on.
    Answer(u64, Reply<Result<u64, ChangeError>>),
    /// What others changed of the host is restored; these ways cannot be followed.
    Restore(Vec<String>),
    /// The host follows another configuration.
    Follow(Box<Following>),
    /// One that the host refused was taken back.
    Refuse(Refused, Option<Reply<Result<Reloaded, Refused>>>),
}

impl Pending {
    pub(super) fn new(epoch: u64, then: Then) -> Self {
        Self {
            epoch,
            then,
            deadline: Instant::now() + ADOPTION,
        }
    }

    /// Whether every worker forwards by it, or waiting longer is no use.
    pub(super) fn is_due(&self, roster: &Roster, now: Instant) -> bool {
        if roster.is_adopted(self.epoch) {
            return true;
        }
        let is_late = now >= self.deadline;
        if is_late {
            warn!("a worker has not adopted the last change yet");
        }
        is_late
    }

    pub(super) fn patience(&self) -> Duration {
        LOOK.min(self.deadline.saturating_duration_since(Instant::now()))
    }
}

impl<H: Host> Control<H> {
    /// Does what was to be done after adoption.
    pub(super) fn finish(&mut self, pending: Pending) {
        match pending.then {
            Then::Rest => {}
            Then::Answer(generation, reply) => reply.send(Ok(generation)),
            Then::Restore(unusable) => self.restore(&unusable),
            Then::Follow(following) => self.follow(*following),
            Then::Refuse(refused, reply) => self.taken_back(refused, reply),
        }
    }
}
