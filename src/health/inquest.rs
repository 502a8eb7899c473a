//! Why a backend fails its probes: a few questions when it turns unhealthy, and what the answers come to together.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use log::warn;

use super::engine::Engine;
use super::flight::{Aim, Carrier, Ends, Flight, Manner, NotStarted, Question, connect};
use super::plan::{Plan, Probed};
use super::sizes::SizeState;
use super::slots::Slots;
use super::timers::Due;
use super::wire::Trace;
use crate::director::BackendIndex;
use crate::probe::{
    Board, Cause, Detour, Evidence, InnerError, Kind, Moment, ProbeResult, SizeFound, Target,
    Verdict,
};

/// Inquests that begin in a second: of many backends that fail together, one tells the cause.
const MOST_A_SECOND: usize = 10;

/// What follows a probe that failed: the probe again, since it is watched now, and what else may tell why.
const FOLLOWING: [Question; 4] = [
    Question::Probe,
    Question::Direct,
    Question::DirectPing,
    Question::TunnelPing,
];

/// How soon one that has to wait is tried again.
const LATER: Duration = Duration::from_millis(200);

/// Those under way, and what the last ones came to.
#[derive(Debug, Default)]
pub(super) struct Inquests {
    pub(super) open: Slots<Inquest>,
    /// When the last ones began.
    began: VecDeque<Moment>,
    causes: HashMap<Target, Cause>,
    /// The last ICMP error about a probe of each VIP's backend since a probe of it passed: hosts send one a second, so that
    /// the questions themselves may have none.
    inner_errors: HashMap<(IpAddr, BackendIndex), InnerError>,
    pub(super) sizes: HashMap<Target, SizeFound>,
    /// What those came to that were asked for: the position, and what was found.
    pub(super) looks: Vec<(usize, Found, Evidence)>,
}

/// One under way.
#[derive(Debug)]
pub(super) struct Inquest {
    position: usize,
    backend: BackendIndex,
    pub(super) evidence: Evidence,
    pub(super) size: SizeState,
    /// What an ICMP error said of packets to the backend; a host sends few of them, whichever probe they are about.
    heard: Option<ProbeResult>,
    /// What a plain connection to the VIP found.
    as_client: Option<Found>,
    /// Questions without an answer.
    waiting: usize,
    purpose: Purpose,
}

/// What an inquest is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It follows a probe that failed.
    Follow,
    /// A look at everything, for `tunlb probe`.
    Look,
    /// Packets of full size are to get through.
    Size,
}

/// What a question found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) result: ProbeResult,
    connected: bool,
    trace: Trace,
}

impl Found {
    pub(super) fn of(result: ProbeResult, flight: &Flight) -> Self {
        Self {
            result,
            connected: flight.is_connected(),
            trace: flight.trace.clone(),
        }
    }

    /// Of one that did not start.
    pub(super) fn nothing(result: ProbeResult) -> Self {
        Self {
            result,
            connected: false,
            trace: Trace::default(),
        }
    }
}

impl Inquests {
    /// Those under way are for a former plan, and what was found of backends that are not measured any more is
    /// forgotten.
    pub(super) fn follow(&mut self, board: &Board, plan: &Plan) {
        self.open = Slots::default();
        self.causes.retain(|target, _| board.of(target).is_some());
        self.sizes.retain(|target, _| board.of(target).is_some());
        let probed = plan.probed.iter();
        let probed: HashSet<_> = probed
            .map(|probed| (probed.destination.ip(), probed.backend))
            .collect();
        self.inner_errors.retain(|key, _| probed.contains(key));
    }

    /// Why a backend fails, as far as is known.
    pub(super) fn cause(&self, target: &Target) -> Option<Cause> {
        self.causes.get(target).cloned()
    }

    /// An ICMP error says that packets to a host do not arrive.
    pub(super) fn hear_error(&mut self, to: IpAddr, result: ProbeResult) {
        for inquest in self.open.iter_mut() {
            if inquest.evidence.address == to {
                inquest.heard = Some(result);
            }
        }
    }

    /// An ICMP error about a packet from a tunnel, to a VIP; the backend, where the packet was a probe's.
    pub(super) fn hear_inner_error(
        &mut self,
        vip: IpAddr,
        backend: Option<BackendIndex>,
        error: InnerError,
    ) {
        for inquest in self.open.iter_mut() {
            let evidence = &mut inquest.evidence;
            // A ping's error has no flow, but the backend's address.
            let is_of_backend = backend == Some(inquest.backend) || evidence.address == error.from;
            if evidence.vip == vip && is_of_backend {
                evidence.inner_error = Some(error);
            }
        }
        if let Some(backend) = backend {
            self.inner_errors.insert((vip, backend), error);
        }
    }

    /// A probe passed.
    pub(super) fn forget_inner_error(&mut self, probed: &Probed) {
        let key = (probed.destination.ip(), probed.backend);
        self.inner_errors.remove(&key);
    }

    /// It is over; the next failure may have another one.
    pub(super) fn forget_cause(&mut self, target: &Target) {
        self.causes.remove(target);
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
        if !self.inquests.may_begin(now) {
            return self
                .timers
                .set(now + LATER, Due::Inquest(self.plan.number, position));
        }
        let questions = if probed.check.kind == Kind::External {
            &FOLLOWING[1..]
        } else {
            &FOLLOWING[..]
        };
        self.open_inquest(&probed, position, Purpose::Follow, questions, now);
    }

    /// Whether it is down and was still to be asked why when the plan changed.
    pub(super) fn lacks_cause(&self, probed: &Probed) -> bool {
        let machine = self.board.of(&probed.target);
        machine.is_some_and(|machine| !machine.standing().is_up())
            && probed.is_tunnelled()
            && self.inquests.cause(&probed.target).is_none()
    }

    /// Asks the backend at a position of the plan.
    pub(super) fn open_inquest(
        &mut self,
        probed: &Probed,
        position: usize,
        purpose: Purpose,
        questions: &[Question],
        now: Moment,
    ) {
        let own = (probed.target.address, probed.destination.port());
        let last = self.board.of(&probed.target);
        let last = last.and_then(|machine| machine.last());
        let known = last.map_or(ProbeResult::NoVerdict, |last| last.result);
        self.tap(now);
        let vip = probed.destination.ip();
        let inner_error = self.inquests.inner_errors.get(&(vip, probed.backend));
        let evidence = Evidence {
            inner_error: inner_error.copied(),
            ..Evidence::of(vip, own, known)
        };
        let number = self.inquests.open.insert(Inquest {
            position,
            backend: probed.backend,
            evidence,
            size: SizeState::default(),
            heard: None,
            as_client: None,
            waiting: questions.len(),
            purpose,
        });
        self.ask_all(number, questions, probed, now);
    }

    fn ask_all(&mut self, number: usize, questions: &[Question], probed: &Probed, now: Moment) {
        for &question in questions {
            if let Err(result) = self.ask(number, question, probed, now) {
                self.answer(number, question, &Found::nothing(result));
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
                let destination = SocketAddr::new(address, probed.destination.port());
                self.connect_plainly(aim, probed, (unspecified(address), destination), now)
            }
            Question::AsClient => {
                let source = probed.source.ok_or(ProbeResult::NoSource)?;
                self.connect_plainly(aim, probed, (source, probed.destination), now)
            }
            Question::DirectPing => self.ping_directly(aim, probed, now),
            Question::TunnelPing => self.ping_through(aim, probed, None, now),
            Question::FullPing => {
                let longest = u16::try_from(probed.longest).ok();
                self.ping_through(aim, probed, longest, now)
            }
            Question::SizedPing(size) => self.ping_through(aim, probed, Some(size), now),
            Question::Probe => self.take_off(aim, probed, now),
        }
    }

    /// Without the tunnel, by whatever way the kernel knows.
    fn connect_plainly(
        &mut self,
        aim: Aim,
        probed: &Probed,
        (source, destination): (IpAddr, SocketAddr),
        now: Moment,
    ) -> Result<(), ProbeResult> {
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

    /// What a question found. After the last one the cause is known.
    pub(super) fn answer(&mut self, number: usize, question: Question, found: &Found) {
        let Some(inquest) = self.inquests.open.get_mut(number) else {
            return;
        };
        inquest.take(question, found);
        inquest.waiting -= 1;
        if inquest.waiting > 0 {
            return;
        }
        let Some(probed) = self.plan.probed.get(inquest.position).cloned() else {
            self.inquests.open.remove(number);
            return;
        };
        let wanted = u16::try_from(probed.longest).unwrap_or(u16::MAX);
        let small_passes = inquest.evidence.tunnel_ping == Some(ProbeResult::Ok);
        let sizes = inquest.size.next_round(wanted, small_passes);
        if !sizes.is_empty() {
            inquest.waiting = sizes.len();
            let questions: Vec<_> = sizes.into_iter().map(Question::SizedPing).collect();
            let now = self.now();
            return self.ask_all(number, &questions, &probed, now);
        }
        if let Some(mut inquest) = self.inquests.open.remove(number) {
            inquest.evidence.size = inquest.size.found(wanted);
            if let (ProbeResult::NoAnswer, Some(heard)) = (inquest.evidence.probe, inquest.heard) {
                inquest.evidence.probe = heard;
            }
            self.conclude_inquest(inquest, &probed);
        }
    }

    fn conclude_inquest(&mut self, inquest: Inquest, probed: &Probed) {
        let Inquest {
            position,
            evidence,
            as_client,
            purpose,
            ..
        } = inquest;
        match purpose {
            Purpose::Look => {
                let as_client = as_client.unwrap_or_else(|| Found::nothing(ProbeResult::NoVerdict));
                self.inquests.looks.push((position, as_client, evidence));
            }
            Purpose::Size => self.conclude_size(position, evidence.size),
            Purpose::Follow => {
                let cause = evidence.cause();
                probed.gauge.explain(cause.clone());
                let Some(cause) = cause else { return };
                if evidence.probe.is_local() {
                    let Target { vip, address } = &probed.target;
                    return warn!("vip {vip}: backend {address}: nothing is known of it: {cause}");
                }
                self.inquests.causes.insert(probed.target.clone(), cause);
                self.changed.insert(probed.target.clone());
            }
        }
    }
}

impl Inquest {
    fn take(&mut self, question: Question, found: &Found) {
        let result = found.result;
        let known = (!result.is_local()).then_some(result);
        match question {
            Question::Direct => self.evidence.direct = known,
            Question::DirectPing => self.evidence.direct_ping = known,
            Question::TunnelPing => {
                self.evidence.tunnel_ping = known;
                self.evidence.pong.clone_from(&found.trace.answer);
                self.see(found);
            }
            Question::FullPing => self.size.full = Some(result),
            Question::SizedPing(size) => self.size.observe(size, result),
            Question::AsClient => self.as_client = Some(found.clone()),
            Question::Probe => self.take_probe(found),
        }
    }

    /// The probe again, or for the first time. One that follows another tells more of that one's failure, and takes
    /// nothing back.
    fn take_probe(&mut self, found: &Found) {
        let is_like = |result: ProbeResult| {
            result.verdict() == Some(Verdict::Failed) || result == ProbeResult::NotSent
        };
        if self.purpose == Purpose::Look || is_like(found.result) {
            // What was told once need not be told again: hosts send few ICMP errors a second.
            let is_told = found.result == ProbeResult::NoAnswer
                && self.evidence.probe.verdict() == Some(Verdict::Failed);
            if !is_told {
                self.evidence.probe = found.result;
            }
            self.evidence.connected = found.connected;
            self.evidence.answer.clone_from(&found.trace.answer);
            self.see(found);
        }
        if found.result == ProbeResult::NotSent {
            let detour = found.trace.detour.clone();
            self.evidence.detour = Some(detour.unwrap_or(Detour::Nowhere));
        }
    }

    fn see(&mut self, found: &Found) {
        let Found {
            result,
            connected,
            trace,
        } = found;
        self.evidence.returned |= trace.returned;
        if *result == ProbeResult::NoAnswer && !connected && self.evidence.kept_by.is_none() {
            self.evidence.kept_by = trace.kept_by();
        }
    }
}

pub(super) const fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}
