//! How probes start.

use std::time::Duration;

use mio::Token;

use super::engine::{Engine, FLIGHTS};
use super::flight::{Aim, Carrier, Ends, Flight, Manner, NotStarted, Question, connect, exchange};
use super::inquest::Inquest;
use super::inquest::unspecified;
use super::plan::Probed;
use super::talk::Talk;
use super::timers::Due;
use super::ways::Way;
use crate::io::egress::SendError;
use crate::packet::Protocol;
use crate::probe::{Close, Kind, Moment, ProbeResult};

/// A host sends one ICMP error a second to another (`net.ipv4.icmp_ratelimit`), whichever packet it is about: so long one
/// may be missing.
const ICMP_INTERVAL: Duration = Duration::from_millis(1100);

/// Ports that are tried for one probe.
const PORT_ATTEMPTS: u32 = 64;

impl Engine {
    /// Starts a probe; or tells what it found before it could.
    pub(super) fn take_off(
        &mut self,
        aim: Aim,
        probed: &Probed,
        now: Moment,
    ) -> Result<(), ProbeResult> {
        if !probed.is_tunnelled() {
            return self.take_off_directly(aim, probed, now);
        }
        let source = probed.source.ok_or(ProbeResult::NoSource)?;
        if let Kind::Ping(ping) = &probed.check.kind {
            return self.ping_through(aim, probed, ping.size, now);
        }
        let Some(protocol) = probed.check.kind.protocol() else {
            return Err(ProbeResult::NotSent);
        };
        for _ in 0..PORT_ATTEMPTS.min(self.ports.len()) {
            let port = self.ports.next(source, probed.destination, protocol);
            let ends = Ends {
                source,
                port,
                destination: probed.destination,
            };
            if self.ways.has(&ends.flow(protocol)) {
                continue;
            }
            match self.open(&ends, protocol, probed) {
                Ok(carried) => {
                    let flow = Some(ends.flow(protocol));
                    self.serial += 1;
                    let times = (now, now + probed.check.timing.timeout);
                    let flight =
                        Flight::new((aim, self.serial), (flow, probed.backend), times, carried);
                    return self.launch(flight);
                }
                Err(NotStarted::PortTaken) => {}
                Err(NotStarted::For(result)) => return Err(result),
            }
        }
        Err(ProbeResult::NoPort)
    }

    /// Starts one to the backend's own address, on the kernel's way.
    fn take_off_directly(
        &mut self,
        aim: Aim,
        probed: &Probed,
        now: Moment,
    ) -> Result<(), ProbeResult> {
        let destination = probed.destination;
        let Some(protocol) = probed.check.kind.protocol() else {
            return self.ping_directly(aim, probed, now);
        };
        let ends = Ends {
            source: unspecified(destination.ip()),
            port: 0,
            destination,
        };
        let carried = self.open(&ends, protocol, probed);
        let carried = carried.map_err(|error| match error {
            NotStarted::PortTaken => ProbeResult::NoPort,
            NotStarted::For(result) => result,
        })?;
        self.serial += 1;
        let times = (now, now + probed.check.timing.timeout);
        let at = (None, probed.backend);
        self.launch(Flight::new((aim, self.serial), at, times, carried))
    }

    /// An echo request to the backend's own address.
    pub(super) fn ping_directly(
        &mut self,
        aim: Aim,
        probed: &Probed,
        now: Moment,
    ) -> Result<(), ProbeResult> {
        let number = self.flights.next();
        let sent = self.echoes.send(number, probed.target.address);
        let sequence = sent.map_err(|_| ProbeResult::NotSent)?;
        self.launch_ping(aim, probed, sequence, now)
    }

    fn tos_of(&self, probed: &Probed) -> Option<u8> {
        probed.is_tunnelled().then_some(self.apart.tos)
    }

    fn open(
        &self,
        ends: &Ends,
        protocol: Protocol,
        probed: &Probed,
    ) -> Result<(Carrier, Option<Talk>), NotStarted> {
        let salt = self.seed ^ self.serial.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let kind = &probed.check.kind;
        let talk = if let Kind::Https(https) = kind {
            let talk = self.trusts.talk(https, probed.destination);
            Some(talk.map_err(NotStarted::For)?)
        } else {
            Talk::new(kind, probed.destination, salt)
        };
        let carrier = match protocol {
            Protocol::Tcp => {
                let manner = Manner {
                    through_tunnel: self.tos_of(probed),
                    unheard: talk.is_none() && probed.check.close == Close::Reset,
                };
                Carrier::Tcp(connect(ends, manner)?)
            }
            Protocol::Udp => Carrier::Udp(exchange(ends, self.tos_of(probed))?),
        };
        Ok((carrier, talk))
    }

    /// An echo request to the VIP through the tunnel.
    pub(super) fn ping_through(
        &mut self,
        aim: Aim,
        probed: &Probed,
        size: Option<u16>,
        now: Moment,
    ) -> Result<(), ProbeResult> {
        let source = probed.source.ok_or(ProbeResult::NoSource)?;
        let ends = (source, probed.destination.ip());
        let (sequence, packet) = self.echoes.packet(self.flights.next(), ends, size);
        self.launch_ping(aim, probed, sequence, now)?;
        let snapshot = (self.snapshots)();
        let mut refused = None;
        self.forwarder
            .send_made(&packet, probed.backend, &snapshot, |error| {
                refused = Some(error)
            });
        match refused {
            None => Ok(()),
            Some(error) => {
                if let (SendError::TooBig, Aim::Inquest(inquest, _)) = (error, aim) {
                    let asked = self.inquests.open.get_mut(inquest);
                    asked.into_iter().for_each(Inquest::is_told_here);
                }
                let number = self.flights.numbers().into_iter().find(|number| {
                    let flight = self.flights.get(*number);
                    flight.is_some_and(|flight| flight.echo() == Some(sequence))
                });
                number.and_then(|number| self.end(number, now));
                Err(Self::meaning(error))
            }
        }
    }

    pub(super) fn launch_ping(
        &mut self,
        aim: Aim,
        probed: &Probed,
        sequence: u16,
        now: Moment,
    ) -> Result<(), ProbeResult> {
        self.serial += 1;
        let timeout = probed.check.timing.timeout;
        let timeout = match aim {
            Aim::Inquest(_, Question::TunnelPing) => timeout.max(ICMP_INTERVAL),
            Aim::Inquest(..) | Aim::Probe { .. } => timeout,
        };
        let times = (now, now + timeout);
        let carried = (Carrier::Echo(sequence), None);
        self.launch(Flight::new(
            (aim, self.serial),
            (None, probed.backend),
            times,
            carried,
        ))
    }

    pub(super) fn launch(&mut self, mut flight: Flight) -> Result<(), ProbeResult> {
        let number = self.flights.next();
        flight
            .register(self.poll.registry(), Token(FLIGHTS + number))
            .map_err(|_| ProbeResult::NoFd)?;
        if let Some(flow) = flight.flow {
            let way = Way {
                backend: flight.backend,
                serial: flight.serial,
                flight: Some(number),
            };
            self.ways.begin(flow, way);
        }
        self.timers
            .set(flight.deadline, Due::Timeout(number, flight.serial));
        let speaks_first = flight.speaks_first();
        self.flights.insert(flight);
        if speaks_first {
            self.go_on(number);
        }
        Ok(())
    }
}
