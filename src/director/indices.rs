//! The numbers by which the tables of a snapshot name VIPs and backends.

use crate::packet::TunnelId;

/// A VIP's position in [`Snapshot::vips`](super::Snapshot::vips).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VipIndex(u32);

/// A backend of a VIP, by a number that it keeps over all snapshots that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendIndex(u32);

/// A number that a VIP keeps over all snapshots that it is in, wherever it is in the configuration: what is
/// counted for it goes by this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VipSeat(u32);

impl VipSeat {
    /// The seat with this number. A first snapshot counts from 0, in the order of the configuration.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number as an array index.
    #[must_use]
    pub const fn position(self) -> usize {
        self.0 as usize
    }
}

impl VipIndex {
    /// The index of the VIP at a position.
    pub(super) fn at(position: usize) -> Self {
        Self(u32::try_from(position).unwrap_or(u32::MAX))
    }

    /// The position as an array index.
    #[must_use]
    pub const fn position(self) -> usize {
        self.0 as usize
    }
}

impl BackendIndex {
    /// The backend that a tunnel leads to.
    #[must_use]
    pub const fn of_tunnel(TunnelId(number): TunnelId) -> Self {
        Self(number)
    }

    /// The number of the tunnel to it.
    #[must_use]
    pub const fn tunnel(self) -> TunnelId {
        TunnelId(self.0)
    }

    /// The index with this number. A first snapshot counts from 0, in the order of the
    /// configuration.
    #[must_use]
    pub const fn new(position: u32) -> Self {
        Self(position)
    }

    /// The position as an array index.
    #[must_use]
    pub const fn position(self) -> usize {
        self.0 as usize
    }
}
