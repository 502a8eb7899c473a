//! The thread that hears signals and tells the main one.

use std::io;
use std::sync::mpsc::SyncSender;
use std::thread;

use signal_hook::iterator::Signals;

use super::{Event, StopReason};
use crate::io::signals::{Ignored, Meaning, heard, meaning, name};

/// From here on a signal is an event: one that comes before the loop, or while the director stops, does
/// not end the process in between.
pub(super) fn hear(events: SyncSender<Event>) -> io::Result<()> {
    let mut signals = Signals::new(heard())?;
    let body = move || {
        let mut ignored = Ignored::default();
        for signal in signals.forever() {
            let event = match meaning(signal) {
                Meaning::Stop => Event::Stop(StopReason::Signal(name(signal))),
                Meaning::Reload => Event::HangUp,
                Meaning::Totals => Event::Totals,
                Meaning::Nothing => {
                    ignored.note(signal);
                    continue;
                }
            };
            events.send(event).ok(); // not received when the director stops already
        }
    };
    thread::Builder::new()
        .name("tunlb-signals".into())
        .spawn(body)?;
    Ok(())
}
