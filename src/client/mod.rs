//! The other end of the API: what commands ask a running director, over HTTP/1.1 on its unix socket.
//!
//! One request for each connection. Every length of an answer is bounded, and so is the time for each piece of
//! it; what answers otherwise than a director does is an error that says so.

mod chunked;
mod error;
mod events;
mod http;
mod query;
mod schema;

use std::io::{BufReader, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::api::model::{
    Backend, BackendPatch, CaptureRequest, Captured, FlowPage, Overrides, Problem, Reloaded,
    SCHEMA, Status,
};
pub use error::{ClientError, Garbled};
pub use events::Events;
use http::{Answer, Method, Request};
use query::Target;

/// For each piece of an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// For the answer to a change: it comes once all workers forward by it, and the files of some configurations
/// take seconds to read.
const PATIENCE_FOR_CHANGES: Duration = Duration::from_secs(60);

/// In bytes; a status of 10,000 VIPs with 10 backends each has about 80 MB.
const LONGEST_ANSWER: u64 = 256 << 20;

/// In bytes, of an error: some hundred problems of a configuration.
const LONGEST_PROBLEM: u64 = 4 << 20;

/// A way to a running director.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    patience: Duration,
    patience_for_changes: Duration,
    /// In bytes.
    longest_answer: u64,
}

/// What becomes of overrides at a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overriding {
    /// They stay, but for keys that changed in the file.
    #[default]
    Keep,
    /// All go.
    Drop,
}

/// Whether a reload is to change anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is.
    Apply,
    /// It only tells what it would change.
    DryRun,
}

/// Which flows.
#[derive(Debug, Clone, Copy, Default)]
pub struct FlowFilter<'a> {
    /// Of the VIP of that name.
    pub vip: Option<&'a str>,
    /// Of that backend.
    pub backend: Option<IpAddr>,
}

impl Client {
    /// One for the director with that socket; nothing is asked yet.
    #[must_use]
    pub const fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            patience: PATIENCE,
            patience_for_changes: PATIENCE_FOR_CHANGES,
            longest_answer: LONGEST_ANSWER,
        }
    }

    /// The director's socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The state of the director, with one VIP or all.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn status(&self, vip: Option<&str>) -> Result<Status, ClientError> {
        self.document(&self.get(&status_target(vip))?)
    }

    /// The same as the director wrote it: JSON of [`Status`] and what later versions add.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn status_text(&self, vip: Option<&str>) -> Result<String, ClientError> {
        self.text(self.get(&status_target(vip))?)
    }

    /// Overrides keys of a backend; answers it as it is then.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn patch(
        &self,
        vip: &str,
        address: IpAddr,
        patch: &BackendPatch,
    ) -> Result<Backend, ClientError> {
        self.change(Method::Patch, vip, address, patch)
    }

    /// Adds a backend at run time; answers it.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn add(
        &self,
        vip: &str,
        address: IpAddr,
        patch: &BackendPatch,
    ) -> Result<Backend, ClientError> {
        self.change(Method::Post, vip, address, patch)
    }

    /// Removes a backend at run time.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn remove(&self, vip: &str, address: IpAddr) -> Result<(), ClientError> {
        let target = backend_target("/v1/backends", vip, address);
        self.send(Method::Delete, &target, None).map(drop)
    }

    /// Takes all overrides of a backend back.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn clear(&self, vip: &str, address: IpAddr) -> Result<(), ClientError> {
        let target = backend_target("/v1/overrides", vip, address);
        self.send(Method::Delete, &target, None).map(drop)
    }

    /// What operators changed.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn overrides(&self) -> Result<Overrides, ClientError> {
        self.document(&self.get(&Target::new("/v1/overrides"))?)
    }

    /// Has the file read again.
    ///
    /// # Errors
    /// [`ClientError`]; a [`Problem`] with status 422 has all that is wrong in the file.
    pub fn reload(&self, mode: Mode, overrides: Overriding) -> Result<Reloaded, ClientError> {
        let target = Target::new("/v1/reload")
            .with("dry_run", (mode == Mode::DryRun).then_some(true))
            .with(
                "overrides",
                (overrides == Overriding::Drop).then_some("drop"),
            );
        self.document(&self.send(Method::Post, &target, None)?)
    }

    /// Follows what happens: first the events after that number, as far as they are kept.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn events(&self, since: u64) -> Result<Events, ClientError> {
        let target = Target::new("/v1/events")
            .with("since", Some(since))
            .with("follow", Some(true));
        let answer = self.exchange(Method::Get, &target, None, self.patience)?;
        Events::new(self.socket.clone(), answer.body)
    }

    /// The number of the last event; 0 before the first.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn last_event(&self) -> Result<u64, ClientError> {
        let answer = self.exchange(Method::Get, &Target::new("/v1/events"), None, self.patience)?;
        let mut events = Events::new(self.socket.clone(), answer.body)?;
        let mut last = 0;
        while let Some(event) = events.wait()? {
            last = event.id;
        }
        Ok(last)
    }

    /// Which backend a flow would get, as JSON.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn explain(
        &self,
        source: SocketAddr,
        destination: SocketAddr,
        protocol: &str,
    ) -> Result<String, ClientError> {
        let target = Target::new("/v1/explain")
            .with("source", Some(source))
            .with("destination", Some(destination))
            .with("protocol", Some(protocol));
        self.text(self.get(&target)?)
    }

    /// Some of the flows that the workers remember: at most `limit`, from where another page ended.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn flows(
        &self,
        filter: FlowFilter<'_>,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<FlowPage, ClientError> {
        let target = Target::new("/v1/flows")
            .with("vip", filter.vip)
            .with("backend", filter.backend)
            .with("limit", Some(limit))
            .with("cursor", cursor);
        self.document(&self.get(&target)?)
    }

    /// Begins a capture.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn start_capture(&self, request: &CaptureRequest) -> Result<(), ClientError> {
        let body = self.encoded(request)?;
        let target = Target::new("/v1/capture");
        self.send(Method::Post, &target, Some(&body)).map(drop)
    }

    /// Ends the capture.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn stop_capture(&self) -> Result<Captured, ClientError> {
        let target = Target::new("/v1/capture");
        self.document(&self.send(Method::Delete, &target, None)?)
    }

    fn change(
        &self,
        method: Method,
        vip: &str,
        address: IpAddr,
        patch: &BackendPatch,
    ) -> Result<Backend, ClientError> {
        let target = backend_target("/v1/backends", vip, address);
        let body = self.encoded(patch)?;
        self.document(&self.send(method, &target, Some(&body))?)
    }

    fn encoded<T: serde::Serialize>(&self, value: &T) -> Result<Vec<u8>, ClientError> {
        serde_json::to_vec(value).map_err(|error| self.garbled(Garbled::Document(error)))
    }

    fn get(&self, target: &Target) -> Result<Vec<u8>, ClientError> {
        self.whole(self.exchange(Method::Get, target, None, self.patience)?)
    }

    fn send(
        &self,
        method: Method,
        target: &Target,
        body: Option<&[u8]>,
    ) -> Result<Vec<u8>, ClientError> {
        self.whole(self.exchange(method, target, body, self.patience_for_changes)?)
    }

    /// Asks, and reads as far as the head of an answer that is no error.
    fn exchange(
        &self,
        method: Method,
        target: &Target,
        body: Option<&[u8]>,
        patience: Duration,
    ) -> Result<Answer<BufReader<UnixStream>>, ClientError> {
        let talking = |error| ClientError::talking(&self.socket, error, patience);
        let mut stream = self.connect(patience)?;
        let target = target.as_str();
        let request = Request {
            method,
            target,
            body,
        };
        let written = request.write(&mut stream);
        let answer = Answer::read(BufReader::new(stream));
        // A director may refuse before it has read all: then what it says counts.
        let mut answer = match (answer, written) {
            (Ok(answer), _) => answer,
            (Err(_), Err(error)) | (Err(error), Ok(())) => return Err(talking(error)),
        };
        if (200..300).contains(&answer.status) {
            return Ok(answer);
        }
        let mut text = Vec::new();
        let read = answer
            .body
            .by_ref()
            .take(LONGEST_PROBLEM)
            .read_to_end(&mut text);
        read.map_err(talking)?;
        Err(self.problem(answer.status, &text))
    }

    /// A director that hangs accepts no connections once its queue of them is full, so this, too, has an end.
    fn connect(&self, patience: Duration) -> Result<UnixStream, ClientError> {
        let connect = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.set_write_timeout(Some(patience))?;
            socket.set_read_timeout(Some(patience))?;
            socket.connect(&SockAddr::unix(&self.socket)?)?;
            Ok(UnixStream::from(OwnedFd::from(socket)))
        };
        connect().map_err(|error| ClientError::connecting(&self.socket, error, patience))
    }

    fn whole(&self, answer: Answer<BufReader<UnixStream>>) -> Result<Vec<u8>, ClientError> {
        let most = self.longest_answer;
        let mut text = Vec::new();
        let read = answer.body.take(most + 1).read_to_end(&mut text);
        let talking = |error| ClientError::talking(&self.socket, error, self.patience);
        let length = read.map_err(talking)?;
        if u64::try_from(length).is_ok_and(|length| length > most) {
            return Err(self.garbled(Garbled::LongBody(most)));
        }
        Ok(text)
    }

    fn problem(&self, status: u16, text: &[u8]) -> ClientError {
        match serde_json::from_slice::<Problem>(text) {
            Ok(problem) => ClientError::Problem(Box::new(Problem { status, ..problem })),
            Err(_) => self.garbled(Garbled::Status(status)),
        }
    }

    /// A document of the schema that this version reads.
    fn document<T: DeserializeOwned>(&self, text: &[u8]) -> Result<T, ClientError> {
        self.check_schema(text)?;
        serde_json::from_slice(text).map_err(|error| self.garbled(Garbled::Document(error)))
    }

    fn text(&self, text: Vec<u8>) -> Result<String, ClientError> {
        self.check_schema(&text)?;
        String::from_utf8(text).map_err(|_| self.garbled(Garbled::NotText))
    }

    fn check_schema(&self, text: &[u8]) -> Result<(), ClientError> {
        match schema::of(text) {
            Ok(Some(other)) if other != u64::from(SCHEMA) => {
                Err(self.garbled(Garbled::Schema(other)))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(self.garbled(Garbled::Document(error))),
        }
    }

    fn garbled(&self, what: Garbled) -> ClientError {
        let path = self.socket.clone();
        ClientError::Garbled { path, what }
    }
}

fn status_target(vip: Option<&str>) -> Target {
    Target::new("/v1/status").with("vip", vip)
}

fn backend_target(path: &str, vip: &str, address: IpAddr) -> Target {
    Target::new(path)
        .with("vip", Some(vip))
        .with("address", Some(address))
}

#[cfg(test)]
mod tests;
