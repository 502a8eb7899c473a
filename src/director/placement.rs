//! Where the backends of a VIP are: their indices, what they take, and who of them is in the ring.

use super::eligible::{Takes, Tenths};
use super::indices::BackendIndex;
use super::ring::MAX_MEMBERS;
use super::rings::MemberSet;
use super::snapshot::SnapshotError;
use super::spec::VipSpec;

/// The backends of one VIP.
#[derive(Debug)]
pub(super) struct Placement {
    /// In the order of the configuration, as the next one.
    pub(super) indices: Vec<BackendIndex>,
    takes: Vec<Takes>,
    /// Those that take new flows, in the order of addresses.
    pub(super) members: MemberSet,
    pub(super) member_indices: Box<[BackendIndex]>,
}

impl Placement {
    /// # Errors
    /// [`SnapshotError::TooManyBackends`].
    pub(super) fn new(
        vip: &VipSpec,
        indices: Vec<BackendIndex>,
        takes: Vec<(Takes, Tenths)>,
    ) -> Result<Self, SnapshotError> {
        if indices.len() > MAX_MEMBERS {
            return Err(SnapshotError::TooManyBackends {
                vip: vip.name.clone(),
                backends: indices.len(),
            });
        }
        let weigh = weighing(vip, &takes);
        let mut members: Vec<_> = vip
            .backends
            .iter()
            .zip(&indices)
            .zip(&takes)
            .filter(|&(_, &(takes, _))| takes == Takes::NewFlows)
            .map(|((backend, &index), &(_, tenths))| {
                (backend.address, weigh(backend.weight, tenths), index)
            })
            .collect();
        members.sort_unstable_by_key(|&(address, ..)| address);
        Ok(Self {
            member_indices: members.iter().map(|&(.., index)| index).collect(),
            members: members
                .into_iter()
                .map(|(address, weight, _)| (address, weight))
                .collect(),
            indices,
            takes: takes.into_iter().map(|(takes, _)| takes).collect(),
        })
    }

    /// The index of each backend and what it takes.
    pub(super) fn seats(&self) -> impl Iterator<Item = (BackendIndex, Takes)> {
        self.indices.iter().copied().zip(self.takes.iter().copied())
    }
}

/// How weights enter the ring: as they are, or, where some take a part of theirs, in tenths. A weight that is too
/// large for that is rounded.
fn weighing(vip: &VipSpec, takes: &[(Takes, Tenths)]) -> fn(u16, Tenths) -> u16 {
    const SCALE: u16 = 10;
    let whole = |weight: u16, _: Tenths| weight;
    let in_tenths = |weight: u16, tenths: Tenths| weight.saturating_mul(tenths.number().into());
    let rounded = |weight: u16, tenths: Tenths| {
        (weight / SCALE)
            .saturating_mul(tenths.number().into())
            .max(1)
    };
    let heaviest = vip.backends.iter().map(|backend| backend.weight).max();
    if takes.iter().all(|&(_, tenths)| tenths == Tenths::ALL) {
        whole
    } else if heaviest.is_none_or(|weight| weight <= u16::MAX / SCALE) {
        in_tenths
    } else {
        rounded
    }
}
