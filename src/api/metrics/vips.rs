//! Metrics of VIPs.

use std::fmt;

use super::families as f;
use super::family::Exposition;
use super::rows::health;
use crate::control::announce::Announce;
use crate::control::view::View;
use crate::director::{Backend, BackendState, DropReason, Health, Takes, Vip};

/// The states of a backend, in the order of the output.
const STATES: [BackendState; 3] = [
    BackendState::Active,
    BackendState::Draining,
    BackendState::Disabled,
];

/// Reasons that a VIP always has a value for, so that an alert sees the first packet, too.
const ALWAYS: [DropReason; 2] = [DropReason::NoBackend, DropReason::TooBig];

/// A VIP's backends, counted.
#[derive(Debug, Default, Clone, Copy)]
struct Count {
    /// As [`STATES`] lists them.
    states: [u64; STATES.len()],
    healthy: u64,
    take_new: u64,
    is_fail_open: bool,
}

pub(super) fn write(out: &mut Exposition<'_>, view: &View) -> fmt::Result {
    let counts: Vec<_> = view
        .snapshot
        .vips()
        .iter()
        .map(|vip| (vip.name.as_str(), Count::new(view, vip)))
        .collect();
    let each = |value: fn(&Count) -> u64| {
        let counts = counts.iter();
        counts.map(move |(name, count)| ([*name], value(count)))
    };
    let words = STATES.map(|state| state.to_string());
    let states = counts.iter().flat_map(|(name, count)| {
        let states = words.iter().zip(count.states);
        states.map(|(state, backends)| ([*name, state.as_str()], backends))
    });
    out.gauges(&f::VIP_BACKENDS, states)?;
    out.gauges(&f::VIP_HEALTHY, each(|count| count.healthy))?;
    out.counters(&f::VIP_DROPS, drops(view))?;
    out.gauges(&f::VIP_TAKE_NEW, each(|count| count.take_new))?;
    let vips = || view.snapshot.vips().iter();
    let changes = vips().map(|vip| ([vip.name.as_str()], vip.ring_changes));
    out.counters(&f::VIP_RING_CHANGES, changes)?;
    let fingerprints = vips().filter_map(|vip| Some(([vip.name.as_str()], vip.fingerprint()?)));
    out.gauges(&f::VIP_RING_FINGERPRINT, fingerprints)?;
    out.gauges(
        &f::VIP_FAIL_OPEN,
        each(|count| u64::from(count.is_fail_open)),
    )?;
    let announced = vips().filter_map(|vip| {
        let announced = view.announced(vip.address())?;
        let is_up = announced.state == Announce::Up;
        Some(([vip.name.as_str()], u64::from(is_up)))
    });
    out.gauges(&f::VIP_ANNOUNCED, announced)
}

fn drops(view: &View) -> impl Iterator<Item = ([&str; 2], u64)> {
    let reasons = view
        .snapshot
        .vips()
        .iter()
        .flat_map(|vip| DropReason::ALL.map(|reason| (vip, reason)));
    reasons.filter_map(|(vip, reason)| {
        let packets = view.counters.vip_drops(vip.seat, reason);
        let is_told = packets > 0 || ALWAYS.contains(&reason);
        is_told.then_some(([vip.name.as_str(), reason.name()], packets))
    })
}

impl Count {
    fn new(view: &View, vip: &Vip) -> Self {
        let mut count = Self::default();
        let backends = vip.backends().iter();
        for backend in backends.filter_map(|&index| view.snapshot.backend(index)) {
            count.add(&backend, health(view, vip, &backend));
        }
        count
    }

    fn add(&mut self, backend: &Backend<'_>, health: Health) {
        for (state, backends) in STATES.into_iter().zip(&mut self.states) {
            *backends += u64::from(state == backend.state);
        }
        let is_healthy = health.is_up();
        let takes_new = backend.takes == Takes::NewFlows;
        self.healthy += u64::from(is_healthy);
        self.take_new += u64::from(takes_new);
        self.is_fail_open |= takes_new && !is_healthy;
    }
}
