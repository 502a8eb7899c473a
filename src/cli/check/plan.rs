//! What `tunlb run` would do with a configuration, as far as the configuration says.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::config::{Config, Egress};
use crate::director::{BackendSpec, BackendState, VipSpec};
use crate::text::count;

/// What `tunlb run` would do with the configuration.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    device: String,
    queues: usize,
    routes: Vec<String>,
    /// The largest of all backends.
    overhead_bytes: usize,
    mtu: &'static str,
    needs: Vec<&'static str>,
    /// How packets leave, and what of this host they pass by.
    egress: &'static str,
    vip: Vec<VipPlan>,
}

#[derive(Debug, Serialize)]
struct VipPlan {
    name: String,
    backend: Vec<Share>,
}

#[derive(Debug, Serialize)]
struct Share {
    address: IpAddr,
    /// Of the VIP's new flows, 0 to 100, by weight.
    share_percent: f64,
    /// Bytes that a packet for it grows by.
    overhead_bytes: usize,
}

impl Plan {
    pub(super) fn new(config: &Config) -> Self {
        let mut routed = HashSet::new();
        let addresses = config.vips.iter().map(|vip| vip.address);
        let routes = addresses.filter(|&address| routed.insert(address));
        let routes = routes.map(|address| {
            let net = IpNet::from(address);
            format!("{net} dev {}", config.director.tun)
        });
        let vips: Vec<_> = config.vips.iter().map(VipPlan::new).collect();
        let backends = vips.iter().flat_map(|vip| &vip.backend);
        let overheads = backends.map(|backend| backend.overhead_bytes);
        Self {
            device: config.director.tun.clone(),
            queues: config.director.workers.get(),
            routes: routes.collect(),
            overhead_bytes: overheads.max().unwrap_or_default(),
            mtu: "the largest MTU of this host's devices, at start and at each reload",
            needs: vec!["/dev/net/tun", "CAP_NET_ADMIN", "CAP_NET_RAW"],
            egress: egress(config.director.egress),
            vip: vips,
        }
    }

    /// The plan as TOML comments, so that all of the output is a configuration file.
    pub(super) fn text(&self) -> String {
        let mut lines = vec![
            "plan".to_owned(),
            format!(
                "device    {} with {}",
                self.device,
                count(self.queues, "queue")
            ),
            format!("mtu       {}", self.mtu),
            format!("overhead  at most {} bytes per packet", self.overhead_bytes),
            format!("needs     {}", self.needs.join(", ")),
            format!("egress    {}", self.egress),
        ];
        let routes = self.routes.iter();
        lines.extend(routes.map(|route| format!("route     {route}")));
        for vip in &self.vip {
            let shares = vip.backend.iter().map(|backend| {
                let name = &vip.name;
                let (address, percent) = (backend.address, backend.share_percent);
                let overhead = backend.overhead_bytes;
                format!("share     {name} → {address} {percent:.1} %, overhead {overhead} bytes")
            });
            lines.extend(shares);
        }
        lines.iter().map(|line| format!("# {line}\n")).collect()
    }
}

/// What a way out passes by is not visible in the packets that arrive, so it is said before.
const fn egress(egress: Egress) -> &'static str {
    match egress {
        Egress::Auto => {
            "straight to the device where no output packet filter, IPsec policy or queueing discipline would act on the packets, else by raw socket"
        }
        Egress::Raw => "by raw socket: passes by nothing of this host",
        Egress::Packet => {
            "by packet socket where the next hop is known: passes by this host's output packet filters, IPsec policies and queueing disciplines"
        }
        Egress::Xsk => {
            "by AF_XDP socket where the next hop is known: passes by this host's output packet filters, IPsec policies and queueing disciplines"
        }
    }
}

impl VipPlan {
    fn new(vip: &VipSpec) -> Self {
        let total: u64 = vip.backends.iter().map(turns).sum();
        let share = |backend: &BackendSpec| Share {
            address: backend.address,
            share_percent: percent(turns(backend), total),
            overhead_bytes: vip.encap.overhead(&backend.address),
        };
        Self {
            name: vip.name.clone(),
            backend: vip.backends.iter().map(share).collect(),
        }
    }
}

/// The weight with which a backend is in the ring at start.
fn turns(backend: &BackendSpec) -> u64 {
    match backend.state {
        BackendState::Active => u64::from(backend.weight),
        BackendState::Draining | BackendState::Disabled => 0,
    }
}

/// With two decimals; both numbers are sums of 16-bit weights, far below 2⁵³.
fn percent(part: u64, total: u64) -> f64 {
    let hundredths = (part as f64 * 10_000.0 / total.max(1) as f64).round();
    hundredths / 100.0
}
