//! Reload: another configuration for a running director. All that can be refused is refused before
//! anything changes; what the kernel refuses halfway is taken back.
//!
//! The order keeps every packet of a VIP that stays: workers first forward by the new snapshot, which
//! knows every VIP that gets a route, and have room for its packets; then routes and MTU follow.

use std::sync::Arc;
use std::time::SystemTime;

use log::{error, info, warn};

use super::command::{DryRun, KeepOverrides, Refused, Reload, ReloadOptions, Reloaded, Reply};
use super::events::{EventKind, Happening};
use super::host::{Host, Wanted};
use super::overlay::{Author, Overlay};
use super::pending::{Pending, Then};
use super::view::LastReload;
use super::{Control, State};
use crate::config::{Config, Difference};
use crate::director::VipSpec;
use crate::site::NAMED;
use crate::text::count;

/// For a client; a signal has none.
type Answer = Option<Reply<Result<Reloaded, Refused>>>;

/// What is to be, found possible.
#[derive(Debug)]
struct Plan {
    state: State,
    wanted: Wanted,
    changes: Vec<String>,
    overrides_ended: Vec<String>,
}

/// Another configuration that the workers forward by, and that the host is to follow.
#[derive(Debug)]
pub(super) struct Following {
    plan: Plan,
    by: Option<Author>,
    reply: Answer,
}

impl<H: Host> Control<H> {
    pub(super) fn begin_reload(&mut self, reload: Reload) {
        let Reload {
            read,
            options,
            by,
            reply,
        } = reload;
        let planned = read
            .map_err(Refused::from)
            .and_then(|config| self.plan(config, options));
        match (planned, options.dry_run) {
            (Ok(plan), DryRun::Yes) => {
                let told = plan.told(self.generation);
                reply
                    .into_iter()
                    .for_each(|reply| reply.send(Ok(told.clone())));
            }
            (Err(refused), DryRun::Yes) => {
                reply
                    .into_iter()
                    .for_each(|reply| reply.send(Err(refused.clone())));
            }
            (Ok(plan), DryRun::No) => self.begin_following(Following { plan, by, reply }),
            (Err(refused), DryRun::No) => self.refuse(refused, reply),
        }
    }

    /// What would be by that configuration. Nothing is changed.
    fn plan(&mut self, config: Config, options: ReloadOptions) -> Result<Plan, Refused> {
        let fixed = self.state.config.restart_needed(&config);
        if !fixed.is_empty() {
            let problems = fixed.iter().map(ToString::to_string).collect();
            return Err(Refused { problems });
        }
        self.host.refuse(&config)?;
        let (overlay, overrides_ended) = match options.overrides {
            KeepOverrides::Yes => self.state.overlay.rebased(&self.state.config, &config),
            KeepOverrides::No => {
                let all = self.state.overlay.iter();
                let all = all.map(|(name, set)| format!("{name}: {set}: dropped"));
                (Overlay::default(), all.collect())
            }
        };
        let effective = overlay.applied(&config);
        let paths = self.host.paths(&effective)?;
        let wanted = Wanted::new(&effective, &paths)?;
        let changes = self.state.config.differences(&config);
        Ok(Plan {
            state: State {
                config: Arc::new(config),
                overlay: Arc::new(overlay),
                measured: Arc::new(self.state.measured.followed(&effective)),
                slow_starts: Arc::new(self.state.slow_starts.followed(&effective)),
                effective: Arc::new(effective),
                paths: Arc::new(paths),
            },
            wanted,
            changes: changes.iter().map(Difference::to_string).collect(),
            overrides_ended,
        })
    }

    fn begin_following(&mut self, following: Following) {
        for warning in following.plan.state.config.warnings() {
            warn!("{warning}");
        }
        let longest = self.host.device_mtu().max(following.plan.wanted.mtu);
        match self.publish(&following.plan.state, None, longest) {
            Ok(epoch) => {
                let then = Then::Follow(Box::new(following));
                self.pending.push_back(Pending::new(epoch, then));
            }
            Err(error) => self.refuse(error.into(), following.reply),
        }
    }

    /// The workers forward by it: the host follows.
    pub(super) fn follow(&mut self, following: Following) {
        let Following { plan, by, reply } = following;
        let state = &plan.state;
        let host = &mut self.host;
        let followed = host
            .prepare(&state.effective, &state.paths, &plan.wanted)
            .and_then(|()| host.lead(&plan.wanted))
            .and_then(|restored| host.answer(&state.effective).map(|()| restored));
        match followed {
            Ok(restored) => {
                self.tell_restored(restored);
                self.accept(plan, by, reply);
            }
            Err(error) => self.take_back(error.into(), reply),
        }
    }

    fn accept(&mut self, plan: Plan, by: Option<Author>, reply: Answer) {
        self.generation += 1;
        let told = plan.told(self.generation);
        self.state = plan.state;
        self.loaded = SystemTime::now();
        self.last_reload = Some(LastReload {
            at: self.loaded,
            problems: Vec::new(),
        });
        self.look_for_problems();
        self.measure();
        self.show();
        let line = said(&told.changes);
        info!("reloaded: {line}; {}", self.summary());
        for ended in &told.overrides_ended {
            info!("override ended: {ended}");
            self.events
                .tell(Happening::new(EventKind::OverrideEnded, ended.clone()));
        }
        self.events.tell(Happening {
            by,
            ..Happening::new(EventKind::Reloaded, line)
        });
        if let Some(reply) = reply {
            reply.send(Ok(told));
        }
    }

    /// Says why the old configuration stays.
    pub(super) fn refuse(&mut self, refused: Refused, reply: Answer) {
        let text = refused.problems.join("\n");
        error!("reload refused, the old configuration stays: {text}");
        self.last_reload = Some(LastReload {
            at: SystemTime::now(),
            problems: refused.problems.clone(),
        });
        self.show();
        self.events
            .tell(Happening::new(EventKind::ReloadRefused, text));
        if let Some(reply) = reply {
            reply.send(Err(refused));
        }
    }

    /// Back to the configuration that holds, as far as the kernel lets us.
    fn take_back(&mut self, refused: Refused, reply: Answer) {
        let state = self.state.clone();
        let longest = self.host.device_mtu();
        match self.publish(&state, None, longest) {
            Ok(epoch) => {
                let then = Then::Refuse(refused, reply);
                self.pending.push_back(Pending::new(epoch, then));
            }
            Err(error) => {
                error!("cannot undo everything: {error:#}");
                self.refuse(refused, reply);
            }
        }
    }

    /// The workers forward by what holds again: the host follows, and the client hears.
    pub(super) fn taken_back(&mut self, refused: Refused, reply: Answer) {
        let state = self.state.clone();
        let back = Wanted::new(&state.effective, &state.paths)
            .and_then(|wanted| self.host.lead(&wanted))
            .and_then(|_| self.host.answer(&state.effective));
        if let Err(error) = back {
            error!("cannot undo everything: {error:#}");
        }
        self.refuse(refused, reply);
    }

    /// What holds, and why the last reload was refused, where it was.
    #[must_use]
    pub fn status(&self) -> String {
        let summary = self.summary();
        let last = self.last_reload.as_ref();
        match last.and_then(|last| last.problems.first()) {
            Some(problem) => format!("{summary}; the last reload was refused: {problem}"),
            None => summary,
        }
    }

    /// Says that packets flow; scripts wait for the word "forwarding".
    #[must_use]
    pub fn summary(&self) -> String {
        let config = &self.state.effective;
        let backends: usize = config.vips.iter().map(|vip| vip.backends.len()).sum();
        let vips = match config.vips.as_slice() {
            many if many.len() > NAMED => count(many.len(), "VIP"),
            few => names(few),
        };
        let backends = count(backends, "backend");
        let workers = count(config.director.workers.get(), "worker");
        let mtu = self.host.device_mtu();
        let tun = &config.director.tun;
        format!("{tun}: forwarding {vips} to {backends}, {workers}, MTU {mtu}")
    }
}

impl Plan {
    fn told(&self, generation: u64) -> Reloaded {
        Reloaded {
            generation,
            changes: self.changes.clone(),
            overrides_ended: self.overrides_ended.clone(),
        }
    }
}

fn names(vips: &[VipSpec]) -> String {
    let names: Vec<_> = vips.iter().map(|vip| vip.name.as_str()).collect();
    names.join(", ")
}

/// In one line of bounded length.
fn said(changes: &[String]) -> String {
    if changes.is_empty() {
        return "nothing changed".to_owned();
    }
    let named = changes.iter().take(NAMED).cloned();
    let more = changes.len().saturating_sub(NAMED);
    let more = (more > 0).then(|| count(more, "more change"));
    named.chain(more).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_named_up_to_a_bound() {
        let config = |backends: std::ops::Range<u8>| {
            let backends: String = backends
                .map(|n| format!("[[vip.backend]]\naddress = \"10.0.1.{n}\"\n"))
                .collect();
            let vip = "[[vip]]\nname = \"web\"\naddress = \"10.0.0.100\"\n";
            Config::parse("f", &format!("{vip}{backends}")).unwrap()
        };
        let said = |new| {
            let changes = config(1..2).differences(&config(new));
            said(&changes.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(said(1..2), "nothing changed");
        assert_eq!(said(1..3), "vip web: backend 10.0.1.2: added");
        assert!(said(1..10).ends_with("backend 10.0.1.9: added"));
        assert!(said(1..11).ends_with("backend 10.0.1.9: added; 1 more change"));
        assert!(said(1..251).ends_with("; 241 more changes"));
        assert!(said(1..251).len() < 400);
    }
}
