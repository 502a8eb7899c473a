//! What clients' packets show of backends, where the operator wants it looked at: connections that get no answer, and
//! errors about tunnels. Both can be forged, so neither marks anything down; the next probe comes at once.
//!
//! Workers have no part in it but counters that they keep anyway.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::engine::Engine;
use super::plan::Plan;
use super::timers::Due;
use crate::director::Traffic;
use crate::packet::FlowKey;
use crate::probe::Moment;

/// How often the counters are looked at, and how often one backend's probe is brought forward at most.
const INTERVAL: Duration = Duration::from_secs(1);

/// Connections that were opened while none was answered. Fewer may be on their way.
const OPENED: u64 = 8;

/// Probes that one look brings forward.
const MOST_AT_ONCE: usize = 100;

/// The backends that are looked at.
#[derive(Debug, Default)]
pub(super) struct Passive {
    /// By their positions in the plan.
    watched: HashMap<usize, Watched>,
    by_address: HashMap<IpAddr, Vec<usize>>,
}

#[derive(Debug, Default)]
struct Watched {
    /// What was counted when a client last got an answer, or a probe was brought forward.
    since: Traffic,
    hurried: Option<Moment>,
}

impl Passive {
    pub(super) fn new(plan: &Plan) -> Self {
        let mut passive = Self::default();
        for (position, probed) in plan.probed.iter().enumerate() {
            if !probed.check.passive {
                continue;
            }
            let since = plan.counters.traffic(probed.backend);
            let hurried = None;
            passive.watched.insert(position, Watched { since, hurried });
            let address = probed.target.address;
            passive
                .by_address
                .entry(address)
                .or_default()
                .push(position);
        }
        passive
    }

    /// The positions of backends of which clients open connections and get no answer.
    fn silent(&mut self, plan: &Plan) -> Vec<usize> {
        let mut silent = Vec::new();
        for (&position, watched) in &mut self.watched {
            let Some(probed) = plan.probed.get(position) else {
                continue;
            };
            let now = plan.counters.traffic(probed.backend);
            let opened = now.new_flows.saturating_sub(watched.since.new_flows);
            let is_silent = now.established == watched.since.established && opened >= OPENED;
            if now.established != watched.since.established || is_silent {
                watched.since = now;
            }
            if is_silent && probed.has_connections && silent.len() < MOST_AT_ONCE {
                silent.push(position);
            }
        }
        silent
    }

    /// The positions of backends with that address.
    fn at(&self, address: IpAddr) -> &[usize] {
        self.by_address.get(&address).map_or(&[], Vec::as_slice)
    }

    fn may_hurry(&mut self, position: usize, now: Moment) -> bool {
        let Some(watched) = self.watched.get_mut(&position) else {
            return false;
        };
        let may = watched.hurried.is_none_or(|at| at + INTERVAL <= now);
        if may {
            watched.hurried = Some(now);
        }
        may
    }
}

impl Engine {
    /// Looks at what clients' packets show of the backends of the current plan, from now on.
    pub(super) fn begin_passive(&mut self, now: Moment) {
        self.passive = Passive::new(&self.plan);
        self.look_passively_later(now);
    }

    fn look_passively_later(&mut self, now: Moment) {
        if !self.passive.watched.is_empty() {
            let due = Due::Passive(self.plan.number);
            self.timers.set(now + INTERVAL, due);
        }
    }

    pub(super) fn look_passively(&mut self, now: Moment) {
        for position in self.passive.silent(&self.plan) {
            self.suspect(position, now);
        }
        self.look_passively_later(now);
    }

    /// An error about a tunnel packet that was no probe's.
    pub(super) fn suspect_for(&mut self, backend: IpAddr, flow: &FlowKey, now: Moment) {
        let vip = flow.destination;
        let concerned = self.passive.at(backend).iter().copied();
        let concerned: Vec<_> = concerned
            .filter(|position| {
                let probed = self.plan.probed.get(*position);
                probed.is_some_and(|probed| probed.vip == vip)
            })
            .collect();
        for position in concerned {
            self.suspect(position, now);
        }
    }

    fn suspect(&mut self, position: usize, now: Moment) {
        if self.passive.may_hurry(position, now) {
            self.hurry(position, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Config;
    use crate::daemon::pipeline::MemoryPipeline;
    use crate::director::{Director, Roster, Seat, Timestamp};
    use crate::health::Gauges;
    use crate::packet::Protocol;
    use crate::site::{Paths, taken_for_healthy};

    /// A TCP segment of a client, from that port.
    fn segment(port: u16, flags: u8) -> Vec<u8> {
        let flow = FlowKey {
            source: "192.0.2.1".parse().unwrap(),
            destination: "10.0.0.100".parse().unwrap(),
            source_port: port,
            destination_port: 80,
            protocol: Protocol::Tcp,
        };
        let mut packet = super::super::reset::reset_packet(&flow, 1).unwrap();
        packet[33] = flags; // of the TCP header behind 20 bytes of IP; the checksum is the host's business
        packet
    }

    const SYN: u8 = 2;
    const ACK: u8 = 16;

    struct Bench {
        pipeline: MemoryPipeline,
        plan: Plan,
        passive: Passive,
    }

    fn bench(health: &str) -> Bench {
        let text = format!(
            "[[vip]]\nname = \"web\"\naddress = \"10.0.0.100\"\nbackend = [{{ address = \"10.0.1.11\" }}]\n\
             [vip.health]\n{health}\n"
        );
        let config = Config::parse("f", &text).unwrap();
        let paths = Paths::without_routes(&config);
        let mut roster = Roster::default();
        let snapshot = paths.snapshot(&config, &mut roster, taken_for_healthy);
        let snapshot = Arc::new(snapshot.unwrap());
        let seat = Seat {
            worker: 0,
            workers: 1,
            seed: [3; 4],
        };
        let director = Director::new(Arc::clone(&snapshot), &seat);
        roster.attach(Arc::clone(director.counters()));
        let mut plan = Plan::new(1, &config, &paths, &snapshot, &Gauges::default());
        plan.counters = roster.counters().clone();
        Bench {
            passive: Passive::new(&plan),
            pipeline: MemoryPipeline::in_memory(director),
            plan,
        }
    }

    impl Bench {
        fn open(&mut self, ports: std::ops::Range<u16>) {
            for port in ports {
                self.pipeline.pass(&segment(port, SYN), Timestamp::START);
            }
        }

        fn silent(&mut self) -> Vec<usize> {
            self.passive.silent(&self.plan)
        }
    }

    #[test]
    fn connections_without_an_answer_are_seen() {
        let mut bench = bench("passive = true");
        assert_eq!(bench.silent(), [0_usize; 0], "no packet is no sign");
        bench.open(1..8);
        assert_eq!(bench.silent(), [0_usize; 0], "too few");
        bench.open(1..9);
        assert_eq!(bench.silent(), [0], "eight, however long it took");
        assert_eq!(bench.silent(), [0_usize; 0], "it is told once");
        bench.open(20..40);
        bench.pipeline.pass(&segment(30, ACK), Timestamp::START);
        assert_eq!(bench.silent(), [0_usize; 0], "one got an answer");
        bench.open(40..60);
        assert_eq!(bench.silent(), [0], "no other did since");
    }

    #[test]
    fn it_is_bounded_and_off_by_default() {
        let second = Duration::from_secs;
        let mut on = bench("passive = true");
        let address: IpAddr = "10.0.1.11".parse().unwrap();
        assert_eq!(on.passive.at(address), [0]);
        let times = [5, 5, 6].map(|at| on.passive.may_hurry(0, second(at)));
        assert_eq!(times, [true, false, true]);
        let mut off = bench("");
        off.open(1..100);
        assert_eq!(off.silent(), [0_usize; 0]);
        assert_eq!(off.passive.at(address), [0_usize; 0]);
        assert!(!off.passive.may_hurry(0, second(5)));
    }
}
