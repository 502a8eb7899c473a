//! Egress: outer packets leave for their backends, a burst at a time.
//!
//! An egress takes packets as they were read and encapsulates them itself, since what has to be written
//! depends on the way out: an outer header, a link header before it, or nothing where the kernel writes
//! both.

mod batch;
mod gue;
mod hops;
mod memory;
mod packet;
mod patience;
mod raw;
mod xsk;

use std::fmt::Debug;
use std::io;
use std::net::IpAddr;

pub use gue::{GueEgress, SOURCE_PORTS};
pub use hops::{Direct, Hop, Hops, LinkHeader, Segmenting};
pub use memory::MemoryEgress;
pub use packet::PacketEgress;
pub use raw::RawEgress;
pub use xsk::XskEgress;

use crate::io::sys::KernelPathMtu;
use crate::packet::{Burst, Outgoing, Tunnels};

/// Why a packet did not leave; shown as the system's own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", io::Error::from_raw_os_error(self.errno()))]
pub enum SendError {
    /// Longer than the way allows.
    TooBig,
    /// The device's queue or the socket's buffer is full.
    Full(Errno),
    /// No way leads there, or its device is down.
    Unreachable(Errno),
    /// The host's firewall or policy forbids it.
    Refused(Errno),
    /// Another error of the system.
    Other(Errno),
}

/// An error number of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl SendError {
    /// The error number of the system that says the same.
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Self::TooBig => libc::EMSGSIZE,
            Self::Full(Errno(number))
            | Self::Unreachable(Errno(number))
            | Self::Refused(Errno(number))
            | Self::Other(Errno(number)) => number,
        }
    }
}

impl From<io::Error> for SendError {
    fn from(error: io::Error) -> Self {
        let number = error.raw_os_error().unwrap_or(libc::EIO);
        match number {
            libc::EMSGSIZE => Self::TooBig,
            libc::ENOBUFS | libc::EAGAIN | libc::ENOMEM => Self::Full(Errno(number)),
            libc::ENETUNREACH
            | libc::EHOSTUNREACH
            | libc::ENETDOWN
            | libc::ENXIO
            | libc::ENODEV
            | libc::EADDRNOTAVAIL
            | libc::EAFNOSUPPORT => Self::Unreachable(Errno(number)),
            libc::EPERM | libc::EACCES => Self::Refused(Errno(number)),
            _ => Self::Other(Errno(number)),
        }
    }
}

/// What became of a packet.
pub type Sent = Result<(), SendError>;

/// A way out for outer packets.
pub trait Egress: Debug {
    /// Other tunnels hold, or other ways lead to their far ends. Called between bursts.
    fn adopt(&mut self, _tunnels: &impl Tunnels, _hops: &Hops) {}

    /// Sets which MTU of the kernel's limits what leaves; its route's until then.
    ///
    /// # Errors
    /// The kernel's.
    fn limit_by(&mut self, _limit: KernelPathMtu) -> io::Result<()> {
        Ok(())
    }

    /// Sends `packets`, which are in `burst`, each through its tunnel. What becomes of each goes to its place
    /// in `results`, which is [`Ok`] before. A packet that is refused holds up no other one. A way out that
    /// cannot show all of a packet's entropy leaves in the packet what it did show.
    fn send(
        &mut self,
        burst: &mut Burst,
        packets: &mut [Outgoing],
        tunnels: &impl Tunnels,
        results: &mut [Sent],
    );
}

/// An outer header that was written.
#[derive(Debug, Clone, Copy)]
struct Header {
    /// Its length in bytes.
    overhead: usize,
    /// The tunnel's far end.
    destination: IpAddr,
}

/// Writes the outer header of a packet into the end of its head-room.
#[inline]
fn write_header(
    burst: &mut Burst,
    packet: &Outgoing,
    tunnels: &impl Tunnels,
) -> Result<Header, SendError> {
    let gone = SendError::Unreachable(Errno(libc::ENETUNREACH));
    let encap = tunnels.tunnel(packet.tunnel).ok_or(gone)?;
    let (headroom, inner) = burst.headroom(packet).ok_or(gone)?;
    encap
        .write(headroom, &packet.meta, inner, packet.entropy)
        .map_err(|_| SendError::TooBig)?;
    Ok(Header {
        overhead: encap.overhead(),
        destination: encap.destination(),
    })
}

#[cfg(test)]
mod tests;
