//! What is measured: one VIP with some backends, and random flows to it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU8;

use tunlb::director::{
    AllDown, BackendSpec, BackendState, Echo, FlowLimits, HashFields, HashKey, Mss, Plan,
    PortMatch, Protocol, RingSize, Snapshot, VipSpec,
};
use tunlb::packet::{Encap, EncapKind, FlowKey, SourceRule};

pub(crate) const KEY: HashKey = HashKey(*b"0123456789abcdef");
pub(crate) const OTHER_KEY: HashKey = HashKey(*b"fedcba9876543210");
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10));

/// Without optimisation a flow takes some 20 times as long.
const DEFAULT_FLOWS: usize = if cfg!(debug_assertions) {
    200_000
} else {
    1_000_000
};

/// Addresses and weights.
#[derive(Clone)]
pub(crate) struct Backends(Vec<(IpAddr, u16)>);

impl Backends {
    pub(crate) fn weighted(weights: &[u16]) -> Self {
        let addresses = (0x0a00_0101..).map(|bits| Ipv4Addr::from_bits(bits).into());
        Self(addresses.zip(weights.iter().copied()).collect())
    }

    pub(crate) fn equal(count: usize) -> Self {
        Self::weighted(&vec![1; count])
    }

    pub(crate) fn without(&self, position: usize) -> Self {
        let mut fewer = self.clone();
        fewer.0.remove(position);
        fewer
    }

    pub(crate) fn reversed(&self) -> Self {
        Self(self.0.iter().rev().copied().collect())
    }

    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.0.iter().map(|&(address, _)| address).collect()
    }

    /// Where an address stands in the set.
    pub(crate) fn position(&self, address: IpAddr) -> usize {
        self.0.iter().position(|&(a, _)| a == address).unwrap()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpAddr, u16)> {
        self.0.iter().copied()
    }
}

/// A director's choice for new flows.
pub(crate) struct Site(Snapshot);

impl Site {
    pub(crate) fn new(key: HashKey, backends: &Backends) -> Self {
        let backends = backends.iter().map(|(address, weight)| BackendSpec {
            address,
            weight,
            state: BackendState::Active,
        });
        let vip = VipSpec {
            name: "balance".to_owned(),
            address: VIP,
            port: PortMatch::Any,
            protocol: Protocol::Tcp,
            hash: HashFields::FiveTuple,
            echo: Echo::Reply,
            mss: Mss::Keep,
            all_down: AllDown::Forward,
            min_healthy: 0,
            probing: None,
            new_flows_per_second: None,
            encap: EncapKind::Ipip,
            backends: backends.collect(),
        };
        let plan = Plan {
            vips: &[vip],
            hash_key: key,
            ring_size: RingSize::DEFAULT,
            flows: FlowLimits::default(),
        };
        let snapshot = Snapshot::build(&plan, |vip, to| {
            let source = SourceRule::Fixed([10, 0, 0, 2].into());
            Encap::new(vip.encap, source, to, NonZeroU8::MAX)
        });
        Self(snapshot.unwrap())
    }

    /// The backend of a new flow.
    pub(crate) fn choose(&self, flow: &FlowKey) -> IpAddr {
        let vip = self.0.find_vip(flow).unwrap();
        let choice = self.0.choose(vip, flow).unwrap();
        self.0.backend(choice.backend).unwrap().address
    }
}

/// Random clients and ports, the same for the same seed.
pub(crate) struct Flows {
    seed: u64,
    count: usize,
}

/// As many flows as `TUNLB_BALANCE_FLOWS` wants.
pub(crate) fn flows(seed: u64) -> Flows {
    let count = std::env::var("TUNLB_BALANCE_FLOWS");
    Flows {
        seed,
        count: count.map_or(DEFAULT_FLOWS, |number| number.parse().unwrap()),
    }
}

impl Flows {
    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = FlowKey> {
        let mut state = self.seed;
        std::iter::repeat_with(move || flow(next(&mut state))).take(self.count)
    }
}

impl fmt::Display for Flows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} flows of seed {}", self.count, self.seed)
    }
}

fn flow(random: u64) -> FlowKey {
    let [a, b, c, d, e, g, h, i] = random.to_be_bytes();
    FlowKey {
        source: [a, b, c, d].into(),
        destination: VIP,
        source_port: u16::from_be_bytes([e, g]),
        destination_port: u16::from_be_bytes([h, i]) | 1, // no port 0
        protocol: Protocol::Tcp,
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
const fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
