//! Egress by AF_XDP sockets that only transmit: each frame is copied once, into memory that the kernel has.
//!
//! It passes by what a packet socket passes by, and costs less. A device has one such socket for each of its
//! queues, so worker 3 needs a device with a queue 3. Whatever does not work goes by packet socket: a device
//! without such a queue, a queue that another program has, a packet longer than a frame, a device that
//! stalls.

use std::collections::BTreeSet;

use log::{Level, debug, log};

use super::hops::{Direct, Hop, Hops};
use super::packet::{FrameHeader, PacketEgress, write_link_header};
use super::{Egress, Header, Sent, write_header};
use crate::io::sys::{KernelPathMtu, TransmitSocket};
use crate::packet::{BURST, Burst, Outgoing, Tunnels};

/// A socket for each device, and a packet socket for the rest.
#[derive(Debug)]
pub struct XskEgress {
    devices: Vec<Device>,
    /// Number of the queue on each of them.
    queue: u32,
    /// Sockets that receive, too, and whose queues no other one can have, with their devices.
    lent: Vec<(u32, TransmitSocket)>,
    packet: PacketEgress,
}

/// A device that hops leave by.
#[derive(Debug)]
struct Device {
    link: u32,
    /// `None`: it could not be opened, or stalled.
    socket: Option<TransmitSocket>,
    /// Whether the socket receives, too.
    is_lent: bool,
    /// Bursts until it is opened anew.
    retry_in: u32,
    /// The log says already that it cannot be opened.
    has_failed: bool,
    /// The frames in it that are not sent yet.
    frames: Vec<Frame>,
    /// Which of them the driver dropped, in their order.
    dropped: Vec<usize>,
    /// Whether the rest of the burst goes by packet socket, so that packets stay in their order.
    is_passed_by: bool,
}

/// A frame that was copied.
#[derive(Debug, Clone, Copy)]
struct Frame {
    /// Of its packet, among those that are to leave.
    position: usize,
    header: FrameHeader,
}

/// Bursts after which a socket that did not work is opened anew.
const RETRY_AFTER: u32 = 4096;

impl XskEgress {
    /// Sends as queue `queue` of each device, and by `packet` where that does not work.
    #[must_use]
    pub const fn new(queue: u32, packet: PacketEgress) -> Self {
        Self {
            devices: Vec::new(),
            queue,
            lent: Vec::new(),
            packet,
        }
    }

    /// Sends by this socket, of whatever queue, where packets leave by the device with that index.
    pub fn lend(&mut self, link: u32, socket: TransmitSocket) {
        self.lent.push((link, socket));
    }

    /// Whether no AF_XDP socket works at all.
    #[cfg(test)]
    pub(super) fn is_by_packet_socket(&self) -> bool {
        self.devices.iter().all(|device| device.socket.is_none())
    }

    /// Takes a packet whose outer header is written, to be sent with the next [`flush`](Self::flush).
    pub(super) fn take(
        &mut self,
        (burst, packets): (&mut Burst, &[Outgoing]),
        position: usize,
        header: Header,
    ) -> Sent {
        let packet = &packets[position];
        let Some((at, hop)) = self.device_of(packet) else {
            return self.packet.take(burst, position, packet, header);
        };
        let header = write_link_header(burst, packet, header, &hop)?;
        let frame = Frame { position, header };
        if self.devices[at].copy(burst, packet, frame) {
            return Ok(());
        }
        // No room, or too long: what was copied leaves before it.
        self.flush_device(at, packets);
        if !self.devices[at].copy(burst, packet, frame) {
            self.devices[at].is_passed_by = true;
            self.packet.take_frame(position, header, &hop);
        }
        Ok(())
    }

    /// Where the hop of a packet is reached by such a socket that works.
    fn device_of(&self, packet: &Outgoing) -> Option<(usize, Hop)> {
        let hop = self.packet.hop(packet.tunnel)?;
        let usable = |device: &Device| {
            device.link == hop.link && device.socket.is_some() && !device.is_passed_by
        };
        let at = self.devices.iter().position(usable)?;
        (hop.by == Direct::Xsk).then_some((at, *hop))
    }

    /// Sends what was taken of `packets`.
    pub(super) fn flush(&mut self, (burst, packets): (&Burst, &[Outgoing]), results: &mut [Sent]) {
        for at in 0..self.devices.len() {
            self.flush_device(at, packets);
            self.devices[at].end_burst(self.queue);
        }
        self.packet.flush((burst, packets), results);
    }

    /// Sends a device's frames; those that its driver or the socket did not take go by packet socket, which
    /// waits for room.
    fn flush_device(&mut self, at: usize, packets: &[Outgoing]) {
        let device = &mut self.devices[at];
        device.flush();
        for frame in &device.frames {
            if let Some(hop) = self.packet.hop(packets[frame.position].tunnel).copied() {
                self.packet.take_frame(frame.position, frame.header, &hop);
            }
        }
        device.frames.clear();
    }
}

impl Device {
    fn new(link: u32, queue: u32, lent: Option<TransmitSocket>) -> Self {
        let mut device = Self {
            link,
            is_lent: lent.is_some(),
            socket: lent,
            retry_in: 0,
            has_failed: false,
            frames: Vec::with_capacity(2 * BURST),
            dropped: Vec::with_capacity(2 * BURST),
            is_passed_by: false,
        };
        if device.socket.is_none() {
            device.open(queue);
        }
        device
    }

    /// Its socket, to be used again, where it is not its own.
    fn take_lent(&mut self) -> Option<(u32, TransmitSocket)> {
        let socket = self.socket.take().filter(|_| self.is_lent)?;
        Some((self.link, socket))
    }

    fn open(&mut self, queue: u32) {
        let link = self.link;
        let error = match TransmitSocket::open(link, queue) {
            Ok(socket) => {
                debug!("AF_XDP socket on queue {queue} of device {link}");
                self.socket = Some(socket);
                return;
            }
            Err(error) => error,
        };
        let level = if self.has_failed {
            Level::Debug
        } else {
            Level::Info
        };
        log!(
            level,
            "no AF_XDP socket on queue {queue} of device {link}: {error}; by packet socket"
        );
        self.has_failed = true;
        self.retry_in = RETRY_AFTER;
    }

    /// False where it did not fit.
    fn copy(&mut self, burst: &Burst, packet: &Outgoing, frame: Frame) -> bool {
        let FrameHeader(overhead) = frame.header;
        let copied = self
            .socket
            .as_mut()
            .is_some_and(|socket| socket.push(&burst.with_header(packet, overhead)));
        if copied {
            self.frames.push(frame);
        }
        copied
    }

    /// Sends its frames; those that were not taken are left. Closes the socket where it does not go on.
    fn flush(&mut self) {
        let Some(socket) = self.socket.as_mut().filter(|_| !self.frames.is_empty()) else {
            return;
        };
        let (dropped, frames) = (&mut self.dropped, &mut self.frames);
        dropped.clear();
        let flushed = socket.flush(|at| dropped.push(at));
        let taken = flushed
            .as_ref()
            .map_or_else(|stalled| stalled.taken, |()| frames.len());
        for (place, &at) in dropped.iter().enumerate() {
            frames[place] = frames[at]; // in their order, so that `at` is never below `place`
        }
        frames.drain(dropped.len()..taken.max(dropped.len()));
        if let Err(stalled) = flushed {
            let (link, cause) = (self.link, stalled.cause);
            debug!("AF_XDP socket on device {link} does not go on: {cause}; by packet socket");
            self.socket = None;
            self.is_passed_by = true;
            self.retry_in = RETRY_AFTER;
        }
    }

    fn end_burst(&mut self, queue: u32) {
        self.is_passed_by = false;
        if self.socket.is_none() {
            self.retry_in = self.retry_in.saturating_sub(1);
            if self.retry_in == 0 {
                self.open(queue);
            }
        }
    }
}

impl Egress for XskEgress {
    fn adopt(&mut self, tunnels: &impl Tunnels, hops: &Hops) {
        self.packet.adopt(tunnels, hops);
        let xsk = self.packet.hops().filter(|hop| hop.by == Direct::Xsk);
        let links: BTreeSet<_> = xsk.map(|hop| hop.link).collect();
        let lent = &mut self.lent;
        self.devices.retain_mut(|device| {
            let stays = links.contains(&device.link);
            if !stays {
                lent.extend(device.take_lent());
            }
            stays
        });
        for device in &mut self.devices {
            if device.socket.is_none() {
                device.open(self.queue);
            }
        }
        for link in links {
            if self.devices.iter().all(|device| device.link != link) {
                let mut lent = self.lent.iter();
                let lent = lent.position(|(of_device, _)| *of_device == link);
                let lent = lent.map(|at| self.lent.swap_remove(at).1);
                self.devices.push(Device::new(link, self.queue, lent));
            }
        }
    }

    fn limit_by(&mut self, limit: KernelPathMtu) -> std::io::Result<()> {
        self.packet.limit_by(limit)
    }

    fn send(
        &mut self,
        burst: &mut Burst,
        packets: &mut [Outgoing],
        tunnels: &impl Tunnels,
        results: &mut [Sent],
    ) {
        for (position, packet) in packets.iter().enumerate() {
            let taken = write_header(burst, packet, tunnels)
                .and_then(|header| self.take((burst, packets), position, header));
            if taken.is_err() {
                results[position] = taken;
            }
        }
        self.flush((burst, packets), results);
    }
}
