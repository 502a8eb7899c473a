//! Overrides as they are shown.

use std::net::IpAddr;
use std::time::SystemTime;

use super::model::{Author, Override, OverrideKeys};
use crate::control::overlay;
use crate::text::time::rfc3339;

/// One override of a backend.
pub(super) fn shown(
    vip: &str,
    address: IpAddr,
    set: &overlay::Override,
    now: SystemTime,
) -> Override {
    let left = |end: SystemTime| end.duration_since(now).unwrap_or_default().as_secs();
    Override {
        vip: vip.to_owned(),
        address,
        set: OverrideKeys {
            present: set.present,
            weight: set.weight,
            state: set.state.map(|state| state.to_string()),
            health: set
                .health
                .map(|health| overlay::health_word(health).to_owned()),
        },
        made: rfc3339(set.made),
        expires: set.expires.map(rfc3339),
        expires_in_seconds: set.expires.map(left),
        by: author(&set.by),
        reason: set.reason.clone(),
    }
}

/// Who made a change.
pub(super) fn author(by: &overlay::Author) -> Author {
    Author {
        uid: by.uid,
        user: by.user.clone(),
        pid: by.pid,
    }
}
