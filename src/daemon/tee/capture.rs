//! A capture's beginning and end. Neither waits long for a file, whatever it is: one that exists is refused,
//! a FIFO may be without a reader, a reader may have stopped reading, a disk may hang.

use std::convert::Infallible;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use log::{info, warn};

use super::writer::{Record, Writer};
use super::{CaptureOptions, Tap};
use crate::io::capture::{self, CaptureError, CaptureFile};
use crate::text::Plain;

/// Records that may wait, one for each packet of a burst: at an MTU of 1500, 3 MB at most.
const QUEUE: usize = 1024;

/// How long the file may take to have its header, before anything of the host is changed.
const BEGINNING: Duration = Duration::from_secs(5);

/// How long what waits may take to be written when the director stops.
const END: Duration = Duration::from_secs(2);

/// Where a capture goes.
#[derive(Debug)]
pub enum CaptureTo {
    /// A new file, or a FIFO or device of that name.
    Path(PathBuf),
    /// What is open already.
    Stdout(File),
}

impl fmt::Display for CaptureTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => Plain(path.to_string_lossy()).fmt(f),
            Self::Stdout(_) => f.write_str("standard output"),
        }
    }
}

/// How a capture ended: how much there is of it, or why its end is lost.
pub(in crate::daemon) type Ended = Result<String, String>;

/// A capture that runs.
#[derive(Debug)]
pub(super) struct Capture {
    name: String,
    thread: JoinHandle<Option<String>>,
    /// Disconnected when the thread ends.
    ended: Receiver<Infallible>,
    /// Whether a FIFO has no reader yet.
    waiting: Arc<AtomicBool>,
    unused: UnusedFile,
}

impl Capture {
    /// Creates the file and starts the thread. `tun` is the device that packets come from; workers hand them to
    /// the tap. A FIFO may still be without a reader when this returns.
    pub(super) fn start(options: CaptureOptions, tun: &str) -> Result<(Self, Tap)> {
        let name = options.to.to_string();
        let (records, receiver) = sync_channel(QUEUE);
        let (begun, beginning) = sync_channel(1);
        let (end, ended) = sync_channel(0);
        let missed = Arc::new(AtomicU64::new(0));
        let waiting = Arc::new(AtomicBool::new(false));
        let start = Start {
            name: name.clone(),
            limit_bytes: options.limit_bytes.unwrap_or(u64::MAX),
            tun: tun.to_owned(),
            records: receiver,
            missed: Arc::clone(&missed),
            waiting: Arc::clone(&waiting),
            begun,
            _end: end,
        };
        let thread = thread::Builder::new()
            .name("tunlb-capture".into())
            .spawn(move || start.run(options.to))
            .context("cannot start the capture's thread")?;
        let slow = |_| anyhow!("{name}: the capture cannot begin: nothing takes its first bytes");
        let capture = Self {
            thread,
            ended,
            waiting,
            unused: beginning.recv_timeout(BEGINNING).map_err(slow)??,
            name,
        };
        let filter = options.filter;
        Ok((
            capture,
            Tap {
                filter,
                records,
                missed,
            },
        ))
    }

    /// Where it goes.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the file takes no more: it is full, or its reader is gone.
    pub(super) fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Writes what waits and closes the file; workers find the tap no more. A reader or a disk that takes
    /// nothing is left alone after [`END`], with the thread that waits for it: it ends with the process.
    pub(super) fn stop(self) -> Ended {
        self.unused.keep();
        let lost = if self.waiting.load(Ordering::Relaxed) {
            "nothing was captured, because it had no reader"
        } else {
            match self.ended.recv_timeout(END) {
                Err(RecvTimeoutError::Timeout) => {
                    "the end of the capture is lost, because nothing takes it"
                }
                Err(RecvTimeoutError::Disconnected) => match self.thread.join() {
                    Ok(Some(summary)) => return Ok(summary),
                    Ok(None) => return Err(format!("{}: nothing was captured", self.name)),
                    Err(_) => "the capture's thread panicked",
                },
            }
        };
        warn!("{}: {lost}", self.name);
        Err(format!("{}: {lost}", self.name))
    }
}

/// The thread before the first packet.
struct Start {
    name: String,
    limit_bytes: u64,
    tun: String,
    records: Receiver<Record>,
    missed: Arc<AtomicU64>,
    waiting: Arc<AtomicBool>,
    /// Told once: how the director's start goes on.
    begun: SyncSender<Result<UnusedFile, CaptureError>>,
    /// Dropped when the thread ends.
    _end: SyncSender<Infallible>,
}

impl Start {
    /// How much was captured; `None` where it did not begin.
    fn run(self, to: CaptureTo) -> Option<String> {
        let file = self.begin(to)?;
        let writer = Writer {
            name: self.name,
            file,
            records: self.records,
            missed: self.missed,
        };
        Some(writer.run())
    }

    /// The file with its header; `None` where there is no capture, and why is told.
    fn begin(&self, to: CaptureTo) -> Option<CaptureFile> {
        let opened = match to {
            CaptureTo::Stdout(file) => Ok((file, UnusedFile(None))),
            CaptureTo::Path(path) => match capture::create(&path) {
                Ok(Some(file)) => {
                    let new = file.metadata().is_ok_and(|metadata| metadata.is_file());
                    Ok((file, UnusedFile(new.then_some(path))))
                }
                Ok(None) => return self.begin_with_reader(&path),
                Err(error) => Err(error),
            },
        };
        let begun = opened.and_then(|(file, unused)| Ok((self.header(file)?, unused)));
        let (file, told) = match begun {
            Ok((file, unused)) => (Some(file), Ok(unused)),
            Err(error) => (None, Err(error)),
        };
        self.begun.send(told).ok(); // fails only where the start has been given up
        file
    }

    fn begin_with_reader(&self, path: &Path) -> Option<CaptureFile> {
        self.waiting.store(true, Ordering::Relaxed);
        info!("{}: the capture begins when it has a reader", self.name);
        self.begun.send(Ok(UnusedFile(None))).ok();
        let opened = capture::wait_for_reader(path);
        self.waiting.store(false, Ordering::Relaxed);
        match opened.and_then(|file| self.header(file)) {
            Ok(file) => Some(file),
            Err(error) => {
                warn!("{}: {error}; nothing is captured", self.name);
                None
            }
        }
    }

    fn header(&self, file: File) -> Result<CaptureFile, CaptureError> {
        CaptureFile::begin(file, self.limit_bytes, &self.tun)
    }
}

/// Removes a new file again when the director does not start, so that the next start finds its name free.
#[derive(Debug)]
struct UnusedFile(Option<PathBuf>);

impl UnusedFile {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for UnusedFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = fs::remove_file(path)
        {
            warn!("cannot remove {}: {error}", Plain(path.to_string_lossy()));
        }
    }
}
