//! Every backend with what its metrics say, read once for each scrape.

use crate::config::Config;
use crate::control::view::View;
use crate::director::{Backend, BackendIndex, BackendSpec, Health, Takes, Traffic, Vip, VipSpec};
use crate::probe::SizeFound;

/// A backend.
#[derive(Debug)]
pub(super) struct Row<'a> {
    pub(super) vip: &'a Vip,
    pub(super) address: String,
    pub(super) takes: Takes,
    /// Absent for a moment while another configuration is being applied.
    pub(super) weight: Option<u16>,
    pub(super) health: Health,
    /// What packets of full size found, where they are sent.
    pub(super) size: Option<SizeFound>,
    pub(super) traffic: Traffic,
    /// Of the VIP's ring, 0 to 1.
    pub(super) share: f64,
}

/// All backends, in the order of the configuration.
#[derive(Debug)]
pub(super) struct Rows<'a>(pub(super) Vec<Row<'a>>);

impl<'a> Rows<'a> {
    pub(super) fn new(view: &'a View) -> Self {
        let vips = view.snapshot.vips().iter();
        Self(vips.flat_map(|vip| of_vip(view, vip)).collect())
    }
}

fn of_vip<'a>(view: &'a View, vip: &'a Vip) -> Vec<Row<'a>> {
    let slots = vip.slots().map_or(1.0, f64::from);
    let mut shares: Vec<_> = vip.shares().collect();
    shares.sort_unstable_by_key(|&(index, _)| index.position());
    let share = |index: BackendIndex| {
        let found = shares.binary_search_by_key(&index.position(), |&(index, _)| index.position());
        found.map_or(0.0, |at| f64::from(shares[at].1) / slots)
    };
    let indices = vip.backends().iter().enumerate();
    let row = |(place, &index): (usize, &BackendIndex)| {
        let backend = view.snapshot.backend(index)?;
        Some(Row {
            vip,
            address: backend.address.to_string(),
            takes: backend.takes,
            weight: spec(&view.effective, vip, place, &backend).map(|spec| spec.weight),
            health: health(view, vip, &backend),
            size: size(view, vip, &backend),
            traffic: view.counters.traffic(index),
            share: share(index),
        })
    };
    indices.filter_map(row).collect()
}

impl Row<'_> {
    /// The values of the labels `vip` and `backend`.
    pub(super) fn labels(&self) -> [&str; 2] {
        [&self.vip.name, &self.address]
    }
}

fn size(view: &View, vip: &Vip, backend: &Backend<'_>) -> Option<SizeFound> {
    let spec = spec_of_vip(view, vip, backend)?;
    view.gauge(spec, backend.address)?.seen().size
}

fn spec_of_vip<'a>(view: &'a View, vip: &Vip, backend: &Backend<'_>) -> Option<&'a VipSpec> {
    let spec = view.effective.vips.get(backend.vip.position());
    spec.filter(|spec| spec.name == vip.name)
}

/// What is known of its health.
pub(super) fn health(view: &View, vip: &Vip, backend: &Backend<'_>) -> Health {
    let spec = spec_of_vip(view, vip, backend);
    spec.map(|spec| view.health(spec, backend.address))
        .unwrap_or_default()
}

/// The backend at `place` of the VIP as it is configured, where that is the configuration of the snapshot.
fn spec<'a>(
    config: &'a Config,
    vip: &Vip,
    place: usize,
    backend: &Backend<'_>,
) -> Option<&'a BackendSpec> {
    let of = config.vips.get(backend.vip.position())?;
    let spec = of.backends.get(place)?;
    (of.name == vip.name && spec.address == backend.address).then_some(spec)
}
