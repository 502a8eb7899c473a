//! What the kernel has becomes what the configuration says, again and again: what others remove or change of it is
//! restored, and ways that changed are followed.

use std::net::IpAddr;
use std::sync::Arc;

use log::{error, info, warn};

use super::events::{EventKind, Happening};
use super::health::SUSPICION;
use super::host::{Host, Wanted};
use super::pending::{Pending, Then};
use super::view::HostProblem;
use super::{Control, State};
use crate::site::{NAMED, Paths};

impl<H: Host> Control<H> {
    pub(super) fn begin_converging(&mut self) {
        let again = self
            .host
            .paths_again(&self.state.effective, &self.state.paths);
        let (published, unusable) = match again {
            Ok((paths, unusable)) => (self.follow_paths(paths), unusable),
            Err(error) => {
                warn!("cannot look up the ways to backends: {error:#}");
                (None, Vec::new())
            }
        };
        match published {
            Some(epoch) => {
                let then = Then::Restore(unusable);
                self.pending.push_back(Pending::new(epoch, then));
            }
            None => self.restore(&unusable),
        }
    }

    /// Packets take the ways that there are now. The epoch from which on they do, where anything was published.
    fn follow_paths(&mut self, paths: Paths) -> Option<u64> {
        if *self.state.paths == paths {
            return None;
        }
        let differences = self.state.paths.differences(&paths);
        let state = State {
            paths: Arc::new(paths),
            ..self.state.clone()
        };
        let longest = state.paths.longest_packet(&state.effective.director.tun);
        let longest = self.host.device_mtu().max(longest);
        let mut published = None;
        if !differences.is_empty() || self.publisher.longest() < longest as usize {
            match self.publish(&state, None, longest) {
                Ok(epoch) => published = Some(epoch),
                Err(error) => {
                    error!("cannot follow a change of ways: {error:#}");
                    return None;
                }
            }
            self.generation += 1;
        } // else only devices that no backend is reached by, or addresses
        self.state = state;
        self.measure();
        self.tell_paths(&differences);
        published
    }

    fn tell_paths(&self, differences: &[(IpAddr, String)]) {
        for (backend, text) in differences.iter().take(NAMED) {
            let line = format!("backend {backend}: {text}");
            info!("{line}");
            self.events.tell(Happening {
                backend: Some(*backend),
                ..Happening::new(EventKind::PathChanged, line)
            });
        }
        let more = differences.len().saturating_sub(NAMED);
        if more > 0 {
            info!("the ways to {more} more backends changed, too");
        }
    }

    /// What others removed or changed of the VIPs' way into the TUN is so again. The workers have room for what then
    /// comes in. `unusable` are the ways that cannot be followed.
    pub(super) fn restore(&mut self, unusable: &[String]) {
        let state = self.state.clone();
        let wanted = Wanted::new(&state.effective, &state.paths);
        let restored = wanted.and_then(|wanted| self.host.lead(&wanted));
        match restored {
            Ok(restored) => self.tell_restored(restored),
            Err(error) => error!("cannot restore what others changed: {error:#}"),
        }
        self.replace_problems(unusable);
        self.show();
    }

    pub(super) fn tell_restored(&self, restored: Vec<String>) {
        for line in restored {
            warn!("{line}");
            self.events.tell(Happening::new(EventKind::Restored, line));
        }
    }

    /// Looks for what keeps packets from their way.
    pub(super) fn look_for_problems(&mut self) {
        self.replace_problems(&[]);
    }

    fn replace_problems(&mut self, unusable: &[String]) {
        let mut found = self.host.problems(&self.state.effective);
        found.extend(unusable.iter().map(|text| HostProblem {
            what: format!("path {text}"),
            text: text.clone(),
            keeps_from_work: false,
        }));
        found.extend(self.state.measured.suspicion());
        self.compare_problems(found);
    }

    /// Of what keeps packets from their way, only what probes found is different.
    pub(super) fn follow_suspicion(&mut self) {
        let others = self.problems.iter();
        let others = others.filter(|problem| problem.what != SUSPICION).cloned();
        let found = others.chain(self.state.measured.suspicion()).collect();
        self.compare_problems(found);
    }

    fn compare_problems(&mut self, found: Vec<HostProblem>) {
        let before = Arc::clone(&self.problems);
        let is_new = |problem: &&HostProblem| before.iter().all(|known| known.what != problem.what);
        for problem in found.iter().filter(is_new) {
            error!("{}", problem.text);
            self.events
                .tell(Happening::new(EventKind::HostProblem, problem.text.clone()));
        }
        let is_over = |known: &&HostProblem| found.iter().all(|problem| problem.what != known.what);
        for known in before.iter().filter(is_over) {
            let line = format!("{}: no problem any more", known.what);
            info!("{line}");
            self.events
                .tell(Happening::new(EventKind::HostRecovered, line));
        }
        self.problems = found.into();
    }
}
