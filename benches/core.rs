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
use std::time::{Duration, Instant};

use site::{GUE, Generator, Order, backend, vip};
use tunlb::daemon::pipeline::Pipeline;
use tunlb::director::{
    HashKey, Health, Ring, RingMember, RingSize, Roster, Timestamp, VipIndex, VipSpec,
};
use tunlb::io::egress::{Egress, Sent};
use tunlb::io::ingress::{Ingress, Reading};
use tunlb::packet::{Burst, EncapKind, Outgoing, Tunnels};

mod site;

/// Rounds of a measurement; odd, for the median.
const ROUNDS: usize = 7;
/// Packets in a round.
const PACKETS: u32 = 1_000_000;

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
    println!(
        "\n{:<52} {:>10}",
        "snapshot after a backend's health changed", "ms"
    );
    for vips in [1, 100, 10_000] {
        report_publish(vips);
    }
}

/// One backend goes down or comes back: milliseconds until the next snapshot is built, which is all that other
/// VIPs have to do with it.
fn report_publish(vips: u16) {
    let vips: Vec<_> = (0..vips)
        .map(|number| vip(4, number, 4, EncapKind::Ipip, 10))
        .collect();
    let plan = site::plan(&vips);
    let flapping = vips[vips.len() / 2].backends[0].address;
    let mut roster = Roster::default();
    let mut turns = 0;
    let mut next = |changed: Option<VipIndex>| {
        turns += 1;
        let is_down = turns % 2 == 0;
        let health = |spec: &VipSpec, backend| {
            if is_down && backend == flapping && spec.name == vips[vips.len() / 2].name {
                Health::Unhealthy
            } else {
                Health::Healthy
            }
        };
        let started = Instant::now();
        let snapshot = match changed {
            None => roster.build(&plan, health, site::tunnel),
            Some(vip) => roster.refresh(&plan, &[vip], health, site::tunnel),
        };
        let elapsed = started.elapsed().as_secs_f64() * 1000.0;
        (elapsed, snapshot.expect("a valid site"))
    };
    let (_, first) = next(None);
    let vip = first.vips()[vips.len() / 2].index;
    let count = vips.len();
    report(
        &format!("{count} VIPs of 10 backends, all built again"),
        median(|| next(None).0),
    );
    report(
        &format!("{count} VIPs of 10 backends, one VIP refreshed"),
        median(|| next(Some(vip)).0),
    );
}

fn report(what: &str, figure: f64) {
    println!("{what:<52} {figure:>10.1}");
}

struct Bench {
    pipeline: Pipeline<Packets, Nowhere>,
    clock: u32,
}

impl Bench {
    fn new(inner: u8, outer: u8, encap: EncapKind, backends: u16) -> Self {
        Self::of(&[vip(inner, 0, outer, encap, backends)])
    }

    /// IPv4 VIPs with the same ten backends; flows go to all of them.
    fn with_vips(vips: u16) -> Self {
        let vips: Vec<_> = (0..vips)
            .map(|number| vip(4, number, 4, EncapKind::Ipip, 10))
            .collect();
        Self::of(&vips)
    }

    fn of(vips: &[VipSpec]) -> Self {
        let packets = Packets {
            generator: Generator::new(vips),
            left: 0,
        };
        Self {
            pipeline: Pipeline::new(packets, Nowhere, site::director(vips), 2048),
            clock: 0,
        }
    }

    /// Whole packets of that many flows, all known, in an order that caches cannot foresee.
    fn whole(&mut self, flows: u32) -> f64 {
        self.send(flows);
        self.pipeline.ingress.generator.order = Order::Scattered { flows };
        median(|| self.send(PACKETS))
    }

    /// Datagrams of two fragments from one client, each with its own identification.
    fn fragments(&mut self, order: Order) -> f64 {
        let generator = &mut self.pipeline.ingress.generator;
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

/// A generator that ends.
#[derive(Debug)]
struct Packets {
    generator: Generator,
    left: u32,
}

impl Ingress for Packets {
    fn fill(&mut self, burst: &mut Burst) -> io::Result<Reading> {
        while self.left > 0 {
            let Some(room) = burst.vacant(0) else {
                return Ok(Reading::More);
            };
            let length = self.generator.write(room);
            burst.push(length);
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
