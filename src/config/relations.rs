//! What values must be to each other: duplicates, families, who may be whose backend.
//!
//! Each value is right by itself when it gets here; one that is not is skipped.

use std::collections::HashMap;
use std::net::IpAddr;

use super::draft::{BackendDraft, DirectorDraft, Draft, TunnelDraft, VipDraft, service_text};
use super::problem::{Fault, Problem, Site, Written};
use super::problems::Collector;
use super::source::{self, OuterSource, SourceChoice};
use super::value::LEFT_OUT;
use super::workers::cpus_for_workers;
use super::{ApiSocket, Neighbour, datapath, health};
use crate::director::{BackendState, Mss, Protocol};
use crate::packet::{EncapKind, SourceRule};

/// Finds the problems between the values of `draft`.
pub(super) fn check(draft: &Draft, problems: &mut Collector) {
    duplicate_names(&draft.vips, problems);
    duplicate_services(&draft.vips, problems);
    echo_of_each_address(draft, problems);
    health::check(&draft.vips, problems);
    let vip_addresses = vip_addresses(&draft.vips);
    problems.extend(tun_with_neighbours(&draft.director));
    problems.extend(cpus_for_workers(&draft.director));
    problems.extend(group_without_api(&draft.director));
    problems.extend(datapath::check(&draft.director));
    let encap = &draft.director.encap;
    problems.extend(port_without_gue(&encap.tunnel, EncapKind::default()));
    let inherited = encap.tunnel.finish(EncapKind::default());
    for vip in &draft.vips {
        duplicate_backends(vip, problems);
        problems.extend(mss_without_tcp(vip));
        backends_that_are_vips(vip, &vip_addresses, problems);
        problems.extend(more_backends_than_slots(vip, draft));
        problems.extend(inherited.and_then(|kind| port_without_gue(&vip.encap, kind)));
        if let Some(source) = &encap.source {
            outer_source(vip, source.value, problems);
        }
    }
}

/// Finds what the configuration lacks as a whole. Apart from [`check`], because a syntax error can
/// hide what is there.
pub(super) fn check_presence(draft: &Draft, problems: &mut Collector) {
    if draft.vips.is_empty() {
        let fault = Fault::new("there is no VIP", "at least one [[vip]]");
        problems.push_missing(draft.site.absent("vip").problem(fault));
    }
    for missing in draft.vips.iter().filter_map(nobody_to_answer) {
        problems.push_missing(missing);
    }
}

/// The director answers where clients are, which is not inside itself.
fn tun_with_neighbours(director: &DirectorDraft) -> Option<Problem> {
    let (neighbour, tun) = (director.neighbour.as_ref()?, director.tun.as_ref()?);
    let same = neighbour.value == Neighbour::Device(tun.value.clone());
    let fault = || {
        let message = "the director's own TUN: no client is behind it";
        Fault::new(
            message,
            "a device of the clients' network, \"auto\" or \"off\"",
        )
    };
    same.then(|| neighbour.site.problem(fault()))
}

/// A group owns what is there.
fn group_without_api(director: &DirectorDraft) -> Option<Problem> {
    let (group, api) = (director.api_group.as_ref()?, director.api.as_ref()?);
    let fault = || Fault::new("has no effect while director.api is \"off\"", LEFT_OUT);
    (api.value == ApiSocket::Off).then(|| group.site.problem(fault()))
}

fn duplicate_names(vips: &[VipDraft], problems: &mut Collector) {
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

fn duplicate_services(vips: &[VipDraft], problems: &mut Collector) {
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

fn duplicate_backends(vip: &VipDraft, problems: &mut Collector) {
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
fn backends_that_are_vips(vip: &VipDraft, vips: &HashMap<IpAddr, &Site>, problems: &mut Collector) {
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

/// Only TCP has a maximum segment size.
fn mss_without_tcp(vip: &VipDraft) -> Option<Problem> {
    let (mss, protocol) = (vip.mss.as_ref()?, vip.protocol.as_ref()?);
    let meant = mss.value == Mss::Clamp && protocol.value != Protocol::Tcp;
    let fault = || {
        Fault::new(
            "the protocol of this VIP has no segments",
            "protocol \"tcp\"",
        )
    };
    meant.then(|| mss.site.problem(fault()))
}

/// ICMP echo has no port, so an address has one answer to it.
fn echo_of_each_address(draft: &Draft, problems: &mut Collector) {
    let first = draft.echoes();
    for vip in &draft.vips {
        let (Some(address), Some(Some(echo))) = (&vip.address, &vip.echo) else {
            continue;
        };
        let others = first.get(&address.value);
        let Some(other) = others.filter(|other| other.value != echo.value) else {
            continue;
        };
        let message = format!(
            "the VIP with the same address has echo \"{}\" {}, and an echo request names no port",
            other.value, other.site
        );
        let accepted = format!("\"{}\", or {LEFT_OUT}", other.value);
        problems.push(echo.site.problem(Fault::new(message, accepted)));
    }
}

/// Only GUE has a port.
fn port_without_gue(tunnel: &TunnelDraft, inherited: EncapKind) -> Option<Problem> {
    let port = tunnel.port.as_ref()?.as_ref()?;
    let fault = || {
        Fault::new(
            "port applies only to kind \"gue\"",
            "the kind \"gue\", or no port",
        )
    };
    let is_ipip = tunnel.finish(inherited)? == EncapKind::Ipip;
    is_ipip.then(|| port.site.problem(fault()))
}

/// The outer header has one family, and a host drops a packet that seems to come from itself.
fn outer_source(vip: &VipDraft, choice: SourceChoice, problems: &mut Collector) {
    let source = choice.source();
    if let Some(address) = &vip.address {
        problems.extend(source_is_own(address, &source));
    }
    for address in vip.backends.iter().filter_map(|b| b.address.as_ref()) {
        problems.extend(source_of_other_family(address, choice));
        problems.extend(source_is_own(address, &source));
    }
}

fn source_of_other_family(backend: &Written<IpAddr>, choice: SourceChoice) -> Option<Problem> {
    let SourceChoice::One(rule) = choice else {
        return None;
    };
    if backend.value.is_ipv4() == source::is_ipv4(rule) {
        return None;
    }
    let rule = source::text(rule);
    let message = format!("not of the family of director.encap.source {rule}");
    let accepted = format!(
        "source = [\"{rule}\"], an array, which leaves the other family to \"auto\" or has an \
         entry for it; or backends of one family"
    );
    Some(backend.site.problem(Fault::new(message, accepted)))
}

/// `address` is a backend's or a VIP's, and the backends have both as their own.
fn source_is_own(address: &Written<IpAddr>, source: &OuterSource) -> Option<Problem> {
    const WHY: &str = "a backend drops packets from its own address";
    let rule = source.rule_for(address.value)?;
    let fault = match rule {
        SourceRule::Fixed(outer) if outer == address.value => Fault::new(
            format!("also director.encap.source; {WHY}"),
            "an address of the director as source, or \"auto\"",
        ),
        SourceRule::Entropy(prefix) if prefix.net().contains(&address.value) => Fault::new(
            format!("within director.encap.source {}; {WHY}", prefix.net()),
            "a prefix as source in which there is no VIP and no backend",
        ),
        SourceRule::Fixed(_) | SourceRule::Entropy(_) => return None,
    };
    Some(address.site.problem(fault))
}
