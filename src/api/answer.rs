//! One request, one answer: what each route does. Reads come from the view; changes are asked of control, and the
//! answer waits for it. Nothing here waits for anything else.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::body::{Bytes, Incoming};
use hyper::header::IF_MATCH;
use hyper::http::request::Parts;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use super::body;
use super::change;
use super::events::{EventBody, Followers};
use super::liveness::Pulse;
use super::metrics::{self, Beside, MetricsOptions};
use super::model::{Backend, ConfigDifferences, Overrides, Problem, Readiness, Reloaded, SCHEMA};
use super::overrides;
use super::page;
use super::problem;
use super::query::Query;
use super::requests::RequestCounts;
use super::route::{Door, Entry, Route};
use super::status::{Lazy, Measurements, Source, readiness};
use crate::control::overlay::{Action, Author, BackendName};
use crate::control::{Ask, DryRun, Handle, KeepOverrides, ReloadOptions, Reply, Request};
use crate::io::accounts::user_name;

/// How long control may take.
const CONTROL_PATIENCE: Duration = Duration::from_secs(30);

/// Longer documents count as large.
const LARGE: usize = 256 << 10;

/// Large documents that may wait to be read at once, by each door: the status of 100,000 backends has 80 MB.
const LARGE_AT_ONCE: usize = 3;

/// How long a request waits until it may make its document.
const LARGE_PATIENCE: Duration = Duration::from_secs(10);

pub(super) const JSON: &str = "application/json";

/// Of `GET /v1/events`.
const LINES: &str = "application/x-ndjson";

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) door: Door,
    /// Known of a unix socket alone.
    pub(super) peer: Option<Peer>,
}

/// The process at the other end of a unix socket (SO_PEERCRED, unix(7)).
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
    /// Beside those that every answer has, by name.
    pub(super) headers: &'static [(&'static str, &'static str)],
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
    pub(super) requests: Arc<RequestCounts>,
    followers: Arc<Followers>,
    pulse: Pulse,
    /// One for the socket and one for TCP, so that slow readers over TCP cannot block the socket.
    large: [Arc<Semaphore>; 2],
}

impl Api {
    pub(super) fn new(handle: Handle, measured: Measurements) -> Self {
        Self {
            followers: Followers::of(&handle.events),
            handle,
            measured: RefCell::new(measured),
            requests: Arc::default(),
            pulse: Pulse::default(),
            large: [(); 2].map(|()| Arc::new(Semaphore::new(LARGE_AT_ONCE))),
        }
    }

    /// The answer to a request for that route.
    pub(super) async fn answer(
        &self,
        entry: &Entry,
        Caller { door, peer }: Caller,
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
            Route::Metrics => self.metrics(door).await,
            Route::Page => Ok(page()),
            Route::ChangeBackend => self.change(Wish::Edit, &query, peer, parts, body).await,
            Route::AddBackend => self.change(Wish::Add, &query, peer, parts, body).await,
            Route::RemoveBackend => self.change(Wish::Remove, &query, peer, parts, body).await,
            Route::ClearOverrides => self.change(Wish::Clear, &query, peer, parts, body).await,
            Route::TellHealth => self.tell_health(&query, peer, body).await,
            Route::Reload => self.reload(&query, author(peer)?).await,
            Route::Flows => self.flows(&query).await,
            Route::StartCapture => {
                let body = body::read(body).await?;
                self.start_capture(&body, author(peer)?).await
            }
            Route::StopCapture => self.stop_capture(author(peer)?).await,
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
            source
                .list("vips", Lazy(|| source.vips(vip)))
                .map_err(broken)
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
        let permit = self.permit(Door::Socket).await?;
        let view = self.handle.view();
        let source = Source::new(&self.handle, &view, &self.measured, SystemTime::now());
        let document = make(&source)?;
        Ok(Answer {
            tag: Some(view.generation),
            ..whole(JSON, kept(document, permit))
        })
    }

    async fn permit(&self, door: Door) -> Result<OwnedSemaphorePermit, Problem> {
        let [socket, tcp] = &self.large;
        let large = match door {
            Door::Socket => socket,
            Door::Metrics => tcp,
        };
        let permit = timeout(LARGE_PATIENCE, Arc::clone(large).acquire_owned()).await;
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

    fn events(&self, query: &Query) -> Result<Answer, Problem> {
        let since = query.number("since")?;
        let followers = query.switch("follow")?.then_some(&self.followers);
        let body = EventBody::new(Arc::clone(&self.handle.events), since, followers)?;
        Ok(Answer {
            status: 200,
            content_type: LINES,
            tag: None,
            headers: &[],
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

    async fn metrics(&self, door: Door) -> Result<Answer, Problem> {
        let permit = self.permit(door).await?;
        let options = MetricsOptions::of(&self.handle.view().effective);
        let requests = Arc::clone(&self.requests);
        let losses = self.measured.borrow().losses.told().clone();
        let text = metrics::encode(&self.handle, options, Beside { requests, losses });
        Ok(whole(metrics::CONTENT_TYPE, kept(text.into(), permit)))
    }

    /// What others found of a backend whose check is "external".
    async fn tell_health(
        &self,
        query: &Query,
        peer: Option<Peer>,
        body: Incoming,
    ) -> Result<Answer, Problem> {
        author(peer)?;
        let backend = change::backend(query)?;
        let view = self.handle.view();
        let source = Source::new(&self.handle, &view, &self.measured, SystemTime::now());
        source.known(Some(&backend.vip), Some(backend.address))?;
        let told = change::told(&backend, &change::patch(&body::read(body).await?)?)?;
        let ask = |reply| Ask::Control(Request::Told { told, reply });
        self.ask(ask).await??;
        Ok(nothing(view.generation))
    }

    async fn change(
        &self,
        wish: Wish,
        query: &Query,
        peer: Option<Peer>,
        parts: &Parts,
        body: Incoming,
    ) -> Result<Answer, Problem> {
        let by = author(peer)?;
        let if_generation = change::if_match(parts.headers.get(IF_MATCH).map(AsRef::as_ref))?;
        let body = body::read(body).await?;
        let names_one = query.text("vip").is_some() || query.text("address").is_some();
        if wish == Wish::Clear && !names_one {
            return self.clear_all(by, if_generation).await;
        }
        let backend = change::backend(query)?;
        let of = backend.clone();
        let change = match wish {
            Wish::Edit => {
                let overlay = &self.handle.view().overlay;
                change::edit(of, &change::patch(&body)?, if_generation, overlay)?
            }
            Wish::Add => {
                let vips = &self.handle.view().effective.vips;
                change::add(of, &change::patch(&body)?, if_generation, vips)?
            }
            Wish::Remove => change::plain(of, Action::Remove, if_generation),
            Wish::Clear => change::plain(of, Action::Clear, if_generation),
        };
        let ask = |reply| Ask::Control(Request::Change { change, by, reply });
        let generation = self.ask(ask).await??;
        match wish {
            Wish::Remove => Ok(nothing(generation)),
            Wish::Edit | Wish::Clear => self.shown(&backend, generation),
            Wish::Add => Ok(Answer {
                status: 201,
                ..self.shown(&backend, generation)?
            }),
        }
    }

    async fn clear_all(&self, by: Author, if_generation: Option<u64>) -> Result<Answer, Problem> {
        if if_generation.is_some() {
            let detail = "accepted only with vip and address, which name one override";
            return Err(problem::of(400, "If-Match", detail));
        }
        let ask = |reply| Ask::Control(Request::ClearOverrides { by, reply });
        let generation = self.ask(ask).await??;
        Ok(nothing(generation))
    }

    /// A backend as it is now, or that it is gone by the end of its override.
    fn shown(&self, backend: &BackendName, generation: u64) -> Result<Answer, Problem> {
        let view = self.handle.view();
        let source = Source::new(&self.handle, &view, &self.measured, SystemTime::now());
        let of_vip = source.vips(Some(&backend.vip)).flat_map(|vip| vip.backends);
        let found = of_vip
            .into_iter()
            .find(|shown| shown.address == backend.address);
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
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(Reply<T>) -> Ask,
    ) -> Result<T, Problem> {
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

/// What is to become of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Edit,
    Add,
    Remove,
    /// Its override goes, or all.
    Clear,
}

fn author(peer: Option<Peer>) -> Result<Author, Problem> {
    let unknown = || problem::new(403, "the kernel does not tell who is at the other end");
    peer.map(Peer::author).ok_or_else(unknown)
}

/// A large document counts as long as any of it is in memory.
fn kept(document: Vec<u8>, permit: OwnedSemaphorePermit) -> Bytes {
    struct Large(
        Vec<u8>,
        #[expect(dead_code, reason = "given back when it is dropped")] OwnedSemaphorePermit,
    );
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

pub(super) const fn whole(content_type: &'static str, content: Bytes) -> Answer {
    Answer {
        status: 200,
        content_type,
        tag: None,
        headers: &[],
        content: Content::Whole(content),
    }
}

pub(super) fn json(tag: Option<u64>, document: &impl serde::Serialize) -> Result<Answer, Problem> {
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
    Answer {
        headers: page::HEADERS,
        ..whole(page::CONTENT_TYPE, page::HTML.into())
    }
}

/// Of values that always are JSON.
pub(super) fn broken(error: serde_json::Error) -> Problem {
    problem::new(500, error.to_string())
}
