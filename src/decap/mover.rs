//! Moves packets from the tunnel sockets of one thread to its queue of the TUN device, and follows the
//! addresses of this machine meanwhile. The loop that waits for events belongs to the caller.
//!
//! Per burst: no allocation, no lock; one system call to receive up to 256 packets, one for each packet or
//! super-packet to inject.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use mio::{Interest, Registry, Token, unix::SourceFd};

use crate::{
    io::{netlink::Drained, sys::ReceiveBatch},
    packet::coalesce::WINDOW,
};

use super::{
    DecapError, Totals,
    admission::Admission,
    driver::Drivers,
    injector::Injector,
    local::LocalAddresses,
    socket::{Carrier, TunnelSocket},
};

const ADDRESSES: Token = Token(0);
/// The token of the first socket; the others follow.
const SOCKETS: usize = 1;

/// Packets per system call, and so those that may be joined: with many flows at once a burst of 64 has few packets
/// of each.
const BATCH: usize = WINDOW;

/// Batches from one socket before the others, signals and address changes have their turn.
const BATCHES_PER_TURN: usize = 4;

/// The most that an IPv4 packet can be; the payload of an IPv6 one can be as much.
const PACKET_BYTES: usize = 65_535;

/// The sockets, the queue, and the rules between them.
#[derive(Debug)]
pub(super) struct Mover {
    sockets: Vec<TunnelSocket>,
    injector: Injector,
    admission: Admission,
    local: LocalAddresses,
    batch: ReceiveBatch,
    totals: Totals,
    /// For each socket.
    waiting: Vec<Waiting>,
    addresses: Drained,
    /// Of the first thread.
    drivers: Drivers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// The socket is empty: an event will tell of the next packet.
    Nothing,
    /// There may be more; no event will tell.
    Packets,
}

impl Mover {
    /// Joins the parts; some packets may wait already.
    pub(super) fn new(
        sockets: Vec<TunnelSocket>,
        injector: Injector,
        admission: Admission,
        local: LocalAddresses,
    ) -> Self {
        Self {
            waiting: vec![Waiting::Packets; sockets.len()],
            sockets,
            injector,
            admission,
            local,
            batch: ReceiveBatch::new(BATCH, PACKET_BYTES),
            totals: Totals::default(),
            addresses: Drained::More,
            drivers: Drivers::default(),
        }
    }

    /// Has these programs follow the rules.
    ///
    /// # Errors
    /// [`DecapError::Driver`].
    pub(super) fn drive(&mut self, drivers: Drivers) -> Result<(), DecapError> {
        self.drivers = drivers;
        self.drivers.follow(&self.admission)
    }

    /// What happened to packets in drivers so far.
    pub(super) fn in_drivers(&self) -> Totals {
        self.drivers.totals()
    }

    /// What happened to the packets so far.
    pub(super) const fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Registers the sockets, and returns the first token that is free for the caller.
    pub(super) fn register(&mut self, registry: &Registry) -> io::Result<usize> {
        for (token, socket) in (SOCKETS..).zip(&self.sockets) {
            let socket = socket.socket.as_raw_fd();
            registry.register(&mut SourceFd(&socket), Token(token), Interest::READABLE)?;
        }
        registry.register(&mut self.local.monitor, ADDRESSES, Interest::READABLE)?;
        Ok(SOCKETS + self.sockets.len())
    }

    /// Takes note of an event; those of other tokens are not for the mover.
    pub(super) fn note(&mut self, token: Token) {
        if token == ADDRESSES {
            self.addresses = Drained::More;
        } else if let Some(waiting) = self.waiting.get_mut(token.0 - SOCKETS) {
            *waiting = Waiting::Packets;
        }
    }

    /// How long to wait for events; none: until one comes.
    pub(super) fn timeout(&self) -> Option<Duration> {
        if self.waiting.contains(&Waiting::Packets) || self.addresses == Drained::More {
            return Some(Duration::ZERO);
        }
        let again = self.local.again?;
        Some(again.saturating_duration_since(Instant::now()))
    }

    /// Follows the addresses and moves what waits on each socket, for one turn at most. Packets are counted as
    /// doubled while `doubled` says so.
    ///
    /// # Errors
    /// What ends the command.
    pub(super) fn turn(&mut self, doubled: &AtomicBool) -> Result<(), DecapError> {
        let now = Instant::now();
        if self.addresses == Drained::More {
            self.addresses = self.local.follow(&mut self.admission, now)?;
        }
        self.local.refresh(&mut self.admission, now);
        self.drivers.follow(&self.admission)?;
        let before = self.totals.injected;
        for index in 0..self.sockets.len() {
            if self.waiting[index] == Waiting::Packets {
                self.waiting[index] = self.move_packets(index)?;
            }
        }
        if doubled.load(Ordering::Relaxed) {
            self.totals.count_doubled(self.totals.injected - before);
        }
        Ok(())
    }

    /// Moves what waits on a socket, for one turn at most.
    fn move_packets(&mut self, index: usize) -> Result<Waiting, DecapError> {
        let TunnelSocket { socket, carrier } = &self.sockets[index];
        for _ in 0..BATCHES_PER_TURN {
            match self.batch.receive(socket.as_fd(), carrier.wanted()) {
                Ok(_) => self.injector.inject(
                    *carrier,
                    &mut self.batch,
                    &self.admission,
                    &mut self.totals,
                )?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Waiting::Nothing);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(receive_error(*carrier, cause)),
            }
        }
        Ok(Waiting::Packets)
    }
}

fn receive_error(carrier: Carrier, cause: io::Error) -> DecapError {
    DecapError::Socket {
        socket: carrier.to_string(),
        operation: "receive",
        cause,
    }
}
