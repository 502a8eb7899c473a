//! No packet costs an allocation: the path from ingress to egress, under an allocator that counts.
//!
//! A binary of its own: the allocator counts, for each thread, what that thread does.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;
use std::net::Ipv4Addr;
use std::num::{NonZeroU8, NonZeroU16, NonZeroU32, NonZeroUsize};

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tunlb::control::{FlowMailbox, FlowRequest};
use tunlb::daemon::pipeline::Pipeline;
use tunlb::director::{
    AllDown, BackendSpec, BackendState, Director, Echo, FlowCursor, FlowFilter, FlowLimits,
    FlowTimeouts, HashFields, HashKey, Health, Mss, Plan, PortMatch, Protocol, RingSize, Roster,
    Seat, Snapshot, Timestamp, VipSpec,
};
use tunlb::io::egress::{Egress, Sent};
use tunlb::io::ingress::{Ingress, Reading};
use tunlb::packet::{Burst, Encap, EncapKind, Outgoing, SourceRule, Tunnels};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// What this thread allocated so far.
fn allocations() -> u64 {
    ALLOCATIONS.get()
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller promised.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BURST: usize = 64;

/// Bursts of packets that are made in place.
#[derive(Debug)]
struct Packets {
    kind: Kind,
    number: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// UDP of flow `number` modulo this.
    Flows(u32),
    /// A SYN of a new flow each.
    Syns,
    /// Fragments of datagrams, first ones first.
    Fragments,
    /// Echo requests that the director answers.
    Pings,
    /// Packets for nobody.
    Strangers,
}

impl Packets {
    fn write(&mut self, packet: &mut [u8; 60]) {
        self.number += 1;
        let client = match self.kind {
            Kind::Flows(flows) => self.number % flows,
            Kind::Syns | Kind::Fragments | Kind::Pings | Kind::Strangers => self.number / 2,
        };
        let protocol = match self.kind {
            Kind::Flows(_) | Kind::Fragments | Kind::Strangers => 17,
            Kind::Syns => 6,
            Kind::Pings => 1,
        };
        packet.fill(0);
        packet[..2].copy_from_slice(&[0x45, 0]);
        packet[2..4].copy_from_slice(&60_u16.to_be_bytes());
        packet[8..10].copy_from_slice(&[64, protocol]);
        packet[12..16].copy_from_slice(&client.to_be_bytes());
        packet[16..20].copy_from_slice(&VIP.octets());
        let [.., high, low] = (self.number / 2).to_be_bytes();
        match self.kind {
            Kind::Flows(_) | Kind::Strangers => {}
            Kind::Fragments if self.number.is_multiple_of(2) => {
                packet[4..8].copy_from_slice(&[high, low, 0x20, 0]);
            }
            Kind::Fragments => packet[4..8].copy_from_slice(&[high, low, 0, 5]),
            Kind::Syns => packet[32..34].copy_from_slice(&[0x50, 2]),
            Kind::Pings => packet[20] = 8,
        }
        if protocol != 1 {
            packet[20..24].copy_from_slice(&[0x9c, 0x40, 0, 53]);
        }
        if protocol == 17 {
            packet[24..26].copy_from_slice(&40_u16.to_be_bytes());
        }
        if self.kind == Kind::Strangers {
            packet[19] = 99;
        }
    }
}

impl Ingress for Packets {
    fn fill(&mut self, burst: &mut Burst) -> io::Result<Reading> {
        while let Some(room) = burst.vacant(0) {
            self.write(room.first_chunk_mut().expect("frames are longer"));
            burst.push(60);
        }
        Ok(Reading::More)
    }

    fn answer(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// Writes headers and counts packets.
#[derive(Debug, Default)]
struct Nowhere {
    packets: u64,
}

impl Egress for Nowhere {
    fn send(
        &mut self,
        burst: &mut Burst,
        packets: &mut [Outgoing],
        tunnels: &impl Tunnels,
        _: &mut [Sent],
    ) {
        for packet in packets {
            let encap = tunnels.tunnel(packet.tunnel).expect("of the snapshot");
            let (headroom, inner) = burst.headroom(packet).expect("of the burst");
            let written = encap.write(headroom, &packet.meta, inner, packet.entropy);
            self.packets += u64::from(written.is_ok());
        }
    }
}

const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

fn vip(protocol: Protocol, encap: EncapKind) -> VipSpec {
    VipSpec {
        name: protocol.to_string(),
        address: VIP.into(),
        port: PortMatch::Any,
        protocol,
        hash: HashFields::FiveTuple,
        echo: Echo::Reply,
        mss: Mss::Keep,
        all_down: AllDown::Forward,
        min_healthy: 0,
        probing: None,
        new_flows_per_second: NonZeroU32::new(1_000_000_000),
        encap,
        backends: (1..=10)
            .map(|last| BackendSpec {
                address: [10, 0, 1, last].into(),
                weight: 1,
                state: BackendState::Active,
            })
            .collect(),
    }
}

/// Builds snapshots of the site in which the first backend of each VIP has that weight.
fn build(roster: &mut Roster, weight: u16) -> Arc<Snapshot> {
    let gue = EncapKind::Gue {
        port: NonZeroU16::new(6080).expect("not 0"),
    };
    let mut vips = [vip(Protocol::Udp, gue), vip(Protocol::Tcp, EncapKind::Ipip)];
    for vip in &mut vips {
        vip.backends[0].weight = weight;
    }
    let plan = Plan {
        vips: &vips,
        hash_key: HashKey::DEFAULT,
        ring_size: RingSize::DEFAULT,
        flows: FlowLimits {
            bound: NonZeroUsize::new(16_384).expect("not 0"),
            timeouts: FlowTimeouts::default(),
        },
    };
    let tunnel = |vip: &VipSpec, to| {
        let source = SourceRule::Fixed([10, 0, 0, 2].into());
        Encap::new(vip.encap, source, to, NonZeroU8::MAX)
    };
    let snapshot = roster.build(&plan, |_, _| Health::Healthy, tunnel);
    Arc::new(snapshot.expect("a valid site"))
}

fn pipeline(roster: &mut Roster) -> Pipeline<Packets, Nowhere> {
    let seat = Seat {
        worker: 0,
        workers: 1,
        seed: [1, 2, 3, 4],
    };
    let director = Director::new(build(roster, 1), &seat);
    roster.attach(Arc::clone(director.counters()));
    let packets = Packets {
        kind: Kind::Flows(1000),
        number: 0,
    };
    Pipeline::new(packets, Nowhere::default(), director, 2048)
}

#[test]
fn bursts_allocate_nothing() {
    let mut pipeline = pipeline(&mut Roster::default());
    let mut millis = 0;
    let mut turn = |pipeline: &mut Pipeline<Packets, Nowhere>, bursts: u32| {
        let before = allocations();
        for _ in 0..bursts {
            millis += 1;
            let now = Timestamp::after(Duration::from_millis(millis));
            pipeline.turn(now).expect("memory has no error");
        }
        allocations() - before
    };
    for kind in [
        Kind::Flows(1000),
        Kind::Syns,
        Kind::Fragments,
        Kind::Pings,
        Kind::Strangers,
        Kind::Flows(4000),
    ] {
        pipeline.ingress.kind = kind;
        let warming = turn(&mut pipeline, 500);
        let allocations = turn(&mut pipeline, 500);
        assert_eq!(allocations, 0, "{kind:?}, after {warming} at first");
    }
    assert!(pipeline.egress.packets > 0 && pipeline.director().flows().len() > BURST);
    assert!(allocations() > 0, "the allocator counts");
}

/// Each snapshot has another weight than the one before, so another ring.
#[test]
fn adopting_a_change_allocates_nothing() {
    let mut roster = Roster::default();
    let mut pipeline = pipeline(&mut roster);
    let mut turn = |pipeline: &mut Pipeline<Packets, Nowhere>, number: u16| {
        let snapshot = build(&mut roster, 1 + number % 7);
        let kept = Arc::clone(pipeline.director().snapshot()); // as control keeps it: the last owner frees it
        let before = allocations();
        pipeline.adopt(Arc::clone(&snapshot), 2048);
        let now = Timestamp::after(Duration::from_millis(number.into()));
        pipeline.turn(now).expect("memory has no error");
        let allocated = allocations() - before;
        assert_ne!(kept.epoch(), snapshot.epoch());
        allocated
    };
    let warming: u64 = (1..100).map(|number| turn(&mut pipeline, number)).sum();
    let allocated: u64 = (100..300).map(|number| turn(&mut pipeline, number)).sum();
    assert_eq!(allocated, 0, "after {warming} at first");
}

/// Another thread reads all flows again and again meanwhile.
#[test]
fn showing_flows_allocates_nothing() {
    let mut pipeline = pipeline(&mut Roster::default());
    let mailbox = FlowMailbox::default();
    let (mut millis, mut served) = (0, 0);
    let mut turn = |pipeline: &mut Pipeline<Packets, Nowhere>| {
        millis += 1;
        let now = Timestamp::after(Duration::from_millis(millis));
        pipeline.turn(now).expect("memory has no error");
        if mailbox.is_waiting() {
            mailbox.serve(pipeline.director(), now);
            served += 1;
        }
        served
    };
    let list = |next| {
        let request = FlowRequest {
            from: next,
            filter: FlowFilter::default(),
            most: 512,
        };
        let chunk = mailbox.list(request, Duration::from_secs(20), || Ok(()));
        chunk.expect("the worker turns")
    };
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut flows = 0;
            for _ in 0..20 {
                let mut next = Some(FlowCursor::default());
                while let Some(from) = next {
                    let chunk = list(from);
                    flows += chunk.flows.len();
                    next = chunk.next;
                }
            }
            flows
        });
        while turn(&mut pipeline) < 10 {}
        let before = allocations();
        while !client.is_finished() {
            turn(&mut pipeline);
        }
        assert_eq!(allocations() - before, 0);
        let flows = client.join().expect("no panic");
        assert!(flows > pipeline.director().flows().len(), "{flows}");
    });
    assert!(served > 20, "{served}");
}
