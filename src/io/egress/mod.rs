//! Egress: outer packets leave for their backends, a batch per wake-up.
//!
//! An egress owns the buffers: the TUN reads straight into a [`Egress::frame`], the outer header
//! is written into the head-room before the packet, and the frame is queued where it is. Nothing
//! is copied, and an egress whose frames belong to the kernel (AF_XDP) fits the same trait.

mod raw;

use std::fmt::Debug;
use std::io;
use std::net::IpAddr;

pub use raw::RawEgress;

use crate::io::sys::KernelPathMtu;
use crate::packet::HEADROOM;

/// Room for one packet and the outer header before it.
#[derive(Debug)]
pub struct Frame<'a> {
    /// Where the outer header goes, ending where the packet begins.
    pub headroom: &'a mut [u8; HEADROOM],
    /// Where the packet is read into.
    pub body: &'a mut [u8],
}

/// A queued packet: where it stands in its frame, and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outgoing {
    /// Bytes of the outer header, at the end of the head-room.
    pub overhead: usize,
    /// Bytes of the inner packet, at the start of the body.
    pub length: usize,
    /// The outer destination.
    pub destination: IpAddr,
}

/// A way out for outer packets, with frames of its own.
pub trait Egress: Debug {
    /// A free frame to read the next packet into; `None` when a batch is full and must be
    /// flushed. The same frame again until it is queued.
    fn frame(&mut self) -> Option<Frame<'_>>;

    /// Makes every frame hold packets of up to `longest` bytes, if they do not yet. To be called
    /// while nothing is queued.
    fn fit(&mut self, longest: usize);

    /// Sets which MTU of the kernel's limits what leaves; its route's until then.
    ///
    /// # Errors
    /// The kernel's.
    fn limit_by(&mut self, limit: KernelPathMtu) -> io::Result<()>;

    /// Queues the packet that stands in the current frame.
    fn queue(&mut self, packet: Outgoing);

    /// Sends what is queued; `sent` hears of every packet, in the order of queueing, whether the
    /// kernel took it.
    fn flush(&mut self, sent: impl FnMut(&Outgoing, io::Result<()>));
}
