//! Connections of clients: bounded in number, in time and in memory. When all places are taken, the one that has
//! been idle the longest is closed to make room, so that clients that only hold connections cannot lock others out.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use log::debug;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{AbortHandle, spawn_local};

use super::answer::{Answer, Api, Caller, Content, Peer};
use super::events::EventBody;
use super::model::Problem;
use super::patience::{PATIENCE, Patient};
use super::route::{self, Door};

/// How long the head of a request may take, and how long a connection may be without one.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);

/// The longest head of a request in bytes.
const LONGEST_HEAD: usize = 16 << 10;

/// Of a problem document (RFC 9457).
const PROBLEM: &str = "application/problem+json";

/// The connections of one door.
#[derive(Debug)]
pub(super) struct Connections {
    door: Door,
    most: usize,
    next: Cell<u64>,
    open: RefCell<BTreeMap<u64, Open>>,
}

#[derive(Debug)]
struct Open {
    /// Since when it waits for a request; `None`: it has one.
    idle: Rc<Cell<Option<Instant>>>,
    abort: AbortHandle,
}

/// No place is left, and none can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

impl Connections {
    pub(super) const fn new(door: Door, most: usize) -> Self {
        Self {
            door,
            most,
            next: Cell::new(0),
            open: RefCell::new(BTreeMap::new()),
        }
    }

    /// Serves a connection until it ends.
    pub(super) fn serve<S>(self: &Rc<Self>, api: &Rc<Api>, stream: S, peer: Option<Peer>)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let number = self.next.get();
        self.next.set(number + 1);
        let idle = Rc::new(Cell::new(Some(Instant::now())));
        let conversation = Conversation {
            api: Rc::clone(api),
            caller: Caller {
                door: self.door,
                peer,
            },
            idle: Rc::clone(&idle),
        };
        let place = Place {
            connections: Rc::clone(self),
            number,
        };
        let task = spawn_local(async move {
            let _place = place;
            conversation.hold(stream).await;
        });
        let abort = task.abort_handle();
        self.open.borrow_mut().insert(number, Open { idle, abort });
    }

    /// Makes room for one more, by ending one that waits for a request.
    pub(super) fn make_room(&self) -> Result<(), Full> {
        let mut open = self.open.borrow_mut();
        if open.len() < self.most {
            return Ok(());
        }
        let idle = open
            .iter()
            .filter_map(|(&number, open)| Some((open.idle.get()?, number)));
        let (_, longest) = idle.min().ok_or(Full)?;
        if let Some(ended) = open.remove(&longest) {
            ended.abort.abort();
        }
        Ok(())
    }
}

/// Gives its place back when the connection ends.
struct Place {
    connections: Rc<Connections>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open.borrow_mut().remove(&self.number);
    }
}

/// One connection.
struct Conversation {
    api: Rc<Api>,
    caller: Caller,
    idle: Rc<Cell<Option<Instant>>>,
}

impl Conversation {
    async fn hold<S: AsyncRead + AsyncWrite + Unpin + 'static>(self, stream: S) {
        let conversation = Rc::new(self);
        let service = service_fn(move |request| {
            let conversation = Rc::clone(&conversation);
            async move { Ok::<_, Infallible>(conversation.answer(request).await) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_PATIENCE)
            .max_buf_size(LONGEST_HEAD)
            .serve_connection(TokioIo::new(Patient::new(stream, PATIENCE)), service)
            .await;
        if let Err(error) = served {
            debug!("a client of the API: {error}");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Reading> {
        self.idle.set(None);
        let busy = Busy(Rc::clone(&self.idle));
        let (parts, body) = request.into_parts();
        let found = route::find(self.caller.door, &parts.method, parts.uri.path());
        let name = found.as_ref().map_or("none", |entry| entry.name);
        let (answered, allow) = match found {
            Ok(entry) => (
                self.api.answer(entry, self.caller, &parts, body).await,
                None,
            ),
            Err(no_route) => (Err(no_route.problem), no_route.allow),
        };
        let answer = answered.unwrap_or_else(|problem| told(&problem));
        self.api.requests.count(name, answer.status);
        response(answer, allow.as_deref(), busy)
    }
}

fn told(problem: &Problem) -> Answer {
    let document = serde_json::to_vec(problem).unwrap_or_default();
    Answer {
        status: problem.status,
        content_type: PROBLEM,
        tag: None,
        headers: &[],
        content: Content::Whole(document.into()),
    }
}

fn response(answer: Answer, allow: Option<&str>, busy: Busy) -> Response<Reading> {
    let mut headers = HeaderMap::new();
    let mut set = |name, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set(CACHE_CONTROL, "no-store");
    if answer.status != StatusCode::NO_CONTENT.as_u16() {
        set(CONTENT_TYPE, answer.content_type);
    }
    if let Some(generation) = answer.tag {
        set(ETAG, &format!("\"{generation}\""));
    }
    if let Some(methods) = allow {
        set(ALLOW, methods);
    }
    for (name, value) in answer.headers {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    let mut response = Response::new(Reading {
        content: match answer.content {
            Content::Whole(bytes) => Rest::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())),
            Content::Events(events) => Rest::Events(events),
        },
        _busy: busy,
    });
    let status = StatusCode::from_u16(answer.status);
    *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = headers;
    response
}

/// While it lives, the connection is not idle.
#[derive(Debug)]
struct Busy(Rc<Cell<Option<Instant>>>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.set(Some(Instant::now()));
    }
}

/// An answer's body.
#[derive(Debug)]
struct Reading {
    content: Rest,
    _busy: Busy,
}

#[derive(Debug)]
enum Rest {
    Whole(Option<Bytes>),
    Events(EventBody),
}

impl Body for Reading {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.content {
            Rest::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Rest::Events(events) => Pin::new(events).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.content, Rest::Whole(None))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match &self.content {
            Rest::Whole(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                hyper::body::SizeHint::with_exact(length as u64)
            }
            Rest::Events(_) => hyper::body::SizeHint::default(),
        }
    }
}
