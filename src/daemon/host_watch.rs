//! The thread that hears of changes of this host, and tells control: links, addresses, routes and settings.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use log::warn;
use mio::event::Source as _;
use mio::{Events, Interest, Poll, Token};
use std::sync::mpsc::{SyncSender, TrySendError};

use super::Event;
use crate::io::netlink::{Drained, Monitor, NetlinkError, Topic};

/// Changes that come within this time are looked at together.
const SETTLING: Duration = Duration::from_millis(50);

/// Control is told at most this often: on a router whose routes come by BGP, some change all the time.
const INTERVAL: Duration = Duration::from_millis(500);

/// Tells `events` of changes until the process ends.
///
/// # Errors
/// The kernel's.
pub(super) fn watch(events: SyncSender<Event>) -> Result<()> {
    let topics = [
        Topic::Links,
        Topic::Addresses,
        Topic::Routes,
        Topic::Settings,
    ];
    let mut monitor = Monitor::open(&topics)?;
    let poll = Poll::new()?;
    monitor.register(poll.registry(), Token(0), Interest::READABLE)?;
    let body = move || {
        if let Err(error) = hear(&mut monitor, poll, &events) {
            warn!(
                "stopped watching this host: {error}; what others change of it is not restored any more"
            );
        }
    };
    thread::Builder::new()
        .name("tunlb-host".into())
        .spawn(body)
        .context("cannot start the thread that watches this host")?;
    Ok(())
}

fn hear(monitor: &mut Monitor, mut poll: Poll, events: &SyncSender<Event>) -> Result<()> {
    let mut ready = Events::with_capacity(1);
    let mut untold = false;
    let mut told = Instant::now();
    loop {
        let pause = untold.then(|| SETTLING.max(INTERVAL.saturating_sub(told.elapsed())));
        match poll.poll(&mut ready, pause) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                return Err(error.into());
            }
            _ => {}
        }
        untold |= drain(monitor)?;
        if untold && told.elapsed() >= INTERVAL {
            match events.try_send(Event::HostChanged) {
                Ok(()) => (untold, told) = (false, Instant::now()),
                Err(TrySendError::Full(_)) => {}
                Err(TrySendError::Disconnected(_)) => return Ok(()), // the director stops
            }
        }
    }
}

/// Whether anything changed.
fn drain(monitor: &mut Monitor) -> Result<bool, NetlinkError> {
    let mut changed = false;
    while monitor.drain(|_| changed = true)? == Drained::More {}
    Ok(changed)
}
