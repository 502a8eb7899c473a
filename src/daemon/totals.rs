//! What a director did, summed over its workers.

use std::fmt;
use std::sync::Arc;

use crate::director::{BackendIndex, Counters, DropReason, Snapshot, Traffic};

/// Packets and bytes per backend, drops per reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    /// In the order of the configuration.
    pub vips: Vec<VipTotals>,
    /// Packets that the director answered itself: echo requests, packets too big for a path.
    pub replied: u64,
    /// Every reason, zeros too, in the order of [`DropReason::ALL`].
    pub drops: Vec<(DropReason, u64)>,
}

/// What went to the backends of one VIP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VipTotals {
    /// The VIP's name.
    pub name: String,
    /// In the order of the configuration.
    pub backends: Vec<BackendTotals>,
}

/// What went to one backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendTotals {
    /// Its address.
    pub address: String,
    /// Packets that the kernel took.
    pub packets: u64,
    /// Inner bytes of those packets, without the outer headers.
    pub bytes: u64,
}

impl Totals {
    /// Sums up what workers with that snapshot counted.
    #[must_use]
    pub fn new(snapshot: &Snapshot, workers: &[Arc<Counters>]) -> Self {
        let mut vips: Vec<_> = snapshot
            .vips()
            .iter()
            .map(|vip| VipTotals {
                name: vip.name.clone(),
                backends: Vec::new(),
            })
            .collect();
        for (position, backend) in snapshot.backends().iter().enumerate() {
            let index = BackendIndex::new(u32::try_from(position).unwrap_or(u32::MAX));
            let Traffic { packets, bytes, .. } =
                workers.iter().map(|counters| counters.traffic(index)).sum();
            vips[backend.vip.position()].backends.push(BackendTotals {
                address: backend.address.to_string(),
                packets,
                bytes,
            });
        }
        let dropped = |reason| {
            workers
                .iter()
                .map(|counters| counters.dropped(reason))
                .sum()
        };
        Self {
            vips,
            replied: workers.iter().map(|counters| counters.replied()).sum(),
            drops: DropReason::ALL
                .map(|reason| (reason, dropped(reason)))
                .into(),
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for vip in &self.vips {
            writeln!(f, "vip {}", vip.name)?;
            for backend in &vip.backends {
                let BackendTotals {
                    address,
                    packets,
                    bytes,
                } = backend;
                writeln!(
                    f,
                    "  backend {address:<15} {packets:>12} packets {bytes:>15} bytes"
                )?;
            }
        }
        if self.replied > 0 {
            writeln!(f, "answered {}", self.replied)?;
        }
        let dropped: Vec<_> = self
            .drops
            .iter()
            .filter(|(_, packets)| *packets > 0)
            .map(|(reason, packets)| format!("{} {packets}", reason.name()))
            .collect();
        if dropped.is_empty() {
            writeln!(f, "dropped nothing")
        } else {
            writeln!(f, "dropped {}", dropped.join(", "))
        }
    }
}
