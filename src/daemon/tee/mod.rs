//! The tee: copies of ingress, outer and dropped packets for a capture file, each with the verdict
//! in its comment, so that a packet analyser answers "why was this dropped".
//!
//! Each worker owns a [`Tee`] and tells it what becomes of every packet. Where no capture is asked
//! for, that is one look at an `Option`. Where one is, workers copy the packets that the [`Filter`]
//! selects and hand them to the one thread that writes; they never wait for it.

mod capture;
mod filter;
mod writer;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::SystemTime;

use crate::director::{DropReason, Forward, Snapshot, Verdict};
use crate::io::egress::{Frame, Outgoing};
use crate::io::sys::BATCH;
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

/// Where a packet in a frame comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// It was just read.
    Tun,
    /// It is a fragment that waited for its datagram's first one, and was captured when it came.
    Held,
}

/// One worker's side of a capture.
#[derive(Debug, Default)]
pub(super) struct Tee(Option<Tap>);

#[derive(Debug)]
struct Tap {
    filter: Arc<Filter>,
    records: SyncSender<Record>,
    missed: Arc<AtomicU64>,
    /// For each packet that the egress holds queued, in its order; `None` for one not selected.
    queued: VecDeque<Option<Queued>>,
}

/// A copy of a packet whose fate is known when it was sent.
#[derive(Debug)]
struct Queued {
    /// Whether it is selected only if it is dropped.
    only_if_dropped: bool,
    forward: Forward,
    ingress: Option<PacketCopy>,
    outer: Vec<u8>,
}

impl Tee {
    fn new(filter: Arc<Filter>, records: SyncSender<Record>, missed: Arc<AtomicU64>) -> Self {
        Self(Some(Tap {
            filter,
            records,
            missed,
            queued: VecDeque::with_capacity(BATCH),
        }))
    }

    /// A packet was decided. What is forwarded is captured when it is [`queued`](Self::queued), what
    /// is answered when it is [`replied`](Self::replied) to.
    pub(super) fn decided(&mut self, snapshot: &Snapshot, bytes: &[u8], verdict: &Verdict) {
        let Some(tap) = &self.0 else { return };
        let (drop, verdict) = match verdict {
            Verdict::Forward(_) | Verdict::Reply => return,
            Verdict::Hold => (None, "hold".to_owned()),
            Verdict::Drop(reason) => (Some(*reason), drop_text(*reason)),
        };
        let destination = addressee(snapshot, bytes);
        if tap.filter.selects(&destination, drop) {
            self.hand_over(Record {
                verdict: verdict + &names(&destination),
                ingress: Some(copy(bytes)),
                left: None,
            });
        }
    }

    /// The packet that was just read was answered with `replies`, if the kernel took them.
    pub(super) fn replied<'a>(
        &mut self,
        snapshot: &Snapshot,
        bytes: &[u8],
        replies: impl Iterator<Item = &'a [u8]>,
        sent: &io::Result<()>,
    ) {
        let Some(tap) = &self.0 else { return };
        let (drop, verdict) = match sent {
            Ok(()) => (None, "reply".to_owned()),
            Err(_) => {
                let reason = DropReason::SendFailed;
                (Some(reason), drop_text(reason))
            }
        };
        let destination = addressee(snapshot, bytes);
        if tap.filter.selects(&destination, drop) {
            let vip = Packet::parse(bytes).ok();
            let vip = vip.and_then(|packet| snapshot.addressed_vip(&packet));
            let named = Destination {
                vip: vip.map(|vip| vip.name.as_str()),
                ..destination
            };
            self.hand_over(Record {
                verdict: verdict + &names(&named) + &because(sent.as_ref().err()),
                ingress: Some(copy(bytes)),
                left: Some(Left::Replies(replies.map(copy).collect())),
            });
        }
    }

    /// A packet to be forwarded cannot be encapsulated.
    pub(super) fn too_big(&mut self, snapshot: &Snapshot, inner: &[u8], forward: &Forward) {
        let Some(tap) = &self.0 else { return };
        let destination = chosen(snapshot, forward);
        if tap.filter.selects(&destination, Some(DropReason::TooBig)) {
            self.hand_over(Record {
                verdict: drop_text(DropReason::TooBig) + &names(&destination),
                ingress: Some(copy(inner)),
                left: None,
            });
        }
    }

    /// The packet in `frame`, encapsulated, is about to be queued as `outgoing`.
    pub(super) fn queued(
        &mut self,
        snapshot: &Snapshot,
        frame: &Frame<'_>,
        outgoing: &Outgoing,
        (forward, origin): (&Forward, Origin),
    ) {
        let Some(tap) = &mut self.0 else { return };
        let destination = chosen(snapshot, forward);
        let if_sent = tap.filter.selects(&destination, None);
        let if_dropped = SEND_DROPS
            .iter()
            .any(|reason| tap.filter.selects(&destination, Some(*reason)));
        let inner = &frame.body[..outgoing.length];
        let header = &frame.headroom[HEADROOM - outgoing.overhead..];
        tap.queued
            .push_back((if_sent || if_dropped).then(|| Queued {
                only_if_dropped: !if_sent,
                forward: *forward,
                ingress: (origin == Origin::Tun).then(|| copy(inner)),
                outer: [header, inner].concat(),
            }));
    }

    /// What became of the packet that was [`queued`](Self::queued) first.
    pub(super) fn sent(
        &mut self,
        snapshot: &Snapshot,
        result: Result<(), (DropReason, &io::Error)>,
    ) {
        let Some(tap) = &mut self.0 else { return };
        let Some(Some(queued)) = tap.queued.pop_front() else {
            return;
        };
        let destination = chosen(snapshot, &queued.forward);
        let verdict = match result {
            Ok(()) if queued.only_if_dropped => return,
            Ok(()) => "forward".to_owned() + &names(&destination),
            Err((reason, _)) if !tap.filter.selects(&destination, Some(reason)) => return,
            Err((reason, error)) => {
                drop_text(reason) + &names(&destination) + &because(Some(error))
            }
        };
        self.hand_over(Record {
            verdict,
            ingress: queued.ingress,
            left: Some(Left::Outer(PacketCopy {
                time: SystemTime::now(),
                bytes: queued.outer,
            })),
        });
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

/// Why the kernel may refuse an outer packet.
const SEND_DROPS: [DropReason; 2] = [DropReason::TooBig, DropReason::SendFailed];

fn copy(bytes: &[u8]) -> PacketCopy {
    PacketCopy {
        time: SystemTime::now(),
        bytes: bytes.to_vec(),
    }
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

fn chosen<'a>(snapshot: &'a Snapshot, forward: &Forward) -> Destination<'a> {
    let backend = snapshot.backend(forward.target.backend);
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

fn because(error: Option<&io::Error>) -> String {
    error.map_or_else(String::new, |error| format!(": {error}"))
}

#[cfg(test)]
mod tests;
