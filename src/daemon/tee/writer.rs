//! The thread that writes a capture, and what workers hand to it.
//!
//! Workers never wait for it: what does not fit its queue is counted and gone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use log::{info, warn};

use super::filter::Filter;
use super::{CaptureOptions, Tee};
use crate::io::capture::{CaptureError, CaptureFile, CapturedPacket, Direction};

/// Records that may wait, one for each packet of a burst: at an MTU of 1500, 3 MB at most.
const QUEUE: usize = 1024;

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

/// A capture that runs.
#[derive(Debug)]
pub(in crate::daemon) struct Capture {
    filter: Arc<Filter>,
    records: SyncSender<Record>,
    missed: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Capture {
    /// Creates the file and starts the thread. `tun` is the device that packets come from.
    pub(in crate::daemon) fn start(options: &CaptureOptions, tun: &str) -> Result<Self> {
        let file = CaptureFile::create(&options.path, options.limit_bytes, tun)?;
        let (records, receiver) = sync_channel(QUEUE);
        let missed = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            path: options.path.clone(),
            file,
            records: receiver,
            missed: Arc::clone(&missed),
        };
        let thread = thread::Builder::new()
            .name("tunlb-capture".into())
            .spawn(move || writer.run())
            .context("cannot start the capture's thread")?;
        Ok(Self {
            filter: Arc::new(options.filter.clone()),
            records,
            missed,
            thread,
        })
    }

    /// A tee for one worker.
    pub(in crate::daemon) fn tee(&self) -> Tee {
        let filter = Arc::clone(&self.filter);
        Tee::new(filter, self.records.clone(), Arc::clone(&self.missed))
    }

    /// Writes what waits and closes the file; the workers have ended.
    pub(in crate::daemon) fn stop(self) {
        drop(self.records);
        if self.thread.join().is_err() {
            warn!("the capture's thread panicked");
        }
    }
}

#[derive(Debug)]
struct Writer {
    path: PathBuf,
    file: CaptureFile,
    records: Receiver<Record>,
    missed: Arc<AtomicU64>,
}

impl Writer {
    /// Writes until all workers have ended or the file can take no more, which ends the capture
    /// and nothing else: with the receiver gone, tees turn themselves off.
    fn run(mut self) {
        if let Err(error) = self.write().and_then(|()| self.file.flush()) {
            let flushed = self.file.flush();
            warn!(
                "{}: {}; nothing more is captured",
                self.path.display(),
                flushed.err().unwrap_or(error)
            );
        }
        info!("{}", self.summary(&self.path));
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

    fn summary(&self, path: &Path) -> String {
        format!(
            "{}: {} packets captured, {} bytes, capture_missed {}",
            path.display(),
            self.file.packets(),
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
