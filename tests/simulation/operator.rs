//! Control's side of the day: changes become snapshots by the roster. It knows who may hold which
//! index, and which drains have to end.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use tunlb::director::{
    BackendIndex, BackendState, FlowLimits, FlowTimeouts, HashKey, Plan, RingSize, Roster, Service,
    Timestamp, VipSpec,
};
use tunlb::packet::{Encap, FamilyMismatch, SourceRule};

use crate::random::Random;
use crate::site::{Identity, Site, View};
use crate::tally::Tally;
use crate::traffic::LONGEST_FLOW;

/// A drain ends when the longest flow has, and was forgotten; workers adopt late.
const LONGEST_DRAIN: Duration = LONGEST_FLOW.saturating_add(Duration::from_secs(2000));

/// Indices beyond the most backends that there were at once: of those who left with flows that have
/// not expired.
const SPARE_INDICES: usize = 16;

/// Who holds an index.
#[derive(Debug, Clone, Copy)]
struct Holder {
    identity: Identity,
    /// The epoch of the last snapshot that it is in.
    seen: u64,
    /// Nothing refers to it any more: anybody may have it.
    vacant: bool,
}

#[derive(Debug)]
pub(crate) struct Operator {
    pub(crate) site: Site,
    pub(crate) roster: Roster,
    pub(crate) view: Arc<View>,
    bound: usize,
    /// By index.
    holders: Vec<Holder>,
    drains: HashMap<Identity, Timestamp>,
}

impl Operator {
    /// Configures the first snapshot; `bound` is of all workers' flows.
    pub(crate) fn new(site: Site, bound: usize, tally: &mut Tally) -> Self {
        let mut roster = Roster::default();
        let view = build(&mut roster, &site, bound);
        let mut operator = Self {
            site,
            roster,
            view,
            bound,
            holders: Vec::new(),
            drains: HashMap::new(),
        };
        operator.seat(tally);
        operator
    }

    /// Makes the site's next snapshot.
    pub(crate) fn publish(&mut self, now: Timestamp, tally: &mut Tally) {
        self.vacate();
        self.view = build(&mut self.roster, &self.site, self.bound);
        self.seat(tally);
        let draining: Vec<_> = self.draining().collect();
        self.drains
            .retain(|identity, _| draining.contains(identity));
        for identity in draining {
            self.drains.entry(identity).or_insert(now);
        }
        tally.snapshots += 1;
    }

    fn draining(&self) -> impl Iterator<Item = Identity> {
        let backends = self.site.vips.iter().flat_map(|vip| {
            let service = Service::of(vip);
            vip.backends.iter().map(move |backend| (service, backend))
        });
        backends
            .filter(|(_, backend)| backend.state == BackendState::Draining)
            .map(|(service, backend)| (service, backend.address))
    }

    /// The indices that may go to somebody else: every worker forwards by a snapshot without their
    /// holder, and remembers no flow with it.
    fn vacate(&mut self) {
        let epoch = self.view.snapshot.epoch();
        for (position, holder) in self.holders.iter_mut().enumerate() {
            let index = BackendIndex::new(u32::try_from(position).unwrap());
            let left = holder.seen < epoch && self.roster.is_adopted(holder.seen + 1);
            holder.vacant = left && flows(&self.roster, index) == 0;
        }
    }

    /// Nobody got the index of somebody else, unless it was vacant; nobody lost his.
    fn seat(&mut self, tally: &mut Tally) {
        let snapshot = &self.view.snapshot;
        let vacancies = self.holders.iter().filter(|holder| holder.vacant).count();
        let mut taken = 0;
        for (index, backend) in snapshot.backends() {
            let vip = &self.view.site.vips[backend.vip.position()];
            let held = Holder {
                identity: (Service::of(vip), backend.address),
                seen: snapshot.epoch(),
                vacant: false,
            };
            let Some(holder) = self.holders.get_mut(index.position()) else {
                assert_eq!(taken, vacancies, "a new index where one was vacant");
                assert_eq!(index.position(), self.holders.len());
                self.holders.push(held);
                continue;
            };
            if holder.vacant {
                taken += 1;
                tally.reused_indices += u64::from(holder.identity != held.identity);
                tally.books.restart(index);
            } else {
                assert_eq!(holder.identity, held.identity, "{index:?} was not vacant");
            }
            *holder = held;
        }
        assert_eq!(snapshot.index_bound(), self.holders.len());
        self.assert_one_index_each();
        let backends = snapshot.backends().count();
        tally.most_backends = tally.most_backends.max(backends);
        tally.index_bound = snapshot.index_bound();
        assert!(tally.index_bound <= tally.most_backends + SPARE_INDICES);
    }

    /// Also of those who left but may come back.
    fn assert_one_index_each(&self) {
        let held = self.holders.iter().filter(|holder| !holder.vacant);
        let mut identities: Vec<_> = held.map(|holder| holder.identity).collect();
        let holders = identities.len();
        identities.sort_unstable_by_key(|identity| format!("{identity:?}"));
        identities.dedup();
        assert_eq!(identities.len(), holders, "a backend has two indices");
    }

    /// Who holds an index, or did last.
    pub(crate) fn holder(&self, index: BackendIndex) -> Identity {
        self.holders[index.position()].identity
    }

    /// A drained backend; the operator does something else with it then.
    pub(crate) fn end_of_drain(&mut self, now: Timestamp, random: &mut Random) -> bool {
        if !self.roster.is_adopted(self.view.snapshot.epoch()) {
            return false;
        }
        let drained = self.view.snapshot.backends().find_map(|(index, backend)| {
            let identity = self.holder(index);
            let flows = self.roster.counters().traffic(index).flows;
            if backend.state != BackendState::Draining {
                return None;
            }
            let since = *self.drains.get(&identity)?;
            assert!(
                now.since(since) < LONGEST_DRAIN,
                "{flows} flows with {identity:?}, which drains since {since:?}"
            );
            (flows == 0).then_some(identity)
        });
        if let Some(identity) = drained {
            self.site.drained(random, identity);
        }
        drained.is_some()
    }
}

/// Flows with an index in the tables of all workers, whoever holds it.
fn flows(roster: &Roster, index: BackendIndex) -> u64 {
    let workers = roster.counters().workers().iter();
    workers.map(|worker| worker.traffic(index).flows).sum()
}

fn build(roster: &mut Roster, site: &Site, bound: usize) -> Arc<View> {
    let plan = Plan {
        vips: &site.vips,
        hash_key: HashKey::DEFAULT,
        ring_size: RingSize::new(1021).unwrap(),
        flows: FlowLimits {
            bound: NonZeroUsize::new(bound).unwrap(),
            timeouts: FlowTimeouts::default(),
        },
    };
    let health = |vip: &VipSpec, backend| site.health(vip, backend);
    let snapshot = roster.build(&plan, health, tunnel).unwrap();
    Arc::new(View::new(Arc::new(snapshot), site.clone()))
}

fn tunnel(vip: &VipSpec, backend: IpAddr) -> Result<Encap, FamilyMismatch> {
    let source = SourceRule::Fixed(Ipv4Addr::new(10, 0, 0, 2).into());
    Encap::new(vip.encap, source, backend, NonZeroU8::new(64).unwrap())
}
