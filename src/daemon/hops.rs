//! The thread that keeps next hops current: it looks them up when the kernel says that a way changed, when
//! another snapshot is published, and asks the kernel to confirm the neighbours that are in use, since packets
//! that bypass its neighbour tables do not.

use std::fs;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use log::{debug, warn};
use mio::event::Source;
use mio::{Events, Interest, Poll, Registry, Token, Waker};

use super::ways::{self, Obstacles, Policy, Ways};
use crate::control::published::Current;
use crate::director::Snapshot;
use crate::doctor::gather;
use crate::io::egress::Hops;
use crate::io::netlink::{Drained, Monitor, Netlink, NetlinkError, PolicyTopic, Topic};
use crate::io::next_hop::{self, Resolved};

/// Where workers find the hops that hold.
pub(super) type CurrentHops = Arc<ArcSwap<Hops>>;

const CHANGES: Token = Token(0);
const POLICIES: Token = Token(1);
const WAKE: Token = Token(2);

/// How often neighbours in use are confirmed. The kernel takes one that it has not heard of for stale after 15
/// seconds at the earliest (`base_reachable_time_ms` / 2), so each is asked at most this often.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(5);

/// Changes that come within this time are looked up together; longer where a look-up takes long, so that
/// the thread waits most of the time.
const SETTLING: Duration = Duration::from_millis(20);
const LONGEST_SETTLING: Duration = Duration::from_millis(400);

/// Filters and policies are read again after a change, and at most this often.
const POLICY_INTERVAL: Duration = Duration::from_secs(2);

/// Of rules that no event tells of, legacy iptables', they are read again this often.
const LEGACY_INTERVAL: Duration = Duration::from_secs(30);

/// Control's end of the thread.
#[derive(Debug)]
pub(super) struct HopWatch {
    waker: Waker,
}

impl HopWatch {
    /// Another snapshot was published.
    pub(super) fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            debug!("cannot wake the thread of next hops: {error}");
        }
    }
}

/// Looks the hops up, and goes on to do so in a thread.
///
/// # Errors
/// The kernel's.
pub(super) fn watch(current: Current, hops: CurrentHops, policy: Policy) -> Result<HopWatch> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKE)?;
    let mut watcher = Watcher::new(current, hops, policy, poll.registry())?;
    watcher.look_up()?;
    let body = move || {
        if let Err(error) = watcher.run(poll) {
            watcher.hops.store(Arc::default());
            warn!("stopped watching next hops: {error:#}; all packets go by raw sockets");
        }
    };
    thread::Builder::new()
        .name("tunlb-hops".into())
        .spawn(body)
        .context("cannot start the thread of next hops")?;
    Ok(HopWatch { waker })
}

#[derive(Debug)]
struct Watcher {
    current: Current,
    hops: CurrentHops,
    policy: Policy,
    netlink: Netlink,
    monitor: Monitor,
    /// Where they matter.
    policies: Option<Policies>,
    /// What was looked up last, for which snapshot.
    resolved: Resolved,
    snapshot: Option<Arc<Snapshot>>,
    ways: Ways,
}

/// This host's filters and policies, and what tells that they changed.
#[derive(Debug)]
struct Policies {
    monitors: Vec<Monitor>,
    /// Whether the kernel tells of rules of nftables.
    watches_filters: bool,
    obstacles: Obstacles,
    read: Instant,
    /// How long the reading took.
    took: Duration,
    changed: bool,
}

impl Policies {
    fn watch(registry: &Registry, netlink: &mut Netlink) -> Result<Self> {
        let mut monitors = Vec::new();
        // To listen loads nftables into a kernel without, and who has no `nft` could then read no rules.
        let watches_filters = gather::may_have_nftables();
        let filters = watches_filters.then_some(PolicyTopic::Filters);
        for topic in filters.into_iter().chain([PolicyTopic::Ipsec]) {
            match Monitor::open_policies(topic) {
                Ok(mut monitor) => {
                    monitor.register(registry, POLICIES, Interest::READABLE)?;
                    monitors.push(monitor);
                }
                // A kernel without them.
                Err(error) => debug!("{topic:?}: {error}"),
            }
        }
        let read = Instant::now();
        Ok(Self {
            monitors,
            watches_filters,
            obstacles: Obstacles::read(netlink),
            read,
            took: read.elapsed(),
            changed: false,
        })
    }

    fn drain(&mut self) -> Result<(), NetlinkError> {
        for monitor in &mut self.monitors {
            self.changed |= drain(monitor)?;
        }
        Ok(())
    }

    /// When they are to be read again, from now on.
    fn due(&self) -> Option<Duration> {
        let interval = if self.changed {
            POLICY_INTERVAL.max(10 * self.took)
        } else if !self.watches_filters || has_legacy_tables() {
            LEGACY_INTERVAL
        } else {
            return None;
        };
        Some(interval.saturating_sub(self.read.elapsed()))
    }

    fn read_again(&mut self, netlink: &mut Netlink) {
        self.read = Instant::now();
        self.changed = false;
        self.obstacles = Obstacles::read(netlink);
        self.took = self.read.elapsed();
    }
}

/// Whether legacy iptables have a table in this network namespace.
fn has_legacy_tables() -> bool {
    ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"]
        .iter()
        .any(|path| fs::read(path).is_ok_and(|names| !names.is_empty()))
}

/// Whether anything changed.
fn drain(monitor: &mut Monitor) -> Result<bool, NetlinkError> {
    let mut changed = false;
    while monitor.drain(|_| changed = true)? == Drained::More {}
    Ok(changed)
}

impl Watcher {
    fn new(
        current: Current,
        hops: CurrentHops,
        policy: Policy,
        registry: &Registry,
    ) -> Result<Self> {
        let mut monitor =
            Monitor::open(&[Topic::Links, Topic::Addresses, Topic::Routes, Topic::Ways])?;
        monitor.register(registry, CHANGES, Interest::READABLE)?;
        let mut netlink = Netlink::open()?;
        let policies = match policy {
            Policy::Always(_) => None,
            Policy::Unfiltered(_) => Some(Policies::watch(registry, &mut netlink)?),
        };
        Ok(Self {
            current,
            hops,
            policy,
            netlink,
            monitor,
            policies,
            resolved: Resolved::default(),
            snapshot: None,
            ways: Ways::default(),
        })
    }

    fn run(&mut self, mut poll: Poll) -> Result<()> {
        let mut events = Events::with_capacity(4);
        let mut confirmed = Instant::now();
        let mut settling = SETTLING;
        loop {
            let wait = CONFIRM_INTERVAL.saturating_sub(confirmed.elapsed());
            let due = self.policies.as_ref().and_then(Policies::due);
            match poll.poll(&mut events, Some(wait.min(due.unwrap_or(wait)))) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(error.into());
                }
                _ => {}
            }
            let woken = events.iter().any(|event| event.token() == WAKE);
            let is_stale = self.read_policies()?;
            if drain(&mut self.monitor)? || woken || is_stale {
                thread::sleep(settling);
                drain(&mut self.monitor)?;
                let begun = Instant::now();
                self.look_up()?;
                settling = (4 * begun.elapsed()).clamp(SETTLING, LONGEST_SETTLING);
            }
            if confirmed.elapsed() >= CONFIRM_INTERVAL {
                confirmed = Instant::now();
                self.confirm();
            }
        }
    }

    /// Reads filters and policies again if that is due; true where it did.
    fn read_policies(&mut self) -> Result<bool> {
        let Some(policies) = &mut self.policies else {
            return Ok(false);
        };
        policies.drain()?;
        if policies.due() != Some(Duration::ZERO) {
            return Ok(false);
        }
        policies.read_again(&mut self.netlink);
        Ok(true)
    }

    /// Publishes the hops if they changed.
    fn look_up(&mut self) -> Result<()> {
        let snapshot = Arc::clone(&self.current.load().snapshot);
        let is_known = |known: &Arc<Snapshot>| Arc::ptr_eq(known, &snapshot);
        let is_new = !self.snapshot.as_ref().is_some_and(is_known);
        let traffic = ways::traffic(&snapshot);
        let (by, far_ends) = (self.policy.direct(), ways::far_ends(&traffic));
        self.resolved = next_hop::resolve(&far_ends, by, &mut self.netlink)?;
        let obstacles = self.policies.as_mut().map(|policies| {
            if is_new {
                policies.obstacles.forget();
            }
            policies.obstacles.read_queueing(&mut self.netlink);
            &mut policies.obstacles
        });
        let ways = Ways::choose(&self.resolved, &traffic, obstacles);
        if ways != self.ways {
            ways.log();
            self.hops.store(Arc::new(ways.hops.clone()));
            self.ways = ways;
        }
        self.snapshot = Some(snapshot);
        Ok(())
    }

    fn confirm(&mut self) {
        for &(link, address) in &self.resolved.neighbours {
            if let Err(error) = self.netlink.use_neighbour(link, address) {
                debug!("cannot confirm neighbour {address}: {error}");
            }
        }
    }
}
