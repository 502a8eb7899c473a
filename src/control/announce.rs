//! Whether routers are to send packets of a VIP's address to this director: up, drain or down. Computed from health, from
//! what operators want and from whether the director can do its work; whoever announces goes by it.
//!
//! An address is as the best of its VIPs: as long as one of them can serve, packets are to come.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use log::{info, warn};

use super::events::{EventKind, Happening};
use super::health::measured_by;
use super::host::Host;
use super::{Control, State};
use crate::director::{BackendState, Capacity, Health, VipSpec};
use crate::site::NAMED;

/// How long an address that is new waits for the first results of its probes; then what they will find is taken for
/// good, as packets are.
const WAIT: Duration = Duration::from_secs(10);

/// What routers are to be told of an address, the best last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Announce {
    /// It cannot serve: others are to be preferred, whatever they are.
    Down,
    /// It serves the flows that it has, and operators want no new ones.
    Drain,
    /// It can serve.
    Up,
}

impl Announce {
    /// The word in every output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Drain => "drain",
            Self::Up => "up",
        }
    }
}

impl fmt::Display for Announce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What holds of one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// What routers are to be told.
    pub state: Announce,
    /// Why it is not up.
    pub why: Option<String>,
    /// Since when it is so.
    pub since: SystemTime,
    /// Until when it waits for first results.
    waits_until: Option<Instant>,
}

#[cfg(test)]
impl Announced {
    /// One that is so for ever.
    pub(crate) const fn of(state: Announce) -> Self {
        Self {
            state,
            why: None,
            since: SystemTime::UNIX_EPOCH,
            waits_until: None,
        }
    }
}

/// By the addresses of VIPs.
pub type Announcements = BTreeMap<IpAddr, Announced>;

/// A state and why it is not better.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Judgement {
    state: Announce,
    why: Option<String>,
    /// Whether it would be up if backends that were not probed yet counted.
    waits: bool,
}

impl Judgement {
    const UP: Self = Self {
        state: Announce::Up,
        why: None,
        waits: false,
    };

    fn new(state: Announce, why: impl Into<String>) -> Self {
        Self {
            state,
            why: Some(why.into()),
            waits: false,
        }
    }
}

impl State {
    /// What one VIP says of its address. Where it `waits`, backends that were not probed yet do not count.
    fn judge(&self, vip: &VipSpec, waits: bool) -> Judgement {
        let trusting = self.capacity(vip, |_| false);
        if trusting.wanted == 0 {
            let serves = |state| matches!(state, BackendState::Active | BackendState::Draining);
            let some = vip.backends.iter().any(|backend| serves(backend.state));
            return if some {
                Judgement::new(Announce::Drain, "every backend is draining or has weight 0")
            } else {
                Judgement::new(Announce::Down, "every backend is disabled")
            };
        }
        let judged = judge_capacity(vip, trusting);
        if !waits || judged.state != Announce::Up {
            return judged;
        }
        let proven = self.capacity(vip, |address| self.is_untested(vip, address));
        if judge_capacity(vip, proven).state == Announce::Up {
            return judged;
        }
        Judgement {
            waits: true,
            ..Judgement::new(Announce::Down, "waits for the first results of its probes")
        }
    }

    fn capacity(&self, vip: &VipSpec, is_down: impl Fn(IpAddr) -> bool) -> Capacity {
        Capacity::of(vip, |vip, address| {
            if is_down(address) {
                Health::Unhealthy
            } else {
                self.health(vip, address)
            }
        })
    }

    fn is_untested(&self, vip: &VipSpec, address: IpAddr) -> bool {
        self.measured.is_untested(vip, address) && self.overlay.health(&vip.name, address).is_none()
    }
}

fn judge_capacity(vip: &VipSpec, capacity: Capacity) -> Judgement {
    match capacity.healthy {
        0 => Judgement::new(Announce::Down, "no backend is healthy"),
        _ if !capacity.is_enough(vip) => {
            let why = format!("less than {} % is healthy (min_healthy)", vip.min_healthy);
            Judgement::new(Announce::Down, why)
        }
        _ => Judgement::UP,
    }
}

/// What is announced after a change of `state`; VIPs that did not change keep what they had.
fn next(
    state: &State,
    before: &Announcements,
    not_ready: Option<&str>,
    concerned: impl Fn(&VipSpec) -> bool,
    now: Instant,
) -> Announcements {
    let mut by_address: BTreeMap<IpAddr, Vec<&VipSpec>> = BTreeMap::new();
    for vip in &state.effective.vips {
        by_address.entry(vip.address).or_default().push(vip);
    }
    let announced = by_address.into_iter().map(|(address, vips)| {
        let known = before.get(&address);
        if let Some(known) = known
            && !vips.iter().any(|vip| concerned(vip))
        {
            return (address, known.clone());
        }
        let deadline = known.map_or(Some(now + WAIT), |known| known.waits_until);
        let deadline = deadline.filter(|deadline| *deadline > now);
        let judged = match not_ready {
            Some(why) => Judgement::new(Announce::Down, why),
            None => best(state, &vips, deadline.is_some()),
        };
        let since = known.filter(|known| known.state == judged.state);
        let since = since.map_or_else(SystemTime::now, |known| known.since);
        let announced = Announced {
            // It waits once: a check that begins anew by a reload takes nothing down.
            waits_until: deadline.filter(|_| judged.waits || not_ready.is_some()),
            state: judged.state,
            why: judged.why,
            since,
        };
        (address, announced)
    });
    announced.collect()
}

fn best(state: &State, vips: &[&VipSpec], waits: bool) -> Judgement {
    let mut best: Option<Judgement> = None;
    for vip in vips {
        let judged = state.judge(vip, waits);
        let rank = |judged: &Judgement| (judged.state, judged.waits);
        if best.as_ref().is_none_or(|best| rank(best) < rank(&judged)) {
            best = Some(judged);
        }
    }
    best.unwrap_or(Judgement::UP)
}

impl<H: Host> Control<H> {
    /// Judges the addresses of those VIPs anew, or of all.
    pub(super) fn judge_addresses(&mut self, measured: Option<&BTreeSet<&str>>) {
        let before = Arc::clone(&self.announced);
        let problems = self.problems.iter();
        let not_ready = problems
            .filter(|problem| problem.keeps_from_work)
            .map(|problem| format!("the director is not ready: {}", problem.text))
            .next();
        let concerned = |vip: &VipSpec| {
            let name = vip
                .probing
                .as_ref()
                .map(|probing| measured_by(vip, probing));
            measured.is_none_or(|names| name.is_some_and(|name| names.contains(name)))
        };
        let now = Instant::now();
        let announced = next(&self.state, &before, not_ready.as_deref(), concerned, now);
        if announced != *before {
            self.announced = Arc::new(announced);
            self.tell_announced(&before);
        }
    }

    /// How long the next address waits for first results.
    pub(super) fn until_wait_ends(&self) -> Option<Duration> {
        let ends = self
            .announced
            .values()
            .filter_map(|known| known.waits_until);
        let end = ends.min()?;
        Some(end.saturating_duration_since(Instant::now()))
    }

    /// What waited long enough for first results is announced without.
    pub(super) fn end_waits(&mut self) {
        if self.until_wait_ends() == Some(Duration::ZERO) {
            self.show();
        }
    }

    fn tell_announced(&self, before: &Announcements) {
        let changed = self.announced.iter().filter(|(address, now)| {
            before
                .get(*address)
                .is_some_and(|before| before.state != now.state)
        });
        let changed: Vec<_> = changed.collect();
        for (address, now) in changed.iter().take(NAMED) {
            let why = now.why.iter().map(|why| format!(": {why}"));
            let text = format!(
                "address {address}: {}{}",
                now.state,
                why.collect::<String>()
            );
            match now.state {
                Announce::Up => info!("{text}"),
                Announce::Drain | Announce::Down => warn!("{text}"),
            }
            let vips = &self.state.effective.vips;
            let vip = vips.iter().find(|vip| vip.address == **address);
            self.events.tell(Happening {
                vip: vip.map(|vip| vip.name.clone()),
                ..Happening::new(EventKind::AnnounceChanged, text)
            });
        }
        let more = changed.len().saturating_sub(NAMED);
        if more > 0 {
            let text = format!("what is to be announced of {more} more addresses changed, too");
            info!("{text}");
            self.events
                .tell(Happening::new(EventKind::AnnounceChanged, text));
        }
    }
}

#[cfg(test)]
mod tests;
