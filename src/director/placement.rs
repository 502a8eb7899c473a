//! Where the backends of a VIP are: their indices, what they take, and who of them is in the ring.

use super::eligible::Takes;
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
        takes: Vec<Takes>,
    ) -> Result<Self, SnapshotError> {
        if indices.len() > MAX_MEMBERS {
            return Err(SnapshotError::TooManyBackends {
                vip: vip.name.clone(),
                backends: indices.len(),
            });
        }
        let mut members: Vec<_> = vip
            .backends
            .iter()
            .zip(&indices)
            .zip(&takes)
            .filter(|&(_, &takes)| takes == Takes::NewFlows)
            .map(|((backend, &index), _)| (backend.address, backend.weight, index))
            .collect();
        members.sort_unstable_by_key(|&(address, ..)| address);
        Ok(Self {
            member_indices: members.iter().map(|&(.., index)| index).collect(),
            members: members
                .into_iter()
                .map(|(address, weight, _)| (address, weight))
                .collect(),
            indices,
            takes,
        })
    }

    /// The index of each backend and what it takes.
    pub(super) fn seats(&self) -> impl Iterator<Item = (BackendIndex, Takes)> {
        self.indices.iter().copied().zip(self.takes.iter().copied())
    }
}
