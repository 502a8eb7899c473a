//! Programs that run in the background of a lab: their output, their end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::lab::wait_until;

/// A program in the background; it is killed when this is dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// What a program left.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Signal {
    Hup,
    Int,
    Kill,
    Quit,
    Term,
    Usr1,
    Usr2,
}

impl Process {
    /// Starts `command`; its output goes to files in `folder` that carry `name`.
    pub(crate) fn start(folder: &Path, name: &str, mut command: Command) -> Self {
        let [stdout, stderr] = ["out", "err"].map(|kind| folder.join(format!("{name}.{kind}")));
        let create = |path| File::create(path).expect("a log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(create(&stdout))
            .stderr(create(&stderr))
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        Self {
            name: name.to_owned(),
            child,
            stdout,
            stderr,
        }
    }

    /// Starts `command` and waits until it has printed `word`.
    pub(crate) fn ready(folder: &Path, name: &str, command: Command, word: &str) -> Self {
        let mut process = Self::start(folder, name, command);
        process.wait_for(word);
        process
    }

    /// Waits until the program has printed `word`.
    pub(crate) fn wait_for(&mut self, word: &str) {
        let name = self.name.clone();
        let mut ended = None;
        wait_until(&format!("{name}: \"{word}\""), || {
            ended = self.child.try_wait().expect("the state of a child process");
            self.said(word) || ended.is_some()
        });
        assert!(
            self.said(word),
            "{name} ended ({ended:?}) before it said \"{word}\":\n{}",
            self.text()
        );
    }

    fn said(&self, word: &str) -> bool {
        self.text().contains(word)
    }

    fn text(&self) -> String {
        read(&self.stdout) + &read(&self.stderr)
    }

    /// What it printed so far to standard output.
    pub(crate) fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it printed so far to standard error.
    pub(crate) fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// The process's id in the lab.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child
            .try_wait()
            .expect("the state of a child process")
            .is_none()
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn stop(mut self, signal: Signal) -> Ended {
        assert!(
            self.runs(),
            "{} had ended already:\n{}",
            self.name,
            self.text()
        );
        self.signal(signal);
        self.wait()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let signal = match signal {
            Signal::Hup => "HUP",
            Signal::Int => "INT",
            Signal::Kill => "KILL",
            Signal::Quit => "QUIT",
            Signal::Term => "TERM",
            Signal::Usr1 => "USR1",
            Signal::Usr2 => "USR2",
        };
        self.signal_named(signal);
    }

    /// Sends the signal of that name, without SIG, or number.
    pub(crate) fn signal_named(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.id());
        let killed = Command::new("sh").args(["-c", &kill]).status();
        assert!(
            killed.is_ok_and(|status| status.success()),
            "{kill}: {}",
            self.name
        );
    }

    /// Waits for the end.
    pub(crate) fn wait(mut self) -> Ended {
        let mut status = None;
        wait_until(&format!("the end of {}", self.name), || {
            status = self.child.try_wait().expect("the state of a child process");
            status.is_some()
        });
        Ended {
            status: status.expect("a program that has ended"),
            stdout: self.stdout(),
            stderr: self.stderr(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where it has ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).expect("a log file")).into_owned()
}
