//! Which flows a backend takes: the operator's state, the measured health and what the VIP does when
//! no backend is healthy, put together.

use std::net::IpAddr;

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

/// What each backend of a VIP takes, in their order.
pub(super) fn takes(vip: &VipSpec, health: impl Fn(&VipSpec, IpAddr) -> Health) -> Vec<Takes> {
    let measured: Vec<_> = vip
        .backends
        .iter()
        .map(|backend| wanted(backend, health(vip, backend.address)))
        .collect();
    let trusted = vip
        .backends
        .iter()
        .map(|backend| wanted(backend, Health::Healthy));
    let trusted: Vec<_> = trusted.collect();
    if fails_open(vip, &measured, &trusted) {
        return trusted;
    }
    measured
}

/// Whether health is passed by: nothing that the operator wants in the ring is healthy, or too little of it.
fn fails_open(vip: &VipSpec, measured: &[Takes], trusted: &[Takes]) -> bool {
    let weight = |takes: &[Takes]| -> u64 {
        let backends = vip.backends.iter().zip(takes);
        let in_ring = backends.filter(|(_, takes)| **takes == Takes::NewFlows);
        in_ring.map(|(backend, _)| u64::from(backend.weight)).sum()
    };
    match weight(measured) {
        0 => vip.all_down == AllDown::Forward,
        healthy => healthy * 100 < weight(trusted) * u64::from(vip.min_healthy),
    }
}

const fn wanted(backend: &BackendSpec, health: Health) -> Takes {
    match (backend.state, health) {
        (BackendState::Disabled, _) | (_, Health::Unhealthy) => Takes::Nothing,
        (BackendState::Active | BackendState::Draining, Health::Doubtful) => Takes::KnownFlows,
        (BackendState::Active, Health::Healthy) if backend.weight > 0 => Takes::NewFlows,
        (BackendState::Active | BackendState::Draining, Health::Healthy) => Takes::KnownFlows,
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
        takes(&spec, health).into_iter().map(letter).collect()
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
