//! A client against a thread that answers as it is told, over a real socket.

use std::io::{Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::thread::{self, JoinHandle};

use tempfile::TempDir;

use super::*;

/// Answers one connection for each text; returns what was asked.
struct Fake {
    folder: TempDir,
    thread: JoinHandle<Vec<String>>,
}

impl Fake {
    fn new(answers: Vec<Vec<u8>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("api.sock")).unwrap();
        let thread = thread::spawn(move || {
            let answered = answers.into_iter().map(|answer| {
                let (mut stream, _) = listener.accept().unwrap();
                let asked = request(&mut stream);
                // The client may have enough before it has read all.
                stream.write_all(&answer).unwrap_or_default();
                asked
            });
            answered.collect()
        });
        Self { folder, thread }
    }

    fn saying(head: &str, body: &str) -> Self {
        let length = body.len();
        let text = format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\n\r\n{body}");
        Self::new(vec![text.into_bytes()])
    }

    fn client(&self) -> Client {
        Client {
            patience: Duration::from_millis(200),
            patience_for_changes: Duration::from_secs(30),
            ..Client::new(self.folder.path().join("api.sock"))
        }
    }

    fn asked(self) -> Vec<String> {
        self.thread.join().unwrap()
    }
}

/// Head and body.
fn request(stream: &mut UnixStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        text.push(byte[0]);
    }
    let head = String::from_utf8(text).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).unwrap();
    head + &String::from_utf8(body).unwrap()
}

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 11));

#[test]
fn a_document() {
    let fake = Fake::saying("200 OK", r#"{"schema":1,"generation":1,"overrides":[]}"#);
    let overrides = fake.client().overrides().unwrap();
    assert_eq!(overrides.overrides, []);
    let asked = fake.asked();
    assert!(
        asked[0].starts_with("GET /v1/overrides HTTP/1.1\r\nHost: "),
        "{asked:?}"
    );
}

#[test]
fn a_change() {
    let problem = r#"{"status":409,"title":"conflict","detail":"it is the VIP's last"}"#;
    let fake = Fake::saying("409 Conflict", problem);
    let patch = BackendPatch {
        weight: Some(None),
        state: Some(Some("draining".to_owned())),
        ..BackendPatch::default()
    };
    let error = fake.client().patch("a/b", ADDRESS, &patch).unwrap_err();
    assert_eq!(error.to_string(), "it is the VIP's last");
    assert!(error.is_bad_news());
    let asked = fake.asked();
    assert!(asked[0].starts_with("PATCH /v1/backends?vip=a%2Fb&address=10.0.1.11 "));
    assert!(
        asked[0].ends_with(r#"{"weight":null,"state":"draining"}"#),
        "{asked:?}"
    );
}

#[test]
fn targets() {
    let reloaded =
        r#"{"schema":1,"dry_run":true,"generation":1,"changes":[],"overrides_ended":[]}"#;
    let fake = Fake::saying("200 OK", reloaded);
    fake.client()
        .reload(Mode::DryRun, Overriding::Drop)
        .unwrap();
    assert!(fake.asked()[0].starts_with("POST /v1/reload?dry_run=true&overrides=drop "));

    let fake = Fake::saying("204 No Content", "");
    fake.client().remove("web", ADDRESS).unwrap();
    assert!(fake.asked()[0].starts_with("DELETE /v1/backends?vip=web&address=10.0.1.11 "));

    let fake = Fake::saying("200 OK", r#"{"schema":1,"flows":[],"next_cursor":null}"#);
    let filter = FlowFilter {
        vip: None,
        backend: Some(ADDRESS),
    };
    fake.client().flows(filter, 5, Some("0-12")).unwrap();
    assert!(fake.asked()[0].starts_with("GET /v1/flows?backend=10.0.1.11&limit=5&cursor=0-12 "));
}

#[test]
fn what_is_no_director() {
    for (answer, says) in [
        ("", "is cut off: it ended meanwhile"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
            "is cut off",
        ),
        ("220 mail ESMTP\r\n", "its answer is not HTTP/1.1"),
        (
            "HTTP/1.1 502 Bad Gateway\r\n\r\n<html>",
            "it answers with status 502",
        ),
        (
            "HTTP/1.1 200 OK\r\n\r\n<html>",
            "not the document that was asked for: expected value",
        ),
        (
            "HTTP/1.1 200 OK\r\n\r\n{\"schema\":2}",
            "of schema 2, and this tunlb reads schema 1",
        ),
        ("HTTP/1.1 200 OK\r\n\r\n{\"schema\":1}", "missing field `"),
    ] {
        let fake = Fake::new(vec![answer.into()]);
        let error = fake.client().overrides().unwrap_err();
        assert!(error.to_string().contains(says), "{answer:?}: {error}");
        assert!(!error.is_bad_news());
        fake.asked();
    }
}

#[test]
fn an_answer_without_end_is_read_up_to_a_bound() {
    for (longest_answer, is_fine) in [(41, false), (42, true)] {
        let fake = Fake::saying("200 OK", r#"{"schema":1,"generation":1,"overrides":[]}"#);
        let client = Client {
            longest_answer,
            ..fake.client()
        };
        let error = client.overrides().err().map(|error| error.to_string());
        assert_eq!(error.is_none(), is_fine);
        if let Some(text) = error {
            assert!(
                text.contains("its answer is longer than 41 bytes"),
                "{text}"
            );
        }
        fake.asked();
    }
}

#[test]
fn one_that_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let client = Client {
        patience: Duration::from_millis(20),
        ..Client::new(path.clone())
    };
    let error = client.status(None).unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error}");
    assert!(error.to_string().contains("did not answer within"));
    // Until its queue of connections is full.
    let mut waiting = Vec::new();
    let refused = loop {
        match client.connect(client.patience) {
            Ok(stream) => waiting.push(stream),
            Err(error) => break error,
        }
        assert!(waiting.len() < 100_000);
    };
    assert!(matches!(refused, ClientError::TimedOut { .. }), "{refused}");
    drop(listener);
    let error = client.status(None).unwrap_err();
    assert!(matches!(error, ClientError::NoDirector { .. }), "{error}");
}

#[test]
fn none_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let error = Client::new(path.clone()).status(None).unwrap_err();
    assert!(matches!(error, ClientError::NoDirector { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("no director answers at {}", path.display())),
        "{text}"
    );
    let long = folder.path().join("a".repeat(200));
    assert!(matches!(
        Client::new(long).status(None),
        Err(ClientError::NoDirector { .. })
    ));
}

#[test]
fn one_of_another_user() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let denied = |mode| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let error = std::io::ErrorKind::PermissionDenied.into();
        ClientError::connecting(&path, error, PATIENCE).to_string()
    };
    let text = denied(0o660);
    assert!(
        text.starts_with("permission denied at /") && text.contains("the group "),
        "{text}"
    );
    assert!(denied(0o600).contains("alone; use sudo"));
    let hidden = folder.path().join("none/api.sock");
    let error = std::io::ErrorKind::PermissionDenied.into();
    let text = ClientError::connecting(&hidden, error, PATIENCE).to_string();
    assert!(
        text.ends_with("its folder is closed to this user; use sudo"),
        "{text}"
    );
}

const EVENT: &str = r#"{"id":7,"at":"2026-11-27T15:20:00.123Z","kind":"drained","vip":"web","backend":"10.0.1.11","text":"drained","codes":[],"by":null}"#;

/// An answer whose body is made of these chunks.
fn streamed(chunks: &[&str]) -> Vec<u8> {
    let mut text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
    for chunk in chunks {
        text += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
    }
    text.into_bytes()
}

#[test]
fn events_as_they_come() {
    let (begin, end) = EVENT.split_at(40);
    let mut answer = streamed(&[begin, end, "\n", "\n", EVENT, "\n"]);
    answer.extend(b"0\r\n\r\n");
    let fake = Fake::new(vec![answer]);
    let mut events = fake.client().events(6).unwrap();
    let event = events.wait().unwrap().unwrap();
    assert_eq!(
        (event.id, event.kind.as_str(), event.backend),
        (7, "drained", Some(ADDRESS))
    );
    assert!(events.wait().unwrap().is_some());
    assert!(events.wait().unwrap().is_none());
    assert!(fake.asked()[0].starts_with("GET /v1/events?since=6&follow=true "));
}

#[test]
fn the_number_of_the_last_event() {
    let mut answer = streamed(&[EVENT, "\n"]);
    answer.extend(b"0\r\n\r\n");
    for (answer, last) in [(answer, 7), (b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), 0)] {
        let fake = Fake::new(vec![answer]);
        assert_eq!(fake.client().last_event().unwrap(), last);
        assert!(fake.asked()[0].starts_with("GET /v1/events HTTP/1.1\r\n"));
    }
}

#[test]
fn events_that_end_badly() {
    let long = "a".repeat(2 << 20);
    for (answer, says) in [
        (streamed(&[]), "is cut off"),
        (streamed(&["{\"id\":"]), "is cut off"),
        (streamed(&["{\"id\":\n"]), "not the document"),
        (streamed(&[&long]), "a line of its answer is too long"),
        (
            [streamed(&[]), b"x\r\n".to_vec()].concat(),
            "a chunk of its answer is none",
        ),
    ] {
        let fake = Fake::new(vec![answer]);
        let error = fake.client().events(0).unwrap().wait().unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        fake.asked();
    }
}
