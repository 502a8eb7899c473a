//! One look at backends, by the engine of the daemon: beside a running director, or without one.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc;

use anyhow::Result;
use mio::{Events, Poll};

use super::device::ProbeDevice;
use super::engine::{Engine, Outside};
use super::gauge::Gauges;
use super::plan::{Apart, Plan, Probed};
use crate::config::Config;
use crate::director::{PortMatch, Roster, VipSpec};
use crate::io::netlink::Netlink;
use crate::io::undo::Undo;
use crate::probe::check::Ping;
use crate::probe::{Check, Evidence, Kind, OnUnhealthy, ProbeResult, ProbedBy, Probing};
use crate::site::{Paths, taken_for_healthy};

/// Backends that are looked at at once.
const AT_ONCE: usize = 64;

/// What was found of one backend of one VIP.
#[derive(Debug, Clone)]
pub struct Look {
    /// Which, and by what it was probed.
    pub probed: Probed,
    /// The protocol and port of the VIP, for output.
    pub service: String,
    /// The way to it.
    pub way: String,
    /// Whether there is one.
    pub has_route: bool,
    /// What was found.
    pub evidence: Evidence,
    /// What an echo request found that is as long as what fits the tunnel.
    pub full_ping: Option<ProbeResult>,
}

/// Looks at all backends of all VIPs, or at those with one address. Needs CAP_NET_ADMIN and CAP_NET_RAW.
///
/// # Errors
/// The kernel refuses a device, a route or a socket. Nothing is left behind.
pub fn look(config: &Config, only: Option<IpAddr>, device: &str) -> Result<Vec<Look>> {
    let mut netlink = Netlink::open()?;
    let mut undo = Undo::new()?;
    let config = probed_config(config, only);
    let paths = Paths::resolve(&config, &mut netlink)?;
    let snapshot = Arc::new(paths.snapshot(&config, &mut Roster::default(), taken_for_healthy)?);
    let plan = Plan::new(1, &config, &paths, &snapshot, &Gauges::default());
    let probed = plan.probed.clone();
    let (mut device, queue) =
        ProbeDevice::open(device, Apart::LOOK, plan.mtu, &mut netlink, &mut undo)?;
    device.follow(&plan, &mut netlink, &mut undo)?;
    let (_commands, inbox) = mpsc::channel();
    let outside = Outside {
        inbox,
        snapshots: Box::new(move || Arc::clone(&snapshot)),
        report: Box::new(|_| Ok(())),
    };
    let mut engine = Engine::new(Poll::new()?, queue, plan.mtu as usize, outside, Apart::LOOK)?;
    engine.adopt(plan);
    let found = engine.look_at_all()?;
    let looks = found
        .into_iter()
        .filter_map(|(position, evidence, full_ping)| {
            let probed = probed.get(position)?.clone();
            let address = probed.target.address;
            let vip = config
                .vips
                .iter()
                .find(|vip| *vip.name == *probed.target.vip)?;
            Some(Look {
                service: format!("{}:{}/{}", vip.address, vip.port, vip.protocol),
                way: paths.described(address).unwrap_or_default(),
                has_route: paths.mtu(address).is_some(),
                probed,
                evidence,
                full_ping,
            })
        });
    Ok(looks.collect())
}

/// The configuration with a probe for each VIP: its own, or a TCP connection.
fn probed_config(config: &Config, only: Option<IpAddr>) -> Config {
    let mut config = config.clone();
    let tracked: Vec<_> = config
        .vips
        .iter()
        .map(|vip| (vip.name.clone(), check_of(vip)))
        .collect();
    for vip in &mut config.vips {
        let check = match &vip.probing {
            Some(Probing {
                by: ProbedBy::Track(other),
                ..
            }) => {
                let found = tracked.iter().find(|(name, _)| name == other);
                found
                    .map(|(_, check)| Arc::clone(check))
                    .unwrap_or_default()
            }
            Some(_) | None => check_of(vip),
        };
        let by = ProbedBy::Check(check);
        let on_unhealthy = OnUnhealthy::default();
        vip.probing = Some(Probing { by, on_unhealthy });
        if let Some(only) = only {
            vip.backends.retain(|backend| backend.address == only);
        }
    }
    config.vips.retain(|vip| !vip.backends.is_empty());
    config
}

fn check_of(vip: &VipSpec) -> Arc<Check> {
    match &vip.probing {
        Some(Probing {
            by: ProbedBy::Check(check),
            ..
        }) if check.kind != Kind::External => Arc::clone(check),
        // Without a port of its own only the VIP's address can be asked.
        _ if vip.port == PortMatch::Any => Arc::new(Check {
            kind: Kind::Ping(Ping { size: None }),
            ..Check::default()
        }),
        Some(_) | None => Arc::default(),
    }
}

impl Engine {
    /// Asks everything of every backend of the plan.
    fn look_at_all(&mut self) -> Result<Vec<(usize, Evidence, Option<ProbeResult>)>> {
        let mut events = Events::with_capacity(1024);
        let mut next = 0;
        let all = self.plan.probed.len();
        while next < all || self.inquests.under_way() > 0 {
            while next < all && self.inquests.under_way() < AT_ONCE {
                self.look_at(next, self.now());
                next += 1;
            }
            self.turn(&mut events)?;
        }
        let mut looks = std::mem::take(&mut self.inquests.looks);
        looks.sort_by_key(|(position, ..)| *position);
        Ok(looks)
    }
}
