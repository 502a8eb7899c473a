//! What an operator asks for in `[vip.health]`, validated.

use std::fmt;
use std::net::IpAddr;
use std::num::{NonZeroU8, NonZeroU16};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::packet::Protocol;

/// How the backends of a VIP are measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probing {
    /// By what.
    pub by: ProbedBy,
    /// What becomes of the flows that a backend has when it turns unhealthy.
    pub on_unhealthy: OnUnhealthy,
    /// How often packets of full size are sent through the tunnels; `None`: never.
    pub mtu_check: Option<Duration>,
    /// In which time a backend that turned healthy gets from a tenth of its weight to the whole; `None`: at once.
    pub slow_start: Option<Duration>,
}

/// By what a backend is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbedBy {
    /// Probes of its own.
    Check(Arc<Check>),
    /// Those of another VIP, by its name.
    Track(String),
}

/// One check: what is sent, how often, and what counts as an answer. Two that are equal measure the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is sent.
    pub kind: Kind,
    /// The port instead of the VIP's.
    pub port: Option<NonZeroU16>,
    /// How often.
    pub timing: Timing,
    /// Good probes in a row until a backend is healthy.
    pub rise: NonZeroU8,
    /// Bad probes in a row until it is unhealthy.
    pub fall: NonZeroU8,
    /// What it is taken for before the first result.
    pub initial: Initial,
    /// The inner source address; `None`: the one that this host has towards the backend.
    pub source: Option<IpAddr>,
    /// How a connection of the kind `tcp` ends.
    pub close: Close,
    /// By which way.
    pub via: Via,
    /// Whether what clients' packets show brings the next probe forward.
    pub passive: bool,
}

/// By which way a probe goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Via {
    /// To the VIP through the tunnel, as clients' packets.
    #[default]
    Tunnel,
    /// To the backend's own address: for backends that cannot answer this host from the VIP.
    Direct,
}

/// How often a backend is probed, and how long an answer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From the start of a probe to the start of the next one.
    pub interval: Duration,
    /// The same while a change is in question: after a first result that disagrees with what holds.
    pub edge: Duration,
    /// The same while the backend is unhealthy.
    pub down: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// What is sent, and what passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A SYN: a SYN-ACK passes.
    Tcp,
    /// A GET request.
    Http(Http),
    /// A GET request over TLS.
    Https(Https),
    /// A ClientHello: a ServerHello passes.
    Tls(Tls),
    /// A datagram.
    Udp(Datagram),
    /// A query.
    Dns(Dns),
    /// An ICMP echo request to the VIP.
    Ping(Ping),
    /// Nothing: results come by the API.
    External,
}

/// A GET request and the answer that passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Begins with a slash.
    pub path: String,
    /// The Host header; `None`: the VIP.
    pub host: Option<String>,
    /// The status that passes.
    pub status: RangeInclusive<u16>,
    /// What the body has to contain.
    pub body: Option<String>,
}

/// A GET request over TLS, the certificate and the answer that pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Https {
    /// The request; its Host is the server's name, too.
    pub http: Http,
    /// By what the certificate is judged.
    pub verify: Verify,
}

/// By what a certificate is judged.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Verify {
    /// Any will do: an attacker who can answer for the backend can answer its clients, too.
    #[default]
    None,
    /// The authorities that this system trusts.
    System,
    /// The authorities in this file, in PEM.
    File(String),
}

/// A ClientHello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The server name in it.
    pub host: Option<String>,
}

/// A datagram and the answer that passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Its bytes.
    pub payload: Vec<u8>,
    /// How the answer begins; `None`: silence proves nothing, and an ICMP error is a failure.
    pub expect: Option<Pattern>,
}

/// Bytes, some of whose hexadecimal digits may be any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pattern {
    /// The bytes, zero where any digit is right.
    pub bytes: Vec<u8>,
    /// Which bits of each count.
    pub mask: Vec<u8>,
}

/// A DNS query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// The name, in its text form.
    pub query: String,
    /// What of it.
    pub record: Record,
    /// By which transport.
    pub protocol: Protocol,
}

/// The type of a DNS record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// An IPv4 address.
    A,
    /// An IPv6 address.
    Aaaa,
    /// The start of a zone of authority.
    Soa,
    /// Text.
    Txt,
}

/// An echo request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    /// The length of the inner packet in bytes; `None`: a small one.
    pub size: Option<u16>,
}

/// What a backend is taken for before the first result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Initial {
    /// Healthy until the first result, which alone decides.
    #[default]
    Trial,
    /// Healthy.
    Healthy,
    /// Unhealthy.
    Unhealthy,
}

/// What becomes of the flows that a backend has when it turns unhealthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUnhealthy {
    /// They move where the result proves that they get no answer, and stay where it does not.
    #[default]
    Auto,
    /// They move.
    Move,
    /// They stay.
    Keep,
}

/// How a connection that was opened only to see whether it can be ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Close {
    /// With a reset, before the service hears of it.
    #[default]
    Reset,
    /// As any other.
    Graceful,
}

impl Via {
    /// The word of the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Direct => "direct",
        }
    }
}

impl Timing {
    /// So many intervals without a verdict, and nothing is known any more.
    const UNKNOWN_AFTER: u32 = 3;

    /// How long what was found last may be taken for what is.
    #[must_use]
    pub fn patience(&self) -> Duration {
        let interval = self.interval.max(self.edge).max(self.down);
        interval.max(self.timeout) * Self::UNKNOWN_AFTER
    }
}

impl Check {
    /// The default of `interval`.
    pub const INTERVAL: Duration = Duration::from_secs(2);
    /// The default of `timeout`.
    pub const TIMEOUT: Duration = Duration::from_secs(1);
    /// The default of `rise`.
    pub const RISE: NonZeroU8 = const { NonZeroU8::new(2).expect("not 0") };
    /// The default of `fall`.
    pub const FALL: NonZeroU8 = const { NonZeroU8::new(3).expect("not 0") };
}

impl Default for Check {
    /// A TCP connection to the VIP's port.
    fn default() -> Self {
        Self {
            kind: Kind::Tcp,
            port: None,
            timing: Timing {
                interval: Self::INTERVAL,
                edge: Self::INTERVAL,
                down: Self::INTERVAL,
                timeout: Self::TIMEOUT,
            },
            rise: Self::RISE,
            fall: Self::FALL,
            initial: Initial::default(),
            source: None,
            close: Close::default(),
            via: Via::default(),
            passive: false,
        }
    }
}

impl Kind {
    /// The word of the configuration.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http(_) => "http",
            Self::Https(_) => "https",
            Self::Tls(_) => "tls",
            Self::Udp(_) => "udp",
            Self::Dns(_) => "dns",
            Self::Ping(_) => "ping",
            Self::External => "external",
        }
    }

    /// The transport of its packets; `None` for those without ports.
    #[must_use]
    pub const fn protocol(&self) -> Option<Protocol> {
        match self {
            Self::Tcp | Self::Http(_) | Self::Https(_) | Self::Tls(_) => Some(Protocol::Tcp),
            Self::Udp(_) => Some(Protocol::Udp),
            Self::Dns(dns) => Some(dns.protocol),
            Self::Ping(_) | Self::External => None,
        }
    }
}

/// In one line, for what a reload changed.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        match &self.kind {
            Kind::Http(http) => http.fmt(f)?,
            Kind::Https(Https { http, verify }) => {
                http.fmt(f)?;
                match verify {
                    Verify::None => {}
                    Verify::System => f.write_str(" verify system")?,
                    Verify::File(path) => write!(f, " verify {path}")?,
                }
            }
            Kind::Tls(tls) => tls
                .host
                .iter()
                .try_for_each(|host| write!(f, " host {host}"))?,
            Kind::Udp(udp) => write!(f, " {} bytes", udp.payload.len())?,
            Kind::Dns(dns) => write!(f, " {} {} by {}", dns.query, dns.record, dns.protocol)?,
            Kind::Ping(ping) => ping
                .size
                .iter()
                .try_for_each(|size| write!(f, " {size} bytes"))?,
            Kind::Tcp | Kind::External => {}
        }
        self.port
            .iter()
            .try_for_each(|port| write!(f, " port {port}"))?;
        self.source
            .iter()
            .try_for_each(|source| write!(f, " from {source}"))?;
        let Timing {
            interval,
            edge,
            down,
            timeout,
        } = self.timing;
        write!(f, " every {interval:?}")?;
        if (edge, down) != (interval, interval) {
            write!(f, " (edge {edge:?}, down {down:?})")?;
        }
        write!(
            f,
            " timeout {timeout:?} rise {} fall {}",
            self.rise, self.fall
        )?;
        if self.initial != Initial::default() {
            write!(f, " initial {}", self.initial)?;
        }
        if self.close == Close::Graceful {
            f.write_str(" close graceful")?;
        }
        if self.via == Via::Direct {
            f.write_str(" via direct")?;
        }
        if self.passive {
            f.write_str(" passive")?;
        }
        Ok(())
    }
}

impl fmt::Display for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.status.start(), self.status.end());
        write!(f, " {} {first}-{last}", self.path)?;
        let mut host = self.host.iter();
        host.try_for_each(|host| write!(f, " host {host}"))?;
        let mut body = self.body.iter();
        body.try_for_each(|body| write!(f, " body {body:?}"))
    }
}

impl fmt::Display for Probing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.by {
            ProbedBy::Check(check) => check.fmt(f)?,
            ProbedBy::Track(vip) => write!(f, "as {vip}")?,
        }
        match self.on_unhealthy {
            OnUnhealthy::Auto => {}
            OnUnhealthy::Move => f.write_str(" on_unhealthy move")?,
            OnUnhealthy::Keep => f.write_str(" on_unhealthy keep")?,
        }
        let mut mtu_check = self.mtu_check.iter();
        mtu_check.try_for_each(|interval| write!(f, " mtu_check {interval:?}"))?;
        let mut slow_start = self.slow_start.iter();
        slow_start.try_for_each(|time| write!(f, " slow_start {time:?}"))
    }
}

impl fmt::Display for Initial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trial => "trial",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        })
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Soa => "SOA",
            Self::Txt => "TXT",
        })
    }
}

impl Pattern {
    /// Whether an answer begins so.
    #[must_use]
    pub fn matches(&self, answer: &[u8]) -> bool {
        let pairs = self.bytes.iter().zip(&self.mask).zip(answer);
        answer.len() >= self.bytes.len()
            && pairs
                .into_iter()
                .all(|((byte, mask), is)| byte & mask == is & mask)
    }
}
