//! A snapshot as tables, and what differs between two snapshots as a list of updates of such tables.
//!
//! For whoever keeps a copy of the tables elsewhere: in maps of the kernel, or on a screen. A list is as long as
//! what differs, and looks only at parts that the snapshots do not share. Control work, never on the packet
//! path.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::eligible::Takes;
use super::indices::{BackendIndex, VipIndex};
use super::ring::Ring;
use super::rings::{NumberedRing, RingId};
use super::services::Service;
use super::snapshot::{Snapshot, Vip};
use super::spec::{BackendState, Echo, HashFields, Mss};
use crate::packet::{Encap, TunnelId};

/// A VIP, by its [`Service`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VipRow {
    /// Its number in the rows of its backends.
    pub index: VipIndex,
    /// The operator's name for it.
    pub name: String,
    /// What happens to echo requests for its address.
    pub echo: Echo,
    /// Whether the MSS of SYNs is lowered.
    pub mss: Mss,
    /// What chooses the ring's slot.
    pub hash: HashFields,
    /// Flows that may enter the flow table.
    pub new_flows_per_second: Option<NonZeroU32>,
    /// None while no backend takes new flows.
    pub ring: Option<RingId>,
    /// A slot of the ring holds a position here.
    pub members: Box<[BackendIndex]>,
}

/// A backend, by its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendRow {
    /// The VIP it serves.
    pub vip: VipIndex,
    /// The tunnel's far end.
    pub address: IpAddr,
    /// What the operator wants of it.
    pub state: BackendState,
    /// Which flows it takes.
    pub takes: Takes,
}

/// A row of one table: what it is from now on, or that it is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// Of the VIPs.
    Vip(Service, Option<VipRow>),
    /// Of the rings.
    Ring(RingId, Option<Arc<Ring>>),
    /// Of the backends.
    Backend(BackendIndex, Option<BackendRow>),
    /// Of the tunnels.
    Tunnel(TunnelId, Option<Encap>),
}

/// All tables of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tables {
    /// The VIPs.
    pub vips: HashMap<Service, VipRow>,
    /// The rings; VIPs with equal backends share one.
    pub rings: BTreeMap<RingId, Arc<Ring>>,
    /// The backends.
    pub backends: BTreeMap<BackendIndex, BackendRow>,
    /// The tunnels, by the numbers of their backends.
    pub tunnels: BTreeMap<TunnelId, Encap>,
}

impl Tables {
    /// Sets or removes one row.
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::Vip(service, Some(row)) => drop(self.vips.insert(service, row)),
            Update::Vip(service, None) => drop(self.vips.remove(&service)),
            Update::Ring(id, Some(ring)) => drop(self.rings.insert(id, ring)),
            Update::Ring(id, None) => drop(self.rings.remove(&id)),
            Update::Backend(index, Some(row)) => drop(self.backends.insert(index, row)),
            Update::Backend(index, None) => drop(self.backends.remove(&index)),
            Update::Tunnel(id, Some(encap)) => drop(self.tunnels.insert(id, encap)),
            Update::Tunnel(id, None) => drop(self.tunnels.remove(&id)),
        }
    }
}

impl Snapshot {
    /// All tables.
    #[must_use]
    pub fn tables(&self) -> Tables {
        let mut tables = Tables::default();
        for update in self.updates_since(None) {
            tables.apply(update);
        }
        tables
    }

    /// The updates that turn the tables of `before`, or empty ones, into those of this snapshot. In an order in
    /// which every row refers to rows that are there: what comes or changes from the tunnels to the VIPs, then
    /// what goes from the VIPs to the tunnels. Both have to be of one [`Roster`](super::Roster).
    #[must_use]
    pub fn updates_since(&self, before: Option<&Self>) -> Vec<Update> {
        let mut updates = self.backend_updates(before);
        updates.extend(self.ring_updates(before));
        updates.extend(self.vip_updates(before));
        let (mut set, mut gone): (Vec<_>, Vec<_>) = updates.into_iter().partition(Update::sets);
        gone.reverse();
        set.append(&mut gone);
        set
    }

    fn backend_updates(&self, before: Option<&Self>) -> Vec<Update> {
        let lanes = self.lanes.changed(before.map(|before| &before.lanes));
        let places = self.places.changed(before.map(|before| &before.places));
        let mut positions: Vec<_> = lanes.chain(places).collect();
        positions.sort_unstable();
        positions.dedup();
        let mut updates = Vec::new();
        let indices = positions
            .into_iter()
            .filter_map(|position| u32::try_from(position).ok());
        for index in indices.map(BackendIndex::new) {
            let [was, is] = [before, Some(self)].map(|snapshot| snapshot?.backend(index));
            let [tunnel_was, tunnel_is] = [was, is].map(|backend| Some(backend?.encap));
            if tunnel_was != tunnel_is {
                updates.push(Update::Tunnel(index.tunnel(), tunnel_is.cloned()));
            }
            let [row_was, row_is] = [was, is].map(|backend| {
                let backend = backend?;
                Some(BackendRow {
                    vip: backend.vip,
                    address: backend.address,
                    state: backend.state,
                    takes: backend.takes,
                })
            });
            if row_was != row_is {
                updates.push(Update::Backend(index, row_is));
            }
        }
        updates
    }

    fn ring_updates(&self, before: Option<&Self>) -> Vec<Update> {
        let was: HashSet<_> = before
            .into_iter()
            .flat_map(Self::rings)
            .map(|ring| ring.id)
            .collect();
        let is: BTreeMap<_, _> = self.rings().map(|ring| (ring.id, ring)).collect();
        let gone = was.iter().filter(|id| !is.contains_key(id));
        let gone = gone.map(|&id| Update::Ring(id, None));
        let new = is.values().filter(|ring| !was.contains(&ring.id));
        let new = new.map(|ring| Update::Ring(ring.id, Some(Arc::clone(&ring.slots))));
        new.chain(gone).collect()
    }

    fn rings(&self) -> impl Iterator<Item = &NumberedRing> {
        self.vips.iter().filter_map(|vip| vip.ring.as_ref())
    }

    fn vip_updates(&self, before: Option<&Self>) -> Vec<Update> {
        let was = before.into_iter().flat_map(|before| &before.vips);
        let mut was: HashMap<_, _> = was.map(|vip| (vip.service, vip)).collect();
        let mut updates = Vec::new();
        for vip in &self.vips {
            let known = was.remove(&vip.service);
            if known.is_none_or(|known| !Arc::ptr_eq(known, vip) && known.row() != vip.row()) {
                updates.push(Update::Vip(vip.service, Some(vip.row())));
            }
        }
        updates.extend(was.into_keys().map(|service| Update::Vip(service, None)));
        updates
    }
}

impl Update {
    const fn sets(&self) -> bool {
        matches!(
            self,
            Self::Vip(_, Some(_))
                | Self::Ring(_, Some(_))
                | Self::Backend(_, Some(_))
                | Self::Tunnel(_, Some(_))
        )
    }
}

impl Vip {
    fn row(&self) -> VipRow {
        VipRow {
            index: self.index,
            name: self.name.clone(),
            echo: self.echo,
            mss: self.mss,
            hash: self.hash,
            new_flows_per_second: self.new_flows_per_second,
            ring: self.ring.as_ref().map(|ring| ring.id),
            members: self.members.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
