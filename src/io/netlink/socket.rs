//! Sockets that are bound and wait: TCP listeners, UDP and raw sockets, from sock_diag(7), as ss(8)
//! reads them.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use netlink_packet_core::Nla as _;
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::{Netlink, NetlinkError, Operation};

/// Kinds of sockets that the kernel keeps in a table of their own each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketProtocol {
    /// TCP, of which those that listen.
    Tcp,
    /// UDP, of which those without a peer.
    Udp,
    /// Raw IP, with or without a peer.
    Raw,
}

impl SocketProtocol {
    /// The number by which the tables are asked for.
    const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Raw => 255,
        }
    }

    /// UDP and raw sockets are closed in terms of TCP while they have no peer.
    fn states(self) -> StateFlags {
        match self {
            Self::Tcp => StateFlags::LISTEN,
            Self::Udp => StateFlags::CLOSE,
            Self::Raw => StateFlags::CLOSE | StateFlags::ESTABLISHED,
        }
    }
}

/// A socket that is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundSocket {
    /// The local address; unspecified: any.
    pub address: IpAddr,
    /// The local port; of a raw socket its protocol.
    pub port: u16,
    /// The only address that it hears, if it is connected.
    pub peer: Option<IpAddr>,
    /// Of an IPv6 socket: takes no IPv4 (`IPV6_V6ONLY`).
    pub v6_only: bool,
    /// Index of the only device that it hears (`SO_BINDTODEVICE`); 0: all.
    pub link: u32,
    /// TCP: connections that wait to be accepted; otherwise bytes that wait.
    pub queued: u32,
    /// TCP: the most that may wait.
    pub queue_limit: u32,
    /// Its inode, as `/proc/PID/fd` shows it.
    pub inode: u32,
    /// Its user.
    pub user: u32,
    /// The mark of what it sends (`SO_MARK`); told with CAP_NET_ADMIN, else 0.
    pub mark: u32,
    /// Bytes of memory that what waits may take (`SO_RCVBUF`), and that it takes; none: not told.
    pub memory: Option<(u32, u32)>,
    /// It hears packets for any address (`IP_TRANSPARENT`); none: not told.
    pub transparent: Option<bool>,
    /// Peers whose segments have to be signed (TCP-MD5); told with CAP_NET_ADMIN.
    pub signed_peers: Vec<IpNet>,
}

/// A connection to the socket tables of the network namespace in which it was opened.
#[derive(Debug)]
pub struct SocketTables(Netlink);

impl SocketTables {
    /// Opens it; needs no privileges.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open() -> Result<Self, NetlinkError> {
        Netlink::open_protocol(NETLINK_SOCK_DIAG, "NETLINK_SOCK_DIAG").map(Self)
    }

    /// The IPv4 and IPv6 sockets of a kind that are bound and wait.
    ///
    /// # Errors
    /// ENOENT where the kernel has no table for this kind to show (`CONFIG_INET_RAW_DIAG` and its
    /// likes); any other [`NetlinkError`].
    pub fn bound(&mut self, protocol: SocketProtocol) -> Result<Vec<BoundSocket>, NetlinkError> {
        let operation = Operation::new("list sockets of protocol", protocol.number());
        let mut sockets = Vec::new();
        for (family, id) in [
            (AF_INET, SocketId::new_v4()),
            (AF_INET6, SocketId::new_v6()),
        ] {
            let request = SockDiagMessage::InetRequest(InetRequest {
                family,
                protocol: protocol.number(),
                // Peers whose segments have to be signed are told only with the rest of `INFO`.
                extensions: ExtensionFlags::SKMEMINFO | ExtensionFlags::INFO,
                states: protocol.states(),
                socket_id: id,
            });
            let answers = self.0.dump(&operation, &request)?;
            sockets.extend(answers.into_iter().filter_map(socket_of));
        }
        Ok(sockets)
    }
}

impl SocketTables {
    /// Whether a TCP connection of this host is established, or was; false while its handshake goes on.
    ///
    /// # Errors
    /// ENOENT where there is none; any other [`NetlinkError`].
    pub fn is_established(
        &mut self,
        own: SocketAddr,
        peer: SocketAddr,
    ) -> Result<bool, NetlinkError> {
        const SYN_RECEIVED: u8 = 3;
        let operation = Operation::new("look up connection of", peer);
        let request = SockDiagMessage::InetRequest(InetRequest {
            family: if own.is_ipv4() { AF_INET } else { AF_INET6 },
            protocol: SocketProtocol::Tcp.number(),
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all(),
            socket_id: SocketId {
                source_port: own.port(),
                destination_port: peer.port(),
                source_address: own.ip(),
                destination_address: peer.ip(),
                interface_id: 0,
                cookie: [0xff; 8],
            },
        });
        let answers = self.0.query(&operation, request)?;
        let state = answers.iter().find_map(|answer| {
            if let SockDiagMessage::InetResponse(response) = answer {
                Some(response.header.state)
            } else {
                None
            }
        });
        Ok(state.is_some_and(|state| state != SYN_RECEIVED))
    }
}

/// An unspecified address means that there is no peer.
pub(in crate::io) fn peer_of(address: IpAddr) -> Option<IpAddr> {
    (!address.is_unspecified()).then_some(address)
}

pub(super) fn socket_of(message: SockDiagMessage) -> Option<BoundSocket> {
    let SockDiagMessage::InetResponse(response) = message else {
        return None;
    };
    let InetResponse { header, nlas } = *response;
    Some(BoundSocket {
        address: header.socket_id.source_address,
        port: header.socket_id.source_port,
        peer: peer_of(header.socket_id.destination_address),
        v6_only: nlas.contains(&Nla::SkV6Only(true)),
        link: header.socket_id.interface_id,
        queued: header.recv_queue,
        queue_limit: header.send_queue,
        inode: header.inode,
        user: header.uid,
        mark: nlas.iter().find_map(mark_of).unwrap_or_default(),
        memory: nlas.iter().find_map(memory_of),
        transparent: nlas.iter().find_map(transparency_of),
        signed_peers: nlas.iter().flat_map(signed_peers_of).collect(),
    })
}

const fn memory_of(nla: &Nla) -> Option<(u32, u32)> {
    if let Nla::MemInfo(memory) = nla {
        Some((memory.receive_queue_max, memory.receive_queue))
    } else {
        None
    }
}

/// Of linux/inet_diag.h.
const INET_DIAG_MD5SIG: u16 = 18;
const INET_DIAG_SOCKOPT: u16 = 22;

/// `struct inet_diag_sockopt`: the sixth bit of its first byte.
fn transparency_of(nla: &Nla) -> Option<bool> {
    let flags = value_of(nla, INET_DIAG_SOCKOPT)?;
    Some(flags.first()? & 0x20 != 0)
}

/// A `struct tcp_diag_md5sig` for each: family, prefix length, length of the key, address, key.
fn signed_peers_of(nla: &Nla) -> Vec<IpNet> {
    const SIZE: usize = 100;
    let keys = value_of(nla, INET_DIAG_MD5SIG).unwrap_or_default();
    let peer = |key: &[u8]| {
        let address: IpAddr = if key[0] == AF_INET {
            <[u8; 4]>::try_from(&key[4..8]).ok()?.into()
        } else {
            <[u8; 16]>::try_from(&key[4..20]).ok()?.into()
        };
        IpNet::new(address, key[1]).ok()
    };
    keys.chunks_exact(SIZE).filter_map(peer).collect()
}

fn value_of(nla: &Nla, kind: u16) -> Option<Vec<u8>> {
    let Nla::Other(other) = nla else {
        return None;
    };
    let mut value = vec![0; other.value_len()];
    other.emit_value(&mut value);
    (other.kind() == kind).then_some(value)
}

const fn mark_of(nla: &Nla) -> Option<u32> {
    if let Nla::Mark(mark) = nla {
        Some(*mark)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};
    use std::net::SocketAddr;

    fn listener(address: &str, only: bool) -> (Socket, u16) {
        let address: SocketAddr = address.parse().unwrap();
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        if address.is_ipv6() {
            socket.set_only_v6(only).unwrap();
        }
        socket.bind(&address.into()).unwrap();
        socket.listen(7).unwrap();
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        (socket, port)
    }

    #[test]
    fn listeners_show_their_queue_and_family() {
        let mut tables = SocketTables::open().unwrap();
        for (address, only) in [("127.0.0.1:0", false), ("[::]:0", false), ("[::]:0", true)] {
            let (_socket, port) = listener(address, only);
            let found = tables.bound(SocketProtocol::Tcp).unwrap();
            let found = found.iter().find(|socket| socket.port == port).unwrap();
            let expected: SocketAddr = address.parse().unwrap();
            assert_eq!(found.address, expected.ip());
            assert_eq!((found.queued, found.queue_limit), (0, 7));
            assert_eq!(found.v6_only, only, "{address}");
            assert_eq!(found.link, 0);
        }
    }

    #[test]
    fn udp_sockets_are_found() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let mut tables = SocketTables::open().unwrap();
        let found = tables.bound(SocketProtocol::Udp).unwrap();
        assert!(found.iter().any(|socket| socket.port == port));
    }
}
