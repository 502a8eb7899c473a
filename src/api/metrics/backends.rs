//! Metrics of single backends.

use std::fmt;

use super::families as f;
use super::family::{Exposition, Family};
use super::rows::{Row, Rows};
use crate::director::{Health, Takes};

pub(super) fn write(out: &mut Exposition<'_>, rows: &Rows<'_>) -> fmt::Result {
    let mut count = |family: &Family, value: fn(&Row<'_>) -> u64| {
        let values = rows.0.iter().map(|row| (row.labels(), value(row)));
        out.counters(family, values)
    };
    count(&f::BACKEND_PACKETS, |row| row.traffic.packets)?;
    count(&f::BACKEND_BYTES, |row| row.traffic.bytes)?;
    count(&f::BACKEND_NEW_FLOWS, |row| row.traffic.new_flows)?;
    count(&f::BACKEND_UNTRACKED, |row| row.traffic.untracked)?;
    let mut tell = |family: &Family, value: fn(&Row<'_>) -> Option<u64>| {
        let values = rows.0.iter().filter_map(|row| Some((row.labels(), value(row)?)));
        out.gauges(family, values)
    };
    tell(&f::BACKEND_FLOWS, |row| Some(row.traffic.flows))?;
    tell(&f::BACKEND_WEIGHT, |row| row.weight.map(u64::from))?;
    tell(&f::BACKEND_TAKES_NEW, |row| Some((row.takes == Takes::NewFlows).into()))?;
    tell(&f::BACKEND_HEALTHY, |row| Some((row.health == Health::Healthy).into()))
}
