//! Sockets that wait for packets, of this network namespace and of others.
//!
//! As ss(8) does, asking makes the kernel load `tcp_diag` and its likes where they are modules; these show
//! sockets and see no packet.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::thread;
use std::time::{Duration, Instant};

use super::network::Network;
use crate::doctor::facts::{Observed, Socket};
use crate::io::netlink::{BoundSocket, SocketProtocol};
use crate::io::processes::{Process, Processes, end_of_search};
use crate::io::sockets;

const TABLES: [(SocketProtocol, &str); 3] = [
    (SocketProtocol::Tcp, "tcp"),
    (SocketProtocol::Udp, "udp"),
    (SocketProtocol::Raw, "raw"),
];

/// All sockets of this namespace that are bound and wait, with their programs where they show.
pub(super) fn read(network: &Network, processes: &Processes) -> Observed<Vec<Socket>> {
    let mut bound = Vec::new();
    for (protocol, name) in TABLES {
        match sockets::bound(protocol) {
            Ok(sockets) => bound.extend(sockets.into_iter().map(|socket| (name, socket))),
            Err(error) => return Observed::Unseen(error.to_string()),
        }
    }
    still_waiting(&mut bound);
    let inodes: BTreeSet<_> = bound.iter().map(|(_, socket)| socket.inode).collect();
    let owners = processes.owners(processes.here(), inodes, end_of_search());
    let stopped = stopped(processes, &owners);
    let socket = |(protocol, socket): (&str, BoundSocket)| Socket {
        protocol: protocol.to_owned(),
        address: socket.address.to_canonical(),
        port: socket.port,
        v6_only: socket.v6_only,
        device: network.name_of(socket.link),
        queued: socket.queued,
        queue_limit: socket.queue_limit,
        program: owners.get(&socket.inode).map(|owner| owner.program.clone()),
        user: Some(socket.user),
        mark: socket.mark,
        memory: socket.memory,
        transparent: socket.transparent,
        signed_peers: socket.signed_peers,
        stopped: stopped.contains(&socket.inode),
        group: owners
            .get(&socket.inode)
            .and_then(|owner| group_of(processes, owner)),
    };
    Observed::Seen(bound.into_iter().map(socket).collect())
}

/// How long what waits has to wait to count.
const A_WHILE: Duration = Duration::from_millis(100);

/// Where something waits, looks again a while later: a program that is awake has taken it.
fn still_waiting(bound: &mut [(&str, BoundSocket)]) {
    let waits = |(protocol, socket): &(&str, BoundSocket)| *protocol != "raw" && socket.queued > 0;
    if !bound.iter().any(waits) {
        return;
    }
    thread::sleep(A_WHILE);
    let later = TABLES
        .iter()
        .filter_map(|(protocol, _)| sockets::bound(*protocol).ok());
    let later: BTreeMap<_, _> = later
        .flatten()
        .map(|socket| (socket.inode, socket.queued))
        .collect();
    for (_, socket) in bound {
        let queued = later.get(&socket.inode).copied().unwrap_or_default();
        socket.queued = socket.queued.min(queued);
    }
}

/// The sockets that only stopped processes have open.
fn stopped(processes: &Processes, owners: &BTreeMap<u32, &Process>) -> BTreeSet<u32> {
    let is_stopped = |process: &Process| processes.is_stopped(process.pid);
    let of_stopped = owners.iter().filter(|(_, owner)| is_stopped(owner));
    let mut inodes: BTreeSet<_> = of_stopped.map(|(inode, _)| *inode).collect();
    if inodes.is_empty() {
        return inodes;
    }
    let going = processes.here().filter(|process| !is_stopped(process));
    for inode in processes
        .owners(going, inodes.clone(), end_of_search())
        .keys()
    {
        inodes.remove(inode);
    }
    inodes
}

/// The group of a process, which owns its folder.
fn group_of(processes: &Processes, owner: &Process) -> Option<u32> {
    let folder = processes.folder(owner.pid);
    Some(fs::metadata(folder).ok()?.gid())
}

/// A socket of another network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Elsewhere {
    namespace: u64,
    protocol: &'static str,
    address: IpAddr,
    port: u16,
    inode: u32,
}

/// Listeners of the network namespaces that are not ours.
#[derive(Debug)]
pub(super) struct ListenersElsewhere<'a> {
    processes: &'a Processes,
    sockets: Vec<Elsewhere>,
    /// When the search for owners is given up, for all questions together.
    end: Instant,
}

impl<'a> ListenersElsewhere<'a> {
    /// Reads the tables of every other namespace that has a process.
    pub(super) fn read(processes: &'a Processes) -> Self {
        let mut sockets = Vec::new();
        for (namespace, members) in processes.elsewhere() {
            let Some(member) = members.first() else {
                continue;
            };
            let folder = processes.folder(member.pid).join("net");
            for (protocol, name) in [TABLES[0], TABLES[1]] {
                let found = sockets::from_files(&folder, protocol).unwrap_or_default();
                sockets.extend(found.into_iter().map(|socket| Elsewhere {
                    namespace,
                    protocol: name,
                    address: socket.address.to_canonical(),
                    port: socket.port,
                    inode: socket.inode,
                }));
            }
        }
        Self {
            processes,
            sockets,
            end: end_of_search(),
        }
    }

    /// Who listens on a port of `vip`; without a port, who is bound to `vip` itself.
    pub(super) fn on(
        &self,
        vip: IpAddr,
        port: Option<u16>,
        protocol: &str,
    ) -> Observed<Vec<(u32, String)>> {
        let hears = |socket: &&Elsewhere| {
            let address = socket.address == vip
                || (socket.address.is_unspecified()
                    && (socket.address.is_ipv6() || vip.is_ipv4())
                    && port.is_some());
            address && socket.protocol == protocol && port.is_none_or(|port| port == socket.port)
        };
        let found: Vec<_> = self.sockets.iter().filter(hears).collect();
        let hidden = self.processes.unseen();
        if found.is_empty() && hidden > 0 {
            return Observed::Unseen(format!(
                "network namespaces of {hidden} processes: needs CAP_SYS_PTRACE; run as root"
            ));
        }
        Observed::Seen(self.owners(&found))
    }

    /// Pid and program of each socket's owner; where that does not show, of a process beside it.
    fn owners(&self, sockets: &[&Elsewhere]) -> Vec<(u32, String)> {
        let mut owners: Vec<(u32, String)> = Vec::new();
        for (namespace, members) in self.processes.elsewhere() {
            let of_it = sockets
                .iter()
                .filter(|socket| socket.namespace == namespace);
            let inodes: BTreeSet<_> = of_it.map(|socket| socket.inode).collect();
            if inodes.is_empty() {
                continue;
            }
            let found = self
                .processes
                .owners(members.iter().copied(), inodes, self.end);
            let beside = members.first().filter(|_| found.is_empty());
            let named = |process: &&Process| (process.pid, process.program.clone());
            owners.extend(found.values().chain(beside).map(named));
        }
        owners.sort_unstable();
        owners.dedup();
        owners
    }
}
