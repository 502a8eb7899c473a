//! Metrics of the director itself.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use super::Beside;
use super::families as f;
use super::family::{Exposition, NONE};
use crate::api::status::readiness;
use crate::control::view::{Identity, View};
use crate::director::{BURST_SIZES, CounterReader, DropReason, FlowClass, SendErrno};
use crate::io::usage::Usage;

pub(super) fn write(
    out: &mut Exposition<'_>,
    identity: &Identity,
    view: &View,
    beside: &Beside,
) -> fmt::Result {
    let build = [env!("CARGO_PKG_VERSION"), env!("TUNLB_COMMIT")];
    out.gauges(&f::BUILD, [(build, 1_u64)])?;
    write_process(out)?;
    write_state(out, view)?;
    write_snapshots(out, view)?;
    let requests = beside.requests.all();
    let requests = requests
        .iter()
        .map(|(route, code, count)| ([(*route).to_owned(), code.to_string()], *count));
    out.counters(&f::API_REQUESTS, requests)?;
    write_packets(out, view, beside)?;
    let driven = identity.driver.iter().flat_map(|driver| driver.packets());
    out.counters(&f::XDP_PACKETS, driven.map(|(way, count)| ([way], count)))?;
    write_tables(out, &view.counters)?;
    let ages = identity
        .workers
        .iter()
        .enumerate()
        .map(|(worker, link)| ([worker.to_string()], link.heartbeat.age().as_secs_f64()));
    out.gauges(&f::HEARTBEAT, ages)
}

fn write_process(out: &mut Exposition<'_>) -> fmt::Result {
    let usage = Usage::read();
    let none = |value| (NONE, value);
    let seconds = |time: Option<Duration>| time.map(|time| none(time.as_secs_f64()));
    out.gauges(&f::PROCESS_START, seconds(usage.started))?;
    out.counters(&f::PROCESS_CPU, seconds(usage.cpu))?;
    out.gauges(
        &f::PROCESS_MEMORY,
        usage.resident_bytes.map(|bytes| (NONE, bytes)),
    )?;
    out.gauges(
        &f::PROCESS_FILES,
        usage.open_files.map(|files| (NONE, files)),
    )
}

fn write_state(out: &mut Exposition<'_>, view: &View) -> fmt::Result {
    out.gauge(&f::READY, u64::from(readiness(view).ok))?;
    out.gauges(&f::HOST_PROBLEM, problems(view))?;
    let last = view.last_reload.as_ref();
    let is_applied = last.is_none_or(|last| last.problems.is_empty());
    out.gauge(&f::RELOAD_SUCCESSFUL, u64::from(is_applied))?;
    out.gauge(&f::RELOAD_SUCCESS_TIME, after_epoch(view.loaded))?;
    out.gauge(&f::OVERRIDES, view.overlay.len() as u64)?;
    let oldest = view.overlay.iter().map(|(_, set)| set.made).min();
    let oldest = oldest.map(|made| (NONE, after_epoch(made)));
    out.gauges(&f::OVERRIDE_OLDEST, oldest)
}

/// By kind: what a problem is about, such as an address, is in `status` and in the log.
fn problems(view: &View) -> BTreeMap<[&str; 1], u64> {
    let mut problems = BTreeMap::new();
    for problem in view.problems.iter() {
        let kind = problem.what.split_whitespace().next().unwrap_or_default();
        *problems.entry([kind]).or_default() += 1;
    }
    problems
}

fn write_snapshots(out: &mut Exposition<'_>, view: &View) -> fmt::Result {
    out.gauge(&f::SNAPSHOT_EPOCH, view.snapshot.epoch())?;
    let end = |bound: Option<Duration>| bound.map_or(f64::INFINITY, |bound| bound.as_secs_f64());
    let buckets = view
        .builds
        .buckets()
        .map(|(bound, count)| (end(bound), count));
    let buckets: Vec<_> = buckets.collect();
    out.histogram(
        &f::SNAPSHOT_BUILD,
        &buckets,
        view.builds.sum().as_secs_f64(),
    )
}

fn write_packets(out: &mut Exposition<'_>, view: &View, beside: &Beside) -> fmt::Result {
    let counters = &view.counters;
    let all = counters.all_traffic();
    out.counter(&f::FORWARDED_PACKETS, all.packets)?;
    out.counter(&f::FORWARDED_BYTES, all.bytes)?;
    let drops = DropReason::ALL.map(|reason| ([reason.name()], counters.dropped(reason)));
    out.counters(&f::DROPS, drops)?;
    out.counter(&f::REPLIES, counters.replied())?;
    out.counter(&f::TUN_DROPPED, beside.losses.tun_drops)?;
    let devices = beside.losses.device_drops.iter();
    let devices = devices.map(|(device, drops)| ([device.as_str()], *drops));
    out.counters(&f::DEVICE_DROPPED, devices)?;
    let errors = SendErrno::ALL.map(|errno| ([errno.name()], counters.send_errors(errno)));
    out.counters(&f::SEND_ERRORS, errors)
}

fn write_tables(out: &mut Exposition<'_>, counters: &CounterReader) -> fmt::Result {
    out.gauge(&f::FLOWS, counters.flows())?;
    out.gauge(&f::FLOWS_LIMIT, counters.flow_bound())?;
    let evictions = FlowClass::ALL.map(|class| ([class.name()], counters.evicted(class)));
    out.counters(&f::FLOW_EVICTIONS, evictions)?;
    out.gauge(&f::FRAGMENTS_HELD, counters.fragments_held())?;
    let bursts = counters.bursts();
    let sizes = BURST_SIZES.into_iter().map(approximate);
    let buckets: Vec<_> = sizes.zip(bursts.of_size).collect();
    out.histogram(&f::BATCH, &buckets, approximate(bursts.packets))
}

/// The nearest number that a histogram can have; exact up to 2⁵³.
const fn approximate(number: u64) -> f64 {
    number as f64
}

/// In seconds after the Unix epoch.
fn after_epoch(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
