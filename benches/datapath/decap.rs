//! What `tunlb decap` costs per packet: a flood of tunnel packets into one namespace, counted at a service
//! that does not read them.
//!
//! ```text
//!   flood ──> lo ──> tunlb decap ──> decap0 ──> UDP socket on 10.0.0.100:9000, full
//!   core 0           core 1                     core 1
//! ```
//!
//! The kernel counts each datagram of a super-packet by itself, at the socket.

use std::fs;
use std::net::UdpSocket;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::WARM_UP;
use crate::contender::{Process, tunlb};
use crate::flood::{Flood, Flooding};
use crate::lab::{BACKEND, Namespace, PORT, VIP};
use crate::options::Options;
use crate::report::{Sample, Table};

/// Where the director's packets come from.
const DIRECTOR: [u8; 4] = [10, 0, 2, 1];

const GUE_PORT: u16 = 6080;

/// What carries the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tunnel {
    Ipip,
    Gue,
}

/// Measures this build, or those that are named.
///
/// # Errors
/// A step that failed.
pub(crate) fn report(options: &Options) -> Result<()> {
    let backend = backend()?;
    let _service = backend.within(|| UdpSocket::bind((VIP, PORT)))??;
    let own = tunlb();
    let mut programs: Vec<_> = options.programs.iter().map(String::as_str).collect();
    if programs.is_empty() {
        programs.push(&own);
    }
    for (tunnel, name) in [(Tunnel::Ipip, "IPIP"), (Tunnel::Gue, "GUE")] {
        for flows in [1, 64, 4096] {
            let flood = flood(tunnel, 64, flows);
            let mut rounds = Vec::new();
            for number in 0..options.rounds {
                eprintln!(
                    "{name}, {flows} flows, round {} of {}",
                    number + 1,
                    options.rounds
                );
                let mut round = vec![Sample::default(); programs.len()];
                for turn in 0..programs.len() {
                    let index = (turn + number) % programs.len();
                    round[index] = sample(&backend, programs[index], tunnel, &flood, options)
                        .with_context(|| format!("cannot measure {}", programs[index]))?;
                }
                rounds.push(round);
            }
            let title = format!("decap, 64-byte UDP in {name}, {flows} flows");
            Table::throughput(&title, &programs, &rounds).print();
        }
    }
    Ok(())
}

fn backend() -> Result<Namespace> {
    let backend = Namespace::new()?;
    backend.sysctl("ipv4/conf/all/rp_filter", "0")?;
    backend.sysctl("ipv4/conf/default/rp_filter", "0")?;
    for step in [
        "link set lo up".to_owned(),
        format!("addr add {BACKEND}/32 dev lo"),
        format!("addr add {VIP}/32 dev lo"),
    ] {
        backend.ip(&step)?;
    }
    Ok(backend)
}

fn sample(
    backend: &Namespace,
    program: &str,
    tunnel: Tunnel,
    flood: &Flood,
    options: &Options,
) -> Result<Sample> {
    let (vip, director, port) = (
        VIP.to_string(),
        DIRECTOR.map(|octet| octet.to_string()).join("."),
        GUE_PORT.to_string(),
    );
    let mut arguments = vec!["decap", "--setup", "--vip", &vip, "--director", &director];
    if tunnel == Tunnel::Gue {
        arguments.extend(["--gue", &port]);
    }
    let decap = Process::start(backend, program, &arguments, "decapsulating")?;
    let flooding = Flooding::start(backend, flood)?;
    thread::sleep(WARM_UP);
    let now = || {
        anyhow::Ok((
            Instant::now(),
            delivered(backend)?,
            decap.cpu_time()?,
            flooding.sent(),
        ))
    };
    let before = now()?;
    thread::sleep(options.seconds);
    let after = now()?;
    flooding.stop()?;
    decap.stop()?;
    let packets = after.1 - before.1;
    ensure!(packets > 0, "nothing arrived at the service");
    Ok(Sample::new(
        after.0 - before.0,
        packets,
        after.2.saturating_sub(before.2),
        after.3 - before.3,
    ))
}

/// Datagrams that the service's socket refused, since it is full: the last column of its line (proc_net_udp.txt).
fn delivered(backend: &Namespace) -> Result<u64> {
    let table = backend.within(|| fs::read_to_string("/proc/thread-self/net/udp"))??;
    let local = format!(":{PORT:04X} ");
    let line = table.lines().find(|line| {
        let address = line.split_whitespace().nth(1).unwrap_or_default();
        format!("{address} ").ends_with(&local)
    });
    let drops = line.and_then(|line| line.split_whitespace().last());
    drops
        .context("no socket of the service")?
        .parse()
        .context("drops")
}

/// A frame to `lo` with a tunnel packet of one inner UDP packet of that size.
fn flood(tunnel: Tunnel, inner_bytes: usize, flows: u16) -> Flood {
    let mut inner = ipv4([198, 51, 100, 7], VIP.octets(), 17, &[]);
    let payload = vec![0_u8; inner_bytes - 28];
    inner = udp(&inner, (40_000, PORT), &payload);
    let (protocol, carried) = match tunnel {
        Tunnel::Ipip => (4, inner),
        Tunnel::Gue => (
            17,
            [&udp_header((50_000, GUE_PORT), inner.len())[..], &inner].concat(),
        ),
    };
    let outer = ipv4(DIRECTOR, BACKEND.octets(), protocol, &carried);
    let frame = [&[0; 12][..], &[8, 0], &outer].concat();
    Flood {
        port_at: i16::try_from(frame.len() - inner_bytes + 20).expect("a small frame"),
        frame,
        flows,
    }
}

pub(crate) fn ipv4(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len())
        .expect("a small packet")
        .to_be_bytes();
    let mut packet = vec![
        0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, protocol, 0, 0,
    ];
    packet.extend([source, destination].concat());
    let sum = tunlb::packet::checksum::checksum(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend(payload);
    packet
}

fn udp_header((source, destination): (u16, u16), payload: usize) -> [u8; 8] {
    let length = u16::try_from(8 + payload).expect("a small packet");
    let words = [source, destination, length, 0].map(u16::to_be_bytes);
    words.concat().try_into().expect("8 bytes")
}

/// A whole packet with a right checksum, whatever the source port: the payload's first word is its inverse.
pub(crate) fn udp(header: &[u8], ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut datagram = [&udp_header(ports, payload.len())[..], payload].concat();
    datagram[8..10].copy_from_slice(&(!ports.0).to_be_bytes());
    let pseudo = [&header[12..20], &[0, 17], &datagram[4..6]].concat();
    let sum = tunlb::packet::checksum::checksum(&[pseudo, datagram.clone()].concat());
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    let addresses: [[u8; 4]; 2] =
        [12, 16].map(|at| header[at..at + 4].try_into().expect("4 bytes"));
    ipv4(addresses[0], addresses[1], 17, &datagram)
}
