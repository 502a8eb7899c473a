//! What values must be to each other: duplicates, families, who may be whose backend.
//!
//! Each value is right by itself when it gets here; one that is not is skipped.

use std::collections::HashMap;
use std::net::IpAddr;

use super::draft::{BackendDraft, Draft, VipDraft, service_text};
use super::problem::{Fault, Problem, Site};
use super::value::SourceChoice;
use crate::director::BackendState;

/// The problems between the values of `draft`.
pub(super) fn check(draft: &Draft) -> Vec<Problem> {
    let mut problems = Vec::new();
    duplicate_names(&draft.vips, &mut problems);
    duplicate_services(&draft.vips, &mut problems);
    let vip_addresses = vip_addresses(&draft.vips);
    for vip in &draft.vips {
        duplicate_backends(vip, &mut problems);
        backends_that_are_vips(vip, &vip_addresses, &mut problems);
        problems.extend(more_backends_than_slots(vip, draft));
        outer_source(vip, draft, &mut problems);
    }
    problems
}

/// What the configuration lacks as a whole. Apart from [`check`], because a syntax error can hide
/// what is there.
pub(super) fn check_presence(draft: &Draft) -> Vec<Problem> {
    if draft.vips.is_empty() {
        let fault = Fault::new("there is no VIP", "at least one [[vip]]");
        return vec![draft.site.absent("vip").problem(fault)];
    }
    draft.vips.iter().filter_map(nobody_to_answer).collect()
}

fn duplicate_names(vips: &[VipDraft], problems: &mut Vec<Problem>) {
    let mut first: HashMap<String, (&Site, bool)> = HashMap::new();
    for vip in vips {
        let Some(name) = vip.effective_name() else {
            continue;
        };
        let written = vip.name.as_ref().and_then(Option::as_ref);
        let site = written.map_or(&vip.site, |name| &name.site);
        match first.get(&name) {
            // Two names that were both left out are equal only where the services are.
            Some((_, false)) if written.is_none() => {}
            Some((other, _)) => {
                let message = format!("the name {name} is already that of the VIP {other}");
                problems.push(site.problem(Fault::new(message, "another name")));
            }
            None => {
                first.insert(name, (site, written.is_some()));
            }
        }
    }
}

fn duplicate_services(vips: &[VipDraft], problems: &mut Vec<Problem>) {
    let mut first = HashMap::new();
    for vip in vips {
        let (Some(service), Some(address)) = (vip.service(), &vip.address) else {
            continue;
        };
        if let Some(other) = first.get(&service) {
            let text = service_text(service);
            let message = format!("{text} is already the VIP {other}");
            let accepted = "another address, port or protocol; or its backends in the first VIP";
            problems.push(address.site.problem(Fault::new(message, accepted)));
            continue;
        }
        first.insert(service, &address.site);
    }
}

fn duplicate_backends(vip: &VipDraft, problems: &mut Vec<Problem>) {
    let mut first: HashMap<IpAddr, &Site> = HashMap::new();
    for address in vip.backends.iter().filter_map(|b| b.address.as_ref()) {
        if let Some(other) = first.get(&address.value) {
            let message = format!("already a backend of this VIP {other}");
            let fault = Fault::new(message, "each backend once, its share set by weight");
            problems.push(address.site.problem(fault));
            continue;
        }
        first.insert(address.value, &address.site);
    }
}

/// Every VIP address, with the first place that names it.
fn vip_addresses(vips: &[VipDraft]) -> HashMap<IpAddr, &Site> {
    let mut addresses = HashMap::new();
    for address in vips.iter().filter_map(|vip| vip.address.as_ref()) {
        addresses.entry(address.value).or_insert(&address.site);
    }
    addresses
}

/// A tunnel to a VIP would be routed back into the TUN device: a loop.
fn backends_that_are_vips(
    vip: &VipDraft,
    vips: &HashMap<IpAddr, &Site>,
    problems: &mut Vec<Problem>,
) {
    for address in vip.backends.iter().filter_map(|b| b.address.as_ref()) {
        if let Some(other) = vips.get(&address.value) {
            let message = format!("the address of the VIP {other}; its tunnel would loop");
            let accepted = "the backend's own address, where the tunnel ends";
            problems.push(address.site.problem(Fault::new(message, accepted)));
        }
    }
}

fn nobody_to_answer(vip: &VipDraft) -> Option<Problem> {
    if vip.backends.is_empty() {
        let fault = Fault::new("the VIP has no backend", "at least one [[vip.backend]]");
        return Some(vip.site.absent("backend").problem(fault));
    }
    let shares: Vec<_> = vip
        .backends
        .iter()
        .map(weight_and_state)
        .collect::<Option<_>>()?;
    let active = |state| state == BackendState::Active;
    if shares
        .iter()
        .any(|&(weight, state)| weight > 0 && active(state))
    {
        return None;
    }
    let message = if shares.iter().all(|&(weight, _)| weight == 0) {
        "every backend of the VIP has weight 0"
    } else {
        "the VIP has no active backend with a weight above 0"
    };
    let fault = Fault::new(message, "at least one active backend with weight 1 or more");
    Some(vip.site.absent("backend").problem(fault))
}

fn weight_and_state(backend: &BackendDraft) -> Option<(u16, BackendState)> {
    let weight = backend.weight.as_ref()?.value;
    Some((weight, backend.state.as_ref()?.value))
}

fn more_backends_than_slots(vip: &VipDraft, draft: &Draft) -> Option<Problem> {
    let slots = draft.director.ring_size.as_ref()?.value.slots();
    let backends = vip.backends.len();
    if u32::try_from(backends).is_ok_and(|backends| backends <= slots) {
        return None;
    }
    let message = format!("{backends} backends do not fit the ring of {slots} slots");
    let accepted = "a larger director.ring_size, best 100 slots for each backend";
    Some(
        vip.site
            .absent("backend")
            .problem(Fault::new(message, accepted)),
    )
}

/// The outer header has one family, and a host drops a packet that seems to come from itself.
fn outer_source(vip: &VipDraft, draft: &Draft, problems: &mut Vec<Problem>) {
    let Some(source) = &draft.director.encap.source else {
        return;
    };
    let SourceChoice::Fixed(outer) = source.value else {
        return;
    };
    for address in vip.backends.iter().filter_map(|b| b.address.as_ref()) {
        let fault = if address.value.is_ipv4() != outer.is_ipv4() {
            let message = format!("not of the family of director.encap.source {outer}");
            Fault::new(message, "backends of one family, or the source \"auto\"")
        } else if address.value == outer {
            Fault::new(
                "also director.encap.source; a backend drops packets from its own address",
                "an address of the director as source, or \"auto\"",
            )
        } else {
            continue;
        };
        problems.push(address.site.problem(fault));
    }
}
