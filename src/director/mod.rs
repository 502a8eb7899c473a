//! The decision: which backend takes a packet. Sans-IO: no sockets, no clock, no logging.
//!
//! Second step of a packet's way, between [`packet`](crate::packet)'s parser and its encapsulation:
//!
//! 1. the VIP of its destination ([`Snapshot::find_vip`]);
//! 2. the flow table: a known flow keeps its backend ([`FlowTable`]);
//! 3. the ring: a new flow gets one ([`Snapshot::choose`]).
//!
//! Each worker owns one [`Director`]; they share only the immutable [`Snapshot`].

mod flow_table;
mod ring;
mod selection;
mod snapshot;
mod spec;
mod time;
mod verdict;

use std::num::NonZeroUsize;
use std::sync::Arc;

pub use crate::packet::Protocol;
pub use flow_table::{FlowEvent, FlowTable};
pub use ring::{MAX_MEMBERS, Ring, RingMember, Slot};
pub use selection::SelectionHash;
pub use snapshot::{Backend, BackendIndex, Snapshot, SnapshotError, Vip, VipIndex};
pub use spec::{
    AllDown, BackendSpec, BackendState, HashFields, HashKey, HashKeyError, PortMatch, RingSize,
    RingSizeError, VipSpec,
};
pub use time::Timestamp;
pub use verdict::{Counters, DropReason, Forward, Verdict};

use crate::packet::{Encap, FlowKey, HEADROOM, Packet, Transport};

/// Expired flows dropped per packet: more than the one a packet can add, so the table drains.
const EXPIRE_PER_PACKET: usize = 2;

/// What distinguishes one worker's director from another's.
#[derive(Debug, Clone, Copy)]
pub struct Seat {
    /// This worker's number, below `workers`.
    pub worker: u16,
    /// How many there are.
    pub workers: u16,
    /// Bound of this worker's flow table.
    pub flows: NonZeroUsize,
    /// Keys the in-memory hash of the flow table.
    pub seed: [u64; 4],
}

/// Decides for one worker's packets.
#[derive(Debug)]
pub struct Director {
    snapshot: Arc<Snapshot>,
    counters: Arc<Counters>,
    flows: FlowTable,
    identifications: Identifications,
}

impl Director {
    /// A director with an empty flow table.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>, seat: &Seat) -> Self {
        Self {
            counters: Arc::new(Counters::new(snapshot.backends().len())),
            snapshot,
            flows: FlowTable::new(seat.flows, seat.seed),
            identifications: Identifications::new(seat.worker, seat.workers),
        }
    }

    /// What this director counts.
    #[must_use]
    pub const fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The flows it knows.
    #[must_use]
    pub const fn flows(&self) -> &FlowTable {
        &self.flows
    }

    /// Decides what becomes of a packet from the TUN.
    pub fn decide(&mut self, bytes: &[u8], now: Timestamp) -> Verdict {
        self.flows.expire(now, EXPIRE_PER_PACKET);
        match self.forward(bytes, now) {
            Ok(forward) => Verdict::Forward(forward),
            Err(reason) => {
                self.counters.count_drop(reason);
                Verdict::Drop(reason)
            }
        }
    }

    /// Writes the outer header for a packet to be forwarded into the head-room before it, and
    /// names the tunnel it is for.
    ///
    /// # Errors
    /// [`DropReason::TooBig`], counted, when the outer packet would exceed 65535 bytes.
    pub fn encapsulate(
        &mut self,
        forward: &Forward,
        headroom: &mut [u8; HEADROOM],
    ) -> Result<&Encap, DropReason> {
        let encap = &self.snapshot.backend(forward.backend).encap;
        let identification = self.identifications.take();
        if encap
            .write(headroom, &forward.meta, identification)
            .is_err()
        {
            self.counters.count_drop(DropReason::TooBig);
            return Err(DropReason::TooBig);
        }
        Ok(encap)
    }

    fn forward(&mut self, bytes: &[u8], now: Timestamp) -> Result<Forward, DropReason> {
        let packet = Packet::parse(bytes).map_err(|_| DropReason::Malformed)?;
        let (key, event) = match packet.transport().map_err(|_| DropReason::Malformed)? {
            Transport::Tcp { key, flags } => (key, FlowEvent::Tcp(flags)),
            Transport::Udp { key } => (key, FlowEvent::Udp),
            Transport::Fragment(_) | Transport::Other(_) => {
                return Err(self.not_balanced(&packet));
            }
        };
        Ok(Forward {
            backend: self.backend_of(&key, event, now)?,
            meta: packet.meta(),
        })
    }

    /// Why a packet without ports goes nowhere: nothing of ours, or not something we balance.
    fn not_balanced(&self, packet: &Packet<'_>) -> DropReason {
        if self.snapshot.has_address(packet.destination()) {
            DropReason::UnsupportedProtocol
        } else {
            DropReason::NoVip
        }
    }

    fn backend_of(
        &mut self,
        key: &FlowKey,
        event: FlowEvent,
        now: Timestamp,
    ) -> Result<BackendIndex, DropReason> {
        let vip = self.snapshot.find_vip(key).ok_or(DropReason::NoVip)?;
        if let Some(known) = self.flows.lookup(key, event, now)
            && self.snapshot.backend(known).state != BackendState::Disabled
        {
            return Ok(known);
        }
        let chosen = self
            .snapshot
            .choose(vip, key)
            .ok_or(DropReason::NoBackend)?;
        self.flows.insert(*key, chosen, now);
        Ok(chosen)
    }
}

/// Outer identifications for packets that may be fragmented (RFC 6864 §4.3). Worker w of n takes
/// every n-th from w, n rounded up to a power of two, so that workers never share one.
#[derive(Debug)]
struct Identifications {
    next: u16,
    stride: u16,
}

impl Identifications {
    fn new(worker: u16, workers: u16) -> Self {
        Self {
            next: worker,
            stride: workers.checked_next_power_of_two().unwrap_or(1 << 15),
        }
    }

    const fn take(&mut self) -> u16 {
        let taken = self.next;
        self.next = self.next.wrapping_add(self.stride);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

    fn backend(last: u8, state: BackendState) -> BackendSpec {
        BackendSpec {
            address: Ipv4Addr::new(10, 0, 1, last).into(),
            weight: 1,
            state,
        }
    }

    fn vip(name: &str, port: u16, protocol: Protocol, backends: Vec<BackendSpec>) -> VipSpec {
        VipSpec {
            name: name.into(),
            address: VIP.into(),
            port: std::num::NonZeroU16::new(port).map_or(PortMatch::Any, PortMatch::Exact),
            protocol,
            hash: HashFields::FiveTuple,
            all_down: AllDown::Forward,
            backends,
        }
    }

    fn snapshot(vips: &[VipSpec]) -> Arc<Snapshot> {
        let tunnel = |address| match address {
            IpAddr::V4(v4) => Encap::ipip(Ipv4Addr::new(10, 0, 0, 2), v4, 64),
            IpAddr::V6(_) => unreachable!("the tests have no IPv6 backends"),
        };
        let key = HashKey::DEFAULT;
        Arc::new(Snapshot::build(vips, &key, RingSize::new(251).unwrap(), tunnel).unwrap())
    }

    fn director(vips: &[VipSpec]) -> Director {
        let seat = Seat {
            worker: 0,
            workers: 1,
            flows: NonZeroUsize::new(1000).unwrap(),
            seed: [1, 2, 3, 4],
        };
        Director::new(snapshot(vips), &seat)
    }

    fn web(states: &[BackendState]) -> Vec<VipSpec> {
        let backends = (1..).zip(states).map(|(last, &state)| backend(last, state));
        vec![vip("web", 80, Protocol::Tcp, backends.collect())]
    }

    /// TCP from 192.0.2.1 to the VIP; checksums are not looked at.
    fn tcp(source_port: u16, port: u16, flags: u8) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1];
        packet.extend(VIP.octets());
        packet.extend(source_port.to_be_bytes());
        packet.extend(port.to_be_bytes());
        packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        packet
    }

    const SYN: u8 = 2;
    const ACK: u8 = 0x10;
    const NOW: Timestamp = Timestamp::START;

    fn chosen(director: &mut Director, packet: &[u8], now: Timestamp) -> Option<IpAddr> {
        match director.decide(packet, now) {
            Verdict::Forward(forward) => Some(director.snapshot.backend(forward.backend).address),
            Verdict::Drop(_) => None,
        }
    }

    #[test]
    fn verdicts() {
        let mut director = director(&web(&[BackendState::Active]));
        let icmp = |destination: [u8; 4]| {
            let mut packet = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, 1, 0, 0, 192, 0, 2, 1];
            packet.extend(destination);
            packet.extend([8, 0, 0, 0, 0, 1, 0, 1]);
            packet
        };
        let mut fragment = tcp(1, 80, SYN);
        fragment[6] = 0x20;
        let mut elsewhere = tcp(1, 80, SYN);
        elsewhere[19] = 99;
        for (what, packet, reason) in [
            ("no bytes", vec![], DropReason::Malformed),
            (
                "cut TCP header",
                tcp(1, 80, SYN)[..39].to_vec(),
                DropReason::Malformed,
            ),
            ("another port", tcp(1, 81, SYN), DropReason::NoVip),
            ("another address", elsewhere, DropReason::NoVip),
            (
                "ICMP to the VIP",
                icmp(VIP.octets()),
                DropReason::UnsupportedProtocol,
            ),
            ("ICMP elsewhere", icmp([203, 0, 113, 99]), DropReason::NoVip),
            (
                "fragment to the VIP",
                fragment,
                DropReason::UnsupportedProtocol,
            ),
        ] {
            let before = director.counters.dropped(reason);
            assert_eq!(
                director.decide(&packet, NOW),
                Verdict::Drop(reason),
                "{what}"
            );
            assert_eq!(director.counters.dropped(reason), before + 1, "{what}");
        }
        assert!(matches!(
            director.decide(&tcp(1, 80, SYN), NOW),
            Verdict::Forward(_)
        ));
        assert_eq!(
            director.flows().len(),
            1,
            "only a forwarded packet makes a flow"
        );
    }

    #[test]
    fn exact_port_before_any_port() {
        let only = |last| vec![backend(last, BackendState::Active)];
        let mut director = director(&[
            vip("rest", 0, Protocol::Tcp, only(1)),
            vip("web", 80, Protocol::Tcp, only(2)),
        ]);
        assert_eq!(
            chosen(&mut director, &tcp(1, 80, SYN), NOW),
            Some("10.0.1.2".parse().unwrap())
        );
        assert_eq!(
            chosen(&mut director, &tcp(1, 81, SYN), NOW),
            Some("10.0.1.1".parse().unwrap())
        );
    }

    #[test]
    fn flows_spread_and_stay() {
        let mut director = director(&web(&[BackendState::Active; 3]));
        let first: Vec<_> = (1..200)
            .map(|port| chosen(&mut director, &tcp(port, 80, SYN), NOW))
            .collect();
        let again: Vec<_> = (1..200)
            .map(|port| chosen(&mut director, &tcp(port, 80, ACK), NOW))
            .collect();
        assert_eq!(first, again);
        assert_eq!(first.into_iter().collect::<HashSet<_>>().len(), 3);
    }

    #[test]
    fn draining_and_disabled_get_no_new_flows() {
        use BackendState::{Active, Disabled, Draining};
        let mut director = director(&web(&[Draining, Active, Disabled]));
        for port in 1..200 {
            let backend = chosen(&mut director, &tcp(port, 80, SYN), NOW);
            assert_eq!(backend, Some("10.0.1.2".parse().unwrap()));
        }
    }

    #[test]
    fn nobody_to_forward_to() {
        let mut director = director(&web(&[BackendState::Disabled, BackendState::Draining]));
        let verdict = director.decide(&tcp(1, 80, SYN), NOW);
        assert_eq!(verdict, Verdict::Drop(DropReason::NoBackend));
        assert!(director.flows().is_empty());
    }

    #[test]
    fn expired_flows_leave_without_being_asked_for() {
        let mut director = director(&web(&[BackendState::Active]));
        for port in 1..100 {
            director.decide(&tcp(port, 80, SYN), NOW);
        }
        let later = Timestamp::after(Duration::from_secs(31));
        for _ in 0..60 {
            director.decide(&tcp(1000, 80, SYN), later);
        }
        assert_eq!(director.flows().len(), 1);
    }

    #[test]
    fn encapsulated_for_the_chosen_backend() {
        let mut director = director(&web(&[BackendState::Active]));
        let Verdict::Forward(forward) = director.decide(&tcp(1, 80, SYN), NOW) else {
            panic!("the VIP has a backend");
        };
        let mut headroom = [0; HEADROOM];
        let encap = director.encapsulate(&forward, &mut headroom).unwrap();
        assert_eq!(encap.destination(), Ipv4Addr::new(10, 0, 1, 1));
        assert_eq!(headroom[HEADROOM - 4..], [10, 0, 1, 1]);
    }

    #[test]
    fn workers_never_share_an_identification() {
        let mut seen = HashSet::new();
        for worker in 0..3 {
            let mut director = director(&web(&[BackendState::Active]));
            director.identifications = Identifications::new(worker, 3);
            for _ in 0..65_536 / 4 {
                assert!(seen.insert(director.identifications.take()));
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_accounted_for(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let mut director = director(&web(&[BackendState::Active]));
            if let Verdict::Drop(reason) = director.decide(&bytes, NOW) {
                prop_assert_eq!(director.counters.dropped(reason), 1);
            }
        }
    }
}
