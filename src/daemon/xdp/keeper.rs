//! Keeps the program and the director in step: brings snapshots into its maps, and what it counts into the counters
//! that everything else reads. One thread, which waits for nothing but time.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::fill::Fill;
use super::flows::shared_flow;
use crate::control::published::Current;
use crate::director::{
    BackendIndex, Counters, DropReason, FlowClass, Snapshot, Timestamp, Traffic, VipSeat,
};
use crate::io::sys::monotonic_ns;
use crate::io::xdp::layout::FlowRow;
use crate::io::xdp::{FlowMaps, FlowPart, MapCounts};

/// How soon a snapshot is in the maps after every worker has it.
const STEP: Duration = Duration::from_millis(20);

/// How old what is counted may be.
const COUNT_INTERVAL: Duration = Duration::from_millis(200);

/// How often all flows are looked at, where that takes no longer than a twentieth of it.
const WALK_INTERVAL: Duration = Duration::from_secs(1);

/// A path MTU that a worker learnt holds for the program so soon.
const PATHS_INTERVAL: Duration = Duration::from_millis(500);

/// What the keeper keeps in step with.
#[derive(Debug)]
pub(super) struct Company {
    /// What is published.
    pub(super) current: Current,
    /// What the workers count: they have a snapshot before the program has.
    pub(super) workers: Vec<Arc<Counters>>,
    /// What the program counts.
    pub(super) counters: Arc<Counters>,
    /// Of all timestamps.
    pub(super) epoch: Instant,
    /// Set by those who want it to end.
    pub(super) stop: Arc<AtomicBool>,
}

#[derive(Debug)]
pub(super) struct Keeper {
    fill: Fill,
    flows: FlowMaps,
    counts: Arc<MapCounts>,
    company: Company,
    /// What was brought into the maps last, or tried to.
    applied: Arc<Snapshot>,
    /// Flows of each backend, as of the last walk.
    flows_of: Vec<u64>,
    /// Backends that left with the last snapshot, whose flows were not counted since.
    leavers: Vec<usize>,
    next_count: Instant,
    next_walk: Instant,
    next_paths: Instant,
    complaint: String,
}

impl Keeper {
    /// With maps in which `applied` is.
    pub(super) fn new(
        fill: Fill,
        flows: FlowMaps,
        counts: Arc<MapCounts>,
        company: Company,
        applied: Arc<Snapshot>,
    ) -> Self {
        let now = Instant::now();
        Self {
            fill,
            flows,
            counts,
            company,
            applied,
            flows_of: Vec::new(),
            leavers: Vec::new(),
            next_count: now,
            next_walk: now,
            next_paths: now,
            complaint: String::new(),
        }
    }

    /// Until it is stopped; then the program takes no packet any more, and all is counted.
    pub(super) fn run(mut self) {
        while !self.company.stop.load(Ordering::Relaxed) {
            self.step();
            thread::park_timeout(STEP);
        }
        self.fill.pause();
        self.count();
    }

    fn step(&mut self) {
        self.adopt();
        let now = Instant::now();
        if now >= self.next_paths {
            self.fill.refresh_paths(self.now());
            self.next_paths = now + PATHS_INTERVAL;
        }
        if now >= self.next_walk {
            let walked = self.walk();
            self.heed(walked, "count the flows of the XDP program");
            let took = now.elapsed();
            self.next_walk = now + WALK_INTERVAL.max(20 * took);
        }
        if now >= self.next_count {
            self.count();
            self.next_count = now + COUNT_INTERVAL;
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::after(self.company.epoch.elapsed())
    }

    /// Brings what every worker decides by into the maps. Not before: a worker leaves a flow where the program
    /// put it only if it knows the backend; the program sends packets of backends that it does not know to the
    /// workers.
    fn adopt(&mut self) {
        let published = self.company.current.load();
        let snapshot = Arc::clone(&published.snapshot);
        let epoch = snapshot.epoch();
        let mut workers = self.company.workers.iter();
        if Arc::ptr_eq(&snapshot, &self.applied) || !workers.all(|one| one.adopted() >= epoch) {
            return;
        }
        let now = self.now();
        let applied = self.fill.apply(&snapshot, now);
        self.heed(applied, "take packets by the XDP program");
        let was = self.applied.backends();
        let gone = was.filter(|(index, _)| snapshot.backend(*index).is_none());
        self.leavers.extend(gone.map(|(index, _)| index.position()));
        if !self.leavers.is_empty() {
            self.next_walk = Instant::now();
        }
        self.count();
        self.company.counters.follow(&snapshot);
        self.applied = snapshot;
    }

    /// Says what is wrong once, and when it is not any more.
    fn heed<E: Display>(&mut self, result: Result<(), E>, what: &str) {
        match result {
            Ok(()) if self.complaint.ends_with(what) => {
                info!("can {what} again");
                self.complaint.clear();
            }
            Ok(()) => {}
            Err(error) => {
                let complaint = format!("{error}: cannot {what}");
                if complaint != self.complaint {
                    warn!("{complaint}; packets go by the TUN until that is over");
                    self.complaint = complaint;
                }
            }
        }
    }

    /// Looks at every flow: how many each backend has, and which are over.
    fn walk(&mut self) -> io::Result<()> {
        let now_ns = monotonic_ns();
        let limits = self.applied.flow_limits();
        let timeouts = FlowClass::ALL.map(|class| class.timeout(&limits.timeouts));
        let mut flows_of = vec![0_u64; self.applied.index_bound()];
        let mut all = 0;
        for part in [FlowPart::Lasting, FlowPart::First] {
            self.flows.retain(part, |_, row: &FlowRow| {
                let flow = shared_flow(row, now_ns);
                // A packet may just have come for one that is over; a while later none has.
                let timeout = timeouts[flow.class as usize];
                if flow.idle < timeout {
                    all += 1;
                    let position = flow.backend.position();
                    if flows_of.len() <= position {
                        flows_of.resize(position + 1, 0);
                    }
                    flows_of[position] += 1;
                }
                flow.idle < timeout + Duration::from_secs(2)
            })?;
        }
        self.flows_of = flows_of;
        self.leavers.clear();
        let bound = u64::try_from(limits.bound.get()).unwrap_or(u64::MAX);
        self.company.counters.tell_flows(all, bound);
        Ok(())
    }

    fn count(&self) {
        let counters = &self.company.counters;
        for position in 0..self.applied.index_bound().max(self.flows_of.len()) {
            let [packets, bytes, untracked, new_flows] = self.counts.traffic(position);
            let flows = self.flows_of.get(position).copied().unwrap_or(0);
            let may_have = u64::from(self.leavers.contains(&position));
            let Ok(number) = u32::try_from(position) else {
                return;
            };
            let traffic = Traffic {
                packets,
                bytes,
                untracked,
                flows: flows.max(may_have),
                new_flows,
                established: 0, // it sees no answers
            };
            counters.tell_traffic(BackendIndex::new(number), &traffic);
        }
        for seat in 0..self.applied.vip_seats() {
            let drops = self.counts.drops(seat);
            let Ok(number) = u32::try_from(seat) else {
                return;
            };
            for reason in DropReason::ALL {
                let packets = drops[usize::from(reason.number())];
                counters.tell_drops(VipSeat::new(number), reason, packets);
            }
        }
    }
}
