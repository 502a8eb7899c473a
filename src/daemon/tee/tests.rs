use std::sync::mpsc::{Receiver, sync_channel};

use super::*;
use crate::config::{Config, Flags};
use crate::daemon::pipeline::Pipeline;
use crate::director::Timestamp;
use crate::io::egress::{Egress, Errno, Sent};
use crate::io::ingress::MemoryIngress;
use crate::packet::{Burst, Outgoing, Tunnels};
use crate::site::testing::director;

const NAMES: &str = " vip=10.0.0.100:80/tcp backend=10.0.1.11";

/// A worker's pipeline and tee, without TUN and sockets.
struct Bench {
    pipeline: Pipeline<MemoryIngress, Refusing>,
    tee: Tee,
    records: Receiver<Record>,
    missed: Arc<AtomicU64>,
}

/// An egress that refuses everything for one reason, or nothing.
#[derive(Debug)]
struct Refusing(Sent);

impl Egress for Refusing {
    fn send(
        &mut self,
        _: &mut Burst,
        packets: &mut [Outgoing],
        _: &impl Tunnels,
        results: &mut [Sent],
    ) {
        for packet in packets {
            results[packet.frame] = self.0;
        }
    }
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
        let ingress = MemoryIngress::default();
        Self {
            pipeline: Pipeline::new(ingress, Refusing(Ok(())), director(&config, 0, 1), 1500),
            tee: Tee(Arc::new(ArcSwapOption::from_pointee(Tap {
                filter,
                records: sender,
                missed: Arc::clone(&missed),
            }))),
            records,
            missed,
        }
    }

    /// One burst of these packets.
    fn receive(&mut self, packets: &[Vec<u8>]) {
        self.pipeline
            .ingress
            .packets
            .extend(packets.iter().cloned());
        self.pipeline.turn(Timestamp::default()).unwrap();
        self.tee.turned(&self.pipeline.last());
    }

    fn refusing(mut self, error: SendError) -> Self {
        self.pipeline.egress = Refusing(Err(error));
        self
    }

    fn verdicts(&self) -> Vec<String> {
        self.records
            .try_iter()
            .map(|record| record.verdict)
            .collect()
    }
}

/// A SYN from 10.0.9.2:4000; `port` is below 256.
pub(super) fn syn(port: u8) -> Vec<u8> {
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
    bench.receive(&[syn(80)]);
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
    bench.receive(&[fragment(100)]);
    bench.receive(&[fragment(0)]);
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
    bench.receive(&[syn(81), syn(80)[..30].to_vec(), fragment(100)]);
    assert_eq!(
        bench.verdicts(),
        ["drop reason=no_vip", "drop reason=malformed", "hold"]
    );
}

#[test]
fn what_is_answered_is_copied_with_its_answer() {
    let mut bench = Bench::new("", 10);
    let mut echo = syn(80);
    echo[9] = 1;
    echo[20..22].copy_from_slice(&[8, 0]);
    bench.receive(&[echo.clone()]);
    let record = bench.records.try_recv().unwrap();
    assert_eq!(record.verdict, "reply vip=10.0.0.100:80/tcp");
    assert_eq!(record.ingress.unwrap().bytes, echo);
    let Some(Left::Replies(replies)) = record.left else {
        panic!("{:?}", record.left);
    };
    assert_eq!(replies[0].bytes[12..20], [10, 0, 0, 100, 10, 0, 9, 2]);
}

#[test]
fn what_the_kernel_refuses_says_why() {
    let unreachable = SendError::Unreachable(Errno(libc::ENETUNREACH));
    for (filter, error, expected) in [
        (
            "drop=send_failed",
            unreachable,
            vec![format!(
                "drop reason=send_failed{NAMES}: Network is unreachable (os error 101)"
            )],
        ),
        ("drop=send_failed", SendError::TooBig, vec![]),
        (
            "drop=too_big",
            SendError::TooBig,
            vec![format!(
                "drop reason=too_big{NAMES}: Message too long (os error 90)"
            )],
        ),
    ] {
        let mut bench = Bench::new(filter, 10).refusing(error);
        bench.receive(&[syn(80), syn(81)]);
        assert_eq!(bench.verdicts(), expected, "{filter} {error}");
    }
    let mut bench = Bench::new("drop=send_failed", 10);
    bench.receive(&[syn(80)]);
    assert!(bench.verdicts().is_empty(), "it left");
}

#[test]
fn a_worker_never_waits_for_the_writer() {
    let mut bench = Bench::new("", 1);
    bench.receive(&[syn(81), syn(81), syn(81), syn(81)]);
    assert_eq!(bench.missed.load(Ordering::Relaxed), 3);
    assert_eq!(bench.verdicts().len(), 1);
}

#[test]
fn a_tee_ends_with_its_writer() {
    let mut bench = Bench::new("", 10);
    bench.receive(&[syn(80)]);
    (_, bench.records) = sync_channel(1);
    bench.receive(&[syn(81)]);
    assert!(bench.tee.0.load().is_none());
    bench.receive(&[syn(80)]);
    assert_eq!(bench.missed.load(Ordering::Relaxed), 0);
}
