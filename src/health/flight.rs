//! One probe under way: its socket, and how far it got.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::time::Duration;

use mio::event::Source;
use mio::net::{TcpStream, UdpSocket};
use mio::{Interest, Registry, Token};
use socket2::{Domain, SockRef, Socket, Type};

use super::talk::Talk;
use super::wire::Trace;
use crate::director::BackendIndex;
use crate::io::sys;
use crate::packet::{FlowKey, Protocol};
use crate::probe::{Moment, ProbeResult};

/// A probe under way, or a question that follows one.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) aim: Aim,
    /// Tells it from others that had its number.
    pub(super) serial: u64,
    /// As its packets out of the probe device have it; `None` for those that do not come out of it.
    pub(super) flow: Option<FlowKey>,
    pub(super) backend: BackendIndex,
    pub(super) started: Moment,
    pub(super) deadline: Moment,
    /// Whether one of its packets came out of the probe device, or need not.
    pub(super) was_sent: bool,
    /// Of its SYN.
    pub(super) sequence: Option<u32>,
    /// What was heard of it beside an answer.
    pub(super) evidence: Option<ProbeResult>,
    /// What was seen of it on the wire.
    pub(super) trace: Trace,
    carrier: Carrier,
    talk: Option<Talk>,
    /// Bytes of the request that the kernel took.
    written: usize,
    connected: bool,
}

/// What a flight is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aim {
    /// The backend at a position of the plan of that number.
    Probe { plan: u64, position: usize },
    /// A question of the inquest of that number.
    Inquest(usize, Question),
}

/// What follows a probe that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// TCP to the backend's own address.
    Direct,
    /// An echo request to it.
    DirectPing,
    /// An echo request to the VIP through the tunnel.
    TunnelPing,
    /// One as long as what fits the tunnel.
    FullPing,
    /// One of that many bytes.
    SizedPing(u16),
    /// TCP to the VIP as any client's goes, past the device of probes.
    AsClient,
    /// The probe itself.
    Probe,
}

/// What carries it.
#[derive(Debug)]
pub(super) enum Carrier {
    Tcp(TcpStream),
    Udp(UdpSocket),
    /// An echo request with that sequence number.
    Echo(u16),
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

/// How a socket is set up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// Its packets are to come out of the probe device, which they find by that TOS.
    pub(super) through_tunnel: Option<u8>,
    /// It ends by a reset, and holds the last acknowledgement of the handshake back: the service's accept() does not
    /// return for a connection that nothing follows.
    pub(super) unheard: bool,
}

/// Begins a connection.
pub(super) fn connect(ends: &Ends, manner: Manner) -> Result<TcpStream, NotStarted> {
    let socket = socket(ends, Type::STREAM, manner.through_tunnel)?;
    if manner.unheard {
        let prepared = socket
            .set_tcp_quickack(false)
            .and_then(|()| socket.set_linger(Some(Duration::ZERO)));
        prepared.map_err(|_| NotStarted::For(ProbeResult::NotSent))?;
    }
    match socket.connect(&ends.destination.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(not_bound(&error)),
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// A socket for datagrams to and from that destination alone.
pub(super) fn exchange(ends: &Ends, through_tunnel: Option<u8>) -> Result<UdpSocket, NotStarted> {
    let socket = socket(ends, Type::DGRAM, through_tunnel)?;
    socket
        .connect(&ends.destination.into())
        .map_err(|error| not_bound(&error))?;
    Ok(UdpSocket::from_std(socket.into()))
}

fn socket(ends: &Ends, kind: Type, through_tunnel: Option<u8>) -> Result<Socket, NotStarted> {
    let socket = Socket::new(
        Domain::for_address(ends.destination),
        kind.nonblocking(),
        None,
    )
    .map_err(|error| NotStarted::For(no_socket(&error)))?;
    if let Some(tos) = through_tunnel.filter(|_| ends.destination.is_ipv4()) {
        let routed = sys::route_by_link_scope(socket.as_fd());
        let routed = routed.and_then(|()| socket.set_tos_v4(tos.into()));
        routed.map_err(|_| NotStarted::For(ProbeResult::NotSent))?;
    }
    let own = SocketAddr::new(ends.source, ends.port);
    socket
        .bind(&own.into())
        .map_err(|error| not_bound(&error))?;
    Ok(socket)
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

impl Flight {
    /// One that begins now.
    pub(super) fn new(
        (aim, serial): (Aim, u64),
        (flow, backend): (Option<FlowKey>, BackendIndex),
        (started, deadline): (Moment, Moment),
        (carrier, talk): (Carrier, Option<Talk>),
    ) -> Self {
        Self {
            aim,
            serial,
            flow,
            backend,
            started,
            deadline,
            was_sent: flow.is_none(),
            sequence: None,
            evidence: None,
            trace: Trace::default(),
            carrier,
            talk,
            written: 0,
            connected: false,
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match &mut self.carrier {
            Carrier::Tcp(stream) => stream.register(registry, token, interest),
            Carrier::Udp(socket) => socket.register(registry, token, Interest::READABLE),
            Carrier::Echo(_) => Ok(()),
        }
    }

    /// Whether a SYN was answered.
    pub(super) const fn is_connected(&self) -> bool {
        self.connected
    }

    /// Whether it has something to send before anything is heard of it.
    pub(super) const fn speaks_first(&self) -> bool {
        matches!(self.carrier, Carrier::Udp(_))
    }

    /// The sequence number of its echo request.
    pub(super) const fn echo(&self) -> Option<u16> {
        match self.carrier {
            Carrier::Echo(sequence) => Some(sequence),
            Carrier::Tcp(_) | Carrier::Udp(_) => None,
        }
    }

    /// When the certificate that the service showed expires, in seconds after the Unix epoch.
    pub(super) fn certificate_expires(&self) -> Option<u64> {
        self.talk.as_ref()?.certificate_expires()
    }

    /// What is known when the time is over, beside that no answer came.
    pub(super) fn timed_out(&self) -> Option<ProbeResult> {
        self.talk.as_ref()?.timed_out()
    }

    /// Has the connection end by a reset: nothing more is expected of the other end.
    pub(super) fn abort(&self) {
        if let Carrier::Tcp(stream) = &self.carrier {
            // Where it fails, the connection ends as any other.
            SockRef::from(stream).set_linger(Some(Duration::ZERO)).ok();
        }
    }

    /// Goes on as far as it can; what it found, once that is known.
    pub(super) fn go_on(&mut self) -> Option<ProbeResult> {
        match &self.carrier {
            Carrier::Tcp(_) => self.go_on_by_tcp(),
            Carrier::Udp(_) => self.go_on_by_udp(),
            Carrier::Echo(_) => Some(ProbeResult::Ok),
        }
    }

    fn go_on_by_tcp(&mut self) -> Option<ProbeResult> {
        let Carrier::Tcp(stream) = &mut self.carrier else {
            return None;
        };
        if !self.connected {
            match stream.take_error() {
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => return Some(failure(&error, ProbeResult::Refused)),
            }
            if stream.peer_addr().is_err() {
                return None; // not yet
            }
            self.connected = true;
        }
        let Some(talk) = &mut self.talk else {
            return Some(ProbeResult::Ok);
        };
        let mut buffer = [0; 8192];
        loop {
            // What was read may ask for more to be sent.
            while let Some(rest @ [_, ..]) = talk.request().get(self.written..) {
                match stream.write(rest) {
                    Ok(written) => self.written += written,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Some(failure(&error, ProbeResult::Reset)),
                }
            }
            match stream.read(&mut buffer) {
                Ok(0) => return Some(talk.closed()),
                Ok(length) => {
                    if let Some(result) = talk.read(&buffer[..length]) {
                        return Some(result);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) => {
                    let reset = failure(&error, ProbeResult::Reset);
                    return Some(talk.timed_out().unwrap_or(reset));
                }
            }
        }
    }

    fn go_on_by_udp(&mut self) -> Option<ProbeResult> {
        let (Carrier::Udp(socket), Some(talk)) = (&self.carrier, &mut self.talk) else {
            return None;
        };
        if self.written == 0 {
            self.written = 1; // once
            if let Err(error) = socket.send(talk.request()) {
                return Some(failure(&error, ProbeResult::Refused));
            }
        }
        let mut buffer = [0; 8192];
        match socket.recv(&mut buffer) {
            Ok(length) => talk.read(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => Some(failure(&error, ProbeResult::Refused)),
        }
    }
}

/// What an error of a connection means; a reset is `reset`.
fn failure(error: &io::Error, reset: ProbeResult) -> ProbeResult {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED | libc::ECONNRESET | libc::EPIPE) => reset,
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH) => ProbeResult::Unreachable,
        Some(libc::EPERM | libc::EACCES) => ProbeResult::NotSent,
        _ => ProbeResult::NoAnswer,
    }
}
