//! The machines of all backends: what a reload keeps, and when it is this host that is at fault.

use std::collections::BTreeMap;
use std::hash::Hasher as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use siphasher::sip::SipHasher13;

use super::{Check, Machine, Moment, ProbeResult, Standing, Turn};

/// A backend of a VIP: what is probed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The name of the VIP.
    pub vip: Arc<str>,
    /// The backend's address.
    pub address: IpAddr,
}

impl Target {
    /// When in the interval it is probed: every director at another moment, for every backend another one, so
    /// that probes make no bursts.
    #[must_use]
    pub fn phase(&self, seed: u64, interval: Duration) -> Duration {
        let mut hasher = SipHasher13::new_with_keys(seed, 0);
        hasher.write(self.vip.as_bytes());
        match self.address {
            IpAddr::V4(v4) => hasher.write(&v4.octets()),
            IpAddr::V6(v6) => hasher.write(&v6.octets()),
        }
        let nanos = u64::try_from(interval.as_nanos())
            .unwrap_or(u64::MAX)
            .max(1);
        Duration::from_nanos(hasher.finish() % nanos)
    }
}

/// All machines.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Board(BTreeMap<Target, Machine>);

impl Board {
    /// Measures exactly `wanted` from now on. One whose check is the same goes on; one with another check, or a
    /// new one, begins.
    pub fn follow(&mut self, wanted: impl IntoIterator<Item = (Target, Arc<Check>)>, now: Moment) {
        let mut before = std::mem::take(&mut self.0);
        for (target, check) in wanted {
            let known = before.remove(&target);
            let machine = known.filter(|machine| *machine.check() == check);
            let machine = machine.unwrap_or_else(|| Machine::new(check, now));
            self.0.insert(target, machine);
        }
    }

    /// The machine of one; `None` where it is not measured.
    #[must_use]
    pub fn of(&self, target: &Target) -> Option<&Machine> {
        self.0.get(target)
    }

    /// All that are measured, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Target, &Machine)> {
        self.0.iter()
    }

    /// A probe ended; what it tips.
    pub fn observe(&mut self, target: &Target, result: ProbeResult, now: Moment) -> Option<Turn> {
        self.0.get_mut(target)?.observe(result, now)
    }

    /// Whether everything failed everywhere at once, within two intervals: rather a fault of this host, or of
    /// its network, than of every backend. One backend alone shows nothing of the kind.
    #[must_use]
    pub fn suspects_itself(&self) -> bool {
        let mut first = Moment::MAX;
        let mut last = Moment::ZERO;
        let mut window = Duration::ZERO;
        let mut addresses = Vec::new();
        for (target, machine) in &self.0 {
            if machine.standing() != Standing::Unhealthy || machine.changes() == 0 {
                return false;
            }
            first = first.min(machine.since());
            last = last.max(machine.since());
            let timing = machine.check().timing;
            window = window.max(timing.interval * 2 + timing.timeout);
            if addresses.len() < 2 && !addresses.contains(&target.address) {
                addresses.push(target.address);
            }
        }
        addresses.len() == 2 && last - first <= window
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::machine::tests::check;
    use super::super::{Initial, ProbeResult};
    use super::*;

    fn target(host: u8) -> Target {
        Target {
            vip: "web".into(),
            address: IpAddr::from([10, 0, 1, host]),
        }
    }

    /// What may happen to a director.
    #[derive(Debug, Clone)]
    enum Op {
        /// A probe of a backend ends, so long after what happened before.
        Result(u8, ProbeResult, u64),
        /// A reload: which backends there are, and which has another check than before.
        Reload(u8, u8),
    }

    fn op() -> impl Strategy<Value = Op> {
        let result = (0..3_u8, 0..ProbeResult::ALL.len(), 0..20_000_u64);
        prop_oneof![
            9 => result.prop_map(|(host, number, ms)| Op::Result(host, ProbeResult::ALL[number], ms)),
            1 => (0..8_u8, 0..5_u8).prop_map(|(hosts, changed)| Op::Reload(hosts, changed)),
        ]
    }

    fn wanted(hosts: u8, falls: [u8; 3]) -> Vec<(Target, Arc<Check>)> {
        let there = (0..3_u8).filter(|host| hosts & (1 << host) != 0);
        let wanted = there.map(|host| {
            (
                target(host),
                check(2, falls[usize::from(host)], Initial::Trial),
            )
        });
        wanted.collect()
    }

    proptest! {
        /// Whatever reloads came between, a backend is what one that began with its check, and saw the same
        /// results, is. The wall clock does not come in at all.
        #[test]
        fn only_the_check_and_the_results_count(ops in vec(op(), 0..200)) {
            let (mut hosts, mut falls) = (7_u8, [3_u8; 3]);
            let mut now = Moment::ZERO;
            let mut board = Board::default();
            board.follow(wanted(hosts, falls), now);
            // For each backend since its check holds: its beginning, and its results.
            let mut seen = [(); 3].map(|()| (Moment::ZERO, Vec::new()));
            for op in ops {
                match op {
                    Op::Result(host, result, ms) => {
                        now += Duration::from_millis(ms);
                        board.observe(&target(host), result, now);
                        seen[usize::from(host)].1.push((result, now));
                    }
                    Op::Reload(next, changed) => {
                        for host in 0..3_u8 {
                            let place = usize::from(host);
                            if host == changed {
                                falls[place] = 5 - falls[place];
                            }
                            let was = hosts & (1 << host) != 0;
                            if host == changed || !was {
                                seen[place] = (now, Vec::new());
                            }
                        }
                        hosts = next;
                        board.follow(wanted(hosts, falls), now);
                    }
                }
            }
            for host in 0..3_u8 {
                let place = usize::from(host);
                let (begin, results) = &seen[place];
                let fresh = (hosts & (1 << host) != 0).then(|| {
                    let mut machine = Machine::new(check(2, falls[place], Initial::Trial), *begin);
                    for &(result, at) in results {
                        machine.observe(result, at);
                    }
                    machine
                });
                prop_assert_eq!(board.of(&target(host)), fresh.as_ref());
            }
        }

        #[test]
        fn a_phase_is_within_the_interval(seed: u64, host: u8, ms in 1_u64..10_000) {
            let interval = Duration::from_millis(ms);
            prop_assert!(target(host).phase(seed, interval) < interval);
            prop_assert_eq!(target(host).phase(seed, interval), target(host).phase(seed, interval));
        }
    }

    #[test]
    fn phases_spread() {
        let second = Duration::from_secs(1);
        let mut tenths = [0; 10];
        for host in 0..=255 {
            let phase = target(host).phase(7, second);
            tenths[usize::try_from(phase.as_millis() / 100).unwrap()] += 1;
        }
        assert!(tenths.iter().all(|&count| count >= 10), "{tenths:?}");
    }

    #[test]
    fn everything_at_once_is_suspicious() {
        let fails = |times: &[(u8, u64)], all: u8| {
            let mut board = Board::default();
            board.follow(wanted(all, [1; 3]), Moment::ZERO);
            for host in 0..3 {
                board.observe(&target(host), ProbeResult::Ok, Moment::ZERO);
            }
            for &(host, second) in times {
                board.observe(
                    &target(host),
                    ProbeResult::NoAnswer,
                    Moment::from_secs(second),
                );
            }
            board.suspects_itself()
        };
        assert!(fails(&[(0, 10), (1, 11), (2, 12)], 7));
        assert!(!fails(&[(0, 10), (1, 11)], 7), "one answers");
        assert!(
            !fails(&[(0, 10), (1, 11), (2, 40)], 7),
            "one after the other"
        );
        assert!(!fails(&[(0, 10)], 1), "a single backend");
        assert!(!Board::default().suspects_itself(), "nothing is measured");
        let mut never = Board::default();
        let down = |host| (target(host), check(2, 3, Initial::Unhealthy));
        never.follow([down(0), down(1)], Moment::ZERO);
        assert!(!never.suspects_itself(), "they never were up");
    }
}
