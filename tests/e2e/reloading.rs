//! A director that runs from a file, and the file that changes under it.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use crate::lab::{Lab, wait_until};
use crate::process::Signal;
use crate::site::{Director, Site};

const ACCEPTED: &str = "reloaded: ";
const REFUSED: &str = "reload refused, the old configuration stays: ";

/// A director that runs from a file.
pub(crate) struct Reloading {
    pub(crate) director: Director,
    pub(crate) path: PathBuf,
}

impl Reloading {
    pub(crate) fn start(lab: &Lab, site: &Site, config: &str) -> Self {
        let path = lab.file("tunlb.toml", config);
        let director = site.run(&["-c", &path.display().to_string()]);
        Self { director, path }
    }

    /// Rewrites the file, which the director must take; returns what it said.
    pub(crate) fn accept(&mut self, config: &str) -> String {
        self.write(config);
        let answer = self.reload();
        assert!(answer.contains(ACCEPTED), "not taken: {answer}\n{config}");
        answer
    }

    /// Rewrites the file, which the director must refuse; returns what it said.
    pub(crate) fn refuse(&mut self, config: &str) -> String {
        self.write(config);
        self.refuse_as_is()
    }

    /// Has the director read what is there now, and refuse it; returns what it said.
    pub(crate) fn refuse_as_is(&mut self) -> String {
        let answer = self.reload();
        assert!(answer.contains(REFUSED), "not refused: {answer}");
        answer
    }

    fn write(&self, config: &str) {
        fs::write(&self.path, config).expect("the director's file");
    }

    /// Has the director read the file; returns what it said.
    fn reload(&mut self) -> String {
        let process = &mut self.director.0;
        let before = process.stderr().len();
        process.signal(Signal::Hup);
        let mut answer = String::new();
        wait_until("an answer to SIGHUP", || {
            assert!(process.runs(), "ended by SIGHUP: {}", process.stderr());
            answer = process.stderr()[before..].to_owned();
            [ACCEPTED, REFUSED].iter().any(|word| answer.contains(word)) && answer.ends_with('\n')
        });
        answer
    }

    /// What the director said so far.
    pub(crate) fn log(&self) -> String {
        self.director.0.stderr()
    }
}

/// A `[[vip]]` section: name, address, port, protocol, and more keys; then backends, each with its
/// address and more keys.
pub(crate) fn vip(
    [name, address, port, protocol, more]: [&str; 5],
    backends: &[(&str, &str)],
) -> String {
    let mut text = format!(
        "[[vip]]\nname = \"{name}\"\naddress = \"{address}\"\nport = {port}\n\
         protocol = \"{protocol}\"\n{more}\n"
    );
    for (address, more) in backends {
        write!(text, "[[vip.backend]]\naddress = \"{address}\"\n{more}\n")
            .expect("a string takes everything");
    }
    text
}
