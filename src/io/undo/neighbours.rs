//! Proxy neighbour entries: addresses of others for which the kernel answers on a device.

use std::collections::HashSet;
use std::net::IpAddr;

use super::step::Step;
use super::{Undo, UndoError, named};
use crate::io::netlink::ProxyNeighbour;

impl Undo {
    /// Makes the kernel answer for addresses on a device, given by index and name. Entries that are there
    /// already, the operator's, are kept: the kernel would take another one without a word.
    ///
    /// # Errors
    /// [`UndoError::Netlink`]; the entries before that one are made.
    pub fn add_neighbours(
        &mut self,
        link: u32,
        device: &str,
        addresses: &[IpAddr],
    ) -> Result<(), UndoError> {
        let there: HashSet<_> = self.netlink.proxy_neighbours()?.into_iter().collect();
        for &address in addresses {
            let entry = ProxyNeighbour { link, address };
            if there.contains(&entry) {
                continue;
            }
            let device = named(link, device);
            self.make(Step::Neighbour { device, address }, |netlink| {
                Ok(netlink.add_proxy_neighbour(entry)?)
            })?;
        }
        Ok(())
    }

    /// Undoes an entry that [`Undo::add_neighbours`] added; any other one is left as it is.
    ///
    /// # Errors
    /// [`UndoError::Netlink`]; the entry is then still in the journal.
    pub fn remove_neighbour(&mut self, link: u32, address: IpAddr) -> Result<(), UndoError> {
        match self.neighbours.get(&(link, address)) {
            Some(&id) => self.undo_one(id),
            None => Ok(()),
        }
    }
}

/// What an entry is found by: its device and address.
pub(super) fn key(step: &Step) -> Option<(u32, IpAddr)> {
    match step {
        Step::Neighbour { device, address } => Some((device.index, *address)),
        Step::Sysctl { .. }
        | Step::Address { .. }
        | Step::Route { .. }
        | Step::ProbeRoute { .. }
        | Step::Unreachable { .. }
        | Step::Table { .. }
        | Step::Rule { .. }
        | Step::Link { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::netlink::Netlink;
    use crate::io::testing::in_namespace;

    #[test]
    fn entries_of_others_are_kept() {
        in_namespace("io::undo::neighbours::tests::entries_of_others_are_kept_inside");
    }

    #[test]
    #[ignore = "run by entries_of_others_are_kept in a namespace of its own"]
    fn entries_of_others_are_kept_inside() {
        let mut netlink = Netlink::open().unwrap();
        let link = netlink.link("lo").unwrap().unwrap().index;
        netlink.set_up(link).unwrap();
        let [theirs, ours, ours6] =
            ["10.0.0.1", "10.0.0.2", "2001:db8::2"].map(|text| text.parse().unwrap());
        let listed = |netlink: &mut Netlink| {
            let entries = netlink.proxy_neighbours().unwrap();
            let mut addresses: Vec<_> = entries.iter().map(|entry| entry.address).collect();
            addresses.sort();
            addresses
        };
        let entry = |address| ProxyNeighbour { link, address };
        netlink.add_proxy_neighbour(entry(theirs)).unwrap();
        let mut undo = Undo::new().unwrap();
        for _ in 0..2 {
            undo.add_neighbours(link, "lo", &[theirs, ours, ours6])
                .unwrap();
        }
        assert_eq!(undo.steps().len(), 2, "{:?}", undo.steps());
        undo.remove_neighbour(link, ours).unwrap();
        undo.remove_neighbour(link, theirs).unwrap();
        assert_eq!(listed(&mut netlink), [theirs, ours6]);
        undo.add_neighbours(link, "lo", &[ours]).unwrap();
        netlink.remove_proxy_neighbour(entry(ours)).unwrap();
        assert!(
            undo.undo_all().is_empty(),
            "one that is gone already is fine"
        );
        assert_eq!(listed(&mut netlink), [theirs]);
    }
}
