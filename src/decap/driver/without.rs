//! A build without programs for drivers.

use super::{DecapError, Settings, Totals, admission::Admission};

/// None.
#[derive(Debug, Default)]
pub(super) struct Drivers {}

#[allow(
    clippy::unused_self,
    clippy::unnecessary_wraps,
    reason = "as with the feature xdp"
)]
impl Drivers {
    /// Refuses to have any.
    pub(super) fn open(settings: &Settings) -> Result<Self, DecapError> {
        match settings.interfaces() {
            [] => Ok(Self {}),
            [..] => Err(DecapError::Driver(
                "--xdp: this tunlb was built without the feature xdp (cargo build --features xdp)"
                    .to_owned(),
            )),
        }
    }

    pub(super) fn follow(&mut self, _: &Admission) -> Result<(), DecapError> {
        Ok(())
    }

    pub(super) fn totals(&self) -> Totals {
        Totals::default()
    }
}
