//! Metrics of health checks: of each backend that is measured, and of the thread that measures.

use std::fmt;
use std::time::SystemTime;

use super::families as f;
use super::family::Exposition;
use crate::control::view::View;
use crate::health::Seen;
use crate::probe::{ProbeResult, Target};

/// What is told whether or not single backends are.
pub(super) fn write_totals(out: &mut Exposition<'_>, view: &View) -> fmt::Result {
    let counts = view.gauges.counts();
    let results = ProbeResult::ALL
        .into_iter()
        .filter(|result| result.is_local());
    let failures = results.map(|result| ([result.name()], counts.local(result)));
    out.counters(&f::PROBE_LOCAL_FAILURES, failures)?;
    out.gauge(&f::PROBES_IN_FLIGHT, counts.in_flight())?;
    out.gauge(&f::PROBE_LAG, counts.lag().as_secs_f64())?;
    out.counter(&f::PROBE_STRAYS, counts.strays())
}

pub(super) fn write_backends(out: &mut Exposition<'_>, view: &View) -> fmt::Result {
    let gauges = view.gauges.iter();
    let seen: Vec<_> = gauges
        .map(|(target, gauge)| (Labels::new(target), gauge.seen()))
        .collect();
    let results = seen.iter().flat_map(|(labels, seen)| {
        let counted = ProbeResult::ALL.into_iter().zip(seen.counts);
        let counted = counted.filter(|&(_, count)| count > 0);
        counted.map(|(result, count)| ([labels.vip, &labels.backend, result.name()], count))
    });
    out.counters(&f::BACKEND_PROBES, results)?;
    let each = |value: fn(&Seen) -> Option<f64>| {
        let seen = seen.iter();
        seen.filter_map(move |(labels, seen)| Some(([labels.vip, &labels.backend], value(seen)?)))
    };
    out.gauges(
        &f::BACKEND_PROBE_LAST,
        each(|seen| Some(seen.last?.took.as_secs_f64())),
    )?;
    let changes = seen.iter();
    let changes =
        changes.map(|(labels, seen)| ([labels.vip, labels.backend.as_str()], seen.changes));
    out.counters(&f::BACKEND_HEALTH_CHANGES, changes)?;
    out.gauges(
        &f::BACKEND_HEALTH_CHANGED,
        each(|seen| {
            let since = seen.since.duration_since(SystemTime::UNIX_EPOCH);
            Some(since.unwrap_or_default().as_secs_f64())
        }),
    )?;
    let expiries = seen.iter().filter_map(|(labels, seen)| {
        let expires = seen.certificate_expires?;
        Some(([labels.vip, labels.backend.as_str()], expires))
    });
    out.gauges(&f::CERTIFICATE_EXPIRY, expiries)
}

/// The values of the labels `vip` and `backend`.
struct Labels<'a> {
    vip: &'a str,
    backend: String,
}

impl<'a> Labels<'a> {
    fn new(target: &'a Target) -> Self {
        Self {
            vip: &target.vip,
            backend: target.address.to_string(),
        }
    }
}
