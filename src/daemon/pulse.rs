//! The pulse: a thread that wakes workers that sleep, so that each one's heartbeat tells whether it turns, and that
//! tells the service manager so while all of them do.
//!
//! It never tells of itself: a worker that hangs ends the sign of life, and a service manager with a watchdog starts
//! the director again.

use std::io;
use std::thread;
use std::time::Duration;

use log::{error, info, warn};

use crate::control::WorkerLink;
use crate::io::service_manager;

/// How often it looks, and wakes those that slept meanwhile.
const INTERVAL: Duration = Duration::from_secs(1);

/// A worker without a heartbeat for this long hangs. Nothing that a worker does takes a tenth of it.
const HANGS_AFTER: Duration = Duration::from_secs(5);

/// How it is looked and judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rhythm {
    interval: Duration,
    /// The oldest heartbeat of a worker that turns.
    oldest: Duration,
}

impl Rhythm {
    /// That of a service manager's watchdog; `None`: no watchdog.
    fn of(watchdog: Option<Duration>) -> Self {
        let Some(watchdog) = watchdog else {
            return Self {
                interval: INTERVAL,
                oldest: HANGS_AFTER,
            };
        };
        Self {
            interval: INTERVAL.min(watchdog / 4),
            oldest: HANGS_AFTER.min(watchdog / 2),
        }
    }

    /// The first worker that hangs, by the ages of their heartbeats.
    fn hanging(&self, ages: impl IntoIterator<Item = Duration>) -> Option<usize> {
        ages.into_iter().position(|age| age > self.oldest)
    }
}

/// Starts the thread; it ends with the process.
pub(super) fn start(workers: Vec<WorkerLink>) -> io::Result<()> {
    let watchdog = service_manager::watchdog();
    let rhythm = Rhythm::of(watchdog);
    let mut hanging = None;
    let body = move || {
        loop {
            thread::sleep(rhythm.interval);
            let found = rhythm.hanging(workers.iter().map(|worker| worker.heartbeat.age()));
            tell_change(hanging, found);
            hanging = found;
            if hanging.is_none() && watchdog.is_some() {
                service_manager::tell_alive();
            }
            wake(&workers);
        }
    };
    thread::Builder::new()
        .name("tunlb-pulse".into())
        .spawn(body)?;
    Ok(())
}

fn tell_change(before: Option<usize>, now: Option<usize>) {
    match (before, now) {
        (None, Some(worker)) => error!("worker {worker} hangs: it does not look up from a burst"),
        (Some(_), None) => info!("all workers turn again"),
        (None, None) | (Some(_), Some(_)) => {}
    }
}

/// Each looks up, and sleeps again where there is nothing to do.
fn wake(workers: &[WorkerLink]) {
    for worker in workers {
        if let Err(error) = worker.waker.wake() {
            warn!("cannot wake a worker: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A worker that was woken a pulse ago and sleeps since is as old as the interval; a watchdog that is fed at every
    /// pulse, and no more once a worker hangs, is over before the worker has hung for twice its time.
    #[test]
    fn a_watchdog_has_room_for_idle_workers_and_none_for_hanging_ones() {
        for watchdog in [
            Duration::from_millis(40),
            seconds(1),
            seconds(10),
            seconds(3600),
        ] {
            let rhythm = Rhythm::of(Some(watchdog));
            assert!(rhythm.interval * 2 <= rhythm.oldest, "{watchdog:?}");
            assert!(rhythm.interval * 2 <= watchdog, "{watchdog:?}");
            assert!(rhythm.oldest + rhythm.interval < watchdog, "{watchdog:?}");
        }
    }

    #[test]
    fn one_worker_that_hangs_is_enough() {
        let rhythm = Rhythm::of(Some(seconds(4)));
        let hanging =
            |ages: &[u64]| rhythm.hanging(ages.iter().copied().map(Duration::from_millis));
        assert_eq!(hanging(&[0, 1000, 2000]), None);
        assert_eq!(hanging(&[0, 2001, 1000]), Some(1));
        let alone = Rhythm::of(None);
        assert_eq!(alone.hanging([seconds(5)]), None);
        assert_eq!(alone.hanging([seconds(6)]), Some(0));
    }
}
