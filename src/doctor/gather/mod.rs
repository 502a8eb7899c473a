//! One look at this machine, read-only: what the kernel, its files and the tools of packet filters say
//! becomes [`Facts`].
//!
//! Nothing here fails as a whole: what cannot be read is [`Observed::Unseen`] with the privilege, program
//! or file that is missing. Nothing here judges. `network` asks the kernel by netlink, `processes` reads
//! `/proc`, `targets` finds what is to be examined, `director` is a director's own part; the other files
//! read one kind of source each.

pub(super) mod counters;
mod decapsulators;
mod director;
mod firewall;
mod layers;
mod modules;
mod neighbours;
mod network;
mod next_hops;
mod offloads;
mod sockets;
mod sysctl_files;
mod sysctls;
mod targets;
#[cfg(test)]
mod tests;
pub mod texts;
mod tunnel;

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::config::{Config, DirectorConfig};
use crate::io::capability::{self, Capability};
use crate::io::processes::{Process, Processes};
use crate::packet::Protocol;

use super::facts::{self, Encap, Facts, FirewallFacts, Observed, Role};
use modules::Modules;
use network::Network;
use sockets::ListenersElsewhere;
use targets::Surroundings;

/// How long another program may take; each takes some milliseconds.
const DEADLINE: Duration = Duration::from_secs(3);

/// What the user says of a backend; what is not said is found out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackendOptions {
    /// What to examine; none: every VIP that is found.
    pub service: Option<Service>,
    /// The client (C).
    pub client: Option<IpAddr>,
    /// The director (D).
    pub director: Option<IpAddr>,
    /// The tunnel.
    pub encap: Option<Encap>,
}

/// What clients address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// The VIP.
    pub address: IpAddr,
    /// Its port; none: any.
    pub port: Option<u16>,
    /// Its transport protocol.
    pub protocol: Protocol,
}

/// What a machine seems to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundRole {
    /// A `tunlb run` is running, or its TUN device is there.
    Director,
    /// It has a VIP, a tunnel of the kernel that is up, or a `tunlb decap`.
    Backend,
    /// Signs of both.
    Both,
    /// Signs of neither.
    Unknown,
}

/// Looks at a backend.
#[must_use]
pub fn backend(options: &BackendOptions) -> Facts {
    gather(Role::Backend, |look, facts| {
        let elsewhere = ListenersElsewhere::read(&look.processes);
        let around = Surroundings {
            network: &mut look.network,
            decapsulators: &facts.decapsulators,
            sockets: &facts.sockets,
            elsewhere: &elsewhere,
        };
        facts.targets = targets::find(options, around);
        let ends = facts.targets.iter();
        let devices = ends.flat_map(|target| [&target.physical, &target.tunnel]);
        for device in devices.flatten() {
            let offloads = &mut facts.offloads;
            if !offloads.contains_key(device) {
                offloads.insert(device.clone(), offloads::read(device));
            }
        }
    })
}

/// Looks at a director with this configuration, for that client where one is named. Sends one empty outer
/// packet to each backend, and asks for VIPs in subnets of this machine who has them.
#[must_use]
pub fn director(config: &Config, client: Option<IpAddr>) -> Facts {
    gather(Role::Director, |look, facts| {
        let mut of_director = director::read(config, &mut look.network);
        of_director.client = client;
        director::find_clients(&mut of_director, &mut look.network);
        neighbours::read(&mut of_director.vips, &mut look.network);
        facts.neighbours = director::settled_neighbours(&of_director, &mut look.network);
        facts.director = Some(of_director);
    })
}

/// Finds out what this machine is.
#[must_use]
pub fn find_role() -> FoundRole {
    let look = Look::new();
    let decapsulators = decapsulators::read(&look.processes);
    let tun = look.network.device(&DirectorConfig::default().tun);
    let seen = |(process, _): &(&Process, _)| process.namespace.is_some();
    let is_director = look.processes.tunlbs("run").iter().any(seen) || tun.is_some();
    let mut links = look.network.devices().iter();
    let is_backend = links.any(|link| link.up && link.tunnel.is_some())
        || !targets::vips(&look.network, &decapsulators).is_empty();
    match (is_director, is_backend) {
        (true, true) => FoundRole::Both,
        (true, false) => FoundRole::Director,
        (false, true) => FoundRole::Backend,
        (false, false) => FoundRole::Unknown,
    }
}

/// The arguments of each running `tunlb run` that may be of this network namespace, the program's own
/// name first, with its process id: they name its configuration.
#[must_use]
pub fn running_directors() -> Vec<(u32, Vec<String>)> {
    let processes = Processes::read(Path::new(PROC));
    let running = processes.tunlbs("run").into_iter();
    running
        .map(|(process, arguments)| (process.pid, arguments))
        .collect()
}

const PROC: &str = "/proc";

/// What several kinds of facts are read from.
#[derive(Debug)]
struct Look {
    network: Network,
    processes: Processes,
}

impl Look {
    fn new() -> Self {
        Self {
            network: Network::read(),
            processes: Processes::read(Path::new(PROC)),
        }
    }
}

/// Gathers what both roles have in common, then what `own` adds, then settings and counters, which are
/// best young; beside all that, what other programs tell.
fn gather(role: Role, own: impl FnOnce(&mut Look, &mut Facts)) -> Facts {
    let kernel = kernel();
    let modules = Modules::read(Path::new("/"), &kernel);
    thread::scope(|scope| {
        let firewall = scope.spawn(|| firewall::read(&modules));
        let mut look = Look::new();
        let mut facts = common(role, &look);
        own(&mut look, &mut facts);
        facts.kernel.clone_from(&kernel);
        facts.modules = modules.decapsulating();
        facts.sysctls = sysctls::read(Path::new("/proc/sys"));
        facts.sysctl_files = sysctl_files::read(Path::new("/"));
        facts.counters = counters::read();
        facts.firewall = firewall.join().unwrap_or_else(|_| unseen_firewall());
        facts.layers = layers::read(&look.network, &facts.firewall);
        if role == Role::Backend {
            targets::follow_up(&mut facts, &mut look.network, &look.processes);
            next_hops::read(&mut facts, &mut look.network);
        }
        facts
    })
}

fn common(role: Role, look: &Look) -> Facts {
    Facts {
        schema: facts::SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        program: program(),
        role,
        capabilities: capabilities(),
        links: look.network.links.clone(),
        addresses: look.network.addresses.clone(),
        rules: look.network.rules.clone(),
        sockets: sockets::read(&look.network, &look.processes),
        decapsulators: decapsulators::read(&look.processes),
        ..Facts::default()
    }
}

/// The rules of this network namespace's packet filters, on the machine whose file tree begins at `root`.
pub(super) fn packet_filters(root: &Path) -> FirewallFacts {
    firewall::read(&Modules::read(root, &kernel()))
}

/// Whether this kernel may have nftables: built in, or loaded already. To ask it would load them.
#[must_use]
pub fn may_have_nftables() -> bool {
    firewall::may_have_nftables(&Modules::read(Path::new("/"), &kernel()))
}

fn unseen_firewall() -> FirewallFacts {
    FirewallFacts {
        nft: Observed::Unseen("reading the firewall failed".to_owned()),
        ..FirewallFacts::default()
    }
}

/// Where this program is; none where the path is no UTF-8, or the file was replaced meanwhile.
fn program() -> Option<String> {
    let path = std::env::current_exe().ok()?;
    let path = path.to_str().filter(|_| path.is_file())?;
    Some(path.to_owned())
}

/// `uname -r`.
fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

fn capabilities() -> BTreeMap<String, bool> {
    const ALL: [Capability; 3] = [
        Capability::NetAdmin,
        Capability::NetRaw,
        Capability::SysPtrace,
    ];
    let Ok(missing) = capability::missing(&ALL) else {
        return BTreeMap::new();
    };
    let held = |capability: Capability| (capability.to_string(), !missing.contains(&capability));
    ALL.into_iter().map(held).collect()
}
