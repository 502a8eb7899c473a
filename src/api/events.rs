//! `GET /v1/events`: what happened, one JSON document a line, and on while it happens. A reader that is too slow
//! misses events and is told so; none is kept for it beyond the log's own.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use hyper::body::{Body, Bytes, Frame};

use super::model::{Event, Problem};
use super::overrides::author;
use super::problem;
use crate::control::events::{self, EventLog};
use crate::text::time::rfc3339;

/// Events in one piece of an answer.
const PIECE: usize = 256;

/// Those who may wait for events at once.
const MOST_FOLLOWERS: usize = 64;

/// The kind of an event that stands for those that were missed.
pub(super) const GAP: &str = "gap";

/// Wakes those who wait for events.
#[derive(Debug, Default)]
pub(super) struct Followers(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// By number; `None`: it does not wait now.
    wakers: BTreeMap<u64, Option<Waker>>,
}

impl Followers {
    /// Those of a log.
    pub(super) fn of(log: &EventLog) -> Arc<Self> {
        let followers = Arc::new(Self::default());
        let woken = Arc::clone(&followers);
        log.watch(move || woken.wake());
        followers
    }

    fn wake(&self) {
        let waiting: Vec<_> = self
            .lock()
            .wakers
            .values_mut()
            .filter_map(Option::take)
            .collect();
        waiting.into_iter().for_each(Waker::wake);
    }

    fn join(&self) -> Result<u64, Problem> {
        let mut waiting = self.lock();
        if waiting.wakers.len() >= MOST_FOLLOWERS {
            let detail = format!("{MOST_FOLLOWERS} clients follow the events already");
            return Err(problem::new(503, detail));
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.wakers.insert(number, None);
        Ok(number)
    }

    fn wait(&self, number: u64, waker: &Waker) {
        self.lock().wakers.insert(number, Some(waker.clone()));
    }

    fn leave(&self, number: u64) {
        self.lock().wakers.remove(&number);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lines, as far as they were not read yet.
#[derive(Debug)]
pub(super) struct EventBody {
    log: Arc<EventLog>,
    /// The last event that was told, or need not be.
    last: u64,
    /// Whether the first line may have to say that events were missed.
    was_asked_since: bool,
    following: Option<Following>,
}

#[derive(Debug)]
struct Following {
    followers: Arc<Followers>,
    number: u64,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.followers.leave(self.number);
    }
}

impl EventBody {
    /// The events after the one with the number `since`, or all that are kept; with `followers`, those that
    /// happen later, too.
    pub(super) fn new(
        log: Arc<EventLog>,
        since: Option<u64>,
        followers: Option<&Arc<Followers>>,
    ) -> Result<Self, Problem> {
        let follow = |followers: &Arc<Followers>| {
            followers.join().map(|number| Following {
                followers: Arc::clone(followers),
                number,
            })
        };
        Ok(Self {
            log,
            last: since.unwrap_or_default(),
            was_asked_since: since.is_some(),
            following: followers.map(follow).transpose()?,
        })
    }

    /// The next lines; nothing while there is none.
    fn piece(&mut self) -> Option<Bytes> {
        let newest = self.log.last();
        let mut lines = Vec::new();
        if self.last > newest {
            let text = "the director started anew: its events count from 1 again";
            write_line(&mut lines, &gap(newest, text.to_owned()));
            self.last = 0;
        }
        let events = self.log.after(self.last, PIECE);
        if let Some(first) = events.first() {
            let missed = first.id - self.last - 1;
            if missed > 0 && self.was_asked_since {
                let text = format!("{missed} events were missed: they are not kept any more");
                write_line(&mut lines, &gap(first.id - 1, text));
            }
        }
        for event in &events {
            write_line(&mut lines, &shown(event));
            self.last = event.id;
        }
        self.was_asked_since = true;
        (!lines.is_empty()).then(|| lines.into())
    }
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // In this order: what happens in between wakes.
        if let Some(Following { followers, number }) = &self.following {
            followers.wait(*number, context.waker());
        }
        match self.piece() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None if self.following.is_some() => Poll::Pending,
            None => Poll::Ready(None),
        }
    }
}

fn write_line(lines: &mut Vec<u8>, event: &Event) {
    // Into memory, of plain values: neither fails.
    serde_json::to_writer(&mut *lines, event).unwrap_or_default();
    lines.push(b'\n');
}

fn shown(event: &events::Event) -> Event {
    let what = &event.what;
    Event {
        id: event.id,
        at: rfc3339(event.at),
        kind: what.kind.name().to_owned(),
        vip: what.vip.clone(),
        backend: what.backend,
        text: what.text.clone(),
        codes: what.codes.iter().map(|&code| code.to_owned()).collect(),
        by: what.by.as_ref().map(author),
    }
}

/// Has the number of the last event that was missed, so that a reader may go on from it.
fn gap(id: u64, text: String) -> Event {
    Event {
        id,
        at: rfc3339(SystemTime::now()),
        kind: GAP.to_owned(),
        vip: None,
        backend: None,
        text,
        codes: Vec::new(),
        by: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::events::{EventKind, Happening, KEPT};

    fn tell(log: &EventLog, text: &str) {
        log.tell(Happening::new(EventKind::Restored, text.to_owned()));
    }

    fn poll(body: &mut EventBody) -> Poll<Option<String>> {
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(body).poll_frame(&mut context).map(|frame| {
            let data = frame?.unwrap().into_data().unwrap();
            Some(String::from_utf8(data.to_vec()).unwrap())
        })
    }

    fn events(text: &str) -> Vec<(u64, String)> {
        let event = |line: &str| {
            let event: Event = serde_json::from_str(line).unwrap();
            (event.id, event.kind)
        };
        text.lines().map(event).collect()
    }

    fn next(body: &mut EventBody) -> Vec<(u64, String)> {
        let Poll::Ready(Some(text)) = poll(body) else {
            panic!("no lines");
        };
        events(&text)
    }

    fn restored(ids: impl Iterator<Item = u64>) -> Vec<(u64, String)> {
        ids.map(|id| (id, "restored".to_owned())).collect()
    }

    #[test]
    fn what_happened_and_what_happens() {
        let log = Arc::new(EventLog::default());
        let followers = Followers::of(&log);
        tell(&log, "a");
        tell(&log, "b");
        let mut past = EventBody::new(Arc::clone(&log), None, None).unwrap();
        let mut since = EventBody::new(Arc::clone(&log), Some(1), Some(&followers)).unwrap();
        assert_eq!(next(&mut past), restored(1..3));
        assert!(matches!(poll(&mut past), Poll::Ready(None)));
        assert_eq!(next(&mut since), restored(2..3));
        assert!(poll(&mut since).is_pending());
        assert!(followers.lock().wakers[&0].is_some());
        tell(&log, "c");
        assert!(followers.lock().wakers[&0].is_none(), "it was woken");
        assert_eq!(next(&mut since), restored(3..4));
        drop(since);
        assert!(followers.lock().wakers.is_empty());
    }

    #[test]
    fn a_slow_reader_is_told_of_the_gap() {
        let log = Arc::new(EventLog::default());
        let followers = Followers::of(&log);
        let mut body = EventBody::new(Arc::clone(&log), Some(0), Some(&followers)).unwrap();
        tell(&log, "a");
        assert_eq!(next(&mut body), restored(1..2));
        for _ in 0..KEPT + 3 {
            tell(&log, "b");
        }
        let lines = next(&mut body);
        assert_eq!(lines[0], (4, GAP.to_owned()));
        assert_eq!(lines[1..], restored(5..5 + PIECE as u64));
        let mut all = EventBody::new(Arc::clone(&log), None, None).unwrap();
        assert_eq!(
            next(&mut all)[0],
            (5, "restored".to_owned()),
            "no gap: all that is kept"
        );
    }

    #[test]
    fn a_director_that_started_anew_counts_from_one() {
        let log = Arc::new(EventLog::default());
        tell(&log, "a");
        let mut body = EventBody::new(Arc::clone(&log), Some(500), None).unwrap();
        assert_eq!(
            next(&mut body),
            [(1, GAP.to_owned()), (1, "restored".to_owned())]
        );
    }

    #[test]
    fn only_so_many_follow() {
        let log = Arc::new(EventLog::default());
        let followers = Followers::of(&log);
        let follow = || EventBody::new(Arc::clone(&log), None, Some(&followers));
        let mut all: Vec<_> = (0..MOST_FOLLOWERS).map(|_| follow().unwrap()).collect();
        assert_eq!(follow().unwrap_err().status, 503);
        all.pop();
        assert!(follow().is_ok());
    }
}
