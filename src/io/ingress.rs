//! Ingress: where a burst of packets comes from, and where answers to them go back to.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;

use super::tun::Queue;
use crate::packet::Burst;

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
}

impl Ingress for Queue {
    fn fill(&mut self, burst: &mut Burst) -> io::Result<Reading> {
        while let Some(room) = burst.vacant(0) {
            match self.recv(room) {
                Ok(length) => burst.push(length),
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
