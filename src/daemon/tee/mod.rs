//! The tee: copies of ingress, outer and dropped packets for a capture file, each with the verdict
//! in its comment, so that a packet analyser answers "why was this dropped".
//!
//! A [`Tee`] sees every burst of a worker's [`Pipeline`](super::pipeline::Pipeline) after it left. While no
//! capture runs, that is one look for each burst at what the workers share. While one does, it copies the packets
//! that the [`Filter`] selects and hands them to the one thread that writes; it never waits for it.

mod capture;
mod filter;
mod switch;
mod writer;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;

use super::pipeline::{Origin, Passage, Turn, drop_reason};
use crate::director::{DropReason, Forward, Snapshot, Verdict};
use crate::io::egress::SendError;
use crate::packet::{HEADROOM, Packet};
pub use capture::CaptureTo;
pub use filter::{Destination, Filter, FilterError};
pub(super) use switch::{Captures, Client};
use writer::{Left, PacketCopy, Record};

/// What is to be captured.
#[derive(Debug)]
pub struct CaptureOptions {
    /// Where it goes; a file that exists is refused.
    pub to: CaptureTo,
    /// Which packets.
    pub filter: Filter,
    /// The most bytes that may be written, if that is bounded. When the next packet does not fit, the
    /// capture ends.
    pub limit_bytes: Option<u64>,
}

/// The bound of a capture in a file, in bytes, where none is given.
const CAPTURE_SIZE: u64 = 64 << 20;

/// The least bound of a capture, in bytes: room for the file's own headers and a packet or two.
pub const SMALLEST_CAPTURE: u64 = 4096;

impl CaptureOptions {
    /// A capture to a path. Without `limit_bytes` a file has a bound, and a FIFO or a device has none.
    #[must_use]
    pub fn to_path(path: PathBuf, filter: Filter, limit_bytes: Option<u64>) -> Self {
        let metadata = fs::metadata(&path);
        let is_stream = metadata.is_ok_and(|metadata| !metadata.is_file());
        Self {
            filter,
            limit_bytes: limit_bytes.or((!is_stream).then_some(CAPTURE_SIZE)),
            to: CaptureTo::Path(path),
        }
    }

    /// A capture to standard output, which is bounded as [`to_path`](Self::to_path) says.
    #[must_use]
    pub fn to_stdout(stdout: File, filter: Filter, limit_bytes: Option<u64>) -> Self {
        let is_file = stdout.metadata().is_ok_and(|metadata| metadata.is_file());
        Self {
            filter,
            limit_bytes: limit_bytes.or(is_file.then_some(CAPTURE_SIZE)),
            to: CaptureTo::Stdout(stdout),
        }
    }
}

/// One worker's side of the captures, which all workers share.
#[derive(Debug, Default)]
pub(super) struct Tee(Arc<ArcSwapOption<Tap>>);

/// A capture that runs.

#[derive(Debug)]
struct Tap {
    filter: Filter,
    records: SyncSender<Record>,
    missed: Arc<AtomicU64>,
}

impl Tee {
    /// Captures what is selected of a burst that left.
    pub(super) fn turned(&self, turn: &Turn<'_>) {
        let current = self.0.load();
        let Some(tap) = &*current else { return };
        let time = SystemTime::now();
        for passage in turn.passages() {
            if let Some(record) = tap.record(turn, &passage, time)
                && tap.hand_over(record) == Writes::NoMore
            {
                // The capture is over, unless there is another one meanwhile.
                self.0.compare_and_swap(&current, None);
                return;
            }
        }
    }
}

/// Whether a capture's writer takes more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writes {
    More,
    NoMore,
}

impl Tap {
    /// What is to be captured of a packet; `None` where it is not selected.
    fn record(&self, turn: &Turn<'_>, passage: &Passage<'_>, time: SystemTime) -> Option<Record> {
        let filter = &self.filter;
        let snapshot = turn.snapshot();
        let [bytes, rest] = passage.bytes;
        let destination = match &passage.verdict {
            Verdict::Forward(forward) => chosen(snapshot, forward),
            Verdict::Reply(_) | Verdict::Hold | Verdict::Drop(_) => addressee(snapshot, bytes),
        };
        let failure = passage.sent.err();
        let drop = match passage.verdict {
            Verdict::Drop(reason) => Some(reason),
            Verdict::Forward(_) | Verdict::Reply(_) | Verdict::Hold => failure.map(drop_reason),
        };
        if !filter.selects(&destination, drop) {
            return None;
        }
        let destination = match &passage.verdict {
            Verdict::Reply(_) => Destination {
                vip: answering_vip(snapshot, bytes),
                ..destination
            },
            Verdict::Forward(_) | Verdict::Hold | Verdict::Drop(_) => destination,
        };
        let verdict = match (drop, &passage.verdict) {
            (Some(reason), _) => drop_text(reason),
            (None, Verdict::Forward(_)) => "forward".to_owned(),
            (None, Verdict::Reply(_)) => "reply".to_owned(),
            (None, Verdict::Hold | Verdict::Drop(_)) => "hold".to_owned(),
        };
        let copy = |bytes: Vec<u8>| PacketCopy { time, bytes };
        let whole = [bytes, rest].concat();
        Some(Record {
            verdict: verdict + &names(&destination) + &because(failure),
            ingress: (passage.origin == Origin::Ingress).then(|| copy(whole.clone())),
            left: match passage.verdict {
                Verdict::Forward(forward) => {
                    Some(Left::Outer(copy(outer(snapshot, &forward, &whole)?)))
                }
                Verdict::Reply(range) => {
                    let replies = turn.replies(range).map(|reply| copy(reply.to_vec()));
                    Some(Left::Replies(replies.collect()))
                }
                Verdict::Hold | Verdict::Drop(_) => None,
            },
        })
    }

    /// Never waits. The writer is gone when the file is full.
    fn hand_over(&self, record: Record) -> Writes {
        match self.records.try_send(record) {
            Ok(()) => Writes::More,
            Err(TrySendError::Full(record)) => {
                self.missed.fetch_add(record.packets(), Ordering::Relaxed);
                Writes::More
            }
            Err(TrySendError::Disconnected(_)) => Writes::NoMore,
        }
    }
}

/// The packet in its tunnel. Made anew: what an egress writes depends on the way out.
fn outer(snapshot: &Snapshot, forward: &Forward, bytes: &[u8]) -> Option<Vec<u8>> {
    let encap = &snapshot.backend(forward.backend)?.encap;
    let inner = bytes.get(..usize::from(forward.meta.length))?;
    let mut headroom = [0; HEADROOM];
    encap
        .write(&mut headroom, &forward.meta, [inner, &[]], forward.entropy)
        .ok()?;
    Some([&headroom[HEADROOM - encap.overhead()..], inner].concat())
}

/// Where a packet was addressed to that no backend was chosen for.
fn addressee<'a>(snapshot: &'a Snapshot, bytes: &[u8]) -> Destination<'a> {
    let Ok(packet) = Packet::parse(bytes) else {
        return Destination::default();
    };
    let vip = packet.flow().and_then(|key| snapshot.find_vip(&key));
    Destination {
        address: Some(packet.destination()),
        vip: vip.map(|vip| vip.name.as_str()),
        backend: None,
    }
}

/// The VIP that answers a packet, which need not be for one of its ports.
fn answering_vip<'a>(snapshot: &'a Snapshot, bytes: &[u8]) -> Option<&'a str> {
    let packet = Packet::parse(bytes).ok()?;
    let vip = snapshot.addressed_vip(&packet)?;
    Some(&vip.name)
}

fn chosen<'a>(snapshot: &'a Snapshot, forward: &Forward) -> Destination<'a> {
    let backend = snapshot.backend(forward.backend);
    Destination {
        address: None,
        vip: backend.map(|backend| snapshot.vip(backend.vip).name.as_str()),
        backend: backend.map(|backend| backend.address),
    }
}

fn drop_text(reason: DropReason) -> String {
    format!("drop reason={}", reason.name())
}

/// ` vip=web backend=10.0.1.11`, as far as known.
fn names(destination: &Destination<'_>) -> String {
    let mut text = String::new();
    if let Some(vip) = destination.vip {
        text = text + " vip=" + vip;
    }
    if let Some(backend) = destination.backend {
        // Writing to a string does not fail.
        write!(text, " backend={backend}").ok();
    }
    text
}

fn because(error: Option<SendError>) -> String {
    error.map_or_else(String::new, |error| format!(": {error}"))
}

#[cfg(test)]
mod tests;
