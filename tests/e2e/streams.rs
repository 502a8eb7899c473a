//! Long TCP streams through the VIP, both ways, of which the client checks every byte.

use std::collections::BTreeMap;

use crate::lab::{Node, wait_until};
use crate::process::{Process, Signal};
use crate::site::{Backend, VIP, succeeded};

const STREAM_ECHO: &str = include_str!("tools/stream_echo.py");
const STREAMS: &str = include_str!("tools/streams.py");

/// Where the echo service listens.
pub(crate) const PORT: u16 = 7000;

/// The echo service for streams on a backend.
pub(crate) fn echo_streams(Backend { node, .. }: &Backend) -> Process {
    let command = node.python(STREAM_ECHO, &[node.name(), VIP, &PORT.to_string()]);
    node.start(&format!("stream-{}", node.name()), command, "listening")
}

/// Open streams of one client.
pub(crate) struct Streams {
    process: Process,
    /// The backend of each, by local port.
    pub(crate) backends: BTreeMap<u16, String>,
}

impl Streams {
    /// Opens `count` streams from consecutive ports, each of which sends up to 2000 bytes ten times a
    /// second; returns when all backends have said their names.
    pub(crate) fn open(client: &Node, count: u16, first_port: u16) -> Self {
        let [count, first_port] = [count, first_port].map(|number| number.to_string());
        let command = client.python(
            STREAMS,
            &[VIP, &PORT.to_string(), &count, &first_port, "0.1"],
        );
        let process = client.start(&format!("streams-{first_port}"), command, "\n");
        let line = process.stdout();
        let words = line.trim_end().strip_prefix("open: ");
        let words: Vec<_> = words.unwrap_or_default().split(' ').collect();
        let backend = |pair: &[&str]| (pair[0].parse().expect("a port"), pair[1].to_owned());
        Self {
            process,
            backends: words.chunks_exact(2).map(backend).collect(),
        }
    }

    /// How many streams a backend has.
    pub(crate) fn of(&self, backend: &str) -> usize {
        let names = self.backends.values();
        names.filter(|name| *name == backend).count()
    }

    /// Waits until each stream has had a piece back that it sent after this call.
    pub(crate) fn wait_for_round(&self) {
        assert_eq!(self.ask(Signal::Usr2, "round"), "");
    }

    /// Bytes that came back until now, of all streams.
    pub(crate) fn echoed(&self) -> u64 {
        let answer = self.ask(Signal::Usr1, "echoed ");
        answer.parse().expect("a number of bytes")
    }

    /// Sends a signal that the program answers by a line; returns what follows `word` in it.
    fn ask(&self, signal: Signal, word: &str) -> String {
        let answers = || {
            let text = self.process.stdout();
            let lines = text.split_inclusive('\n').map(str::to_owned);
            let answers = lines
                .filter_map(|line| Some(line.strip_prefix(word)?.strip_suffix('\n')?.to_owned()));
            answers.collect::<Vec<_>>()
        };
        let before = answers().len();
        self.process.signal(signal);
        wait_until(&format!("\"{word}\" of all streams"), || {
            answers().len() > before
        });
        answers().pop().unwrap_or_default()
    }

    /// Ends the streams; every one must be whole.
    pub(crate) fn finish(self) {
        let Self { process, backends } = self;
        let report = succeeded(process.stop(Signal::Term)).stdout;
        let ends: Vec<Vec<_>> = report
            .lines()
            .map(|line| line.split(' ').collect())
            .filter(|words: &Vec<_>| words[0].starts_with(|first: char| first.is_ascii_digit()))
            .collect();
        let broken: Vec<_> = ends.iter().filter(|words| words[3] != "whole").collect();
        assert!(
            broken.is_empty(),
            "{} of {} streams are not whole: {broken:?}",
            broken.len(),
            ends.len()
        );
        assert_eq!(ends.len(), backends.len(), "streams that ended:\n{report}");
    }
}

/// No TCP connection of these hosts was refused or reset, by either side, and no segment came in with
/// a wrong checksum. (A last acknowledgement that comes twice is answered by a RST, rightly, so RSTs
/// are not counted.)
pub(crate) fn assert_no_resets<'a>(nodes: impl IntoIterator<Item = &'a Node>) {
    for node in nodes {
        for counter in ["EstabResets", "AttemptFails", "InCsumErrors"] {
            assert_eq!(node.counter("Tcp", counter), 0, "{} {counter}", node.name());
        }
    }
}
