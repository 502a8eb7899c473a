//! What node_exporter's ipvs collector tells of a host, under its names and labels (collector/ipvs_linux.go), so
//! that dashboards made for it show a director.

use std::fmt;

use super::families as f;
use super::family::Exposition;
use super::rows::{Row, Rows};
use crate::control::view::View;
use crate::director::{PortMatch, Protocol};

pub(super) fn write_totals(out: &mut Exposition<'_>, view: &View) -> fmt::Result {
    let all = view.counters.all_traffic();
    out.counter(&f::IPVS_CONNECTIONS, all.new_flows)?;
    out.counter(&f::IPVS_IN_PACKETS, all.packets)?;
    out.counter(&f::IPVS_IN_BYTES, all.bytes)?;
    out.counter(&f::IPVS_OUT_PACKETS, 0_u64)?;
    out.counter(&f::IPVS_OUT_BYTES, 0_u64)
}

pub(super) fn write_backends(out: &mut Exposition<'_>, rows: &Rows<'_>) -> fmt::Result {
    let rows: Vec<_> = rows.0.iter().map(|row| (labels(row), row)).collect();
    out.gauges(
        &f::IPVS_ACTIVE,
        rows.iter().map(|(of, row)| (of, row.traffic.flows)),
    )?;
    out.gauges(&f::IPVS_INACTIVE, rows.iter().map(|(of, _)| (of, 0_u64)))?;
    let weights = rows
        .iter()
        .filter_map(|(of, row)| Some((of, u64::from(row.weight?))));
    out.gauges(&f::IPVS_WEIGHT, weights)
}

/// Local is the VIP, remote the backend, whose port is the VIP's; 0: any.
fn labels(row: &Row<'_>) -> [String; 6] {
    let service = &row.vip.service;
    let port = match service.port {
        PortMatch::Exact(port) => port.to_string(),
        PortMatch::Any => "0".to_owned(),
    };
    let protocol = match service.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    };
    [
        service.address.to_string(),
        port.clone(),
        row.address.clone(),
        port,
        protocol.to_owned(),
        String::new(),
    ]
}
