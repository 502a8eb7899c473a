//! Round trips at low load: one small packet at a time, there through the director and back without it.
//!
//! The service behind the VIP is a packet socket at the sink, which answers whatever way a packet came: its
//! part is the same for all contenders, and small.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use socket2::Socket;

use crate::contender::Contender;
use crate::generator::connected_socket;
use crate::lab::{GENERATOR_CORE, Lab, packet_socket, pin};
use crate::report::{Round, Table, median_of};

/// Round trips of one sample, after some that are not counted.
const ROUND_TRIPS: usize = 4000;
const WARM_UP: usize = 200;

/// A lost packet is an error, and not a long round trip.
const PATIENCE: Duration = Duration::from_secs(1);

const COLUMNS: [&str; 4] = ["median µs", "p99 µs", "× median", "× p99"];

/// What one sample gave, in microseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RoundTrips {
    median: f64,
    p99: f64,
}

/// Medians over the rounds.
pub(crate) fn table(names: &[&str], rounds: &[Round<RoundTrips>]) -> Table {
    let title = format!("round trip at low load, median of {} rounds", rounds.len());
    Table::new(title, &COLUMNS, 0, names, |index| {
        let over = |figure: fn(&RoundTrips, &RoundTrips) -> f64| {
            median_of(rounds.iter().map(|round| figure(&round[index], &round[0])))
        };
        vec![
            over(|sample, _| sample.median),
            over(|sample, _| sample.p99),
            over(|sample, first| sample.median / first.median),
            over(|sample, first| sample.p99 / first.p99),
        ]
    })
}

/// Measures one contender.
///
/// # Errors
/// A step that failed, or a packet that was lost.
pub(crate) fn sample(lab: &Lab, contender: &Contender) -> Result<RoundTrips> {
    let director = contender.start(lab)?;
    let service = Service::start(lab)?;
    let client = lab.generator.within(connected_socket)??;
    client.set_read_timeout(Some(PATIENCE))?;
    let measured = thread::scope(|scope| {
        let client = scope.spawn(|| ping(&client));
        client.join().map_err(|_| anyhow!("the client panicked"))?
    })?;
    service.stop()?;
    director.stop()?;
    Ok(measured)
}

fn ping(client: &UdpSocket) -> Result<RoundTrips> {
    pin(GENERATOR_CORE).context("cannot pin the client")?;
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for number in 0..WARM_UP + ROUND_TRIPS {
        let sent = u64::try_from(number)?.to_be_bytes();
        let mut answer = [0; 64];
        let start = Instant::now();
        client.send(&sent)?;
        let length = client.recv(&mut answer).context("no answer")?;
        let time = start.elapsed();
        ensure!(answer[..length] == sent, "another answer than expected");
        if number >= WARM_UP {
            times.push(time);
        }
    }
    times.sort_unstable();
    let micros = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e6;
    Ok(RoundTrips {
        median: micros(50),
        p99: micros(99),
    })
}

/// The service behind the VIP.
#[derive(Debug)]
struct Service {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Service {
    fn start(lab: &Lab) -> Result<Self> {
        let socket = lab.sink.within(|| packet_socket("s0"))?;
        let socket = socket.context("cannot make the service")?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let stop = Arc::clone(&stop);
            thread::spawn(move || serve(&socket, &stop))
        };
        Ok(Self { stop, thread })
    }

    fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        ended.map_err(|_| anyhow!("the service panicked"))?
    }
}

fn serve(mut socket: &Socket, stop: &AtomicBool) -> Result<()> {
    pin(GENERATOR_CORE).context("cannot pin the service")?;
    let mut frame = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        // It waits for a while at most; then it looks again whether it is to stop.
        let length = std::io::Read::read(&mut socket, &mut frame).unwrap_or_default();
        if let Some(answer) = answer(&frame[..length]) {
            socket.send(&answer).context("cannot answer")?;
        }
    }
    Ok(())
}

/// The frame that answers a datagram, which came in a tunnel or without; `None` for anything else, the
/// answers themselves among it.
fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    const DIRECTOR: [u8; 6] = [2, 0, 0, 0, 2, 1];
    const SINK: [u8; 6] = [2, 0, 0, 0, 2, 2];
    if frame.get(6..12)? != DIRECTOR {
        return None;
    }
    let inner = match frame.get(23)? {
        4 => frame.get(34..)?,
        17 => frame.get(14..)?,
        _ => return None,
    };
    let (ip, udp) = inner.split_at_checked(20)?;
    // Both pairs, addresses and ports, change places: the header's checksum stays right, and UDP has none.
    let network = [&ip[..12], &ip[16..20], &ip[12..16]].concat();
    let ports = [udp.get(2..4)?, udp.get(..2)?].concat();
    let transport = [&ports[..], udp.get(4..6)?, &[0, 0], udp.get(8..)?].concat();
    Some([&DIRECTOR[..], &SINK, &[8, 0], &network, &transport].concat())
}
