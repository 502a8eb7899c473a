//! The load: a flood of equal UDP packets to the VIP, from many source ports, on a core of its own.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};

use crate::lab::{GENERATOR_CORE, Lab, PORT, VIP, pin};

/// Sizes that are measured, whole IP packets.
pub(crate) const PACKET_BYTES: [usize; 2] = [64, 1400];

/// IPv4 (20) and UDP (8) headers.
const HEADER_BYTES: usize = 28;

/// Flows; each has a socket and so a source port.
const FLOWS: usize = 64;
/// Packets per system call.
const BATCH: usize = 64;

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
    let payload = vec![0_u8; payload_bytes];
    let mut piece = libc::iovec {
        iov_base: payload.as_ptr().cast_mut().cast(),
        iov_len: payload_bytes,
    };
    // SAFETY: an mmsghdr is plain data, for which zeros are valid.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
    for message in &mut messages {
        message.msg_hdr.msg_iov = &raw mut piece;
        message.msg_hdr.msg_iovlen = 1;
    }
    while !shared.stop.load(Ordering::Relaxed) {
        for socket in sockets {
            shared
                .sent
                .fetch_add(send(socket, &mut messages), Ordering::Relaxed);
        }
    }
    Ok(())
}

/// How many of the messages left. A failure counts as none: it is an ICMP error that a director without
/// a route caused, and the next call sends again.
fn send(socket: &UdpSocket, messages: &mut [libc::mmsghdr; BATCH]) -> u64 {
    const COUNT: libc::c_uint = 64;
    const { assert!(BATCH == COUNT as usize) };
    // SAFETY: the messages point to one piece that lives in the caller, as does its payload, which the
    // kernel only reads.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), COUNT, 0) };
    u64::try_from(sent).unwrap_or(0)
}
