//! The day itself: its clock, what happens when, and the audits that compare everything with the
//! model between packets.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tunlb::director::{BackendIndex, Director, FlowTable, Seat, Timestamp};

use crate::model::{Flow, Recall, Worker};
use crate::operator::Operator;
use crate::random::Random;
use crate::site::{API, DNS, Site, TARGETS, Target, WEB};
use crate::strays;
use crate::tally::Tally;
use crate::traffic::{self, Segment};

pub(crate) const LENGTH: Duration = Duration::from_secs(24 * 3600);
pub(crate) const WORKERS: usize = 2;
/// A first class of flows may fill one in so many parts of the table.
pub(crate) const BOUND_PARTS: usize = 4;

/// What a flow costs in a full table, all told; tables grow in steps.
const BYTES_PER_FLOW: usize = 100;
const LEAST_BYTES: usize = 100_000;

const CHANGES: u64 = 400;
const FLAPS: u64 = 300;
const FLOOD: Duration = Duration::from_secs(180);
const OUTAGE: Duration = Duration::from_secs(600);
const STALL: Duration = Duration::from_secs(600);
const AUDIT: Duration = Duration::from_secs(600);
/// All flows have ended and were forgotten.
const NEXT_MORNING: Duration = Duration::from_secs(36 * 3600);

/// What happens. The numbers are of flows and workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    Packet(u64),
    Forget(u64),
    Change,
    Flap,
    Adopt(usize),
    /// The next SYN of the flood that ends then; at the VIP with a limit, or at the one without.
    Flood {
        end: Timestamp,
        limited: bool,
    },
    /// All backends of a VIP fail, or come back.
    Outage {
        dns: bool,
        down: bool,
    },
    Second,
    Audit,
}

#[derive(Debug)]
pub(crate) struct Day {
    random: Random,
    now: Timestamp,
    /// Numbered, so that those of one moment come in their order.
    queue: BinaryHeap<Reverse<(Timestamp, u64, Event)>>,
    events: u64,
    wanted: u64,
    /// Of each worker's table.
    bound: usize,
    operator: Operator,
    workers: [Worker; WORKERS],
    flows: HashMap<u64, Flow>,
    /// When the second worker adopts again.
    late_until: Timestamp,
    tally: Tally,
}

impl Day {
    /// A day with about so many flows.
    pub(crate) fn new(wanted: u64, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut tally = Tally::default();
        let bound = usize::try_from(wanted / 10).unwrap().max(1000);
        // About a third of the flows that come to it, on average.
        let limit = u32::try_from(wanted / 86_400 / 30).unwrap().max(2);
        let mut operator = Operator::new(Site::new(&mut random, limit), bound, &mut tally);
        let workers = [0, 1].map(|worker| {
            let seat = Seat {
                worker,
                workers: u16::try_from(WORKERS).unwrap(),
                seed: [seed, 2, 3, 4],
            };
            let director = Director::new(Arc::clone(&operator.view.snapshot), &seat);
            operator.roster.attach(Arc::clone(director.counters()));
            Worker::new(director, Arc::clone(&operator.view), bound / WORKERS)
        });
        Self {
            random,
            now: Timestamp::START,
            queue: BinaryHeap::new(),
            events: 0,
            wanted,
            bound: bound / WORKERS,
            operator,
            workers,
            flows: HashMap::new(),
            late_until: Timestamp::START,
            tally,
        }
    }

    pub(crate) fn run(mut self) -> Tally {
        for event in [
            Event::Arrival,
            Event::Change,
            Event::Flap,
            Event::Second,
            Event::Audit,
        ] {
            self.after(Duration::from_secs(1), event);
        }
        for (hour, limited) in [(3, false), (9, true), (15, false), (21, true)] {
            let start = Duration::from_secs(hour * 3600);
            let end = Timestamp::after(start + FLOOD);
            self.after(start, Event::Flood { end, limited });
        }
        for (hour, dns) in [(8, false), (14, true)] {
            let start = Duration::from_secs(hour * 3600);
            self.after(start, Event::Outage { dns, down: true });
            self.after(start + OUTAGE, Event::Outage { dns, down: false });
        }
        while let Some(Reverse((now, _, event))) = self.queue.pop() {
            self.now = now;
            self.happen(event);
        }
        self.end()
    }

    fn after(&mut self, pause: Duration, event: Event) {
        self.at(self.now.plus(pause), event);
    }

    fn at(&mut self, moment: Timestamp, event: Event) {
        self.events += 1;
        self.queue.push(Reverse((moment, self.events, event)));
    }

    /// Unless the day is over.
    fn repeat(&mut self, pause: Duration, event: Event, until: Duration) {
        if self.now.plus(pause) < Timestamp::after(until) {
            self.after(pause, event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrival => {
                self.arrive();
                let pause = self.random.until_next(self.wanted);
                self.repeat(pause, event, LENGTH);
            }
            Event::Packet(number) => self.packet(number),
            Event::Forget(number) => self.forget(number),
            Event::Change => {
                self.operator.site.change(&mut self.random);
                self.publish();
                let pause = self.random.until_next(CHANGES);
                self.repeat(pause, event, LENGTH);
            }
            Event::Flap => {
                self.operator.site.flap(&mut self.random);
                self.publish();
                let pause = self.random.until_next(FLAPS);
                self.repeat(pause, event, LENGTH);
            }
            Event::Adopt(1) if self.now < self.late_until => {}
            Event::Adopt(worker) => {
                self.workers[worker].adopt(&self.operator.view);
                self.tally.adoptions += 1;
            }
            Event::Flood { end, limited } => self.flood(end, limited),
            Event::Outage { dns, down } => {
                let target = if dns { &DNS } else { &WEB };
                self.operator.site.set_down(target, down);
                self.publish();
            }
            Event::Second => self.second(),
            Event::Audit => {
                self.audit();
                self.repeat(AUDIT, event, NEXT_MORNING);
            }
        }
    }

    fn arrive(&mut self) {
        let target = *self.random.of(&TARGETS);
        let script = traffic::script(&mut self.random, target.protocol);
        let length: Duration = script.iter().map(|(pause, _)| *pause).sum();
        assert!(length < traffic::LONGEST_FLOW);
        self.tally.flows += 1;
        self.start(&target, script);
    }

    /// Half-open flows, three times as many in their timeout as fit.
    fn flood(&mut self, end: Timestamp, limited: bool) {
        let target = if limited { API } else { WEB };
        self.tally.flood_flows += 1;
        self.start(&target, vec![(Duration::ZERO, Segment::Syn)]);
        let fit = u32::try_from(self.bound / BOUND_PARTS * WORKERS).unwrap();
        if self.now < end {
            let pause = Duration::from_secs(30) / (3 * fit);
            self.after(pause, Event::Flood { end, limited });
        }
    }

    fn start(&mut self, target: &Target, script: traffic::Script) {
        let number = self.tally.flows + self.tally.flood_flows;
        let flow = Flow {
            key: traffic::key(number, target),
            worker: self.random.position(WORKERS),
            script: script.into_iter(),
            memory: None,
        };
        self.flows.insert(number, flow);
        self.packet(number);
    }

    fn packet(&mut self, number: u64) {
        let flow = self.flows.get_mut(&number).unwrap();
        let (_, segment) = flow.script.next().unwrap();
        let data = match segment {
            Segment::Ack | Segment::Datagram => self.random.between(0, 99),
            Segment::Syn | Segment::Fin | Segment::Rst => 0,
        };
        let packet = (segment, u8::try_from(data).unwrap());
        self.workers[flow.worker].packet(flow, packet, self.now, &mut self.tally);
        self.tally.packets += 1;
        if self.random.percent(3) {
            strays::error(&mut self.workers, flow, self.now, &mut self.tally);
        }
        let next = flow.script.as_slice().first().map(|(pause, _)| *pause);
        match (next, flow.memory) {
            (Some(pause), _) => self.after(pause, Event::Packet(number)),
            (None, Some(memory)) => self.at(memory.end(), Event::Forget(number)),
            (None, None) => self.forget(number),
        }
    }

    fn forget(&mut self, number: u64) {
        let flow = self.flows.remove(&number).unwrap();
        let worker = &self.workers[flow.worker];
        assert_eq!(worker.peek(&flow, self.now), None);
    }

    /// The second worker adopts later, and sometimes not for a long time.
    fn publish(&mut self) {
        self.operator.publish(self.now, &mut self.tally);
        if self.random.percent(4) {
            self.late_until = self.now.plus(STALL);
        }
        let late = self.now.plus(self.random.millis(0, 20_000));
        let prompt = self.random.millis(0, 1000);
        self.after(prompt, Event::Adopt(0));
        self.at(late.max(self.late_until), Event::Adopt(1));
        self.audit();
    }

    fn second(&mut self) {
        for worker in &mut self.workers {
            worker.expire(self.now);
        }
        if self.operator.end_of_drain(self.now, &mut self.random) {
            self.tally.drained += 1;
            self.publish();
        }
        let tables = self
            .workers
            .iter()
            .map(|worker| worker.pipeline.director().flows());
        let flows = tables.clone().map(FlowTable::len).sum();
        self.tally.peak_flows = self.tally.peak_flows.max(flows);
        let bytes = tables.map(FlowTable::bytes).sum();
        self.tally.peak_bytes = self.tally.peak_bytes.max(bytes);
        self.repeat(Duration::from_secs(1), Event::Second, NEXT_MORNING);
    }

    /// Every flow is where the model has it, every counter counts what the model counted.
    fn audit(&mut self) {
        self.tally.audits += 1;
        let Operator { roster, view, .. } = &self.operator;
        self.tally.books.assert_agree(roster, &view.snapshot);
        let bound = view.snapshot.index_bound();
        for number in 0..WORKERS {
            self.workers[number].expire(self.now);
            self.audit_table(number, bound);
        }
    }

    fn audit_table(&self, number: usize, bound: usize) {
        let worker = &self.workers[number];
        let (known, perhaps) = self.held(number, bound);
        let mut sum = 0;
        for (position, (known, perhaps)) in known.into_iter().zip(perhaps).enumerate() {
            let index = BackendIndex::new(u32::try_from(position).unwrap());
            let flows = worker.pipeline.director().counters().traffic(index).flows;
            let right = known..=known + perhaps;
            assert!(
                right.contains(&flows),
                "{flows} flows with {index:?}, not {right:?}"
            );
            sum += flows;
        }
        let table = worker.pipeline.director().flows();
        assert_eq!(sum, u64::try_from(table.len()).unwrap());
        assert!(table.len() <= self.bound);
        assert!(table.bytes() <= LEAST_BYTES + self.bound * BYTES_PER_FLOW);
    }

    /// By index, how many flows are in the table, and how many more may still be.
    fn held(&self, number: usize, bound: usize) -> (Vec<u64>, Vec<u64>) {
        let (mut known, mut perhaps) = (vec![0; bound], vec![0; bound]);
        let worker = &self.workers[number];
        for flow in self.flows.values().filter(|flow| flow.worker == number) {
            let Some(memory) = &flow.memory else { continue };
            let at = memory.index.position();
            let peeked = worker.peek(flow, self.now);
            if peeked.is_some() {
                assert_eq!(
                    self.operator.holder(memory.index),
                    memory.identity,
                    "{flow:?}"
                );
                known[at] += 1;
            } else if worker.recall(flow, self.now) == Recall::Perhaps || self.now < memory.end() {
                perhaps[at] += 1;
            }
        }
        (known, perhaps)
    }

    /// Nothing is left of the day but the counts.
    fn end(mut self) -> Tally {
        self.audit();
        assert!(self.flows.is_empty());
        assert_eq!(self.operator.roster.counters().all_traffic().flows, 0);
        assert!(
            self.workers
                .iter()
                .all(|worker| worker.pipeline.director().flows().is_empty())
        );
        self.tally
    }
}
