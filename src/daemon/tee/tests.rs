use std::net::Ipv4Addr;
use std::num::NonZeroU8;
use std::sync::mpsc::{Receiver, sync_channel};

use super::*;
use crate::config::{Config, Flags};
use crate::director::{Director, Seat, Timestamp};
use crate::packet::{Encap, SourceRule};

const NAMES: &str = " vip=10.0.0.100:80/tcp backend=10.0.1.11";

/// A worker's director, tee and frame, without TUN and egress.
struct Bench {
    director: Director,
    tee: Tee,
    records: Receiver<Record>,
    missed: Arc<AtomicU64>,
    headroom: [u8; HEADROOM],
}

impl Bench {
    fn new(filter: &str, queue: usize) -> Self {
        let config = Config::from_flags(&Flags {
            encap: None,
            vips: vec!["10.0.0.100:80/tcp".into()],
            backends: vec!["10.0.1.11".into()],
            tun: None,
            workers: None,
        })
        .unwrap();
        let terms: Vec<_> = filter.split_terminator(',').map(str::to_owned).collect();
        let filter = Filter::parse(&terms, &config).unwrap();
        let (sender, records) = sync_channel(queue);
        let missed = Arc::new(AtomicU64::new(0));
        Self {
            director: director(&config),
            tee: Tee::new(Arc::new(filter), sender, Arc::clone(&missed)),
            records,
            missed,
            headroom: [0; HEADROOM],
        }
    }

    /// Decides a packet, and queues what is to be forwarded then.
    fn receive(&mut self, packet: &[u8]) {
        let verdict = self.director.decide(packet, Timestamp::default());
        let snapshot = Arc::clone(self.director.snapshot());
        self.tee.decided(&snapshot, packet, &verdict);
        if let Verdict::Forward(forward) = verdict {
            self.queue(packet, &forward, Origin::Tun);
            let mut held = [0; 100];
            while let Some((forward, length)) = self.director.take_released(&mut held) {
                self.queue(&held[..length], &forward, Origin::Held);
            }
        }
    }

    fn queue(&mut self, packet: &[u8], forward: &Forward, origin: Origin) {
        let snapshot = Arc::clone(self.director.snapshot());
        let encap = self
            .director
            .encapsulate(forward, &mut self.headroom, packet)
            .unwrap();
        let outgoing = Outgoing {
            overhead: encap.overhead(),
            length: packet.len(),
            destination: encap.destination(),
        };
        let frame = Frame {
            headroom: &mut self.headroom,
            body: &mut packet.to_vec(),
        };
        self.tee
            .queued(&snapshot, &frame, &outgoing, (forward, origin));
    }

    fn send(&mut self, result: Result<(), (DropReason, &io::Error)>) {
        self.tee.sent(&Arc::clone(self.director.snapshot()), result);
    }

    fn verdicts(&self) -> Vec<String> {
        self.records
            .try_iter()
            .map(|record| record.verdict)
            .collect()
    }
}

fn director(config: &Config) -> Director {
    let tunnel = |vip: &crate::director::VipSpec, backend| {
        let source = SourceRule::Fixed(Ipv4Addr::new(10, 0, 1, 2).into());
        Encap::new(vip.encap, source, backend, NonZeroU8::new(64).unwrap())
    };
    let snapshot = Snapshot::build(&config.plan(), tunnel).unwrap();
    let seat = Seat {
        worker: 0,
        workers: 1,
        seed: [1, 2, 3, 4],
    };
    Director::new(Arc::new(snapshot), &seat)
}

/// A SYN from 10.0.9.2:4000; `port` is below 256.
fn syn(port: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0];
    packet.extend([10, 0, 9, 2, 10, 0, 0, 100]);
    packet.extend([0x0f, 0xa0, 0, port, 0, 0, 0, 1, 0, 0, 0, 0]);
    packet.extend([0x50, 0x02, 2, 0, 0, 0, 0, 0]);
    packet
}

/// A fragment of a datagram; `offset` counts 8 bytes.
fn fragment(offset: u8) -> Vec<u8> {
    let mut packet = syn(80);
    (packet[6], packet[7]) = (0x20, offset);
    packet
}

#[test]
fn a_forwarded_packet_is_copied_with_and_without_its_outer_header() {
    let mut bench = Bench::new("", 10);
    bench.receive(&syn(80));
    assert!(bench.records.try_recv().is_err(), "its fate is not known");
    bench.send(Ok(()));
    let record = bench.records.try_recv().unwrap();
    assert_eq!(record.verdict, format!("forward{NAMES}"));
    assert_eq!(record.ingress.unwrap().bytes, syn(80));
    let Some(Left::Outer(outer)) = record.left else {
        panic!("{:?}", record.left);
    };
    assert_eq!(outer.bytes[..4], [0x45, 0, 0, 60]);
    assert_eq!(outer.bytes[9], 4);
    assert_eq!(outer.bytes[12..20], [10, 0, 1, 2, 10, 0, 1, 11]);
    assert_eq!(outer.bytes[20..], syn(80));
}

#[test]
fn a_held_fragment_is_copied_when_it_comes_and_when_it_leaves() {
    let mut bench = Bench::new("", 10);
    bench.receive(&fragment(100));
    bench.receive(&fragment(0));
    bench.send(Ok(()));
    bench.send(Ok(()));
    let records: Vec<_> = bench.records.try_iter().collect();
    let forward = format!("forward{NAMES}");
    let verdicts = records.iter().map(|record| record.verdict.as_str());
    assert!(verdicts.eq(["hold", &forward, &forward]), "{records:?}");
    assert!(records[2].ingress.is_none());
    let Some(Left::Outer(outer)) = &records[2].left else {
        panic!("{records:?}");
    };
    assert_eq!(outer.bytes[20..], fragment(100));
}

#[test]
fn what_does_not_leave_says_why() {
    let mut bench = Bench::new("", 10);
    bench.receive(&syn(81));
    bench.receive(&syn(80)[..30]);
    bench.receive(&fragment(100));
    let snapshot = Arc::clone(bench.director.snapshot());
    let (packet, refused) = (syn(80), Err(io::Error::from_raw_os_error(libc::EIO)));
    let none = std::iter::empty;
    bench.tee.replied(&snapshot, &packet, none(), &Ok(()));
    bench.tee.replied(&snapshot, &packet, none(), &refused);
    assert_eq!(
        bench.verdicts(),
        [
            "drop reason=no_vip",
            "drop reason=malformed",
            "hold",
            "reply vip=10.0.0.100:80/tcp",
            "drop reason=send_failed vip=10.0.0.100:80/tcp: Input/output error (os error 5)",
        ]
    );
}

#[test]
fn what_the_kernel_refuses_says_why() {
    let mut bench = Bench::new("drop=send_failed", 10);
    for port in [80, 81, 80, 80] {
        bench.receive(&syn(port));
    }
    let error = io::Error::from_raw_os_error(libc::ENETUNREACH);
    bench.send(Ok(()));
    bench.send(Err((DropReason::TooBig, &error)));
    bench.send(Err((DropReason::SendFailed, &error)));
    let expected = format!("drop reason=send_failed{NAMES}: Network is unreachable (os error 101)");
    assert_eq!(bench.verdicts(), [expected]);
}

#[test]
fn what_cannot_be_encapsulated_is_too_big() {
    let mut bench = Bench::new("drop=too_big", 10);
    let snapshot = Arc::clone(bench.director.snapshot());
    let packet = syn(80);
    let Verdict::Forward(forward) = bench.director.decide(&packet, Timestamp::default()) else {
        panic!("not forwarded");
    };
    bench.tee.too_big(&snapshot, &packet, &forward);
    assert_eq!(bench.verdicts(), [format!("drop reason=too_big{NAMES}")]);
}

#[test]
fn a_worker_never_waits_for_the_writer() {
    let mut bench = Bench::new("", 1);
    for _ in 0..4 {
        bench.receive(&syn(81));
    }
    assert_eq!(bench.missed.load(Ordering::Relaxed), 3);
    assert_eq!(bench.verdicts().len(), 1);
}

#[test]
fn a_tee_ends_with_its_writer() {
    let mut bench = Bench::new("", 10);
    bench.receive(&syn(80));
    (_, bench.records) = sync_channel(1);
    bench.receive(&syn(81));
    assert!(bench.tee.0.is_none());
    bench.send(Ok(()));
    bench.receive(&syn(80));
    assert_eq!(bench.missed.load(Ordering::Relaxed), 0);
}
