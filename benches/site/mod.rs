//! What the benches of the core measure: VIPs, and packets for them as a TUN would give them.

use std::net::IpAddr;
use std::num::{NonZeroU8, NonZeroU16, NonZeroUsize};
use std::sync::Arc;

use tunlb::director::{
    AllDown, BackendSpec, BackendState, Director, Echo, FlowLimits, FlowTimeouts, HashFields,
    HashKey, Mss, Plan, PortMatch, Protocol, RingSize, Seat, Snapshot, VipSpec,
};
use tunlb::packet::{Encap, EncapKind, FamilyMismatch, SourceRule};

/// GUE on the port that Linux's documentation uses.
pub(crate) const GUE: EncapKind = EncapKind::Gue {
    port: NonZeroU16::new(6080).expect("not 0"),
};

/// Every VIP, with rings and tables of the default size.
pub(crate) fn plan(vips: &[VipSpec]) -> Plan<'_> {
    Plan {
        vips,
        hash_key: HashKey::DEFAULT,
        ring_size: RingSize::DEFAULT,
        flows: FlowLimits {
            bound: NonZeroUsize::new(4_000_000).expect("not 0"),
            timeouts: FlowTimeouts::default(),
        },
    }
}

/// The outer header for a backend.
pub(crate) fn tunnel(vip: &VipSpec, to: IpAddr) -> Result<Encap, FamilyMismatch> {
    let source = match to {
        IpAddr::V4(_) => [10, 0, 0, 2].into(),
        IpAddr::V6(_) => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2].into(),
    };
    Encap::new(vip.encap, SourceRule::Fixed(source), to, NonZeroU8::MAX)
}

/// One worker's director, alone.
pub(crate) fn director(vips: &[VipSpec]) -> Director {
    let snapshot = Snapshot::build(&plan(vips), tunnel).expect("a valid site");
    let seat = Seat {
        worker: 0,
        workers: 1,
        seed: [1, 2, 3, 4],
    };
    Director::new(Arc::new(snapshot), &seat)
}

/// What follows what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Packets of one flow after the other.
    Whole,
    /// Packets of so many flows, in no order.
    Scattered { flows: u32 },
    /// Two fragments of a datagram.
    FirstFirst,
    /// The same, the first one last.
    FirstLast,
}

/// Makes packets as a TUN would give them.
#[derive(Debug)]
pub(crate) struct Generator {
    pub(crate) packet: Vec<u8>,
    /// Where the client's address ends in a packet; flows differ in its last three bytes.
    client_end: usize,
    /// Flow n goes to the VIP of number n modulo this.
    vips: u32,
    pub(crate) order: Order,
    number: u32,
}

impl Generator {
    /// Packets of one flow after the other, to all VIPs in turn.
    pub(crate) fn new(vips: &[VipSpec]) -> Self {
        let (packet, client_end) = packet(vips[0].address);
        Self {
            packet,
            client_end,
            vips: u32::try_from(vips.len()).unwrap_or(u32::MAX),
            order: Order::Whole,
            number: 0,
        }
    }

    /// Puts the next packet into `room`; returns its length in bytes.
    pub(crate) fn write(&mut self, room: &mut [u8]) -> usize {
        self.next_packet();
        room[..self.packet.len()].copy_from_slice(&self.packet);
        self.packet.len()
    }

    fn next_packet(&mut self) {
        self.number = match self.order {
            Order::Scattered { .. } => self
                .number
                .wrapping_mul(1_664_525)
                .wrapping_add(1_013_904_223),
            Order::Whole | Order::FirstFirst | Order::FirstLast => self.number.wrapping_add(1),
        };
        match self.order {
            Order::Whole => self.client(self.number),
            Order::Scattered { flows } => {
                let scaled = (u64::from(self.number) * u64::from(flows)) >> 32;
                self.client(u32::try_from(scaled).unwrap_or(0) + 1);
            }
            Order::FirstFirst => self.fragment(self.number % 2 == 1),
            Order::FirstLast => self.fragment(self.number.is_multiple_of(2)),
        }
    }

    fn client(&mut self, flow: u32) {
        let [_, bytes @ ..] = flow.to_be_bytes();
        self.packet[self.client_end - 3..self.client_end].copy_from_slice(&bytes);
        if self.vips > 1 {
            let [.., high, low] = (flow % self.vips).to_be_bytes();
            self.packet[18..20].copy_from_slice(&[high, low]);
        }
    }

    fn fragment(&mut self, is_first: bool) {
        let [.., high, low] = self.number.div_ceil(2).to_be_bytes();
        self.packet[4..6].copy_from_slice(&[high, low]);
        let last = (1480_u16 / 8).to_be_bytes();
        self.packet[6..8].copy_from_slice(&if is_first { [0x20, 0] } else { last });
    }
}

/// A VIP of an inner family whose address ends in `number`, with backends of the outer one.
pub(crate) fn vip(inner: u8, number: u16, outer: u8, encap: EncapKind, backends: u16) -> VipSpec {
    let [high, low] = number.to_be_bytes();
    VipSpec {
        name: format!("vip {number}"),
        address: match inner {
            4 => [203, 0, high, low].into(),
            _ => [0x2001, 0xdb8, 0, 0, 0, 0, 0, number].into(),
        },
        port: PortMatch::Any,
        protocol: Protocol::Udp,
        hash: HashFields::FiveTuple,
        echo: Echo::Reply,
        mss: Mss::Keep,
        all_down: AllDown::Forward,
        min_healthy: 0,
        probing: None,
        new_flows_per_second: None,
        encap,
        backends: (0..backends).map(|number| backend(outer, number)).collect(),
    }
}

pub(crate) fn backend(family: u8, number: u16) -> BackendSpec {
    let [high, low] = number.to_be_bytes();
    BackendSpec {
        address: match family {
            4 => [10, 1, high, low].into(),
            _ => [0x2001, 0xdb8, 1, 0, 0, 0, 0, number + 1].into(),
        },
        weight: 1,
        state: BackendState::Active,
    }
}

/// A UDP packet for the VIP, and where its source address ends.
fn packet(vip: IpAddr) -> (Vec<u8>, usize) {
    let mut packet = match vip {
        IpAddr::V4(vip) => {
            let mut header = vec![0x45, 0, 0, 92, 0, 0, 0x40, 0, 64, 17, 0, 0, 11, 0, 0, 0];
            header.extend(vip.octets());
            header
        }
        IpAddr::V6(vip) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 72, 17, 64, 0x20, 1, 0xd, 0xb8];
            header.extend([0; 12]);
            header.extend(vip.octets());
            header
        }
    };
    packet.extend([0x9c, 0x40, 0, 53, 0, 72, 0, 0]);
    packet.extend([0; 64]);
    (packet, if vip.is_ipv4() { 16 } else { 24 })
}
