//! One probe under way: its socket, and how far it got.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::time::Duration;

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Socket, Type};

use crate::director::BackendIndex;
use crate::io::sys;
use crate::packet::{FlowKey, Protocol};
use crate::probe::{Close, Moment, ProbeResult};

/// A probe under way.
#[derive(Debug)]
pub(super) struct Flight {
    /// Which plan's position it is for.
    pub(super) plan: u64,
    pub(super) position: usize,
    /// Tells it from others that had its number.
    pub(super) serial: u64,
    /// As its packets have it.
    pub(super) flow: FlowKey,
    pub(super) backend: BackendIndex,
    pub(super) started: Moment,
    pub(super) deadline: Moment,
    /// Whether one of its packets came out of the probe device.
    pub(super) was_sent: bool,
    /// Of its SYN.
    pub(super) sequence: Option<u32>,
    /// What was heard of it beside an answer.
    pub(super) evidence: Option<ProbeResult>,
    connection: TcpStream,
    connected: bool,
}

/// Why a probe did not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotStarted {
    /// Another socket has the port.
    PortTaken,
    /// Another port would not do either.
    For(ProbeResult),
}

/// What a connection begins with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) source: IpAddr,
    pub(super) port: u16,
    pub(super) destination: SocketAddr,
}

impl Ends {
    pub(super) const fn flow(&self, protocol: Protocol) -> FlowKey {
        FlowKey {
            source: self.source,
            destination: self.destination.ip(),
            source_port: self.port,
            destination_port: self.destination.port(),
            protocol,
        }
    }
}

/// Begins a connection.
pub(super) fn connect(ends: &Ends, close: Close) -> Result<TcpStream, NotStarted> {
    let socket = Socket::new(Domain::for_address(ends.destination), Type::STREAM.nonblocking(), None)
        .map_err(|error| NotStarted::For(no_socket(&error)))?;
    prepare(&socket, ends.destination.is_ipv4(), close)
        .map_err(|_| NotStarted::For(ProbeResult::NotSent))?;
    let own = SocketAddr::new(ends.source, ends.port);
    socket.bind(&own.into()).map_err(|error| not_bound(&error))?;
    match socket.connect(&ends.destination.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(not_bound(&error)),
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// The last acknowledgement of a handshake is held back, and the end is a reset: the service's accept() does not
/// return for a connection that nothing follows.
fn prepare(socket: &Socket, is_v4: bool, close: Close) -> io::Result<()> {
    if is_v4 {
        sys::route_by_link_scope(socket.as_fd())?;
    }
    if close == Close::Reset {
        socket.set_tcp_quickack(false)?;
        socket.set_linger(Some(Duration::ZERO))?;
    }
    Ok(())
}

fn no_socket(error: &io::Error) -> ProbeResult {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => ProbeResult::NoFd,
        Some(libc::EAFNOSUPPORT) => ProbeResult::NoSource,
        _ => ProbeResult::NotSent,
    }
}

fn not_bound(error: &io::Error) -> NotStarted {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => NotStarted::PortTaken,
        Some(libc::EADDRNOTAVAIL) => NotStarted::For(ProbeResult::NoSource),
        _ => NotStarted::For(ProbeResult::NotSent),
    }
}

/// What is known of a probe when it starts.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) plan: u64,
    pub(super) position: usize,
    pub(super) serial: u64,
    pub(super) flow: FlowKey,
    pub(super) backend: BackendIndex,
    pub(super) started: Moment,
    pub(super) deadline: Moment,
}

impl Flight {
    pub(super) fn new(start: Start, connection: TcpStream) -> Self {
        Self {
            plan: start.plan,
            position: start.position,
            serial: start.serial,
            flow: start.flow,
            backend: start.backend,
            started: start.started,
            deadline: start.deadline,
            was_sent: false,
            sequence: None,
            evidence: None,
            connection,
            connected: false,
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.connection.register(registry, token, interest)
    }

    /// Whether a SYN was answered.
    pub(super) const fn is_connected(&self) -> bool {
        self.connected
    }

    /// Goes on as far as it can; what it found, once that is known.
    pub(super) fn go_on(&mut self) -> Option<ProbeResult> {
        if !self.connected {
            match self.connection.take_error() {
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => return Some(failure(&error, ProbeResult::Refused)),
            }
            if self.connection.peer_addr().is_err() {
                return None; // not yet
            }
            self.connected = true;
        }
        Some(ProbeResult::Ok)
    }
}

/// What an error of a connection means; a reset is `reset`.
fn failure(error: &io::Error, reset: ProbeResult) -> ProbeResult {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED | libc::ECONNRESET | libc::EPIPE) => reset,
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH) => ProbeResult::Unreachable,
        _ => ProbeResult::NoAnswer,
    }
}
