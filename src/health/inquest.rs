//! Why a backend fails its probes: a few questions when it turns unhealthy, and what the answers come to together.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::engine::Engine;
use super::flight::{Aim, Carrier, Ends, Flight, Manner, NotStarted, Question, connect};
use super::plan::Probed;
use super::slots::Slots;
use super::timers::Due;
use crate::probe::{Cause, Evidence, Moment, ProbeResult, Target};

/// Inquests that begin in a second: of many backends that fail together, one tells the cause.
const MOST_A_SECOND: usize = 10;

/// How soon one that has to wait is tried again.
const LATER: Duration = Duration::from_millis(200);

/// Those under way, and what the last ones came to.
#[derive(Debug, Default)]
pub(super) struct Inquests {
    open: Slots<Inquest>,
    /// When the last ones began.
    began: VecDeque<Moment>,
    causes: HashMap<Target, Cause>,
}

#[derive(Debug)]
struct Inquest {
    position: usize,
    evidence: Evidence,
    /// Questions without an answer.
    waiting: u8,
}

impl Inquests {
    /// Those under way are for a former plan.
    pub(super) fn clear(&mut self) {
        self.open = Slots::default();
    }

    /// Why a backend fails, as far as is known.
    pub(super) fn cause(&self, target: &Target) -> Option<Cause> {
        self.causes.get(target).cloned()
    }

    fn may_begin(&mut self, now: Moment) -> bool {
        while self.began.front().is_some_and(|at| *at + Duration::from_secs(1) <= now) {
            self.began.pop_front();
        }
        let may = self.began.len() < MOST_A_SECOND;
        if may {
            self.began.push_back(now);
        }
        may
    }
}

impl Engine {
    /// Asks why the backend at a position of the plan fails.
    pub(super) fn inquire(&mut self, position: usize, now: Moment) {
        let Some(probed) = self.plan.probed.get(position).cloned() else {
            return;
        };
        let Some(last) = self.board.of(&probed.target).and_then(|machine| machine.last()) else {
            return;
        };
        if !self.inquests.may_begin(now) {
            return self.timers.set(now + LATER, Due::Inquest(self.plan.number, position));
        }
        let evidence = Evidence {
            address: probed.target.address,
            port: probed.destination.port(),
            probe: last.result,
            direct: None,
            direct_ping: None,
            tunnel_ping: None,
        };
        let number = self.inquests.open.insert(Inquest {
            position,
            evidence,
            waiting: 3,
        });
        for question in [Question::Direct, Question::DirectPing, Question::TunnelPing] {
            if let Err(result) = self.ask(number, question, &probed, now) {
                self.answer(number, question, result);
            }
        }
    }

    fn ask(&mut self, number: usize, question: Question, probed: &Probed, now: Moment) -> Result<(), ProbeResult> {
        let aim = Aim::Inquest(number, question);
        let address = probed.target.address;
        match question {
            Question::Direct => {
                let (source, destination) = (unspecified(address), SocketAddr::new(address, probed.destination.port()));
                let ends = Ends {
                    source,
                    port: 0,
                    destination,
                };
                let manner = Manner {
                    through_tunnel: false,
                    unheard: true,
                };
                let connection = connect(&ends, manner).map_err(|error| match error {
                    NotStarted::PortTaken => ProbeResult::NoPort,
                    NotStarted::For(result) => result,
                })?;
                self.serial += 1;
                let times = (now, now + probed.check.timing.timeout);
                let carried = (Carrier::Tcp(connection), None);
                self.launch(Flight::new((aim, self.serial), (None, probed.backend), times, carried))
            }
            Question::DirectPing => {
                let number = self.flights.next();
                let sequence = self.echoes.send(number, address).map_err(|_| ProbeResult::NotSent)?;
                self.launch_ping(aim, probed, sequence, now)
            }
            Question::TunnelPing => self.ping_through(aim, probed, None, now),
        }
    }

    /// What a question found. After the last one the cause is known.
    pub(super) fn answer(&mut self, number: usize, question: Question, result: ProbeResult) {
        let Some(inquest) = self.inquests.open.get_mut(number) else {
            return;
        };
        let place = match question {
            Question::Direct => &mut inquest.evidence.direct,
            Question::DirectPing => &mut inquest.evidence.direct_ping,
            Question::TunnelPing => &mut inquest.evidence.tunnel_ping,
        };
        *place = (!result.is_local()).then_some(result);
        inquest.waiting -= 1;
        if inquest.waiting > 0 {
            return;
        }
        let Some(inquest) = self.inquests.open.remove(number) else {
            return;
        };
        let Some(probed) = self.plan.probed.get(inquest.position) else {
            return;
        };
        let cause = inquest.evidence.cause();
        probed.gauge.explain(cause.clone());
        if let Some(cause) = cause {
            self.inquests.causes.insert(probed.target.clone(), cause);
            self.changed.insert(probed.target.clone());
        }
    }
}

const fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}
