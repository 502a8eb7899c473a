//! What the service manager hears of reloads: that one began, and that what came of it holds.

use crate::io::service_manager;

/// Whether it was told of a reload that has not ended.
#[derive(Debug, Default)]
pub(super) struct Reloading(bool);

impl Reloading {
    /// A reload begins.
    pub(super) fn begin(&mut self) {
        if !self.0 {
            service_manager::tell_reloading();
            self.0 = true;
        }
    }

    /// Nothing is read or waits for adoption; `status` says what holds.
    pub(super) fn settle(&mut self, status: impl FnOnce() -> String) {
        if self.0 {
            service_manager::tell_ready(&status());
            self.0 = false;
        }
    }
}
