//! One request, one answer: what each route does. Reads come from the view; changes are asked of control, and the
//! answer waits for it. Nothing here waits for anything else.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::IF_MATCH;
use hyper::http::request::Parts;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use super::change;
use super::events::{EventBody, Followers};
use super::liveness::Pulse;
use super::metrics;
use super::model::{
    Backend, ConfigDifferences, Overrides, Problem, Readiness, Reloaded, SCHEMA,
};
use super::overrides;
use super::problem;
use super::query::Query;
use super::route::{Entry, Route};
use super::status::{Lazy, Measurements, Source, readiness};
use crate::control::overlay::{Action, Author, BackendName, Change};
use crate::control::{Ask, DryRun, Handle, KeepOverrides, ReloadOptions, Reply, Request};
use crate::io::accounts::user_name;
use crate::packet::{FlowKey, Protocol};
use crate::site::explain::Report;
use crate::text::version;

/// The longest body in bytes.
pub(super) const LONGEST_BODY: usize = 64 << 10;

/// How long a body may take to come.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// How long control may take.
const CONTROL_PATIENCE: Duration = Duration::from_secs(30);

/// Longer documents count as large.
const LARGE: usize = 256 << 10;

/// Large documents that may wait to be read at once: the status of 100,000 backends has 80 MB.
const LARGE_AT_ONCE: usize = 4;

/// How long a request waits until it may make its document.
const LARGE_PATIENCE: Duration = Duration::from_secs(10);

const JSON: &str = "application/json";

/// Of `GET /v1/events`.
const LINES: &str = "application/x-ndjson";

/// Whoever is at the other end of a unix socket (SO_PEERCRED, unix(7)); of TCP nobody knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) uid: u32,
    pub(super) pid: Option<u32>,
}

impl Peer {
    fn author(self) -> Author {
        Author {
            uid: self.uid,
            user: user_name(self.uid),
            pid: self.pid,
        }
    }
}

/// What is answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    /// The generation, as an entity tag.
    pub(super) tag: Option<u64>,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Whole(Bytes),
    Events(EventBody),
}

/// What the API's thread has beside its connections.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) handle: Handle,
    pub(super) measured: RefCell<Measurements>,
    followers: Arc<Followers>,
    pulse: Pulse,
    large: Arc<Semaphore>,
}

impl Api {
    pub(super) fn new(handle: Handle, measured: Measurements) -> Self {
        Self {
            followers: Followers::of(&handle.events),
            handle,
            measured: RefCell::new(measured),
            pulse: Pulse::default(),
            large: Arc::new(Semaphore::new(LARGE_AT_ONCE)),
        }
    }

    /// The answer to a request for that route.
    pub(super) async fn answer(
        &self,
        entry: &Entry,
        peer: Option<Peer>,
        parts: &Parts,
        body: Incoming,
    ) -> Result<Answer, Problem> {
        let query = Query::parse(parts.uri.query().unwrap_or_default(), entry.parameters)?;
        match entry.route {
            Route::Status => self.status(&query).await,
            Route::Vips => self.vips(&query).await,
            Route::Backends => self.backends(&query).await,
            Route::Overrides => self.overrides(&query),
            Route::Config => self.config(),
            Route::Explain => self.explain(&query),
            Route::Events => self.events(&query),
            Route::Healthz => self.healthz().await,
            Route::Readyz => self.readyz(&query),
            Route::Metrics => self.metrics().await,
            Route::Page => Ok(page()),
            Route::ChangeBackend
            | Route::AddBackend
            | Route::RemoveBackend
            | Route::ClearOverrides => {
                let asked = Asked {
                    route: entry.route,
                    by: author(peer)?,
                    if_generation: change::if_match(parts.headers.get(IF_MATCH).map(AsRef::as_ref))?,
                    body: read(body).await?,
                };
                self.change(&query, asked).await
            }
            Route::Reload => self.reload(&query, author(peer)?).await,
        }
    }

    async fn status(&self, query: &Query) -> Result<Answer, Problem> {
        let vip = query.text("vip");
        self.document(|source| {
            source.known(vip, None)?;
            source.status(vip).map_err(broken)
        })
        .await
    }

    async fn vips(&self, query: &Query) -> Result<Answer, Problem> {
        let vip = query.text("vip");
        self.document(|source| {
            source.known(vip, None)?;
            source.list("vips", Lazy(|| source.vips(vip))).map_err(broken)
        })
        .await
    }

    async fn backends(&self, query: &Query) -> Result<Answer, Problem> {
        let (vip, address) = (query.text("vip"), query.address("address")?);
        self.document(|source| {
            source.known(vip, address)?;
            let wanted = move |backend: &Backend| address.is_none_or(|at| backend.address == at);
            let all = || source.vips(vip).flat_map(|vip| vip.backends).filter(wanted);
            source.list("backends", Lazy(all)).map_err(broken)
        })
        .await
    }

    /// A document that may be large, of which only a few are kept at once.
    async fn document(
        &self,
        make: impl FnOnce(&Source<'_>) -> Result<Vec<u8>, Problem>,
    ) -> Result<Answer, Problem> {
        let permit = self.permit().await?;
        let view = self.handle.view();
        let source = Source::new(&self.handle, &view, &self.measured, SystemTime::now());
        let document = make(&source)?;
        Ok(Answer {
            tag: Some(view.generation),
            ..whole(JSON, kept(document, permit))
        })
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let permit = timeout(LARGE_PATIENCE, Arc::clone(&self.large).acquire_owned()).await;
        let permit = permit.ok().and_then(Result::ok);
        permit.ok_or_else(|| {
            let detail = "other clients read large answers too slowly; try again";
            problem::new(503, detail)
        })
    }

    fn overrides(&self, query: &Query) -> Result<Answer, Problem> {
        let (vip, address) = (query.text("vip"), query.address("address")?);
        let view = self.handle.view();
        let now = SystemTime::now();
        let wanted = |name: &BackendName| {
            vip.is_none_or(|vip| vip == name.vip) && address.is_none_or(|at| at == name.address)
        };
        let all = view.overlay.iter().filter(|(name, _)| wanted(name));
        let all = all.map(|(name, set)| overrides::shown(&name.vip, name.address, set, now));
        json(
            Some(view.generation),
            &Overrides {
                schema: SCHEMA,
                generation: view.generation,
                overrides: all.collect(),
            },
        )
    }

    fn config(&self) -> Result<Answer, Problem> {
        let view = self.handle.view();
        let differences = view.config.differences(&view.effective);
        json(
            Some(view.generation),
            &ConfigDifferences {
                schema: SCHEMA,
                generation: view.generation,
                file: self.handle.identity.file.clone(),
                differences: differences.iter().map(ToString::to_string).collect(),
            },
        )
    }

    fn explain(&self, query: &Query) -> Result<Answer, Problem> {
        let source = query.endpoint("source")?;
        let destination = query.endpoint("destination")?;
        let protocol = match query.text("protocol") {
            None | Some("tcp") => Protocol::Tcp,
            Some("udp") => Protocol::Udp,
            Some(_) => return Err(problem::of(400, "protocol", "accepted: tcp or udp")),
        };
        let flow = flow(source, destination, protocol)?;
        let view = self.handle.view();
        let report = Report::new(&view.effective, &view.paths, &view.snapshot, &flow);
        let document = report.to_json().map_err(broken)?;
        Ok(whole(JSON, document.into()))
    }

    fn events(&self, query: &Query) -> Result<Answer, Problem> {
        let since = query.number("since")?;
        let followers = query.switch("follow")?.then_some(&self.followers);
        let body = EventBody::new(Arc::clone(&self.handle.events), since, followers)?;
        Ok(Answer {
            status: 200,
            content_type: LINES,
            tag: None,
            content: Content::Events(body),
        })
    }

    async fn healthz(&self) -> Result<Answer, Problem> {
        let found = self.pulse.of(&self.handle.identity.workers).await;
        Ok(with_status(found.ok, json(None, &found)?))
    }

    fn readyz(&self, query: &Query) -> Result<Answer, Problem> {
        let view = self.handle.view();
        let mut ready = readiness(&view);
        if let Some(name) = query.text("vip") {
            let source = Source::new(&self.handle, &view, &self.measured, SystemTime::now());
            source.known(Some(name), None)?;
            if source.vips(Some(name)).all(|vip| vip.takes_new == 0) {
                ready = Readiness {
                    ok: false,
                    reasons: vec![format!("vip {name}: no backend takes new flows")],
                };
            }
        }
        Ok(with_status(ready.ok, json(None, &ready)?))
    }

    async fn metrics(&self) -> Result<Answer, Problem> {
        let permit = self.permit().await?;
        let text = metrics::encode(&self.handle);
        Ok(whole(metrics::CONTENT_TYPE, kept(text.into(), permit)))
    }

    async fn change(&self, query: &Query, asked: Asked) -> Result<Answer, Problem> {
        let if_generation = asked.if_generation;
        let names_one = query.text("vip").is_some() || query.text("address").is_some();
        if asked.route == Route::ClearOverrides && !names_one {
            return self.clear(asked).await;
        }
        let backend = change::backend(query)?;
        let change = match asked.route {
            Route::AddBackend => {
                change::add(backend.clone(), &change::patch(&asked.body)?, if_generation)?
            }
            Route::RemoveBackend => change::plain(backend.clone(), Action::Remove, if_generation),
            Route::ClearOverrides => change::plain(backend.clone(), Action::Clear, if_generation),
            Route::ChangeBackend
            | Route::Status
            | Route::Vips
            | Route::Backends
            | Route::Overrides
            | Route::Reload
            | Route::Explain
            | Route::Events
            | Route::Config
            | Route::Healthz
            | Route::Readyz
            | Route::Metrics
            | Route::Page => {
                let (patch, view) = (change::patch(&asked.body)?, self.handle.view());
                change::edit(backend.clone(), &patch, if_generation, &view.overlay)?
            }
        };
        let gone = change.action == Action::Remove;
        let created = matches!(change.action, Action::Add(_));
        let generation = self.ask_change(change, asked.by).await?;
        if gone {
            return Ok(nothing(generation));
        }
        let answer = self.shown(&backend, generation)?;
        Ok(Answer {
            status: if created { 201 } else { 200 },
            ..answer
        })
    }

    async fn clear(&self, asked: Asked) -> Result<Answer, Problem> {
        if asked.if_generation.is_some() {
            let detail = "accepted only with vip and address, which name one override";
            return Err(problem::of(400, "If-Match", detail));
        }
        let by = asked.by;
        let ask = |reply| Ask::Control(Request::ClearOverrides { by, reply });
        let generation = self.ask(ask).await??;
        Ok(nothing(generation))
    }

    async fn ask_change(&self, change: Change, by: Author) -> Result<u64, Problem> {
        let ask = |reply| Ask::Control(Request::Change { change, by, reply });
        Ok(self.ask(ask).await??)
    }

    /// A backend as it is now, or that it is gone by the end of its override.
    fn shown(&self, backend: &BackendName, generation: u64) -> Result<Answer, Problem> {
        let view = self.handle.view();
        let source = Source::new(&self.handle, &view, &self.measured, SystemTime::now());
        let of_vip = source.vips(Some(&backend.vip)).flat_map(|vip| vip.backends);
        let found = of_vip.into_iter().find(|shown| shown.address == backend.address);
        match found {
            Some(shown) => json(Some(generation), &shown),
            None => Ok(nothing(generation)),
        }
    }

    async fn reload(&self, query: &Query, by: Author) -> Result<Answer, Problem> {
        let is_dry = query.switch("dry_run")?;
        let options = ReloadOptions {
            dry_run: if is_dry { DryRun::Yes } else { DryRun::No },
            overrides: match query.text("overrides") {
                None | Some("keep") => KeepOverrides::Yes,
                Some("drop") => KeepOverrides::No,
                Some(_) => return Err(problem::of(400, "overrides", "accepted: keep or drop")),
            },
        };
        let ask = |reply| Ask::Reload { options, by, reply };
        let reloaded = self.ask(ask).await??;
        json(
            Some(reloaded.generation),
            &Reloaded {
                schema: SCHEMA,
                dry_run: is_dry,
                generation: reloaded.generation,
                changes: reloaded.changes,
                overrides_ended: reloaded.overrides_ended,
            },
        )
    }

    /// Asks control, and waits for what it says.
    async fn ask<T: Send + 'static>(&self, ask: impl FnOnce(Reply<T>) -> Ask) -> Result<T, Problem> {
        let (sender, answer) = oneshot::channel();
        let reply = Reply::new(move |answer| {
            sender.send(answer).ok(); // the client may be gone
        });
        self.handle.ask(ask(reply))?;
        match timeout(CONTROL_PATIENCE, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(problem::new(503, "the director is stopping")),
            Err(_) => {
                let seconds = CONTROL_PATIENCE.as_secs();
                let detail = format!("not done within {seconds} s; it may still be done later");
                Err(problem::new(504, detail))
            }
        }
    }
}

/// A request for a change.
struct Asked {
    route: Route,
    by: Author,
    if_generation: Option<u64>,
    body: Bytes,
}

fn author(peer: Option<Peer>) -> Result<Author, Problem> {
    let unknown = || problem::new(403, "the kernel does not tell who is at the other end");
    peer.map(Peer::author).ok_or_else(unknown)
}

/// A whole body of bounded length, in bounded time.
async fn read(body: Incoming) -> Result<Bytes, Problem> {
    let too_long = || problem::new(413, format!("the body; accepted: {LONGEST_BODY} bytes"));
    if body.size_hint().lower() > LONGEST_BODY as u64 {
        return Err(too_long());
    }
    let whole = Limited::new(body, LONGEST_BODY).collect();
    match timeout(BODY_PATIENCE, whole).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(_)) => Err(problem::new(400, "the body ends too early or is malformed")),
        Err(_) => Err(problem::new(408, "the body took too long")),
    }
}

fn flow(
    source: SocketAddr,
    destination: SocketAddr,
    protocol: Protocol,
) -> Result<FlowKey, Problem> {
    if source.is_ipv4() != destination.is_ipv4() {
        let detail = "of another address family than destination: no packet has both";
        return Err(problem::of(400, "source", detail));
    }
    Ok(FlowKey {
        source: source.ip(),
        destination: destination.ip(),
        source_port: source.port(),
        destination_port: destination.port(),
        protocol,
    })
}

/// A large document counts as long as any of it is in memory.
fn kept(document: Vec<u8>, permit: OwnedSemaphorePermit) -> Bytes {
    struct Large(Vec<u8>, #[expect(dead_code, reason = "given back when it is dropped")] OwnedSemaphorePermit);
    impl AsRef<[u8]> for Large {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    if document.len() < LARGE {
        return document.into();
    }
    Bytes::from_owner(Large(document, permit))
}

const fn whole(content_type: &'static str, content: Bytes) -> Answer {
    Answer {
        status: 200,
        content_type,
        tag: None,
        content: Content::Whole(content),
    }
}

fn json(tag: Option<u64>, document: &impl serde::Serialize) -> Result<Answer, Problem> {
    let document = serde_json::to_vec(document).map_err(broken)?;
    Ok(Answer {
        tag,
        ..whole(JSON, document.into())
    })
}

/// 503 where something keeps it from its work.
fn with_status(ok: bool, answer: Answer) -> Answer {
    Answer {
        status: if ok { 200 } else { 503 },
        ..answer
    }
}

fn nothing(generation: u64) -> Answer {
    Answer {
        status: 204,
        tag: Some(generation),
        ..whole("", Bytes::new())
    }
}

fn page() -> Answer {
    let text = format!("tunlb {}\n/metrics\n/healthz\n/readyz\n", version::LONG);
    whole("text/plain; charset=utf-8", text.into())
}

/// Of values that always are JSON.
fn broken(error: serde_json::Error) -> Problem {
    problem::new(500, error.to_string())
}
