//! Which flows a backend takes: the operator's state, the measured health and what the VIP does when
//! nobody is healthy, put together.

use std::net::IpAddr;

use super::spec::{AllDown, BackendSpec, BackendState, VipSpec};

/// What was measured of a backend; apart from what the operator wants of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Health {
    /// It answers, or nobody asks.
    #[default]
    Healthy,
    /// It does not.
    Unhealthy,
}

/// The flows that a backend takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Takes {
    /// It is in the ring.
    NewFlows,
    /// Those that it has: it is draining, or has weight 0.
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
    if vip.all_down == AllDown::Drop || measured.contains(&Takes::NewFlows) {
        return measured;
    }
    let trusted = |backend| wanted(backend, Health::Healthy);
    vip.backends.iter().map(trusted).collect()
}

const fn wanted(backend: &BackendSpec, health: Health) -> Takes {
    match (backend.state, health) {
        (BackendState::Disabled, _) | (_, Health::Unhealthy) => Takes::Nothing,
        (BackendState::Active, Health::Healthy) if backend.weight > 0 => Takes::NewFlows,
        (BackendState::Active | BackendState::Draining, Health::Healthy) => Takes::KnownFlows,
    }
}
