//! The thread that keeps next hops current: it looks them up when the kernel says that a way changed, when
//! another snapshot is published, and asks the kernel to confirm the neighbours that are in use, since packets
//! that bypass its neighbour tables do not.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use log::{debug, info, warn};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::published::Current;
use crate::io::egress::{Direct, Hops};
use crate::io::netlink::{Netlink, PathMonitor};
use crate::io::next_hop::{self, Resolved};

/// Where workers find the hops that hold.
pub(super) type CurrentHops = Arc<ArcSwap<Hops>>;

const CHANGES: Token = Token(0);
const WAKE: Token = Token(1);

/// How often neighbours in use are confirmed. The kernel takes one that it has not heard of for stale after 15
/// seconds at the earliest (`base_reachable_time_ms` / 2), so each is asked at most this often.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(5);

/// Changes that come within this time are looked up together.
const SETTLING: Duration = Duration::from_millis(20);

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
pub(super) fn watch(current: Current, hops: CurrentHops, by: Direct) -> Result<HopWatch> {
    let poll = Poll::new()?;
    let monitor = PathMonitor::open()?;
    poll.registry().register(
        &mut SourceFd(&monitor.as_raw_fd()),
        CHANGES,
        Interest::READABLE,
    )?;
    let waker = Waker::new(poll.registry(), WAKE)?;
    let mut watcher = Watcher {
        current,
        hops,
        by,
        netlink: Netlink::open()?,
        monitor,
        resolved: Resolved::default(),
    };
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
    by: Direct,
    netlink: Netlink,
    monitor: PathMonitor,
    resolved: Resolved,
}

impl Watcher {
    fn run(&mut self, mut poll: Poll) -> Result<()> {
        let mut events = Events::with_capacity(4);
        let mut confirmed = Instant::now();
        loop {
            let wait = CONFIRM_INTERVAL.saturating_sub(confirmed.elapsed());
            match poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(error.into());
                }
                _ => {}
            }
            let woken = events.iter().any(|event| event.token() == WAKE);
            if self.monitor.drain()? || woken {
                thread::sleep(SETTLING);
                self.monitor.drain()?;
                self.look_up()?;
            }
            if confirmed.elapsed() >= CONFIRM_INTERVAL {
                confirmed = Instant::now();
                self.confirm();
            }
        }
    }

    /// Publishes the hops if they changed.
    fn look_up(&mut self) -> Result<()> {
        let snapshot = Arc::clone(&self.current.load().snapshot);
        let far_ends: BTreeSet<IpAddr> = snapshot
            .backends()
            .map(|(_, backend)| backend.address)
            .collect();
        self.resolved = next_hop::resolve(&far_ends, self.by, &mut self.netlink)?;
        let hops = &self.resolved.hops;
        if *hops != **self.hops.load() {
            let (direct, all) = (hops.0.len(), far_ends.len());
            info!("{direct} of {all} backends by packet socket, the others by raw socket");
            self.hops.store(Arc::new(hops.clone()));
        }
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
