//! Sockets that wait for packets, of this network namespace and of others.
//!
//! As ss(8) does, asking makes the kernel load `tcp_diag` and its likes where they are modules; these show
//! sockets and see no packet.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Instant;

use super::network::Network;
use super::processes::{Process, Processes, end_of_search};
use crate::doctor::facts::{Observed, Socket};
use crate::io::netlink::{BoundSocket, SocketProtocol, SocketTables};

const TABLES: [(SocketProtocol, &str); 3] = [
    (SocketProtocol::Tcp, "tcp"),
    (SocketProtocol::Udp, "udp"),
    (SocketProtocol::Raw, "raw"),
];

/// All sockets of this namespace that are bound and wait, with their programs where they show.
pub(super) fn read(network: &Network, processes: &Processes) -> Observed<Vec<Socket>> {
    let mut bound = Vec::new();
    for (protocol, name) in TABLES {
        match of_protocol(protocol, name) {
            Ok(sockets) => bound.extend(sockets.into_iter().map(|socket| (name, socket))),
            Err(reason) => return Observed::Unseen(reason),
        }
    }
    let inodes: BTreeSet<_> = bound.iter().map(|(_, socket)| socket.inode).collect();
    let owners = processes.owners(processes.here(), inodes, end_of_search());
    let socket = |(protocol, socket): (&str, BoundSocket)| Socket {
        protocol: protocol.to_owned(),
        address: socket.address.to_canonical(),
        port: socket.port,
        v6_only: socket.v6_only,
        device: network.name_of(socket.link),
        queued: socket.queued,
        queue_limit: socket.queue_limit,
        program: owners.get(&socket.inode).map(|owner| owner.program.clone()),
    };
    Observed::Seen(bound.into_iter().map(socket).collect())
}

/// By sock_diag, or where the kernel has no such table from `/proc/net`, which tells less.
fn of_protocol(protocol: SocketProtocol, name: &str) -> Result<Vec<BoundSocket>, String> {
    let diagnosed = SocketTables::open().and_then(|mut tables| tables.bound(protocol));
    diagnosed
        .or_else(|error| from_files(Path::new("/proc/net"), name).ok_or_else(|| error.to_string()))
}

/// The sockets of one protocol in a folder like `/proc/net`; `None` where it cannot be read.
fn from_files(folder: &Path, name: &str) -> Option<Vec<BoundSocket>> {
    let v4 = fs::read_to_string(folder.join(name)).ok()?;
    // Missing where the kernel has no IPv6.
    let v6 = fs::read_to_string(folder.join(format!("{name}6"))).unwrap_or_default();
    let waiting = if name == "tcp" { LISTEN } else { CLOSE };
    let lines = v4.lines().chain(v6.lines());
    Some(lines.filter_map(|line| from_line(line, waiting)).collect())
}

/// States of TCP (linux/net/tcp_states.h); UDP and raw sockets without a peer are closed.
const LISTEN: &str = "0A";
const CLOSE: &str = "07";

/// `0: 0100007F:0277 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 26137 …`: number,
/// local and remote address, state, queues out and in, timers, retransmissions, user, probes, inode.
fn from_line(line: &str, waiting: &str) -> Option<BoundSocket> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let [_, local, _, state, queues, _, _, _, _, inode, ..] = fields.as_slice() else {
        return None;
    };
    if *state != waiting {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let (_, queued) = queues.split_once(':')?;
    Some(BoundSocket {
        address: address_of(address)?,
        port: u16::from_str_radix(port, 16).ok()?,
        v6_only: false,
        link: 0,
        queued: u32::from_str_radix(queued, 16).ok()?,
        queue_limit: 0,
        inode: inode.parse().ok()?,
    })
}

/// Each 32 bits are printed as a number of the machine's byte order.
fn address_of(hex: &str) -> Option<IpAddr> {
    let mut words = Vec::new();
    for at in (0..hex.len()).step_by(8) {
        let word = u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?;
        words.push(word.to_ne_bytes());
    }
    match words.as_slice() {
        [word] => Some(Ipv4Addr::from(*word).into()),
        [_, _, _, _] => {
            let octets: [u8; 16] = words.concat().try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
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
            for protocol in ["tcp", "udp"] {
                let found = from_files(&folder, protocol).unwrap_or_default();
                sockets.extend(found.into_iter().map(|socket| Elsewhere {
                    namespace,
                    protocol,
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

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 6400000A:0050 00000000:0000 0A 00000000:00000003 00:00000000 00000000     0        0 26137 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 26138 1 0000000000000000 20 4 30 10 -1
";
    const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 31000 1 0000000000000000 100 0 0 10 0
   1: B80D0120000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 31001 1 0000000000000000 100 0 0 10 0
";

    #[test]
    #[cfg(target_endian = "little")]
    fn tables_as_files() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tcp"), TCP).unwrap();
        fs::write(folder.path().join("tcp6"), TCP6).unwrap();
        let sockets = from_files(folder.path(), "tcp").unwrap();
        let found: Vec<_> = sockets
            .iter()
            .map(|s| (s.address.to_string(), s.port, s.queued, s.inode))
            .collect();
        assert_eq!(
            found,
            [
                ("10.0.0.100".to_owned(), 80, 3, 26137),
                ("::".to_owned(), 443, 0, 31000),
                ("2001:db8::1".to_owned(), 80, 0, 31001),
            ]
        );
        assert_eq!(from_files(folder.path(), "udp"), None);
    }

    #[test]
    fn nonsense_is_passed_over() {
        for line in [
            "",
            "0: 6400000A 0:0 0A 0:0 0 0 0 0 1",
            "0: 64:0050 0:0 0A 0:0 0 0 0 0 1",
            "0: 6400000A:XX 0:0 0A 0:0 0 0 0 0 1",
            "0: ÄÄÄÄ000A:0050 0:0 0A 0:0 0 0 0 0 1",
        ] {
            assert_eq!(from_line(line, LISTEN), None, "{line}");
        }
    }
}
