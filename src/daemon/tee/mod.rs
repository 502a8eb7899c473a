//! The tee: copies of ingress, outer and dropped packets for a capture file, each with the verdict
//! in its comment, so that a packet analyser answers "why was this dropped".
//!
//! A [`Tee`] sees every burst of a worker's [`Pipeline`](super::pipeline::Pipeline) after it left. Where no capture is asked for,
//! that is one look at an `Option` for each burst. Where one is, it copies the packets that the [`Filter`]
//! selects and hands them to the one thread that writes; it never waits for it.

mod capture;
mod filter;
mod writer;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::SystemTime;

use super::pipeline::{Origin, Passage, Turn, drop_reason};
use crate::director::{DropReason, Forward, Snapshot, Verdict};
use crate::io::egress::SendError;
use crate::packet::{HEADROOM, Packet};
pub(super) use capture::Capture;
pub use capture::CaptureTo;
pub use filter::{Destination, Filter, FilterError};
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

/// One worker's side of a capture.
#[derive(Debug, Default)]
pub(super) struct Tee(Option<Tap>);

#[derive(Debug)]
struct Tap {
    filter: Arc<Filter>,
    records: SyncSender<Record>,
    missed: Arc<AtomicU64>,
}

impl Tee {
    const fn new(filter: Arc<Filter>, records: SyncSender<Record>, missed: Arc<AtomicU64>) -> Self {
        Self(Some(Tap {
            filter,
            records,
            missed,
        }))
    }

    /// Captures what is selected of a burst that left.
    pub(super) fn turned(&mut self, turn: &Turn<'_>) {
        if self.0.is_none() {
            return;
        }
        let time = SystemTime::now();
        for passage in turn.passages() {
            if let Some(record) = self.record(turn, &passage, time) {
                self.hand_over(record);
            }
        }
    }

    /// What is to be captured of a packet; `None` where it is not selected.
    fn record(&self, turn: &Turn<'_>, passage: &Passage<'_>, time: SystemTime) -> Option<Record> {
        let filter = &self.0.as_ref()?.filter;
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

    /// Never waits. When the writer is gone, because the file is full, the capture is over.
    fn hand_over(&mut self, record: Record) {
        let Some(tap) = &self.0 else { return };
        match tap.records.try_send(record) {
            Ok(()) => {}
            Err(TrySendError::Full(record)) => {
                tap.missed.fetch_add(record.packets(), Ordering::Relaxed);
            }
            Err(TrySendError::Disconnected(_)) => self.0 = None,
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
