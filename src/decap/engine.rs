//! Moves the packets: one mio loop over the raw socket, the signals and the address changes.
//!
//! Per packet: no allocation, no lock, one write; the reads are batched.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use signal_hook::consts::SIGUSR1;
use signal_hook_mio::v1_0::Signals;
use socket2::Socket;

use crate::io::{
    netlink::{AddressMonitor, Netlink},
    sys::ReceiveBatch,
    tun::Queue,
};

use super::{
    DecapError, Totals,
    admission::{Admission, Refusal},
};

const SOCKET: Token = Token(0);
const SIGNALS: Token = Token(1);
const ADDRESSES: Token = Token(2);

/// Packets per system call; more gains nothing (measured for the director: 64 is enough).
const BATCH: usize = 64;

/// Batches between two looks at signals and address changes while packets keep coming.
const BATCHES_PER_TURN: usize = 16;

/// The most that an IPv4 packet can be.
const PACKET_BYTES: usize = 65_535;

/// Everything that the loop works with, open and ready.
pub(super) struct Engine {
    pub(super) socket: Socket,
    pub(super) queue: Queue,
    pub(super) signals: Signals,
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
    /// Runs until SIGINT or SIGTERM. `report` is called at each SIGUSR1.
    pub(super) fn run(mut self, mut report: impl FnMut(&Totals)) -> Result<Totals, DecapError> {
        let mut poll = Poll::new().map_err(loop_error("open"))?;
        self.register(&poll).map_err(loop_error("register"))?;
        let mut events = Events::with_capacity(8);
        let mut batch = ReceiveBatch::new(BATCH, PACKET_BYTES);
        let mut totals = Totals::default();
        let mut waiting = Waiting::Packets; // some may have come before the registration
        loop {
            wait(&mut poll, &mut events, waiting)?;
            for event in &events {
                match event.token() {
                    SOCKET => waiting = Waiting::Packets,
                    ADDRESSES => self.follow_addresses()?,
                    _ => {
                        if self.take_signals(&totals, &mut report) == Wish::Stop {
                            return Ok(totals);
                        }
                    }
                }
            }
            if waiting == Waiting::Packets {
                waiting = self.move_packets(&mut batch, &mut totals)?;
            }
        }
    }

    fn register(&mut self, poll: &Poll) -> io::Result<()> {
        let registry = poll.registry();
        let socket = self.socket.as_raw_fd();
        registry.register(&mut SourceFd(&socket), SOCKET, Interest::READABLE)?;
        registry.register(&mut self.signals, SIGNALS, Interest::READABLE)?;
        registry.register(&mut self.monitor, ADDRESSES, Interest::READABLE)
    }

    fn take_signals(&mut self, totals: &Totals, report: &mut impl FnMut(&Totals)) -> Wish {
        let mut wish = Wish::Continue;
        for signal in self.signals.pending() {
            if signal == SIGUSR1 {
                report(totals);
            } else {
                wish = Wish::Stop;
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
        batch: &mut ReceiveBatch,
        totals: &mut Totals,
    ) -> Result<Waiting, DecapError> {
        for _ in 0..BATCHES_PER_TURN {
            match batch.receive(self.socket.as_fd()) {
                Ok(_) => batch
                    .packets_mut()
                    .for_each(|packet| self.move_packet(packet, totals)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Waiting::Nothing);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => {
                    return Err(DecapError::Socket {
                        operation: "receive",
                        cause,
                    });
                }
            }
        }
        Ok(Waiting::Packets)
    }

    fn move_packet(&self, packet: &mut [u8], totals: &mut Totals) {
        let inner = match self.admission.admit(packet) {
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
fn wait(poll: &mut Poll, events: &mut Events, waiting: Waiting) -> Result<(), DecapError> {
    let timeout = (waiting == Waiting::Packets).then_some(Duration::ZERO);
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
