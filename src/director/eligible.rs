//! Which flows a backend takes: the operator's state, the measured health and what the VIP does when
//! no backend is healthy, put together.

use std::net::IpAddr;
use std::time::Duration;

use super::spec::{AllDown, BackendSpec, BackendState, VipSpec};

/// What was measured of a backend; apart from what the operator wants of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Health {
    /// It answers, or is not probed.
    #[default]
    Healthy,
    /// It does not, so that its flows move.
    Unhealthy,
    /// It does not, and its flows stay: they may be served all the same.
    Doubtful,
    /// It answers, but not for long: it is to take a part of its weight.
    Starting(Tenths),
}

impl Health {
    /// Whether it answers, or is taken to.
    #[must_use]
    pub const fn is_up(self) -> bool {
        match self {
            Self::Healthy | Self::Starting(_) => true,
            Self::Unhealthy | Self::Doubtful => false,
        }
    }

    const fn tenths(self) -> Tenths {
        match self {
            Self::Starting(tenths) => tenths,
            Self::Healthy | Self::Unhealthy | Self::Doubtful => Tenths::ALL,
        }
    }
}

/// A part of a weight: steps are few and the same on all directors, so that equal steps give equal rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenths(u8);

impl Tenths {
    /// The whole weight.
    pub const ALL: Self = Self(10);

    /// The part that is due after so much of a time: a tenth at its beginning, the whole at its end.
    #[must_use]
    pub fn due(elapsed: Duration, time: Duration) -> Self {
        let nanos = elapsed.as_nanos().saturating_mul(10);
        let tenths = nanos.checked_div(time.as_nanos()).unwrap_or(10);
        Self(u8::try_from(tenths).unwrap_or(10).clamp(1, 10))
    }

    /// 10 to 100.
    #[must_use]
    pub const fn percent(self) -> u8 {
        self.0 * 10
    }

    /// How many of ten.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// The flows that a backend takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Takes {
    /// It is in the ring.
    NewFlows,
    /// Those that it has: it is draining, has weight 0, or is in doubt.
    KnownFlows,
    /// None: it is disabled or unhealthy, and its flows move at once.
    Nothing,
}

impl Takes {
    /// Whether it takes a packet of a flow that it has, which may be one that `opens` a connection: a SYN is of
    /// a new flow, whatever the flow table remembers of its ports.
    pub(super) const fn keeps(self, opens: bool) -> bool {
        match self {
            Self::NewFlows => true,
            Self::KnownFlows => !opens,
            Self::Nothing => false,
        }
    }
}

/// What each backend of a VIP takes, in their order, and which part of its weight.
pub(super) fn takes(
    vip: &VipSpec,
    health: impl Fn(&VipSpec, IpAddr) -> Health,
) -> Vec<(Takes, Tenths)> {
    let is_passed_by = Capacity::of(vip, &health).fails_open(vip);
    let backends = vip.backends.iter();
    let taken = backends.map(|backend| match is_passed_by {
        true => (wanted(backend, Health::Healthy), Tenths::ALL),
        false => {
            let health = health(vip, backend.address);
            (wanted(backend, health), health.tenths())
        }
    });
    taken.collect()
}

/// What a VIP's backends can bear, in sums of their weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Of those that the operator wants in the ring.
    pub wanted: u64,
    /// Of those of them that are healthy.
    pub healthy: u64,
}

impl Capacity {
    /// That of a VIP whose backends have that health.
    #[must_use]
    pub fn of(vip: &VipSpec, health: impl Fn(&VipSpec, IpAddr) -> Health) -> Self {
        let in_ring = vip
            .backends
            .iter()
            .filter(|backend| wanted(backend, Health::Healthy) == Takes::NewFlows);
        let mut capacity = Self {
            wanted: 0,
            healthy: 0,
        };
        for backend in in_ring {
            let weight = u64::from(backend.weight);
            capacity.wanted += weight;
            if health(vip, backend.address).is_up() {
                capacity.healthy += weight;
            }
        }
        capacity
    }

    /// Whether health is passed by: nothing that the operator wants in the ring is healthy, or too little of it.
    fn fails_open(&self, vip: &VipSpec) -> bool {
        match self.healthy {
            0 => vip.all_down == AllDown::Forward,
            _ => !self.is_enough(vip),
        }
    }

    /// Whether so much is healthy that what was measured is to be believed, and the rest can bear the load
    /// (`min_healthy`).
    #[must_use]
    pub fn is_enough(&self, vip: &VipSpec) -> bool {
        self.healthy * 100 >= self.wanted * u64::from(vip.min_healthy)
    }
}

const fn wanted(backend: &BackendSpec, health: Health) -> Takes {
    match (backend.state, health) {
        (BackendState::Disabled, _) | (_, Health::Unhealthy) => Takes::Nothing,
        (BackendState::Active | BackendState::Draining, Health::Doubtful) => Takes::KnownFlows,
        (BackendState::Active, Health::Healthy | Health::Starting(_)) if backend.weight > 0 => {
            Takes::NewFlows
        }
        (BackendState::Active | BackendState::Draining, Health::Healthy | Health::Starting(_)) => {
            Takes::KnownFlows
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::vip;
    use super::*;
    use crate::packet::Protocol;

    /// What a VIP's backends take: each of weight 10, with a state and what was measured.
    fn takes_of(min_healthy: u8, all_down: AllDown, hosts: &[(BackendState, Health)]) -> String {
        let backends = hosts.iter().zip(1..).map(|((state, _), host)| BackendSpec {
            address: IpAddr::from([10, 0, 1, host]),
            weight: 10,
            state: *state,
        });
        let spec = VipSpec {
            min_healthy,
            all_down,
            ..vip("web", 80, Protocol::Tcp, backends.collect())
        };
        let place = |address| {
            spec.backends
                .iter()
                .position(|backend| backend.address == address)
        };
        let health = |_: &VipSpec, address| hosts[place(address).unwrap()].1;
        let letter = |takes| match takes {
            Takes::NewFlows => 'N',
            Takes::KnownFlows => 'K',
            Takes::Nothing => '-',
        };
        let takes = takes(&spec, health).into_iter();
        takes.map(|(takes, _)| letter(takes)).collect()
    }

    #[test]
    fn tenths_of_a_time() {
        let due = |ms| Tenths::due(Duration::from_millis(ms), Duration::from_secs(10)).percent();
        let times = [0, 999, 1_000, 1_999, 2_000, 9_999, 10_000, 99_999_999];
        assert_eq!(times.map(due), [10, 10, 10, 10, 20, 90, 100, 100]);
        assert_eq!(Tenths::due(Duration::ZERO, Duration::ZERO), Tenths::ALL);
    }

    #[test]
    fn state_and_health_together() {
        use AllDown::{Drop, Forward};
        use BackendState::{Active, Disabled, Draining};
        use Health::{Doubtful, Healthy, Unhealthy};
        let (up, down, doubt) = ((Active, Healthy), (Active, Unhealthy), (Active, Doubtful));
        for (what, min, all_down, hosts, expected) in [
            ("some down", 0, Forward, vec![up, down, doubt], "N-K"),
            ("all down", 0, Forward, vec![down, down, doubt], "NNN"),
            ("all down, dropped", 0, Drop, vec![down, doubt], "-K"),
            ("half is enough", 50, Forward, vec![up, down], "N-"),
            ("less than half", 51, Forward, vec![up, down], "NN"),
            (
                "less than half, but dropped when none is",
                51,
                Drop,
                vec![up, down],
                "NN",
            ),
            ("none", 51, Drop, vec![down, down], "--"),
            (
                "a disabled one is no part of it",
                100,
                Drop,
                vec![up, (Disabled, Unhealthy)],
                "N-",
            ),
            (
                "nor a draining one",
                100,
                Drop,
                vec![up, (Draining, Unhealthy)],
                "N-",
            ),
            (
                "a draining one in doubt",
                0,
                Drop,
                vec![up, (Draining, Doubtful)],
                "NK",
            ),
            (
                "a draining one when health is passed by",
                60,
                Drop,
                vec![up, down, (Draining, Unhealthy)],
                "NNK",
            ),
        ] {
            assert_eq!(takes_of(min, all_down, &hosts), expected, "{what}");
        }
    }
}
