//! What each signal means to a command that runs until it is stopped: none ends the process before it has
//! undone what it set up.
//!
//! Not heard are those that cannot be (SIGKILL, SIGSTOP), those that the kernel ignores anyway or that are
//! for job control, and those by which the kernel tells of a fault of this very process (SIGSEGV, SIGBUS,
//! SIGILL, SIGFPE), behind which it cannot go on: for these there is the undo journal.

use signal_hook::consts::{
    SIGABRT, SIGBUS, SIGCHLD, SIGCONT, SIGFPE, SIGHUP, SIGILL, SIGINT, SIGKILL, SIGPIPE, SIGQUIT,
    SIGSEGV, SIGSTOP, SIGSYS, SIGTERM, SIGTRAP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGUSR1,
    SIGWINCH, SIGXCPU,
};
use signal_hook::low_level::signal_name;

/// SIGPIPE is ignored by Rust's runtime from the start; heard, each line for a closed log would make one.
const NOT_HEARD: [i32; 14] = [
    SIGKILL, SIGSTOP, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGPIPE, SIGCHLD, SIGURG, SIGWINCH, SIGCONT,
    SIGTSTP, SIGTTIN, SIGTTOU,
];

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// To undo everything and end.
    Stop,
    /// To read the configuration again.
    Reload,
    /// To print what was done so far.
    Totals,
    /// Nothing: it is only kept from ending the process.
    Nothing,
}

/// The numbers of all signals to hear.
pub fn heard() -> impl Iterator<Item = i32> {
    // Between the two ranges are those that the C library keeps to itself.
    let standard = (1..32).filter(|signal| !NOT_HEARD.contains(signal));
    standard.chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
}

/// What a signal asks for, by its number.
#[must_use]
pub const fn meaning(signal: i32) -> Meaning {
    match signal {
        SIGINT | SIGTERM | SIGQUIT | SIGABRT | SIGTRAP | SIGSYS | SIGXCPU => Meaning::Stop,
        SIGHUP => Meaning::Reload,
        SIGUSR1 => Meaning::Totals,
        _ => Meaning::Nothing,
    }
}

/// A signal's name, such as `SIGTERM`; of one without, its number.
#[must_use]
pub fn name(signal: i32) -> String {
    let first = libc::SIGRTMIN();
    match (signal_name(signal), signal) {
        (Some(name), _) => name.to_owned(),
        (None, libc::SIGPWR) => "SIGPWR".to_owned(),
        (None, _) if signal >= first => format!("SIGRTMIN+{}", signal - first),
        (None, _) => format!("signal {signal}"),
    }
}

/// Says once of each signal that it means nothing: a flood of them, or one that a line in the log brings
/// about itself (SIGXFSZ), must not fill the log.
#[derive(Debug, Default)]
pub struct Ignored(std::collections::BTreeSet<i32>);

impl Ignored {
    /// Takes one down.
    pub fn note(&mut self, signal: i32) {
        if self.0.insert(signal) {
            log::info!("{} means nothing here (said once)", name(signal));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_heard_that_could_end_the_process() {
        let heard: Vec<_> = heard().collect();
        for signal in [SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGTERM, SIGXCPU] {
            assert!(heard.contains(&signal), "{signal}");
        }
        for signal in [libc::SIGPROF, libc::SIGIO, libc::SIGPWR, libc::SIGXFSZ] {
            assert!(heard.contains(&signal), "{signal}");
            assert_eq!(meaning(signal), Meaning::Nothing);
        }
        assert!(heard.contains(&libc::SIGRTMAX()));
        assert!(!heard.contains(&SIGKILL) && !heard.contains(&SIGTSTP));
    }

    #[test]
    fn names() {
        assert_eq!(name(SIGTERM), "SIGTERM");
        assert_eq!(name(libc::SIGPWR), "SIGPWR");
        assert_eq!(name(libc::SIGRTMIN() + 3), "SIGRTMIN+3");
    }
}
