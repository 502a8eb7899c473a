use std::os::fd::RawFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::AtomicU64;
use std::sync::{OnceLock, mpsc};
use std::thread::{self, JoinHandle};

use arc_swap::ArcSwap;

use super::*;
use crate::control::FlowRequest;
use crate::control::published::Published;
use crate::daemon::testing::{PATIENCE, until};
use crate::director::{FlowCursor, FlowFilter};
use crate::io::egress::MemoryEgress;
use crate::packet::Burst;
use crate::site::testing::{config, director, udp};

/// A queue of packets that a test fills.
#[derive(Debug)]
struct Socket {
    packets: UnixDatagram,
    reads: Arc<Reads>,
    /// When it was read last.
    read_at: Option<Instant>,
}

/// How often a queue was read, and how often with no beat since it was read before.
#[derive(Debug, Default)]
struct Reads {
    heartbeat: OnceLock<Arc<Heartbeat>>,
    all: AtomicU64,
    without_beat: AtomicU64,
}

impl Socket {
    fn note_beat(&mut self) {
        let age = self.reads.heartbeat.get().unwrap().age(); // before the clock is read
        let now = Instant::now();
        let is_late = self.read_at.is_some_and(|before| age > now - before);
        self.read_at = Some(now);
        self.reads.all.fetch_add(1, Ordering::Relaxed);
        let late = u64::from(is_late);
        self.reads.without_beat.fetch_add(late, Ordering::Relaxed);
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.packets.as_raw_fd()
    }
}

impl Ingress for Socket {
    fn fill(&mut self, burst: &mut Burst) -> io::Result<Reading> {
        self.note_beat();
        while let Some(room) = burst.vacant(0) {
            match self.packets.recv(room) {
                Ok(length) => burst.push(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Reading::Empty);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Reading::More)
    }

    fn answer(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// A worker that runs.
struct Running {
    packets: UnixDatagram,
    reads: Arc<Reads>,
    remote: Remote,
    thread: JoinHandle<io::Result<()>>,
}

impl Running {
    fn start() -> Self {
        let config = config(&["10.0.0.100:80/udp"], &["10.0.1.11"]);
        let director = director(&config, 0, 1);
        let snapshot = Arc::clone(director.snapshot());
        let (packets, queue) = UnixDatagram::pair().unwrap();
        queue.set_nonblocking(true).unwrap();
        let reads = Arc::<Reads>::default();
        let socket = Socket {
            packets: queue,
            reads: Arc::clone(&reads),
            read_at: None,
        };
        let pipeline = Pipeline::new(socket, MemoryEgress::default(), director, 1500);
        let current = Arc::new(ArcSwap::from_pointee(Published {
            snapshot,
            longest: 1500,
        }));
        let (events, _) = mpsc::sync_channel(1);
        let shared = Shared::new(&current, &events);
        let pace = Pace {
            busy_poll: Duration::ZERO,
            queue_length: 100,
        };
        let (worker, remote) = Worker::new(pipeline, Tee::default(), shared, pace).unwrap();
        let heartbeat = Arc::clone(&remote.link.heartbeat);
        reads.heartbeat.set(heartbeat).unwrap();
        Self {
            packets,
            reads,
            remote,
            thread: thread::spawn(|| worker.run()),
        }
    }

    /// Datagrams, each of a flow of its own.
    fn send(&self, ports: std::ops::Range<u16>) {
        for port in ports {
            self.packets.send(&udp(1, port, 80)).unwrap();
        }
    }

    fn flows(&self) -> u64 {
        self.remote.link.counters.flows()
    }

    fn age(&self) -> Duration {
        self.remote.link.heartbeat.age()
    }

    fn stop(self) {
        self.remote.stop().unwrap();
        self.thread.join().unwrap().unwrap();
    }
}

/// Without a flow, a worker sleeps until it is woken.
#[test]
fn an_idle_worker_beats_when_it_is_woken() {
    let running = Running::start();
    for _ in 0..3 {
        until("it sleeps", || running.age() > Duration::from_millis(50));
        let asleep = running.age();
        running.remote.link.waker.wake().unwrap();
        until("it beats", || running.age() < asleep);
    }
    running.stop();
}

/// It is kept from sleeping: that it is woken is not why it beats.
#[test]
fn a_busy_worker_beats_with_each_burst() {
    let running = Running::start();
    for _ in 0..50 {
        running.send(1..101);
    }
    let bursts = || running.remote.link.counters.bursts();
    until("it forwards", || bursts().packets == 5000);
    let reads = running.reads.all.load(Ordering::Relaxed);
    assert!(reads >= bursts().count(), "{reads}");
    assert_eq!(running.reads.without_beat.load(Ordering::Relaxed), 0);
    running.stop();
}

#[test]
fn a_worker_shows_its_flows_idle_or_busy() {
    let running = Running::start();
    running.send(1..101);
    until("it forwards", || running.flows() == 100);
    let request = FlowRequest {
        from: FlowCursor::default(),
        filter: FlowFilter::default(),
        most: 512,
    };
    let shown = |link: &WorkerLink| link.list(request, PATIENCE).unwrap().flows.len();
    assert_eq!(shown(&running.remote.link), 100, "idle");
    thread::scope(|scope| {
        let link = running.remote.link();
        let client = scope.spawn(move || (0..50).map(|_| shown(&link)).min());
        while !client.is_finished() {
            running.send(1..101);
        }
        assert_eq!(client.join().unwrap(), Some(100), "busy");
    });
    running.stop();
}
