//! What backends got.

use std::iter::Sum;
use std::ops::{Add, Sub};

/// What one backend got; all of it only grows, but the flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Packets that left for it.
    pub packets: u64,
    /// Their inner bytes, without the outer headers.
    pub bytes: u64,
    /// Packets that the ring alone chose it for, beyond their VIP's
    /// [`new_flows_per_second`](crate::director::VipSpec::new_flows_per_second).
    pub untracked: u64,
    /// Flows in the table now.
    pub flows: u64,
    /// Flows that entered the table.
    pub new_flows: u64,
    /// TCP flows whose client sent more than SYNs, so that the backend answered.
    pub established: u64,
}

impl Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
            untracked: self.untracked + other.untracked,
            flows: self.flows + other.flows,
            new_flows: self.new_flows + other.new_flows,
            established: self.established + other.established,
        }
    }
}

impl Sub for Traffic {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            packets: self.packets.saturating_sub(other.packets),
            bytes: self.bytes.saturating_sub(other.bytes),
            untracked: self.untracked.saturating_sub(other.untracked),
            flows: self.flows.saturating_sub(other.flows),
            new_flows: self.new_flows.saturating_sub(other.new_flows),
            established: self.established.saturating_sub(other.established),
        }
    }
}

impl Sum for Traffic {
    fn sum<I: Iterator<Item = Self>>(traffic: I) -> Self {
        traffic.fold(Self::default(), Add::add)
    }
}
