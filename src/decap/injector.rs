//! Gives a burst of inner packets to the kernel through one queue of the TUN device, joined where they are of
//! one flow.

use std::io;

use crate::{
    io::{
        sys::ReceiveBatch,
        tun::{Framing, Queue},
    },
    packet::coalesce::{self, Coalescer, Frame, MAX_SEGMENTS, UdpRule, Window},
};

use super::{
    DecapError, DeviceLoss, Totals,
    admission::{Admission, Refusal},
    socket::Carrier,
};

/// Parts of a super-packet: its header and the payloads.
const PARTS: usize = 1 + MAX_SEGMENTS;

/// One queue, with what joins packets for it.
#[derive(Debug)]
pub(super) struct Injector {
    coalescer: Coalescer,
    output: Output,
}

/// The queue, with what is known of its kernel.
#[derive(Debug)]
struct Output {
    queue: Queue,
    /// The name of the queue's device.
    device: String,
    udp: UdpRule,
}

impl Injector {
    pub(super) fn new(queue: Queue, device: String) -> Self {
        Self {
            coalescer: Coalescer::default(),
            output: Output {
                queue,
                device,
                udp: UdpRule::Join,
            },
        }
    }

    /// Takes the packets of a batch out of their tunnels, and gives the kernel those that are admitted.
    ///
    /// # Errors
    /// [`DecapError::DeviceLost`]; any other packet that the device refuses is only counted.
    pub(super) fn inject(
        &mut self,
        carrier: Carrier,
        batch: &mut ReceiveBatch,
        admission: &Admission,
        totals: &mut Totals,
    ) -> Result<(), DecapError> {
        let Self { coalescer, output } = self;
        coalescer.set_udp(output.udp);
        let mut window = coalescer.window();
        for packet in batch.packets_mut().flat_map(|received| received.each()) {
            let opened = carrier.open(packet).map_err(Refusal::from);
            match opened.and_then(|packet| admission.admit(packet)) {
                // A device that was there before stays as it is.
                Ok(inner) if output.queue.framing() == Framing::Plain => {
                    output.write_plainly(inner, totals)?;
                }
                Ok(inner) => {
                    if window.is_full() {
                        output.write(&window, totals)?;
                        window.clear();
                    }
                    window.push(inner);
                }
                Err(reason) => totals.count_refused(reason, 1),
            }
        }
        output.write(&window, totals)
    }
}

impl Output {
    fn write(&mut self, window: &Window<'_, '_>, totals: &mut Totals) -> Result<(), DecapError> {
        window
            .frames()
            .try_for_each(|frame| self.write_frame(&frame, totals))
    }

    fn write_plainly(&self, packet: &mut [u8], totals: &mut Totals) -> Result<(), DecapError> {
        coalesce::complete(packet);
        match self.queue.send(packet) {
            Ok(_) => totals.count_injected(1),
            Err(error) => self.not_injected(&error, 1, totals)?,
        }
        Ok(())
    }

    fn write_frame(
        &mut self,
        frame: &Frame<'_, '_>,
        totals: &mut Totals,
    ) -> Result<(), DecapError> {
        let parts = std::iter::once(frame.header()).chain(frame.payloads());
        let packets = frame.count();
        let written = match packets {
            1 => self.queue.send_parts::<2>(parts),
            _ => self.queue.send_parts::<PARTS>(parts),
        };
        match written {
            Ok(_) => totals.count_injected(packets.into()),
            Err(error) if packets > 1 && error.raw_os_error() == Some(libc::EINVAL) => {
                self.write_apart(frame, totals)?;
            }
            Err(error) => self.not_injected(&error, packets.into(), totals)?,
        }
        Ok(())
    }

    /// A super-packet that the kernel does not take goes packet by packet; one of UDP is not known to Linux
    /// before 6.2, and is not tried again.
    fn write_apart(
        &mut self,
        frame: &Frame<'_, '_>,
        totals: &mut Totals,
    ) -> Result<(), DecapError> {
        if frame.is_udp() && self.udp == UdpRule::Join {
            self.udp = UdpRule::Leave;
            log::info!("this kernel takes no joined UDP datagrams: each is written by itself");
        }
        for packet in frame.packets() {
            let header = coalesce::alone(packet);
            match self.queue.send_parts::<2>([&header, packet].into_iter()) {
                Ok(_) => totals.count_injected(1),
                Err(error) => self.not_injected(&error, 1, totals)?,
            }
        }
        Ok(())
    }

    /// A device that is down (EIO) is brought up by the watch; one that is gone (EBADFD, `tun_get`,
    /// linux/drivers/net/tun.c) never takes a packet again.
    fn not_injected(
        &self,
        error: &io::Error,
        packets: u64,
        totals: &mut Totals,
    ) -> Result<(), DecapError> {
        if error.raw_os_error() == Some(libc::EBADFD) {
            return Err(DecapError::DeviceLost {
                device: self.device.clone(),
                what: DeviceLoss::Deleted,
            });
        }
        if totals.refused(Refusal::InjectionFailed) == 0 {
            log::warn!("the TUN device refuses packets (counted from now on): {error}");
        }
        totals.count_refused(Refusal::InjectionFailed, packets);
        Ok(())
    }
}
