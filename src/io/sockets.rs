//! Sockets that wait for packets, as sock_diag(7) or `/proc/net` shows them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::netlink::{BoundSocket, NetlinkError, SocketProtocol, SocketTables, peer_of};

/// The sockets of a kind that are bound and wait: by sock_diag, or where the kernel has no such table
/// from `/proc/net`, which tells less.
///
/// # Errors
/// [`NetlinkError`] of sock_diag where neither can be read.
pub fn bound(protocol: SocketProtocol) -> Result<Vec<BoundSocket>, NetlinkError> {
    let diagnosed = SocketTables::open().and_then(|mut tables| tables.bound(protocol));
    diagnosed.or_else(|error| from_files(Path::new("/proc/net"), protocol).ok_or(error))
}

/// The sockets of a kind in a folder like `/proc/net`; `None` where it cannot be read.
#[must_use]
pub fn from_files(folder: &Path, protocol: SocketProtocol) -> Option<Vec<BoundSocket>> {
    let name = match protocol {
        SocketProtocol::Tcp => "tcp",
        SocketProtocol::Udp => "udp",
        SocketProtocol::Raw => "raw",
    };
    let v4 = fs::read_to_string(folder.join(name)).ok()?;
    // Missing where the kernel has no IPv6.
    let v6 = fs::read_to_string(folder.join(format!("{name}6"))).unwrap_or_default();
    Some(from_text(&v4, &v6, protocol))
}

/// The sockets of a kind in the tables of `/proc/net`, of IPv4 and IPv6. What is no line of one is left out.
#[must_use]
pub fn from_text(v4: &str, v6: &str, protocol: SocketProtocol) -> Vec<BoundSocket> {
    let waiting: &[&str] = match protocol {
        SocketProtocol::Tcp => &[LISTEN],
        SocketProtocol::Udp => &[CLOSE],
        SocketProtocol::Raw => &[CLOSE, ESTABLISHED],
    };
    let lines = v4.lines().chain(v6.lines());
    lines.filter_map(|line| from_line(line, waiting)).collect()
}

/// States of TCP (linux/net/tcp_states.h); UDP and raw sockets without a peer are closed.
const ESTABLISHED: &str = "01";
const LISTEN: &str = "0A";
const CLOSE: &str = "07";

/// `0: 0100007F:0277 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 26137 …`: number,
/// local and remote address, state, queues out and in, timers, retransmissions, user, probes, inode.
fn from_line(line: &str, waiting: &[&str]) -> Option<BoundSocket> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let [_, local, remote, state, queues, _, _, user, _, inode, ..] = fields.as_slice() else {
        return None;
    };
    if !waiting.contains(state) {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let (peer, _) = remote.split_once(':')?;
    let (_, queued) = queues.split_once(':')?;
    Some(BoundSocket {
        address: address_of(address)?,
        port: u16::from_str_radix(port, 16).ok()?,
        peer: peer_of(address_of(peer)?),
        v6_only: false,
        link: 0,
        queued: u32::from_str_radix(queued, 16).ok()?,
        queue_limit: 0,
        inode: inode.parse().ok()?,
        user: user.parse().ok()?,
        mark: 0,
        memory: None,
        transparent: None,
        signed_peers: Vec::new(),
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
        let sockets = from_files(folder.path(), SocketProtocol::Tcp).unwrap();
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
        assert_eq!(from_files(folder.path(), SocketProtocol::Udp), None);
    }

    const RAW: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
   4: 00000000:0004 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 41 2 0000000000000000 0
  41: 0B01000A:0029 0201000A:0000 01 00000000:00000000 00:00000000 00000000     0        0 42 2 0000000000000000 0
";

    #[test]
    #[cfg(target_endian = "little")]
    fn raw_sockets_with_and_without_a_peer() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("raw"), RAW).unwrap();
        let found = from_files(folder.path(), SocketProtocol::Raw).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|s| {
                (
                    s.address.to_string(),
                    s.port,
                    s.peer.map(|peer| peer.to_string()),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("0.0.0.0".to_owned(), 4, None),
                ("10.0.1.11".to_owned(), 41, Some("10.0.1.2".to_owned())),
            ]
        );
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
            assert_eq!(from_line(line, &[LISTEN]), None, "{line}");
        }
    }
}
