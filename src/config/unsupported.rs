//! What the schema knows and this version does not do yet: all of it is refused here, and nowhere
//! else.
//!
//! A value reaches this file only after its syntax was found right. When a feature arrives, its
//! line here goes, and [`Draft::finish`] learns the value.

use std::net::IpAddr;

use super::draft::{
    Datapath, Draft, Echo, EgressChoice, EncapKind, Extra, HealthDraft, HealthKind, VipDraft,
};
use super::problem::{Fault, Problem, Written};
use super::value::{Choice, LEFT_OUT, SourceChoice};
use crate::director::{AllDown, BackendState, HashFields, PortMatch, Protocol};

/// Whether this version does what a value asks for.
pub(super) trait Supported {
    fn is_supported(&self) -> bool {
        true
    }
}

impl Supported for Protocol {}

impl Supported for BackendState {}

impl Supported for Datapath {
    fn is_supported(&self) -> bool {
        *self == Self::Tun
    }
}

impl Supported for EgressChoice {
    fn is_supported(&self) -> bool {
        *self != Self::Packet
    }
}

impl Supported for EncapKind {
    fn is_supported(&self) -> bool {
        *self == Self::Ipip
    }
}

impl Supported for HashFields {
    fn is_supported(&self) -> bool {
        *self == Self::FiveTuple
    }
}

impl Supported for AllDown {
    fn is_supported(&self) -> bool {
        *self == Self::Forward
    }
}

impl Supported for HealthKind {
    fn is_supported(&self) -> bool {
        *self == Self::None
    }
}

impl Supported for Echo {
    fn is_supported(&self) -> bool {
        false
    }
}

impl Supported for PortMatch {
    fn is_supported(&self) -> bool {
        *self != Self::Any
    }
}

impl Supported for SourceChoice {
    fn is_supported(&self) -> bool {
        *self != Self::Entropy
    }
}

/// IPv6 needs the encapsulations 6in4, 4in6 and 6in6.
impl Supported for IpAddr {
    fn is_supported(&self) -> bool {
        self.is_ipv4()
    }
}

/// The problems of everything in `draft` that is right but not supported yet.
pub(super) fn refuse(draft: &Draft) -> Vec<Problem> {
    let mut problems = Vec::new();
    let director = &draft.director;
    problems.extend(choice(&director.datapath));
    problems.extend(key(&director.interface));
    problems.extend(choice(&director.egress));
    problems.extend(key(&director.api));
    problems.extend(key(&director.metrics));
    problems.extend(choice(&director.encap.kind));
    problems.extend(key(&director.encap.port));
    let source = "\"auto\" or an address of this host such as \"10.0.1.1\"";
    problems.extend(value(&director.encap.source, source));
    for vip in &draft.vips {
        refuse_vip(vip, &mut problems);
    }
    problems
}

fn refuse_vip(vip: &VipDraft, problems: &mut Vec<Problem>) {
    problems.extend(ipv6(&vip.address));
    problems.extend(value(&vip.port, "a port from 1 to 65535"));
    problems.extend(choice(&vip.hash));
    problems.extend(key(&vip.echo));
    problems.extend(choice(&vip.all_down));
    if let Some(health) = &vip.health {
        refuse_health(health, problems);
    }
    for backend in &vip.backends {
        problems.extend(ipv6(&backend.address));
    }
}

/// One problem for the probe as a whole; without a probe one for each key that describes it.
fn refuse_health(health: &HealthDraft, problems: &mut Vec<Problem>) {
    let Some(kind) = &health.kind else { return };
    if !kind.value.is_supported() {
        problems.extend(choice(&health.kind));
        return;
    }
    let fault = || Fault::new("has no effect while kind is \"none\"", LEFT_OUT);
    problems.extend(health.details.iter().map(|site| site.problem(fault())));
}

const NOT_YET: &str = "not supported yet";

/// Refuses a key whatever its value.
fn key<T>(extra: &Extra<T>) -> Option<Problem> {
    let written = extra.as_ref()?;
    Some(written.site.problem(Fault::new(NOT_YET, LEFT_OUT)))
}

fn choice<T: Choice>(field: &Option<Written<T>>) -> Option<Problem> {
    value(field, &T::accepted())
}

fn value<T: Supported>(field: &Option<Written<T>>, accepted: &str) -> Option<Problem> {
    let written = field.as_ref()?;
    let refused = !written.value.is_supported();
    refused.then(|| written.site.problem(Fault::new(NOT_YET, accepted)))
}

fn ipv6(field: &Option<Written<IpAddr>>) -> Option<Problem> {
    let written = field.as_ref()?;
    let fault = || Fault::new("IPv6 is not supported yet", "an IPv4 address");
    (!written.value.is_supported()).then(|| written.site.problem(fault()))
}
