//! What a director did, summed over its workers.

use std::fmt;

use crate::director::{CounterReader, DropReason, Snapshot, Traffic};

/// Packets and bytes per backend, drops per reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    /// In the order of the configuration.
    pub vips: Vec<VipTotals>,
    /// Of all backends that are not configured any more.
    pub left: Traffic,
    /// Packets that the director answered itself: echo requests, packets too big for a path.
    pub replied: u64,
    /// ICMP errors about the paths to backends that were not believed.
    pub path_errors_refused: u64,
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
    /// What the kernel took for it.
    pub traffic: Traffic,
}

impl Totals {
    /// Sums up what the workers counted, for the VIPs and backends of `snapshot`.
    #[must_use]
    pub fn new(snapshot: &Snapshot, counters: &CounterReader) -> Self {
        let mut vips: Vec<_> = snapshot
            .vips()
            .iter()
            .map(|vip| VipTotals {
                name: vip.name.clone(),
                backends: Vec::new(),
            })
            .collect();
        let mut here = Traffic::default();
        for (index, backend) in snapshot.backends() {
            let traffic = counters.traffic(index);
            here = here + traffic;
            vips[backend.vip.position()].backends.push(BackendTotals {
                address: backend.address.to_string(),
                traffic,
            });
        }
        Self {
            vips,
            left: counters.all_traffic() - here,
            path_errors_refused: 0, // of the daemon's, not of a worker
            replied: counters.replied(),
            drops: DropReason::ALL
                .map(|reason| (reason, counters.dropped(reason)))
                .into(),
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for vip in &self.vips {
            writeln!(f, "vip {}", vip.name)?;
            for backend in &vip.backends {
                let BackendTotals { address, traffic } = backend;
                write_traffic(f, &format!("  backend {address:<15}"), traffic)?;
            }
        }
        if self.left.packets > 0 {
            write_traffic(f, "backends that left       ", &self.left)?;
        }
        if self.replied > 0 {
            writeln!(f, "answered {}", self.replied)?;
        }
        if self.path_errors_refused > 0 {
            writeln!(f, "refused {} path MTU errors", self.path_errors_refused)?;
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

/// Packets that no flow remembers are told only where there are some.
fn write_traffic(f: &mut fmt::Formatter<'_>, what: &str, traffic: &Traffic) -> fmt::Result {
    let Traffic {
        packets,
        bytes,
        untracked,
        ..
    } = traffic;
    write!(f, "{what} {packets:>12} packets {bytes:>15} bytes")?;
    if *untracked > 0 {
        write!(f, " {untracked:>12} untracked")?;
    }
    writeln!(f)
}
