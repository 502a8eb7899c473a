//! The API as clients see it: real sockets, a director of which nothing else is real.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::ApiServer;
use super::model::{
    Backend, Backends, ConfigDifferences, Event, Liveness, Overrides, Problem, Readiness, Reloaded,
    Status, Vips,
};
use super::testing::{Fake, FakeWorker};
use crate::config::{ApiSocket, DirectorConfig, MetricsListener};

/// A server of its own, with both doors.
struct Server {
    fake: Fake,
    server: Option<ApiServer>,
    folder: TempDir,
}

const BACKENDS: [&str; 2] = ["10.0.1.11", "10.0.1.12"];

impl Server {
    fn new() -> Self {
        Self::of(Fake::new(2, &BACKENDS))
    }

    fn of(fake: Fake) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = DirectorConfig {
            api: ApiSocket::At(folder.path().join("api.sock")),
            metrics: MetricsListener(Some(([127, 0, 0, 1], 0).into())),
            ..DirectorConfig::default()
        };
        let server = ApiServer::start(fake.handle(), &config).unwrap();
        Self {
            fake,
            server,
            folder,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream
    }

    fn ask(&self, method: &str, target: &str, body: &str) -> Answer {
        self.ask_with(method, target, "", body)
    }

    fn ask_with(&self, method: &str, target: &str, headers: &str, body: &str) -> Answer {
        talk(self.connect(), method, target, headers, body)
    }

    fn get<T: serde::de::DeserializeOwned>(&self, target: &str) -> T {
        let answer = self.ask("GET", target, "");
        assert_eq!(answer.status, 200, "{target}: {answer:?}");
        serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{target}: {error}"))
    }

    fn by_tcp(&self, method: &str, target: &str) -> Answer {
        let address = self.server.as_ref().unwrap().metrics().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        talk(stream, method, target, "", "")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    /// In lower case.
    head: String,
    body: String,
}

impl Answer {
    fn problem(&self) -> Problem {
        assert!(
            self.head.contains("content-type: application/problem+json"),
            "{self:?}"
        );
        let problem: Problem = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem.status, self.status);
        problem
    }
}

fn talk(
    mut stream: impl Read + Write,
    method: &str,
    target: &str,
    headers: &str,
    body: &str,
) -> Answer {
    let length = body.len();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: any\r\nConnection: close\r\nContent-Length: {length}\r\n\
         {headers}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    read(stream)
}

fn read(mut stream: impl Read) -> Answer {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        // What the server did not read of a request makes the kernel reset the connection.
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error}"),
        _ => {}
    }
    let text = String::from_utf8(all).unwrap();
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let head = head.to_lowercase();
    let is_chunked = head.contains("transfer-encoding: chunked");
    Answer {
        status,
        body: if is_chunked {
            unchunked(body)
        } else {
            body.to_owned()
        },
        head,
    }
}

fn unchunked(mut body: &str) -> String {
    let mut all = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        all += &rest[..length];
        body = &rest[length + 2..];
    }
    all
}

#[test]
fn what_can_be_read() {
    let server = Server::new();
    let status: Status = server.get("/v1/status");
    assert_eq!(status.vips.len(), 2);
    assert_eq!(status.director.tun, "tunlb0");
    assert_eq!(server.get::<Status>("/v1/status?vip=vip1").vips.len(), 1);
    assert_eq!(server.get::<Vips>("/v1/vips").vips, status.vips);
    let backends: Backends = server.get("/v1/backends?address=10.0.1.12");
    let vips: Vec<_> = backends
        .backends
        .iter()
        .map(|backend| &*backend.vip)
        .collect();
    assert_eq!(vips, ["vip0", "vip1"]);
    assert_eq!(
        server
            .get::<Backends>("/v1/backends?vip=vip0")
            .backends
            .len(),
        2
    );
    assert_eq!(server.get::<Overrides>("/v1/overrides").overrides, []);
    assert_eq!(
        server.get::<ConfigDifferences>("/v1/config").differences,
        [""; 0]
    );
    assert!(server.get::<Liveness>("/healthz").ok);
    assert!(server.get::<Readiness>("/readyz").ok);
    assert!(server.get::<Readiness>("/readyz?vip=vip0").ok);
    let flow = "source=192.0.2.77:40000&destination=192.0.2.0:80";
    let explained: Value = server.get(&format!("/v1/explain?{flow}&protocol=tcp"));
    assert_eq!(
        (&explained["verdict"], &explained["vip"]["name"]),
        (&json!("forward"), &json!("vip0"))
    );
    assert!(BACKENDS.contains(&explained["backend"].as_str().unwrap()));
    let unknown: Value = server.get(&format!("/v1/explain?{flow}&protocol=udp"));
    assert_eq!(unknown["reason"], "no_vip");
    let head = server.ask("HEAD", "/v1/status", "");
    assert_eq!((head.status, &*head.body), (200, ""));
    assert!(head.head.contains("etag: \"1\"") && head.head.contains("cache-control: no-store"));
}

#[test]
fn what_is_asked_wrongly() {
    let server = Server::new();
    for (method, target, status, field, detail) in [
        ("GET", "/v1/nothing", 404, None, "docs/api.md"),
        (
            "GET",
            "/v1/status?vpi=web",
            400,
            Some("vpi"),
            "accepted: vip",
        ),
        (
            "GET",
            "/v1/status?vip=web",
            404,
            Some("vip"),
            "there are: vip0, vip1",
        ),
        (
            "GET",
            "/v1/backends?address=x",
            400,
            Some("address"),
            "10.0.1.11",
        ),
        (
            "GET",
            "/v1/backends?address=10.9.9.9",
            404,
            Some("address"),
            "no backend",
        ),
        ("GET", "/v1/config?x=1", 400, Some("x"), "none is accepted"),
        ("GET", "/readyz?vip=web", 404, Some("vip"), "there are"),
        ("GET", "/v1/explain", 400, Some("source"), "missing"),
        (
            "GET",
            "/v1/explain?source=192.0.2.1:1&destination=[::1]:1",
            400,
            Some("source"),
            "family",
        ),
        (
            "GET",
            "/v1/explain?source=1.1.1.1:1&destination=1.1.1.2:1&protocol=sctp",
            400,
            Some("protocol"),
            "udp",
        ),
        (
            "GET",
            "/v1/events?since=x",
            400,
            Some("since"),
            "whole number",
        ),
        (
            "POST",
            "/v1/reload?dry_run=1",
            400,
            Some("dry_run"),
            "true or false",
        ),
        (
            "POST",
            "/v1/reload?overrides=maybe",
            400,
            Some("overrides"),
            "keep or drop",
        ),
        ("PATCH", "/v1/backends", 400, Some("vip"), "missing"),
        (
            "PATCH",
            "/v1/backends?vip=vip0",
            400,
            Some("address"),
            "missing",
        ),
        (
            "DELETE",
            "/v1/overrides?vip=vip0",
            400,
            Some("address"),
            "missing",
        ),
        (
            "DELETE",
            "/v1/overrides?vip=vip0&address=10.0.1.11",
            404,
            Some("address"),
            "no override",
        ),
        (
            "DELETE",
            "/v1/backends?vip=vip0&address=10.9.9.9",
            404,
            Some("address"),
            "does not exist",
        ),
    ] {
        let problem = server.ask(method, target, "").problem();
        assert_eq!(problem.status, status, "{target}: {problem:?}");
        assert_eq!(problem.field.as_deref(), field, "{target}: {problem:?}");
        assert!(
            problem.detail.contains(detail),
            "{target}: {}",
            problem.detail
        );
    }
    let wrong = server.ask("PUT", "/v1/backends", "");
    assert_eq!(wrong.problem().status, 405);
    assert!(
        wrong.head.contains("allow: get, patch, post, delete, head"),
        "{wrong:?}"
    );
}

const ONE: &str = "/v1/backends?vip=vip0&address=10.0.1.11";

#[test]
fn a_backend_is_changed() {
    let server = Server::new();
    let patch = r#"{"weight": 0, "for_seconds": 60, "reason": "disk"}"#;
    let answer = server.ask("PATCH", ONE, patch);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.head.contains("etag: \"2\""), "{answer:?}");
    let backend: Backend = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(
        (backend.weight.configured, backend.weight.overridden),
        (Some(1), Some(0))
    );
    let set = backend.overridden.unwrap();
    assert_eq!(set.by.uid, crate::io::sys::effective_user());
    assert_eq!(set.by.pid, Some(std::process::id()));
    assert_eq!(set.reason.as_deref(), Some("disk"));
    let differences = server.get::<ConfigDifferences>("/v1/config").differences;
    assert_eq!(differences, ["vip vip0: backend 10.0.1.11: weight 1 -> 0"]);
    let overrides: Overrides = server.get("/v1/overrides?vip=vip0");
    assert_eq!(overrides.overrides, [set]);
    assert_eq!(
        server.get::<Overrides>("/v1/overrides?vip=vip1").overrides,
        []
    );
    let stale = server.ask_with("PATCH", ONE, "If-Match: \"1\"\r\n", r#"{"weight": 5}"#);
    assert_eq!(stale.problem().status, 412);
    let fresh = server.ask_with("PATCH", ONE, "If-Match: \"2\"\r\n", r#"{"weight": null}"#);
    let backend: Backend = serde_json::from_str(&fresh.body).unwrap();
    assert_eq!((backend.weight.effective, backend.overridden), (1, None));
    let forever = server.ask("PATCH", ONE, r#"{"health": "down"}"#).problem();
    assert_eq!(
        (forever.status, forever.field.as_deref()),
        (422, Some("for_seconds"))
    );
}

#[test]
fn backends_come_and_go() {
    let server = Server::new();
    let other = "/v1/backends?vip=vip0&address=10.0.1.99";
    let added = server.ask("POST", other, r#"{"weight": 7}"#);
    let backend: Backend = serde_json::from_str(&added.body).unwrap();
    assert_eq!((added.status, backend.weight.effective), (201, 7));
    assert_eq!(server.ask("POST", other, "").problem().status, 409);
    let loopback = server.ask("POST", "/v1/backends?vip=vip0&address=127.0.0.1", "");
    assert_eq!(loopback.problem().field.as_deref(), Some("address"));
    let of_vip = server
        .ask("POST", "/v1/backends?vip=vip0&address=192.0.2.1", "")
        .problem();
    assert!(
        of_vip.status == 422 && of_vip.detail.contains("the VIP vip1"),
        "{of_vip:?}"
    );
    assert_eq!(server.ask("DELETE", ONE, "").status, 204);
    assert_eq!(server.get::<Status>("/v1/status").vips[0].backends.len(), 2);
    let one_back = server.ask("DELETE", "/v1/overrides?vip=vip0&address=10.0.1.11", "");
    assert_eq!(one_back.status, 200);
    assert_eq!(server.get::<Status>("/v1/status").vips[0].backends.len(), 3);
    let all_back = server.ask("DELETE", "/v1/overrides", "");
    assert_eq!((all_back.status, &*all_back.body), (204, ""));
    assert_eq!(server.get::<Status>("/v1/status").vips[0].backends.len(), 2);
    let last = server.ask("DELETE", "/v1/backends?vip=vip0&address=10.0.1.12", "");
    assert_eq!(last.status, 204);
    assert_eq!(server.ask("DELETE", ONE, "").problem().status, 409);
}

#[test]
fn the_file_is_read_again() {
    let server = Server::new();
    let reload = |target: &str| -> Reloaded {
        let answer = server.ask("POST", target, "");
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_str(&answer.body).unwrap()
    };
    assert_eq!(reload("/v1/reload").changes, ["No"]);
    let dry = reload("/v1/reload?dry_run=true&overrides=keep");
    assert!(dry.dry_run && dry.changes == ["Yes"]);
    let refused = server
        .ask("POST", "/v1/reload?overrides=drop", "")
        .problem();
    assert_eq!(refused.status, 422);
    assert_eq!(refused.problems, ["f:1: vip: there is no VIP"]);
    server.fake.be_busy();
    assert_eq!(server.ask("POST", "/v1/reload", "").problem().status, 503);
}

/// Reads go on while control does not answer.
#[test]
fn reads_wait_for_no_change() {
    let server = Server::new();
    server.fake.be_slow();
    let mut waiting = server.connect();
    let request =
        format!("PATCH {ONE} HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n{{\"weight\":5}}");
    waiting.write_all(request.as_bytes()).unwrap();
    server.get::<Status>("/v1/status");
    server.get::<Liveness>("/healthz");
    waiting.set_nonblocking(true).unwrap();
    let unanswered = waiting.read(&mut [0; 8]).unwrap_err();
    assert_eq!(unanswered.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_worker_that_hangs_is_found() {
    let server = Server::of(Fake::with(1, &BACKENDS, FakeWorker::Hangs));
    let answer = server.ask("GET", "/healthz", "");
    let health: Liveness = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(
        (answer.status, health.ok, health.workers.len()),
        (503, false, 1)
    );
    assert_eq!(server.by_tcp("GET", "/healthz").status, 503);
    server.get::<Status>("/v1/status");
}

#[test]
fn what_keeps_it_from_work_makes_it_unready() {
    let mut server = Server::new();
    for address in BACKENDS {
        server.fake.disable("vip1", address);
    }
    server.get::<Readiness>("/readyz");
    let answer = server.ask("GET", "/readyz?vip=vip1", "");
    assert!(
        answer.status == 503 && answer.body.contains("no backend takes new flows"),
        "{answer:?}"
    );
    server.fake.problem("ip_forward", true);
    let answer = server.by_tcp("GET", "/readyz");
    assert!(
        answer.status == 503 && answer.body.contains("ip_forward is off"),
        "{answer:?}"
    );
}

#[test]
fn by_tcp_nothing_changes() {
    let server = Server::new();
    let metrics = server.by_tcp("GET", "/metrics");
    assert_eq!(metrics.status, 200);
    assert!(
        metrics
            .head
            .contains("content-type: text/plain; version=0.0.4"),
        "{metrics:?}"
    );
    assert!(metrics.body.contains("# TYPE tunlb_"), "{metrics:?}");
    assert_eq!(server.by_tcp("GET", "/").status, 200);
    for (method, target, status) in [
        ("GET", "/v1/status", 404),
        ("PATCH", ONE, 404),
        ("POST", "/v1/reload", 404),
        ("POST", "/metrics", 405),
    ] {
        assert_eq!(
            server.by_tcp(method, target).problem().status,
            status,
            "{target}"
        );
    }
}

#[test]
fn events_are_told_as_they_happen() {
    let server = Server::new();
    server.fake.tell("first");
    let past = server.ask("GET", "/v1/events", "");
    assert!(
        past.head.contains("content-type: application/x-ndjson"),
        "{past:?}"
    );
    let event: Event = serde_json::from_str(past.body.trim()).unwrap();
    assert_eq!(
        (event.id, &*event.kind, &*event.text),
        (1, "restored", "first")
    );
    let mut stream = server.connect();
    stream
        .write_all(b"GET /v1/events?since=1&follow=true HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let mut next = || -> Event {
        let line = lines.find(|line| line.starts_with('{')).unwrap();
        serde_json::from_str(&line).unwrap()
    };
    server.fake.tell("second");
    assert_eq!(next().text, "second");
    assert_eq!(server.ask("PATCH", ONE, r#"{"weight": 9}"#).status, 200);
    let event = next();
    assert_eq!(event.kind, "override_set");
    assert_eq!(event.by.map(|by| by.pid), Some(Some(std::process::id())));
}

/// A client that is gone keeps no other one from following.
#[test]
fn followers_leave() {
    let server = Server::new();
    let follow = |count: usize| {
        let request = b"GET /v1/events?follow=true HTTP/1.1\r\nHost: a\r\n\r\n";
        let all = (0..count).map(|_| {
            let mut stream = server.connect();
            stream.write_all(request).unwrap();
            let mut status = [0; 12];
            stream.read_exact(&mut status).unwrap();
            (stream, status.ends_with(b"200"))
        });
        all.collect::<Vec<_>>()
    };
    let first = follow(64);
    assert!(first.iter().all(|(_, accepted)| *accepted));
    assert!(!follow(1)[0].1, "one too many");
    drop(first);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !follow(1)[0].1 {
        assert!(
            Instant::now() < deadline,
            "those who left have their places still"
        );
    }
}

#[test]
fn what_is_no_request_costs_nobody_else() {
    let server = Server::new();
    let raw = |request: &[u8]| {
        let mut stream = server.connect();
        stream.write_all(request).ok(); // the server may have ended it
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert!(raw(b"\x16\x03\x01\x02\x00\x01\x00garbage\r\n\r\n").starts_with("HTTP/1.1 400"));
    assert!(raw(b"GET / HTTP/9.9\r\n\r\n").starts_with("HTTP/1.1 400"));
    let long = [b"GET / HTTP/1.1\r\nX: ", &*vec![b'x'; 100_000]].concat();
    assert!(raw(&long).starts_with("HTTP/1.1 431"));
    let many = [b"GET / HTTP/1.1\r\n", &*b"A: b\r\n".repeat(500), b"\r\n"].concat();
    assert!(raw(&many).starts_with("HTTP/1.1 431"));
    let head = format!("PATCH {ONE} HTTP/1.1\r\nHost: a\r\n");
    let told = format!(
        "{head}Content-Length: 10485760\r\n\r\n{}",
        " ".repeat(1 << 20)
    );
    assert!(raw(told.as_bytes()).starts_with("HTTP/1.1 413"));
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000)).repeat(160);
    let untold = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n");
    assert!(raw(untold.as_bytes()).starts_with("HTTP/1.1 413"));
    let short = format!("{head}Content-Length: 10\r\n\r\n{{");
    let mut stream = server.connect();
    stream.write_all(short.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    server.get::<Status>("/v1/status");
}

/// A thousand clients who only hold connections: each of them goes, none keeps another one out.
#[test]
fn idle_clients_lock_nobody_out() {
    let server = Server::new();
    let mut idle: Vec<_> = (0..1000).map(|_| server.connect()).collect();
    server.get::<Status>("/v1/status");
    let mut slow = server.connect();
    slow.write_all(b"GET /v1/status HT").unwrap();
    server.get::<Status>("/v1/status");
    for stream in idle.iter_mut().chain([&mut slow]) {
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
    }
}

#[test]
fn the_socket_goes_with_the_server() {
    let mut server = Server::new();
    let (path, mut open) = (server.path(), server.connect());
    assert_eq!(
        server.server.as_ref().unwrap().path(),
        Some(Path::new(&path))
    );
    server.server.take().unwrap().stop();
    assert!(!path.exists());
    assert_eq!(open.read(&mut [0; 1]).unwrap_or_default(), 0);
}
