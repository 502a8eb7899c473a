use std::net::Ipv4Addr;
use std::sync::Arc;

use super::*;
use crate::director::tests::{VIP, backend, plan, tunnel, vip};
use crate::director::{BackendState, Health, Roster, Seat, Verdict, VipSpec};

const NOW: Timestamp = Timestamp::START;
const ACK: u8 = 0x10;
const SYN: u8 = 2;

/// Two or more workers of one VIP for all ports, with TCP and UDP, whose ring changes.
struct Site {
    roster: Roster,
    workers: Vec<Director>,
}

/// All ports of the VIP, with both protocols.
fn vips(states: &[BackendState]) -> Vec<VipSpec> {
    let backends = (1..).zip(states).map(|(last, &state)| backend(last, state));
    let backends: Vec<_> = backends.collect();
    let protocols = [Protocol::Tcp, Protocol::Udp];
    let vips = protocols.map(|protocol| vip(&protocol.to_string(), 0, protocol, backends.clone()));
    vips.into()
}

impl Site {
    fn new(workers: u16) -> Self {
        let mut roster = Roster::default();
        let snapshot = next(&mut roster, &[BackendState::Active; 3]);
        let seat = |worker| Seat {
            worker,
            workers,
            seed: [1, 2, 3, worker.into()],
        };
        let workers = (0..workers)
            .map(|worker| Director::new(Arc::clone(&snapshot), &seat(worker)))
            .collect();
        Self { roster, workers }
    }

    fn adopt(&mut self, states: &[BackendState]) {
        let snapshot = next(&mut self.roster, states);
        for worker in &mut self.workers {
            worker.adopt(Arc::clone(&snapshot));
        }
    }

    /// What one worker decides about packets that it reads together; the packets are behind the verdicts.
    fn read(&mut self, worker: usize, packets: &[Vec<u8>], now: Timestamp) -> Vec<Decided> {
        let mut burst = Burst::new(1500);
        for packet in packets {
            burst.vacant(0).unwrap()[..packet.len()].copy_from_slice(packet);
            burst.push(packet.len());
        }
        let director = &mut self.workers[worker];
        director.burst(&mut burst, now);
        let address = |verdict: &Verdict| match verdict {
            Verdict::Forward(forward) => {
                let backend = director.snapshot.backend(forward.backend);
                Decided::To(backend.unwrap().address)
            }
            Verdict::Hold => Decided::Waits,
            Verdict::Drop(reason) => Decided::Dropped(*reason),
            Verdict::Reply(_) => panic!("{verdict:?}"),
        };
        director.verdicts().iter().map(address).collect()
    }

    /// Carries what a worker asks to the others, and their answers back; returns the questions.
    fn ask(&mut self, worker: usize, now: Timestamp) -> Vec<Question> {
        let asking = &mut self.workers[worker];
        let questions: Vec<_> = std::iter::from_fn(|| asking.take_question()).collect();
        for question in &questions {
            for other in 0..self.workers.len() {
                if other != worker {
                    let answer = self.workers[other].answer(question, now);
                    self.workers[worker].hear(answer);
                }
            }
        }
        questions
    }

    /// A flow of the first worker that is with the backend which drains from then on.
    fn flow_on_draining(&mut self, packet: impl Fn(u16) -> Vec<u8>) -> u16 {
        let port = (1..100).find(|&port| {
            let decided = self.read(0, &[packet(port)], NOW);
            decided == [Decided::To(FIRST.into())]
        });
        self.adopt(&[
            BackendState::Draining,
            BackendState::Active,
            BackendState::Active,
        ]);
        port.unwrap()
    }

    fn dropped(&self, worker: usize) -> u64 {
        let counters = self.workers[worker].counters();
        let reasons = DropReason::ALL.into_iter();
        reasons.map(|reason| counters.dropped(reason)).sum()
    }
}

const FIRST: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decided {
    To(IpAddr),
    Waits,
    Dropped(DropReason),
}

fn next(roster: &mut Roster, states: &[BackendState]) -> Arc<Snapshot> {
    let vips = vips(states);
    let healthy = |_: &VipSpec, _| Health::Healthy;
    Arc::new(roster.build(&plan(&vips), healthy, tunnel).unwrap())
}

/// From 192.0.2.1 to the VIP, of identification 7; `fragment` is the field with the offset and flags.
fn ipv4(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 7]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 192, 0, 2, 1]);
    packet.extend(VIP.octets());
    packet.extend(payload);
    packet
}

const MORE: u16 = 0x2000;

fn tcp(port: u16, flags: u8) -> Vec<u8> {
    let mut segment = port.to_be_bytes().to_vec();
    segment.extend([0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff]);
    segment.extend([0; 4]);
    ipv4(6, 0, &segment)
}

/// A whole datagram, or the first fragment of one of 24 bytes.
fn udp(port: u16, fragment: u16) -> Vec<u8> {
    let mut datagram = port.to_be_bytes().to_vec();
    let length = if fragment == 0 { 16 } else { 24 };
    datagram.extend([0, 53, 0, length, 0, 0]);
    datagram.extend([0; 8]);
    ipv4(17, fragment, &datagram)
}

fn last_fragment() -> Vec<u8> {
    ipv4(17, 2, &[9; 8])
}

/// Host unreachable, about a segment from the VIP's port 80.
fn unreachable(port: u16) -> Vec<u8> {
    let mut message = vec![
        3, 1, 0, 0, 0, 0, 0, 0, 0x45, 0, 0, 60, 0, 1, 0, 0, 64, 6, 0, 0,
    ];
    message.extend(VIP.octets());
    message.extend([192, 0, 2, 1, 0, 80]);
    message.extend(port.to_be_bytes());
    message.extend([0, 0, 0, 1]);
    ipv4(1, 0, &message)
}

fn at(millis: u64) -> Timestamp {
    Timestamp::after(Duration::from_millis(millis))
}

#[test]
fn an_error_follows_the_flow_of_another_worker() {
    for workers in [2, 4] {
        let mut site = Site::new(workers);
        let port = site.flow_on_draining(|port| tcp(port, SYN));
        assert_eq!(
            site.read(0, &[unreachable(port)], NOW),
            [Decided::To(FIRST.into())]
        );
        let asking = usize::from(workers) - 1;
        assert_eq!(
            site.read(asking, &[unreachable(port)], NOW),
            [Decided::Waits]
        );
        assert!(site.workers[asking].is_asking() && !site.workers[asking].has_released());
        assert_eq!(site.ask(asking, NOW).len(), 1);
        assert_eq!(site.read(asking, &[], NOW), [Decided::To(FIRST.into())]);
        assert!(
            site.workers[asking].flows().is_empty(),
            "an error makes no flow"
        );
        assert!(!site.workers[asking].is_waiting());
    }
}

#[test]
fn a_first_fragment_follows_the_flow_of_another_worker_and_the_rest_follows_it() {
    let mut site = Site::new(2);
    let port = site.flow_on_draining(|port| udp(port, 0));
    let fragments = [udp(port, MORE), last_fragment()];
    assert_eq!(site.read(1, &fragments, NOW), [Decided::Waits; 2]);
    assert_eq!(site.ask(1, NOW).len(), 1);
    assert_eq!(site.read(1, &[], NOW), [Decided::To(FIRST.into()); 2]);
    assert_eq!(site.workers[1].flows().len(), 1);
    let decided = site.read(1, &fragments, NOW);
    assert_eq!(decided, [Decided::To(FIRST.into()); 2], "known by now");
    assert!(site.ask(1, NOW).is_empty());
}

/// What is certain without asking is not asked.
#[test]
fn what_is_not_asked() {
    let mut one = Site::new(1);
    let port = one.flow_on_draining(|port| tcp(port, SYN));
    assert!(one.read(0, &[unreachable(port + 1)], NOW)[0] != Decided::Waits);

    let mut unchanged = Site::new(2);
    assert!(unchanged.read(1, &[unreachable(7)], NOW)[0] != Decided::Waits);
    assert!(unchanged.read(1, &[udp(7, MORE)], NOW)[0] != Decided::Waits);

    let mut site = Site::new(2);
    site.flow_on_draining(|port| tcp(port, SYN));
    let mut foreign = unreachable(7);
    foreign[19] = 99;
    let mut opening = tcp(7, SYN);
    opening[6] = 0x20;
    for packet in [tcp(7, ACK), udp(7, 0), last_fragment(), opening, foreign] {
        site.read(1, &[packet], NOW);
    }
    assert!(site.ask(1, NOW).is_empty());
}

#[test]
fn where_no_worker_knows_the_flow_the_ring_decides() {
    for workers in [2, 4] {
        let mut site = Site::new(workers);
        site.flow_on_draining(|port| tcp(port, SYN));
        let expected = {
            let mut alone = Site::new(1);
            alone.flow_on_draining(|port| tcp(port, SYN));
            alone.read(0, &[unreachable(999)], NOW)
        };
        assert_eq!(site.read(1, &[unreachable(999)], NOW), [Decided::Waits]);
        site.ask(1, NOW);
        assert_eq!(site.read(1, &[], NOW), expected, "{workers} workers");
    }
}

#[test]
fn an_answer_that_does_not_come_is_waited_for_no_longer() {
    let mut site = Site::new(2);
    let port = site.flow_on_draining(|port| tcp(port, SYN));
    site.read(1, &[unreachable(port)], NOW);
    let question = site.workers[1].take_question().unwrap();
    assert_eq!(site.read(1, &[], at(99)), []);
    let decided = site.read(1, &[], at(100));
    assert!(matches!(decided[..], [Decided::To(backend)] if backend != IpAddr::from(FIRST)));
    let late = site.workers[0].answer(&question, at(101));
    assert_eq!(late.backend, Some(FIRST.into()));
    site.workers[1].hear(late);
    assert!(!site.workers[1].has_released() && !site.workers[1].is_asking());
}

/// A backend that leaves while the question about its flow is open, and one whose index is another's then.
#[test]
fn an_answer_about_a_backend_that_left() {
    use BackendState::Active;
    let mut site = Site::new(2);
    let port = site.flow_on_draining(|port| tcp(port, SYN));
    site.read(1, &[unreachable(port)], NOW);
    site.ask(1, NOW);
    site.adopt(&[BackendState::Disabled, Active, Active]);
    let decided = site.read(1, &[], NOW);
    assert!(matches!(decided[..], [Decided::To(backend)] if backend != IpAddr::from(FIRST)));
    site.read(1, &[unreachable(port)], NOW);
    site.adopt(&[BackendState::Disabled; 3]);
    site.ask(1, NOW);
    let dropped = Decided::Dropped(DropReason::NoBackend);
    assert_eq!(site.read(1, &[], NOW), [dropped]);
    assert_eq!(site.dropped(1), 1);
}

#[test]
fn one_question_for_all_packets_of_a_flow() {
    let mut site = Site::new(2);
    let port = site.flow_on_draining(|port| tcp(port, SYN));
    let errors = vec![unreachable(port); 5];
    assert_eq!(site.read(1, &errors, NOW), [Decided::Waits; 5]);
    assert_eq!(site.ask(1, NOW).len(), 1);
    assert_eq!(site.read(1, &[], NOW), [Decided::To(FIRST.into()); 5]);
}

/// Every packet is forwarded, dropped or waits, whatever is asked for more than is allowed.
#[test]
fn bounds() {
    let mut site = Site::new(2);
    site.flow_on_draining(|port| tcp(port, SYN));
    let flood = |first: u16| -> Vec<_> { (first..first + 64).map(unreachable).collect() };
    for burst in 0..4 {
        let decided = site.read(1, &flood(1000 + 64 * burst), NOW);
        assert_eq!(decided, [Decided::Waits; 64]);
    }
    let decided = site.read(1, &flood(2000), NOW);
    assert!(!decided.contains(&Decided::Waits), "no room");
    let mut asked = 0;
    for round in 0..200 {
        asked += site.ask(1, NOW).len();
        let flood = flood(3000 + 64 * round);
        site.read(1, &flood, NOW);
    }
    let allowed = usize::try_from(QUESTIONS_PER_SECOND).unwrap();
    assert_eq!(asked, allowed, "questions of a second");
    let long = |port| {
        let mut packet = unreachable(port);
        packet.resize(1500, 0);
        packet[2..4].copy_from_slice(&1500u16.to_be_bytes());
        packet
    };
    let mut site = Site::new(2);
    site.flow_on_draining(|port| tcp(port, SYN));
    for burst in 0..5 {
        let longest: Vec<_> = (64 * burst..64 * burst + 64).map(long).collect();
        let decided = site.read(1, &longest, NOW);
        assert_eq!(decided[0] == Decided::Waits, burst < 4);
    }
    assert_eq!(site.workers[1].strays.parked_bytes, MAX_PARKED_BYTES);
}

#[test]
fn at_the_end_every_packet_is_decided_or_counted() {
    let mut site = Site::new(2);
    site.flow_on_draining(|port| tcp(port, SYN));
    let waiting: Vec<_> = (0..20).map(unreachable).collect();
    site.read(1, &waiting, NOW);
    site.workers[1].stop_asking();
    assert_eq!(site.read(1, &[], NOW).len(), 20);
    site.read(1, &waiting, NOW);
    site.read(1, &[udp(7, MORE), last_fragment()], NOW);
    site.workers[1].finish();
    let counters = site.workers[1].counters();
    assert_eq!(counters.dropped(DropReason::IcmpNoFlow), 20);
    assert_eq!(counters.dropped(DropReason::FragmentTimeout), 2);
    assert!(!site.workers[1].is_waiting());
}
