//! Whether packets of full size get through a tunnel, and if not, which do: echo requests to the VIP that may not be
//! fragmented.

use std::net::IpAddr;
use std::time::Duration;

use super::engine::Engine;
use super::flight::Question;
use super::inquest::{Inquest, Inquests, Purpose};
use super::timers::Due;
use crate::io::netlink::{Netlink, RouteQuery};
use crate::probe::{Moment, ProbeResult, SizeFound, SizeSearch, Target};

/// Bytes of the smallest packet of a search: one that everything takes.
const SMALLEST: u16 = 84;

/// Searches at once.
const MOST_AT_ONCE: usize = 64;

/// How soon one that has to wait is tried again.
const LATER: Duration = Duration::from_millis(200);

/// What is asked first: a large packet proves nothing where no small one is answered.
const ASKED: [Question; 2] = [Question::TunnelPing, Question::FullPing];

/// Of one inquest.
#[derive(Debug, Default)]
pub(super) struct SizeState {
    /// What became of a packet of full size.
    pub(super) full: Option<ProbeResult>,
    search: Option<SizeSearch>,
    /// Who says what fits.
    told: Option<(Option<IpAddr>, u32)>,
}

impl SizeState {
    pub(super) fn observe(&mut self, size: u16, result: ProbeResult) {
        if let Some(search) = &mut self.search {
            search.observe(size, result == ProbeResult::Ok);
        }
    }

    /// The sizes that are to be tried next; none where the answer is known, or there is none.
    pub(super) fn next_round(&mut self, wanted: u16, small_passes: bool) -> Vec<u16> {
        if self.full.is_none_or(|full| full == ProbeResult::Ok) || !small_passes {
            return Vec::new();
        }
        let Some(search) = &mut self.search else {
            self.search = SizeSearch::new(SMALLEST, wanted);
            let round = self.search.as_ref().map(SizeSearch::round);
            // Once more, since one packet may be lost.
            return round.into_iter().flatten().chain([wanted]).collect();
        };
        search.close_round();
        if search.longest() >= wanted {
            self.full = Some(ProbeResult::Ok);
        }
        search.round()
    }

    pub(super) fn found(&self, wanted: u16) -> Option<SizeFound> {
        let full = self.full?;
        let longest = self.search.as_ref().map(SizeSearch::longest);
        Some(SizeFound {
            wanted,
            full,
            fits: longest.filter(|_| full != ProbeResult::Ok),
            told: self.told,
        })
    }
}

impl Inquests {
    /// What packets of full size found of a backend.
    pub(super) fn size(&self, target: &Target) -> Option<SizeFound> {
        self.sizes.get(target).copied()
    }

    /// Somebody says that packets to a host are too long.
    pub(super) fn hear_too_big(&mut self, to: IpAddr, by: Option<IpAddr>, mtu: u32) {
        for inquest in self.open.iter_mut() {
            if inquest.evidence.address == to && by.is_some() {
                inquest.size.told = Some((by, mtu));
            }
        }
    }
}

impl Inquest {
    /// This host's own kernel refuses a packet as too long.
    pub(super) fn is_told_here(&mut self) {
        let address = self.evidence.address;
        let route = Netlink::open()
            .and_then(|mut netlink| netlink.route_to(address, RouteQuery::default()));
        let mtu = route.ok().and_then(|route| route.mtu);
        self.size.told = mtu.map(|mtu| (None, mtu)).or(self.size.told);
    }
}

impl Engine {
    /// When packets of full size are sent first: like probes, each backend's at another time.
    pub(super) fn plan_size_checks(&mut self, now: Moment) {
        for (position, probed) in self.plan.probed.iter().enumerate() {
            // What is probed past the tunnel does not answer through it.
            if let Some(interval) = probed.mtu_check.filter(|_| probed.is_tunnelled()) {
                let at = now + probed.target.phase(self.seed, interval);
                self.timers.set(at, Due::Size(self.plan.number, position));
            }
        }
    }

    /// Sends packets of full size to the backend at a position of the plan.
    pub(super) fn check_size(&mut self, position: usize, now: Moment) {
        let due = Due::Size(self.plan.number, position);
        if self.inquests.under_way() >= MOST_AT_ONCE {
            return self.timers.set(now + LATER, due);
        }
        let Some(probed) = self.plan.probed.get(position).cloned() else {
            return;
        };
        self.open_inquest(&probed, position, Purpose::Size, &ASKED, now);
        if let Some(interval) = probed.mtu_check {
            self.timers.set(now + interval, due);
        }
    }

    /// What they found.
    pub(super) fn conclude_size(&mut self, position: usize, found: Option<SizeFound>) {
        let (Some(probed), Some(found)) = (self.plan.probed.get(position), found) else {
            return;
        };
        if found.full != ProbeResult::Ok && found.fits.is_none() {
            return; // nothing gets through, which probes tell
        }
        probed.gauge.measure(found);
        let target = probed.target.clone();
        if self.inquests.sizes.insert(target.clone(), found) != Some(found) {
            self.changed.insert(target);
        }
    }
}
