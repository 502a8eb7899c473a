//! The schema of the file: one reader for each section, each naming its keys and their defaults.
//!
//! Readers only read. What is not supported yet is refused in [`unsupported`](super::unsupported),
//! what values must be to each other is judged in [`relations`](super::relations).

use toml::de::DeTable;

use super::draft::{
    BackendDraft, DirectorDraft, Draft, EncapDraft, MetricsDraft, TimeoutsDraft, TunnelDraft,
    VipDraft,
};
use super::problems::Collector;
use super::section::{Document, Section};
use super::source::{self, SourceChoice};
use super::value;
use super::{DirectorConfig, Egress, EncapConfig, datapath, health, listen, neighbour, workers};
use crate::director::{AllDown, BackendState, FlowTimeouts, HashFields, Mss};

pub(super) fn read(
    document: &Document<'_>,
    table: &DeTable<'_>,
    problems: &mut Collector,
) -> Draft {
    let mut root = Section::root(document, table);
    let director = match root.table("director", problems) {
        Some(section) => director(section, problems),
        None => DirectorDraft::default_at(root.site()),
    };
    let metrics = root.table("metrics", problems);
    let metrics = metrics.map(|section| self::metrics(section, problems));
    let vips = root.tables("vip", problems);
    let draft = Draft {
        director,
        metrics: metrics.unwrap_or_default(),
        vips: vips
            .into_iter()
            .map(|section| vip(section, problems))
            .collect(),
        site: root.site().clone(),
    };
    root.finish(problems);
    draft
}

fn director(mut section: Section<'_>, problems: &mut Collector) -> DirectorDraft {
    let default = DirectorConfig::default();
    let encap = match section.table("encap", problems) {
        Some(section) => encap(section, problems),
        None => EncapDraft::default_at(section.site()),
    };
    let timeouts = match section.table("timeouts", problems) {
        Some(section) => self::timeouts(section, problems),
        None => TimeoutsDraft::default_at(section.site()),
    };
    let draft = DirectorDraft {
        tun: section.or_default("tun", default.tun, problems, value::device),
        workers: section.or_default("workers", workers::DEFAULT_COUNT, problems, workers::count),
        cpus: section.or_default("cpus", default.cpus, problems, workers::cpus),
        busy_poll: section.or_default("busy_poll", default.busy_poll, problems, workers::busy_poll),
        queue_length: section.or_default(
            "queue_length",
            default.queue_length,
            problems,
            workers::queue_length,
        ),
        datapath: section.or_default("datapath", default.datapath, problems, value::choice),
        interface: section.absent_or("interface", problems, datapath::interfaces),
        xdp_mode: section.or_default("xdp_mode", default.xdp_mode, problems, value::choice),
        egress: section.or_default("egress", Egress::Auto, problems, value::choice),
        neighbour: section.or_default("neighbour", default.neighbour, problems, neighbour::read),
        api: section.or_default("api", default.api, problems, listen::api),
        api_group: section.optional("api_group", problems, listen::group),
        metrics: section.or_default("metrics", default.metrics, problems, listen::metrics),
        hash_key: section.secret("hash_key", default.hash_key, problems, value::hash_key),
        ring_size: section.or_default("ring_size", default.ring_size, problems, value::ring_size),
        flows: section.or_default("flows", default.flows.bound, problems, value::flows),
        timeouts,
        encap,
    };
    section.finish(problems);
    draft
}

fn metrics(mut section: Section<'_>, problems: &mut Collector) -> MetricsDraft {
    let draft = MetricsDraft {
        per_backend: section.optional("per_backend", problems, value::boolean),
        compat: section.optional("compat", problems, listen::compat),
    };
    section.finish(problems);
    draft
}

fn timeouts(mut section: Section<'_>, problems: &mut Collector) -> TimeoutsDraft {
    let default = FlowTimeouts::default();
    let mut read = |key, default| section.or_default(key, default, problems, value::flow_timeout);
    let draft = TimeoutsDraft {
        half_open: read("half_open", default.half_open),
        established: read("established", default.established),
        closing: read("closing", default.closing),
        reset: read("reset", default.reset),
        udp: read("udp", default.udp),
    };
    section.finish(problems);
    draft
}

fn encap(mut section: Section<'_>, problems: &mut Collector) -> EncapDraft {
    let ttl = EncapConfig::default().ttl;
    let draft = EncapDraft {
        tunnel: tunnel(&mut section, problems),
        source: section.or_default("source", SourceChoice::Auto, problems, source::read),
        ttl: section.or_default("ttl", ttl, problems, value::ttl),
    };
    section.finish(problems);
    draft
}

/// The keys that `[director.encap]` and `[vip.encap]` have in common.
fn tunnel(section: &mut Section<'_>, problems: &mut Collector) -> TunnelDraft {
    TunnelDraft {
        kind: section.absent_or("kind", problems, value::choice),
        port: section.absent_or("port", problems, value::port),
    }
}

fn vip_encap(mut section: Section<'_>, problems: &mut Collector) -> TunnelDraft {
    let draft = tunnel(&mut section, problems);
    section.finish(problems);
    draft
}

fn vip(mut section: Section<'_>, problems: &mut Collector) -> VipDraft {
    let encap = section.table("encap", problems);
    let health = section.table("health", problems);
    let backends = section.tables("backend", problems);
    let example = "an address such as \"203.0.113.10\"";
    let draft = VipDraft {
        name: section.absent_or("name", problems, value::name),
        address: section.required("address", example, problems, value::address),
        port: section.or_default("port", value::DEFAULT_PORT, problems, value::port_match),
        protocol: section.or_default("protocol", value::DEFAULT_PROTOCOL, problems, value::choice),
        hash: section.or_default("hash", HashFields::default(), problems, value::choice),
        echo: section.absent_or("echo", problems, value::choice),
        mss: section.or_default("mss", Mss::default(), problems, value::choice),
        all_down: section.or_default("all_down", AllDown::default(), problems, value::choice),
        min_healthy: section.or_default("min_healthy", 0, problems, health::percentage),
        new_flows_per_second: section.absent_or(
            "new_flows_per_second",
            problems,
            value::new_flows_per_second,
        ),
        encap: encap.map_or_else(TunnelDraft::inherited, |s| vip_encap(s, problems)),
        health: health.map(|section| health::read(section, problems)),
        backends: backends
            .into_iter()
            .map(|section| backend(section, problems))
            .collect(),
        site: section.site().clone(),
    };
    section.finish(problems);
    draft
}

fn backend(mut section: Section<'_>, problems: &mut Collector) -> BackendDraft {
    let example = "an address such as \"10.0.1.11\"";
    let draft = BackendDraft {
        address: section.required("address", example, problems, value::address),
        weight: section.or_default("weight", value::DEFAULT_WEIGHT, problems, value::weight),
        state: section.or_default("state", BackendState::default(), problems, value::choice),
    };
    section.finish(problems);
    draft
}
