use std::fs;
use std::path::Path;
use std::sync::mpsc;

use super::super::tests::syn;
use super::*;
use crate::daemon::pipeline::MemoryPipeline;
use crate::daemon::testing::{PATIENCE, until};
use crate::director::Timestamp;
use crate::site::{self, testing::director};

fn config() -> Config {
    site::testing::config(&["10.0.0.100:80/tcp"], &["10.0.1.11"])
}

/// A worker's pipeline and tee, whose captures are switched.
struct Bench {
    pipeline: MemoryPipeline,
    tee: Tee,
    captures: Captures,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let captures = Captures::default();
        Self {
            pipeline: MemoryPipeline::in_memory(director(&config(), 0, 1)),
            tee: captures.tee(),
            captures,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn begin(&self, name: &str, limit_bytes: Option<u64>) -> Result<()> {
        let options = CaptureOptions::to_path(self.path(name), Filter::default(), limit_bytes);
        self.captures.begin(options, "tunlb0")
    }

    fn forward(&mut self) {
        self.pipeline.ingress.packets.push_back(syn(80));
        self.pipeline.turn(Timestamp::START).unwrap();
        self.tee.turned(&self.pipeline.last());
    }

    fn is_on(&self) -> bool {
        self.captures.tap.load().is_some()
    }
}

/// Copies of the packet in a file, without and with its outer header.
fn copies(path: &Path) -> usize {
    let bytes = fs::read(path).unwrap();
    let packet = syn(80);
    let windows = bytes.windows(packet.len());
    windows.filter(|window| *window == packet).count()
}

#[test]
fn captures_begin_and_end_while_packets_pass() {
    let mut bench = Bench::new();
    bench.forward();
    for name in ["first", "second"] {
        bench.begin(name, None).unwrap();
        bench.forward();
        bench.forward();
        let summary = bench.captures.end().unwrap().unwrap();
        assert!(summary.contains("4 packets captured"), "{summary}");
        bench.forward();
        assert_eq!(copies(&bench.path(name)), 4, "{name}");
        assert!(!bench.is_on());
    }
    assert!(bench.captures.end().is_none());
}

#[test]
fn one_capture_at_a_time() {
    let mut bench = Bench::new();
    bench.begin("first", None).unwrap();
    let refused = bench.begin("second", None).unwrap_err().to_string();
    assert!(
        refused.contains("runs already") && refused.contains("first"),
        "{refused}"
    );
    assert!(!bench.path("second").exists());
    bench.forward();
    bench.captures.end().unwrap().unwrap();
    assert_eq!(copies(&bench.path("first")), 2);
    let exists = bench.begin("first", None).unwrap_err().to_string();
    assert!(exists.contains("is there already"), "{exists}");
    bench.begin("third", None).unwrap();
}

#[test]
fn a_capture_that_is_full_makes_room_for_the_next() {
    let mut bench = Bench::new();
    bench.begin("small", Some(SMALLEST_CAPTURE)).unwrap();
    until("the file is full", || {
        bench.forward();
        !bench.is_on()
    });
    until("the writer has ended", || {
        let running = bench.captures.running();
        running.as_ref().is_some_and(Capture::is_over)
    });
    bench.begin("next", None).unwrap();
    bench.forward();
    bench.captures.end().unwrap().unwrap();
    assert_eq!(copies(&bench.path("next")), 2);
    assert!(fs::metadata(bench.path("small")).unwrap().len() <= SMALLEST_CAPTURE);
}

/// What a client is told, and the events.
fn asked<T: Send + 'static>(ask: impl FnOnce(Client<T>)) -> (Result<T, String>, Vec<String>) {
    let events = Arc::new(EventLog::default());
    let (sender, answers) = mpsc::channel();
    ask(Client {
        by: Author {
            uid: 1000,
            user: None,
            pid: None,
        },
        events: Arc::clone(&events),
        reply: Reply::new(move |answer| sender.send(answer).unwrap()),
    });
    let answer = answers.recv_timeout(PATIENCE).unwrap();
    let told = events.after(0, 10);
    let text = |event: &Arc<crate::control::events::Event>| event.what.text.clone();
    (answer, told.iter().map(text).collect())
}

#[test]
fn clients_are_told() {
    let bench = Bench::new();
    let request = |path: PathBuf, filter: &str, limit_bytes| CaptureRequest {
        path,
        filter: filter.split_terminator(',').map(str::to_owned).collect(),
        limit_bytes,
    };
    for (request, expected) in [
        (request("here.pcapng".into(), "", None), "must be absolute"),
        (request(bench.path("a"), "vip=nix", None), "no such VIP"),
        (request(bench.path("a"), "", Some(10)), "too little"),
        (request(bench.path("no/folder"), "", None), "No such file"),
    ] {
        let ask = |client| bench.captures.ask_begin(request, &config(), client);
        let (answer, events) = asked(ask);
        let error = answer.unwrap_err();
        assert!(error.contains(expected), "{error}");
        assert!(events.is_empty(), "{events:?}");
    }
    let (nothing, _) = asked(|client| bench.captures.ask_end(client));
    assert_eq!(nothing, Err("no capture runs".to_owned()));

    let wanted = request(bench.path("a"), "drop=any", None);
    let (begun, events) = asked(|client| bench.captures.ask_begin(wanted, &config(), client));
    assert_eq!(begun, Ok(()));
    assert!(
        events[0].contains("began") && events.len() == 1,
        "{events:?}"
    );
    let (ended, events) = asked(|client| bench.captures.ask_end(client));
    assert!(ended.unwrap().contains("0 packets captured"));
    assert!(events[0].contains("a capture ended"), "{events:?}");
}
