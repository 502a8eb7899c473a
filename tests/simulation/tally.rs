//! What was counted in the day: the books that the counters have to agree with, and the figures.

use std::fmt;

use tunlb::director::{BackendIndex, BackendState, DropReason, Roster, Snapshot, Traffic};

/// What the model saw leave and drop.
#[derive(Debug, Default)]
pub(crate) struct Books {
    /// By index, for the backend that holds it.
    backends: Vec<Traffic>,
    pub(crate) total: Traffic,
    dropped: [u64; DropReason::ALL.len()],
}

impl Books {
    pub(crate) fn sent(&mut self, index: BackendIndex, bytes: usize) {
        self.add(
            index,
            Traffic {
                packets: 1,
                bytes: u64::try_from(bytes).unwrap(),
                ..Traffic::default()
            },
        );
    }

    pub(crate) fn untracked(&mut self, index: BackendIndex) {
        self.add(
            index,
            Traffic {
                untracked: 1,
                ..Traffic::default()
            },
        );
    }

    fn add(&mut self, index: BackendIndex, traffic: Traffic) {
        let at = index.position();
        if self.backends.len() <= at {
            self.backends.resize_with(at + 1, Traffic::default);
        }
        self.backends[at] = self.backends[at] + traffic;
        self.total = self.total + traffic;
    }

    pub(crate) fn dropped(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }

    /// Another backend holds this index from now on.
    pub(crate) fn restart(&mut self, index: BackendIndex) {
        if let Some(traffic) = self.backends.get_mut(index.position()) {
            *traffic = Traffic::default();
        }
    }

    /// Counters and books agree, but for the flows.
    pub(crate) fn assert_agree(&self, roster: &Roster, snapshot: &Snapshot) {
        let without_flows = |traffic| Traffic {
            flows: 0,
            new_flows: 0,
            established: 0,
            ..traffic
        };
        for (index, backend) in snapshot.backends() {
            let booked = self.backends.get(index.position()).copied();
            let counted = without_flows(roster.counters().traffic(index));
            assert_eq!(counted, booked.unwrap_or_default(), "{index:?} {backend:?}");
        }
        assert_eq!(without_flows(roster.counters().all_traffic()), self.total);
        for reason in DropReason::ALL {
            let workers = roster.counters().workers().iter();
            let counted: u64 = workers.map(|worker| worker.dropped(reason)).sum();
            assert_eq!(counted, self.dropped[reason as usize], "{}", reason.name());
        }
    }
}

/// Why a flow is not with its backend any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Removed,
    Disabled,
    Unhealthy,
    /// It belongs to another VIP now, which does not have the backend.
    OtherVip,
    /// It was idle for too long, and the ring had changed meanwhile.
    Forgotten,
    /// A SYN on its ports opened another one, for which the ring has another backend.
    Reopened,
}

impl Left {
    const ALL: [Self; 6] = [
        Self::Removed,
        Self::Disabled,
        Self::Unhealthy,
        Self::OtherVip,
        Self::Forgotten,
        Self::Reopened,
    ];

    /// Of a backend that takes nothing and is configured with this state.
    pub(crate) const fn by_state(state: BackendState) -> Self {
        match state {
            BackendState::Disabled => Self::Disabled,
            BackendState::Active | BackendState::Draining => Self::Unhealthy,
        }
    }
}

/// The figures of the day.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) books: Books,
    pub(crate) flows: u64,
    pub(crate) flood_flows: u64,
    pub(crate) packets: u64,
    /// Errors that the other worker than the flow's read, and those that the ring would have misled.
    pub(crate) strays: u64,
    pub(crate) strays_off_ring: u64,
    pub(crate) snapshots: u64,
    pub(crate) adoptions: u64,
    pub(crate) drained: u64,
    pub(crate) reused_indices: u64,
    pub(crate) index_bound: usize,
    pub(crate) most_backends: usize,
    pub(crate) audits: u64,
    pub(crate) peak_flows: usize,
    pub(crate) peak_bytes: usize,
    moved: [u64; Left::ALL.len()],
    /// Packets of a flow that was known once.
    pub(crate) forgotten: u64,
    /// Of those, of flows that were not idle for too long: of one packet.
    pub(crate) pushed_out: u64,
}

impl Tally {
    pub(crate) fn moved(&mut self, why: Left) {
        self.moved[why as usize] += 1;
    }

    /// A day in which something never happened shows nothing about it.
    pub(crate) fn assert_all_happened(&self) {
        for why in Left::ALL {
            assert!(self.moved[why as usize] > 0, "no flow moved by {why:?}");
        }
        let dropped = |reason| self.books.dropped[reason as usize];
        for (what, times) in [
            ("drains", self.drained),
            ("reused indices", self.reused_indices),
            ("flows without an entry", self.books.total.untracked),
            ("packets to no VIP", dropped(DropReason::NoVip)),
            ("packets to no backend", dropped(DropReason::NoBackend)),
            ("half-open flows pushed out", self.pushed_out),
            ("errors about flows off the ring", self.strays_off_ring),
        ] {
            assert!(times > 0, "no {what}");
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Traffic {
            packets,
            bytes,
            untracked,
            ..
        } = self.books.total;
        let dropped: u64 = self.books.dropped.iter().sum();
        writeln!(f, "flows                {:>12}", self.flows)?;
        writeln!(f, "flood SYNs           {:>12}", self.flood_flows)?;
        writeln!(f, "packets              {:>12}", self.packets)?;
        writeln!(f, "  forwarded          {packets:>12} ({bytes} bytes)")?;
        writeln!(f, "  without an entry   {untracked:>12}")?;
        writeln!(f, "  dropped            {dropped:>12}")?;
        writeln!(
            f,
            "snapshots, adoptions {:>12}, {}",
            self.snapshots, self.adoptions
        )?;
        for why in Left::ALL {
            writeln!(
                f,
                "moved: {:<14}{:>12}",
                format!("{why:?}"),
                self.moved[why as usize]
            )?;
        }
        let Self {
            forgotten,
            pushed_out,
            ..
        } = self;
        writeln!(
            f,
            "forgotten            {forgotten:>12} ({pushed_out} pushed out by floods)"
        )?;
        writeln!(
            f,
            "errors elsewhere     {:>12} ({} about flows off the ring)",
            self.strays, self.strays_off_ring
        )?;
        writeln!(f, "drained backends     {:>12}", self.drained)?;
        writeln!(
            f,
            "indices, reused      {:>12}, {}",
            self.index_bound, self.reused_indices
        )?;
        writeln!(f, "most backends        {:>12}", self.most_backends)?;
        writeln!(f, "audits               {:>12}", self.audits)?;
        writeln!(f, "peak flows           {:>12}", self.peak_flows)?;
        write!(f, "peak bytes           {:>12}", self.peak_bytes)
    }
}
