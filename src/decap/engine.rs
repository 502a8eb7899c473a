//! Moves the packets: one mio loop over the tunnel sockets, the signals, the address changes and the
//! alarms of the watch.
//!
//! Per packet: no allocation, no lock, one write; the reads are batched.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::Receiver,
    },
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, Waker, unix::SourceFd};
use signal_hook_mio::v1_0::Signals;

use crate::io::{
    netlink::Drained,
    signals::{Ignored, Meaning, meaning, name},
    sys::{ReceiveBatch, Received},
    tun::Queue,
};

use super::{
    DecapError, DeviceLoss, Totals,
    admission::{Admission, Refusal},
    local::LocalAddresses,
    socket::{Carrier, TunnelSocket},
};

const SIGNALS: Token = Token(0);
const ADDRESSES: Token = Token(1);
const ALARM: Token = Token(2);
/// The token of the first socket; the others follow.
const SOCKETS: usize = 3;

/// Packets per system call; more gains nothing (measured for the director: 64 is enough).
const BATCH: usize = 64;

/// Batches from one socket before the others, signals and address changes have their turn.
const BATCHES_PER_TURN: usize = 16;

/// The most that an IPv4 packet can be; the payload of an IPv6 one can be as much.
const PACKET_BYTES: usize = 65_535;

/// Everything that the loop works with, open and ready.
pub(super) struct Engine {
    poll: Poll,
    sockets: Vec<TunnelSocket>,
    queue: Queue,
    /// The name of the queue's device.
    device: String,
    signals: Signals,
    ignored: Ignored,
    local: LocalAddresses,
    alarms: Receiver<DecapError>,
    /// Of the alarms: a waker that is dropped takes the event along that it has just made.
    _waker: Arc<Waker>,
}

/// What is to be done at once, without waiting for an event.
struct Waits {
    /// For each socket.
    packets: Vec<Waiting>,
    addresses: Drained,
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
    /// Joins the parts, and returns what wakes the loop to hear an alarm.
    ///
    /// # Errors
    /// [`DecapError::Loop`].
    pub(super) fn open(
        sockets: Vec<TunnelSocket>,
        (queue, device): (Queue, String),
        signals: Signals,
        local: LocalAddresses,
        alarms: Receiver<DecapError>,
    ) -> Result<(Self, Arc<Waker>), DecapError> {
        let poll = Poll::new().map_err(loop_error("open"))?;
        let waker = Waker::new(poll.registry(), ALARM).map_err(loop_error("open"))?;
        let waker = Arc::new(waker);
        let mut engine = Self {
            poll,
            sockets,
            queue,
            device,
            signals,
            ignored: Ignored::default(),
            local,
            alarms,
            _waker: Arc::clone(&waker),
        };
        engine.register().map_err(loop_error("register"))?;
        Ok((engine, waker))
    }

    /// Runs until a signal means to stop, or an alarm. `report` is called at each SIGUSR1. Packets are
    /// counted as doubled while `doubled` says so.
    pub(super) fn run(
        &mut self,
        admission: &mut Admission,
        doubled: &AtomicBool,
        report: impl FnMut(&Totals),
    ) -> Result<Totals, DecapError> {
        let mut totals = Totals::default();
        let result = self.turn_until_stopped(admission, doubled, report, &mut totals);
        if result.is_err() {
            log::info!("{totals}");
        }
        result.map(|()| totals)
    }

    fn turn_until_stopped(
        &mut self,
        admission: &mut Admission,
        doubled: &AtomicBool,
        mut report: impl FnMut(&Totals),
        totals: &mut Totals,
    ) -> Result<(), DecapError> {
        let mut events = Events::with_capacity(8);
        let mut batch = ReceiveBatch::new(BATCH, PACKET_BYTES);
        // Some may have come before the registration.
        let mut waits = Waits {
            packets: vec![Waiting::Packets; self.sockets.len()],
            addresses: Drained::More,
        };
        loop {
            let timeout = self.timeout(&waits);
            wait(&mut self.poll, &mut events, timeout)?;
            for event in &events {
                match event.token() {
                    ADDRESSES => waits.addresses = Drained::More,
                    ALARM => self.hear_alarm()?,
                    SIGNALS => {
                        if self.take_signals(totals, &mut report) == Wish::Stop {
                            return Ok(());
                        }
                    }
                    Token(socket) => {
                        if let Some(waiting) = waits.packets.get_mut(socket - SOCKETS) {
                            *waiting = Waiting::Packets;
                        }
                    }
                }
            }
            if waits.addresses == Drained::More {
                waits.addresses = self.local.follow(admission, Instant::now())?;
            }
            self.local.refresh(admission, Instant::now());
            let before = totals.injected;
            for (socket, waiting) in self.sockets.iter().zip(&mut waits.packets) {
                if *waiting == Waiting::Packets {
                    *waiting = self.move_packets(socket, admission, &mut batch, totals)?;
                }
            }
            if doubled.load(Ordering::Relaxed) {
                totals.count_doubled(totals.injected - before);
            }
        }
    }

    fn register(&mut self) -> io::Result<()> {
        let registry = self.poll.registry();
        for (token, socket) in (SOCKETS..).zip(&self.sockets) {
            let socket = socket.socket.as_raw_fd();
            registry.register(&mut SourceFd(&socket), Token(token), Interest::READABLE)?;
        }
        registry.register(&mut self.signals, SIGNALS, Interest::READABLE)?;
        registry.register(&mut self.local.monitor, ADDRESSES, Interest::READABLE)
    }

    /// How long to wait for events; none: until one comes.
    fn timeout(&self, waits: &Waits) -> Option<Duration> {
        let more = waits.packets.contains(&Waiting::Packets) || waits.addresses == Drained::More;
        if more {
            return Some(Duration::ZERO);
        }
        let again = self.local.again?;
        Some(again.saturating_duration_since(Instant::now()))
    }

    fn hear_alarm(&self) -> Result<(), DecapError> {
        match self.alarms.try_recv() {
            Ok(error) => Err(error),
            Err(_) => Ok(()),
        }
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

    /// Moves what waits on the socket, for one turn at most.
    fn move_packets(
        &self,
        TunnelSocket { socket, carrier }: &TunnelSocket,
        admission: &Admission,
        batch: &mut ReceiveBatch,
        totals: &mut Totals,
    ) -> Result<Waiting, DecapError> {
        for _ in 0..BATCHES_PER_TURN {
            match batch.receive(socket.as_fd()) {
                Ok(_) => batch
                    .packets_mut()
                    .try_for_each(|packet| self.move_packet(*carrier, packet, admission, totals))?,
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

    /// # Errors
    /// [`DecapError::DeviceLost`]; any other packet that the device refuses is only counted.
    fn move_packet(
        &self,
        carrier: Carrier,
        packet: Received<'_>,
        admission: &Admission,
        totals: &mut Totals,
    ) -> Result<(), DecapError> {
        let opened = carrier.open(packet).map_err(Refusal::from);
        match opened.and_then(|packet| admission.admit(packet)) {
            Ok(inner) => match self.queue.send(inner) {
                Ok(_) => totals.count_injected(),
                Err(error) => self.not_injected(&error, totals)?,
            },
            Err(reason) => totals.count_refused(reason),
        }
        Ok(())
    }

    /// A device that is down (EIO) is brought up by the watch; one that is gone (EBADFD, `tun_get`,
    /// linux/drivers/net/tun.c) never takes a packet again.
    fn not_injected(&self, error: &io::Error, totals: &mut Totals) -> Result<(), DecapError> {
        if error.raw_os_error() == Some(libc::EBADFD) {
            // The watch saw more of it.
            return Err(self.alarms.try_recv().unwrap_or(DecapError::DeviceLost {
                device: self.device.clone(),
                what: DeviceLoss::Deleted,
            }));
        }
        if totals.refused(Refusal::InjectionFailed) == 0 {
            log::warn!("the TUN device refuses packets (counted from now on): {error}");
        }
        totals.count_refused(Refusal::InjectionFailed);
        Ok(())
    }
}

/// Waits for events.
fn wait(poll: &mut Poll, events: &mut Events, timeout: Option<Duration>) -> Result<(), DecapError> {
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
