//! Metrics of single backends.

use std::fmt;

use super::families as f;
use super::family::{Exposition, Family};
use super::rows::{Row, Rows};
use crate::director::Takes;

pub(super) fn write(out: &mut Exposition<'_>, rows: &Rows<'_>) -> fmt::Result {
    count(out, rows, &f::BACKEND_PACKETS, |row| row.traffic.packets)?;
    count(out, rows, &f::BACKEND_BYTES, |row| row.traffic.bytes)?;
    count(out, rows, &f::BACKEND_NEW_FLOWS, |row| {
        row.traffic.new_flows
    })?;
    count(out, rows, &f::BACKEND_UNTRACKED, |row| {
        row.traffic.untracked
    })?;
    tell(out, rows, &f::BACKEND_FLOWS, |row| row.traffic.flows)?;
    let weighed = rows
        .0
        .iter()
        .filter_map(|row| Some((row.labels(), u64::from(row.weight?))));
    out.gauges(&f::BACKEND_WEIGHT, weighed)?;
    let shares = rows.0.iter().map(|row| (row.labels(), row.share));
    out.gauges(&f::BACKEND_RING_SHARE, shares)?;
    tell(out, rows, &f::BACKEND_TAKES_NEW, |row| {
        u64::from(row.takes == Takes::NewFlows)
    })?;
    tell(out, rows, &f::BACKEND_HEALTHY, |row| {
        u64::from(row.health.is_up())
    })?;
    let sizes = || {
        let sized = rows.0.iter().filter_map(|row| Some((row, row.size?)));
        sized.collect::<Vec<_>>()
    };
    let fits = sizes().into_iter().map(|(row, size)| {
        let fits = size.fits.unwrap_or(size.wanted);
        (row.labels(), u64::from(fits))
    });
    out.gauges(&f::BACKEND_TUNNEL_MTU, fits)?;
    let holes = sizes().into_iter();
    let holes = holes.map(|(row, size)| (row.labels(), u64::from(size.is_black_hole())));
    out.gauges(&f::BACKEND_BLACK_HOLE, holes)
}

/// A counter of each.
fn count(
    out: &mut Exposition<'_>,
    rows: &Rows<'_>,
    family: &Family,
    value: fn(&Row<'_>) -> u64,
) -> fmt::Result {
    out.counters(family, rows.0.iter().map(|row| (row.labels(), value(row))))
}

/// A gauge of each.
fn tell(
    out: &mut Exposition<'_>,
    rows: &Rows<'_>,
    family: &Family,
    value: fn(&Row<'_>) -> u64,
) -> fmt::Result {
    out.gauges(family, rows.0.iter().map(|row| (row.labels(), value(row))))
}
