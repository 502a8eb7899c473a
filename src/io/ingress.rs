//! Ingress: where a burst of packets comes from, and where answers to them go back to.

mod xsk;

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::os::fd::RawFd;

use super::tun::{Framing, Queue};
use crate::packet::vnet::VnetHeader;
use crate::packet::{Burst, Malformed, Segmentation};

pub use xsk::{Checksums, XskIngress};

/// Whether an ingress may hold more packets than it gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// It may: it is to be asked again before anything is waited for.
    More,
    /// It does not.
    Empty,
}

/// A source of packets.
pub trait Ingress: Debug {
    /// Bytes of the longest packet that it gives, where its device's MTU allows `of_device`.
    fn longest(&self, of_device: usize) -> usize {
        of_device
    }

    /// Reads packets into a burst that is empty, without waiting for any.
    ///
    /// # Errors
    /// It cannot be read again: packets read before are in the burst.
    fn fill(&mut self, burst: &mut Burst) -> io::Result<Reading>;

    /// Sends an answer of the director to where packets come from.
    ///
    /// # Errors
    /// The packet was not taken.
    fn answer(&mut self, packet: &[u8]) -> io::Result<()>;

    /// Descriptors that are readable when there are packets, beside its own.
    fn beside(&self) -> Vec<RawFd> {
        Vec::new()
    }
}

impl Ingress for Queue {
    fn longest(&self, of_device: usize) -> usize {
        match self.framing() {
            Framing::Plain => of_device,
            Framing::Offloads => LONGEST_PACKET,
        }
    }

    fn fill(&mut self, burst: &mut Burst) -> io::Result<Reading> {
        while let Some(room) = burst.vacant(self.framing().header()) {
            match self.recv(room) {
                Ok(length) => take(self.framing(), length, burst),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Reading::Empty);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Reading::More)
    }

    /// The kernel routes it as if it had come from the VIP through the TUN.
    fn answer(&mut self, packet: &[u8]) -> io::Result<()> {
        self.send(packet).map(|_| ())
    }
}

/// Takes what was read into a burst. A packet that is not what the kernel says of it becomes an empty one:
/// dropped as malformed, and counted.
fn take(framing: Framing, length: usize, burst: &mut Burst) {
    if framing == Framing::Plain {
        return burst.push(length);
    }
    match shape(burst.written(framing.header(), length)) {
        Ok((length, Some(segmentation))) => burst.push_super(length, segmentation),
        Ok((length, None)) => burst.push(length),
        Err(Malformed) => burst.push(0),
    }
}

/// The length of the packet behind a header, and how it is to be segmented; its checksum is completed where
/// it leaves as it is.
fn shape(framed: &mut [u8]) -> Result<(usize, Option<Segmentation>), Malformed> {
    let (header, packet) = framed.split_first_chunk_mut().ok_or(Malformed)?;
    let header = VnetHeader::decode(*header)?;
    let segmentation = Segmentation::of(packet, &header)?;
    if let (Some(checksum), None) = (header.checksum, segmentation) {
        checksum.complete(packet)?;
    }
    Ok((packet.len(), segmentation))
}

/// Of an IPv6 packet without a jumbo payload (RFC 8200 §3); the longest of IPv4 is shorter.
pub const LONGEST_PACKET: usize = 40 + 65_535;

/// Packets in memory: what tests, benches and a replay feed.
#[derive(Debug, Default)]
pub struct MemoryIngress {
    /// What is still to be read.
    pub packets: VecDeque<Vec<u8>>,
    /// The answers so far.
    pub answers: Vec<Vec<u8>>,
}

impl Ingress for MemoryIngress {
    fn fill(&mut self, burst: &mut Burst) -> io::Result<Reading> {
        while let Some(packet) = self.packets.front() {
            let Some(room) = burst.vacant(0) else {
                return Ok(Reading::More);
            };
            let length = packet.len().min(room.len());
            room[..length].copy_from_slice(&packet[..length]);
            burst.push(length);
            self.packets.pop_front();
        }
        Ok(Reading::Empty)
    }

    fn answer(&mut self, packet: &[u8]) -> io::Result<()> {
        self.answers.push(packet.to_vec());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
