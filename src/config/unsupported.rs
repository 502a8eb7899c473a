//! What the schema knows and this version does not do yet: all of it is refused here, and nowhere
//! else.
//!
//! A value reaches this file only after its syntax was found right. When a feature arrives, its
//! line here goes, and [`Draft::finish`] learns the value.

use super::draft::Draft;
use super::health::HealthKind;
use super::problem::{Fault, Problem, Written};
use super::problems::Collector;
use super::value::Choice;
use super::{Compat, Datapath, Egress, XdpMode};
use crate::director::{AllDown, BackendState, Echo, HashFields, Mss, Protocol};
use crate::packet::EncapKind;

/// Whether this version does what a value asks for.
pub(super) trait Supported {
    fn is_supported(&self) -> bool {
        true
    }
}

impl Supported for Protocol {}

impl Supported for BackendState {}

impl Supported for Datapath {}

impl Supported for XdpMode {}

impl Supported for Egress {}

impl Supported for EncapKind {}

impl Supported for HashFields {}

impl Supported for Echo {}

impl Supported for Mss {}

impl Supported for AllDown {}

impl Supported for Compat {}

/// Refuses everything in `draft` that is right but not supported yet.
pub(super) fn refuse(draft: &Draft, problems: &mut Collector) {
    let director = &draft.director;
    problems.extend(choice(&director.datapath));
    for health in draft.vips.iter().filter_map(|vip| vip.health.as_ref()) {
        problems.extend(health.kind.as_ref().and_then(kind));
    }
}

const NOT_YET: &str = "not supported yet";

/// A kind that this build was made without.
fn kind(field: &Option<Written<HealthKind>>) -> Option<Problem> {
    let written = field.as_ref()?;
    let fault = || {
        Fault::new(
            "not in this build: it needs the cargo feature \"https\"",
            "\"tls\", \"http\" on another port, or a build with --features https",
        )
    };
    (!written.value.is_supported()).then(|| written.site.problem(fault()))
}

fn choice<T: Choice>(field: &Option<Written<T>>) -> Option<Problem> {
    let written = field.as_ref()?;
    let refused = !written.value.is_supported();
    refused.then(|| written.site.problem(Fault::new(NOT_YET, T::accepted())))
}
