//! Sends packets of one shape through the core, to have its instructions counted: `instructions SHAPE PACKETS`.
//!
//! `.ci/instructions.sh` runs it under callgrind with two numbers of packets; the difference is what packets
//! cost, without start and end. The sources of the core are those of the program, its lint levels are not.

#![allow(
    missing_docs,
    dead_code,
    unreachable_pub,
    reason = "the core's own package checks them"
)]

extern crate self as tunlb;

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

use director::{Director, Timestamp, Verdict};
use packet::{Burst, EncapKind, Tunnels as _};
use site::{GUE, Generator, Order, vip};

#[path = "../../src/director/mod.rs"]
pub mod director;
#[path = "../../src/packet/mod.rs"]
pub mod packet;
#[path = "../../src/probe/mod.rs"]
pub mod probe;
#[path = "../site/mod.rs"]
mod site;

/// Of shapes of known flows: few enough that none waits for memory.
const FLOWS: u32 = 1000;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let shape = arguments.next().unwrap_or_default();
    let packets = arguments.next().and_then(|number| number.parse().ok());
    let Some(packets) = packets else {
        return ExitCode::FAILURE;
    };
    let (inner, outer, kind) = match shape.as_str() {
        "known-4in4" | "new-4in4" => (4, 4, EncapKind::Ipip),
        "known-6in6" => (6, 6, EncapKind::Ipip),
        "known-4in4-gue" => (4, 4, GUE),
        _ => return ExitCode::FAILURE,
    };
    let vips = [vip(inner, 0, outer, kind, 10)];
    let mut generator = Generator::new(&vips);
    let mut core = Core {
        director: site::director(&vips),
        burst: Burst::new(2048),
        clock: 0,
    };
    core.send(&mut generator, FLOWS);
    if shape != "new-4in4" {
        generator.order = Order::Scattered { flows: FLOWS };
    }
    core.send(&mut generator, packets);
    ExitCode::SUCCESS
}

/// A director, and what an egress does with its verdicts.
struct Core {
    director: Director,
    burst: Burst,
    clock: u64,
}

impl Core {
    fn send(&mut self, generator: &mut Generator, mut packets: u32) {
        while packets > 0 {
            self.burst.clear();
            while packets > 0
                && let Some(room) = self.burst.vacant(0)
            {
                let length = generator.write(room);
                self.burst.push(length);
                packets -= 1;
            }
            self.clock += 64;
            let now = Timestamp::after(Duration::from_micros(self.clock));
            self.director.burst(&mut self.burst, now);
            self.encapsulate();
        }
    }

    fn encapsulate(&mut self) {
        let (snapshot, counters) = (self.director.snapshot(), self.director.counters());
        for (frame, verdict) in self.director.verdicts().iter().enumerate() {
            let Verdict::Forward(forward) = verdict else {
                continue;
            };
            let outgoing = forward.outgoing(frame);
            if let Some(encap) = snapshot.tunnel(outgoing.tunnel)
                && let Some((headroom, inner)) = self.burst.headroom(&outgoing)
            {
                black_box(encap.write(headroom, &outgoing.meta, inner, outgoing.entropy)).ok();
                black_box(headroom);
            }
            counters.count_sent(forward.backend, forward.meta.length.into());
        }
    }
}
