//! `/metrics`: what a director counts, in the text format of Prometheus (version 0.0.4).
//!
//! Made anew from the [`View`] at each scrape: nothing is kept in step. What each metric means: `docs/metrics.md`.

mod backends;
mod director;
mod families;
mod family;
mod node_ipvs;
mod probes;
mod rows;
mod vips;

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text};
use prometheus_client::registry::Registry;

use super::losses::Told;
use super::requests::RequestCounts;
use crate::config::{Compat, Config};
use crate::control::Handle;
use crate::control::view::{Identity, View};
use family::Exposition;
use rows::Rows;

/// The type of what [`encode`] returns.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// Which metrics are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MetricsOptions {
    /// Those of single backends.
    pub per_backend: PerBackend,
    /// What others know under other names.
    pub node_ipvs: NodeIpvs,
}

/// Whether metrics of single backends are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PerBackend {
    /// They are.
    #[default]
    Yes,
    /// They are not: a hundred thousand backends have over a million values.
    No,
}

/// Whether there are also the names of node_exporter's ipvs collector, for dashboards that know those.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NodeIpvs {
    /// There are not.
    #[default]
    No,
    /// There are (`metrics.compat = ["node_ipvs"]`).
    Yes,
}

impl MetricsOptions {
    /// Those of a configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let compat = &config.metrics.compat;
        Self {
            per_backend: if config.has_backend_metrics() {
                PerBackend::Yes
            } else {
                PerBackend::No
            },
            node_ipvs: if compat.contains(&Compat::NodeIpvs) {
                NodeIpvs::Yes
            } else {
                NodeIpvs::No
            },
        }
    }
}

/// What is known beside the view.
#[derive(Debug, Clone, Default)]
pub struct Beside {
    /// Requests to the API.
    pub requests: Arc<RequestCounts>,
    /// What the kernel dropped.
    pub losses: Told,
}

/// All metrics of a director now, as [`CONTENT_TYPE`] says.
#[must_use]
pub fn encode(handle: &Handle, options: MetricsOptions, beside: Beside) -> String {
    let scrape = Scrape {
        identity: Arc::clone(&handle.identity),
        view: handle.view(),
        beside,
        options,
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    // A string takes everything.
    prometheus_text::encode(&mut text, &registry).ok();
    text
}

/// What one scrape tells.
#[derive(Debug)]
struct Scrape {
    identity: Arc<Identity>,
    view: Arc<View>,
    beside: Beside,
    options: MetricsOptions,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let view = &*self.view;
        let mut out = Exposition(encoder);
        director::write(&mut out, &self.identity, view, &self.beside)?;
        vips::write(&mut out, view)?;
        probes::write_totals(&mut out, view)?;
        if self.options.node_ipvs == NodeIpvs::Yes {
            node_ipvs::write_totals(&mut out, view)?;
        }
        if self.options.per_backend == PerBackend::Yes {
            let rows = Rows::new(view);
            backends::write(&mut out, &rows)?;
            probes::write_backends(&mut out, view)?;
            if self.options.node_ipvs == NodeIpvs::Yes {
                node_ipvs::write_backends(&mut out, &rows)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
