//! `--xdp`: tunnel packets taken out in the driver of some interfaces, by the rules of [`Admission`]. What the
//! program leaves, the sockets have as ever: whatever is refused, fragments, packets with options.

use std::cell::Cell;

use crate::io::xdp::{Admitted, DecapProgram, Hook};

use super::{DecapError, Encapsulation, Settings, Totals, admission::Admission};

/// In the driver where it can, else in the stack behind it.
const HOOKS: &[Hook] = &[Hook::Native, Hook::Generic];

/// The programs on all interfaces.
#[derive(Debug, Default)]
pub(super) struct Drivers {
    programs: Vec<DecapProgram>,
    /// Addresses of the machine that the programs have, by how often they had changed.
    followed: Option<u64>,
    /// What they had taken out when it was last read.
    last: Cell<u64>,
}

impl Drivers {
    /// Attaches the programs.
    ///
    /// # Errors
    /// [`DecapError::Driver`].
    pub(super) fn open(settings: &Settings) -> Result<Self, DecapError> {
        let mut drivers = Self::default();
        let gue = match settings.encapsulation() {
            Encapsulation::Ipip => None,
            Encapsulation::Gue(port) => Some(port),
        };
        let admitted = Admitted {
            vips: settings.vips(),
            directors: settings.directors(),
            gue,
        };
        for interface in settings.interfaces() {
            let program = DecapProgram::start(interface, admitted, HOOKS);
            let program = program.map_err(|cause| DecapError::Driver(cause.to_string()))?;
            let attached = program.attached();
            log::info!(
                "interface {}: decapsulating in the driver, in {} mode",
                attached.device,
                attached.hook
            );
            drivers.programs.push(program);
        }
        Ok(drivers)
    }

    /// Has the programs know the addresses of this machine, where they changed.
    ///
    /// # Errors
    /// [`DecapError::Driver`]: the programs would take out what comes from this machine.
    pub(super) fn follow(&mut self, admission: &Admission) -> Result<(), DecapError> {
        if self.programs.is_empty() || self.followed == Some(admission.changes()) {
            return Ok(());
        }
        let addresses = admission.local_addresses().collect();
        for program in &mut self.programs {
            let set = program.set_local(&addresses);
            set.map_err(|cause| DecapError::Driver(cause.to_string()))?;
        }
        self.followed = Some(admission.changes());
        Ok(())
    }

    /// What they have taken out.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        let counts: Result<Vec<_>, _> = self.programs.iter().map(DecapProgram::taken_out).collect();
        match counts {
            Ok(counts) => self.last.set(counts.iter().sum()),
            Err(error) => log::warn!("{error}"),
        }
        totals.count_injected(self.last.get());
        totals
    }
}

#[cfg(test)]
mod tests;
