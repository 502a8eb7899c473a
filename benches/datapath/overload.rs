//! What arrives where more is offered than the director forwards: of a flood, and of another VIP's flows beside it.
//!
//! ```text
//!   paced UDP ──> g0 ── d0 ─┐
//!   live frames ────> lo ───┴─> TUN ──> tunlb ──> d1 ── s0
//! ```
//!
//! Sockets alone do not offer five times what the director forwards, so the rest comes from a [`Flood`] into
//! `lo` of its namespace. What the TUN's queue has no room for is lost there, before tunlb.

use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use socket2::{SockFilter, Socket};

use crate::WARM_UP;
use crate::contender::{start_configured, start_tunlb};
use crate::decap::{ipv4, udp};
use crate::flood::{Flood, Flooding};
use crate::generator::{Generator, Load};
use crate::lab::{BACKENDS, Lab, PORT, VIP, packet_socket, succeeded};
use crate::report::{Table, median};
use crate::settings::{DEFAULT, Settings};

/// The VIP of those that are not flooded, with a backend of its own.
const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 101);

/// Packets per second for it: a small part of what a director forwards.
const OTHER_RATE: f64 = 10_000.0;

/// Bytes of every packet here.
const PACKET_BYTES: usize = 64;

/// Bytes of what stands before one at the sink: Ethernet and IPv4.
const OVERHEAD: usize = 14 + 20;

/// Offers, in parts of what arrives of a flood by sockets.
const PARTS: [f64; 5] = [0.5, 0.8, 1.0, 1.25, 1.5];

/// Prints what arrives of floods, and of another VIP's flows.
///
/// # Errors
/// A step that failed.
pub(crate) fn report(lab: &Lab, options: &crate::options::Options) -> Result<()> {
    lab.generator
        .ip(&format!("route add {OTHER_VIP}/32 via 10.0.0.1"))?;
    for (name, settings) in [("auto", DEFAULT), ("raw", Settings::ipip("raw"))] {
        let mut rounds = Vec::new();
        for number in 0..options.rounds {
            eprintln!("{name}, round {} of {}", number + 1, options.rounds);
            rounds.push(floods(lab, settings, options.seconds)?);
        }
        of_floods(name, &rounds).print();
    }
    let mut rounds = Vec::new();
    for number in 0..options.rounds {
        eprintln!("two VIPs, round {} of {}", number + 1, options.rounds);
        let round: Result<Vec<_>> = Beside::ALL
            .iter()
            .map(|beside| beside.sample(lab, options.seconds))
            .collect();
        rounds.push(round?);
    }
    of_vips(&rounds).print();
    Ok(())
}

/// Thousands of packets per second.
#[derive(Debug, Clone, Copy)]
struct Rates {
    offered: f64,
    arrived: f64,
}

/// The flood by sockets, parts of it, and the flood of live frames, through one director.
fn floods(lab: &Lab, settings: Settings, window: Duration) -> Result<Vec<Rates>> {
    let director = start_tunlb(lab, settings)?;
    let by_sockets = |rate: Option<f64>| -> Result<Rates> {
        let generator = Generator::start_paced(lab, Load::Udp(PACKET_BYTES), VIP, rate)?;
        let rates = measure(lab, window, || generator.sent())?;
        generator.stop()?;
        Ok(rates)
    };
    let flooded = by_sockets(None)?;
    let mut all = Vec::new();
    for part in PARTS {
        all.push(by_sockets(Some(flooded.arrived * 1e3 * part))?);
    }
    all.push(flooded);
    let flooding = Flooding::start(&lab.director, &flood())?;
    all.push(measure(lab, window, || flooding.sent())?);
    flooding.stop()?;
    director.stop()?;
    Ok(all)
}

fn measure(lab: &Lab, window: Duration, sent: impl Fn() -> u64) -> Result<Rates> {
    thread::sleep(WARM_UP);
    let (started, sent_before, before) = (Instant::now(), sent(), lab.received()?);
    thread::sleep(window);
    let (after, sent_after, elapsed) = (lab.received()?, sent(), started.elapsed());
    let arrived = after.packets_since(before, OVERHEAD, PACKET_BYTES);
    ensure!(arrived > 0, "nothing arrived behind the director");
    Ok(Rates {
        offered: per_millisecond(sent_after - sent_before, elapsed),
        arrived: per_millisecond(arrived, elapsed),
    })
}

fn per_millisecond(count: u64, elapsed: Duration) -> f64 {
    count as f64 / (elapsed.as_secs_f64() * 1e3)
}

/// Packets of 32768 flows to the VIP, in no order.
fn flood() -> Flood {
    let header = ipv4([10, 0, 0, 2], VIP.octets(), 17, &[]);
    let packet = udp(&header, (40_000, PORT), &[0; PACKET_BYTES - 28]);
    let frame = [&[0; 12][..], &[8, 0], &packet].concat();
    Flood {
        frame,
        port_at: 14 + 20,
        flows: 1 << 15,
    }
}

const OF_FLOODS: [&str; 4] = ["offered kpps", "arrived kpps", "of peak %", "× peak"];

fn of_floods(name: &str, rounds: &[Vec<Rates>]) -> Table {
    let mut names: Vec<_> = PARTS
        .iter()
        .map(|part| format!("sockets, {part} of a flood"))
        .collect();
    names.extend(["sockets, flood".to_owned(), "live frames, flood".to_owned()]);
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let peak = |round: &[Rates]| round.iter().map(|rates| rates.arrived).fold(0.0, f64::max);
    let over = |figure: &dyn Fn(&[Rates]) -> f64| {
        let mut figures: Vec<_> = rounds.iter().map(|round| figure(round)).collect();
        median(&mut figures)
    };
    let title = format!("overload, egress {name}, median of {} rounds", rounds.len());
    Table::new(title, &OF_FLOODS, 2, &names, |at| {
        vec![
            over(&|round| round[at].offered),
            over(&|round| round[at].arrived),
            over(&|round| 100.0 * round[at].arrived / peak(round)),
            over(&|round| round[at].offered / peak(round)),
        ]
    })
}

/// What happens beside the flows that are looked at.
#[derive(Debug, Clone, Copy)]
struct Beside {
    name: &'static str,
    /// Of the other VIP's flows, as many packets per second by sockets, or all that live frames can be.
    flood: Option<Offer>,
    /// A line of the flooded VIP.
    limit: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum Offer {
    /// So many packets per second.
    Sockets(f64),
    LiveFrames,
}

impl Beside {
    const ALL: [Self; 5] = [
        Self {
            name: "nothing beside it",
            flood: None,
            limit: "",
        },
        Self {
            name: "100 kpps beside it",
            flood: Some(Offer::Sockets(100_000.0)),
            limit: "",
        },
        Self {
            name: "all live frames beside it",
            flood: Some(Offer::LiveFrames),
            limit: "",
        },
        Self {
            name: "the same, new_flows_per_second = 1000",
            flood: Some(Offer::LiveFrames),
            limit: "new_flows_per_second = 1000\n",
        },
        Self {
            name: "the same, table of 4096 flows",
            flood: Some(Offer::LiveFrames),
            limit: SMALL_TABLE,
        },
    ];

    fn configuration(self) -> String {
        let (director, limit) = match self.limit {
            SMALL_TABLE => (SMALL_TABLE, ""),
            limit => ("", limit),
        };
        let mut file = format!("[director]\ntun = \"tunlb0\"\n{director}");
        for (vip, limit, backend) in [(VIP, limit, BACKENDS[0]), (OTHER_VIP, "", BACKENDS[1])] {
            write!(
                file,
                "[[vip]]\naddress = \"{vip}\"\nport = {PORT}\nprotocol = \"udp\"\n{limit}\
                 [[vip.backend]]\naddress = \"{backend}\"\n"
            )
            .expect("a String takes everything");
        }
        file
    }

    fn sample(self, lab: &Lab, window: Duration) -> Result<Shares> {
        let director = start_configured(lab, &self.configuration())?;
        let arrivals = Arrivals::of(lab, BACKENDS[1])?;
        let load = Load::Udp(PACKET_BYTES);
        let quiet = Generator::start_paced(lab, load, OTHER_VIP, Some(OTHER_RATE))?;
        thread::sleep(WARM_UP); // its flows are known before the flood
        let (mut sockets, mut frames) = (None, None);
        match self.flood {
            None => {}
            Some(Offer::Sockets(rate)) => {
                sockets = Some(Generator::start_paced(lab, load, VIP, Some(rate))?);
            }
            Some(Offer::LiveFrames) => frames = Some(Flooding::start(&lab.director, &flood())?),
        }
        let flood_sent = || {
            sockets.as_ref().map_or(0, Generator::sent) + frames.as_ref().map_or(0, Flooding::sent)
        };
        let quiet_before = quiet.sent();
        arrivals.take()?;
        let rates = measure_both(lab, window, &arrivals, || (quiet.sent(), flood_sent()))?;
        ensure!(quiet.sent() > quiet_before, "no flow beside the flood");
        frames.map_or(Ok(()), Flooding::stop)?;
        sockets.map_or(Ok(()), Generator::stop)?;
        quiet.stop()?;
        director.stop()?;
        Ok(rates)
    }
}

const SMALL_TABLE: &str = "flows = 4096\n";

/// Of the flows that are looked at, and of the flood.
#[derive(Debug, Clone, Copy)]
struct Shares {
    quiet: Rates,
    flood: Rates,
}

fn measure_both(
    lab: &Lab,
    window: Duration,
    arrivals: &Arrivals,
    sent: impl Fn() -> (u64, u64),
) -> Result<Shares> {
    thread::sleep(WARM_UP);
    arrivals.take()?;
    let (started, sent_before, before) = (Instant::now(), sent(), lab.received()?);
    thread::sleep(window);
    let (after, quiet, sent_after) = (lab.received()?, arrivals.take()?, sent());
    let elapsed = started.elapsed();
    let all = after.packets_since(before, OVERHEAD, PACKET_BYTES);
    Ok(Shares {
        quiet: Rates {
            offered: per_millisecond(sent_after.0 - sent_before.0, elapsed),
            arrived: per_millisecond(quiet, elapsed),
        },
        flood: Rates {
            offered: per_millisecond(sent_after.1 - sent_before.1, elapsed),
            arrived: per_millisecond(all.saturating_sub(quiet), elapsed),
        },
    })
}

const OF_VIPS: [&str; 5] = [
    "offered kpps",
    "arrived %",
    "flood kpps",
    "flood arr. %",
    "arr. kpps",
];

fn of_vips(rounds: &[Vec<Shares>]) -> Table {
    let names = Beside::ALL.map(|beside| beside.name);
    let over = |figure: &dyn Fn(&Shares) -> f64, at: usize| {
        let mut figures: Vec<_> = rounds.iter().map(|round| figure(&round[at])).collect();
        median(&mut figures)
    };
    let part = |rates: &Rates| match rates.offered {
        0.0 => 0.0,
        offered => 100.0 * rates.arrived / offered,
    };
    let title = format!(
        "another VIP's flows beside a flood, median of {} rounds",
        rounds.len()
    );
    Table::new(title, &OF_VIPS, 1, &names, |at| {
        vec![
            over(&|shares| shares.quiet.offered, at),
            over(&|shares| part(&shares.quiet), at),
            over(&|shares| shares.flood.offered, at),
            over(&|shares| part(&shares.flood), at),
            over(&|shares| shares.flood.arrived, at),
        ]
    })
}

/// Counts the frames for one backend at the sink, which nothing reads: its kernel does (`PACKET_STATISTICS`,
/// packet(7)), those included that find no room.
struct Arrivals(Socket);

impl Arrivals {
    fn of(lab: &Lab, backend: Ipv4Addr) -> Result<Self> {
        let socket = lab.sink.within(|| packet_socket("s0"))??;
        const DESTINATION: u32 = 14 + 16;
        socket
            .attach_filter(&[
                SockFilter::new(0x20, 0, 0, DESTINATION), // ld [outer destination]
                SockFilter::new(0x15, 0, 1, backend.to_bits()), // jeq #backend
                SockFilter::new(0x06, 0, 0, 1),           // ret #1
                SockFilter::new(0x06, 0, 0, 0),           // ret #0
            ])
            .context("cannot attach a filter")?;
        Ok(Self(socket))
    }

    /// How many since the last time.
    fn take(&self) -> io::Result<u64> {
        const PACKET_STATISTICS: libc::c_int = 6;
        let mut counts = [0_u32; 2]; // struct tpacket_stats: all of them, and those without room
        let mut length =
            libc::socklen_t::try_from(size_of_val(&counts)).map_err(io::Error::other)?;
        // SAFETY: the kernel writes no more than `length` bytes, which is the array's size.
        succeeded(unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_STATISTICS,
                (&raw mut counts).cast(),
                &raw mut length,
            )
        })?;
        Ok(counts[0].into())
    }
}
