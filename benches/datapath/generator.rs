//! The load: a flood of equal UDP packets to the VIP, from many source ports, on a core of its own.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};

use crate::lab::{GENERATOR_CORE, Lab, PORT, VIP, pin, succeeded};

/// Sizes that are measured, whole IP packets.
pub(crate) const PACKET_BYTES: [usize; 2] = [64, 1400];

/// IPv4 (20) and UDP (8) headers.
const HEADER_BYTES: usize = 28;

/// Flows; each has a socket and so a source port.
const FLOWS: usize = 64;
/// Packets per system call, at most; the kernel cuts a send into no more than 64 (UDP_MAX_SEGMENTS).
const BATCH: usize = 64;
/// The largest UDP payload over IPv4.
const MAX_DATAGRAM_BYTES: usize = 65_507;

/// A running flood.
#[derive(Debug)]
pub(crate) struct Generator {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
}

impl Generator {
    /// # Errors
    /// The sockets cannot be made.
    pub(crate) fn start(lab: &Lab, packet_bytes: usize) -> Result<Self> {
        let sockets = lab
            .generator
            .within(sockets)?
            .context("cannot make the generator's sockets")?;
        let shared = Arc::new(Shared::default());
        let flood = {
            let shared = Arc::clone(&shared);
            move || flood(&sockets, packet_bytes - HEADER_BYTES, &shared)
        };
        Ok(Self {
            shared,
            thread: thread::spawn(flood),
        })
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

fn sockets() -> io::Result<Vec<UdpSocket>> {
    (0..FLOWS).map(|_| connected_socket()).collect()
}

/// A socket on a port of its own, connected to the VIP.
pub(crate) fn connected_socket() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((VIP, PORT))?;
    Ok(socket)
}

fn flood(sockets: &[UdpSocket], payload_bytes: usize, shared: &Shared) -> Result<()> {
    pin(GENERATOR_CORE).context("cannot pin the generator")?;
    for socket in sockets {
        cut_into(socket, payload_bytes).context("cannot set UDP_SEGMENT")?;
    }
    let batch = BATCH.min(MAX_DATAGRAM_BYTES / payload_bytes);
    let payload = vec![0_u8; batch * payload_bytes];
    while !shared.stop.load(Ordering::Relaxed) {
        for socket in sockets {
            // A failure is an ICMP error that a director without a route caused; the next call sends again.
            if socket.send(&payload).is_ok() {
                shared
                    .sent
                    .fetch_add(u64::try_from(batch)?, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}

/// Makes the socket cut what it is given into datagrams of this payload (udp(7), UDP_SEGMENT): one way
/// through the stack for a batch. The lab's veth takes single packets only, so it sees no difference.
fn cut_into(socket: &UdpSocket, payload_bytes: usize) -> io::Result<()> {
    let value = libc::c_int::try_from(payload_bytes).map_err(io::Error::other)?;
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    let value = (&raw const value).cast();
    // SAFETY: the value lives until the call returns, which reads `length` bytes of it.
    succeeded(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            value,
            length,
        )
    })
}
