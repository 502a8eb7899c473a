//! What control is asked to do, and how it answers.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::events::EventLog;
use super::overlay::{Author, Change, ChangeError};
use super::view::{Identity, View};
use crate::config::{Config, ConfigError};
use crate::health::{Reports, Told};

/// Takes one answer; must not wait.
pub struct Reply<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Reply<T> {
    /// One that calls `answered`, which must not wait.
    #[must_use]
    pub fn new(answered: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(answered))
    }

    /// Answers.
    pub fn send(self, answer: T) {
        (self.0)(answer);
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// What a client asks for.
#[derive(Debug)]
pub enum Request {
    /// To change a backend. The answer is the generation of the view that shows it.
    Change {
        /// What.
        change: Change,
        /// Who asks.
        by: Author,
        /// Once the workers forward by it.
        reply: Reply<Result<u64, ChangeError>>,
    },
    /// To go by what was measured.
    Health(Reports),
    /// To have what others found of a backend count, where its check is "external".
    Told {
        /// What.
        told: Told,
        /// Once it is handed on.
        reply: Reply<Result<(), ChangeError>>,
    },
    /// To take all overrides back.
    ClearOverrides {
        /// Who asks.
        by: Author,
        /// The generation.
        reply: Reply<Result<u64, ChangeError>>,
    },
}

/// How a file is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReloadOptions {
    /// Only to tell what would change.
    pub dry_run: DryRun,
    /// What becomes of overrides.
    pub overrides: KeepOverrides,
}

/// Whether anything is to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DryRun {
    /// It is.
    #[default]
    No,
    /// Nothing.
    Yes,
}

/// What becomes of overrides at a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeepOverrides {
    /// They stay, but for keys that changed in the file.
    #[default]
    Yes,
    /// All go.
    No,
}

/// A configuration that was read, for a client or at SIGHUP.
#[derive(Debug)]
pub struct Reload {
    /// What was read, or why it could not be.
    pub read: Result<Config, ConfigError>,
    /// How it is to be applied.
    pub options: ReloadOptions,
    /// The client; `None`: a signal.
    pub by: Option<Author>,
    /// For the client.
    pub reply: Option<Reply<Result<Reloaded, Refused>>>,
}

/// A capture that a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureRequest {
    /// A file that does not exist yet, a FIFO or a device; absolute.
    pub path: PathBuf,
    /// Which packets, in the terms of `--capture-filter`; all where there is none.
    pub filter: Vec<String>,
    /// The most bytes that may be written; without it a file has a bound, and a stream has none.
    pub limit_bytes: Option<u64>,
}

/// What a client asks of the whole process.
#[derive(Debug)]
pub enum Ask {
    /// Of control.
    Control(Request),
    /// To begin a capture, of which there is one at a time.
    Capture {
        /// Which one.
        what: CaptureRequest,
        /// Who asks.
        by: Author,
        /// Once packets are captured, or why they are not.
        reply: Reply<Result<(), String>>,
    },
    /// To end the capture that runs.
    StopCapture {
        /// Who asks.
        by: Author,
        /// Once all is written: how much it is, or why its end is lost.
        reply: Reply<Result<String, String>>,
    },
    /// To read the file again.
    Reload {
        /// How it is to be applied.
        options: ReloadOptions,
        /// Who asks.
        by: Author,
        /// Once the workers forward by it, and the host follows.
        reply: Reply<Result<Reloaded, Refused>>,
    },
}

/// What a reload did, or would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// Of the view that shows it.
    pub generation: u64,
    /// One line for each key.
    pub changes: Vec<String>,
    /// Overrides whose place the file took.
    pub overrides_ended: Vec<String>,
}

/// Why a configuration is not applied: one line for each fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// At least one.
    pub problems: Vec<String>,
}

impl From<ConfigError> for Refused {
    fn from(error: ConfigError) -> Self {
        Self {
            problems: error.to_string().lines().map(str::to_owned).collect(),
        }
    }
}

impl From<anyhow::Error> for Refused {
    fn from(error: anyhow::Error) -> Self {
        Self {
            problems: vec![format!("{error:#}")],
        }
    }
}

/// What others hold of a running director: its view, its events, and the way to ask for a change.
#[derive(Clone)]
pub struct Handle {
    /// What stays the same.
    pub identity: Arc<Identity>,
    /// What happened.
    pub events: Arc<EventLog>,
    view: Arc<ArcSwap<View>>,
    ask: Arc<dyn Fn(Ask) -> Result<(), Busy> + Send + Sync>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// Control has more to do than it can keep up with, or it is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the director is busy or stopping; try again")]
pub struct Busy;

impl Handle {
    /// One of a director that shows `view`. `ask` hands a request over without waiting.
    #[must_use]
    pub fn new(
        identity: Arc<Identity>,
        events: Arc<EventLog>,
        view: Arc<ArcSwap<View>>,
        ask: impl Fn(Ask) -> Result<(), Busy> + Send + Sync + 'static,
    ) -> Self {
        Self {
            identity,
            events,
            view,
            ask: Arc::new(ask),
        }
    }

    /// The state after the last change; never waits.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Asks for a change; never waits.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn ask(&self, ask: Ask) -> Result<(), Busy> {
        (self.ask)(ask)
    }
}
