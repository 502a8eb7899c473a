//! The routes that only probes take, in the journal.

use super::{Step, Undo, UndoError, named};
use crate::io::netlink::ProbeRoute;

/// Where such a route is in the journal: by its device and what it is.
type Key = (u32, ProbeRoute);

impl Undo {
    /// Adds a route for probes through a device, given by index and name.
    ///
    /// # Errors
    /// [`UndoError::Netlink`].
    pub fn add_probe_route(
        &mut self,
        link: u32,
        device: &str,
        route: ProbeRoute,
    ) -> Result<(), UndoError> {
        let device = named(link, device);
        self.make(Step::ProbeRoute { device, route }, |netlink| {
            Ok(netlink.add_probe_route(&route, link)?)
        })
    }

    /// Undoes [`Undo::add_probe_route`].
    ///
    /// # Errors
    /// [`UndoError::Netlink`]; the route is then still in the journal.
    pub fn remove_probe_route(&mut self, link: u32, route: ProbeRoute) -> Result<(), UndoError> {
        if let Some(&id) = self.probes.get(&(link, route)) {
            self.undo_one(id)?;
            self.keeper.shrink(&self.done);
        }
        Ok(())
    }
}

pub(super) const fn key(step: &Step) -> Option<Key> {
    match step {
        Step::ProbeRoute { device, route } => Some((device.index, *route)),
        Step::Sysctl { .. }
        | Step::Address { .. }
        | Step::Route { .. }
        | Step::Neighbour { .. }
        | Step::Unreachable { .. }
        | Step::Table { .. }
        | Step::Rule { .. }
        | Step::Link { .. } => None,
    }
}
