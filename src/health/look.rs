//! One look at backends, by the engine of the daemon: beside a running director, or without one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc;

use anyhow::{Result, bail};
use mio::{Events, Poll};

use super::device::ProbeDevice;
use super::engine::{Engine, Outside};
use super::flight::Question;
use super::gauge::Gauges;
use super::inquest::Purpose;
use super::plan::{Apart, Plan, Probed};
use crate::config::Config;
use crate::director::{PortMatch, Roster, VipSpec};
use crate::io::netlink::{Netlink, RouteQuery};
use crate::io::undo::Undo;
use crate::packet::Protocol;
use crate::probe::check::Ping;
use crate::probe::{Check, Evidence, Kind, OnUnhealthy, ProbeResult, ProbedBy, Probing, Via};
use crate::site::{Paths, taken_for_healthy};

/// Backends that are looked at at once.
const AT_ONCE: usize = 64;

/// Looks at a backend whose answers were heard too late.
const ATTEMPTS: u32 = 3;

/// What is asked of a backend.
const QUESTIONS: [Question; 5] = [
    Question::Probe,
    Question::Direct,
    Question::DirectPing,
    Question::TunnelPing,
    Question::FullPing,
];

/// Whom to look at, and as whom.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asking {
    /// Only this backend.
    pub backend: Option<IpAddr>,
    /// The inner source: an address of this host.
    pub as_client: Option<IpAddr>,
}

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
    /// The next hop, and what the kernel knows of it, as `ip neigh` writes it.
    pub neighbour: Option<(IpAddr, String)>,
    /// What was found.
    pub evidence: Evidence,
    /// What a connection to the VIP found that went the way of any client's, where that was asked.
    pub as_client: Option<ProbeResult>,
}

/// Looks at all backends of all VIPs, or at those with one address. Needs CAP_NET_ADMIN and CAP_NET_RAW.
///
/// # Errors
/// The kernel refuses a device, a route or a socket; no VIP is of the client's family. Nothing is left behind.
pub fn look(config: &Config, asking: Asking, device: &str) -> Result<Vec<Look>> {
    let mut netlink = Netlink::open()?;
    let mut undo = Undo::new()?;
    let config = probed_config(config, asking);
    if config.vips.is_empty() {
        bail!("there is nothing to look at: no VIP is of the family of that client");
    }
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
        device: device.index(),
    };
    let mut engine = Engine::new(Poll::new()?, queue, plan.mtu as usize, outside, Apart::LOOK)?;
    engine.adopt(plan);
    engine.ignore_learnt_mtus()?;
    engine.look_at_all(asking)?;
    let found = std::mem::take(&mut engine.inquests.looks);
    let neighbours = neighbours(&probed, &mut netlink);
    let looks = found
        .into_iter()
        .filter_map(|(position, as_client, evidence)| {
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
                neighbour: neighbours.get(&address).cloned(),
                as_client: is_asked_as_client(&probed, asking).then_some(as_client.result),
                probed,
                evidence,
            })
        });
    Ok(looks.collect())
}

/// The next hop towards each backend, and its state, after packets were sent there.
fn neighbours(probed: &[Probed], netlink: &mut Netlink) -> HashMap<IpAddr, (IpAddr, String)> {
    let known = netlink.neighbours().unwrap_or_default();
    let mut found = HashMap::new();
    for probed in probed {
        let address = probed.target.address;
        let Ok(route) = netlink.route_to(address, RouteQuery::default()) else {
            continue;
        };
        let hop = route.gateway.unwrap_or(address);
        let entry = known
            .iter()
            .find(|entry| entry.address == hop && Some(entry.link) == route.oif);
        if let Some(entry) = entry {
            found.insert(address, (hop, entry.state.clone()));
        }
    }
    found
}

/// A client's connection is asked for where there is one to compare with: of TCP, and over IPv4, where other routes
/// lead past the device of probes.
fn is_asked_as_client(probed: &Probed, asking: Asking) -> bool {
    asking.as_client.is_some()
        && probed.destination.is_ipv4()
        && probed.check.kind.protocol() == Some(Protocol::Tcp)
}

/// The configuration with a probe for each VIP: its own, or a TCP connection.
fn probed_config(config: &Config, asking: Asking) -> Config {
    let mut config = config.clone();
    let tracked: Vec<_> = config
        .vips
        .iter()
        .map(|vip| (vip.name.clone(), check_of(vip)))
        .collect();
    for vip in &mut config.vips {
        let mut check = match &vip.probing {
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
        if asking.as_client.is_some() {
            Arc::make_mut(&mut check).source = asking.as_client;
        }
        vip.probing = Some(Probing {
            by: ProbedBy::Check(check),
            on_unhealthy: OnUnhealthy::default(),
            mtu_check: None,
            slow_start: None,
        });
        if let Some(only) = asking.backend {
            vip.backends.retain(|backend| backend.address == only);
        }
    }
    config.vips.retain(|vip| {
        let is_served = asking
            .as_client
            .is_none_or(|client| client.is_ipv4() == vip.address.is_ipv4());
        !vip.backends.is_empty() && is_served
    });
    config
}

fn check_of(vip: &VipSpec) -> Arc<Check> {
    match &vip.probing {
        Some(Probing {
            by: ProbedBy::Check(check),
            ..
        }) if check.kind != Kind::External => Arc::new(Check {
            via: Via::Tunnel, // it asks both ways anyway
            passive: false,
            ..(**check).clone()
        }),
        // Without a port of its own only the VIP's address can be asked.
        _ if vip.port == PortMatch::Any => Arc::new(Check {
            kind: Kind::Ping(Ping { size: None }),
            ..Check::default()
        }),
        Some(_) | None => Arc::default(),
    }
}

impl Engine {
    /// Asks everything of every backend of the plan; again where this host was too busy to hear the answers.
    fn look_at_all(&mut self, asking: Asking) -> Result<()> {
        let mut all: Vec<usize> = (0..self.plan.probed.len()).collect();
        let mut looks = Vec::new();
        for attempt in 1..=ATTEMPTS {
            self.look_at_these(&all, asking)?;
            let found = std::mem::take(&mut self.inquests.looks).into_iter();
            let is_late = |evidence: &Evidence| evidence.probe == ProbeResult::Late;
            let (again, known): (Vec<_>, Vec<_>) =
                found.partition(|(.., evidence)| is_late(evidence) && attempt < ATTEMPTS);
            looks.extend(known);
            all = again.iter().map(|(position, ..)| *position).collect();
        }
        looks.sort_by_key(|(position, ..)| *position);
        self.inquests.looks = looks;
        Ok(())
    }

    fn look_at_these(&mut self, positions: &[usize], asking: Asking) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        let probed = self.plan.probed.clone();
        let mut next = positions
            .iter()
            .filter_map(|&position| Some((position, probed.get(position)?)));
        let mut is_done = false;
        while !is_done || self.inquests.under_way() > 0 {
            while !is_done && self.inquests.under_way() < AT_ONCE {
                match next.next() {
                    Some((position, probed)) => self.look_at(position, probed, asking),
                    None => is_done = true,
                }
            }
            if self.inquests.under_way() > 0 {
                self.turn(&mut events)?;
            }
        }
        Ok(())
    }

    fn look_at(&mut self, position: usize, probed: &Probed, asking: Asking) {
        let mut questions = QUESTIONS.to_vec();
        if is_asked_as_client(probed, asking) {
            questions.push(Question::AsClient);
        }
        self.open_inquest(probed, position, Purpose::Look, &questions, self.now());
    }
}
