//! The load, on a core of its own: a flood of equal UDP packets to the VIP from many source ports, or of an
//! [upload](crate::upload)'s segments.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};

use crate::lab::{GENERATOR_CORE, Lab, PORT, VIP, pin, succeeded};
use crate::upload;

/// What the director gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// UDP packets of this many bytes, IP header included.
    Udp(usize),
    /// Segments of TCP uploads, as a sender with segmentation offload hands them over: up to 64 KiB at once.
    Upload,
}

impl Load {
    /// What is measured, in this order.
    pub(crate) const ALL: [Self; 3] = [Self::Udp(64), Self::Udp(1400), Self::Upload];

    /// Bytes of each packet, IP header included.
    pub(crate) const fn packet_bytes(self) -> usize {
        match self {
            Self::Udp(bytes) => bytes,
            Self::Upload => upload::SEGMENT_BYTES,
        }
    }

    /// How many segments the generator's device takes at once.
    pub(crate) const fn segments(self) -> u32 {
        match self {
            Self::Udp(_) => 1,
            Self::Upload => 65_535,
        }
    }

    /// How a table names it.
    pub(crate) fn title(self) -> String {
        match self {
            Self::Udp(bytes) => format!("{bytes}-byte UDP"),
            Self::Upload => format!("TCP upload, segments of {} bytes", upload::SEGMENT_BYTES),
        }
    }
}

/// IPv4 (20) and UDP (8) headers.
const HEADER_BYTES: usize = 28;

/// Flows; each has a socket and so a source port.
const FLOWS: usize = 64;
/// Packets per system call, at most; the kernel cuts a send into no more than 64 (UDP_MAX_SEGMENTS).
const BATCH: usize = 64;
/// The same where packets are paced, so that they come evenly.
const PACED_BATCH: usize = 4;
/// The largest UDP payload over IPv4.
const MAX_DATAGRAM_BYTES: usize = 65_507;

/// A running flood.
#[derive(Debug)]
pub(crate) struct Generator {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<()>>,
}

/// What a flood's thread shares with this one.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
}

impl Shared {
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self, packets: u64) {
        self.sent.fetch_add(packets, Ordering::Relaxed);
    }
}

impl Generator {
    /// As fast as it can.
    ///
    /// # Errors
    /// The sockets cannot be made.
    pub(crate) fn start(lab: &Lab, load: Load) -> Result<Self> {
        Self::start_paced(lab, load, VIP, None)
    }

    /// To `destination`, and no more than so many UDP packets per second; uploads are never paced.
    ///
    /// # Errors
    /// The sockets cannot be made.
    pub(crate) fn start_paced(
        lab: &Lab,
        load: Load,
        destination: Ipv4Addr,
        per_second: Option<f64>,
    ) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = match load {
            Load::Udp(packet_bytes) => {
                let sockets = lab
                    .generator
                    .within(|| sockets(destination))?
                    .context("cannot make the generator's sockets")?;
                let shared = Arc::clone(&shared);
                let payload_bytes = packet_bytes - HEADER_BYTES;
                thread::spawn(move || flood(&sockets, payload_bytes, per_second, &shared))
            }
            Load::Upload => {
                let uploads = upload::Uploads::open(lab)?;
                let shared = Arc::clone(&shared);
                thread::spawn(move || uploads.flood(&shared))
            }
        };
        Ok(Self { shared, thread })
    }

    /// Packets sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// # Errors
    /// What ended the flood before its time.
    pub(crate) fn stop(self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("the generator panicked"))?
    }
}

fn sockets(destination: Ipv4Addr) -> io::Result<Vec<UdpSocket>> {
    (0..FLOWS)
        .map(|_| socket_connected_to(destination))
        .collect()
}

/// A socket on a port of its own, connected to the VIP.
pub(crate) fn connected_socket() -> io::Result<UdpSocket> {
    socket_connected_to(VIP)
}

fn socket_connected_to(destination: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((destination, PORT))?;
    Ok(socket)
}

fn flood(
    sockets: &[UdpSocket],
    payload_bytes: usize,
    per_second: Option<f64>,
    shared: &Shared,
) -> Result<()> {
    pin(GENERATOR_CORE).context("cannot pin the generator")?;
    for socket in sockets {
        let size = libc::c_int::try_from(payload_bytes)?;
        set(socket, libc::SOL_UDP, libc::UDP_SEGMENT, size).context("cannot set UDP_SEGMENT")?;
        // As a sender has it who sends datagrams singly: the kernel sets DF on no larger ones.
        let always = libc::IP_PMTUDISC_DO;
        set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, always).context("cannot set DF")?;
    }
    let batch = match per_second {
        None => BATCH.min(MAX_DATAGRAM_BYTES / payload_bytes),
        Some(_) => PACED_BATCH,
    };
    let payload = vec![0_u8; batch * payload_bytes];
    let (started, mut sent) = (Instant::now(), 0.0);
    while !shared.is_stopped() {
        for socket in sockets {
            while per_second.is_some_and(|rate| sent > rate * started.elapsed().as_secs_f64()) {
                thread::yield_now(); // to a second generator on the same core
            }
            sent += batch as f64;
            // A failure is an ICMP error that a director without a route caused; the next call sends again.
            if socket.send(&payload).is_ok() {
                shared.count(u64::try_from(batch)?);
            }
        }
    }
    Ok(())
}

/// Sets an option. UDP_SEGMENT (udp(7)) makes a socket cut what it is given into datagrams of that payload: one
/// way through the stack for a batch. The lab's veth takes single packets only, so it sees no difference.
fn set(
    socket: &UdpSocket,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    let value = (&raw const value).cast();
    // SAFETY: the value lives until the call returns, which reads `length` bytes of it.
    succeeded(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, length) })
}
