//! What an operator changes at run time.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use log::{error, info};

use super::command::{Reply, Request};
use super::events::{EventKind, Happening};
use super::host::Host;
use super::overlay::{Action, Author, BackendName, Change, ChangeError, Overlay};
use super::pending::{Pending, Then};
use super::{Control, State};
use crate::director::VipIndex;

/// How soon it is tried again to take an override back.
const EXPIRY_RETRY: Duration = Duration::from_secs(10);

type Answer = Reply<Result<u64, ChangeError>>;

impl<H: Host> Control<H> {
    pub(super) fn begin_request(&mut self, request: Request) {
        match request {
            Request::Change { change, by, reply } => self.change(&change, &by, reply),
            Request::Health(reports) => self.take_reports(&reports),
            Request::Told { told, reply } => reply.send(self.take_told(told)),
            Request::ClearOverrides { by, reply } => self.clear_overrides(&by, reply),
        }
    }

    fn change(&mut self, change: &Change, by: &Author, reply: Answer) {
        let overlay = match self.checked(change, by) {
            Ok(overlay) => overlay,
            Err(error) => return reply.send(Err(error)),
        };
        let name = &change.backend;
        let text = match overlay.of(name) {
            Some(set) => format!("{name}: {set} by {by}"),
            None => format!("{name}: as in the file again, by {by}"),
        };
        let same_backends = matches!(change.action, Action::Edit(_))
            || self
                .state
                .overlay
                .of(name)
                .is_some_and(|set| set.present.is_none())
                && change.action == Action::Clear;
        let changed = same_backends.then(|| name.clone());
        let refused = match change.action {
            Action::Add(_) => self.host.refuse(&overlay.applied(&self.state.config)),
            Action::Edit(_) | Action::Remove | Action::Clear => Ok(()),
        };
        match refused.and_then(|()| self.replace_overlay(overlay, changed.as_ref())) {
            Ok(epoch) => {
                info!("{text}");
                self.events.tell(Happening {
                    vip: Some(name.vip.clone()),
                    backend: Some(name.address),
                    by: Some(by.clone()),
                    ..Happening::new(EventKind::OverrideSet, text)
                });
                let then = Then::Answer(self.generation, reply);
                self.pending.push_back(Pending::new(epoch, then));
            }
            Err(error) => reply.send(Err(ChangeError::Refused(format!("{error:#}")))),
        }
    }

    fn checked(&self, change: &Change, by: &Author) -> Result<Overlay, ChangeError> {
        if let Some(expected) = change.if_generation
            && expected != self.generation
        {
            let now = self.generation;
            return Err(ChangeError::Stale { expected, now });
        }
        let overlay = &self.state.overlay;
        overlay.changed(&self.state.config, change, by, SystemTime::now())
    }

    fn clear_overrides(&mut self, by: &Author, reply: Answer) {
        let ended: Vec<_> = self
            .state
            .overlay
            .iter()
            .map(|(name, _)| name.clone())
            .collect();
        match self.replace_overlay(Overlay::default(), None) {
            Ok(epoch) => {
                self.tell_ended(&ended, &format!("by {by}"));
                let then = Then::Answer(self.generation, reply);
                self.pending.push_back(Pending::new(epoch, then));
            }
            Err(error) => reply.send(Err(ChangeError::Refused(format!("{error:#}")))),
        }
    }

    /// Ends the overrides whose time is over.
    pub(super) fn expire_overrides(&mut self) {
        if self.until_override_ends() != Some(Duration::ZERO) {
            return;
        }
        let (overlay, ended) = self.state.overlay.expired(SystemTime::now());
        match self.replace_overlay(overlay, None) {
            Ok(epoch) => {
                self.tell_ended(&ended, "its time is over");
                self.pending.push_back(Pending::new(epoch, Then::Rest));
            }
            Err(error) => {
                error!("cannot end expired overrides yet: {error:#}");
                self.no_expiry_before = Instant::now() + EXPIRY_RETRY;
            }
        }
    }

    /// How long until the next override expires; `None` without one, or while a change is under way, which comes first.
    pub(super) fn until_override_ends(&self) -> Option<Duration> {
        let end = self.state.overlay.next_end()?;
        let left = end.duration_since(SystemTime::now()).unwrap_or_default();
        let held_off = self
            .no_expiry_before
            .saturating_duration_since(Instant::now());
        self.pending.is_empty().then(|| left.max(held_off))
    }

    fn tell_ended(&self, ended: &[BackendName], why: &str) {
        for name in ended {
            let text = format!("{name}: as in the file again, {why}");
            info!("{text}");
            self.events.tell(Happening {
                vip: Some(name.vip.clone()),
                backend: Some(name.address),
                ..Happening::new(EventKind::OverrideEnded, text)
            });
        }
    }

    /// Publishes another overlay. Where it has the same backends as before and one of them alone is `changed`, at
    /// the cost of its VIP.
    fn replace_overlay(
        &mut self,
        overlay: Overlay,
        changed: Option<&BackendName>,
    ) -> anyhow::Result<u64> {
        let effective = overlay.applied(&self.state.config);
        let mut paths = Arc::clone(&self.state.paths);
        if changed.is_none() {
            self.host.complete(&effective, Arc::make_mut(&mut paths))?;
        }
        let state = State {
            config: Arc::clone(&self.state.config),
            overlay: Arc::new(overlay),
            measured: Arc::new(self.state.measured.followed(&effective)),
            slow_starts: Arc::new(self.state.slow_starts.followed(&effective)),
            effective: Arc::new(effective),
            paths,
        };
        let index = changed.and_then(|name| self.index_of(&name.vip));
        let longest = self.host.device_mtu();
        let epoch = self.publish(&state, index.as_ref().map(std::slice::from_ref), longest)?;
        self.state = state;
        self.generation += 1;
        self.measure();
        self.show();
        Ok(epoch)
    }

    fn index_of(&self, vip: &str) -> Option<VipIndex> {
        let current = self.publisher.current().load();
        let vips = current.snapshot.vips();
        Some(vips.iter().find(|known| known.name == vip)?.index)
    }
}
