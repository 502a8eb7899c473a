//! What the core costs: parse, decide, encapsulate, in nanoseconds of one core per packet.
//!
//! `cargo bench --bench core` needs no privileges and no network. Each figure is the median of
//! [`ROUNDS`]; compare figures of one run on an idle machine only.

#![allow(
    clippy::print_stdout,
    reason = "printing the figures is what this program does"
)]

use std::hint::black_box;
use std::io;
use std::net::IpAddr;
use std::num::{NonZeroU8, NonZeroU16, NonZeroUsize};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tunlb::daemon::pipeline::Pipeline;
use tunlb::director::{
    AllDown, BackendSpec, BackendState, Director, Echo, FlowLimits, FlowTimeouts, HashFields,
    HashKey, Plan, PortMatch, Protocol, Ring, RingMember, RingSize, Seat, Snapshot, Timestamp,
    VipSpec,
};
use tunlb::io::egress::{Egress, Sent};
use tunlb::io::ingress::{Ingress, Reading};
use tunlb::packet::{Burst, Encap, EncapKind, Outgoing, SourceRule, Tunnels};

/// Rounds of a measurement; odd, for the median.
const ROUNDS: usize = 7;
/// Packets in a round.
const PACKETS: u32 = 1_000_000;

const GUE: EncapKind = EncapKind::Gue {
    port: NonZeroU16::new(6080).expect("not 0"),
};

fn main() {
    println!(
        "{:<52} {:>10}",
        "UDP, 64 bytes of data, DF set", "ns/packet"
    );
    for (kind, name) in [(EncapKind::Ipip, "ipip"), (GUE, "gue")] {
        for (inner, outer) in [(4, 4), (6, 4), (4, 6), (6, 6)] {
            let mut bench = Bench::new(inner, outer, kind, 10);
            let figure = bench.whole(1000);
            report(
                &format!("{inner}in{outer} {name}, 1000 flows, 10 backends"),
                figure,
            );
        }
    }
    for flows in [1000, 100_000, 1_000_000] {
        let figure = Bench::new(4, 4, EncapKind::Ipip, 10).whole(flows);
        report(&format!("4in4 ipip, {flows} flows, 10 backends"), figure);
    }
    for backends in [1, 10, 100, 1000] {
        let figure = Bench::new(4, 4, EncapKind::Ipip, backends).whole(100_000);
        report(
            &format!("4in4 ipip, 100000 flows, {backends} backends"),
            figure,
        );
    }
    let figure = Bench::with_vips(10_000).whole(100_000);
    report("4in4 ipip, 100000 flows, 10000 VIPs of 10 backends", figure);
    for (order, name) in [
        (Order::FirstFirst, "in order"),
        (Order::FirstLast, "first one last"),
    ] {
        let figure = Bench::new(4, 4, EncapKind::Ipip, 10).fragments(order);
        report(
            &format!("4in4 ipip, fragments of 1480 bytes, {name}"),
            figure,
        );
    }
    println!("\n{:<52} {:>10}", "ring of 65537 slots", "ms");
    for backends in [10, 1000] {
        report(
            &format!("built for {backends} backends"),
            ring_build(backends),
        );
    }
}

fn report(what: &str, figure: f64) {
    println!("{what:<52} {figure:>10.1}");
}

/// What follows what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Packets of one flow after the other.
    Whole,
    /// Packets of so many flows, in no order.
    Scattered { flows: u32 },
    /// Two fragments of a datagram.
    FirstFirst,
    /// The same, the first one last.
    FirstLast,
}

struct Bench {
    pipeline: Pipeline<Generator, Nowhere>,
    clock: u32,
}

impl Bench {
    fn new(inner: u8, outer: u8, encap: EncapKind, backends: u16) -> Self {
        Self::of(&[vip(inner, 0, outer, encap, backends)], outer)
    }

    /// IPv4 VIPs with the same ten backends; flows go to all of them.
    fn with_vips(vips: u16) -> Self {
        let vips: Vec<_> = (0..vips)
            .map(|number| vip(4, number, 4, EncapKind::Ipip, 10))
            .collect();
        Self::of(&vips, 4)
    }

    fn of(vips: &[VipSpec], outer: u8) -> Self {
        let plan = Plan {
            vips,
            hash_key: HashKey::DEFAULT,
            ring_size: RingSize::DEFAULT,
            flows: FlowLimits {
                bound: NonZeroUsize::new(4_000_000).expect("not 0"),
                timeouts: FlowTimeouts::default(),
            },
        };
        let snapshot = Snapshot::build(&plan, |vip, to| {
            let source = match outer {
                4 => [10, 0, 0, 2].into(),
                _ => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2].into(),
            };
            Encap::new(vip.encap, SourceRule::Fixed(source), to, NonZeroU8::MAX)
        });
        let seat = Seat {
            worker: 0,
            workers: 1,
            seed: [1, 2, 3, 4],
        };
        let director = Director::new(Arc::new(snapshot.expect("a valid site")), &seat);
        let (packet, client_end) = packet(vips[0].address);
        let generator = Generator {
            packet,
            client_end,
            vips: u32::try_from(vips.len()).unwrap_or(u32::MAX),
            order: Order::Whole,
            number: 0,
            left: 0,
        };
        Self {
            pipeline: Pipeline::new(generator, Nowhere, director, 2048),
            clock: 0,
        }
    }

    /// Whole packets of that many flows, all known, in an order that caches cannot foresee.
    fn whole(&mut self, flows: u32) -> f64 {
        self.send(flows);
        self.pipeline.ingress.order = Order::Scattered { flows };
        median(|| self.send(PACKETS))
    }

    /// Datagrams of two fragments from one client, each with its own identification.
    fn fragments(&mut self, order: Order) -> f64 {
        let generator = &mut self.pipeline.ingress;
        generator.packet.resize(1500, 0);
        generator.packet[2..4].copy_from_slice(&1500_u16.to_be_bytes());
        generator.order = order;
        median(|| self.send(PACKETS / 4))
    }

    /// Nanoseconds per packet. A burst takes as many microseconds as it has packets, as under load.
    fn send(&mut self, packets: u32) -> f64 {
        self.pipeline.ingress.left = packets;
        let started = Instant::now();
        while self.pipeline.ingress.left > 0 || self.pipeline.director().has_released() {
            self.clock += 64;
            let now = Timestamp::after(Duration::from_micros(self.clock.into()));
            black_box(self.pipeline.turn(now).is_ok());
        }
        per_packet(started.elapsed(), packets)
    }
}

/// Makes packets as a TUN would give them.
#[derive(Debug)]
struct Generator {
    packet: Vec<u8>,
    /// Where the client's address ends in a packet; flows differ in its last three bytes.
    client_end: usize,
    /// Flow n goes to the VIP of number n modulo this.
    vips: u32,
    order: Order,
    number: u32,
    left: u32,
}

impl Generator {
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

impl Ingress for Generator {
    fn fill(&mut self, burst: &mut Burst) -> io::Result<Reading> {
        while self.left > 0 {
            let Some(room) = burst.vacant(0) else {
                return Ok(Reading::More);
            };
            self.next_packet();
            room[..self.packet.len()].copy_from_slice(&self.packet);
            burst.push(self.packet.len());
            self.left -= 1;
        }
        Ok(Reading::Empty)
    }

    fn answer(&mut self, packet: &[u8]) -> io::Result<()> {
        black_box(packet);
        Ok(())
    }
}

/// Writes headers and sends nothing.
#[derive(Debug)]
struct Nowhere;

impl Egress for Nowhere {
    fn send(
        &mut self,
        burst: &mut Burst,
        packets: &mut [Outgoing],
        tunnels: &impl Tunnels,
        _: &mut [Sent],
    ) {
        for packet in packets {
            let encap = tunnels.tunnel(packet.tunnel);
            if let (Some(encap), Some((headroom, inner))) = (encap, burst.headroom(packet)) {
                black_box(encap.write(headroom, &packet.meta, inner, packet.entropy)).ok();
                black_box(headroom);
            }
        }
    }
}

/// A VIP of an inner family whose address ends in `number`, with backends of the outer one.
fn vip(inner: u8, number: u16, outer: u8, encap: EncapKind, backends: u16) -> VipSpec {
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
        all_down: AllDown::Forward,
        new_flows_per_second: None,
        encap,
        backends: (0..backends).map(|number| backend(outer, number)).collect(),
    }
}

fn backend(family: u8, number: u16) -> BackendSpec {
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

fn ring_build(backends: u16) -> f64 {
    let member = |index| RingMember {
        address: backend(4, index).address,
        weight: 1,
        index,
    };
    let members: Vec<_> = (0..backends).map(member).collect();
    median(|| {
        let started = Instant::now();
        black_box(Ring::build(
            RingSize::DEFAULT,
            &HashKey::DEFAULT,
            black_box(&members),
        ));
        started.elapsed().as_secs_f64() * 1000.0
    })
}

fn per_packet(elapsed: Duration, packets: u32) -> f64 {
    elapsed.as_secs_f64() * 1e9 / f64::from(packets)
}

fn median(mut measure: impl FnMut() -> f64) -> f64 {
    let mut figures: [f64; ROUNDS] = std::array::from_fn(|_| measure());
    figures.sort_unstable_by(f64::total_cmp);
    figures[ROUNDS / 2]
}
