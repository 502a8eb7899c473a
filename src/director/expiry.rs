//! What waits, and when it is given up: idle flows, fragments without their first one, packets that other
//! workers were asked about.

use super::{Director, DropReason, Snapshot, Timestamp};

impl Director {
    /// Whether fragments wait for their datagram's first one.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.fragments.is_holding()
    }

    /// Whether flows or packets are kept: [`expire`](Self::expire) should be called within a
    /// second or so, also when no packet comes.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.is_holding() || self.is_asking() || !self.flows.is_empty()
    }

    /// Expires at most `budget` idle flows and all overdue fragments; returns the number of flows. Part of
    /// every [`burst`](Self::burst).
    pub fn expire(&mut self, now: Timestamp, budget: usize) -> usize {
        let expired = self.expire_due(now, budget);
        self.tell_kept();
        expired
    }

    /// Has the counters show what is kept now.
    pub(super) fn tell_kept(&self) {
        self.counters
            .tell_kept(self.flows.len(), self.fragments.held());
    }

    pub(super) fn expire_due(&mut self, now: Timestamp, budget: usize) -> usize {
        self.strays.expire(now);
        let (snapshot, counters) = (&self.snapshot, &self.counters);
        self.fragments.expire(now, |destination, given_up| {
            let vip = snapshot.only_vip_at(destination);
            let seat = vip.map(|vip| vip.seat);
            counters.count_drops(seat, DropReason::FragmentTimeout, given_up);
        });
        self.flows.expire(now, budget)
    }

    /// Fragments that wait to leave for backends which the next snapshot does not have are lost.
    pub(super) fn give_up_fragments(&mut self, next: &Snapshot) {
        let (snapshot, counters) = (&self.snapshot, &self.counters);
        let is_gone = |backend| next.lane(backend).is_none();
        self.fragments.give_up(is_gone, |backend, lost| {
            let lane = snapshot.lane(backend);
            let seat = lane.map(|lane| snapshot.vip(lane.vip).seat);
            counters.count_drops(seat, DropReason::NoBackend, lost);
        });
    }

    /// Gives up everything that still waits, so that the counters account for every packet. Where other
    /// workers were asked, [`stop_asking`](Self::stop_asking) and further bursts come before.
    pub fn finish(&mut self) {
        self.expire(Timestamp::END, 0);
        let (snapshot, counters) = (&self.snapshot, &self.counters);
        self.strays.give_up(|flow, reason| {
            let seat = snapshot.find_vip(flow).map(|vip| vip.seat);
            counters.count_drops(seat, reason, 1);
        });
    }
}
