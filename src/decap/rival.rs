//! Other programs that take the same tunnel packets. A raw socket gets a copy of each packet, whatever
//! others do with theirs: where another program decapsulates too, the service gets every packet twice.
//!
//! A raw socket for protocol 4 or 41 is there to receive: who only sends has one for `IPPROTO_RAW`, as
//! `tunlb run`. A UDP port has one owner, so with GUE there is nothing to see but its name.

use std::{
    collections::BTreeSet, fmt, fs::File, net::IpAddr, num::NonZeroU16, os::fd::OwnedFd,
    os::unix::fs::MetadataExt, path::Path,
};

use ipnet::IpNet;

use crate::{
    io::{
        netlink::{BoundSocket, NetlinkError, SocketProtocol},
        processes::{Process, Processes, end_of_search},
        sockets,
    },
    text::Plain,
};

use super::{
    DecapError, Encapsulation, Settings,
    arguments::Arguments,
    socket::{IPIP, IPV6, TunnelSocket},
};

/// A program, as `/proc` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pid: u32,
    name: String,
}

/// As in "process 77 (pimd)".
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, Plain(&self.name))
    }
}

/// A socket of another program that gets a copy of what this process takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rival {
    /// 4 or 41.
    protocol: u8,
    family: u8,
    inode: u32,
    /// None: of a process that may not be seen.
    program: Option<Program>,
}

/// As in "process 77 (pimd) has a raw IPv4 socket for protocol 4".
impl fmt::Display for Rival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.program {
            Some(program) => program.fmt(f)?,
            None => f.write_str("a process that cannot be seen (as root: ss -awp)")?,
        }
        write!(
            f,
            " has a raw IPv{} socket for protocol {}",
            self.family, self.protocol
        )
    }
}

/// Refuses to run beside a program that takes packets which this process takes, too. Asked when the own
/// sockets are open, so that of two that start at the same time at least one sees the other.
///
/// # Errors
/// [`DecapError::Rival`]; [`DecapError::Netlink`] where sockets cannot be listed.
pub(super) fn refuse<'a>(
    settings: &Settings,
    own: impl Iterator<Item = &'a TunnelSocket>,
) -> Result<(), DecapError> {
    match find(settings, &inodes(own))?.into_iter().next() {
        Some(rival) => Err(DecapError::Rival(rival)),
        None => Ok(()),
    }
}

/// The inodes of sockets; one that cannot be asked for its own is left out.
pub(super) fn inodes<'a>(sockets: impl Iterator<Item = &'a TunnelSocket>) -> BTreeSet<u64> {
    let inode = |socket: &TunnelSocket| {
        let socket = OwnedFd::from(socket.socket.try_clone().ok()?);
        Some(File::from(socket).metadata().ok()?.ino())
    };
    sockets.filter_map(inode).collect()
}

/// Sockets of others that take what this process takes; `own` are its inodes.
///
/// # Errors
/// [`NetlinkError`] where sockets cannot be listed.
pub(super) fn find(settings: &Settings, own: &BTreeSet<u64>) -> Result<Vec<Rival>, NetlinkError> {
    if settings.encapsulation() != Encapsulation::Ipip {
        return Ok(Vec::new());
    }
    let mut found = sockets::bound(SocketProtocol::Raw)?;
    found.retain(|socket| !own.contains(&u64::from(socket.inode)) && takes(socket, settings));
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let processes = Processes::read(Path::new("/proc"));
    let inodes = found.iter().map(|socket| socket.inode).collect();
    let owners = processes.owners(processes.all(), inodes, end_of_search());
    let rival = |socket: &BoundSocket| {
        let owner = owners.get(&socket.inode).copied();
        let of_others = owner.is_some_and(|owner| is_for_others(owner, &processes, settings));
        (!of_others).then(|| rival_of(socket, owner, &processes))
    };
    Ok(found.iter().filter_map(rival).collect())
}

fn rival_of(socket: &BoundSocket, owner: Option<&Process>, processes: &Processes) -> Rival {
    Rival {
        protocol: u8::try_from(socket.port).unwrap_or_default(),
        family: if socket.address.is_ipv4() { 4 } else { 6 },
        inode: socket.inode,
        program: owner.map(|owner| program(owner, processes)),
    }
}

fn program(process: &Process, processes: &Processes) -> Program {
    let decap = is_decap(process, &processes.arguments(process.pid));
    Program {
        pid: process.pid,
        name: if decap {
            format!("{} decap", process.program)
        } else {
            process.program.clone()
        },
    }
}

fn is_decap(process: &Process, words: &[String]) -> bool {
    process.program.starts_with("tunlb") && words.get(1).is_some_and(|word| word == "decap")
}

/// Whether the socket gets packets that would be injected here.
fn takes(socket: &BoundSocket, settings: &Settings) -> bool {
    let has_vip = |of_family: fn(&IpAddr) -> bool| settings.vips().iter().any(of_family);
    let of_protocol = (socket.port == u16::from(IPIP) && has_vip(IpAddr::is_ipv4))
        || (socket.port == u16::from(IPV6) && has_vip(IpAddr::is_ipv6));
    let directors = settings.directors();
    let from_director = socket
        .peer
        .is_none_or(|peer| directors.is_empty() || directors.iter().any(|net| net.contains(&peer)));
    of_protocol && from_director
}

/// Whether it is a `tunlb decap` that shares no packet with this one: for other VIPs, or from other
/// directors.
fn is_for_others(owner: &Process, processes: &Processes, settings: &Settings) -> bool {
    let words = processes.arguments(owner.pid);
    if !is_decap(owner, &words) {
        return false;
    }
    let other = Arguments::read(words.get(2..).unwrap_or_default());
    let same_vip = other.vips.iter().any(|vip| settings.vips().contains(vip));
    !same_vip || !overlap(&other.directors, settings.directors())
}

/// An empty list stands for all networks.
fn overlap(some: &[IpNet], others: &[IpNet]) -> bool {
    let meet = |one: &IpNet, other: &IpNet| {
        one.contains(&other.network()) || other.contains(&one.network())
    };
    some.is_empty()
        || others.is_empty()
        || some
            .iter()
            .any(|one| others.iter().any(|other| meet(one, other)))
}

/// Who has bound a UDP port, as far as that shows: the kernel's own sockets have no process.
pub(super) fn owner_of_port(port: NonZeroU16) -> Option<Program> {
    let mut bound = sockets::bound(SocketProtocol::Udp).ok()?;
    bound.retain(|socket| socket.port == port.get());
    let processes = Processes::read(Path::new("/proc"));
    let inodes = bound.iter().map(|socket| socket.inode).collect();
    let owners = processes.owners(processes.all(), inodes, end_of_search());
    let owner = owners.into_values().next()?;
    Some(program(owner, &processes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decap::Host;

    fn nets(nets: &[&str]) -> Vec<IpNet> {
        nets.iter().map(|net| net.parse().unwrap()).collect()
    }

    fn settings(vip: &str, directors: &[&str]) -> Settings {
        Settings::new(
            vec![vip.parse().unwrap()],
            nets(directors),
            Encapsulation::Ipip,
            "decap0".into(),
            Host::Check,
        )
        .unwrap()
    }

    #[test]
    fn only_sockets_that_get_the_same_packets_are_rivals() {
        const V4: &str = "10.0.0.100";
        const V6: &str = "2001:db8::100";
        let one = &["10.0.1.2/32"][..];
        for (description, vip, directors, protocol, peer, expected) in [
            ("4 for an IPv4 VIP", V4, &[][..], 4, None, true),
            ("41 for an IPv4 VIP", V4, &[], 41, None, false),
            ("41 for an IPv6 VIP", V6, &[], 41, None, true),
            ("a sender", V4, &[], 255, None, false),
            ("OSPF", V4, &[], 89, None, false),
            ("connected to anything", V4, &[], 4, Some("10.0.1.9"), true),
            ("to the director", V4, one, 4, Some("10.0.1.2"), true),
            ("to another", V4, one, 4, Some("10.0.1.9"), false),
        ] {
            let socket = BoundSocket {
                address: IpAddr::from([0, 0, 0, 0]),
                port: protocol,
                peer: peer.map(|peer| peer.parse().unwrap()),
                v6_only: false,
                link: 0,
                queued: 0,
                queue_limit: 0,
                inode: 7,
                user: 0,
                mark: 0,
                memory: None,
                transparent: None,
                signed_peers: Vec::new(),
            };
            let found = takes(&socket, &settings(vip, directors));
            assert_eq!(found, expected, "{description}");
        }
    }

    #[test]
    fn directors_that_overlap() {
        for (some, others, expected) in [
            (&[][..], &["10.0.1.2/32"][..], true),
            (&["10.0.1.2/32"], &["10.0.1.0/24"], true),
            (
                &["10.0.0.0/8", "2001:db8::/32"],
                &["2001:db8:1::1/128"],
                true,
            ),
            (&["10.0.1.2/32"], &["10.0.1.3/32", "2001:db8::/32"], false),
        ] {
            assert_eq!(overlap(&nets(some), &nets(others)), expected);
            assert_eq!(overlap(&nets(others), &nets(some)), expected);
        }
    }

    #[test]
    fn a_rival_is_named_without_its_tricks() {
        let mut rival = Rival {
            protocol: 4,
            family: 4,
            inode: 7,
            program: Some(Program {
                pid: 77,
                name: "a\u{1b}b".into(),
            }),
        };
        assert_eq!(
            rival.to_string(),
            "process 77 (a\\u{1b}b) has a raw IPv4 socket for protocol 4"
        );
        rival.program = None;
        assert!(rival.to_string().contains("ss -awp"));
    }
}
