//! Reading the configuration again, on a thread of its own: the main one hears signals meanwhile, however
//! slow the file is.

use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, mem, thread};

use log::{error, warn};

use super::Event;
use crate::config::{Config, ConfigError};
use crate::control::overlay::Author;
use crate::control::{Refused, ReloadOptions, Reloaded, Reply};

/// Reads the configuration again.
pub type ReadAgain = Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// At most one reading at a time.
pub(super) struct Rereading {
    read: ReadAgain,
    events: SyncSender<Event>,
    state: State,
}

#[derive(Debug)]
enum State {
    Idle,
    /// And once more for these afterwards: the file may have changed since the reading began.
    Reading(Vec<Asker>),
}

/// Who wants the configuration to be read again; a signal by default.
#[derive(Debug, Default)]
pub(super) struct Asker {
    pub(super) options: ReloadOptions,
    pub(super) by: Option<Author>,
    pub(super) reply: Option<Reply<Result<Reloaded, Refused>>>,
}

impl Asker {
    /// Nothing is read for it.
    pub(super) fn refuse(self, why: &str) {
        match self.reply {
            Some(reply) => reply.send(Err(Refused {
                problems: vec![why.to_owned()],
            })),
            None => error!("reload refused, the old configuration stays: {why}"),
        }
    }
}

impl fmt::Debug for Rereading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rereading")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Rereading {
    /// What is read is an [`Event::Reread`] of `events`.
    pub(super) fn new(read: ReadAgain, events: SyncSender<Event>) -> Self {
        Self {
            read,
            events,
            state: State::Idle,
        }
    }

    /// Whether something is read now.
    pub(super) const fn is_reading(&self) -> bool {
        matches!(self.state, State::Reading(_))
    }

    /// Begins to read; where that goes on already, it is done once more after it.
    pub(super) fn begin(&mut self, asker: Asker) {
        if let State::Reading(waiting) = &mut self.state {
            if waiting.is_empty() {
                warn!(
                    "the configuration is still being read; it will be read once more after that"
                );
            }
            // Each signal asks for the same; a client wants an answer of its own.
            if asker.reply.is_some() || waiting.iter().all(|other| other.reply.is_some()) {
                waiting.push(asker);
            }
            return;
        }
        self.read(asker);
    }

    fn read(&mut self, asker: Asker) {
        let (read, events) = (Arc::clone(&self.read), self.events.clone());
        let handed_over = Arc::new(Mutex::new(Some(asker)));
        let for_thread = Arc::clone(&handed_over);
        let body = move || {
            let config = Box::new(read());
            let asker = take(&for_thread);
            // Fails only while the director is stopping anyway.
            events.send(Event::Reread(config, asker)).ok();
        };
        let thread = thread::Builder::new()
            .name("tunlb-reload".into())
            .spawn(body);
        match thread {
            Ok(_) => self.state = State::Reading(Vec::new()),
            Err(error) => {
                if let Some(asker) = take(&handed_over) {
                    asker.refuse(&format!("no thread: {error}"));
                }
            }
        }
    }

    /// What was read was applied or refused.
    pub(super) fn ended(&mut self) {
        let State::Reading(waiting) = mem::replace(&mut self.state, State::Idle) else {
            return;
        };
        for asker in waiting {
            self.begin(asker);
        }
    }
}

fn take(asker: &Mutex<Option<Asker>>) -> Option<Asker> {
    asker.lock().unwrap_or_else(PoisonError::into_inner).take()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{TryRecvError, sync_channel};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_file_that_gives_nothing_holds_up_nothing_and_is_read_once_more() {
        let (writes, file) = sync_channel::<()>(2);
        let file = std::sync::Mutex::new(file);
        let read: ReadAgain = Arc::new(move || {
            file.lock().unwrap().recv().unwrap();
            Config::parse("f", "")
        });
        let (events, happened) = sync_channel(4);
        let mut rereading = Rereading::new(read, events);
        rereading.begin(Asker::default());
        rereading.begin(Asker::default());
        rereading.begin(Asker::default());
        assert!(matches!(happened.try_recv(), Err(TryRecvError::Empty)));
        for _ in 0..2 {
            writes.send(()).unwrap();
            let event = happened.recv_timeout(Duration::from_secs(30)).unwrap();
            assert!(matches!(event, Event::Reread(..)), "{event:?}");
            rereading.ended();
        }
        assert!(matches!(rereading.state, State::Idle));
    }
}
