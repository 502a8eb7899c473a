//! What a service manager such as systemd is told (sd_notify(3)): that this process is ready, reads its
//! configuration again, stops, or is alive. Where none started it (`NOTIFY_SOCKET` is not set), nothing is.

use std::time::Duration;

use log::warn;
use sd_notify::NotifyState;

use crate::text::Plain;

/// It does its work, as the status says.
pub fn tell_ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&plain(status))]);
}

/// It reads its configuration again; [`tell_ready`] follows, however that ends.
pub fn tell_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[
            NotifyState::Reloading,
            now,
            NotifyState::Status("reloading"),
        ]),
        Err(error) => warn!("no monotonic clock: {error}"),
    }
}

/// It stops, for that reason.
pub fn tell_stopping(reason: &str) {
    let status = plain(&format!("stopping: {reason}"));
    tell(&[NotifyState::Stopping, NotifyState::Status(&status)]);
}

/// It is alive: to be told more often than [`watchdog`].
pub fn tell_alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How long the service manager waits for a sign of life before it ends the process; `None`: it does not watch.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|time| !time.is_zero())
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!("cannot tell the service manager (NOTIFY_SOCKET): {error}");
    }
}

/// In one line, as a status has to be.
fn plain(text: &str) -> String {
    Plain(text).to_string()
}
