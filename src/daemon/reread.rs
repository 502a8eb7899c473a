//! Reading the configuration again, on a thread of its own: the main one hears signals meanwhile, however
//! slow the file is.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread;

use log::{error, warn};

use super::Event;
use crate::config::{Config, ConfigError};

/// Reads the configuration again.
pub type Reload = Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// At most one reading at a time.
pub(super) struct Rereading {
    read: Reload,
    events: SyncSender<Event>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Reading,
    /// The file may have changed since the reading began.
    AskedAgain,
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
    pub(super) fn new(read: Reload, events: SyncSender<Event>) -> Self {
        Self {
            read,
            events,
            state: State::Idle,
        }
    }

    /// Begins to read; where that goes on already, it is done once more after it.
    pub(super) fn begin(&mut self) {
        if self.state != State::Idle {
            self.state = State::AskedAgain;
            warn!("the configuration is still being read; it will be read once more after that");
            return;
        }
        let (read, events) = (Arc::clone(&self.read), self.events.clone());
        let body = move || {
            // Fails only while the director is stopping anyway.
            events.send(Event::Reread(Box::new(read()))).ok();
        };
        let thread = thread::Builder::new()
            .name("tunlb-reload".into())
            .spawn(body);
        match thread {
            Ok(_) => self.state = State::Reading,
            Err(error) => error!("reload refused, the old configuration stays: no thread: {error}"),
        }
    }

    /// What was read was applied or refused.
    pub(super) fn ended(&mut self) {
        let asked_again = self.state == State::AskedAgain;
        self.state = State::Idle;
        if asked_again {
            self.begin();
        }
    }
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
        let read: Reload = Arc::new(move || {
            file.lock().unwrap().recv().unwrap();
            Config::parse("f", "")
        });
        let (events, happened) = sync_channel(4);
        let mut rereading = Rereading::new(read, events);
        rereading.begin();
        rereading.begin();
        rereading.begin();
        assert!(matches!(happened.try_recv(), Err(TryRecvError::Empty)));
        for _ in 0..2 {
            writes.send(()).unwrap();
            let event = happened.recv_timeout(Duration::from_secs(30)).unwrap();
            assert!(matches!(event, Event::Reread(_)), "{event:?}");
            rereading.ended();
        }
        assert_eq!(rereading.state, State::Idle);
    }
}
