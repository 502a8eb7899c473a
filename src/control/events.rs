//! What happened, for those who watch: the last few thousand events, each told as it happens.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::overlay::Author;

/// Events that are kept.
pub const KEPT: usize = 4096;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// The director began to forward.
    Started,
    /// Another configuration holds.
    Reloaded,
    /// One was refused.
    ReloadRefused,
    /// An operator changed a backend.
    OverrideSet,
    /// A change of an operator's ended: by time, by a reload, by hand.
    OverrideEnded,
    /// The last flow of a draining backend ended.
    Drained,
    /// The way to a backend is another one.
    PathChanged,
    /// What others removed or changed of a VIP's way into the TUN is there again.
    Restored,
    /// Something of this host keeps packets from their way.
    HostProblem,
    /// It does so no more.
    HostRecovered,
    /// What is measured of a backend changed.
    HealthChanged,
    /// What routers are to be told of a VIP's address changed.
    AnnounceChanged,
    /// A capture began or ended.
    Capture,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::Started,
        Self::Reloaded,
        Self::ReloadRefused,
        Self::OverrideSet,
        Self::OverrideEnded,
        Self::Drained,
        Self::PathChanged,
        Self::Restored,
        Self::HostProblem,
        Self::HostRecovered,
        Self::HealthChanged,
        Self::AnnounceChanged,
        Self::Capture,
    ];

    /// The word in every output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Reloaded => "reloaded",
            Self::ReloadRefused => "reload_refused",
            Self::OverrideSet => "override_set",
            Self::OverrideEnded => "override_ended",
            Self::Drained => "drained",
            Self::PathChanged => "path_changed",
            Self::Restored => "restored",
            Self::HostProblem => "host_problem",
            Self::HostRecovered => "host_recovered",
            Self::HealthChanged => "health_changed",
            Self::AnnounceChanged => "announce_changed",
            Self::Capture => "capture",
        }
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Counts events from 1, without a gap.
    pub id: u64,
    /// When.
    pub at: SystemTime,
    /// What.
    pub what: Happening,
}

/// What an event says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// Of which kind.
    pub kind: EventKind,
    /// The name of the VIP that it is about.
    pub vip: Option<String>,
    /// The backend that it is about.
    pub backend: Option<IpAddr>,
    /// In a sentence.
    pub text: String,
    /// Rows of `docs/doctor.md` that may tell why.
    pub codes: Vec<&'static str>,
    /// The operator who caused it.
    pub by: Option<Author>,
}

impl Happening {
    /// One that is about no VIP or backend and has no author.
    #[must_use]
    pub const fn new(kind: EventKind, text: String) -> Self {
        Self {
            kind,
            vip: None,
            backend: None,
            text,
            codes: Vec::new(),
            by: None,
        }
    }
}

/// The last events. One thread tells, any may read.
#[derive(Debug, Default)]
pub struct EventLog(Mutex<Log>);

#[derive(Default)]
struct Log {
    told: u64,
    last: VecDeque<Arc<Event>>,
    watchers: Vec<Watcher>,
}

/// Called after each event; must not wait.
type Watcher = Box<dyn Fn() + Send>;

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log({} events)", self.told)
    }
}

impl EventLog {
    /// Keeps an event and wakes those who watch.
    pub fn tell(&self, what: Happening) {
        let mut log = self.lock();
        log.told += 1;
        let event = Event {
            id: log.told,
            at: SystemTime::now(),
            what,
        };
        if log.last.len() == KEPT {
            log.last.pop_front();
        }
        log.last.push_back(Arc::new(event));
        log.watchers.iter().for_each(|wake| wake());
    }

    /// The events after the one with that number, as far as they are kept, at most `most`, oldest first.
    #[must_use]
    pub fn after(&self, id: u64, most: usize) -> Vec<Arc<Event>> {
        let log = self.lock();
        let first = log.last.partition_point(|event| event.id <= id);
        log.last.iter().skip(first).take(most).cloned().collect()
    }

    /// The number of the last event; 0 before the first.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.lock().told
    }

    /// Has `wake` called after each event; it must not wait.
    pub fn watch(&self, wake: impl Fn() + Send + 'static) {
        self.lock().watchers.push(Box::new(wake));
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_events_are_kept_in_order() {
        let log = EventLog::default();
        assert_eq!((log.last(), log.after(0, 10).len()), (0, 0));
        for number in 0..KEPT + 5 {
            log.tell(Happening::new(EventKind::Restored, number.to_string()));
        }
        let ids = |after, most| -> Vec<u64> {
            log.after(after, most)
                .iter()
                .map(|event| event.id)
                .collect()
        };
        let last = log.last();
        assert_eq!(last, KEPT as u64 + 5);
        assert_eq!(ids(0, 2), [6, 7], "the first five are gone");
        assert_eq!(ids(last - 1, 9), [last]);
        assert_eq!(ids(last, 9), [0; 0]);
        assert_eq!(log.after(last - 1, 9)[0].what.text, (KEPT + 4).to_string());
    }
}
