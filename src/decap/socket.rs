//! The sockets that tunnel packets arrive on: which are opened, and what each of them delivers in front
//! of the inner packet.

use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    num::{NonZeroU16, NonZeroUsize},
    os::fd::AsFd,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    io::sys::{self, Received, Wanted},
    packet::{
        Version,
        decap::{self, DecapError as Unfit, Decapsulated, Outer},
    },
};

use super::{
    DecapError, Encapsulation, rival,
    spread::{self, Share, Start},
};

/// Room for bursts while the process is not running: 8 MiB, about 10,000 small packets.
const RECEIVE_BUFFER: libc::c_int = 8 << 20;

/// An open, non-blocking socket and the tunnels it takes.
#[derive(Debug)]
pub(super) struct TunnelSocket {
    pub(super) socket: Socket,
    pub(super) carrier: Carrier,
}

/// What carries the inner packets that a socket takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    /// IPv4 with that protocol number; a raw socket delivers the outer header.
    Ipv4(u8),
    /// IPv6 with that protocol number; a raw socket delivers what follows the outer header's chain.
    Ipv6(u8),
    /// UDP to that port over IPv4: GUE.
    Udp4(NonZeroU16),
    /// UDP to that port over IPv6: GUE.
    Udp6(NonZeroU16),
}

/// Protocol numbers of IPv4 and IPv6 inside IP (IANA).
pub(super) const IPIP: u8 = 4;
pub(super) const IPV6: u8 = 41;

impl Carrier {
    /// Everything that `encapsulation` may arrive in: the outer family is the director's choice.
    fn all(encapsulation: Encapsulation) -> Vec<Self> {
        match encapsulation {
            Encapsulation::Ipip => vec![
                Self::Ipv4(IPIP),
                Self::Ipv4(IPV6),
                Self::Ipv6(IPIP),
                Self::Ipv6(IPV6),
            ],
            Encapsulation::Gue(port) => vec![Self::Udp4(port), Self::Udp6(port)],
        }
    }

    const fn version(self) -> Version {
        match self {
            Self::Ipv4(_) | Self::Udp4(_) => Version::V4,
            Self::Ipv6(_) | Self::Udp6(_) => Version::V6,
        }
    }

    const fn domain(self) -> Domain {
        match self {
            Self::Ipv4(_) | Self::Udp4(_) => Domain::IPV4,
            Self::Ipv6(_) | Self::Udp6(_) => Domain::IPV6,
        }
    }

    const fn is_udp(self) -> bool {
        matches!(self, Self::Udp4(_) | Self::Udp6(_))
    }

    /// What the kernel is to tell beside the bytes: nothing where the outer header is among them.
    pub(super) const fn wanted(self) -> Wanted {
        match self {
            Self::Ipv4(_) => Wanted::Bytes,
            Self::Ipv6(_) | Self::Udp4(_) | Self::Udp6(_) => Wanted::Everything,
        }
    }

    /// Takes what was received out of its tunnel.
    pub(super) fn open(self, received: Received<'_>) -> Result<Decapsulated<'_>, Unfit> {
        let outer = || {
            Ok(Outer {
                source: received.source.ok_or(Unfit::Malformed)?,
                traffic_class: received.traffic_class,
            })
        };
        match self {
            Self::Ipv4(_) => decap::open_ipv4(received.bytes),
            Self::Ipv6(protocol) => decap::open_ipv6(outer()?, protocol, received.bytes),
            Self::Udp4(_) | Self::Udp6(_) => decap::open_gue(outer()?, received.bytes),
        }
    }
}

/// As in "raw IPv6 socket for protocol 41".
impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv4(protocol) => write!(f, "raw IPv4 socket for protocol {protocol}"),
            Self::Ipv6(protocol) => write!(f, "raw IPv6 socket for protocol {protocol}"),
            Self::Udp4(port) => write!(f, "IPv4 socket for UDP port {port}"),
            Self::Udp6(port) => write!(f, "IPv6 socket for UDP port {port}"),
        }
    }
}

/// Opens, for each of `workers`, a socket for everything that `encapsulation` may arrive in. A kernel without
/// IPv6 is fine.
///
/// # Errors
/// [`DecapError::Socket`], [`DecapError::PortInUse`].
pub(super) fn open_all(
    encapsulation: Encapsulation,
    workers: NonZeroUsize,
) -> Result<Vec<Vec<TunnelSocket>>, DecapError> {
    let of = u32::try_from(workers.get()).unwrap_or(u32::MAX);
    let mut of_workers: Vec<Vec<TunnelSocket>> = (0..of).map(|_| Vec::new()).collect();
    for carrier in Carrier::all(encapsulation) {
        for (index, sockets) in (0..).zip(&mut of_workers) {
            match open(carrier, Share { index, of }) {
                Ok(socket) => sockets.push(TunnelSocket { socket, carrier }),
                Err((_, cause)) if is_absent_ipv6(carrier, &cause) => {
                    log::debug!("{carrier}: not opened, this kernel has no IPv6: {cause}");
                }
                Err((operation, cause)) => return Err(start_error(carrier, operation, cause)),
            }
        }
    }
    Ok(of_workers)
}

fn is_absent_ipv6(carrier: Carrier, cause: &io::Error) -> bool {
    carrier.domain() == Domain::IPV6 && cause.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

fn start_error(carrier: Carrier, operation: &'static str, cause: io::Error) -> DecapError {
    if let Carrier::Udp4(port) | Carrier::Udp6(port) = carrier
        && cause.kind() == io::ErrorKind::AddrInUse
    {
        let owner = rival::owner_of_port(port);
        return DecapError::PortInUse { port, owner };
    }
    DecapError::Socket {
        socket: carrier.to_string(),
        operation,
        cause,
    }
}

/// The socket that takes a share of what the carrier brings, or what failed.
fn open(carrier: Carrier, share: Share) -> Result<Socket, (&'static str, io::Error)> {
    let failed = |operation| move |cause| (operation, cause);
    let (kind, protocol) = match carrier {
        Carrier::Ipv4(protocol) | Carrier::Ipv6(protocol) => (Type::RAW, i32::from(protocol)),
        Carrier::Udp4(_) | Carrier::Udp6(_) => (Type::DGRAM, libc::IPPROTO_UDP),
    };
    let protocol = Protocol::from(protocol);
    let socket = Socket::new(carrier.domain(), kind, Some(protocol)).map_err(failed("open"))?;
    socket
        .set_nonblocking(true)
        .map_err(failed("make non-blocking"))?;
    // Or forged ICMP errors that quote a tunnel packet would lower the MTU of any route (raw_err of Linux).
    sys::learn_no_path_mtu(socket.as_fd(), carrier.version())
        .map_err(failed("keep path MTUs from"))?;
    widen(&socket).map_err(failed("set the receive buffer"))?;
    report_traffic_class(&socket, carrier).map_err(failed("ask for the traffic class"))?;
    join_datagrams(&socket, carrier);
    if share.of > 1 {
        share_flows(&socket, carrier, share).map_err(failed("spread flows"))?;
    }
    bind(&socket, carrier).map_err(failed("bind"))?;
    if share.of > 1 && carrier.is_udp() {
        socket
            .set_reuse_port(true)
            .map_err(failed("share the port"))?;
    }
    Ok(socket)
}

fn widen(socket: &Socket) -> io::Result<()> {
    // Not allowed in a user namespace: up to net.core.rmem_max then.
    sys::force_receive_buffer(socket.as_fd(), RECEIVE_BUFFER).or_else(|_| {
        let bytes = usize::try_from(RECEIVE_BUFFER).unwrap_or_default();
        socket.set_recv_buffer_size(bytes)
    })
}

/// Where the outer header is not delivered, its congestion marks must come otherwise.
fn report_traffic_class(socket: &Socket, carrier: Carrier) -> io::Result<()> {
    match carrier {
        Carrier::Ipv4(_) => Ok(()),
        Carrier::Udp4(_) => socket.set_recv_tos_v4(true),
        Carrier::Ipv6(_) | Carrier::Udp6(_) => socket.set_recv_tclass_v6(true),
    }
}

/// Without it (before Linux 5.0) the kernel takes joined datagrams apart.
fn join_datagrams(socket: &Socket, carrier: Carrier) {
    if carrier.is_udp()
        && let Err(error) = sys::join_datagrams(socket.as_fd())
    {
        log::debug!("{carrier}: datagrams are not received joined: {error}");
    }
}

/// UDP sockets that share a port: the kernel spreads by the outer addresses and ports (SO_REUSEPORT, socket(7)),
/// of which the director makes the source port from the flow. The first is bound as if it were alone, so that a
/// port in use is noticed.
fn share_flows(socket: &Socket, carrier: Carrier, share: Share) -> io::Result<()> {
    match carrier {
        Carrier::Udp4(_) | Carrier::Udp6(_) if share.index == 0 => Ok(()),
        Carrier::Udp4(_) | Carrier::Udp6(_) => socket.set_reuse_port(true),
        Carrier::Ipv4(protocol) => {
            spread::take(socket, Start::AfterIpv4, version_inside(protocol), share)
        }
        Carrier::Ipv6(protocol) => {
            spread::take(socket, Start::At(0), version_inside(protocol), share)
        }
    }
}

const fn version_inside(protocol: u8) -> Version {
    match protocol {
        IPV6 => Version::V6,
        _ => Version::V4,
    }
}

fn bind(socket: &Socket, carrier: Carrier) -> io::Result<()> {
    let (address, port) = match carrier {
        Carrier::Ipv4(_) | Carrier::Ipv6(_) => return Ok(()),
        Carrier::Udp4(port) => (Ipv4Addr::UNSPECIFIED.into(), port),
        Carrier::Udp6(port) => {
            socket.set_only_v6(true)?;
            (Ipv6Addr::UNSPECIFIED.into(), port)
        }
    };
    socket.bind(&SocketAddr::new(address, port.get()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: NonZeroU16 = NonZeroU16::new(6080).unwrap();

    #[test]
    fn with_gue_no_raw_socket_is_opened() {
        let texts: Vec<_> = [Encapsulation::Ipip, Encapsulation::Gue(PORT)]
            .into_iter()
            .flat_map(Carrier::all)
            .map(|carrier| carrier.to_string())
            .collect();
        assert_eq!(
            texts,
            [
                "raw IPv4 socket for protocol 4",
                "raw IPv4 socket for protocol 41",
                "raw IPv6 socket for protocol 4",
                "raw IPv6 socket for protocol 41",
                "IPv4 socket for UDP port 6080",
                "IPv6 socket for UDP port 6080",
            ]
        );
    }

    #[test]
    fn only_ipv6_may_be_absent() {
        let absent = || io::Error::from_raw_os_error(libc::EAFNOSUPPORT);
        assert!(is_absent_ipv6(Carrier::Ipv6(IPV6), &absent()));
        assert!(is_absent_ipv6(Carrier::Udp6(PORT), &absent()));
        assert!(!is_absent_ipv6(Carrier::Ipv4(IPV6), &absent()));
        let refused = io::Error::from_raw_os_error(libc::EPERM);
        assert!(!is_absent_ipv6(Carrier::Ipv6(IPV6), &refused));
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let taken = open(Carrier::Udp4(free_port()), Share { index: 0, of: 1 }).unwrap();
        let port = taken.local_addr().unwrap().as_socket().unwrap().port();
        let port = NonZeroU16::new(port).unwrap();
        for workers in [1, 2] {
            let workers = NonZeroUsize::new(workers).unwrap();
            let error = open_all(Encapsulation::Gue(port), workers).unwrap_err();
            let this = format!("port {port} is in use by process {}", std::process::id());
            assert!(error.to_string().contains(&this), "{error}");
            assert!(matches!(error, DecapError::PortInUse { .. }), "{error:?}");
        }
    }

    fn free_port() -> NonZeroU16 {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        NonZeroU16::new(socket.local_addr().unwrap().port()).unwrap()
    }

    #[test]
    fn a_packet_without_sender_is_malformed() {
        let received = Received {
            bytes: &mut [0x60],
            source: None,
            traffic_class: 0,
            joined: None,
        };
        let error = Carrier::Ipv6(IPV6).open(received).unwrap_err();
        assert_eq!(error, Unfit::Malformed);
    }
}
