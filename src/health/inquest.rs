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

/// What follows a probe that failed.
const FOLLOWING: [Question; 3] = [Question::Direct, Question::DirectPing, Question::TunnelPing];

/// What is asked of a backend that is looked at.
const ALL: [Question; 5] = [
    Question::Probe,
    Question::Direct,
    Question::DirectPing,
    Question::TunnelPing,
    Question::FullPing,
];

/// How soon one that has to wait is tried again.
const LATER: Duration = Duration::from_millis(200);

/// Those under way, and what the last ones came to.
#[derive(Debug, Default)]
pub(super) struct Inquests {
    open: Slots<Inquest>,
    /// When the last ones began.
    began: VecDeque<Moment>,
    causes: HashMap<Target, Cause>,
    /// What those came to that were asked for: the position, and what was found.
    pub(super) looks: Vec<(usize, Evidence, Option<ProbeResult>)>,
}

#[derive(Debug)]
struct Inquest {
    position: usize,
    evidence: Evidence,
    /// What an echo request found that is as long as what fits the tunnel.
    full_ping: Option<ProbeResult>,
    /// Questions without an answer.
    waiting: usize,
    /// Whether it follows a probe that failed, rather than being asked for.
    follows: bool,
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

    /// How many are under way.
    pub(super) fn under_way(&self) -> usize {
        self.open.len()
    }

    fn may_begin(&mut self, now: Moment) -> bool {
        while self
            .began
            .front()
            .is_some_and(|at| *at + Duration::from_secs(1) <= now)
        {
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
        let Some(last) = self
            .board
            .of(&probed.target)
            .and_then(|machine| machine.last())
        else {
            return;
        };
        if !self.inquests.may_begin(now) {
            return self
                .timers
                .set(now + LATER, Due::Inquest(self.plan.number, position));
        }
        let evidence = Evidence {
            address: probed.target.address,
            port: probed.destination.port(),
            probe: last.result,
            direct: None,
            direct_ping: None,
            tunnel_ping: None,
        };
        self.open_inquest(&probed, (position, evidence, true), &FOLLOWING, now);
    }

    /// Asks everything of the backend at a position of the plan.
    pub(super) fn look_at(&mut self, position: usize, now: Moment) {
        let Some(probed) = self.plan.probed.get(position).cloned() else {
            return;
        };
        let evidence = Evidence {
            address: probed.target.address,
            port: probed.destination.port(),
            probe: ProbeResult::NoVerdict,
            direct: None,
            direct_ping: None,
            tunnel_ping: None,
        };
        self.open_inquest(&probed, (position, evidence, false), &ALL, now);
    }

    fn open_inquest(
        &mut self,
        probed: &Probed,
        (position, evidence, follows): (usize, Evidence, bool),
        questions: &[Question],
        now: Moment,
    ) {
        let number = self.inquests.open.insert(Inquest {
            position,
            evidence,
            full_ping: None,
            waiting: questions.len(),
            follows,
        });
        for &question in questions {
            if let Err(result) = self.ask(number, question, probed, now) {
                self.answer(number, question, result);
            }
        }
    }

    fn ask(
        &mut self,
        number: usize,
        question: Question,
        probed: &Probed,
        now: Moment,
    ) -> Result<(), ProbeResult> {
        let aim = Aim::Inquest(number, question);
        let address = probed.target.address;
        match question {
            Question::Direct => {
                let (source, destination) = (
                    unspecified(address),
                    SocketAddr::new(address, probed.destination.port()),
                );
                let ends = Ends {
                    source,
                    port: 0,
                    destination,
                };
                let manner = Manner {
                    through_tunnel: None,
                    unheard: true,
                };
                let connection = connect(&ends, manner).map_err(|error| match error {
                    NotStarted::PortTaken => ProbeResult::NoPort,
                    NotStarted::For(result) => result,
                })?;
                self.serial += 1;
                let times = (now, now + probed.check.timing.timeout);
                let carried = (Carrier::Tcp(connection), None);
                self.launch(Flight::new(
                    (aim, self.serial),
                    (None, probed.backend),
                    times,
                    carried,
                ))
            }
            Question::DirectPing => {
                let number = self.flights.next();
                let sequence = self
                    .echoes
                    .send(number, address)
                    .map_err(|_| ProbeResult::NotSent)?;
                self.launch_ping(aim, probed, sequence, now)
            }
            Question::TunnelPing => self.ping_through(aim, probed, None, now),
            Question::FullPing => {
                let longest = u16::try_from(probed.longest).ok();
                self.ping_through(aim, probed, longest, now)
            }
            Question::Probe => self.take_off(aim, probed, now),
        }
    }

    /// What a question found. After the last one the cause is known.
    pub(super) fn answer(&mut self, number: usize, question: Question, result: ProbeResult) {
        let Some(inquest) = self.inquests.open.get_mut(number) else {
            return;
        };
        let found = (!result.is_local()).then_some(result);
        match question {
            Question::Direct => inquest.evidence.direct = found,
            Question::DirectPing => inquest.evidence.direct_ping = found,
            Question::TunnelPing => inquest.evidence.tunnel_ping = found,
            Question::FullPing => inquest.full_ping = found,
            Question::Probe => inquest.evidence.probe = result,
        }
        inquest.waiting -= 1;
        if inquest.waiting > 0 {
            return;
        }
        let Some(inquest) = self.inquests.open.remove(number) else {
            return;
        };
        if !inquest.follows {
            let Inquest {
                position,
                evidence,
                full_ping,
                ..
            } = inquest;
            return self.inquests.looks.push((position, evidence, full_ping));
        }
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
