//! Begins and ends captures while the workers run: one at a time. What may take long (a disk, a FIFO) happens in
//! a thread of its own, so that neither control nor a worker waits for it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};
use arc_swap::ArcSwapOption;

use super::capture::{Capture, Ended};
use super::{CaptureOptions, Filter, SMALLEST_CAPTURE, Tap, Tee};
use crate::config::Config;
use crate::control::events::{EventKind, EventLog, Happening};
use crate::control::overlay::Author;
use crate::control::{CaptureRequest, Reply};

/// The one capture of a director, if one runs. A clone switches the same.
#[derive(Debug, Clone, Default)]
pub(in crate::daemon) struct Captures {
    tap: Arc<ArcSwapOption<Tap>>,
    running: Arc<Mutex<Option<Capture>>>,
}

/// The author of a request, and where the reply goes.
#[derive(Debug)]
pub(in crate::daemon) struct Client<T> {
    pub(in crate::daemon) by: Author,
    pub(in crate::daemon) events: Arc<EventLog>,
    pub(in crate::daemon) reply: Reply<Result<T, String>>,
}

impl Captures {
    /// A tee for one worker.
    pub(in crate::daemon) fn tee(&self) -> Tee {
        Tee(Arc::clone(&self.tap))
    }

    /// Begins a capture of what comes from `tun`.
    ///
    /// # Errors
    /// Another one runs, or the file cannot be written.
    pub(in crate::daemon) fn begin(&self, options: CaptureOptions, tun: &str) -> Result<()> {
        let mut running = self.running();
        if let Some(other) = running.take_if(|capture| capture.is_over()) {
            other.stop().ok(); // how it ended is in the log
        }
        if let Some(other) = &*running {
            bail!("a capture runs already: {}; stop it first", other.name());
        }
        let (capture, tap) = Capture::start(options, tun)?;
        self.tap.store(Some(Arc::new(tap)));
        *running = Some(capture);
        Ok(())
    }

    /// Ends the capture; what waits is written. Says how much there is of it; `None` where none runs.
    pub(in crate::daemon) fn end(&self) -> Option<Ended> {
        let mut running = self.running();
        let capture = running.take()?;
        self.tap.store(None);
        Some(capture.stop())
    }

    /// Begins a capture for a client, in a thread of its own, and tells it.
    pub(in crate::daemon) fn ask_begin(
        &self,
        request: CaptureRequest,
        config: &Config,
        client: Client<()>,
    ) {
        let tun = config.director.tun.clone();
        let text = format!("a capture to {} began", request.path.display());
        let options = options(request, config);
        let captures = self.clone();
        client.answer(move || {
            captures.begin(options?, &tun)?;
            Ok(((), text))
        });
    }

    /// Ends the capture for a client, in a thread of its own, and tells it how much was captured.
    pub(in crate::daemon) fn ask_end(&self, client: Client<String>) {
        let captures = self.clone();
        client.answer(move || {
            let ended = captures.end().context("no capture runs")?;
            let summary = ended.map_err(|lost| anyhow!(lost))?;
            Ok((summary.clone(), format!("a capture ended: {summary}")))
        });
    }

    fn running(&self) -> MutexGuard<'_, Option<Capture>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static> Client<T> {
    /// Answers with what `work` gives, and tells the event that it describes.
    fn answer(self, work: impl FnOnce() -> Result<(T, String)> + Send + 'static) {
        let body = move || {
            let answer = work().map_err(|error| format!("{error:#}"));
            let answer = answer.map(|(answer, text)| {
                self.events.tell(Happening {
                    by: Some(self.by),
                    ..Happening::new(EventKind::Capture, text)
                });
                answer
            });
            self.reply.send(answer);
        };
        let thread = thread::Builder::new().name("tunlb-switch".into());
        if let Err(error) = thread.spawn(body) {
            log::warn!("cannot start a thread for a capture: {error}");
        }
    }
}

fn options(request: CaptureRequest, config: &Config) -> Result<CaptureOptions> {
    let path: PathBuf = request.path;
    if !path.is_absolute() {
        bail!("{}: the path of a capture must be absolute", path.display());
    }
    if let Some(bytes) = request.limit_bytes
        && bytes < SMALLEST_CAPTURE
    {
        bail!("{bytes} bytes are too little for a packet; at least {SMALLEST_CAPTURE}");
    }
    let filter = Filter::parse(&request.filter, config)?;
    Ok(CaptureOptions::to_path(path, filter, request.limit_bytes))
}

#[cfg(test)]
mod tests;
