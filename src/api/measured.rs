//! What probes found of a backend, as the documents say it.

use std::time::{Duration, SystemTime};

use super::model::{Cause, Health, LastProbe, TunnelMtu};
use crate::health::Gauge;
use crate::probe::{self, Standing};
use crate::text::time::rfc3339;

/// All but what an operator says.
pub(super) fn shown(gauge: &Gauge) -> Health {
    let seen = gauge.seen();
    let status = match seen.standing {
        _ if gauge.is_unknown() => "unknown",
        Standing::Trial => "trial",
        Standing::Healthy => "healthy",
        Standing::Unhealthy => "unhealthy",
    };
    Health {
        status: status.to_owned(),
        since: Some(rfc3339(seen.since)),
        changes: seen.changes,
        result: seen.last.map(|last| last.result.to_string()),
        streak: seen.streak,
        last: seen.last.map(|last| LastProbe {
            at: rfc3339(last.at),
            seconds: last.took.as_secs_f64(),
        }),
        cause: seen.cause.map(told),
        mtu: seen.size.map(|size| TunnelMtu {
            wanted: size.wanted,
            fits: size.fits.unwrap_or(size.wanted),
            cause: size.cause().filter(|_| size.is_black_hole()).map(told),
        }),
        damped_until: seen.held_until.map(rfc3339),
        certificate_expires: seen
            .certificate_expires
            .map(|seconds| rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))),
        via: Some(gauge.check().via.name().to_owned()),
        slow_start_percent: None,
        overridden: None,
    }
}

fn told(cause: probe::Cause) -> Cause {
    Cause {
        text: cause.text,
        codes: cause.codes.into_iter().map(str::to_owned).collect(),
    }
}
