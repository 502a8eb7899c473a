//! Watching itself: waits for a flow, follows it until enough was seen, then reads the counters.
//!
//! Counters are read again and again until the first packet comes: a reading counts as "before" only
//! where no packet was waiting after it.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::flow::{Flow, Part, has_data, is_about_tunnel, is_mere_data, rest};
use super::observation::{Kind, Observation, Outer, Sighting, Way};
use super::{Watched, counters, filter, sighting};
use crate::doctor::facts::Observed;
use crate::io::capability::{self, Capability, PrivilegeError};
use crate::io::capture::{CaptureError, CaptureFile, CapturedPacket, Direction};
use crate::io::netlink::{Netlink, NetlinkError, SocketTables};
use crate::io::packet_socket::{self, PacketSocket, SeenPacket};
use crate::io::tracing::DropTrace;
use crate::packet::Protocol;

/// Between two looks at the counters, and at the signal to stop.
const TICK: Duration = Duration::from_millis(100);

/// How long a flow is followed at most: a SYN comes again after one second and after three (RFC 6298).
const FOLLOWED: Duration = Duration::from_millis(3500);

/// How long a datagram may wait for its answer.
const DATAGRAM_FOLLOWED: Duration = Duration::from_secs(2);

/// Packets that are kept before it is known which flow is followed, and of that flow.
const MOST_SEEN: usize = 256;

/// What happens meanwhile.
#[derive(Debug)]
pub enum Progress<'a> {
    /// The capture is on: packets that come from now on are seen.
    Watching,
    /// A packet of the flow.
    Seen(&'a Sighting),
    /// The capture file takes no more; the watch goes on.
    CaptureEnded(CaptureError),
}

/// Why nothing can be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// CAP_NET_RAW is missing.
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    /// The packet socket.
    #[error("capture packets: {0}")]
    Socket(#[from] io::Error),
    /// The names of devices.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The capture file.
    #[error(transparent)]
    Capture(#[from] CaptureError),
}

/// Watches until a flow was followed to its end, none came for `patience`, or `stop` is set; copies what
/// comes through the filter into `capture`. Changes nothing on the machine.
///
/// # Errors
/// [`WatchError`].
pub fn watch(
    watched: &Watched,
    patience: Duration,
    capture: Option<CaptureFile>,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Observation, WatchError> {
    capability::require(&[Capability::NetRaw])?;
    let mut socket = PacketSocket::open(&filter::program(watched, watched.client))?;
    let mut live = Live::new(watched, capture, progress)?;
    live.rebase(&mut socket)?;
    (live.progress)(Progress::Watching);
    while !stop.load(Ordering::Relaxed) && !live.is_over(patience) {
        match socket.receive(TICK)? {
            Some(packet) if live.take(&packet)? => {
                socket.set_filter(&filter::program(watched, live.client()))?;
            }
            Some(_) => {}
            None if live.flow.is_none() => live.rebase(&mut socket)?,
            None => {}
        }
    }
    live.finish(&socket, stop)
}

/// A watch that goes on.
struct Live<'a> {
    watched: &'a Watched,
    progress: &'a mut dyn FnMut(Progress<'_>),
    capture: Option<CaptureFile>,
    devices: Devices,
    began: Instant,
    /// The counters before the flow, and the mark in the record of drops.
    before: BTreeMap<String, u64>,
    mark: u64,
    drops: Observed<DropTrace>,
    flow: Option<Followed>,
    /// Packets of all flows while none is followed.
    earlier: Vec<(SystemTime, Sighting)>,
    seen: Vec<Sighting>,
    /// When enough was seen of it.
    end: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Followed {
    flow: Flow,
    outer: Option<Outer>,
    began: Instant,
    first: SystemTime,
}

impl<'a> Live<'a> {
    fn new(
        watched: &'a Watched,
        capture: Option<CaptureFile>,
        progress: &'a mut dyn FnMut(Progress<'_>),
    ) -> Result<Self, WatchError> {
        Ok(Self {
            watched,
            progress,
            capture,
            devices: Devices::read()?,
            began: Instant::now(),
            before: BTreeMap::new(),
            mark: 0,
            drops: DropTrace::begin().into(),
            flow: None,
            earlier: Vec::new(),
            seen: Vec::new(),
            end: None,
        })
    }

    fn client(&self) -> Option<std::net::IpAddr> {
        self.flow.map(|followed| followed.flow.client)
    }

    fn is_over(&self, patience: Duration) -> bool {
        let followed = match self.watched.protocol {
            Protocol::Tcp => FOLLOWED,
            Protocol::Udp => DATAGRAM_FOLLOWED,
        };
        match (self.flow, self.end) {
            (_, Some(end)) => Instant::now() >= end,
            (Some(flow), None) => flow.began.elapsed() >= followed,
            (None, None) => self.began.elapsed() >= patience,
        }
    }

    /// Takes the counters as those of before, unless a packet has come meanwhile.
    fn rebase(&mut self, socket: &mut PacketSocket) -> Result<(), WatchError> {
        let mark = match &mut self.drops {
            Observed::Seen(trace) => trace.mark(),
            Observed::Unseen(_) => Ok(0),
        };
        let before = counters::read(self.watched);
        let first = self.before.is_empty();
        let meanwhile = socket.receive(Duration::ZERO)?;
        if meanwhile.is_none() || first {
            self.before = before;
            match mark {
                Ok(mark) => self.mark = mark,
                Err(error) => self.drops = Observed::Unseen(error.to_string()),
            }
        }
        if let Some(packet) = meanwhile {
            self.take(&packet)?;
        }
        Ok(())
    }

    /// Takes a packet in; says whether it is the one that begins the flow.
    fn take(&mut self, packet: &SeenPacket<'_>) -> Result<bool, WatchError> {
        let Some((outer, summary)) = sighting::read(packet.bytes, self.watched.encap) else {
            return Ok(false);
        };
        let sighting = Sighting {
            microseconds: 0,
            device: self.devices.name(packet.device)?,
            way: match packet.way {
                packet_socket::Way::In => Way::In,
                packet_socket::Way::Out => Way::Out,
            },
            outer,
            packet: summary,
        };
        self.keep(packet, &sighting);
        let begun = self.flow.is_none();
        if begun {
            let Some(flow) = Flow::begun_by(&sighting, self.watched) else {
                if self.earlier.len() < MOST_SEEN {
                    self.earlier.push((packet.time, sighting));
                }
                return Ok(false);
            };
            self.follow(flow, &sighting, packet.time);
        }
        self.add(sighting, packet.time);
        Ok(begun)
    }

    fn follow(&mut self, flow: Flow, first: &Sighting, time: SystemTime) {
        self.flow = Some(Followed {
            flow,
            outer: first.outer,
            began: Instant::now(),
            first: time,
        });
    }

    /// Adds a packet where it is one of the flow.
    fn add(&mut self, mut sighting: Sighting, time: SystemTime) {
        let Some(followed) = &mut self.flow else {
            return;
        };
        let belongs = match followed.flow.part(&sighting) {
            Some(Part::TunnelError) => tunnel_error_about(&sighting, followed.outer),
            Some(Part::Request | Part::Reply | Part::Error) => true,
            None => false,
        };
        let is_told = is_mere_data(&sighting.packet.kind) && has_data(&self.seen, sighting.way);
        if !belongs || is_told || self.seen.len() >= MOST_SEEN {
            return;
        }
        followed.outer = followed.outer.or(sighting.outer);
        let since = time.duration_since(followed.first).unwrap_or_default();
        sighting.microseconds = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        (self.progress)(Progress::Seen(&sighting));
        self.seen.push(sighting);
        if let Some(rest) = rest(&self.seen) {
            let end = Instant::now() + rest;
            self.end = Some(self.end.map_or(end, |earlier| earlier.min(end)));
        }
    }

    /// Copies a packet into the capture file, which ends when it is full.
    fn keep(&mut self, packet: &SeenPacket<'_>, sighting: &Sighting) {
        let Some(file) = &mut self.capture else {
            return;
        };
        let kept = file.append(&CapturedPacket {
            direction: match packet.way {
                packet_socket::Way::In => Direction::Inbound,
                packet_socket::Way::Out => Direction::Outbound,
            },
            time: packet.time,
            bytes: packet.bytes,
            comment: &sighting.to_string(),
        });
        if let Err(error) = kept {
            self.capture = None;
            (self.progress)(Progress::CaptureEnded(error));
        }
    }

    fn finish(
        mut self,
        socket: &PacketSocket,
        stop: &AtomicBool,
    ) -> Result<Observation, WatchError> {
        let after = counters::read(self.watched);
        if self.flow.is_none() {
            self.follow_what_goes_on();
        }
        if let Some(file) = &mut self.capture {
            file.flush()?;
        }
        let watched = self.watched;
        let drop_reasons = match &self.drops {
            Observed::Seen(trace) => trace.reasons_since(self.mark).into(),
            Observed::Unseen(why) => Observed::Unseen(why.clone()),
        };
        Ok(Observation {
            vip: watched.vip,
            port: watched.port,
            protocol: match watched.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
            }
            .to_owned(),
            physical: watched.physical.clone(),
            tunnel: watched.tunnel.clone(),
            milliseconds: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            interrupted: self.end.is_none() && stop.load(Ordering::Relaxed),
            established: self.established(),
            flow: self
                .flow
                .map(|followed| (followed.flow.client, followed.flow.client_port)),
            seen: self.seen,
            lost: socket.lost()?,
            counts_transmits: after.contains_key("IpOutTransmits"),
            deltas: counters::growth(&self.before, &after),
            drop_reasons,
        })
    }

    /// Whether the kernel has the connection established; none: it has no such connection, or does not tell.
    fn established(&self) -> Option<bool> {
        let flow = self
            .flow
            .filter(|_| self.watched.protocol == Protocol::Tcp)?
            .flow;
        let mut tables = SocketTables::open().ok()?;
        tables.is_established(flow.service(), flow.peer()).ok()
    }

    /// Without a flow that began: one that was there before.
    fn follow_what_goes_on(&mut self) {
        let earlier = std::mem::take(&mut self.earlier);
        let first = earlier.iter().find_map(|(time, sighting)| {
            Some((Flow::of(sighting, self.watched)?, sighting, *time))
        });
        if let Some((flow, sighting, time)) = first {
            self.follow(flow, sighting, time);
        }
        for (time, sighting) in earlier {
            self.add(sighting, time);
        }
    }
}

fn tunnel_error_about(sighting: &Sighting, outer: Option<Outer>) -> bool {
    let (Kind::Error { about, .. }, Some(outer)) = (&sighting.packet.kind, outer) else {
        return false;
    };
    is_about_tunnel(about, &outer)
}

/// The names of devices.
struct Devices(BTreeMap<u32, String>);

impl Devices {
    fn read() -> Result<Self, NetlinkError> {
        let links = Netlink::open()?.links()?.into_iter();
        Ok(Self(links.map(|link| (link.index, link.name)).collect()))
    }

    /// A device that came after the list was read makes it be read again.
    fn name(&mut self, index: u32) -> Result<String, NetlinkError> {
        if !self.0.contains_key(&index) {
            *self = Self::read()?;
        }
        let name = self.0.get(&index).cloned();
        Ok(name.unwrap_or_else(|| format!("device {index}")))
    }
}
