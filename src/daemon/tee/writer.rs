//! The thread that writes a capture, and what workers hand to it.
//!
//! Workers never wait for it: what does not fit its queue is counted and gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::SystemTime;

use log::{info, warn};

use crate::io::capture::{CaptureError, CaptureFile, CapturedPacket, Direction};
use crate::text::count;

/// A copy of a packet.
#[derive(Debug)]
pub(super) struct PacketCopy {
    pub(super) time: SystemTime,
    pub(super) bytes: Vec<u8>,
}

/// What became of a packet, in the words of the comments.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) verdict: String,
    /// As it was read from the TUN; `None` for a fragment that was written when it came.
    pub(super) ingress: Option<PacketCopy>,
    pub(super) left: Option<Left>,
}

/// What the director sent because of a packet.
#[derive(Debug)]
pub(super) enum Left {
    /// The packet in its tunnel, to a backend.
    Outer(PacketCopy),
    /// The packets of an answer, into the TUN.
    Replies(Vec<PacketCopy>),
}

impl Record {
    /// Packets in it.
    pub(super) fn packets(&self) -> u64 {
        let left = match &self.left {
            None => 0,
            Some(Left::Outer(_)) => 1,
            Some(Left::Replies(copies)) => copies.len() as u64,
        };
        u64::from(self.ingress.is_some()) + left
    }
}

/// The thread's side of a capture.
#[derive(Debug)]
pub(super) struct Writer {
    /// The file's, for the log.
    pub(super) name: String,
    pub(super) file: CaptureFile,
    pub(super) records: Receiver<Record>,
    pub(super) missed: Arc<AtomicU64>,
}

impl Writer {
    /// Writes until the capture is stopped or the file can take no more, which ends the capture and nothing
    /// else: with the receiver gone, tees turn it off. Returns how much was captured.
    pub(super) fn run(mut self) -> String {
        if let Err(error) = self.write().and_then(|()| self.file.flush()) {
            let flushed = self.file.flush();
            let error = flushed.err().unwrap_or(error);
            warn!("{}: {error}; nothing more is captured", self.name);
        }
        let summary = self.summary();
        info!("{summary}");
        summary
    }

    fn write(&mut self) -> Result<(), CaptureError> {
        loop {
            let record = match self.records.try_recv() {
                Ok(record) => record,
                Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => {
                    // Nothing to do until the next packet: readers shall see all before it.
                    self.file.flush()?;
                    match self.records.recv() {
                        Ok(record) => record,
                        Err(_) => return Ok(()),
                    }
                }
            };
            append(&mut self.file, &record)?;
        }
    }

    fn summary(&self) -> String {
        format!(
            "{}: {} captured, {} bytes, capture_missed {}",
            self.name,
            count(self.file.packets(), "packet"),
            self.file.bytes(),
            self.missed.load(Ordering::Relaxed)
        )
    }
}

fn append(file: &mut CaptureFile, record: &Record) -> Result<(), CaptureError> {
    let verdict = &record.verdict;
    let origin = match &record.ingress {
        Some(copy) => {
            let packet = packet(Direction::Inbound, copy, verdict);
            format!("packet {}", file.append(&packet)?)
        }
        None => "a held fragment".to_owned(),
    };
    let (what, copies) = match &record.left {
        Some(Left::Outer(copy)) => ("outer of", std::slice::from_ref(copy)),
        Some(Left::Replies(copies)) => ("answer to", copies.as_slice()),
        None => return Ok(()),
    };
    let comment = format!("{what} {origin}: {verdict}");
    for copy in copies {
        file.append(&packet(Direction::Outbound, copy, &comment))?;
    }
    Ok(())
}

fn packet<'a>(direction: Direction, copy: &'a PacketCopy, comment: &'a str) -> CapturedPacket<'a> {
    CapturedPacket {
        direction,
        time: copy.time,
        bytes: &copy.bytes,
        comment,
    }
}
