//! Moves the packets: one mio loop over the tunnel sockets, the signals and the address changes.
//!
//! Per packet: no allocation, no lock, one write; the reads are batched.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use signal_hook_mio::v1_0::Signals;

use crate::io::{
    netlink::{AddressMonitor, Netlink},
    signals::{Ignored, Meaning, meaning, name},
    sys::{ReceiveBatch, Received},
    tun::Queue,
};

use super::{
    DecapError, Totals,
    admission::{Admission, Refusal},
    socket::{Carrier, TunnelSocket},
};

const SIGNALS: Token = Token(0);
const ADDRESSES: Token = Token(1);
/// The token of the first socket; the others follow.
const SOCKETS: usize = 2;

/// Packets per system call; more gains nothing (measured for the director: 64 is enough).
const BATCH: usize = 64;

/// Batches from one socket before the others, signals and address changes have their turn.
const BATCHES_PER_TURN: usize = 16;

/// The most that an IPv4 packet can be; the payload of an IPv6 one can be as much.
const PACKET_BYTES: usize = 65_535;

/// Everything that the loop works with, open and ready.
pub(super) struct Engine {
    pub(super) sockets: Vec<TunnelSocket>,
    pub(super) queue: Queue,
    pub(super) signals: Signals,
    pub(super) ignored: Ignored,
    pub(super) monitor: AddressMonitor,
    pub(super) netlink: Netlink,
    pub(super) admission: Admission,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// The socket is empty: an event will tell of the next packet.
    Nothing,
    /// There may be more; no event will tell.
    Packets,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Continue,
    Stop,
}

impl Engine {
    /// Runs until a signal means to stop. `report` is called at each SIGUSR1.
    pub(super) fn run(mut self, mut report: impl FnMut(&Totals)) -> Result<Totals, DecapError> {
        let mut poll = Poll::new().map_err(loop_error("open"))?;
        self.register(&poll).map_err(loop_error("register"))?;
        let mut events = Events::with_capacity(8);
        let mut batch = ReceiveBatch::new(BATCH, PACKET_BYTES);
        let mut totals = Totals::default();
        // Some may have come before the registration.
        let mut waiting = vec![Waiting::Packets; self.sockets.len()];
        loop {
            wait(&mut poll, &mut events, &waiting)?;
            for event in &events {
                match event.token() {
                    ADDRESSES => self.follow_addresses()?,
                    SIGNALS => {
                        if self.take_signals(&totals, &mut report) == Wish::Stop {
                            return Ok(totals);
                        }
                    }
                    Token(socket) => {
                        if let Some(waiting) = waiting.get_mut(socket - SOCKETS) {
                            *waiting = Waiting::Packets;
                        }
                    }
                }
            }
            for (socket, waiting) in self.sockets.iter().zip(&mut waiting) {
                if *waiting == Waiting::Packets {
                    *waiting = self.move_packets(socket, &mut batch, &mut totals)?;
                }
            }
        }
    }

    fn register(&mut self, poll: &Poll) -> io::Result<()> {
        let registry = poll.registry();
        for (token, socket) in (SOCKETS..).zip(&self.sockets) {
            let socket = socket.socket.as_raw_fd();
            registry.register(&mut SourceFd(&socket), Token(token), Interest::READABLE)?;
        }
        registry.register(&mut self.signals, SIGNALS, Interest::READABLE)?;
        registry.register(&mut self.monitor, ADDRESSES, Interest::READABLE)
    }

    fn take_signals(&mut self, totals: &Totals, report: &mut impl FnMut(&Totals)) -> Wish {
        let mut wish = Wish::Continue;
        for signal in self.signals.pending() {
            match meaning(signal) {
                Meaning::Stop => {
                    log::info!("stopping: {}", name(signal));
                    wish = Wish::Stop;
                }
                Meaning::Totals => report(totals),
                Meaning::Reload => log::info!("{}: there is no file to read again", name(signal)),
                Meaning::Nothing => self.ignored.note(signal),
            }
        }
        wish
    }

    fn follow_addresses(&mut self) -> Result<(), DecapError> {
        if self.monitor.drain()? {
            let addresses = self.netlink.addresses()?;
            let addresses = addresses.iter().map(|address| address.net.addr());
            self.admission.set_local_addresses(addresses);
        }
        Ok(())
    }

    /// Moves what waits on the socket, for one turn at most.
    fn move_packets(
        &self,
        TunnelSocket { socket, carrier }: &TunnelSocket,
        batch: &mut ReceiveBatch,
        totals: &mut Totals,
    ) -> Result<Waiting, DecapError> {
        for _ in 0..BATCHES_PER_TURN {
            match batch.receive(socket.as_fd()) {
                Ok(_) => batch
                    .packets_mut()
                    .for_each(|packet| self.move_packet(*carrier, packet, totals)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Waiting::Nothing);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => {
                    return Err(DecapError::Socket {
                        socket: carrier.to_string(),
                        operation: "receive",
                        cause,
                    });
                }
            }
        }
        Ok(Waiting::Packets)
    }

    fn move_packet(&self, carrier: Carrier, packet: Received<'_>, totals: &mut Totals) {
        let opened = carrier.open(packet).map_err(Refusal::from);
        let inner = match opened.and_then(|packet| self.admission.admit(packet)) {
            Ok(inner) => inner,
            Err(reason) => return totals.count_refused(reason),
        };
        match self.queue.send(inner) {
            Ok(_) => totals.count_injected(),
            Err(error) => {
                if totals.refused(Refusal::InjectionFailed) == 0 {
                    log::warn!("the TUN device refuses packets (counted from now on): {error}");
                }
                totals.count_refused(Refusal::InjectionFailed);
            }
        }
    }
}

/// Waits for events; only looks for them where packets may wait already.
fn wait(poll: &mut Poll, events: &mut Events, waiting: &[Waiting]) -> Result<(), DecapError> {
    let timeout = waiting
        .contains(&Waiting::Packets)
        .then_some(Duration::ZERO);
    match poll.poll(events, timeout) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            events.clear();
            Ok(())
        }
        other => other.map_err(loop_error("wait")),
    }
}

fn loop_error(operation: &'static str) -> impl Fn(io::Error) -> DecapError {
    move |cause| DecapError::Loop { operation, cause }
}
